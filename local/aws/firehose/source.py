"""A Kinesis stream as the source of a Firehose stream.

https://docs.aws.amazon.com/firehose/latest/dev/writing-with-kinesis-streams.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import arrivals, emulator
from local.aws.emulator import AwsError
from local.aws.firehose.access import Identity, Roles
from local.aws.firehose.stages import Pause, Record

ROUND_SECONDS = 1.0
"""Firehose calls GetRecords once a second for each shard."""
_IDLE_SECONDS = 60.0
"""How often it looks without having been told of new records, because an iterator lives for five minutes."""
_LARGEST_BACKLOG_BYTES = 64 * 1024 * 1024
"""Beyond it reading rests: delivery is behind, and the records are safe in the Kinesis stream."""

_ERRORS = {
    "AccessDenied": (
        "Kinesis.AccessDenied",
        "Access was denied when calling Kinesis. Ensure the access policy on the IAM role used allows access to the "
        "appropriate Kinesis APIs.",
    ),
    "ResourceNotFound": (
        "Kinesis.ResourceNotFound",
        "Firehose failed to read from the stream. The stream may not exist, "
        "or the shard may have been merged or split.",
    ),
}


class Reader:
    """Reads everything that came to a stream since ``since``, with the permissions of ``role``, in a thread of its own.

    ``accept`` takes records in the order of their shard; ``backlog`` returns the bytes that are not delivered yet;
    ``report`` is told code and message of a failure. Each shard is read from where it was left, so that nothing is lost
    to a failure or to resharding: a child shard has only records that are younger than ``since``.
    """

    def __init__(
        self,
        identity: Identity,
        stream_arn: str,
        role: str,
        since: datetime,
        accept: Callable[[list[Record]], None],
        backlog: Callable[[], int],
        report: Callable[[Roles, str, str], None],
    ) -> None:
        self._identity = identity
        self._stream_arn = stream_arn
        self._role = role
        self._since = since
        self._accept = accept
        self._backlog = backlog
        self._report = report
        self._roles = Roles(identity.region)
        self._shards: dict[str, str | None] = {}
        """The open shards, each with the sequence number it is read to."""
        self._closed: set[str] = set()
        self._iterators: dict[str, str] = {}
        self._look = threading.Event()
        self._stopped = threading.Event()
        self._list = True

    def start(self) -> None:
        """Begin to read."""
        arrivals.kinesis.subscribe(self._look)
        self._thread = emulator.in_background(self._run, f"firehose-source-{self._identity.name}")

    def stop(self) -> None:
        """Stop reading, and return when the records that were read have been accepted."""
        arrivals.kinesis.unsubscribe(self._look)
        self._stopped.set()
        self._look.set()
        self._thread.join()

    def _run(self) -> None:
        pause = Pause()
        while not self._stopped.is_set():
            self._look.clear()
            try:
                self._read()
            except (AwsError, BotoCoreError, ClientError) as error:
                self._fail(error)
                self._stopped.wait(pause.after_failure())
            else:
                pause.reset()
                self._stopped.wait(ROUND_SECONDS)
                self._look.wait(_IDLE_SECONDS)

    def _fail(self, error: AwsError | BotoCoreError | ClientError) -> None:
        """Report why nothing could be read, and begin the next round with new sessions and iterators."""
        code = "AccessDenied" if isinstance(error, AwsError) else type(error).__name__
        if isinstance(error, ClientError):
            code = error.response["Error"]["Code"]
        code = code.removesuffix("Exception")
        self._report(self._roles, *_ERRORS.get(code, (f"Kinesis.{code}", str(error))))
        self._roles.forget()
        self._iterators.clear()

    def _read(self) -> None:
        kinesis = self._roles.client(self._role, "kinesis")
        while True:
            if self._list:
                self._list_shards(kinesis)
            for shard in list(self._shards):
                self._read_shard(kinesis, shard)
            if not self._list:
                return

    def _list_shards(self, kinesis: Any) -> None:
        # Firehose asks for both; a role that allows only one of them must not work here either.
        kinesis.describe_stream(StreamARN=self._stream_arn)
        for page in kinesis.get_paginator("list_shards").paginate(StreamARN=self._stream_arn):
            for shard in page["Shards"]:
                if shard["ShardId"] not in self._closed:
                    self._shards.setdefault(shard["ShardId"], None)
        self._list = False

    def _read_shard(self, kinesis: Any, shard: str) -> None:
        """Read a shard as far as it goes now; at the end of a closed one, look for its children."""
        while not self._stopped.is_set():
            if self._backlog() >= _LARGEST_BACKLOG_BYTES:
                self._look.set()  # in the next round
                return
            iterator = self._iterators.get(shard) or self._iterator(kinesis, shard)
            answer = kinesis.get_records(ShardIterator=iterator, StreamARN=self._stream_arn)
            records = answer["Records"]
            fresh = [record for record in records if record["ApproximateArrivalTimestamp"] >= self._since]
            if fresh:
                self._accept([_record(record, shard) for record in fresh])
                self._identity.count("DataReadFromKinesisStream.Records", len(fresh))
                read = sum(len(record["Data"]) for record in fresh)
                self._identity.count("DataReadFromKinesisStream.Bytes", read, "Bytes")
            if records:
                self._shards[shard] = records[-1]["SequenceNumber"]
            following = answer.get("NextShardIterator")
            if not following:
                del self._shards[shard]
                self._iterators.pop(shard, None)
                self._closed.add(shard)
                self._list = True
                return
            self._iterators[shard] = following
            if not records:
                return

    def _iterator(self, kinesis: Any, shard: str) -> str:
        position: dict[str, Any] = {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": self._since}
        if sequence := self._shards[shard]:
            position = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": sequence}
        iterator: str = kinesis.get_shard_iterator(StreamARN=self._stream_arn, ShardId=shard, **position)[
            "ShardIterator"
        ]
        return iterator


def _record(record: Any, shard: str) -> Record:
    arrived_at = record["ApproximateArrivalTimestamp"].timestamp()
    return Record(
        id=f"{record['SequenceNumber']}{0:08d}",
        data=record["Data"],
        arrived_at=arrived_at,
        position={
            "shardId": shard,
            "partitionKey": record["PartitionKey"],
            "approximateArrivalTimestamp": int(arrived_at * 1000),
            "sequenceNumber": record["SequenceNumber"],
            "subsequenceNumber": 0,
        },
    )


def now() -> datetime:
    """Return the time as precise as Kinesis tells that of an arrival, which is to the millisecond."""
    return datetime.fromtimestamp(int(time.time() * 1000) / 1000, UTC)
