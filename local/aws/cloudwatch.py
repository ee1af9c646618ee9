"""CloudWatch: metric math in GetMetricData, and alarms judged period by period, soon after something was measured.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html

The emulator judges an alarm only when somebody calls PutMetricData, over all dimensions and all periods at once. AWS
judges every minute; here it is a second after a data point, and every few seconds, because states end by time too.
"""

from __future__ import annotations

import math
import operator
import threading
import time
from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

from local.aws import emulator
from local.aws.metric_math import ExpressionError, Query, Series

_cloudwatch = emulator.module("services.cloudwatch")
_provisioners = emulator.module("services.cloudformation.provisioners")
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
    if alarm.get("ComparisonOperator") not in _COMPARISONS or not (alarm.get("MetricName") or alarm.get("Metrics")):
        return  # a band has neither
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
    count = alarm.get("EvaluationPeriods", 1)
    queries = alarm.get("Metrics") or [{"Id": "m", "MetricStat": _metric_stat(alarm)}]
    asked = next(each["Id"] for each in queries if each.get("ReturnData", True))
    period = _period(queries)
    query = _query(queries, now - count * period, now)
    points = query.value(asked)[0].points
    return [points.get(moment) for moment in reversed(query.grid)]


def _metric_stat(alarm: Alarm) -> dict[str, Any]:
    metric = {name: alarm[name] for name in ("Namespace", "MetricName", "Dimensions") if name in alarm}
    statistic = alarm.get("ExtendedStatistic") or alarm.get("Statistic", "Average")
    return {"Metric": metric, "Period": alarm.get("Period", 60), "Stat": statistic}


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


# --- Metric math -------------------------------------------------------------------------------------------------


def _period(queries: list[dict[str, Any]]) -> int:
    """Return the longest period, in seconds, of those that queries name."""
    return max((int(each["MetricStat"]["Period"]) for each in queries if "MetricStat" in each), default=60)


def _query(queries: list[dict[str, Any]], start: float, end: float) -> Query:
    """Return MetricDataQueries with the statistics of their metrics, in periods counted from ``start``."""
    series = {each["Id"]: _series(each, start, end) for each in queries if "MetricStat" in each}
    period = _period(queries)
    grid = [start + index * period for index in range(math.ceil((end - start) / period))]
    return Query(series, {each["Id"]: each["Expression"] for each in queries if "Expression" in each}, grid)


def _series(query: dict[str, Any], start: float, end: float) -> Series:
    wanted = query["MetricStat"]
    metric, period = wanted["Metric"], int(wanted["Period"])
    dimensions = _cloudwatch._dims_key(_cloudwatch._dims_from_list(metric.get("Dimensions") or []))
    periods: dict[float, list[Any]] = {}
    for point in list(_cloudwatch._metrics.get((metric["Namespace"], metric["MetricName"], dimensions)) or []):
        if start <= point["Timestamp"] < end and wanted.get("Unit") in {None, point["Unit"]}:
            begins = start + (point["Timestamp"] - start) // period * period
            periods.setdefault(begins, []).append(point)
    values = {
        moment: _cloudwatch._stat_value(_cloudwatch._calc_stats(points), wanted["Stat"], points)
        for moment, points in sorted(periods.items())
    }
    known = {moment: value for moment, value in values.items() if value is not None}
    return Series(known, period, query.get("Label") or metric["MetricName"])


