"""Kinesis Data Streams: resharding, positions, permissions, metrics and stacks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_cloudformation import create, resource, settled, template
from tests.conformance.test_iam import allow, denied, unique, user
from tests.conftest import Aws

MIDDLE = 2**127
LOW, HIGH = "0", str(2**128 - 1)


@pytest.fixture(scope="module")
def kinesis(aws: Aws) -> Any:
    return aws.client("kinesis")


@pytest.fixture
def stream(kinesis: Any) -> str:
    name = unique("stream")
    kinesis.create_stream(StreamName=name, ShardCount=1)
    return name


def put(kinesis: Any, stream: str, *data: str, hash_key: str = LOW) -> list[str]:
    """Put one record for each of ``data`` and return the sequence numbers."""
    records = [{"Data": each.encode(), "PartitionKey": each, "ExplicitHashKey": hash_key} for each in data]
    return [each["SequenceNumber"] for each in kinesis.put_records(StreamName=stream, Records=records)["Records"]]


def shards(kinesis: Any, stream: str, **options: Any) -> dict[str, dict[str, Any]]:
    return {each["ShardId"]: each for each in kinesis.list_shards(StreamName=stream, **options)["Shards"]}


def read(kinesis: Any, stream: str, shard: str, kind: str = "TRIM_HORIZON", **position: Any) -> dict[str, Any]:
    """Return one answer of GetRecords from that position on."""
    iterator = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType=kind, **position)
    answer: dict[str, Any] = kinesis.get_records(ShardIterator=iterator["ShardIterator"])
    return answer


def data(answer: dict[str, Any]) -> list[str]:
    return [record["Data"].decode() for record in answer["Records"]]


def opened(listed: dict[str, dict[str, Any]]) -> list[str]:
    return [name for name, shard in listed.items() if "EndingSequenceNumber" not in shard["SequenceNumberRange"]]


def test_a_split_shard_keeps_its_records_and_names_its_children(kinesis: Any, stream: str) -> None:
    """https://docs.aws.amazon.com/streams/latest/dev/kinesis-using-sdk-java-after-resharding.html"""
    before = put(kinesis, stream, "a", "b")
    kinesis.split_shard(StreamName=stream, ShardToSplit="shardId-000000000000", NewStartingHashKey=str(MIDDLE))
    (low,) = put(kinesis, stream, "c", hash_key=LOW)
    put(kinesis, stream, "d", hash_key=HIGH)
    parent, *children = shards(kinesis, stream).values()
    assert [child["ParentShardId"] for child in children] == [parent["ShardId"]] * 2
    assert int(before[-1]) < int(parent["SequenceNumberRange"]["EndingSequenceNumber"]) < int(low)
    assert data(answer := read(kinesis, stream, parent["ShardId"])) == ["a", "b"]
    assert "NextShardIterator" not in answer
    assert [child["ShardId"] for child in answer["ChildShards"]] == [child["ShardId"] for child in children]
    assert [data(read(kinesis, stream, child["ShardId"])) for child in children] == [["c"], ["d"]]
    summary = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]
    assert summary["OpenShardCount"] == 2


