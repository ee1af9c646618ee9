"""A clock that can be moved: days pass at once for what waits for days.

``PUT /_atlas/clock`` with ``{"advance": 86400}`` lets a day pass, ``GET`` says by how many seconds it is ahead. By this
clock go: the retention of Kinesis records and their age in an event source mapping, DynamoDB's time to live,
EventBridge's scheduled rules and Scheduler, Glue's scheduled triggers, and the Wait states and retry intervals of Step
Functions. Scheduler makes up for every time that was due meanwhile, a scheduled rule or trigger fires once. All else,
signatures and sessions first, goes by the machine's clock, which the functions see, too.
"""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any

from local.aws import emulator
from local.aws.events import schedules
from local.aws.glue import triggers


class _Clock:
    """Stands for the module ``time`` in the modules that go by it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self._moved = threading.Condition()

    def __getattr__(self, name: str) -> Any:
        """Return what is not of this clock, such as ``monotonic``."""
        return getattr(time, name)

    def time(self) -> float:
        """Return the seconds since 1970."""
        return time.time() + self.ahead

    def sleep(self, seconds: float) -> None:
        """Sleep until ``seconds`` have passed by this clock."""
        until = self.time() + seconds
        with self._moved:
            while (left := until - self.time()) > 0:
                self._moved.wait(left)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        with self._moved:
            self.ahead += seconds
            self._moved.notify_all()


_clock = _Clock()


@emulator.control("clock")
def _move(wanted: Any) -> Any:
    if wanted is not None:
        if wanted["advance"] < 0:
            raise ValueError("time does not go back")
        _clock.advance(float(wanted["advance"]))
        schedules.wake()
        triggers.wake()
    return {"ahead": _clock.ahead}


for _service in ("eventbridge", "kinesis", "scheduler", "stepfunctions"):
    emulator.replace(emulator.module(f"services.{_service}"), "time", _clock)
for _own in (
    "dynamodb.expiry",
    "event_sources.delivery",
    "event_sources.windows",
    "events.schedules",
    "glue.triggers",
    "kinesis",
):
    emulator.replace(importlib.import_module(f"local.aws.{_own}"), "time", _clock)
