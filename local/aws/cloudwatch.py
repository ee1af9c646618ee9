"""CloudWatch alarms: judged by their own metric, period by period, soon after something was measured.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html

The emulator judges an alarm only when somebody calls PutMetricData, over all dimensions and all periods at once. AWS
judges every minute; here it is a second after a data point, and every few seconds, because states end by time too.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable
from typing import Any

from local.aws import emulator

_cloudwatch = emulator.module("services.cloudwatch")
_responses = emulator.module("core.responses")

Alarm = dict[str, Any]

TICK_SECONDS = 5.0
SETTLE_SECONDS = 0.5
"""Data points come in swarms: they are waited for this long and judged together."""

_news = threading.Event()
_judging = threading.Lock()
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "GreaterThanOrEqualToThreshold": operator.ge,
    "GreaterThanThreshold": operator.gt,
    "LessThanOrEqualToThreshold": operator.le,
    "LessThanThreshold": operator.lt,
}


def _judge(alarm: Alarm) -> None:
    """Bring an alarm's state up to date and run the actions of a change."""
    if alarm.get("ComparisonOperator") not in _COMPARISONS or not alarm.get("MetricName"):
        return  # bands and expressions have no metric of their own
    with _judging:
        values = _values(alarm, time.time())
        old, new = alarm["StateValue"], _state(alarm, values)
        if old == new:
            return
        shown = ", ".join("no data" if value is None else f"{value:g}" for value in values)
        reason = f"Threshold Crossed: [{shown}] {alarm['ComparisonOperator']} {alarm['Threshold']:g}"
        alarm.update(StateValue=new, StateReason=reason, StateUpdatedTimestamp=int(time.time()))
    _cloudwatch._record_history(alarm["AlarmName"], old, new, reason)
    _cloudwatch._dispatch_alarm_actions(alarm, old, new, reason)
    _cloudwatch._evaluate_parent_alarms(alarm)


def _values(alarm: Alarm, now: float) -> list[float | None]:
    """Return the statistic of each of the alarm's periods, the newest first; None where nothing was measured."""
    dimensions = _cloudwatch._dims_key(_cloudwatch._dims_from_list(alarm.get("Dimensions") or []))
    points = _cloudwatch._metrics.get((alarm["Namespace"], alarm["MetricName"], dimensions)) or []
    periods: list[list[Any]] = [[] for _ in range(alarm.get("EvaluationPeriods", 1))]
    for point in list(points):
        index = int((now - point["Timestamp"]) // alarm.get("Period", 60))
        if 0 <= index < len(periods):
            periods[index].append(point)
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic", "Average")
    return [
        _cloudwatch._stat_value(_cloudwatch._calc_stats(period), statistic, period) if period else None
        for period in periods
    ]


def _state(alarm: Alarm, values: list[float | None]) -> str:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html"""
    treat, needed = alarm.get("TreatMissingData") or "missing", alarm.get("DatapointsToAlarm") or len(values)
    compare, threshold = _COMPARISONS[alarm["ComparisonOperator"]], alarm["Threshold"]
    known = [value for value in values if value is not None]
    breaching = sum(compare(value, threshold) for value in known)
    if treat == "breaching":
        breaching += len(values) - len(known)
    elif treat == "ignore" and len(known) < needed:
        return str(alarm["StateValue"])
    elif treat == "missing":
        if not known:
            return "INSUFFICIENT_DATA"
        needed = min(needed, len(known))
    return "ALARM" if breaching >= needed else "OK"


def _watch() -> None:
    while True:
        _news.wait(TICK_SECONDS if any(_cloudwatch._alarms.all_items()) else None)
        time.sleep(SETTLE_SECONDS)
        _news.clear()
        for (account, region, _), alarm in list(_cloudwatch._alarms.all_items()):
            with _responses.request_scope(account, region):
                _judge(alarm)


def _announce(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wake the watch when something was measured or an alarm was made."""

    def call(*arguments: Any) -> Any:
        answer = original(*arguments)
        _news.set()
        return answer

    return call


def _start() -> None:
    threading.Thread(target=_watch, name="alarms", daemon=True).start()


emulator.replace(_cloudwatch, "_evaluate_alarm", _judge)
for _name in ("_metric_bucket", "_put_metric_alarm", "cloudformation_put_metric_alarm"):
    emulator.patch(_cloudwatch, _name, _announce)
emulator.on_startup(_start)
