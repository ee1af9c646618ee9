"""The clock of a server of its own is moved, and what waits for days happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from local.launcher import LauncherError, clock
from tests.conformance.event_sources import READ_STREAM, Probe
from tests.conformance.test_iam import ACCOUNT, allow, arn, role, unique
from tests.conftest import Aws, embedded_aws

DAY = 86_400
PATIENCE_SECONDS = 20.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """A server of its own: its clock is everybody's."""
    with embedded_aws(tmp_path_factory.mktemp("clock")) as running:
        yield running


def eventually(look: Callable[[], Any]) -> Any:
    """Return what ``look`` finds once it finds something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.2)
    return found


def queue(aws: Aws) -> tuple[str, str]:
    """Return URL and ARN of a new queue that everything may send to."""
    sqs, name = aws.client("sqs"), unique("clock")
    send = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn("sqs", name)}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [send]})
    return sqs.create_queue(QueueName=name, Attributes={"Policy": policy})["QueueUrl"], arn("sqs", name)


def bodies(aws: Aws, url: str) -> list[str]:
    messages = aws.client("sqs").receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
    return [message["Body"] for message in messages]


def test_items_expire(own: Aws) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/howitworks-ttl.html"""
    dynamodb, name = own.client("dynamodb"), unique("clock")
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    dynamodb.update_time_to_live(
        TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
    )
    ahead = clock.advance(own.endpoint, 0)
    for days in (2, 9):
        expires = {"N": str(int(time.time() + ahead + days * DAY))}
        dynamodb.put_item(TableName=name, Item={"pk": {"S": f"{days} days"}, "expires_at": expires})
    clock.advance(own.endpoint, 3 * DAY)

    def left() -> list[str]:
        return [item["pk"]["S"] for item in dynamodb.scan(TableName=name)["Items"]]

    eventually(lambda: left() == ["9 days"])


def test_records_leave_a_stream(own: Aws) -> None:
    """https://docs.aws.amazon.com/streams/latest/dev/kinesis-extended-retention.html"""
    kinesis, name = own.client("kinesis"), unique("clock")
    kinesis.create_stream(StreamName=name, ShardCount=1)

    def read() -> list[bytes]:
        iterator = kinesis.get_shard_iterator(
            StreamName=name, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        return [record["Data"] for record in kinesis.get_records(ShardIterator=iterator)["Records"]]

    kinesis.put_record(StreamName=name, Data=b"old", PartitionKey="a")
    clock.advance(own.endpoint, DAY - 60)
    kinesis.put_record(StreamName=name, Data=b"young", PartitionKey="a")
    assert read() == [b"old", b"young"]
    clock.advance(own.endpoint, 120)
    assert read() == [b"young"]


def test_records_grow_too_old_for_a_mapping(own: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html"""
    kinesis, name, (url, letters) = own.client("kinesis"), unique("clock"), queue(own)
    kinesis.create_stream(StreamName=name, ShardCount=1)
    source = arn("kinesis", f"stream/{name}")
    told = Probe(own, allow(READ_STREAM, source), allow("sqs:SendMessage", letters))
    told.map(
        source,
        StartingPosition="TRIM_HORIZON",
        MaximumRecordAgeInSeconds=60,
        DestinationConfig={"OnFailure": {"Destination": letters}},
    )
    kinesis.put_record(StreamName=name, Data=b'{"id": "bad", "fails": "raise"}', PartitionKey="a")
    told.after("bad")
    assert bodies(own, url) == []
    clock.advance(own.endpoint, 61)
    [letter] = eventually(lambda: bodies(own, url))
    assert json.loads(letter)["requestContext"]["condition"] == "RecordAgeExceeded"
    kinesis.put_record(StreamName=name, Data=b'{"id": "next"}', PartitionKey="a")
    told.after("next")


def test_a_daily_schedule_fires(own: Aws) -> None:
    """https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html"""
    url, target = queue(own)
    own.client("scheduler").create_schedule(
        Name=unique("clock"),
        ScheduleExpression="cron(0 6 * * ? *)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={
            "Arn": target,
            "RoleArn": role(own, "scheduler.amazonaws.com", allow("sqs:SendMessage", target)),
            "Input": "morning",
        },
    )
    assert bodies(own, url) == []
    clock.advance(own.endpoint, DAY)
    assert eventually(lambda: bodies(own, url)) == ["morning"]


def test_a_rule_fires_at_its_rate(own: Aws) -> None:
    """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-scheduled-rule-pattern.html"""
    url, target = queue(own)
    events, name = own.client("events"), unique("clock")
    events.put_rule(Name=name, ScheduleExpression="rate(12 hours)")
    events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": target, "Input": '"half a day"'}])
    clock.advance(own.endpoint, DAY / 2)
    assert eventually(lambda: bodies(own, url)) == ['"half a day"']


def test_a_workflow_waits_no_longer(own: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/state-wait.html"""
    states = own.client("stepfunctions")
    definition = {"StartAt": "Sleep", "States": {"Sleep": {"Type": "Wait", "Seconds": DAY, "End": True}}}
    machine = states.create_state_machine(
        name=unique("clock"),
        definition=json.dumps(definition),
        roleArn=role(own, "states.amazonaws.com", allow("sns:Publish", f"arn:aws:sns:*:{ACCOUNT}:none")),
    )["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=machine)["executionArn"]
    time.sleep(1)
    assert states.describe_execution(executionArn=execution)["status"] == "RUNNING"
    clock.advance(own.endpoint, DAY)
    eventually(lambda: states.describe_execution(executionArn=execution)["status"] == "SUCCEEDED")


def test_time_does_not_go_back(own: Aws) -> None:
    before = clock.advance(own.endpoint, 0)
    with pytest.raises(LauncherError, match="does not go back"):
        clock.advance(own.endpoint, -1)
    assert clock.advance(own.endpoint, 5) == before + 5
