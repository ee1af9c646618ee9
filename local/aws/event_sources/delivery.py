"""One batch of a stream's records on its way to the function, until each is processed or discarded.

https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-create.html
https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import emulator
from local.aws.event_sources.mapping import Answer, Mapping, failed_items, pause
from local.aws.event_sources.streams import Record
from local.aws.event_sources.windows import Window

_log = logging.getLogger(__name__)
_sqs = emulator.module("services.sqs")


@dataclass(frozen=True)
class _Batch:
    """Records in order, and how often exactly these have been tried."""

    records: Sequence[Record]
    attempts: int = 0
    last: Answer | None = None


class Delivery:
    """Takes the batches of one part of a shard to the function, one after the other."""

    def __init__(self, mapping: Mapping, batch_info: str, shard: str, stopped: threading.Event) -> None:
        self._mapping = mapping
        self._batch_info = batch_info
        self._shard = shard
        self._stopped = stopped

    def deliver(self, records: Sequence[Record], window: Window | None = None) -> list[Record]:
        """Deliver ``records`` in order; return those that were left when the mapping stopped, normally none.

        ``window`` is the tumbling window of all of them, whose state the function's responses replace.
        """
        waiting = [_Batch(records)]
        refusals = 0
        while waiting:
            if self._stopped.is_set():
                return [record for batch in waiting for record in batch.records]
            batch = self._without_old(waiting.pop(0))
            if not batch.records:
                continue
            age = max(0.0, time.time() - batch.records[-1].arrived)
            self._mapping.measure("IteratorAge", age * 1000, "Milliseconds")
            answer = self._invoke(batch.records, window)
            if answer.refusal:
                # Throttled, or the service failed: this counts as no attempt, only the records' age ends it.
                self._mapping.report(f"PROBLEM: {answer.refusal}")
                waiting.insert(0, batch)
                self._stopped.wait(pause(refusals))
                refusals += 1
                continue
            refusals = 0
            failed = self._failed(answer, batch.records)
            if not failed:
                self._mapping.report("OK")
                continue
            self._mapping.report("PROBLEM: Function call failed")
            waiting[:0] = self._retries(batch, failed, answer)
        return []

    def close(self, window: Window, *, early: bool = False) -> bool:
        """Let the function make its result of ``window``; return whether that is done, or given up.

        It is tried again as often as a batch is.
        """
        attempts = refusals = 0
        while not self._stopped.is_set():
            members = window.members(self._shard, self._mapping.source, final=True, early=early)
            answer = self._mapping.invoke_window([], members)
            if answer.refusal:
                self._mapping.report(f"PROBLEM: {answer.refusal}")
                self._stopped.wait(pause(refusals))
                refusals += 1
            elif not answer.error:
                self._mapping.report("OK")
                return True
            else:
                self._mapping.report("PROBLEM: Function call failed")
                attempts += 1
                if 0 <= self._mapping.number("MaximumRetryAttempts", -1) < attempts:
                    return True
                self._stopped.wait(pause(attempts - 1))
        return False

    def _invoke(self, records: Sequence[Record], window: Window | None) -> Answer:
        events = [record.event for record in records]
        if window is None:
            return self._mapping.invoke(events)
        answer = self._mapping.invoke_window(events, window.members(self._shard, self._mapping.source))
        if not answer.error and not answer.refusal:
            window.state = answer.response["state"]
            # What is too large is handed over at once, and the window goes on with an empty state.
            if window.full and self.close(window, early=True):
                window.state = {}
        return answer

    def _failed(self, answer: Answer, records: Sequence[Record]) -> Sequence[Record]:
        """Return the records to try again: all from the first that failed, because the others keep their order."""
        if answer.error:
            return records
        if not self._mapping.reports_failures:
            return []
        named = failed_items(answer.response, {record.sequence for record in records})
        first = next((index for index, record in enumerate(records) if record.sequence in named), len(records))
        return records[first:]

    def _retries(self, batch: _Batch, failed: Sequence[Record], answer: Answer) -> list[_Batch]:
        """Return what is tried next of a batch that failed.

        With BisectBatchOnFunctionError it is cut, at the first record that the response names or in the middle,
        which is no retry; otherwise the retry is counted, and after the last one the records are discarded.
        """
        if self._mapping.flag("BisectBatchOnFunctionError") and len(batch.records) > 1:
            if len(failed) < len(batch.records):
                return [_Batch(failed, batch.attempts, answer)]
            middle = (len(failed) + 1) // 2
            return [_Batch(part, batch.attempts, answer) for part in (failed[:middle], failed[middle:])]
        attempts, most = batch.attempts + 1, self._mapping.number("MaximumRetryAttempts", -1)
        if 0 <= most < attempts:
            self._discard(_Batch(failed, attempts, answer), "RetryAttemptsExhausted")
            return []
        self._stopped.wait(pause(batch.attempts))
        return [_Batch(failed, attempts, answer)]

    def _without_old(self, batch: _Batch) -> _Batch:
        most = self._mapping.number("MaximumRecordAgeInSeconds", -1)
        if most < 0:
            return batch
        oldest = time.time() - most
        fresh = [record for record in batch.records if record.arrived >= oldest]
        old = [record for record in batch.records if record.arrived < oldest]
        if old:
            self._discard(_Batch(old, batch.attempts, batch.last), "RecordAgeExceeded")
        return _Batch(fresh, batch.attempts, batch.last)

    # --- Discarded records ---------------------------------------------------------------------------------------

    def _discard(self, batch: _Batch, condition: str) -> None:
        """Send a record of ``batch`` to the destination, if there is one. What fails here is lost, as on AWS."""
        arn = self._mapping.destination
        if not arn:
            return
        now = datetime.now(UTC)
        document = self._document(batch, condition, now)
        try:
            self._send(arn, document, batch, now)
        except (ClientError, BotoCoreError, emulator.AwsError) as error:
            _log.exception("A discarded batch of %s did not reach %s", self._mapping.function, arn)
            self._mapping.report_error(error)
            self._mapping.measure("DestinationDeliveryFailures", 1, "Count")

    def _document(self, batch: _Batch, condition: str, now: datetime) -> dict[str, Any]:
        first, last = batch.records[0], batch.records[-1]
        return {
            **self._mapping.failure(condition, batch.attempts, batch.last),
            "version": "1.0",
            "timestamp": _iso(now),
            self._batch_info: {
                "shardId": self._shard,
                "startSequenceNumber": first.sequence,
                "endSequenceNumber": last.sequence,
                "approximateArrivalOfFirstRecord": _iso(datetime.fromtimestamp(first.arrived, UTC)),
                "approximateArrivalOfLastRecord": _iso(datetime.fromtimestamp(last.arrived, UTC)),
                "batchSize": len(batch.records),
                "streamArn": self._mapping.source,
            },
        }

    def _send(self, arn: str, document: dict[str, Any], batch: _Batch, now: datetime) -> None:
        """Queues and topics get the description; a bucket gets the records, too."""
        service = arn.split(":")[2]
        if service == "sqs":
            self._mapping.client("sqs").send_message(
                QueueUrl=_sqs._queue_url(arn.rpartition(":")[2]), MessageBody=json.dumps(document)
            )
        elif service == "sns":
            self._mapping.client("sns").publish(TopicArn=arn, Message=json.dumps(document))
        else:
            payload = json.dumps({"Records": [record.event for record in batch.records]})
            self._mapping.client("s3").put_object(
                Bucket=arn.rpartition(":")[2],
                Key=f"aws/lambda/{self._mapping.uuid}/{self._shard}/{now:%Y/%m/%d/%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}",
                Body=json.dumps({**document, "payload": payload}).encode(),
            )


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
