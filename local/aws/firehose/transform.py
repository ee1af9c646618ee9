"""Transformation of records by a Lambda function.

https://docs.aws.amazon.com/firehose/latest/dev/data-transformation.html
https://docs.aws.amazon.com/firehose/latest/dev/data-transformation-failure-handling.html
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.aws.emulator import AwsError
from local.aws.firehose.access import Identity, Roles
from local.aws.firehose.destination import LAMBDA, Transform
from local.aws.firehose.partitioning import PartitioningError, with_keys
from local.aws.firehose.stages import Pause, Record, failure

ENVELOPE_BYTES = 300
"""What a record's members beside its data add to the payload, at most; with it a batch of 3 MiB stays below the 6 MB of
an invocation."""

PROCESSING_FAILED = "processing-failed"

_ACCESS_DENIED = {"AccessDenied", "AccessDeniedException"}
_CODES = {
    "TooManyRequestsException": "Lambda.InvokeLimitExceeded",
    "ResourceNotFoundException": "Lambda.ResourceNotFound",
}


class InvocationError(Exception):
    """The function was not invoked, failed, or gave no good answer; ``code`` is that of Firehose's error log."""

    def __init__(self, code: str, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.again = again


@dataclass
class Outcome:
    """Transformed records, records that failed as their error documents, and the errors by code."""

    good: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)


def transform(
    batch: Sequence[Record], settings: Transform, role: str, roles: Roles, identity: Identity, source: str | None
) -> Outcome:
    """Send ``batch`` through the function, as often as ``settings`` allow, and sort what comes back.

    ``source`` is the ARN of the Kinesis stream the records are from.
    """
    attempts, pause = 0, Pause()
    while True:
        attempts += 1
        started = time.monotonic()
        try:
            answers = _invoke(_event(batch, identity, source), settings.function, role, roles)
        except InvocationError as error:
            identity.count("ExecuteProcessing.Success", 0)
            roles.forget()
            if error.again and attempts <= settings.retries:
                time.sleep(pause.after_failure())
                continue
            documents = [
                failure(each, PROCESSING_FAILED, attempts, error.code, error.message, lambdaArn=settings.function)
                for each in batch
            ]
            return Outcome(failed=documents, errors={error.code: error.message})
        identity.count("ExecuteProcessing.Success", 1)
        identity.count("ExecuteProcessing.Duration", (time.monotonic() - started) * 1000, "Milliseconds")
        outcome = _sort(batch, answers, attempts, settings.function)
        identity.count("SucceedProcessing.Records", len(outcome.good))
        identity.count("SucceedProcessing.Bytes", sum(len(each.data) for each in outcome.good), "Bytes")
        return outcome


def _event(batch: Sequence[Record], identity: Identity, source: str | None) -> bytes:
    event: dict[str, Any] = {
        "invocationId": str(uuid.uuid4()),
        "deliveryStreamArn": identity.arn,
        "region": identity.region,
        "records": [_event_record(record) for record in batch],
    }
    if source:
        event["sourceKinesisStreamArn"] = source
    return json.dumps(event).encode()


def _event_record(record: Record) -> dict[str, Any]:
    members: dict[str, Any] = {
        "recordId": record.id,
        "approximateArrivalTimestamp": int(record.arrived_at * 1000),
        "data": base64.b64encode(record.data).decode(),
    }
    if record.position:
        members["kinesisRecordMetadata"] = dict(record.position)
    return members


def _invoke(event: bytes, function: str, role: str, roles: Roles) -> list[Any]:
    """Return the records the function answers with.

    Raises:
        InvocationError: see there.
    """
    try:
        answer = roles.client(role, "lambda").invoke(FunctionName=function, Payload=event)
    except AwsError:
        raise InvocationError(
            "Lambda.AssumeRoleAccessDenied",
            "Access was denied. "
            "Ensure that the trust policy for the provided IAM role allows Firehose to assume the role.",
        ) from None
    except BotoCoreError as error:  # no answer within five minutes, for one
        raise InvocationError(f"Lambda.{type(error).__name__}", str(error)) from None
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        if code in _ACCESS_DENIED:
            code, message = (
                "InvokeAccessDenied",
                "Access was denied. Ensure that the access policy allows access to the Lambda function.",
            )
        raise InvocationError(_CODES.get(code, f"Lambda.{code}"), message) from None
    if "FunctionError" in answer:
        raise InvocationError(
            "Lambda.FunctionError", "The Lambda function was successfully invoked but it returned an error result."
        )
    try:
        answered = json.loads(answer["Payload"].read())
        records = answered["records"]
        if not all(isinstance(each["recordId"], str) for each in records):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise InvocationError(
            "Lambda.JsonProcessingException",
            "There was an error parsing returned records from the Lambda function. "
            "Ensure that the returned records follow the status model required by Firehose.",
            again=False,
        ) from None
    return list(records)


def _sort(batch: Sequence[Record], answers: list[Any], attempts: int, function: str) -> Outcome:
    """Decide on every record of ``batch`` by the answers that carry its id."""
    times_named = Counter(answer["recordId"] for answer in answers)
    by_id = {answer["recordId"]: answer for answer in answers}
    outcome = Outcome()
    for record in batch:
        answer = by_id.get(record.id)
        if answer and times_named[record.id] == 1 and answer.get("result") == "Dropped":
            continue
        try:
            data = _transformed(record, answer, times_named[record.id])
        except InvocationError as error:
            outcome.errors[error.code] = error.message
            outcome.failed.append(
                failure(record, PROCESSING_FAILED, attempts, error.code, error.message, lambdaArn=function)
            )
        else:
            outcome.good.append(data)
    return outcome


def _transformed(record: Record, answer: dict[str, Any] | None, times_named: int) -> Record:
    """Return ``record`` with the data and the partition keys of ``answer``.

    https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-partitioning-keys.html

    Raises:
        InvocationError: the answer says that it failed, or is none.
    """
    if answer is None:
        raise InvocationError(
            "Lambda.MissingRecordId",
            "One or more record Ids were not returned. "
            "Ensure that the Lambda function returns all received record Ids.",
        )
    if times_named > 1:
        raise InvocationError(
            "Lambda.DuplicatedRecordId",
            "Multiple records were returned with the same record Id. "
            "Ensure that the Lambda function returns unique record Ids for each record.",
        )
    if answer.get("result") == "ProcessingFailed":
        raise InvocationError("Lambda.ProcessingFailedStatus", "ProcessingFailed status set for record")
    try:
        if answer.get("result") != "Ok":
            raise ValueError
        keys = (answer.get("metadata") or {}).get("partitionKeys") or {}
        return with_keys(replace(record, data=base64.b64decode(answer["data"], validate=True)), LAMBDA, keys)
    except PartitioningError as error:
        raise InvocationError("DynamicPartitioning.MetadataExtractionFailed", str(error)) from None
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise InvocationError(
            "Lambda.InvalidReturnFormat",
            "A returned record must have a result of Ok, Dropped or ProcessingFailed, and base64 data if it is Ok.",
        ) from None
