"""Event source mappings of queues: deletion, return, windows, concurrency, filters and permissions."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.event_sources import READ_QUEUE, Probe, eventually
from tests.conformance.test_iam import allow, arn, unique
from tests.conftest import Aws

REPORT = {"FunctionResponseTypes": ["ReportBatchItemFailures"]}


class Queue:
    """A queue of messages whose body is a JSON object with an ``id``; they come back after ``visibility`` seconds."""

    def __init__(self, aws: Aws, visibility: int = 1, *, fifo: bool = False, **attributes: str) -> None:
        self.client = aws.client("sqs")
        self.name = unique("queue") + (".fifo" if fifo else "")
        self.arn = arn("sqs", self.name)
        kind = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if fifo else {}
        self.url = self.client.create_queue(
            QueueName=self.name, Attributes={"VisibilityTimeout": str(visibility), **kind, **attributes}
        )["QueueUrl"]

    def put(self, *rows: dict[str, Any] | str, group: str = "", **members: Any) -> None:
        """Send rows in order: an object, or just its id."""
        described = [row if isinstance(row, dict) else {"id": row} for row in rows]
        extra = {"MessageGroupId": group} if group else {}
        for start in range(0, len(described), 10):
            self.client.send_message_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(index), "MessageBody": json.dumps(row), **extra, **members}
                    for index, row in enumerate(described[start : start + 10])
                ],
            )

    def left(self) -> int:
        """Return how many messages it has, visible or not."""
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=counts)["Attributes"]
        return sum(int(found[count]) for count in counts)


def probe(aws: Aws, queue: Queue, **options: Any) -> Probe:
    return Probe(aws, allow(READ_QUEUE, queue.arn), **{"Timeout": 1, **options})


def test_a_message_arrives_within_a_moment_and_is_deleted(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html"""
    queue = Queue(aws)
    told = probe(aws, queue)
    told.map(queue.arn)
    attribute = {"DataType": "Binary", "BinaryValue": b"\x00"}
    queue.put("0", MessageAttributes={"raw": attribute})
    told.after("0")
    for name in ("1", "2", "3"):
        queue.put(name)
        time.sleep(0.2)
    told.after("3")
    first = told.invocations()[0]["event"]
    assert first.pop("messageId")
    assert first.pop("receiptHandle")
    attributes = first.pop("attributes")
    assert attributes["ApproximateReceiveCount"] == "1"
    assert attributes["SentTimestamp"] <= attributes["ApproximateFirstReceiveTimestamp"]
    assert first == {
        "body": '{"id": "0"}',
        "md5OfBody": "637dfb49464a36e2a8f7b96ebf1d6201",
        "messageAttributes": {
            "raw": {"dataType": "Binary", "binaryValue": "AA==", "stringListValues": [], "binaryListValues": []}
        },
        "eventSource": "aws:sqs",
        "eventSourceARN": queue.arn,
        "awsRegion": "us-east-1",
    }
    delays = [
        each["began"] - int(each["event"]["attributes"]["SentTimestamp"]) / 1000 for each in told.invocations()[1:]
    ]
    assert min(delays) < 0.05
    eventually(queue.left, lambda left: left == 0)


