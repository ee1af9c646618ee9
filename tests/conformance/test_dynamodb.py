"""DynamoDB: what requests cost, who may read which keys, and the settings of a template's tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_cloudformation import create, failures, resource, settled, template
from tests.conformance.test_iam import allow, arn, denied, unique, user
from tests.conformance.test_stepfunctions import until
from tests.conftest import Aws

KEYS = [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}]
ATTRIBUTES = [{"AttributeName": "pk", "AttributeType": "S"}, {"AttributeName": "sk", "AttributeType": "S"}]


def table(aws: Aws, **arguments: Any) -> str:
    name = unique("table")
    aws.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        **{"KeySchema": KEYS, "AttributeDefinitions": ATTRIBUTES, **arguments},
    )
    return name


def key(sk: str, pk: str = "p") -> dict[str, Any]:
    return {"pk": {"S": pk}, "sk": {"S": sk}}


def item(sk: str, size: int = 100, pk: str = "p") -> dict[str, Any]:
    """Return an item of exactly ``size`` bytes, which are those of all names and values."""
    used = len("pk") + len(pk) + len("sk") + len(sk) + len("v")
    return {**key(sk, pk), "v": {"S": "x" * (size - used)}}


def units(answer: dict[str, Any]) -> float:
    capacity = answer["ConsumedCapacity"]
    used: float = sum(each["CapacityUnits"] for each in (capacity if isinstance(capacity, list) else [capacity]))
    return used


@pytest.mark.parametrize(("size", "strong"), [(100, 1.0), (4096, 1.0), (4097, 2.0), (20_000, 5.0)])
def test_a_read_costs_by_started_four_kilobytes(aws: Aws, size: int, strong: float) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html"""
    client, name = aws.client("dynamodb"), table(aws)
    client.put_item(TableName=name, Item=item("a", size))

    def get(**arguments: Any) -> float:
        return units(client.get_item(TableName=name, Key=key("a"), ReturnConsumedCapacity="TOTAL", **arguments))

    assert get(ConsistentRead=True) == strong
    assert get() == strong / 2
    # A projection saves no capacity: the item is read before it is cut.
    assert get(ProjectionExpression="pk") == strong / 2
    batch = {name: {"Keys": [key("a"), key("none")], "ConsistentRead": True}}
    assert units(client.batch_get_item(RequestItems=batch, ReturnConsumedCapacity="TOTAL")) == strong + 1
    gets = [{"Get": {"TableName": name, "Key": key("a")}}]
    assert units(client.transact_get_items(TransactItems=gets, ReturnConsumedCapacity="TOTAL")) == 2 * strong


