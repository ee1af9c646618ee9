"""Limits of shards and tables and conflicts of transactions, on a server that has them switched on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_iam import unique
from tests.conftest import Aws, embedded_aws

EXCEEDED = "ProvisionedThroughputExceededException"
METRIC_SECONDS = 10.0


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """A server of its own: limits hold for all of it."""
    with embedded_aws(tmp_path_factory.mktemp("limited"), ATLAS_LIMITS="1") as running:
        yield running


@pytest.fixture
def client(limited: Aws) -> Callable[[str], Any]:
    """Makes clients that do not try again."""
    return lambda service: limited.client(service, retries={"total_max_attempts": 1})


@pytest.fixture
def stream(limited: Aws) -> str:
    """A stream of two shards; the key "a" belongs to the first, "b" to the second."""
    name = unique("limits")
    limited.client("kinesis").create_stream(StreamName=name, ShardCount=2)
    return name


def table(limited: Aws, units: int | None, **settings: Any) -> str:
    """Return a table with so many units to read and to write, or an on-demand one."""
    name = unique("limits")
    throughput = {"ReadCapacityUnits": units, "WriteCapacityUnits": units}
    billing: dict[str, Any] = (
        {"BillingMode": "PROVISIONED", "ProvisionedThroughput": throughput}
        if units
        else {"BillingMode": "PAY_PER_REQUEST"}
    )
    limited.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        **billing,
        **settings,
    )
    return name


def item(name: str, size: int = 1) -> dict[str, Any]:
    return {"pk": {"S": name}, "value": {"S": "x" * size}}


def code(function: Callable[[], Any]) -> str:
    """Return the error code of a call, empty if it succeeds."""
    try:
        function()
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


def metric(aws: Aws, namespace: str, name: str, **dimensions: str) -> float:
    """Return a metric's sum once it is above 0."""
    deadline = time.monotonic() + METRIC_SECONDS
    while True:
        points = aws.client("cloudwatch").get_metric_statistics(
            Namespace=namespace,
            MetricName=name,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            StartTime=datetime.now(UTC) - timedelta(minutes=10),
            EndTime=datetime.now(UTC) + timedelta(minutes=1),
            Period=3600,
            Statistics=["Sum"],
        )["Datapoints"]
        found: float = sum(point["Sum"] for point in points)
        if found:
            return found
        assert time.monotonic() < deadline, f"{name} was not published"
        time.sleep(0.2)


# --- Kinesis -----------------------------------------------------------------------------------------------------


def records(key: str, number: int, size: int = 10) -> list[dict[str, Any]]:
    return [{"Data": b"x" * size, "PartitionKey": key} for _ in range(number)]


def refused(answer: dict[str, Any]) -> list[str]:
    return [record["ErrorMessage"] for record in answer["Records"] if record.get("ErrorCode") == EXCEEDED]


def test_a_shard_takes_a_thousand_records_a_second(limited: Aws, client: Callable[[str], Any], stream: str) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html"""
    kinesis = client("kinesis")
    started = time.monotonic()
    answers = [kinesis.put_records(StreamName=stream, Records=records("a", 500)) for _ in range(6)]
    seconds = time.monotonic() - started
    other = kinesis.put_records(StreamName=stream, Records=records("b", 500))
    number = sum(len(refused(answer)) for answer in answers)
    assert 1000 <= 3000 - number <= 1000 * (1 + seconds) + 1
    assert [answer["FailedRecordCount"] for answer in answers] == [len(refused(answer)) for answer in answers]
    assert "Rate exceeded for shard shardId-" in refused(answers[-1])[0]
    assert other["FailedRecordCount"] == 0
    assert metric(limited, "AWS/Kinesis", "WriteProvisionedThroughputExceeded", StreamName=stream) == number
    assert metric(limited, "AWS/Kinesis", "IncomingRecords", StreamName=stream) == 3500 - number


def test_what_a_call_took_of_its_records_is_in_order(limited: Aws, client: Callable[[str], Any], stream: str) -> None:
    """Each record's own answer is at its own place.

    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
    """
    kinesis = client("kinesis")
    mixed = [record for pair in zip(records("a", 40, 50_000), records("b", 40), strict=True) for record in pair]
    answer = kinesis.put_records(StreamName=stream, Records=mixed)["Records"]
    assert all("SequenceNumber" in record for record in answer[1::2])
    assert 15 <= sum("SequenceNumber" in record for record in answer[::2]) < 40
    assert {record["ErrorCode"] for record in answer if "ErrorCode" in record} == {EXCEEDED}


def test_a_shard_takes_a_megabyte_a_second(client: Callable[[str], Any], stream: str) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecord.html"""
    kinesis = client("kinesis")

    def put() -> str:
        return code(lambda: kinesis.put_record(StreamName=stream, Data=b"x" * 1_000_000, PartitionKey="a"))

    assert [put(), put()] == ["", EXCEEDED]
    time.sleep(1)
    assert put() == ""