def test_messages_of_a_killed_function_come_back_after_the_visibility_timeout(aws: Aws, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html"""
    queue = Queue(aws, visibility=2)
    told = probe(aws, queue)
    mapping = told.map(queue.arn)
    queue.put("good", {"id": "dies", "fails": "die", "mark": str(tmp_path / "died")})
    eventually(lambda: told.ids().count("dies"), lambda count: count == 2)
    first, last = (each for each in told.invocations() if "dies" in each["ids"])
    assert 1.5 < last["began"] - first["began"] < 3.5  # the time counts from the receipt, before the cold start
    assert last["event"]["attributes"]["ApproximateReceiveCount"] == "2"
    eventually(queue.left, lambda left: left == 0)
    assert told.result(mapping) == "OK"


def test_only_the_failed_items_come_back(aws: Aws, tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html#services-sqs-batchfailurereporting"""
    queue = Queue(aws)
    told = probe(aws, queue)
    told.map(queue.arn, **REPORT)
    queue.put("0", {"id": "1", "fails": "once", "mark": str(tmp_path / "failed")}, "2")
    eventually(lambda: told.ids().count("1"), lambda count: count == 2)
    eventually(queue.left, lambda left: left == 0)
    assert sorted(told.ids()) == ["0", "1", "1", "2"]


@pytest.mark.parametrize("failure", ["raise", "nonsense"])
def test_a_batch_that_fails_as_a_whole_ends_in_the_dead_letter_queue(aws: Aws, failure: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html"""
    letters = Queue(aws)
    redrive = json.dumps({"deadLetterTargetArn": letters.arn, "maxReceiveCount": "2"})
    queue = Queue(aws, RedrivePolicy=redrive)
    told = probe(aws, queue)
    mapping = told.map(queue.arn, **REPORT)
    queue.put("0", {"id": "1", "fails": failure})
    eventually(letters.left, lambda left: left == 2)
    assert told.ids().count("1") == 2
    assert queue.left() == 0
    assert told.result(mapping) == "PROBLEM: Function call failed"


def test_a_delayed_message_is_delivered_when_its_time_comes(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-timers.html"""
    queue = Queue(aws)
    told = probe(aws, queue)
    told.map(queue.arn)
    queue.put("later", DelaySeconds=1)
    told.after("later")
    (seen,) = told.invocations()
    assert 1 <= seen["began"] - int(seen["event"]["attributes"]["SentTimestamp"]) / 1000 < 2


def test_a_window_gathers_more_messages_than_one_receive_brings(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""
    queue = Queue(aws, visibility=30)
    queue.put(*map(str, range(23)))
    told = probe(aws, queue)
    told.map(queue.arn, BatchSize=100, MaximumBatchingWindowInSeconds=1)
    time.sleep(0.5)
    queue.put("late")
    (batch,) = told.after("late")
    assert len(batch) == 24
    with pytest.raises(ClientError, match="greater than 0 if maximum batch size is greater than 10"):
        probe(aws, queue).map(queue.arn, BatchSize=11)


def test_no_more_invocations_at_once_than_allowed(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html"""
    queue = Queue(aws, visibility=30)
    queue.put(*[{"id": str(index), "seconds": 0.2} for index in range(6)])
    told = probe(aws, queue, Timeout=10)
    told.map(queue.arn, BatchSize=1, ScalingConfig={"MaximumConcurrency": 2})
    told.after(*map(str, range(6)))
    seen = told.invocations()
    at_once = [sum(other["began"] <= each["began"] < other["ended"] for other in seen) for each in seen]
    assert max(at_once) == 2


def test_messages_of_a_group_stay_in_order(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html"""
    queue = Queue(aws, visibility=10, fifo=True)
    told = probe(aws, queue, Timeout=5)
    for turn in range(3):
        for group in ("a", "b"):
            queue.put({"id": f"{group}{turn}", "seconds": 0.05}, group=group)
    told.map(queue.arn, BatchSize=1)
    told.after("a2", "b2")
    seen = told.invocations()
    for group in ("a", "b"):
        mine = [each for each in seen if each["ids"][0].startswith(group)]
        assert [each["ids"][0] for each in mine] == [f"{group}{turn}" for turn in range(3)]
        assert all(one["ended"] <= other["began"] for one, other in pairwise(mine))


def test_a_message_that_does_not_pass_the_filter_is_deleted(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-sqs-filtering.html"""
    queue = Queue(aws)
    told = probe(aws, queue)
    told.map(queue.arn, FilterCriteria={"Filters": [{"Pattern": '{"body": {"kind": ["order"]}}'}]})
    queue.put({"id": "0", "kind": "noise"}, {"id": "1", "kind": "order", "fails": "raise"})
    eventually(queue.left, lambda left: left == 1)  # the one that failed is still there
    assert set(told.ids()) <= {"1"}


@pytest.mark.parametrize("missing", READ_QUEUE)
def test_a_mapping_needs_a_role_that_may_receive(aws: Aws, missing: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html#events-sqs-permissions"""
    queue = Queue(aws)
    told = Probe(aws, allow([each for each in READ_QUEUE if each != missing], queue.arn), Timeout=1)
    with pytest.raises(ClientError, match=f"does not have permissions to call {missing[4:]} on SQS") as refused:
        told.map(queue.arn)
    assert refused.value.response["Error"]["Code"] == "InvalidParameterValueException"


def test_a_role_that_loses_its_permission_stops_the_delivery(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html#events-sqs-permissions"""
    queue, iam = Queue(aws), aws.client("iam")
    told = probe(aws, queue)
    mapping = told.map(queue.arn)
    iam.delete_role_policy(RoleName=f"{told.name}-role", PolicyName="work")
    queue.put("0")
    result = eventually(
        lambda: told.result(mapping),
        lambda result: "sqs:ReceiveMessage" in result.lower() or "receivemessage" in result.lower(),
    )
    assert result.startswith("PROBLEM: ")
    assert (told.ids(), queue.left()) == ([], 1)


def test_a_visibility_timeout_below_the_functions_is_refused(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html"""
    queue = Queue(aws, visibility=10)
    with pytest.raises(ClientError, match="Queue visibility timeout: 10 seconds is less than Function timeout: 11"):
        probe(aws, queue, Timeout=11).map(queue.arn)


def test_a_stream_setting_is_refused(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-parameters.html"""
    queue = Queue(aws)
    with pytest.raises(ClientError, match="Unsupported MaximumRetryAttempts parameter"):
        probe(aws, queue).map(queue.arn, MaximumRetryAttempts=3)


def test_a_disabled_mapping_leaves_the_messages(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/api/API_UpdateEventSourceMapping.html"""
    queue = Queue(aws)
    told = probe(aws, queue)
    mapping = told.map(queue.arn, Enabled=False)
    queue.put("0")
    time.sleep(0.5)
    assert (told.ids(), queue.left()) == ([], 1)
    told.lambda_.update_event_source_mapping(UUID=mapping, Enabled=True)
    told.after("0")
    told.lambda_.delete_event_source_mapping(UUID=mapping)
    time.sleep(0.3)
    queue.put("1")
    time.sleep(0.5)
    assert (told.ids(), queue.left()) == (["0"], 1)
