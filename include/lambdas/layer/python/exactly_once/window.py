"""The dedupe window: which event ids a shard and its ancestors brought lately, and up to where a container knows it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from functools import cache
from hashlib import blake2b
from typing import Any, NamedTuple

import boto3

from exactly_once.records import Record
from exactly_once.table import Action, Key, Table, deserialize

SEQUENCE_DIGITS = 129
"""Longest sequence number, https://docs.aws.amazon.com/kinesis/latest/APIReference/API_Record.html. Padded with zeros
to this length they order as strings as they do as integers; DynamoDB's numbers hold 38 digits only."""

SLACK_SECONDS = 60.0
"""Arrival times are approximate: an item this much older than the window ends the search for items inside it."""


def pad(sequence: str) -> str:
    """Return a sequence number as it is stored and compared."""
    return sequence.zfill(SEQUENCE_DIGITS)


def digest(event_id: str) -> int:
    """Return an event id's 64 bit hash.

    Two ids in a window of n share one with probability n^2 / 2^65: once in 10 million windows of a million events.
    """
    return int.from_bytes(blake2b(event_id.encode(), digest_size=8).digest(), "little")


class Position(NamedTuple):
    """The last record applied: its ``sequence`` (padded) and how many of its keys are done, as ``part``; 0 is all."""

    sequence: str
    part: int