def test_a_shard_is_read_five_times_a_second(limited: Aws, client: Callable[[str], Any], stream: str) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html"""
    kinesis = client("kinesis")
    iterator = kinesis.get_shard_iterator(
        StreamName=stream, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    codes = [code(lambda: kinesis.get_records(ShardIterator=iterator)) for _ in range(12)]
    assert codes[:5] == [""] * 5
    assert EXCEEDED in codes
    assert metric(limited, "AWS/Kinesis", "ReadProvisionedThroughputExceeded", StreamName=stream) == codes.count(
        EXCEEDED
    )


def test_reading_much_has_to_be_made_up_for(client: Callable[[str], Any], stream: str) -> None:
    """2 MB a second: after 4 MB, there is a second to wait.

    https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html
    """
    kinesis = client("kinesis")
    shard = ""
    for _ in range(4):
        shard = kinesis.put_record(StreamName=stream, Data=b"x" * 1_000_000, PartitionKey="a")["ShardId"]
        time.sleep(1)
    iterator = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
    answer = kinesis.get_records(ShardIterator=iterator["ShardIterator"])
    assert len(answer["Records"]) == 4
    again = answer["NextShardIterator"]
    assert code(lambda: kinesis.get_records(ShardIterator=again)) == EXCEEDED
    time.sleep(1.1)
    assert code(lambda: kinesis.get_records(ShardIterator=again)) == ""


# --- DynamoDB ----------------------------------------------------------------------------------------------------


def test_a_table_takes_what_is_provisioned(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html"""
    name, dynamodb = table(limited, 5), client("dynamodb")
    codes = [code(lambda: dynamodb.put_item(TableName=name, Item=item("a"))) for _ in range(40)]
    assert codes[:5] == [""] * 5
    assert set(codes) == {"", EXCEEDED}
    throttled = codes.count(EXCEEDED)
    assert metric(limited, "AWS/DynamoDB", "WriteThrottleEvents", TableName=name) == throttled
    assert metric(limited, "AWS/DynamoDB", "ThrottledRequests", TableName=name, Operation="PutItem") == throttled
    assert code(lambda: dynamodb.get_item(TableName=name, Key={"pk": {"S": "a"}})) == ""
    time.sleep(0.5)
    assert code(lambda: dynamodb.put_item(TableName=name, Item=item("a"))) == ""


