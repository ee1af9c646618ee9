"""Where a load goes: a Kinesis stream, an SQS queue, a folder of a bucket.

A sink sends in batches, sends again what a batch answer refuses entry by entry, and gives up only when nothing has been
accepted for ``PATIENCE_SECONDS``: a partial failure is normal, losing an event is not. An entry that is sent again may
arrive behind a later one of the same key, and one whose answer got lost arrives twice.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from airflow.providers.amazon.aws.hooks.kinesis import KinesisHook
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sqs import SqsHook

from atlas.loadgen.disturb import Event

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0

KINESIS_RECORDS = 500
KINESIS_BYTES = 10 * 2**20
"""Records and bytes, partition keys included, in a PutRecords call
(https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html)."""

SQS_MESSAGES = 10
SQS_BYTES = 2**20
"""Messages and bytes in a SendMessageBatch call
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html)."""

SQS_CALLS_AT_ONCE = 8
"""A standard queue keeps no order, and a call of ten messages is mostly waiting."""


@dataclass
class Shard:
    """The largest sequence number a shard gave, as text (they exceed 128 bits), and how many records it got."""

    last: str = "0"
    records: int = 0

    def add(self, sequence: str, records: int = 1) -> None:
        """Count ``records`` up to ``sequence``; the numbers of one shard grow, the answers' order does not show it."""
        self.last = max(self.last, sequence, key=int)
        self.records += records


@dataclass
class Sent:
    """What was accepted: ``records`` in all, ``retried`` entries sent again, ``shards`` of a stream.

    ``malformed_again`` of the damaged events may lie in the stream once more: the SDK repeated their call, perhaps
    because its answer was lost, and then each of them is a record of its own again.
    """

    records: int = 0
    retried: int = 0
    malformed_again: int = 0
    shards: dict[str, Shard] = field(default_factory=dict)

    def add(self, other: Sent) -> None:
        """Add what another call sent."""
        self.records += other.records
        self.retried += other.retried
        self.malformed_again += other.malformed_again
        for shard_id, shard in other.shards.items():
            self.shards.setdefault(shard_id, Shard()).add(shard.last, shard.records)


class Sink(Protocol):
    """Takes events and says what became of them."""

    def send(self, events: Sequence[Event]) -> Sent:
        """Send ``events`` and return when all of them are accepted.

        Raises:
            ValueError: an event can never be accepted; says why.
            TimeoutError: nothing was accepted for ``PATIENCE_SECONDS``; names the last refusals.
        """


class KinesisSink:
    """Puts records on a Kinesis data stream; events of one key go to one shard.

    Args:
        stream: name of the stream.
    """

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self._client: Any = KinesisHook().get_conn()

    def send(self, events: Sequence[Event]) -> Sent:
        """Send ``events`` in order, 500 at a time; see :class:`Sink`."""
        sent = Sent()
        for batch in _batches(events, KINESIS_RECORDS, KINESIS_BYTES, lambda e: len(e.data) + len(e.key.encode())):
            sent.retried += _until_accepted(batch, lambda left: self._put(left, sent))
        return sent

    def _put(self, events: Sequence[Event], sent: Sent) -> Mapping[int, str]:
        records = [{"Data": event.data, "PartitionKey": event.key} for event in events]
        answer = self._client.put_records(StreamName=self.stream, Records=records)
        repetitions = answer["ResponseMetadata"]["RetryAttempts"]
        sent.malformed_again += repetitions * sum(event.malformed for event in events)
        refused = {}
        for index, record in enumerate(answer["Records"]):
            if "ErrorCode" in record:
                refused[index] = record["ErrorCode"]
            else:
                sent.records += 1
                sent.shards.setdefault(record["ShardId"], Shard()).add(record["SequenceNumber"])
        return refused


