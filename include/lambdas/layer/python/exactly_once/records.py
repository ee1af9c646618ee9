"""Kinesis records as a Lambda event carries them."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Mapping
from typing import Any, NamedTuple


class Record(NamedTuple):
    """One record of a shard; ``arrived_at`` is its approximate arrival in epoch seconds."""

    data: bytes
    shard: str
    sequence: str
    partition_key: str
    arrived_at: float
    stream_arn: str

    @property
    def stream(self) -> str:
        """Return the stream's name."""
        return self.stream_arn.rpartition("/")[2]


def read(event: Mapping[str, Any]) -> list[Record]:
    """Return a Kinesis event's records, in the order of their shard.

    https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html

    Raises:
        ValueError: they are of several shards; a Kinesis event source mapping never mixes them.
    """
    records = [
        Record(
            a2b_base64(record["kinesis"]["data"]),
            record["eventID"].partition(":")[0],
            record["kinesis"]["sequenceNumber"],
            record["kinesis"]["partitionKey"],
            record["kinesis"]["approximateArrivalTimestamp"],
            record["eventSourceARN"],
        )
        for record in event["Records"]
    ]
    if len({(record.stream_arn, record.shard) for record in records}) > 1:
        raise ValueError("The records are of several shards")
    return records