def _get_metric_data(
    params: dict[str, Any], data: dict[str, Any], is_cbor: bool, is_json: bool = False
) -> emulator.Response:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html"""
    given = data if is_cbor or is_json else _members(params)
    queries = given["MetricDataQueries"]
    period = _period(queries)
    start = _cloudwatch._parse_ts(given["StartTime"]) // period * period
    query = _query(queries, start, _cloudwatch._parse_ts(given["EndTime"]))
    latest_first = given.get("ScanBy", "TimestampDescending") == "TimestampDescending"
    results = []
    try:
        for asked in queries:
            if str(asked.get("ReturnData", True)).lower() == "false":
                continue
            found = query.value(asked["Id"])
            for series in found:
                points = sorted(series.points.items(), reverse=latest_first)
                label = asked.get("Label") or (series.label if "MetricStat" in asked else asked["Id"])
                results.append(
                    {
                        "Id": asked["Id"],
                        "Label": label if len(found) == 1 else f"{label} {series.label}",
                        "Timestamps": [_cloudwatch._ts_iso(moment) for moment, _ in points],
                        "Values": [value for _, value in points],
                        "StatusCode": "Complete",
                    }
                )
    except ExpressionError as error:
        refused: emulator.Response = _cloudwatch._error("ValidationError", str(error), 400, is_json, is_cbor)
        return refused
    return _answer(results, is_cbor, is_json)


def _members(params: dict[str, Any]) -> dict[str, Any]:
    """Return the members of a call in the query protocol: ``A.member.1.B`` is member B of the first entry of list A."""
    members: dict[str, Any] = {}
    for path in params:
        place, (*above, last) = members, path.replace(".member.", ".#").split(".")
        for name in above:
            place = place.setdefault(name, {})
        place[last] = _cloudwatch._p(params, path)

    def lists(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        nested = {name: lists(item) for name, item in value.items()}
        numbered = {int(name[1:]): item for name, item in nested.items() if name.startswith("#")}
        return [numbered[index] for index in sorted(numbered)] if numbered else nested

    found: dict[str, Any] = lists(members)
    return found


def _answer(results: list[dict[str, Any]], is_cbor: bool, is_json: bool) -> emulator.Response:
    answer: emulator.Response
    if is_cbor:
        encoded = [_cloudwatch._cbor_metric_data_result(each) for each in results]
        answer = _cloudwatch._cbor_ok({"MetricDataResults": encoded})
    elif is_json:
        answer = _cloudwatch._json_ok({"MetricDataResults": results})
    else:
        body = "".join(f"<member>{_xml(each)}</member>" for each in results)
        inner = f"<GetMetricDataResult><MetricDataResults>{body}</MetricDataResults></GetMetricDataResult>"
        answer = _cloudwatch._xml(200, "GetMetricDataResponse", inner)
    return answer


def _xml(value: Any) -> str:
    if isinstance(value, dict):
        return "".join(f"<{name}>{_xml(item)}</{name}>" for name, item in value.items())
    if isinstance(value, list):
        return "".join(f"<member>{_xml(item)}</member>" for item in value)
    return escape(str(value))


def _put_metric_alarm(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the queries of an alarm on an expression."""

    def put(params: dict[str, Any], data: dict[str, Any], is_cbor: bool, is_json: bool = False) -> Any:
        given = data if is_cbor or is_json else _members(params)
        queries = given.get("Metrics")
        if refusal := _refusal(queries) if queries else None:
            return _cloudwatch._error("ValidationError", refusal, 400, is_json, is_cbor)
        answer = original(params, data, is_cbor, is_json)
        if answer[0] == 200 and queries:
            _on_expression(_cloudwatch._alarms[given["AlarmName"]], queries)
        return answer

    return put


def _refusal(queries: list[dict[str, Any]]) -> str | None:
    """Return what AWS has against an alarm's queries, None if nothing.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricAlarm.html
    """
    asked = [each["Id"] for each in queries if str(each.get("ReturnData", True)).lower() != "false"]
    if len(asked) != 1:
        return "Exactly one element of the metrics list should return data."
    try:
        found = _query(queries, 0.0, 0.0).value(asked[0])
    except ExpressionError as error:
        return str(error)
    return None if len(found) == 1 else "Expression must return a single time series."


def _on_expression(alarm: Alarm, queries: list[dict[str, Any]]) -> None:
    """Let an alarm watch queries in the place of a metric of its own."""
    for member in ("MetricName", "Namespace", "Statistic", "ExtendedStatistic", "Period", "Dimensions", "Unit"):
        alarm.pop(member, None)
    alarm["Metrics"] = [
        {**each, "ReturnData": str(each.get("ReturnData", True)).lower() != "false"} for each in queries
    ]


def _alarm_of_template(original: Callable[..., Alarm]) -> Callable[..., Alarm]:
    def record(name: str, properties: dict[str, Any]) -> Alarm:
        queries = properties.get("Metrics")
        if not queries:
            return original(name, properties)
        if refusal := _refusal(queries):
            raise ValueError(refusal)
        stand_in = {"MetricName": "-", "Namespace": "-"}
        alarm = original(name, {**{key: value for key, value in properties.items() if key != "Metrics"}, **stand_in})
        _on_expression(alarm, queries)
        return alarm

    return record


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
emulator.replace(_cloudwatch, "_get_metric_data", _get_metric_data)
emulator.patch(_cloudwatch, "_put_metric_alarm", _put_metric_alarm)
emulator.patch(_provisioners, "_cw_metric_alarm_record", _alarm_of_template)
for _name in ("_metric_bucket", "_put_metric_alarm", "cloudformation_put_metric_alarm"):
    emulator.patch(_cloudwatch, _name, _announce)
emulator.on_startup(_start)