class SqsSink:
    """Sends messages to an SQS queue.

    In a FIFO queue the key is the message group and equal messages of five minutes count as one.

    Args:
        url: of the queue.
        fifo: whether it is a FIFO queue.
    """

    def __init__(self, url: str, fifo: bool = False) -> None:
        self.url = url
        self.fifo = fifo
        self._client: Any = SqsHook().get_conn()

    def send(self, events: Sequence[Event]) -> Sent:
        """Send ``events``, in order where the queue keeps one; see :class:`Sink`.

        A message is text: bytes that are not UTF-8 arrive as replacement characters.
        """
        entries = [self._entry(event) for event in events]
        batches = _batches(entries, SQS_MESSAGES, SQS_BYTES, lambda entry: len(entry["MessageBody"].encode()))
        with ThreadPoolExecutor(1 if self.fifo else SQS_CALLS_AT_ONCE) as pool:
            retried = sum(pool.map(lambda batch: _until_accepted(batch, self._put), batches))
        return Sent(records=len(entries), retried=retried)

    def _entry(self, event: Event) -> dict[str, str]:
        body = event.data.decode("utf-8", "replace")
        if not self.fifo:
            return {"MessageBody": body}
        # Of the content, not of the event: a damaged copy must get through.
        content = hashlib.sha256(event.data).hexdigest()
        return {"MessageBody": body, "MessageGroupId": event.key, "MessageDeduplicationId": content}

    def _put(self, entries: Sequence[dict[str, str]]) -> Mapping[int, str]:
        batch = [{"Id": str(index), **entry} for index, entry in enumerate(entries)]
        failed = self._client.send_message_batch(QueueUrl=self.url, Entries=batch).get("Failed", [])
        for entry in failed:
            if entry["SenderFault"]:
                raise ValueError(f"{self.url} will never accept a message: {entry['Code']}: {entry.get('Message', '')}")
        return {int(entry["Id"]): entry["Code"] for entry in failed}


class S3Sink:
    """Writes JSON Lines objects ``<prefix>/part-00000.jsonl`` and on, one per call.

    The same events in the same calls give the same objects, so a load that is sent again replaces itself.

    Args:
        bucket: name of the bucket.
        prefix: without a trailing slash.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._parts = 0
        self._s3 = S3Hook()

    def send(self, events: Sequence[Event]) -> Sent:
        """Write ``events`` as one object; see :class:`Sink`."""
        content = b"".join(event.data + b"\n" for event in events)
        self._s3.load_bytes(content, f"{self.prefix}/part-{self._parts:05d}.jsonl", self.bucket, replace=True)
        self._parts += 1
        return Sent(records=len(events))


def _batches(items: Iterable[T], most: int, most_bytes: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield ``items`` in lists of at most ``most`` that together have at most ``most_bytes``."""
    batch: list[T] = []
    filled = 0
    for item in items:
        needed = size(item)
        if needed > most_bytes:
            raise ValueError(f"An event of {needed} bytes is larger than a call may be ({most_bytes} bytes)")
        if batch and (len(batch) == most or filled + needed > most_bytes):
            yield batch
            batch, filled = [], 0
        batch.append(item)
        filled += needed
    if batch:
        yield batch


def _until_accepted(entries: Sequence[T], put: Callable[[Sequence[T]], Mapping[int, str]]) -> int:
    """Call ``put``, which returns what it refused (index and reason), until nothing is left; returns the retries."""
    retried = 0
    pause = FIRST_PAUSE_SECONDS
    patience = time.monotonic() + PATIENCE_SECONDS
    while refused := put(entries):
        if len(refused) < len(entries):
            pause, patience = FIRST_PAUSE_SECONDS, time.monotonic() + PATIENCE_SECONDS
        elif time.monotonic() > patience:
            reasons = ", ".join(sorted(set(refused.values())))
            raise TimeoutError(f"{len(entries)} entries were refused for {PATIENCE_SECONDS:.0f} seconds: {reasons}")
        entries = [entries[index] for index in sorted(refused)]
        retried += len(entries)
        # Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
        time.sleep(random.uniform(0, pause))  # noqa: S311
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    return retried
