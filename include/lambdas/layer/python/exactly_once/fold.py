"""The fold: records of a Kinesis stream folded into items of a DynamoDB table, each event exactly once.

A scenario writes which items an event concerns (``keys``) and how the event changes them (``step``). The fold commits a
chunk of records in one transaction: the items, messages for the outbox, the ids for the dedupe window and the shard's
checkpoint, the last by compare-and-set against the position that the chunk was computed from.

Why an event has its effect once:

1. Commits of a shard form one chain: the compare-and-set lets a transaction through only if nobody committed since its
   position was read. A redelivered, bisected or concurrently processed batch, a killed invocation or one believed dead
   therefore never applies a record again; it finds the record at or below the checkpoint.
2. The states that a chunk was computed from were read after that position, and whoever else writes them either moves
   the same checkpoint or is excluded by the version condition of ``shared`` keys. So no update is lost.
3. An event that its producer sent twice has two sequence numbers but one id. The ids of a commit enter the window in
   the same transaction, and the window is read consistently and after the checkpoint, so that a chunk either knows all
   ids up to its position or fails its compare-and-set. After a split or merge the ancestors' windows are read as well;
   Lambda delivers a shard only after its ancestors.
4. Malformed records are effects too: kept under a name made of their position before the checkpoint moves past them.

Where it ends:

- A duplicate that arrives later than the window after its event looks like a new event, and so does one that its
  producer sent with another partition key to another shard.
- Positions belong to a stream. ``incarnation`` (the stack's id) separates recreated ones; a stream that is replaced
  inside its stack needs another consumer name, because its sequence numbers start anew.
- ParallelizationFactor has to be 1: with more, the batches of a shard compete for one checkpoint.
- Starting anew from the beginning, under another consumer name, repeats all effects in a new life: give it tables of
  its own, and RELAY_AFTER so that messages of the past are not sent again.
- A record that needs more items than a transaction holds is applied in parts, and ``step`` then sees the items of one
  part at a time. If Lambda gives such a record up between parts, the parts that were applied stay.
- A batch that Lambda gave up as its shard was split or merged must not still be running when the successor starts.

The event source mapping starts at TRIM_HORIZON and reports batch item failures: what does not fit into the function's
time is handed back. The role needs GetItem, BatchGetItem, Query and PutItem on the table, PutObject in the quarantine
and ListShards on the stream.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from exactly_once import outbox, records
from exactly_once.contracts import Contract, Malformed
from exactly_once.faults import crash
from exactly_once.outbox import Message
from exactly_once.quarantine import Quarantine
from exactly_once.records import Record
from exactly_once.table import Action, ConditionFailed, Item, Key, OutOfTime, Table, pause, size
from exactly_once.window import Position, Shard, digest, pad

MAX_ACTIONS = 97
"""Items and messages of a chunk, and malformed records. A transaction holds 100 actions, two are the fold's own, see
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html#limits-dynamodb-transactions"""

MAX_BYTES = 3_500_000
"""Bytes of a chunk's actions; a transaction holds 4 MB."""

RESERVE_SECONDS = 3.0
"""Time left to the function when it stops, to answer and to let a request that is under way end."""

T = TypeVar("T")
logger = Logger(service=os.environ.get("AWS_LAMBDA_FUNCTION_NAME"))


