"""Reads a stream for a mapping: each shard by a thread, each part of a shard to the function by another.

ParallelizationFactor cuts a shard into parts by partition key, so that the order of each key's records is kept
(https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-create.html). A shard that came from a split or a merge
is not begun before its parents are done.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections import deque
from itertools import takewhile

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import emulator
from local.aws.event_sources.delivery import Delivery
from local.aws.event_sources.mapping import PAYLOAD_BYTES, Mapping, pause
from local.aws.event_sources.streams import Position, Record, Stream
from local.aws.event_sources.windows import Window

_log = logging.getLogger(__name__)
_MOST_WAITING = 10_000
"""Records that wait in one part before reading pauses: as many as the largest batch has."""
_LONGEST_SLEEP = 60.0
"""A reader that nothing woke looks for itself after so many seconds."""

_WINDOW_LOOK = 1.0
"""While a window is open, its end is looked for every so many seconds at least, because the clock may be moved."""

_ERRORS = (ClientError, BotoCoreError, emulator.AwsError)


class StreamReader:
    """Delivers a stream's records; it can be stopped, and started again where it was."""

    def __init__(self, mapping: Mapping, stream: Stream) -> None:
        self.mapping = mapping
        self.stream = stream
        self._first = stream.start()
        self._positions: dict[str, Position] = {}
        self.windows: dict[str, Window] = {}
        """The open tumbling windows by shard."""
        self._done: set[str] = set()
        self.stopped = threading.Event()
        self.changed = threading.Event()
        """Set when a shard has ended: its children may begin."""
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to read, where it was stopped or else at the mapping's starting position."""
        self.stopped.clear()
        self._thread = emulator.in_background(self._run, f"mapping-{self.mapping.uuid}")

    def stop(self) -> None:
        """Stop after the invocations under way, and remember the position."""
        self.stopped.set()
        self.changed.set()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        """Keep a reader for every shard whose parents are done."""
        running: dict[str, _ShardReader] = {}
        failures = 0
        while not self.stopped.is_set():
            for name in [name for name, reader in running.items() if reader.finished]:
                self._done.add(name)
                self._positions.pop(name, None)
                del running[name]
            try:
                shards = self.stream.shards()
            except _ERRORS as error:
                self.mapping.report_error(error)
                self.stopped.wait(pause(failures))
                failures += 1
                continue
            failures = 0
            names = {shard.name for shard in shards}
            self._done &= names
            for shard in shards:
                if shard.name not in self._done | running.keys() and shard.parents & names <= self._done:
                    position = self._positions.get(shard.name, self._first)
                    running[shard.name] = _ShardReader(self, shard.name, position)
            self.changed.wait()
            self.changed.clear()
        for name, reader in running.items():
            if (left := reader.stop()) is not None:
                self._positions[name] = left
            else:
                self._done.add(name)


class _ShardReader:
    """Reads one shard, in a thread, and hands its records to the parts."""

    def __init__(self, owner: StreamReader, shard: str, position: Position) -> None:
        self._mapping = mapping = owner.mapping
        self._stream = stream = owner.stream
        self._shard = shard
        self._position = position
        self._stopped = owner.stopped
        self._changed = owner.changed
        self._news = threading.Event()
        self.finished = False
        """Whether every record of a closed shard is delivered."""
        delivery = Delivery(mapping, stream.batch_info, shard, self._stopped)
        self._parts: list[_Part]
        if mapping.number("TumblingWindowInSeconds", 0):
            self._parts = [_WindowPart(mapping, delivery, shard, self._stopped, owner.windows)]
        else:
            self._parts = [
                _Part(mapping, delivery, f"{shard}-{index}", self._stopped)
                for index in range(mapping.number("ParallelizationFactor", 1))
            ]
        stream.bell.subscribe(self._news)
        self._thread = emulator.in_background(self._run, f"mapping-{mapping.uuid}-{shard}")

    def stop(self) -> Position | None:
        """Wait for the threads' end; return where the next reader is to begin, None if the shard is finished."""
        self._news.set()
        for part in self._parts:
            part.wake()
        self._thread.join()
        for part in self._parts:
            part.join()
        if self.finished:
            return None
        left = [part.left for part in self._parts if part.left]
        return Position("AT_SEQUENCE_NUMBER", min(left)) if left else self._position

    def _run(self) -> None:
        try:
            ended = self._read()
        finally:
            self._stream.bell.unsubscribe(self._news)
        if ended:
            for part in self._parts:
                part.end()
            for part in self._parts:
                part.join()
            self.finished = not self._stopped.is_set()
        self._changed.set()

    def _read(self) -> bool:
        """Read until the mapping stops, False, or the shard ends, True."""
        iterator: str | None = None
        failures = 0
        while not self._stopped.is_set():
            self._news.clear()
            newest = self._stream.newest(self._shard)
            try:
                iterator = iterator or self._stream.iterator(self._shard, self._position)
                records, iterator = self._stream.read(self._shard, iterator)
            except _ERRORS as error:
                # A refused read, an iterator that expired, a stream that is gone: begin again from the position.
                iterator = None
                if _code(error) != "ExpiredIteratorException":
                    self._mapping.report_error(error)
                    self._stopped.wait(pause(failures))
                    failures += 1
                continue
            failures = 0
            if records:
                self._hand_over(self._mapping.passing(records, self._stream.tree))
                newest = records[-1].sequence
                self._position = Position("AFTER_SEQUENCE_NUMBER", newest)
            if iterator is None:
                return True
            while not self._stopped.is_set() and self._stream.newest(self._shard) == newest:
                self._news.wait(_LONGEST_SLEEP)
                self._news.clear()
        return False

    def _hand_over(self, records: list[Record]) -> None:
        parts = len(self._parts)
        for index, part in enumerate(self._parts):
            part.put([each for each in records if parts == 1 or zlib.crc32(each.key.encode()) % parts == index])


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


