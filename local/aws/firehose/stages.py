"""Records on their way, and the buffers in which they wait for each other."""

from __future__ import annotations

import base64
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from local.aws.firehose.destination import Limits
from local.aws.firehose.objects import ERROR_TYPE

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Record:
    """``arrived_at`` is in seconds since 1970; ``position`` is where it stands in the Kinesis stream it came from.

    ``values`` are those of the expressions of its prefix that depend on the record, such as
    ``partitionKeyFromQuery:customer``: records with the same values go into the same object.
    """

    id: str
    data: bytes
    arrived_at: float
    position: Mapping[str, Any] | None = None
    values: tuple[tuple[str, str], ...] = ()


def failure(record: Record, kind: str, attempts: int, code: str, message: str, **members: Any) -> Record:
    """Return the error document of ``record``, as a line; ``kind`` is the error type in its prefix.

    https://docs.aws.amazon.com/firehose/latest/dev/data-transformation-failure-handling.html
    """
    document = {
        "attemptsMade": attempts,
        "arrivalTimestamp": int(record.arrived_at * 1000),
        "errorCode": code,
        "errorMessage": message,
        "attemptEndingTimestamp": int(time.time() * 1000),
        "rawData": base64.b64encode(record.data).decode(),
        **members,
    }
    return failed(record, kind, document)


def failed(record: Record, kind: str, document: Mapping[str, Any]) -> Record:
    """Return ``record`` with its error document as data, for the prefix of error type ``kind``."""
    return replace(record, data=json.dumps(document).encode() + b"\n", values=((ERROR_TYPE, kind),))


class DeliveryError(Exception):
    """A batch could not be delivered and shall be tried again; ``code`` is that of Firehose's error log."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Pause:
    """How long to wait after a failure: twice as long each time, up to five seconds, until a success."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def after_failure(self) -> float:
        """Return the seconds to wait now."""
        self._seconds = min(self._seconds * 2 or _FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS)
        return self._seconds

    def reset(self) -> None:
        """Begin anew, after a success."""
        self._seconds = 0.0


class Stage:
    """A buffer and what becomes of its records; used by one thread.

    ``deliver`` takes a batch and may raise ``DeliveryError``: the batch stays and is tried again until it succeeds. AWS
    gives up after 24 hours: https://docs.aws.amazon.com/firehose/latest/dev/retry.html
    ``overhead`` is counted in bytes for every record, beside its data.
    """

    def __init__(self, limits: Limits, deliver: Callable[[list[Record]], None], overhead: int = 0) -> None:
        self.limits = limits
        self.size = 0
        self._deliver = deliver
        self._overhead = overhead
        self._waiting: deque[tuple[float, Record]] = deque()
        self._pause = Pause()
        self._retry_at = 0.0

    def add(self, records: Iterable[Record]) -> None:
        """Put records at the end of the buffer."""
        now = time.monotonic()
        for record in records:
            self._waiting.append((now, record))
            self.size += len(record.data) + self._overhead

    def due_at(self) -> float | None:
        """Return when, on the monotonic clock, there is something to deliver; None if the buffer is empty."""
        if not self._waiting:
            return None
        full = self.size >= self.limits.size
        return max(self._retry_at, 0.0 if full else self._waiting[0][0] + self.limits.interval)

    def run(self, *, flush: bool = False) -> None:
        """Deliver the batches that are due, or everything there is if ``flush`` is set; stop at the first failure."""
        while (due := self.due_at()) is not None and (flush or due <= time.monotonic()):
            batch, size = self._next_batch()
            try:
                self._deliver(batch)
            except DeliveryError:
                self._retry_at = time.monotonic() + self._pause.after_failure()
                return
            self._pause.reset()
            self.size -= size
            for _ in batch:
                self._waiting.popleft()

    def _next_batch(self) -> tuple[list[Record], int]:
        batch, size = [], 0
        for _, record in self._waiting:
            batch.append(record)
            size += len(record.data) + self._overhead
            if size >= self.limits.size:
                break
        return batch, size


class Partitions:
    """A stage for each group of records with the same values; used by one thread like a stage itself."""

    def __init__(self, limits: Limits, deliver: Callable[[list[Record]], None]) -> None:
        self._limits = limits
        self._deliver = deliver
        self._stages: dict[tuple[tuple[str, str], ...], Stage] = {}

    def __len__(self) -> int:
        """Return how many groups have records that wait."""
        return len(self._stages)

    def __contains__(self, record: Record) -> bool:
        """Return whether records of the group of ``record`` wait."""
        return record.values in self._stages

    @property
    def size(self) -> int:
        """The bytes that wait."""
        return sum(stage.size for stage in self._stages.values())

    @property
    def limits(self) -> Limits:
        """The limits of each group."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        for stage in self._stages.values():
            stage.limits = limits

    def add(self, records: Iterable[Record]) -> None:
        """Put records at the end of their groups' buffers."""
        for values, group in groupby(records, key=lambda record: record.values):
            if values not in self._stages:
                self._stages[values] = Stage(self._limits, self._deliver)
            self._stages[values].add(group)

    def due_at(self) -> float | None:
        """Return when, on the monotonic clock, there is something to deliver; None if nothing waits."""
        return min((at for stage in self._stages.values() if (at := stage.due_at()) is not None), default=None)

    def run(self, *, flush: bool = False) -> None:
        """Deliver the batches that are due, or everything there is if ``flush`` is set, each group on its own."""
        for values, stage in list(self._stages.items()):
            stage.run(flush=flush)
            if stage.due_at() is None:
                del self._stages[values]
