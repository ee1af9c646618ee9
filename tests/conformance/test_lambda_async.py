"""Asynchronous invocations of functions: retries, destinations and dead letters, with the role's permissions."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from tests.conformance.event_sources import eventually
from tests.conformance.event_targets import bodies, messages, place, total
from tests.conformance.test_firehose import may
from tests.conformance.test_iam import allow, unique
from tests.conformance.test_lambda import pending_function
from tests.conformance.test_stepfunctions import queue, queue_arn
from tests.conftest import Aws

FAILS_IF_ASKED = """
def handler(event, context):
    if event.get("fails"):
        raise ValueError("as asked")
    return {"done": event["id"]}
"""


class Function:
    """A function that is invoked asynchronously, whose role may do nothing at first."""

    def __init__(self, aws: Aws, **options: Any) -> None:
        self.aws, self.client, self.name = aws, aws.client("lambda"), unique("async")
        self.arn = pending_function(aws, self.name, FAILS_IF_ASKED, **options)

    def configure(self, destinations: dict[str, str], retries: int = 0) -> None:
        """Set the destinations, OnSuccess and OnFailure, by ARN and the retries."""
        config = {name: {"Destination": destination} for name, destination in destinations.items()}
        self.client.put_function_event_invoke_config(
            FunctionName=self.name, MaximumRetryAttempts=retries, DestinationConfig=config
        )

    def may(self, *statements: dict[str, Any]) -> None:
        may(self.aws, f"{self.name}-role", *statements)

    def invoke(self, **event: Any) -> str:
        """Invoke the function with a new id and return the id."""
        event["id"] = uuid.uuid4().hex
        self.client.invoke(FunctionName=self.name, InvocationType="Event", Payload=json.dumps(event))
        return str(event["id"])

    def total(self, metric: str) -> float:
        return total(self.aws, "AWS/Lambda", metric, FunctionName=self.name)


@pytest.fixture(scope="module")
def shared(aws: Aws) -> Function:
    return Function(aws)


@pytest.mark.parametrize(
    ("member", "kind"),
    [("OnFailure", kind) for kind in ("events", "lambda", "s3", "sns", "sqs")]
    + [("OnSuccess", kind) for kind in ("events", "lambda", "sns", "sqs")],
)
def test_a_destination_gets_the_record_if_the_role_may_send_it(
    aws: Aws, shared: Function, member: str, kind: str
) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html"""
    target, fails = place(aws, kind), member == "OnFailure"
    shared.may(allow("iot:Publish", "*"))
    shared.configure({member: target.arn})
    lost = shared.total("DestinationDeliveryFailures")
    shared.invoke(fails=fails)
    eventually(lambda: shared.total("DestinationDeliveryFailures") == lost + 1)
    shared.may(target.statement)
    sent = shared.invoke(fails=fails)
    (text,) = eventually(target.read)
    record = json.loads(text)
    if kind == "events":
        outcome = member.removeprefix("On")
        assert (record["source"], record["detail-type"]) == ("lambda", f"Lambda Function Invocation Result - {outcome}")
        record = record["detail"]
    assert record["requestPayload"] == {"id": sent, "fails": fails}
    assert record["requestContext"].pop("requestId")
    assert record["requestContext"] == {
        "functionArn": f"{shared.arn}:$LATEST",
        "condition": "RetriesExhausted" if fails else "Success",
        "approximateInvokeCount": 1,
    }
    assert record["responseContext"].get("functionError") == ("Unhandled" if fails else None)
    if fails:
        assert record["responsePayload"]["errorType"] == "ValueError"
    else:
        assert record["responsePayload"] == {"done": sent}


@pytest.mark.parametrize("kind", ["sns", "sqs"])
def test_a_dead_letter_is_kept_if_the_role_may_send_it(aws: Aws, kind: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html#invocation-dlq"""
    target = place(aws, kind)
    function = Function(aws, DeadLetterConfig={"TargetArn": target.arn})
    function.configure({})
    function.invoke(fails=True)
    eventually(lambda: function.total("DeadLetterErrors") == 1)
    function.may(target.statement)
    sent = function.invoke(fails=True)
    (text,) = eventually(target.read)
    assert json.loads(text) == {"id": sent, "fails": True}


def test_a_failed_event_is_tried_again_and_then_described_and_kept(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html"""
    letters, records = queue(aws), queue(aws)
    function = Function(aws, DeadLetterConfig={"TargetArn": queue_arn(letters)})
    function.may(allow("sqs:SendMessage", [queue_arn(letters), queue_arn(records)]))
    function.configure({"OnFailure": queue_arn(records)}, retries=1)
    function.invoke(fails=True)
    (letter,) = eventually(lambda: messages(aws, letters))
    attributes = {name: value["StringValue"] for name, value in letter["MessageAttributes"].items()}
    assert attributes.pop("RequestID")
    assert attributes == {"ErrorCode": "200", "ErrorMessage": "as asked"}
    (record,) = bodies(aws, records)
    assert json.loads(record)["requestContext"]["approximateInvokeCount"] == 2