def test_merged_shards_keep_their_records_and_have_one_child(kinesis: Any) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_MergeShards.html"""
    name = unique("stream")
    kinesis.create_stream(StreamName=name, ShardCount=2)
    put(kinesis, name, "low", hash_key=LOW)
    put(kinesis, name, "high", hash_key=HIGH)
    first, second = shards(kinesis, name)
    kinesis.merge_shards(StreamName=name, ShardToMerge=first, AdjacentShardToMerge=second)
    put(kinesis, name, "later", hash_key=HIGH)
    child = list(shards(kinesis, name).values())[-1]
    assert (child["ParentShardId"], child["AdjacentParentShardId"]) == (first, second)
    assert child["HashKeyRange"] == {"StartingHashKey": LOW, "EndingHashKey": HIGH}
    assert [data(read(kinesis, name, shard)) for shard in (first, second, child["ShardId"])] == [
        ["low"],
        ["high"],
        ["later"],
    ]


@pytest.mark.parametrize("path", [(2,), (2, 3), (2, 4, 3, 2)], ids=str)
def test_another_shard_count_loses_nothing(kinesis: Any, stream: str, path: tuple[int, ...]) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_UpdateShardCount.html"""
    keys = [str(2**128 * index // 10) for index in range(10)]
    for round_, count in enumerate((1, *path)):
        if count > 1:
            kinesis.update_shard_count(StreamName=stream, TargetShardCount=count, ScalingType="UNIFORM_SCALING")
        for index, key in enumerate(keys):
            put(kinesis, stream, f"{round_}-{index}", hash_key=key)
    listed = shards(kinesis, stream)
    ranges = sorted(int(listed[name]["HashKeyRange"]["StartingHashKey"]) for name in opened(listed))
    assert ranges == [2**128 // path[-1] * index for index in range(path[-1])]
    found = [each for name in listed for each in data(read(kinesis, stream, name))]
    assert sorted(found) == sorted(f"{round_}-{index}" for round_ in range(len(path) + 1) for index in range(len(keys)))


@pytest.mark.parametrize("count", [1, 9])
def test_a_shard_count_off_by_more_than_a_factor_of_two_is_refused(kinesis: Any, count: int) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_UpdateShardCount.html"""
    name = unique("stream")
    kinesis.create_stream(StreamName=name, ShardCount=4)
    with pytest.raises(ClientError) as refused:
        kinesis.update_shard_count(StreamName=name, TargetShardCount=count, ScalingType="UNIFORM_SCALING")
    assert refused.value.response["Error"]["Code"] == "InvalidArgumentException"
    assert len(shards(kinesis, name)) == 4


def test_a_closed_shard_cannot_be_split_again(kinesis: Any, stream: str) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SplitShard.html"""
    split = {"StreamName": stream, "ShardToSplit": "shardId-000000000000", "NewStartingHashKey": str(MIDDLE)}
    kinesis.split_shard(**split)
    with pytest.raises(kinesis.exceptions.ResourceNotFoundException):
        kinesis.split_shard(**split)


def test_sequence_numbers_are_as_long_as_those_of_aws_and_only_rise(kinesis: Any, stream: str) -> None:
    """https://docs.aws.amazon.com/streams/latest/dev/key-concepts.html#sequence-number"""
    numbers = put(kinesis, stream, *map(str, range(50)))
    assert {len(number) for number in numbers} == {56}
    assert {number[0] for number in numbers} == {"4"}
    assert sorted(numbers, key=int) == numbers == sorted(numbers)


def test_an_iterator_starts_where_it_says(kinesis: Any, stream: str) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetShardIterator.html"""
    shard = "shardId-000000000000"
    _, second, _ = put(kinesis, stream, "a", "b", "c")
    assert data(read(kinesis, stream, shard, "AT_SEQUENCE_NUMBER", StartingSequenceNumber=second)) == ["b", "c"]
    assert data(read(kinesis, stream, shard, "AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=second)) == ["c"]
    past, future = datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + timedelta(hours=1)
    assert data(read(kinesis, stream, shard, "AT_TIMESTAMP", Timestamp=past)) == ["a", "b", "c"]
    assert data(read(kinesis, stream, shard, "AT_TIMESTAMP", Timestamp=future)) == []
    latest = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="LATEST")["ShardIterator"]
    put(kinesis, stream, "d")
    assert data(answer := kinesis.get_records(ShardIterator=latest)) == ["d"]
    assert answer["MillisBehindLatest"] == 0
    assert data(kinesis.get_records(ShardIterator=answer["NextShardIterator"])) == []
    # The same iterator gives the same records, so that a reader may try again.
    assert data(kinesis.get_records(ShardIterator=latest)) == ["d"]


def test_shards_are_listed_by_filter_and_in_pages(kinesis: Any, stream: str) -> None:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ShardFilter.html"""
    kinesis.update_shard_count(StreamName=stream, TargetShardCount=2, ScalingType="UNIFORM_SCALING")
    old, left, right = shards(kinesis, stream)
    assert list(shards(kinesis, stream, ShardFilter={"Type": "AT_LATEST"})) == [left, right]
    assert list(shards(kinesis, stream, ShardFilter={"Type": "AT_TRIM_HORIZON"})) == [old]
    assert list(shards(kinesis, stream, ShardFilter={"Type": "AFTER_SHARD_ID", "ShardId": left})) == [right]
    soon = datetime.now(UTC) + timedelta(seconds=1)
    assert list(shards(kinesis, stream, ShardFilter={"Type": "FROM_TIMESTAMP", "Timestamp": soon})) == [left, right]

    def pages() -> Iterator[str]:
        token: dict[str, Any] = {"StreamName": stream}
        while token:
            page = kinesis.list_shards(MaxResults=1, **token)
            yield from (shard["ShardId"] for shard in page["Shards"])
            token = {"NextToken": page["NextToken"]} if "NextToken" in page else {}

    assert list(pages()) == [old, left, right]


def test_reading_is_authorized_on_the_stream_of_the_iterator(aws: Aws, kinesis: Any, stream: str) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonkinesisdatastreams.html"""
    other = unique("stream")
    kinesis.create_stream(StreamName=other, ShardCount=1)
    mine = kinesis.describe_stream_summary(StreamName=stream)["StreamDescriptionSummary"]["StreamARN"]
    reader = aws.client("kinesis", user(aws, allow("kinesis:GetRecords", mine)))
    position = {"ShardId": "shardId-000000000000", "ShardIteratorType": "TRIM_HORIZON"}
    allowed, foreign = (
        kinesis.get_shard_iterator(StreamName=name, **position)["ShardIterator"] for name in (stream, other)
    )
    assert reader.get_records(ShardIterator=allowed)["Records"] == []
    denied(lambda: reader.get_records(ShardIterator=foreign))


def test_puts_and_reads_are_measured_and_silence_is_not(aws: Aws, kinesis: Any, stream: str) -> None:
    """https://docs.aws.amazon.com/streams/latest/dev/monitoring-with-cloudwatch.html"""
    cloudwatch = aws.client("cloudwatch")

    def metric(name: str, statistic: str) -> list[float]:
        now = datetime.now(UTC)
        points = cloudwatch.get_metric_statistics(
            Namespace="AWS/Kinesis",
            MetricName=name,
            Dimensions=[{"Name": "StreamName", "Value": stream}],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(hours=1),
            Period=86_400,
            Statistics=[statistic],
        )
        return [point[statistic] for point in points["Datapoints"]]

    assert metric("IncomingRecords", "Sum") == metric("GetRecords.IteratorAgeMilliseconds", "Maximum") == []
    put(kinesis, stream, "12345", "67890")
    kinesis.put_record(StreamName=stream, Data=b"12", PartitionKey="key")
    read(kinesis, stream, "shardId-000000000000")
    assert metric("IncomingRecords", "Sum") == [3]
    assert metric("IncomingBytes", "Sum") == [5 * 2 + 5 * 2 + 2 + 3]
    (age,) = metric("GetRecords.IteratorAgeMilliseconds", "Maximum")
    assert 0 <= age < 60_000
    assert metric("ReadProvisionedThroughputExceeded", "Sum") == [0]


def test_a_stack_makes_changes_and_removes_a_stream(aws: Aws, kinesis: Any) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-kinesis-stream.html"""
    cloudformation, name = aws.client("cloudformation"), unique("stream")
    encryption = {"EncryptionType": "KMS", "KeyId": "alias/aws/kinesis"}

    def body(**properties: Any) -> str:
        return template(
            Stream=resource(
                "AWS::Kinesis::Stream",
                Name=name,
                Tags=[{"Key": "team", "Value": "atlas"}],
                **{"ShardCount": 1, "StreamEncryption": encryption, "RetentionPeriodHours": 48, **properties},
            )
        )

    stack = create(cloudformation, body())
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    described = kinesis.describe_stream(StreamName=name)["StreamDescription"]
    assert (described["EncryptionType"], described["KeyId"]) == ("KMS", "alias/aws/kinesis")
    assert (described["RetentionPeriodHours"], len(described["Shards"])) == (48, 1)
    tags = {each["Key"]: each["Value"] for each in kinesis.list_tags_for_stream(StreamName=name)["Tags"]}
    assert tags["team"] == "atlas"

    put(kinesis, name, "kept")
    cloudformation.update_stack(StackName=stack["StackName"], TemplateBody=body(ShardCount=2))
    assert settled(cloudformation, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    listed = shards(kinesis, name)
    assert len(opened(listed)) == 2
    assert data(read(kinesis, name, min(listed))) == ["kept"]

    cloudformation.update_stack(StackName=stack["StackName"], TemplateBody=body(ShardCount=8))
    assert settled(cloudformation, stack["StackName"])["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"

    cloudformation.delete_stack(StackName=stack["StackId"])
    assert settled(cloudformation, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    with pytest.raises(kinesis.exceptions.ResourceNotFoundException):
        kinesis.describe_stream(StreamName=name)