class Context(Protocol):
    """What of Lambda's context is used."""

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function is stopped."""


@dataclass(frozen=True)
class Effects:
    """What an event does: ``states`` are the items as they shall be, ``messages`` go to the outbox."""

    states: Mapping[Key, Item] = field(default_factory=dict)
    messages: Sequence[Message] = ()


class _Entry(Generic[T]):
    """A record on its way; an event, or the reason why there is none."""

    __slots__ = ("event", "hash", "keys", "position", "reason", "record")

    def __init__(self, record: Record, contract: Contract[T], keys: Callable[[T], Iterable[Key]]) -> None:
        self.record = record
        self.position = pad(record.sequence)
        self.reason: str | None = None
        try:
            self.event = contract.decode(record.data)
        except Malformed as malformed:
            self.reason = malformed.reason
        else:
            self.hash = digest(contract.event_id(self.event))
            self.keys = tuple(dict.fromkeys(keys(self.event)))


@dataclass
class _Chunk(Generic[T]):
    """A beginning of the records to do, and what it does."""

    entries: list[_Entry[T]] = field(default_factory=list)
    part: int = 0
    """How many keys of the last record are done, 0 for all."""
    hashes: set[int] = field(default_factory=set)
    states: dict[Key, Item] = field(default_factory=dict)
    versions: dict[Key, int | None] = field(default_factory=dict)
    """Version of each shared item that was read."""
    messages: dict[str, Message] = field(default_factory=dict)
    malformed: list[_Entry[T]] = field(default_factory=list)
    duplicates: int = 0

    def holds(self, effects: Effects) -> bool:
        """Return whether these effects fit as well; the first record's always do, to be looked at."""
        new = sum(key not in self.states for key in effects.states)
        new += sum(message.id not in self.messages for message in effects.messages)
        room = MAX_ACTIONS - len(self.states) - len(self.messages)
        return not self.entries or (new <= room and len(self.malformed) < MAX_ACTIONS)


