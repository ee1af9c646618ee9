"""Event source mappings of streams: order, batches, failures, filters, destinations, permissions, stacks."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.event_sources import READ_CHANGES, READ_STREAM, Probe, eventually
from tests.conformance.event_targets import place
from tests.conformance.test_cloudformation import create, failures, resource, settled, template
from tests.conformance.test_firehose import may
from tests.conformance.test_iam import allow, arn, role, unique
from tests.conftest import Aws

MIDDLE = 2**127
HIGH = str(2**128 - 1)
REPORT = {"FunctionResponseTypes": ["ReportBatchItemFailures"]}


class Stream:
    """A Kinesis stream with records whose data is a JSON object with an ``id``."""

    def __init__(self, aws: Aws, shards: int = 1) -> None:
        self.client = aws.client("kinesis")
        self.name = unique("stream")
        self.arn = arn("kinesis", f"stream/{self.name}")
        self.client.create_stream(StreamName=self.name, ShardCount=shards)

    def put(self, *rows: dict[str, Any] | str, key: str = "key", hash_key: str = "0") -> None:
        """Put rows in order: an object, or just its id."""
        described = [row if isinstance(row, dict) else {"id": row} for row in rows]
        self.client.put_records(
            StreamName=self.name,
            Records=[
                {"Data": json.dumps(row).encode(), "PartitionKey": row.get("key", key), "ExplicitHashKey": hash_key}
                for row in described
            ],
        )


@pytest.fixture
def stream(aws: Aws) -> Stream:
    return Stream(aws)


@pytest.fixture(scope="module")
def shared(aws: Aws) -> Probe:
    """A function that may read every stream, and send to the queues and the bucket of discarded batches."""
    return Probe(
        aws,
        allow(READ_STREAM, arn("kinesis", "stream/*")),
        allow(READ_CHANGES, arn("dynamodb", "table/table-*/stream/*")),
        allow("sqs:SendMessage", arn("sqs", "letters-*")),
        allow("s3:PutObject", "arn:aws:s3:::letters-*/aws/lambda/*"),
    )


def own_probe(aws: Aws, stream: Stream, *statements: dict[str, Any], **options: Any) -> Probe:
    """Return a function of the test's own, which may read ``stream``."""
    return Probe(aws, allow(READ_STREAM, stream.arn), *statements, **options)


def ids(count: int, prefix: str = "") -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


def metric(aws: Aws, namespace: str, name: str, statistic: str = "Sum", **dimensions: str) -> list[float]:
    now = datetime.now(UTC)
    points = aws.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=name,
        Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=86_400,
        Statistics=[statistic],
    )
    return [point[statistic] for point in points["Datapoints"]]


# --- Reading -----------------------------------------------------------------------------------------------------


