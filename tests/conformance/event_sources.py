"""A function that tells in its log what it was invoked with, for the tests of event source mappings."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from copy import copy
from typing import Any, TypeVar

from tests.conformance.test_iam import unique
from tests.conformance.test_lambda import pending_function
from tests.conftest import Aws

SOURCE = """
import base64, json, os, time

def payload(record):
    if "kinesis" in record:
        return json.loads(base64.b64decode(record["kinesis"]["data"])), record["kinesis"]["sequenceNumber"]
    if "dynamodb" in record:
        item = record["dynamodb"].get("NewImage") or record["dynamodb"]["OldImage"]
        return {name: list(value.values())[0] for name, value in item.items()}, record["dynamodb"]["SequenceNumber"]
    return json.loads(record["body"]), record["messageId"]

def first_time(row):
    if os.path.exists(row["mark"]):
        return False
    open(row["mark"], "w").close()
    return True

def handler(event, context):
    began, rows = time.time(), [payload(record) for record in event["Records"]]
    failed, answer = [], None
    for row, position in rows:
        time.sleep(float(row.get("seconds", 0)))
        if row.get("fails") == "item" or row.get("fails") == "once" and first_time(row):
            failed.append({"itemIdentifier": position})
        if row.get("fails") == "nonsense":
            answer = {"batchItemFailures": [{"itemIdentifier": ""}]}
    told = {"began": began, "ended": time.time(), "ids": [row["id"] for row, _ in rows], "worker": os.getpid()}
    print("SEEN " + json.dumps({**told, "event": event["Records"][0]}), flush=True)
    for row, _ in rows:
        if row.get("fails") == "raise":
            raise ValueError(row["id"])
        if row.get("fails") == "die" and first_time(row):
            os._exit(1)
    return answer or {"batchItemFailures": failed}
"""

READ_STREAM = ["kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:DescribeStream", "kinesis:ListShards"]
READ_CHANGES = ["dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:DescribeStream"]
READ_QUEUE = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]

T = TypeVar("T")


def eventually(look: Callable[[], T], enough: Callable[[T], bool] = bool, seconds: float = 15.0) -> T:
    """Return what ``look`` brings once it is ``enough``."""
    deadline = time.monotonic() + seconds
    while not enough(found := look()):
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.05)
    return found


class Probe:
    """The function, its mappings, and its invocations in the order of their beginnings."""

    def __init__(self, aws: Aws, *statements: dict[str, Any], **options: Any) -> None:
        self.name = unique("probe")
        self._source = ""
        self.lambda_ = aws.client("lambda")
        self._logs = aws.client("logs")
        self.arn = pending_function(aws, self.name, SOURCE, *statements, **options)

    def of(self, source: str) -> Probe:
        """Return a view of the invocations with records of ``source`` only, for a function that several tests share."""
        view = copy(self)
        view._source = source
        return view

    def map(self, source: str, **settings: Any) -> str:
        """Map the source with the ARN ``source`` to the function and return the mapping's id."""
        answer = self.lambda_.create_event_source_mapping(FunctionName=self.name, EventSourceArn=source, **settings)
        return str(answer["UUID"])

    def result(self, mapping: str) -> str:
        """Return the mapping's LastProcessingResult."""
        return str(self.lambda_.get_event_source_mapping(UUID=mapping)["LastProcessingResult"])

    def invocations(self) -> list[dict[str, Any]]:
        """Return what the function has told so far, also of invocations that failed."""
        group = f"/aws/lambda/{self.name}"
        try:
            lines = self._logs.filter_log_events(logGroupName=group, filterPattern='"SEEN "')["events"]
        except self._logs.exceptions.ResourceNotFoundException:
            return []
        seen = [json.loads(line["message"].partition("SEEN ")[2].splitlines()[0]) for line in lines]
        mine = [each for each in seen if self._source in {"", each["event"]["eventSourceARN"]}]
        return sorted(mine, key=lambda each: float(each["began"]))

    def batches(self) -> list[list[str]]:
        """Return the ids of the records of each invocation."""
        return [each["ids"] for each in self.invocations()]

    def ids(self) -> list[str]:
        """Return the ids of all records of all invocations."""
        return [each for batch in self.batches() for each in batch]

    def after(self, *ids: str) -> list[list[str]]:
        """Return the batches once all of ``ids`` have been seen."""
        eventually(self.ids, lambda found: set(ids) <= set(found))
        return self.batches()
