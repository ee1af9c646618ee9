"""Tells threads that read streams and queues when something new has arrived, so that none of them polls.

A reader subscribes an event to the bell of its service, waits for it, clears it and looks for itself: a bell rings for
all streams, tables or queues of the service.
"""

from __future__ import annotations

import threading

from local.aws import emulator


class Bell:
    """Sets every subscribed event when it rings; any thread may use it."""

    def __init__(self) -> None:
        self._waiting: frozenset[threading.Event] = frozenset()
        self._lock = threading.Lock()

    def subscribe(self, event: threading.Event) -> None:
        """Set ``event`` from now on, whenever something arrives."""
        with self._lock:
            self._waiting |= {event}

    def unsubscribe(self, event: threading.Event) -> None:
        """Leave ``event`` alone from now on."""
        with self._lock:
            self._waiting -= {event}

    def set(self) -> None:
        """Ring. The emulator's services call it by this name."""
        for event in self._waiting:
            event.set()


kinesis = Bell()
dynamodb = Bell()
sqs = Bell()


def _hang(bell: Bell, service: str) -> None:
    """Let ``service`` ring ``bell`` when it puts something somewhere, in place of the emulator's one for all."""
    emulator.replace(emulator.module(f"services.{service}"), "esm_wake", bell)


_hang(kinesis, "kinesis")
_hang(dynamodb, "dynamodb")
for _service in ("sqs", "sns", "s3", "eventbridge"):
    _hang(sqs, _service)