def test_a_large_item_leaves_a_debt(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html"""
    name, dynamodb = table(limited, 5), client("dynamodb")
    dynamodb.put_item(TableName=name, Item=item("large", 9_500))
    assert code(lambda: dynamodb.put_item(TableName=name, Item=item("small"))) == EXCEEDED
    assert code(lambda: dynamodb.update_item(TableName=name, Key={"pk": {"S": "small"}})) == EXCEEDED
    time.sleep(1.1)
    assert code(lambda: dynamodb.put_item(TableName=name, Item=item("small"))) == ""


def test_a_batch_hands_back_what_was_too_much(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html"""
    name, dynamodb = table(limited, 5), client("dynamodb")
    wanted = [{"PutRequest": {"Item": item(str(number))}} for number in range(25)]
    answer = dynamodb.batch_write_item(RequestItems={name: wanted})
    left = answer["UnprocessedItems"][name]
    assert 15 <= len(left) <= 20
    assert code(lambda: dynamodb.batch_write_item(RequestItems={name: left})) == EXCEEDED
    keys = [{"pk": {"S": str(number)}} for number in range(25)]
    read = dynamodb.batch_get_item(RequestItems={name: {"Keys": keys, "ConsistentRead": True}})
    assert 15 <= len(read["UnprocessedKeys"][name]["Keys"]) <= 20
    assert len(read["Responses"][name]) == 25 - len(read["UnprocessedKeys"][name]["Keys"])


def test_a_transaction_says_which_table_was_exhausted(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""
    small, free, dynamodb = table(limited, 1), table(limited, None), client("dynamodb")
    dynamodb.put_item(TableName=small, Item=item("a", 3_000))
    with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as caught:
        dynamodb.transact_write_items(
            TransactItems=[{"Put": {"TableName": name, "Item": item("b")}} for name in (free, small)]
        )
    reasons = [reason["Code"] for reason in caught.value.response["CancellationReasons"]]
    assert reasons == ["None", "ProvisionedThroughputExceeded"]
    assert "Item" not in dynamodb.get_item(TableName=free, Key={"pk": {"S": "b"}})


def test_an_index_without_capacity_holds_up_its_table(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html"""
    index = {
        "IndexName": "by-value",
        "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "ALL"},
        "ProvisionedThroughput": {"ReadCapacityUnits": 1, "WriteCapacityUnits": 1},
    }
    name, dynamodb = table(limited, 100, GlobalSecondaryIndexes=[index]), client("dynamodb")

    def put(number: int) -> str:
        return code(lambda: dynamodb.put_item(TableName=name, Item=item(str(number))))

    codes = [put(number) for number in range(5)]
    assert codes[0] == ""
    assert EXCEEDED in codes


def test_an_on_demand_table_is_not_limited(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/on-demand-capacity-mode.html"""
    name, dynamodb = table(limited, None), client("dynamodb")
    assert {code(lambda: dynamodb.put_item(TableName=name, Item=item("a", 9_000))) for _ in range(30)} == {""}


def test_transactions_on_one_item_conflict(limited: Aws, client: Callable[[str], Any]) -> None:
    """Exactly those that were not cancelled have taken effect.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html
    """
    name, dynamodb = table(limited, None), client("dynamodb")

    def add(number: int) -> list[str]:
        update = {
            "TableName": name,
            "Key": {"pk": {"S": "total"}},
            "UpdateExpression": "ADD amount :one",
            "ExpressionAttributeValues": {":one": {"N": "1"}},
        }
        put = {"TableName": name, "Item": item(f"own-{number}")}
        try:
            dynamodb.transact_write_items(TransactItems=[{"Put": put}, {"Update": update}])
        except dynamodb.exceptions.TransactionCanceledException as error:
            return [reason["Code"] for reason in error.response["CancellationReasons"]]
        return []

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(add, range(40)))
    conflicts = [reasons for reasons in answers if reasons]
    assert conflicts
    assert all(reasons == ["None", "TransactionConflict"] for reasons in conflicts)
    total = dynamodb.get_item(TableName=name, Key={"pk": {"S": "total"}}, ConsistentRead=True)["Item"]
    assert int(total["amount"]["N"]) == 40 - len(conflicts)
    assert metric(limited, "AWS/DynamoDB", "TransactionConflict", TableName=name) == len(conflicts)


def test_single_writes_and_reading_transactions_conflict_too(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html"""
    name, dynamodb = table(limited, None), client("dynamodb")
    write = [{"Put": {"TableName": name, "Item": item("a")}}]
    read = [{"Get": {"TableName": name, "Key": {"pk": {"S": "a"}}}}]
    calls: list[Callable[[], Any]] = [
        lambda: dynamodb.transact_write_items(TransactItems=write),
        lambda: dynamodb.put_item(TableName=name, Item=item("a")),
        lambda: dynamodb.transact_get_items(TransactItems=read),
        lambda: dynamodb.get_item(TableName=name, Key={"pk": {"S": "a"}}),
    ]
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(code, calls * 25))
    assert "TransactionConflictException" in codes[1::4]
    assert "TransactionCanceledException" in codes[2::4]
    assert set(codes[3::4]) == {""}


def test_a_token_in_use_is_refused(limited: Aws, client: Callable[[str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""
    dynamodb = client("dynamodb")
    names = [table(limited, None) for _ in range(2)]

    def write(name: str) -> str:
        put = [{"Put": {"TableName": name, "Item": item("a")}}]
        return code(lambda: dynamodb.transact_write_items(TransactItems=put, ClientRequestToken="one-token"))

    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(write, names))
    assert sorted(codes) == ["", "TransactionInProgressException"]


def test_without_the_setting_nothing_is_limited(aws: Aws) -> None:
    """https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html"""
    name = unique("limits")
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName=name, ShardCount=1)
    answers = [kinesis.put_records(StreamName=name, Records=records("a", 500)) for _ in range(4)]
    assert [answer["FailedRecordCount"] for answer in answers] == [0] * 4
    kinesis.delete_stream(StreamName=name)
