"""The two stages of a pipe: the enrichment, which answers, and the target, which gets the batch.

https://docs.aws.amazon.com/eventbridge/latest/userguide/pipes-enrichment.html
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-event-target.html
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from local.aws import targets
from local.aws.pipes.payload import Item, StageError, array, dynamic

Parameters = Mapping[str, Any]
Client = Callable[[str], Any]
"""Gives the client of a service that acts with the pipe's role."""

FAILURES = "batchItemFailures"


def call(client: Client, arn: str, texts: Sequence[str], *, wait: bool) -> Any:
    """Invoke the function or run the workflow ``arn`` with a batch; return its answer, None if it is not waited for.

    Raises:
        StageError: it failed.
        AwsError, BotoCoreError, ClientError: it could not be called.
    """
    if arn.split(":")[2] == "lambda":
        kind = "RequestResponse" if wait else "Event"
        answer = client("lambda").invoke(FunctionName=arn, InvocationType=kind, Payload=array(texts))
        body = answer["Payload"].read()
        if answer.get("FunctionError"):
            raise StageError(f"{arn} failed: {body.decode()}")
        return json.loads(body) if body else None
    workflows, given = client("stepfunctions"), array(texts).decode()
    if not wait:
        workflows.start_execution(stateMachineArn=arn, input=given)
        return None
    answer = workflows.start_sync_execution(stateMachineArn=arn, input=given)
    if answer["status"] != "SUCCEEDED":
        raise StageError(f"{arn} ended {answer['status']}: {answer.get('error')}: {answer.get('cause')}")
    return json.loads(answer["output"])


def enriched(answer: Any) -> list[Item]:
    """Return the events that an enrichment answered with; for none of them is the target called."""
    if isinstance(answer, list):
        return answer
    return [] if answer in (None, "", {}) else [answer]


def deliver(
    client: Client, name: str, arn: str, parameters: Parameters, items: Sequence[Item], texts: Sequence[str]
) -> set[int] | Any:
    """Send a batch, ``texts`` of ``items``, to the target ``arn`` of the pipe ``name``.

    Return the positions of those that the target refused, or the answer of a function or workflow.

    Raises:
        StageError: all of it was refused.
        AwsError, BotoCoreError, ClientError: the target could not be called.
    """
    service = arn.split(":")[2]
    if service in {"lambda", "states"}:
        member = "LambdaFunctionParameters" if service == "lambda" else "StepFunctionStateMachineParameters"
        default = "REQUEST_RESPONSE" if service == "lambda" else "FIRE_AND_FORGET"
        kind = (parameters.get(member) or {}).get("InvocationType") or default
        return call(client, arn, texts, wait=kind == "REQUEST_RESPONSE")
    return _SENDERS[service](client, name, arn, parameters, items, texts)


def _queue(
    client: Client, name: str, arn: str, parameters: Parameters, items: Sequence[Item], texts: Sequence[str]
) -> set[int]:
    given = parameters.get("SqsQueueParameters") or {}
    entries = [
        {"Id": str(index), "MessageBody": body, **{member: dynamic(value, item) for member, value in given.items()}}
        for index, (item, body) in enumerate(zip(items, texts, strict=True))
    ]
    answer = client("sqs").send_message_batch(QueueUrl=targets.queue_url(arn), Entries=entries)
    return {int(each["Id"]) for each in answer.get("Failed", [])}


def _topic(
    client: Client, name: str, arn: str, parameters: Parameters, items: Sequence[Item], texts: Sequence[str]
) -> set[int]:
    entries = [{"Id": str(index), "Message": body} for index, body in enumerate(texts)]
    answer = client("sns").publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries)
    return {int(each["Id"]) for each in answer.get("Failed", [])}


def _stream(
    client: Client, name: str, arn: str, parameters: Parameters, items: Sequence[Item], texts: Sequence[str]
) -> set[int]:
    key = parameters["KinesisStreamParameters"]["PartitionKey"]
    records = [
        {"Data": body.encode(), "PartitionKey": dynamic(key, item)} for item, body in zip(items, texts, strict=True)
    ]
    return _refused(client("kinesis").put_records(StreamARN=arn, Records=records)["Records"])


def _firehose(
    client: Client, name: str, arn: str, parameters: Parameters, items: Sequence[Item], texts: Sequence[str]
) -> set[int]:
    records = [{"Data": body.encode()} for body in texts]
    answer = client("firehose").put_record_batch(DeliveryStreamName=arn.rpartition("/")[2], Records=records)
    return _refused(answer["RequestResponses"])


def _bus(
    client: Client, name: str, arn: str, parameters: Parameters, items: Sequence[Item], texts: Sequence[str]
) -> set[int]:
    given = parameters.get("EventBridgeEventBusParameters") or {}
    entries = [
        {
            "EventBusName": arn,
            "Detail": body,
            "DetailType": dynamic(given.get("DetailType"), item) or f"Event from {_origin(item)}",
            "Source": dynamic(given.get("Source"), item) or f"Pipe {name}",
            "Resources": dynamic(given.get("Resources") or [], item),
            **({"Time": dynamic(given["Time"], item)} if given.get("Time") else {}),
        }
        for item, body in zip(items, texts, strict=True)
    ]
    return _refused(client("events").put_events(Entries=entries)["Entries"])


def _origin(item: Item) -> str:
    return str(item.get("eventSource", "")) if isinstance(item, dict) else ""


def _logs(
    client: Client, name: str, arn: str, parameters: Parameters, items: Sequence[Item], texts: Sequence[str]
) -> set[int]:
    given = parameters.get("CloudWatchLogsParameters") or {}
    stream = given.get("LogStreamName") or uuid.uuid5(uuid.NAMESPACE_URL, f"{arn} {name}").hex
    group = arn.partition(":log-group:")[2].partition(":")[0]
    at = given.get("Timestamp")
    times = [int(dynamic(at, item)) / 1000 if at else time.time() for item in items]
    targets.log(client("logs"), group, stream, sorted(zip(times, texts, strict=True)))
    return set()


def _refused(answers: Sequence[Mapping[str, Any]]) -> set[int]:
    """Return the positions of the entries of a batch call's answer that have an error."""
    return {index for index, answer in enumerate(answers) if answer.get("ErrorCode")}


_SENDERS: Mapping[str, Callable[[Client, str, str, Parameters, Sequence[Item], Sequence[str]], set[int]]] = {
    "events": _bus,
    "firehose": _firehose,
    "kinesis": _stream,
    "logs": _logs,
    "sns": _topic,
    "sqs": _queue,
}

MOST: Mapping[str, int] = {"events": 10, "firehose": 500, "kinesis": 500, "sns": 10, "sqs": 10}
"""Events in a batch of each target, 10,000 for others:
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-batching-concurrency.html"""