class _Part:
    """Batches the records of one part of a shard and delivers them in order, in a thread."""

    def __init__(self, mapping: Mapping, delivery: Delivery, name: str, stopped: threading.Event) -> None:
        self._mapping = mapping
        self._delivery = delivery
        self._stopped = stopped
        self._waiting: deque[Record] = deque()
        self._since = 0.0
        self._ended = False
        self._changed = threading.Condition()
        self._thread = emulator.in_background(self._run, f"mapping-{mapping.uuid}-{name}")

    @property
    def left(self) -> str:
        """The sequence number of the first record not delivered, empty if all are."""
        return self._waiting[0].sequence if self._waiting else ""

    def put(self, records: list[Record]) -> None:
        """Add records, once there is room."""
        if not records:
            return
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING or self._stopped.is_set())
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.extend(records)
            self._changed.notify_all()

    def end(self) -> None:
        """Deliver what waits, then end: the shard has no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Let the thread see that the mapping has stopped."""
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        """Wait for the thread's end."""
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            left = self._delivery.deliver(batch)
            with self._changed:
                self._waiting.extendleft(reversed(left))
                self._changed.notify_all()

    def _next(self) -> list[Record]:
        """Return the next batch once it is full or its window has passed; none if there is nothing more to do.

        https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventsourcemapping.html#invocation-eventsourcemapping-batching
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended or self._stopped.is_set())
            while not (self._ended or self._stopped.is_set() or self._full()):
                window = self._since + self._mapping.number("MaximumBatchingWindowInSeconds", 0) - time.monotonic()
                if window <= 0:
                    break
                self._changed.wait(window)
            if self._stopped.is_set():
                return []
            batch = self._take()
            self._since = time.monotonic()
            return batch

    def _full(self) -> bool:
        enough = self._mapping.number("BatchSize", 100)
        return len(self._waiting) >= enough or sum(record.size for record in self._waiting) >= PAYLOAD_BYTES

    def _take(self) -> list[Record]:
        most, room = self._mapping.number("BatchSize", 100), PAYLOAD_BYTES
        batch: list[Record] = []
        while self._waiting and len(batch) < most and (not batch or self._waiting[0].size <= room):
            room -= self._waiting[0].size
            batch.append(self._waiting.popleft())
        return batch


class _WindowPart(_Part):
    """A part whose batches are each of one tumbling window, and which closes a window when its time is over."""

    def __init__(
        self,
        mapping: Mapping,
        delivery: Delivery,
        shard: str,
        stopped: threading.Event,
        windows: dict[str, Window],
    ) -> None:
        self._shard = shard
        self._windows = windows
        super().__init__(mapping, delivery, shard, stopped)

    @property
    def _window(self) -> Window | None:
        return self._windows.get(self._shard)

    def _run(self) -> None:
        while not self._stopped.is_set():
            batch = self._next()
            if batch:
                window = self._windows.setdefault(self._shard, self._window_of(batch[0]))
                left = self._delivery.deliver(batch, window)
                with self._changed:
                    self._waiting.extendleft(reversed(left))
                    self._changed.notify_all()
            elif self._window and self._over():
                if self._delivery.close(self._window):
                    del self._windows[self._shard]
            elif self._ended:
                return

    def _next(self) -> list[Record]:
        """Return the next batch of the open window, or of the next one if none is open; none if the window is over."""
        with self._changed:
            while not (self._waiting or self._ended or self._stopped.is_set() or self._over()):
                self._changed.wait(min(_WINDOW_LOOK, self._window.left) if self._window else None)
        return [] if self._over() or not self._waiting else super()._next()

    def _over(self) -> bool:
        window = self._window
        if window is None:
            return False
        if self._waiting:
            return not window.has(self._waiting[0].arrived)
        return self._ended or window.left <= 0

    def _full(self) -> bool:
        # The newest record is of the next window: nothing more will come for this one.
        return super()._full() or not self._window_of(self._waiting[0]).has(self._waiting[-1].arrived)

    def _take(self) -> list[Record]:
        batch = super()._take()
        window = self._window_of(batch[0])
        kept = list(takewhile(lambda record: window.has(record.arrived), batch))
        self._waiting.extendleft(reversed(batch[len(kept) :]))
        return kept

    def _window_of(self, record: Record) -> Window:
        return Window.around(record.arrived, self._mapping.number("TumblingWindowInSeconds", 0))