class Fold(Generic[T]):
    """Folds the records of a stream into ``table``.

    Args:
        table: name of the table.
        consumer: name of this consumer; each has checkpoints of its own.
        incarnation: what changes when the stream is made anew, the stack's id.
        contract: what a record is.
        keys: the items that an event concerns, always the same for the same event. A key that writers other than this
            shard's write too is ``shared``: its item then has a ``version`` that every write raises and expects.
        step: returns an event's effects from the items of its keys (None: not there), which it must not change. It
            may run again for the same event, so it has no effects of its own. It may write none but its keys; an item
            that the fold writes is written by the fold alone, unless it is shared.
        quarantine: where malformed records go; the stream's name becomes its source.
        window: how long after an event its duplicates are recognised.
        retention: the stream's; a record may be read that late.
        relay_after: messages of records that arrived earlier (epoch seconds) are not put into the outbox.
        client, kinesis: boto3 clients, the process's own by default.
    """

    def __init__(
        self,
        table: str,
        consumer: str,
        incarnation: str,
        contract: Contract[T],
        keys: Callable[[T], Iterable[Key]],
        step: Callable[[Mapping[Key, Item | None], T], Effects],
        quarantine: Quarantine,
        window: timedelta = timedelta(minutes=15),
        retention: timedelta = timedelta(days=1),
        relay_after: float = 0.0,
        client: Any = None,
        kinesis: Any = None,
    ) -> None:
        self._table = Table(table, client)
        self._scope = f"{incarnation}#{consumer}"
        self._contract = contract
        self._keys = keys
        self._step = step
        self._quarantine = quarantine
        self._window = window
        self._retention = retention
        self._relay_after = relay_after
        self._kinesis = kinesis
        self._shards: dict[tuple[str, str], Shard] = {}
        self._metrics = Metrics(namespace="Atlas", service=os.environ.get("AWS_LAMBDA_FUNCTION_NAME", consumer))

    @classmethod
    def from_environment(
        cls,
        contract: Contract[T],
        keys: Callable[[T], Iterable[Key]],
        step: Callable[[Mapping[Key, Item | None], T], Effects],
    ) -> Fold[T]:
        """Return the fold that the function's environment describes.

        STATE_TABLE, CONSUMER, INCARNATION, QUARANTINE_BUCKET and QUARANTINE_PREFIX are required; WINDOW_SECONDS (900),
        RETENTION_SECONDS (86400) and RELAY_AFTER (a time in ISO 8601 with its zone) are not.
        """
        settings = os.environ
        relay_after = settings.get("RELAY_AFTER")
        return cls(
            settings["STATE_TABLE"],
            settings["CONSUMER"],
            settings["INCARNATION"],
            contract,
            keys,
            step,
            Quarantine.from_environment(source=""),
            timedelta(seconds=float(settings.get("WINDOW_SECONDS") or 900)),
            timedelta(seconds=float(settings.get("RETENTION_SECONDS") or 86_400)),
            datetime.fromisoformat(relay_after).timestamp() if relay_after else 0.0,
        )

    def handle(self, event: Mapping[str, Any], context: Context | None = None) -> dict[str, list[dict[str, str]]]:
        """Apply a Kinesis event's records and return those that Lambda shall deliver again.

        https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html

        Raises:
            ValueError: a record does not fit into transactions, or ``step`` wrote an item that is not among its keys.
            ClientError: AWS refused a request.
        """
        seconds = context.get_remaining_time_in_millis() / 1000 if context else 60.0
        deadline = time.monotonic() + seconds - RESERVE_SECONDS
        todo = [_Entry(record, self._contract, self._keys) for record in records.read(event)]
        self._count("Records", len(todo))
        shard = self._shard(todo[0].record)
        attempt = 0
        try:
            while todo:
                shard.refresh(min(entry.record.arrived_at for entry in todo))
                todo = self._rest(todo, shard.position)
                try:
                    while todo:
                        self._commit(*self._chunk(todo, shard, deadline), shard, deadline)
                        todo = self._rest(todo, shard.position)
                except ConditionFailed:
                    self._count("Conflicts", 1)
                    attempt = pause(attempt, deadline)
        except OutOfTime:
            logger.warning("Out of time", extra={"records_left": len(todo), "shard": todo[0].record.shard})
            return {"batchItemFailures": [{"itemIdentifier": todo[0].record.sequence}]}
        finally:
            self._metrics.flush_metrics()
        return {"batchItemFailures": []}

    def _shard(self, record: Record) -> Shard:
        name = (record.stream_arn, record.shard)
        if name not in self._shards:
            self._shards[name] = Shard(self._table, self._scope, record, self._window, self._retention, self._kinesis)
        return self._shards[name]

    def _rest(self, todo: list[_Entry[T]], position: Position | None) -> list[_Entry[T]]:
        """Return the records that are not applied at a position, or not wholly."""
        if position is None:
            return todo
        above = position.sequence
        if position.part:
            return [entry for entry in todo if entry.position >= above]
        return [entry for entry in todo if entry.position > above]

    def _chunk(self, todo: list[_Entry[T]], shard: Shard, deadline: float) -> tuple[_Chunk[T], list[Action]]:
        """Return the longest beginning of the records that fits into a transaction, with its actions."""
        most_records, most_keys = len(todo), MAX_ACTIONS
        while True:
            if time.monotonic() > deadline:
                raise OutOfTime
            chunk = self._fold(todo[:most_records], most_keys, shard, deadline)
            actions = [self._state(chunk, key) for key in chunk.states]
            actions += outbox.actions(self._table, chunk.messages.values())
            if len(actions) <= MAX_ACTIONS and sum(size(action["Put"]["Item"]) for action in actions) <= MAX_BYTES:
                return chunk, actions
            if len(chunk.entries) > 1:
                most_records = len(chunk.entries) // 2
            elif (width := min(most_keys, len(chunk.entries[0].keys))) > 1:
                most_keys = width // 2
            else:
                raise ValueError(f"Record {todo[0].record.sequence}: the effects do not fit into a transaction")

    def _fold(self, todo: list[_Entry[T]], most_keys: int, shard: Shard, deadline: float) -> _Chunk[T]:
        """Step through records until their keys or their effects fill a transaction."""
        chunk: _Chunk[T] = _Chunk()
        steps, keys_read = self._plan(todo, most_keys, shard)
        items: dict[Key, Item | None] = {}
        for key, item in self._table.get_all(keys_read, deadline).items():
            if key.shared:
                chunk.versions[key] = item.pop("version", None) if item else None
            items[key] = item and MappingProxyType(item)
        for entry, keys, part in steps:
            effects = Effects()
            if entry.reason is None and keys is not None:
                effects = self._step({key: items[key] for key in keys}, entry.event)
                if not effects.states.keys() <= set(keys):
                    raise ValueError(f"Record {entry.record.sequence}: an item is written that is not among its keys")
                if entry.record.arrived_at < self._relay_after:
                    effects = replace(effects, messages=())
            if not chunk.holds(effects):
                break
            chunk.entries.append(entry)
            chunk.part = part
            if entry.reason is not None:
                chunk.malformed.append(entry)
            elif keys is None:
                chunk.duplicates += 1
            elif not part:
                chunk.hashes.add(entry.hash)
            chunk.states.update(effects.states)
            items.update(effects.states)
            chunk.messages |= {message.id: message for message in effects.messages}
        return chunk

    def _plan(
        self, todo: list[_Entry[T]], most_keys: int, shard: Shard
    ) -> tuple[list[tuple[_Entry[T], tuple[Key, ...] | None, int]], set[Key]]:
        """Choose records whose keys fit: each with the keys to apply (None: a duplicate) and the part reached by it."""
        steps: list[tuple[_Entry[T], tuple[Key, ...] | None, int]] = []
        read: set[Key] = set()
        seen: set[int] = set()
        for entry in todo:
            keys, part = None, 0
            if entry.reason is None:
                begun = shard.position.part if shard.position and shard.position.sequence == entry.position else 0
                if begun or not (entry.hash in seen or entry.hash in shard.window):
                    keys = entry.keys[begun:]
                    if len(read.union(keys)) > most_keys:
                        if steps:
                            break
                        keys, part = keys[:most_keys], begun + most_keys
                    read.update(keys)
                    seen.add(entry.hash)
            steps.append((entry, keys, part))
            if part:
                break
        return steps, read

    def _state(self, chunk: _Chunk[T], key: Key) -> Action:
        """Return the action that writes an item; a shared one expects the version that was read."""
        if not key.shared:
            return self._table.put(key, chunk.states[key])
        version = chunk.versions[key]
        item = {**chunk.states[key], "version": (version or 0) + 1}
        names = {"#version": "version"}
        if version is None:
            return self._table.put(
                key, item, ConditionExpression="attribute_not_exists(#version)", ExpressionAttributeNames=names
            )
        return self._table.put(
            key,
            item,
            ConditionExpression="#version = :version",
            ExpressionAttributeNames=names,
            ExpressionAttributeValues={":version": {"N": str(version)}},
        )

    def _commit(self, chunk: _Chunk[T], actions: list[Action], shard: Shard, deadline: float) -> None:
        """Keep what is malformed, then write the rest in one transaction."""
        for entry in chunk.malformed:
            self._keep(entry)
        last = chunk.entries[-1]
        arrived_at = max(entry.record.arrived_at for entry in chunk.entries)
        step = (Position(last.position, chunk.part), array("Q", sorted(chunk.hashes)), arrived_at)
        crash("between read and commit")
        self._table.transact([*shard.advance(*step), *actions], deadline)
        shard.advanced(*step)
        crash("between commit and answer")
        self._count("Duplicates", chunk.duplicates)
        self._count("Malformed", len(chunk.malformed))

    def _keep(self, entry: _Entry[T]) -> None:
        """Put a malformed record into the quarantine, under its position."""
        record = entry.record
        replace(self._quarantine, source=record.stream).put(
            f"{record.shard}/{record.sequence}",
            record.data,
            entry.reason or "",
            arrived_at=record.arrived_at,
            partition_key=record.partition_key,
            shard=record.shard,
            sequence=record.sequence,
        )

    def _count(self, name: str, value: int) -> None:
        self._metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)
