"""The throughput quota of a Firehose that takes records by PutRecord and PutRecordBatch.

https://docs.aws.amazon.com/firehose/latest/dev/limits.html
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

ENABLED = os.environ.get("ATLAS_LIMITS") == "1"
"""Quotas hold if the environment says so, because a test or a demonstration rarely wants to wait for them."""

_LARGE_REGIONS = {"us-east-1", "us-west-2", "eu-west-1"}
_MEBIBYTE = 1024 * 1024


class Quota:
    """What may still be put within the present second; any thread may use it."""

    def __init__(self, region: str) -> None:
        large = region in _LARGE_REGIONS
        self._most = (2_000, 500_000, 5 * _MEBIBYTE) if large else (1_000, 100_000, _MEBIBYTE)
        """Requests, records and bytes a second."""
        self._second = 0
        self._left = self._most
        self._lock = threading.Lock()

    def admit(self, sizes: Sequence[int]) -> list[bool]:
        """Return which records of one request, by their sizes in bytes, are within the quota, and count them."""
        if not ENABLED:
            return [True] * len(sizes)
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._left = second, self._most
            requests, records, space = self._left
            admitted = []
            for size in sizes:
                fits = requests > 0 and records > 0 and size <= space
                admitted.append(fits)
                records, space = (records - 1, space - size) if fits else (records, space)
            self._left = (requests - 1, records, space)
            return admitted
