"""Tumbling windows: spans of time whose records share a state, which the function builds from batch to batch.

https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html
https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-windows.html
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

MOST_STATE_BYTES = 1024 * 1024
GRACE_SECONDS = 0.5
"""How long after a window's end its last records may still be on their way from the shard."""


@dataclass
class Window:
    """One window of one shard; ``start`` and ``end`` are in seconds since 1970."""

    start: int
    end: int
    state: Any = field(default_factory=dict)

    @classmethod
    def around(cls, arrived: float, seconds: int) -> Window:
        """Return the window of ``seconds`` in which a record arrived."""
        start = int(arrived // seconds) * seconds
        return cls(start, start + seconds)

    def has(self, arrived: float) -> bool:
        """Return whether a record that arrived then belongs to it."""
        return self.start <= arrived < self.end

    @property
    def left(self) -> float:
        """The seconds until no record will come any more; not above 0 if that is so now."""
        return self.end + GRACE_SECONDS - time.time()

    @property
    def full(self) -> bool:
        """Whether its state is larger than Lambda keeps, which ends it early."""
        return len(json.dumps(self.state).encode()) > MOST_STATE_BYTES

    def members(self, shard: str, source: str, *, final: bool = False, early: bool = False) -> dict[str, Any]:
        """Return the members of an event beside its records."""
        return {
            "window": {"start": _iso(self.start), "end": _iso(self.end)},
            "state": self.state,
            "shardId": shard,
            "eventSourceARN": source,
            "isFinalInvokeForWindow": final,
            "isWindowTerminatedEarly": early,
        }


def _iso(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
