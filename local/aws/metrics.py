"""CloudWatch metrics that services publish about themselves, such as ``AWS/Kinesis`` ``IncomingRecords``.

The emulator publishes them for Lambda only; other service modules call ``record``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from local.aws import emulator

_cloudwatch = emulator.module("services.cloudwatch")
_request_scope = emulator.module("core.responses").request_scope
_lock = threading.Lock()
"""Held while points are added or old ones dropped: the emulator drops them by replacing a metric's list."""


def record(
    namespace: str,
    metric: str,
    dimensions: Mapping[str, str],
    value: float,
    unit: str,
    account: str,
    region: str,
    moment: float | None = None,
) -> None:
    """Add one data point, of ``moment`` (epoch seconds) or now, to a metric; any thread may call this.

    ``unit`` is one of ``StandardUnit`` (Count, Bytes, Milliseconds, Seconds, Percent, ...):
    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_MetricDatum.html
    """
    with _lock, _request_scope(account, region):
        given = (dict(dimensions), moment or time.time(), unit, value, None, None, None)
        _cloudwatch._store_datum(namespace, metric, *given)


_sums: dict[tuple[str, str, tuple[tuple[str, str], ...], str, str, str], float] = {}
_sums_lock = threading.Lock()


def count(
    namespace: str, metric: str, dimensions: Mapping[str, str], value: float, unit: str, account: str, region: str
) -> None:
    """Add ``value`` to a metric's data point of this second, for what happens too often to have one each time."""
    key = (namespace, metric, tuple(dimensions.items()), unit, account, region)
    with _sums_lock:
        if not _sums:
            timer = threading.Timer(1.0, _flush)
            timer.daemon = True
            timer.start()
        _sums[key] = _sums.get(key, 0.0) + value


def _flush() -> None:
    with _sums_lock:
        sums = _sums.copy()
        _sums.clear()
    for (namespace, metric, dimensions, unit, account, region), value in sums.items():
        record(namespace, metric, dict(dimensions), value, unit, account, region)


def _one_at_a_time(original: Callable[[], Any]) -> Callable[[], Any]:
    def evict() -> Any:
        with _lock:
            return original()

    return evict


emulator.patch(_cloudwatch, "_evict_old_metrics", _one_at_a_time)
