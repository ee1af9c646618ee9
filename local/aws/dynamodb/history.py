"""The past of tables with point-in-time recovery: what every item was before each of its changes.

A table's state at a moment is its present one with all later changes undone, so only what was replaced is kept: in a
file, because a busy table changes more than memory should hold.
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Point-in-time-recovery.html
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError

_dynamodb = emulator.module("services.dynamodb")

Data = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
Key = tuple[str, str]
"""The partition and the sort key of an item, as the emulator stores it."""
Items = dict[Key, Data]

LONGEST_DAYS = 35
_DAY = 86_400.0


class History:
    """The changes of one table since ``since``, in seconds since 1970; any thread may use it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.since = time.time()
        self.days = LONGEST_DAYS
        self._path = path
        self._file = path.open("w+", encoding="utf-8")
        self._lock = threading.Lock()

    @property
    def earliest(self) -> float:
        """The first moment the table can be taken back to."""
        return max(self.since, time.time() - self.days * _DAY)

    def add(self, key: Key, old: Data | None) -> None:
        """Note that the item with ``key``, ``old`` so far or None if there was none, changes now."""
        line = json.dumps([time.time(), key, old], separators=(",", ":"))
        with self._lock:
            self._file.write(f"{line}\n")

    def length(self) -> int:
        """Return how much of the file there is, to read up to there later."""
        with self._lock:
            self._file.flush()
            return self._path.stat().st_size

    def read(self, length: int) -> Iterator[tuple[float, Key, Data | None]]:
        """Yield the changes in the first ``length`` bytes, oldest first."""
        with self._path.open("rb") as file:
            for line in file.read(length).splitlines():
                at, (partition, sort), old = json.loads(line)
                yield at, (partition, sort), old

    def forget(self) -> None:
        """Remove the file."""
        with self._lock:
            self._file.close()
            self._path.unlink()


_histories: dict[str, History] = {}
"""By the id of the table."""


@dataclass(frozen=True)
class Past:
    """A table at the moment it was looked at, and the changes that led there."""

    table: Data
    items: Items
    changes: list[tuple[float, Key, Data | None]]

    def at(self, moment: float) -> Items:
        """Return the items there were at ``moment``, in seconds since 1970."""
        items = dict(self.items)
        for at, key, old in reversed(self.changes):
            if at <= moment:
                break
            if old is None:
                items.pop(key, None)
            else:
                items[key] = old
        return items

    def changed(self, start: float, end: float) -> dict[Key, float]:
        """Return when each item that changed after ``start``, up to ``end``, last did."""
        return {key: at for at, key, _ in self.changes if start < at <= end}


def of(table: Data) -> History:
    """Return the history of ``table``.

    Raises:
        AwsError: PointInTimeRecoveryUnavailableException, point-in-time recovery is not enabled.
    """
    history = _histories.get(table["TableId"])
    if history is None:
        message = f"Point in time recovery is not enabled for table '{table['TableName']}'"
        raise AwsError("PointInTimeRecoveryUnavailableException", message)
    return history


def look_back(table: Data) -> Past:
    """Return ``table`` with its past. Not to be called on the emulator's event loop.

    Raises:
        AwsError: as for ``of``.
    """
    history = of(table)

    def look() -> tuple[Items, int]:
        stored = table["items"].items()
        items = {(partition, sort): item for partition, sorts in stored for sort, item in sorts.items()}
        return items, history.length()

    items, length = emulator.on_loop(look)
    return Past(table, items, list(history.read(length)))


# --- What the emulator is told to remember -----------------------------------------------------------------------


def _before_set(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_item(table: Data, partition: str, sort: str, item: Data) -> Any:
        old = original(table, partition, sort, item)
        if history := _histories.get(table["TableId"]):
            history.add((partition, sort), old)
        return old

    return set_item


def _before_remove(original: Callable[..., Any]) -> Callable[..., Any]:
    def remove_item(table: Data, partition: str, sort: str) -> Any:
        old = original(table, partition, sort)
        if old is not None and (history := _histories.get(table["TableId"])):
            history.add((partition, sort), old)
        return old

    return remove_item


def _switch(original: Callable[[Data], Answer]) -> Callable[[Data], Answer]:
    """Begin a history when recovery is enabled, end it when it is disabled.

    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_UpdateContinuousBackups.html
    """

    def update(data: Data) -> Answer:
        wanted = data.get("PointInTimeRecoverySpecification") or {}
        days = int(wanted.get("RecoveryPeriodInDays") or LONGEST_DAYS)
        if not 1 <= days <= LONGEST_DAYS:
            return _refused(f"RecoveryPeriodInDays must be from 1 to {LONGEST_DAYS}.")
        answer = original(data)
        table = _dynamodb._tables.get(_dynamodb._normalize_table_name(data.get("TableName")))
        if answer[0] != 200 or table is None:
            return answer
        enabled = str(wanted.get("PointInTimeRecoveryEnabled", False)).lower() == "true"
        if not enabled:
            forget(table)
        elif table["TableId"] not in _histories:
            folder = Path(emulator.state_folder()) / "dynamodb"
            _histories[table["TableId"]] = History(folder / f"{table['TableId']}.jsonl")
        if enabled:
            _histories[table["TableId"]].days = days
        described: Answer = _dynamodb._describe_continuous_backups(data)
        return described

    return update


def _refused(message: str) -> Answer:
    answer: Answer = _dynamodb.error_response_json("ValidationException", message, 400)
    return answer


def _describe(original: Callable[[Data], Answer]) -> Callable[[Data], Answer]:
    """Tell the moments a table can be taken back to; AWS's latest one is five minutes ago, here it is now."""

    def describe(data: Data) -> Answer:
        status, headers, body = original(data)
        table = _dynamodb._tables.get(_dynamodb._normalize_table_name(data.get("TableName")))
        history = _histories.get(table["TableId"]) if table else None
        if status != 200 or history is None:
            return status, headers, body
        answer = json.loads(body)
        answer["ContinuousBackupsDescription"]["PointInTimeRecoveryDescription"].update(
            EarliestRestorableDateTime=history.earliest,
            LatestRestorableDateTime=time.time(),
            RecoveryPeriodInDays=history.days,
        )
        return status, headers, json.dumps(answer).encode()

    return describe


def forget(table: Data) -> None:
    """Drop the history of ``table``, if there is one."""
    if history := _histories.pop(table["TableId"], None):
        history.forget()


def _with_table(original: Callable[[Data], Answer]) -> Callable[[Data], Answer]:
    def delete(data: Data) -> Answer:
        table = _dynamodb._tables.get(_dynamodb._normalize_table_name(data.get("TableName")))
        answer = original(data)
        if answer[0] == 200 and table:
            forget(table)
        return answer

    return delete


emulator.patch(_dynamodb, "_set_item", _before_set)
emulator.patch(_dynamodb, "_remove_item", _before_remove)
emulator.patch(_dynamodb, "_describe_continuous_backups", _describe)
emulator.patch(_dynamodb, "_update_continuous_backups", _switch)
emulator.patch(_dynamodb, "_delete_table", _with_table)