def test_a_query_costs_what_it_evaluates(aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Other.html"""
    client, name = aws.client("dynamodb"), table(aws)
    for number in range(10):
        client.put_item(TableName=name, Item=item(f"{number}", 1000))
    query = {
        "TableName": name,
        "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": {":pk": {"S": "p"}},
        "ReturnConsumedCapacity": "TOTAL",
    }
    assert units(client.query(**query, ConsistentRead=True)) == 3.0
    assert units(client.query(**query)) == 1.5
    values = {":pk": {"S": "p"}, ":none": {"S": "none"}}
    filtered = client.query(**{**query, "ExpressionAttributeValues": values}, FilterExpression="v = :none")
    assert (filtered["Count"], units(filtered)) == (0, 1.5)
    assert units(client.query(**{**query, "ExpressionAttributeValues": {":pk": {"S": "nobody"}}})) == 0.5
    assert units(client.scan(TableName=name, ReturnConsumedCapacity="TOTAL", ConsistentRead=True)) == 3.0


@pytest.mark.parametrize(("size", "used"), [(100, 1.0), (1024, 1.0), (1025, 2.0), (3000, 3.0)])
def test_a_write_costs_by_started_kilobyte_and_twice_in_a_transaction(aws: Aws, size: int, used: float) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html"""
    client, name = aws.client("dynamodb"), table(aws)
    asked = {"ReturnConsumedCapacity": "TOTAL"}
    assert units(client.put_item(TableName=name, Item=item("a", size), **asked)) == used
    batch = {name: [{"PutRequest": {"Item": item(sk, size)}} for sk in ("b", "c")]}
    assert units(client.batch_write_item(RequestItems=batch, **asked)) == 2 * used
    puts = [{"Put": {"TableName": name, "Item": item(sk, size)}} for sk in ("d", "e")]
    answer = client.transact_write_items(TransactItems=puts, **asked)
    assert units(answer) == 4 * used
    assert "ConsumedCapacity" not in client.transact_write_items(TransactItems=puts)
    assert units(client.delete_item(TableName=name, Key=key("a"), **asked)) == used


def test_an_index_costs_apart(aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html"""
    index = {
        "IndexName": "by-sk",
        "KeySchema": [{"AttributeName": "sk", "KeyType": "HASH"}],
        "Projection": {"ProjectionType": "KEYS_ONLY"},
    }
    client, name = aws.client("dynamodb"), table(aws, GlobalSecondaryIndexes=[index])
    put = client.put_item(TableName=name, Item=item("a", 3000), ReturnConsumedCapacity="INDEXES")["ConsumedCapacity"]
    assert (put["CapacityUnits"], put["Table"]["CapacityUnits"]) == (4.0, 3.0)
    assert put["GlobalSecondaryIndexes"]["by-sk"]["CapacityUnits"] == 1.0
    found = client.query(
        TableName=name,
        IndexName="by-sk",
        KeyConditionExpression="sk = :sk",
        ExpressionAttributeValues={":sk": {"S": "a"}},
        ReturnConsumedCapacity="TOTAL",
    )
    assert (found["Items"], units(found)) == ([key("a")], 0.5)


def consumed(aws: Aws, name: str, kind: str) -> float:
    """Return what CloudWatch says a table has consumed."""
    now = datetime.now(UTC)
    points = aws.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/DynamoDB",
        MetricName=f"Consumed{kind}CapacityUnits",
        Dimensions=[{"Name": "TableName", "Value": name}],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=60,
        Statistics=["Sum"],
    )["Datapoints"]
    return float(sum(point["Sum"] for point in points))


def test_requests_are_counted_whatever_becomes_of_them(aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/metrics-dimensions.html"""
    client, name = aws.client("dynamodb"), table(aws)
    client.put_item(TableName=name, Item=item("a", 2000))
    client.get_item(TableName=name, Key=key("a"), ConsistentRead=True)
    once = {"TableName": name, "ConditionExpression": "attribute_not_exists(pk)"}
    with pytest.raises(client.exceptions.ConditionalCheckFailedException):
        client.put_item(Item=item("a"), **once)
    with pytest.raises(client.exceptions.TransactionCanceledException):
        client.transact_write_items(
            TransactItems=[
                {"Put": {"TableName": name, "Item": item("b")}},
                {"Put": {**once, "Item": item("a")}},
            ]
        )
    # 2 of the put, 2 of the refused one, 2 and 4 of the cancelled transaction.
    assert until(lambda: consumed(aws, name, "Write"), lambda seen: seen >= 10.0) == 10.0
    assert consumed(aws, name, "Read") == 1.0


def test_a_cancelled_transaction_says_what_was_there(aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""
    client, name = aws.client("dynamodb"), table(aws)
    client.put_item(TableName=name, Item=item("a"))
    put = {
        "TableName": name,
        "ConditionExpression": "attribute_not_exists(pk)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    with pytest.raises(client.exceptions.TransactionCanceledException) as failure:
        client.transact_write_items(TransactItems=[{"Put": {**put, "Item": item(sk)}} for sk in ("b", "a")])
    reasons = failure.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["None", "ConditionalCheckFailed"]
    assert reasons[1]["Item"] == item("a")
    assert "Item" not in client.get_item(TableName=name, Key=key("b"))


def test_a_transaction_that_is_sent_again_under_its_token_is_known(aws: Aws) -> None:
    """Whatever its numbers look like, and by whatever the table is called.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
    """
    name, client = table(aws), aws.client("dynamodb")

    def put(number: str, token: str, called: str) -> None:
        actions = [{"Put": {"TableName": called, "Item": key("sum") | {"n": {"N": number}}}}]
        client.transact_write_items(ClientRequestToken=f"{name}-{token}", TransactItems=actions)

    for token, called in (("name", name), ("arn", arn("dynamodb", f"table/{name}"))):
        put("1.50", token, called)
        put("1.50", token, called)
        with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
            put("2.50", token, called)
        assert client.get_item(TableName=name, Key=key("sum"))["Item"]["n"] == {"N": "1.5"}


# --- Permissions -------------------------------------------------------------------------------------------------


def own_items(name: str) -> dict[str, Any]:
    actions = ["GetItem", "PutItem", "UpdateItem", "DeleteItem", "Query", "BatchGetItem", "BatchWriteItem"]
    condition = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": "card#*"}}
    return allow([f"dynamodb:{action}" for action in actions], arn("dynamodb", f"table/{name}"), **condition)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda client, name, pk: client.put_item(TableName=name, Item=item("a", pk=pk)), id="put"),
        pytest.param(lambda client, name, pk: client.get_item(TableName=name, Key=key("a", pk)), id="get"),
        pytest.param(
            lambda client, name, pk: client.query(
                TableName=name,
                KeyConditionExpression="#p = :pk AND begins_with(sk, :sk)",
                ExpressionAttributeNames={"#p": "pk"},
                ExpressionAttributeValues={":pk": {"S": pk}, ":sk": {"S": "a"}},
            ),
            id="query",
        ),
        pytest.param(
            lambda client, name, pk: client.batch_get_item(
                RequestItems={name: {"Keys": [key("a", "card#0"), key("a", pk)]}}
            ),
            id="batch get",
        ),
        pytest.param(
            lambda client, name, pk: client.batch_write_item(
                RequestItems={name: [{"PutRequest": {"Item": item("b", pk=pk)}}]}
            ),
            id="batch write",
        ),
        pytest.param(
            lambda client, name, pk: client.transact_write_items(
                TransactItems=[
                    {"Put": {"TableName": name, "Item": item("c", pk="card#0")}},
                    {"Delete": {"TableName": name, "Key": key("c", pk)}},
                ]
            ),
            id="transaction",
        ),
    ],
)
def test_a_policy_may_name_the_partition_keys(aws: Aws, call: Callable[[Any, str, str], Any]) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/specifying-conditions.html"""
    name = table(aws)
    client = aws.client("dynamodb", user(aws, own_items(name)))
    call(client, name, "card#1")
    assert "dynamodb:" in denied(lambda: call(client, name, "outcome#1"))


# --- Templates ---------------------------------------------------------------------------------------------------


def test_a_template_keeps_every_setting_of_a_table(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-dynamodb-table.html"""
    client, dynamodb, name = aws.client("cloudformation"), aws.client("dynamodb"), unique("table")
    master = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    base: dict[str, Any] = {
        "TableName": name,
        "BillingMode": "PAY_PER_REQUEST",
        "KeySchema": KEYS,
        "AttributeDefinitions": ATTRIBUTES,
        "StreamSpecification": {"StreamViewType": "NEW_IMAGE"},
    }
    settings: dict[str, Any] = {
        "TimeToLiveSpecification": {"AttributeName": "expires_at", "Enabled": True},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
        "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": master},
        "DeletionProtectionEnabled": True,
        "Tags": [{"Key": "team", "Value": "sales"}],
    }

    def seen() -> tuple[str, str, str, bool]:
        described = dynamodb.describe_table(TableName=name)["Table"]
        backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        return (
            dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]["TimeToLiveStatus"],
            backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"],
            described.get("SSEDescription", {}).get("KMSMasterKeyArn", ""),
            described["DeletionProtectionEnabled"],
        )

    stack = create(client, template(T=resource("AWS::DynamoDB::Table", **base, **settings)))
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    assert seen() == ("ENABLED", "ENABLED", master, True)
    described = dynamodb.describe_table(TableName=name)["Table"]
    assert described["StreamSpecification"] == {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"}
    assert described["LatestStreamArn"].startswith(arn("dynamodb", f"table/{name}/stream/"))
    tags = dynamodb.list_tags_of_resource(ResourceArn=described["TableArn"])["Tags"]
    assert {"Key": "team", "Value": "sales"} in tags

    # Protected, it outlives its stack.
    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_FAILED"
    assert "protected against deletion" in failures(client, stack["StackId"])["T"]
    dynamodb.update_table(TableName=name, DeletionProtectionEnabled=False)
    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"

    # The settings are the table's and not its name's.
    stack = create(client, template(T=resource("AWS::DynamoDB::Table", **base)))
    assert seen() == ("DISABLED", "DISABLED", "", False)
    more = {name: value for name, value in settings.items() if name != "DeletionProtectionEnabled"}
    client.update_stack(
        StackName=stack["StackName"], TemplateBody=template(T=resource("AWS::DynamoDB::Table", **base, **more))
    )
    assert settled(client, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    assert seen() == ("ENABLED", "ENABLED", master, False)
    client.update_stack(StackName=stack["StackName"], TemplateBody=template(T=resource("AWS::DynamoDB::Table", **base)))
    assert settled(client, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    assert seen() == ("DISABLED", "DISABLED", "", False)


def test_a_wrong_time_to_live_fails_the_stack(aws: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_UpdateTimeToLive.html"""
    client = aws.client("cloudformation")
    wrong: dict[str, Any] = {"TimeToLiveSpecification": {"AttributeName": "", "Enabled": True}}
    body = resource("AWS::DynamoDB::Table", KeySchema=KEYS, AttributeDefinitions=ATTRIBUTES, **wrong)
    stack = create(client, template(T=body))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "timeToLiveSpecification.attributeName" in failures(client, stack["StackId"])["T"]
    with pytest.raises(ClientError, match="not found"):
        aws.client("dynamodb").describe_table(TableName=f"{stack['StackName']}-T")