class Window:
    """Hashes of event ids by arrival time, in sorted arrays of 8 bytes each; a Python set would take 70.

    Hashes live in buckets of an eighth of the window's length, so one is forgotten between one and 9/8 lengths after
    its arrival. Inside a bucket arrays are merged when the later has grown to half of the earlier: adding costs
    O(log n), and so few arrays are left that looking up is a handful of bisections.
    """

    def __init__(self, length: timedelta) -> None:
        self._width = length.total_seconds() / 8
        self._buckets: defaultdict[int, list[array[int]]] = defaultdict(list)

    def add(self, hashes: array[int], arrived_at: float) -> None:
        """Remember sorted ``hashes`` of records that arrived at ``arrived_at`` or shortly before."""
        runs = self._buckets[int(arrived_at // self._width)]
        runs.append(hashes)
        while len(runs) > 1 and 2 * len(runs[-1]) > len(runs[-2]):
            runs.append(array("Q", sorted(runs.pop() + runs.pop())))

    def forget(self, before: float) -> None:
        """Forget the buckets that ended before this time."""
        for bucket in [bucket for bucket in self._buckets if (bucket + 1) * self._width < before]:
            del self._buckets[bucket]

    def __contains__(self, value: int) -> bool:
        for runs in self._buckets.values():
            for run in runs:
                index = bisect_left(run, value)
                if index < len(run) and run[index] == value:
                    return True
        return False


class Shard:
    """What a container knows of one shard: the position and the window up to it. Never ahead of the table.

    ``scope`` is ``<incarnation>#<consumer>``. ``retention`` is the stream's: a record may be read that late, so its
    window must be there until then.
    """

    def __init__(
        self, table: Table, scope: str, record: Record, window: timedelta, retention: timedelta, kinesis: Any = None
    ) -> None:
        self._table = table
        self._scope = scope
        self._shard = record.shard
        self._stream_arn = record.stream_arn
        self._kinesis = kinesis
        self._length = window
        self._expiry = (window + retention).total_seconds()
        self._checkpoint = Key(f"checkpoint#{scope}", record.shard)
        self.position: Position | None = None
        self.window = Window(window)

    def refresh(self, arrived_at: float) -> None:
        """Read the checkpoint, then the window up to it for records that arrived at ``arrived_at`` or later.

        In this order: ids that a later commit adds in between belong to records above the checkpoint, which the
        compare-and-set of `advance` then refuses.
        """
        item = self._table.get(self._checkpoint)
        position = Position(item["sequence"], int(item["part"])) if item else None
        known = self.position
        if known is None or position is None or position.sequence < known.sequence:
            known = self.position = None
            self.window = Window(self._length)
        oldest = arrived_at - self._length.total_seconds()
        self.window.forget(oldest)
        complete = known is not None
        if position is not None and position != known:
            complete = self._load(self._shard, known, position, oldest) or complete
        if not complete:
            self._load_ancestors(oldest)
        self.position = position

    def _load(self, shard: str, above: Position | None, upto: Position | None, oldest: float) -> bool:
        """Load a shard's window items, newest first, and return whether it met one older than ``oldest``."""
        low = "0"
        if above:  # a record whose parts are not all done has no item yet
            low = f"{above.sequence}#{0 if above.part else 1}"
        request = {
            "TableName": self._table.name,
            "KeyConditionExpression": "pk = :pk AND sk BETWEEN :low AND :high",
            "ExpressionAttributeValues": {
                ":pk": {"S": self._window_key(shard)},
                ":low": {"S": low},
                ":high": {"S": f"{upto.sequence}#0" if upto else "~"},
            },
            "ConsistentRead": True,
            "ScanIndexForward": False,
        }
        while True:
            page = self._table.client.query(**request)
            for item in map(deserialize, page["Items"]):
                arrived_at = float(item["arrived_at"])
                if arrived_at < oldest - SLACK_SECONDS:
                    return True
                self.window.add(array("Q", item["ids"]), arrived_at)
            if "LastEvaluatedKey" not in page:
                return False
            request["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _load_ancestors(self, oldest: float) -> None:
        """Load what the shards brought that this one was split or merged from, as far back as the window goes."""
        parents = self._parents()
        todo = list(parents.get(self._shard, ()))
        for shard in todo:  # grows while it is walked
            if not self._load(shard, None, None, oldest):
                todo += [parent for parent in parents.get(shard, ()) if parent not in todo]

    def _parents(self) -> dict[str, list[str]]:
        """Return the shards of the stream with those they were split or merged from.

        https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html
        """
        client = self._kinesis or _kinesis()
        parents = {}
        request = {"StreamARN": self._stream_arn}
        while True:
            page = client.list_shards(**request)
            for shard in page["Shards"]:
                names = (shard.get("ParentShardId"), shard.get("AdjacentParentShardId"))
                parents[shard["ShardId"]] = [name for name in names if name]
            if "NextToken" not in page:
                return parents
            request = {"NextToken": page["NextToken"]}

    def _window_key(self, shard: str) -> str:
        return f"window#{self._scope}#{shard}"

    def advance(self, position: Position, hashes: array[int], arrived_at: float) -> list[Action]:
        """Return the actions that move the shard from where this container knows it to ``position``.

        The first is the checkpoint's compare-and-set. ``hashes``, sorted, are those of the ids in between;
        ``arrived_at`` is the latest arrival among them.
        """
        arrival = Decimal(str(arrived_at))
        checkpoint = {"sequence": position.sequence, "part": position.part, "arrived_at": arrival}
        if self.position is None:
            condition: dict[str, Any] = {"ConditionExpression": "attribute_not_exists(pk)"}
        else:
            condition = {
                "ConditionExpression": "#sequence = :sequence AND #part = :part",
                "ExpressionAttributeNames": {"#sequence": "sequence", "#part": "part"},
                "ExpressionAttributeValues": {
                    ":sequence": {"S": self.position.sequence},
                    ":part": {"N": str(self.position.part)},
                },
            }
        actions = [self._table.put(self._checkpoint, checkpoint, **condition)]
        if hashes:
            item = {"ids": hashes.tobytes(), "arrived_at": arrival, "expires_at": int(arrived_at + self._expiry)}
            key = Key(self._window_key(self._shard), f"{position.sequence}#{position.part}")
            actions.append(self._table.put(key, item))
        return actions

    def advanced(self, position: Position, hashes: array[int], arrived_at: float) -> None:
        """Note that the transaction with the actions of `advance` was committed."""
        self.position = position
        if hashes:
            self.window.add(hashes, arrived_at)


@cache
def _kinesis() -> Any:
    return boto3.client("kinesis")