def test_a_record_arrives_within_a_moment_in_the_documented_shape(aws: Aws, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html"""
    told = own_probe(aws, stream)
    assert metric(aws, "AWS/Lambda", "IteratorAge", FunctionName=told.name) == []
    told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    stream.put("warm-up", key="account 7")
    (first,) = eventually(told.invocations)
    record = first["event"]
    sequence, arrived = record["kinesis"]["sequenceNumber"], record["kinesis"]["approximateArrivalTimestamp"]
    assert record == {
        "kinesis": {
            "kinesisSchemaVersion": "1.0",
            "partitionKey": "account 7",
            "sequenceNumber": sequence,
            "data": "eyJpZCI6ICJ3YXJtLXVwIn0=",
            "approximateArrivalTimestamp": arrived,
        },
        "eventSource": "aws:kinesis",
        "eventVersion": "1.0",
        "eventID": f"shardId-000000000000:{sequence}",
        "eventName": "aws:kinesis:record",
        "invokeIdentityArn": f"arn:aws:iam::000000000000:role/{told.name}-role",
        "awsRegion": "us-east-1",
        "eventSourceARN": stream.arn,
    }
    assert abs(arrived - first["began"]) < 5
    for name in ids(5):
        stream.put(name)
        time.sleep(0.1)
    told.after(*ids(5))
    delays = [
        each["began"] - each["event"]["kinesis"]["approximateArrivalTimestamp"] for each in told.invocations()[1:]
    ]
    assert min(delays) < 0.05
    (age,) = metric(aws, "AWS/Lambda", "IteratorAge", "Maximum", FunctionName=told.name)
    assert 0 < age < 15_000


def test_parents_are_finished_before_their_children_begin(aws: Aws, shared: Probe) -> None:
    """https://docs.aws.amazon.com/streams/latest/dev/kinesis-using-sdk-java-after-resharding.html"""
    stream = Stream(aws, shards=2)
    low, high = "0", HIGH
    stream.put(*[{"id": f"low-{index}", "seconds": 0.05} for index in range(5)], hash_key=low)
    stream.put(*[{"id": f"high-{index}"} for index in range(5)], hash_key=high)
    stream.client.merge_shards(
        StreamName=stream.name, ShardToMerge="shardId-000000000000", AdjacentShardToMerge="shardId-000000000001"
    )
    stream.put("merged", hash_key=low)
    stream.client.split_shard(
        StreamName=stream.name, ShardToSplit="shardId-000000000002", NewStartingHashKey=str(MIDDLE)
    )
    stream.put("split-low", hash_key=low)
    stream.put("split-high", hash_key=high)
    told = shared.of(stream.arn)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON", BatchSize=2)
    told.after("split-low", "split-high")
    seen = told.ids()
    assert sorted(seen) == sorted([*ids(5, "low-"), *ids(5, "high-"), "merged", "split-low", "split-high"])
    assert [each for each in seen if each.startswith("low-")] == ids(5, "low-")
    ends = {each: invocation["ended"] for invocation in told.invocations() for each in invocation["ids"]}
    begins = {each: invocation["began"] for invocation in told.invocations() for each in invocation["ids"]}
    assert max(ends["low-4"], ends["high-4"]) <= begins["merged"]
    assert ends["merged"] <= min(begins["split-low"], begins["split-high"])


def test_resharding_under_way_loses_and_repeats_nothing(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html"""
    told = shared.of(stream.arn)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    keys = [str(2**128 * index // 8) for index in range(8)]
    for round_, count in enumerate((1, 2, 3, 2)):
        if count > 1:
            stream.client.update_shard_count(
                StreamName=stream.name, TargetShardCount=count, ScalingType="UNIFORM_SCALING"
            )
        for index, key in enumerate(keys):
            stream.put(f"{index}-{round_}", hash_key=key)
    told.after(*[f"{index}-3" for index in range(8)])
    seen = told.ids()
    assert sorted(seen) == sorted(f"{index}-{round_}" for index in range(8) for round_ in range(4))
    for index in range(8):
        mine = [each for each in seen if each.startswith(f"{index}-")]
        assert mine == [f"{index}-{round_}" for round_ in range(4)]


@pytest.mark.parametrize("position", ["LATEST", "AT_TIMESTAMP"])
def test_what_came_before_the_starting_position_is_left_out(
    aws: Aws, shared: Probe, stream: Stream, position: str
) -> None:
    """https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html"""
    stream.put("old")
    told = shared.of(stream.arn)
    settings: dict[str, Any] = {"StartingPosition": position}
    if position == "AT_TIMESTAMP":
        time.sleep(1.1)  # the SDK sends whole seconds
        settings["StartingPositionTimestamp"] = datetime.now(UTC)
    told.map(stream.arn, **settings)
    stream.put("new")
    assert told.after("new") == [["new"]]


def test_shards_invoke_at_the_same_time_and_a_killed_worker_is_replaced(aws: Aws, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/lambda-concurrency.html"""
    stream = Stream(aws, shards=2)
    dies = {"id": "dies", "fails": "die", "mark": str(tmp_path / "died"), "seconds": 0.5}
    stream.put(dies, hash_key="0")
    stream.put({"id": "lives", "seconds": 0.5}, hash_key=HIGH)
    told = own_probe(aws, stream, Timeout=10)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    eventually(lambda: told.ids().count("dies"), lambda count: count == 2)
    lives = next(each for each in told.invocations() if each["ids"] == ["lives"])
    first, second = (each for each in told.invocations() if each["ids"] == ["dies"])
    assert max(first["began"], lives["began"]) < min(first["ended"], lives["ended"])
    assert first["worker"] not in {second["worker"], lives["worker"]}


# --- Batches -----------------------------------------------------------------------------------------------------


def test_a_batch_has_at_most_its_size_and_order_is_kept(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-parameters.html"""
    stream.put(*ids(25))
    told = shared.of(stream.arn)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON", BatchSize=10)
    assert told.after("24") == [ids(25)[:10], ids(25)[10:20], ids(25)[20:]]


def test_a_window_gathers_records_into_one_batch(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventsourcemapping.html"""
    told = shared.of(stream.arn)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON", BatchSize=4, MaximumBatchingWindowInSeconds=1)
    for name in ids(3):
        stream.put(name)
        time.sleep(0.1)
    assert told.after("2") == [["0", "1", "2"]]
    stream.put(*ids(4, "full-"))
    batches = told.after("full-3")
    assert batches[1:] == [ids(4, "full-")]
    sent = told.invocations()[1]["event"]["kinesis"]["approximateArrivalTimestamp"]
    assert told.invocations()[1]["began"] - sent < 0.9  # a full batch does not wait


def test_a_batch_stays_below_the_payload_limit(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
    for name in ids(6):
        stream.put({"id": name, "text": "x" * 1_000_000})
    told = shared.of(stream.arn)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    assert told.after("5") == [["0", "1", "2", "3"], ["4", "5"]]


def test_parts_of_a_shard_run_side_by_side_with_each_key_in_order(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-create.html"""
    keys = [f"k{index}" for index in range(6)]
    stream.put(*[{"id": f"{key}-{turn}", "key": key, "seconds": 0.03} for turn in range(4) for key in keys])
    told = shared.of(stream.arn)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON", BatchSize=2, ParallelizationFactor=4)
    told.after(*[f"{key}-3" for key in keys])
    seen = told.invocations()
    assert sorted(told.ids()) == sorted(f"{key}-{turn}" for turn in range(4) for key in keys)
    for key in keys:
        mine = [each for each in told.ids() if each.startswith(f"{key}-")]
        assert mine == [f"{key}-{turn}" for turn in range(4)]
    assert any(one["ended"] > other["began"] for one, other in pairwise(seen))


# --- Failures ----------------------------------------------------------------------------------------------------


def letters(aws: Aws, queue: str) -> list[dict[str, Any]]:
    """Return the bodies of the queue's messages, which stay in it."""
    client = aws.client("sqs")
    url = client.get_queue_url(QueueName=queue)["QueueUrl"]
    found = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0).get("Messages", [])
    return [json.loads(message["Body"]) for message in found]


@pytest.fixture
def queue(aws: Aws) -> str:
    name = unique("letters")
    aws.client("sqs").create_queue(QueueName=name)
    return name


def to_queue(queue: str) -> dict[str, Any]:
    return {"OnFailure": {"Destination": arn("sqs", queue)}}


def test_a_failed_item_is_tried_again_with_all_behind_it(
    tmp_path: Path, aws: Aws, shared: Probe, stream: Stream
) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html"""
    stream.put("0", "1", {"id": "2", "fails": "once", "mark": str(tmp_path / "failed")}, "3", "4")
    told = shared.of(stream.arn)
    mapping = told.map(stream.arn, StartingPosition="TRIM_HORIZON", **REPORT)
    eventually(told.batches, lambda batches: len(batches) == 2)
    assert told.batches() == [ids(5), ["2", "3", "4"]]
    eventually(lambda: told.result(mapping), lambda result: result == "OK")


def test_without_the_setting_a_response_means_nothing(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html"""
    stream.put("0", {"id": "1", "fails": "item"})
    told = shared.of(stream.arn)
    told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    told.after("1")
    stream.put("2")
    assert told.after("2") == [["0", "1"], ["2"]]


def test_a_response_that_makes_no_sense_fails_the_batch(aws: Aws, shared: Probe, stream: Stream, queue: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html"""
    stream.put("0", {"id": "1", "fails": "nonsense"})
    told = shared.of(stream.arn)
    told.map(
        stream.arn,
        StartingPosition="TRIM_HORIZON",
        MaximumRetryAttempts=1,
        DestinationConfig=to_queue(queue),
        **REPORT,
    )
    (letter,) = eventually(lambda: letters(aws, queue))
    assert told.batches() == [["0", "1"]] * 2
    assert letter["KinesisBatchInfo"]["batchSize"] == 2


def test_retries_end_and_the_discarded_batch_is_described(aws: Aws, shared: Probe, stream: Stream, queue: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html"""
    stream.put("0", {"id": "1", "fails": "raise"})
    told = shared.of(stream.arn)
    mapping = told.map(
        stream.arn, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=2, DestinationConfig=to_queue(queue)
    )
    (letter,) = eventually(lambda: letters(aws, queue))
    assert told.batches() == [["0", "1"]] * 3
    assert letter["requestContext"].pop("requestId")
    assert letter["requestContext"] == {
        "functionArn": told.arn,
        "condition": "RetryAttemptsExhausted",
        "approximateInvokeCount": 3,
    }
    assert letter["responseContext"] == {
        "statusCode": 200,
        "executedVersion": "$LATEST",
        "functionError": "Unhandled",
    }
    info = letter["KinesisBatchInfo"]
    assert (info["shardId"], info["batchSize"], info["streamArn"]) == ("shardId-000000000000", 2, stream.arn)
    # The records are found again by what the letter says.
    iterator = stream.client.get_shard_iterator(
        StreamName=stream.name,
        ShardId=info["shardId"],
        ShardIteratorType="AT_SEQUENCE_NUMBER",
        StartingSequenceNumber=info["startSequenceNumber"],
    )["ShardIterator"]
    found = stream.client.get_records(ShardIterator=iterator)["Records"]
    assert [json.loads(record["Data"])["id"] for record in found] == ["0", "1"]
    assert found[-1]["SequenceNumber"] == info["endSequenceNumber"]
    assert "payload" not in letter
    stream.put("2")
    told.after("2")
    eventually(lambda: told.result(mapping), lambda result: result == "OK")


def test_a_poison_record_is_cut_out_of_its_batch(aws: Aws, shared: Probe, stream: Stream, queue: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html

    Cutting is no retry: with no retries at all, the others are processed.
    """
    stream.put("0", "1", "2", {"id": "3", "fails": "raise"}, "4")
    told = shared.of(stream.arn)
    told.map(
        stream.arn,
        StartingPosition="TRIM_HORIZON",
        MaximumRetryAttempts=0,
        BisectBatchOnFunctionError=True,
        DestinationConfig=to_queue(queue),
    )
    told.after("4")
    eventually(told.batches, lambda batches: len(batches) == 5)
    assert told.batches() == [ids(5), ["0", "1", "2"], ["3", "4"], ["3"], ["4"]]
    (letter,) = eventually(lambda: letters(aws, queue))
    assert letter["KinesisBatchInfo"]["batchSize"] == 1


def test_a_batch_is_cut_where_the_response_says(aws: Aws, shared: Probe, stream: Stream, queue: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html"""
    stream.put("0", "1", {"id": "2", "fails": "item"}, "3", "4")
    told = shared.of(stream.arn)
    told.map(
        stream.arn,
        StartingPosition="TRIM_HORIZON",
        MaximumRetryAttempts=0,
        BisectBatchOnFunctionError=True,
        DestinationConfig=to_queue(queue),
        **REPORT,
    )
    eventually(told.batches, lambda batches: ["4"] in batches)
    assert told.batches() == [ids(5), ["2", "3", "4"], ["2", "3"], ["2"], ["3"], ["4"]]
    (letter,) = letters(aws, queue)
    assert letter["KinesisBatchInfo"]["batchSize"] == 1


def test_a_bucket_gets_the_discarded_records_themselves(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html"""
    s3, bucket = aws.client("s3"), unique("letters")
    s3.create_bucket(Bucket=bucket)
    stream.put({"id": "bad", "fails": "raise"})
    told = shared.of(stream.arn)
    mapping = told.map(
        stream.arn,
        StartingPosition="TRIM_HORIZON",
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": f"arn:aws:s3:::{bucket}"}},
    )
    (found,) = eventually(lambda: s3.list_objects_v2(Bucket=bucket).get("Contents", []))
    now = datetime.now(UTC)
    assert found["Key"].startswith(f"aws/lambda/{mapping}/shardId-000000000000/{now:%Y/%m/%d/%Y-%m-%dT%H}.")
    letter = json.loads(s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read())
    assert letter["requestContext"]["condition"] == "RetryAttemptsExhausted"
    (record,) = json.loads(letter["payload"])["Records"]
    assert record == told.invocations()[0]["event"]


def test_a_destination_that_refuses_does_not_stop_the_stream(aws: Aws, stream: Stream, queue: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html"""
    stream.put({"id": "bad", "fails": "raise"})
    told = own_probe(aws, stream)  # the role may not send
    mapping = told.map(
        stream.arn, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=0, DestinationConfig=to_queue(queue)
    )
    result = eventually(lambda: told.result(mapping), lambda result: "sqs:" in result.lower())
    assert result.startswith("PROBLEM: ")
    assert metric(aws, "AWS/Lambda", "DestinationDeliveryFailures", FunctionName=told.name) == [1]
    stream.put("next")
    told.after("next")
    assert letters(aws, queue) == []


@pytest.mark.parametrize("kind", ["s3", "sns"])
def test_a_destination_gets_the_batch_if_the_role_may_send_it(aws: Aws, stream: Stream, kind: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html"""
    target, told = place(aws, kind), own_probe(aws, stream)
    stream.put({"id": "lost", "fails": "raise"})
    destination = {"OnFailure": {"Destination": target.arn}}
    told.map(stream.arn, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=0, DestinationConfig=destination)
    eventually(lambda: metric(aws, "AWS/Lambda", "DestinationDeliveryFailures", FunctionName=told.name) == [1])
    may(aws, f"{told.name}-role", allow(READ_STREAM, stream.arn), target.statement)
    stream.put({"id": "kept", "fails": "raise"})
    (text,) = eventually(target.read)
    assert json.loads(text)["KinesisBatchInfo"]["streamArn"] == stream.arn


def test_a_throttled_batch_waits_without_using_up_its_retries(aws: Aws, stream: Stream, queue: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html"""
    told = own_probe(aws, stream, allow("sqs:SendMessage", arn("sqs", queue)))
    told.lambda_.put_function_concurrency(FunctionName=told.name, ReservedConcurrentExecutions=0)
    mapping = told.map(
        stream.arn, StartingPosition="TRIM_HORIZON", MaximumRetryAttempts=0, DestinationConfig=to_queue(queue)
    )
    stream.put("patient")
    eventually(lambda: told.result(mapping), lambda result: "TooManyRequests" in result)
    told.lambda_.delete_function_concurrency(FunctionName=told.name)
    assert told.after("patient") == [["patient"]]
    assert letters(aws, queue) == []


# --- Filters -----------------------------------------------------------------------------------------------------


def test_a_filter_drops_records_and_moves_on(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis-filtering.html"""
    patterns = [{"data": {"amount": [{"numeric": [">", 100]}]}}, {"data": {"country": ["CH"]}}]
    told = shared.of(stream.arn)
    told.map(
        stream.arn,
        StartingPosition="TRIM_HORIZON",
        FilterCriteria={"Filters": [{"Pattern": json.dumps(each)} for each in patterns]},
    )
    stream.put({"id": "small", "amount": 5}, {"id": "large", "amount": 500}, {"id": "local", "country": "CH"})
    stream.client.put_record(StreamName=stream.name, Data=b"\xff no JSON", PartitionKey="key")
    stream.put({"id": "last", "amount": 101})
    told.after("last")
    assert sorted(told.ids()) == ["large", "last", "local"]


def test_a_filter_that_is_none_is_refused(shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html"""
    with pytest.raises(ClientError, match="Invalid filter pattern definition"):
        shared.map(
            stream.arn, StartingPosition="LATEST", FilterCriteria={"Filters": [{"Pattern": '{"data": "plain"}'}]}
        )


# --- Permissions and life cycle ----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", READ_STREAM)
def test_a_mapping_needs_a_role_that_may_read(aws: Aws, stream: Stream, missing: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html"""
    told = Probe(aws, allow([each for each in READ_STREAM if each != missing], stream.arn))
    with pytest.raises(ClientError, match=f"Cannot access stream {stream.arn}") as refused:
        told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    assert refused.value.response["Error"]["Code"] == "InvalidParameterValueException"
    assert told.lambda_.list_event_source_mappings(FunctionName=told.name)["EventSourceMappings"] == []


def test_a_role_that_loses_its_permission_stops_the_delivery(aws: Aws, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html"""
    iam, told = aws.client("iam"), own_probe(aws, stream)
    mapping = told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    stream.put("before")
    told.after("before")
    who = {"RoleName": f"{told.name}-role", "PolicyName": "work"}
    policy = iam.get_role_policy(**who)["PolicyDocument"]
    iam.delete_role_policy(**who)
    stream.put("while")
    result = eventually(lambda: told.result(mapping), lambda result: "kinesis:GetRecords" in result)
    assert result.startswith("PROBLEM: ")
    assert told.ids() == ["before"]
    iam.put_role_policy(**who, PolicyDocument=json.dumps(policy))
    assert told.after("while") == [["before"], ["while"]]


@pytest.mark.parametrize(
    "setting",
    [
        {"TumblingWindowInSeconds": 901},
        {"TumblingWindowInSeconds": 30, "ParallelizationFactor": 2},
        {"MaximumRecordAgeInSeconds": 59},
        {"MaximumRetryAttempts": 10_001},
        {"ParallelizationFactor": 11},
        {"BatchSize": 10_001},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused(shared: Probe, stream: Stream, setting: dict[str, int]) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-parameters.html"""
    with pytest.raises(ClientError) as refused:
        shared.map(stream.arn, StartingPosition="LATEST", **setting)
    assert refused.value.response["Error"]["Code"] == "InvalidParameterValueException"
    assert next(iter(setting)) in refused.value.response["Error"]["Message"]


def test_a_second_mapping_of_the_same_pair_is_refused(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html"""
    told = shared.of(stream.arn)
    mapping = told.map(stream.arn, StartingPosition="LATEST")
    with pytest.raises(told.lambda_.exceptions.ResourceConflictException, match=mapping):
        told.map(stream.arn, StartingPosition="LATEST")


def test_a_disabled_mapping_goes_on_where_it_was_and_a_deleted_one_does_not(
    aws: Aws, shared: Probe, stream: Stream
) -> None:
    """https://docs.aws.amazon.com/lambda/latest/api/API_UpdateEventSourceMapping.html"""
    told = shared.of(stream.arn)
    mapping = told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    stream.put("first")
    told.after("first")
    told.lambda_.update_event_source_mapping(UUID=mapping, Enabled=False)
    time.sleep(0.3)
    stream.put(*ids(3))
    time.sleep(0.5)
    assert told.ids() == ["first"]
    told.lambda_.update_event_source_mapping(UUID=mapping, Enabled=True, BatchSize=2)
    assert told.after("2") == [["first"], ["0", "1"], ["2"]]
    told.lambda_.delete_event_source_mapping(UUID=mapping)
    time.sleep(0.3)
    stream.put("late")
    time.sleep(0.5)
    assert "late" not in told.ids()


def test_a_failing_mapping_can_be_disabled_and_deleted_at_once(aws: Aws, shared: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/api/API_DeleteEventSourceMapping.html"""
    told = shared.of(stream.arn)
    mapping = told.map(stream.arn, StartingPosition="TRIM_HORIZON")
    stream.put({"id": "bad", "fails": "raise"})
    eventually(told.batches, lambda batches: len(batches) > 2)
    told.lambda_.delete_event_source_mapping(UUID=mapping)
    time.sleep(0.3)
    count = len(told.batches())
    time.sleep(1)
    assert len(told.batches()) == count


# --- DynamoDB streams --------------------------------------------------------------------------------------------


@pytest.fixture
def table(aws: Aws) -> dict[str, Any]:
    client = aws.client("dynamodb")
    made: dict[str, Any] = client.create_table(
        TableName=unique("table"),
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
        StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    )["TableDescription"]
    return made


def put(aws: Aws, table: dict[str, Any], *ids: str, **attributes: dict[str, Any]) -> None:
    for name in ids:
        aws.client("dynamodb").put_item(TableName=table["TableName"], Item={"id": {"S": name}, **attributes})


def test_a_change_arrives_in_the_documented_shape(aws: Aws, shared: Probe, table: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html"""
    told = shared.of(table["LatestStreamArn"])
    put(aws, table, "before")
    told.map(table["LatestStreamArn"], StartingPosition="LATEST")
    put(aws, table, "after", raw={"B": b"\x00\x01"})
    assert told.after("after") == [["after"]]
    record = told.invocations()[0]["event"]
    assert record.pop("eventID")
    change = record.pop("dynamodb")
    assert record == {
        "eventName": "INSERT",
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "us-east-1",
        "eventSourceARN": table["LatestStreamArn"],
    }
    assert change["Keys"] == {"id": {"S": "after"}}
    assert change["NewImage"] == {"id": {"S": "after"}, "raw": {"B": "AAE="}}
    assert change["StreamViewType"] == "NEW_IMAGE"
    assert change["SequenceNumber"].isdigit()
    assert abs(change["ApproximateCreationDateTime"] - time.time()) < 20


def test_changes_are_filtered_and_failed_items_tried_again(
    aws: Aws, shared: Probe, table: dict[str, Any], queue: str
) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html"""
    stream = table["LatestStreamArn"]
    told = shared.of(stream)
    put(aws, table, "0")
    put(aws, table, "1", fails={"S": "item"})
    put(aws, table, "2")
    put(aws, table, "dropped", kind={"S": "noise"})
    pattern = {"eventName": ["INSERT"], "dynamodb": {"NewImage": {"kind": {"S": [{"exists": False}]}}}}
    told.map(
        stream,
        StartingPosition="TRIM_HORIZON",
        MaximumRetryAttempts=1,
        DestinationConfig=to_queue(queue),
        FilterCriteria={"Filters": [{"Pattern": json.dumps(pattern)}]},
        **REPORT,
    )
    (letter,) = eventually(lambda: letters(aws, queue))
    assert told.batches() == [["0", "1", "2"], ["1", "2"]]
    assert letter["DDBStreamBatchInfo"]["batchSize"] == 2
    assert letter["DDBStreamBatchInfo"]["streamArn"] == stream
    put(aws, table, "3")
    assert told.after("3")[2:] == [["3"]]


def test_a_mapping_of_changes_needs_a_role_that_may_read(aws: Aws, table: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html"""
    told = Probe(aws, allow(READ_CHANGES, arn("dynamodb", "table/another/stream/*")))
    with pytest.raises(ClientError, match="Cannot access stream"):
        told.map(table["LatestStreamArn"], StartingPosition="TRIM_HORIZON")


# --- Stacks ------------------------------------------------------------------------------------------------------


def test_a_stack_makes_changes_and_removes_a_mapping(aws: Aws, stream: Stream, queue: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-eventsourcemapping.html"""
    told = own_probe(aws, stream, allow("sqs:SendMessage", arn("sqs", queue)))

    def body(**settings: Any) -> str:
        return template(
            Mapping=resource(
                "AWS::Lambda::EventSourceMapping",
                FunctionName=told.name,
                EventSourceArn=stream.arn,
                StartingPosition="TRIM_HORIZON",
                MaximumRetryAttempts=0,
                BisectBatchOnFunctionError=True,
                DestinationConfig=to_queue(queue),
                **settings,
            )
        )

    cloudformation = aws.client("cloudformation")
    stream.put("0", {"id": "1", "fails": "item"}, "2")
    stack = create(cloudformation, body(**REPORT))
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    (letter,) = eventually(lambda: letters(aws, queue))
    assert letter["KinesisBatchInfo"]["batchSize"] == 1
    told.after("2")
    (mapping,) = told.lambda_.list_event_source_mappings(FunctionName=told.name)["EventSourceMappings"]
    assert (mapping["BatchSize"], mapping["MaximumRetryAttempts"], mapping["State"]) == (100, 0, "Enabled")

    cloudformation.update_stack(StackName=stack["StackName"], TemplateBody=body(Enabled=False, BatchSize=1))
    assert settled(cloudformation, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    changed = told.lambda_.get_event_source_mapping(UUID=mapping["UUID"])
    assert (changed["BatchSize"], changed["State"]) == (1, "Disabled")
    time.sleep(0.3)
    stream.put("paused")
    time.sleep(0.5)
    assert "paused" not in told.ids()
    cloudformation.update_stack(StackName=stack["StackName"], TemplateBody=body(BatchSize=1))
    assert settled(cloudformation, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    assert told.after("paused")[-1] == ["paused"]

    cloudformation.delete_stack(StackName=stack["StackId"])
    assert settled(cloudformation, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    assert told.lambda_.list_event_source_mappings(FunctionName=told.name)["EventSourceMappings"] == []


def test_a_stack_fails_if_the_role_may_not_read(aws: Aws, stream: Stream) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-lambda-eventsourcemapping.html"""
    told, cloudformation = Probe(aws), aws.client("cloudformation")
    stack = create(
        cloudformation,
        template(
            Mapping=resource(
                "AWS::Lambda::EventSourceMapping",
                FunctionName=told.name,
                EventSourceArn=stream.arn,
                StartingPosition="TRIM_HORIZON",
            )
        ),
    )
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "Cannot access stream" in failures(cloudformation, stack["StackId"])["Mapping"]


def test_a_sam_event_becomes_a_mapping(aws: Aws, stream: Stream) -> None:
    """https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-property-function-kinesis.html"""
    name = unique("sam")
    body = {
        "Transform": "AWS::Serverless-2016-10-31",
        "Resources": {
            "Consumer": {
                "Type": "AWS::Serverless::Function",
                "Properties": {
                    "FunctionName": name,
                    "Runtime": "python3.12",
                    "Handler": "index.handler",
                    "Role": role(aws, "lambda.amazonaws.com", allow(READ_STREAM, stream.arn)),
                    "InlineCode": "def handler(event, context):\n    return None\n",
                    "Events": {
                        "Records": {
                            "Type": "Kinesis",
                            "Properties": {
                                "Stream": stream.arn,
                                "StartingPosition": "TRIM_HORIZON",
                                "BatchSize": 7,
                                "MaximumRetryAttempts": 3,
                                **REPORT,
                            },
                        }
                    },
                },
            }
        },
    }
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(
        StackName=name, TemplateBody=json.dumps(body), Capabilities=["CAPABILITY_AUTO_EXPAND", "CAPABILITY_IAM"]
    )
    assert settled(cloudformation, name)["StackStatus"] == "CREATE_COMPLETE"
    (mapping,) = aws.client("lambda").list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    assert (mapping["BatchSize"], mapping["MaximumRetryAttempts"]) == (7, 3)
    assert mapping["FunctionResponseTypes"] == REPORT["FunctionResponseTypes"]
    stream.put("0")
    eventually(lambda: metric(aws, "AWS/Lambda", "Invocations", FunctionName=name), lambda found: found == [1])
