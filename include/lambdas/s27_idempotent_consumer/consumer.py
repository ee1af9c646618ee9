"""What all strategies share: reading a batch, setting aside what must have no effect, measuring, acknowledging."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import boto3
import ledger
import msgspec
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from contract import PAYMENT, Payment

from exactly_once.contracts import Malformed
from exactly_once.faults import crash
from exactly_once.quarantine import Quarantine

BATCH_SIZE = 10
"""Messages an invocation gets at most, as the template has it."""

STRATEGY = os.environ["STRATEGY"]
BUCKET = os.environ["QUARANTINE_BUCKET"]
PREFIX = f"{os.environ['QUARANTINE_PREFIX']}/{STRATEGY}"
MEASURES = os.environ["MEASURES_PREFIX"]

_logger = Logger()
_s3 = boto3.client("s3")
_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

Capture = Callable[[Payment], bool]
"""Has the effect of a payment, or finds that it was there; returns whether it was the first time."""


def consume(event: dict[str, Any], context: Any, capture: Capture) -> dict[str, Any]:
    """Consume a batch of an SQS queue and return which messages are to come again.

    One object per invocation, ``<measures prefix>/<strategy>/<request id>.jsonl``, says of each message what became of
    it (``outcome``), how long it took (``milliseconds``) and what DynamoDB charged (``requests``, ``read_units``,
    ``write_units``).
    """
    measures: list[dict[str, Any]] = []

    def message(record: SQSRecord) -> None:
        ledger.meter.reset()
        started = time.perf_counter()
        outcome = "failed"
        try:
            outcome = _outcome(record, capture)
        except Exception:
            _logger.exception("A message comes again", message_id=record.message_id)
            raise
        finally:
            milliseconds = 1000 * (time.perf_counter() - started)
            measures.append({"outcome": outcome, "milliseconds": milliseconds, **asdict(ledger.meter.cost)})

    answer = process_partial_response(event, message, _processor, context)
    _s3.put_object(
        Bucket=BUCKET,
        Key=f"{MEASURES}/{STRATEGY}/{context.aws_request_id}.jsonl",
        Body=b"\n".join(map(msgspec.json.encode, measures)),
    )
    _logger.info("Batch consumed", outcomes=[measure["outcome"] for measure in measures])
    crash("acknowledgement")
    return dict(answer)


def _outcome(record: SQSRecord, capture: Capture) -> str:
    """Consume one message; return ``applied``, ``duplicate``, ``malformed``, ``expired`` or ``tampered``."""
    data = record.body.encode()
    try:
        payment = PAYMENT.decode(data)
    except Malformed as malformed:
        return _set_aside(record, data, "malformed", malformed.reason)
    if payment.is_expired():
        return _set_aside(record, data, "expired", "expired")
    try:
        return "applied" if capture(payment) else "duplicate"
    except ledger.TamperedError:
        return _set_aside(record, data, "tampered", "tampered")


def _set_aside(record: SQSRecord, data: bytes, outcome: str, reason: str) -> str:
    queue = record.event_source_arn.rsplit(":", 1)[-1]
    arrived_at = int(record.attributes.sent_timestamp) / 1000
    Quarantine(BUCKET, PREFIX, queue, _s3).put(record.message_id, data, reason, arrived_at=arrived_at)
    return outcome
