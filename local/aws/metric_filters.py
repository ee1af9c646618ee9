"""Metrics out of logs: metric filters of log groups, and lines in the embedded metric format.

The pattern of a filter is the same for metric filters, subscriptions and FilterLogEvents.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html
"""

from __future__ import annotations

import fnmatch
import functools
import json
import logging
import operator
import re
from collections.abc import Callable
from typing import Any

from local.aws import emulator, metrics

_logs = emulator.module("services.cloudwatch_logs")
_responses = emulator.module("core.responses")
_logger = logging.getLogger("logs")

Fields = dict[str, Any]
Match = Fields | None
"""The fields by the names that a metric's value and dimensions use (``$.a``, ``$size``), None if nothing matched."""


class PatternError(ValueError):
    """A filter pattern that is none."""


@functools.lru_cache(maxsize=256)
def compile_pattern(pattern: str) -> Callable[[str], Match]:
    """Return what matches a message against a filter pattern.

    Raises:
        PatternError: the pattern is wrong.
    """
    text = pattern.strip()
    if text.startswith("{") and text.endswith("}"):
        return _json_pattern(text[1:-1])
    if text.startswith("[") and text.endswith("]"):
        return _columns_pattern(text[1:-1])
    return _terms_pattern(text)


# --- Terms -------------------------------------------------------------------------------------------------------


def _terms_pattern(pattern: str) -> Callable[[str], Match]:
    """All plain terms must be there, none of those with ``-``, and one of those with ``?`` if there are only such."""
    found = re.findall(r'([-?]?)(?:"((?:[^"\\]|\\.)*)"|%([^%]*)%|(\S+))', pattern)
    tests: dict[str, list[Callable[[str], bool]]] = {"": [], "-": [], "?": []}
    for sign, quoted, regex, bare in found:
        tests[sign].append(_contains(quoted.replace('\\"', '"') or bare, regex))

    def match(message: str) -> Match:
        fits = all(test(message) for test in tests[""]) and not any(test(message) for test in tests["-"])
        if tests["?"] and not tests[""]:
            fits = fits and any(test(message) for test in tests["?"])
        return {} if fits else None

    return match


def _contains(term: str, regex: str) -> Callable[[str], bool]:
    if regex:
        compiled = re.compile(regex)
        return lambda message: compiled.search(message) is not None
    return lambda message: term in message


# --- Conditions --------------------------------------------------------------------------------------------------

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _holds(value: Any, sign: str, wanted: str) -> bool:
    """Compare a field with a constant: as numbers if both are some, else as text with ``*`` for anything."""
    if value is None:
        return False
    try:
        return _COMPARISONS[sign](float(value), float(wanted))
    except (TypeError, ValueError):
        if sign not in {"=", "!="}:
            return False
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if wanted.startswith("%") and wanted.endswith("%"):
        return (re.search(wanted[1:-1], text) is not None) == (sign == "=")
    return fnmatch.fnmatchcase(text, wanted.replace("[", "[[]").replace("?", "[?]")) == (sign == "=")


_TOKEN = re.compile(
    r"""\s*(?:(?P<word>\$(?:\.[\w@-]+|\[\d+\]|\['[^']*'\])+|IS\s+(?:TRUE|FALSE|NULL)|NOT\s+EXISTS)
    |(?P<sign>&&|\|\||[()]|[<>!]?=|[<>])|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>%[^%]*%|[^\s()&|=<>!]+))""",
    re.VERBOSE,
)
_NULL = object()
"""JSON's null, while None is a field that is not there."""
_TRUTHS: dict[str, Callable[[Any], bool]] = {
    "IS TRUE": lambda value: value is True,
    "IS FALSE": lambda value: value is False,
    "IS NULL": lambda value: value is _NULL,
    "NOT EXISTS": lambda value: value is None,
}
Test = Callable[[Any], bool]


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, place = [], 0
    while text[place:].strip():
        found = _TOKEN.match(text, place)
        if found is None or found.lastgroup is None:
            raise PatternError(f"Invalid filter pattern at: {text[place:].strip()}")
        tokens.append((found.lastgroup, found[found.lastgroup].replace('\\"', '"')))
        place = found.end()
    return tokens


class _Conditions:
    """A parser of ``{ ($.a = 1 && $.b.c != "x*") || $.d NOT EXISTS }``."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)

    def parse(self) -> Test:
        test = self._either()
        if self._tokens:
            raise PatternError(f"Invalid filter pattern at: {self._tokens[0][1]}")
        return test

    def _next(self) -> tuple[str, str]:
        if not self._tokens:
            raise PatternError("Invalid filter pattern: it ends too early")
        return self._tokens.pop(0)

    def _take(self, sign: str) -> bool:
        if self._tokens and self._tokens[0] == ("sign", sign):
            self._tokens.pop(0)
            return True
        return False

    def _either(self) -> Test:
        tests = [self._both()]
        while self._take("||"):
            tests.append(self._both())
        return lambda found: any(test(found) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._take("&&"):
            tests.append(self._one())
        return lambda found: all(test(found) for test in tests)

    def _one(self) -> Test:
        if self._take("("):
            inside = self._either()
            if not self._take(")"):
                raise PatternError("Invalid filter pattern: a parenthesis is not closed")
            return inside
        kind, selector = self._next()
        if kind != "word" or not selector.startswith("$"):
            raise PatternError(f"Invalid filter pattern: {selector} is no property selector")
        kind, sign = self._next()
        if kind == "word":
            truth = _TRUTHS[re.sub(r"\s+", " ", sign)]
            return lambda found: truth(_select(found, selector))
        if sign not in _COMPARISONS:
            raise PatternError(f"Invalid filter pattern: {sign} is no comparison")
        _, wanted = self._next()
        return lambda found: _holds(_select(found, selector), sign, wanted)


def _select(found: Any, selector: str) -> Any:
    """Return the value at ``$.a.b[0]``, None if there is none."""
    for name, index, quoted in re.findall(r"\.([\w@-]+)|\[(\d+)\]|\['([^']*)'\]", selector):
        key = name or quoted
        if key and isinstance(found, dict) and key in found:
            found = found[key]
        elif index and isinstance(found, list) and int(index) < len(found):
            found = found[int(index)]
        else:
            return None
    return _NULL if found is None else found


class _Selected(dict[str, Any]):
    """The fields of a JSON message by their selectors."""

    def get(self, selector: str, default: Any = None) -> Any:
        value = _select(self["$"], selector)
        return default if value is None or value is _NULL else value


def _json_pattern(text: str) -> Callable[[str], Match]:
    test = _Conditions(text).parse()

    def match(message: str) -> Match:
        try:
            found = json.loads(message)
        except ValueError:
            return None
        return _Selected({"$": found}) if test(found) else None

    return match


def _columns_pattern(text: str) -> Callable[[str], Match]:
    """Match space-delimited messages: ``[ip, user, ..., status=4*, bytes>1000]``."""
    names: list[str] = []
    tests: list[Test] = []
    for column in (part.strip() for part in text.split(",")):
        found = re.match(r"(\.\.\.|[\w$]*)", column)
        name = found[0] if found else ""
        names.append(name or column)
        if column != name:
            selected = re.sub(rf"\b{re.escape(name)}\b(?=\s*[<>!=])", f"$.{name}", column)
            tests.append(_Conditions(selected).parse())

    def match(message: str) -> Match:
        words = [
            word[1:-1] if word[:1] in {'"', "["} else word for word in re.findall(r'"[^"]*"|\[[^\]]*\]|\S+', message)
        ]
        wanted = names
        if "..." in names:
            at = names.index("...")
            rest = len(words) - len(names) + 1
            if rest < 0:
                return None
            wanted = [*names[:at], *[f"...{n}" for n in range(rest)], *names[at + 1 :]]
        if len(words) != len(wanted):
            return None
        fields = dict(zip(wanted, words, strict=True))
        fits = all(test(fields) for test in tests)
        return {f"${name}": word for name, word in fields.items()} if fits else None

    return match


# --- Metrics -----------------------------------------------------------------------------------------------------


def _measure(original: Callable[..., Any]) -> Callable[..., Any]:
    """Measure what a group takes in, where the emulator tells its subscriptions: after PutLogEvents and from Lambda."""

    def take(group: str, stream: str, events: list[Fields]) -> Any:
        for entry in [entry for entry in _logs._metric_filters.values() if entry["logGroupName"] == group]:
            _apply(entry, events)
        for event in events:
            if '"_aws"' in event["message"]:
                _embedded(event["message"])
        return original(group, stream, events)

    return take


def _apply(entry: Fields, events: list[Fields]) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/MonitoringLogData.html"""
    match = compile_pattern(entry["filterPattern"])
    matched = [(event, fields) for event in events if (fields := match(event["message"])) is not None]
    for rule in entry["metricTransformations"]:
        for event, fields in matched:
            names = rule.get("dimensions") or {}
            dimensions = {name: fields.get(selector) for name, selector in names.items()}
            value = rule["metricValue"]
            try:
                number = float(fields.get(value, "") if value.startswith("$") else value)
            except (TypeError, ValueError):
                continue  # a field that is no number is not measured
            if None not in dimensions.values():
                named = {name: str(found) for name, found in dimensions.items()}
                _record(rule["metricNamespace"], rule["metricName"], named, number, rule, event.get("timestamp"))
        if not matched and events and rule.get("defaultValue") is not None:
            default = float(rule["defaultValue"])
            _record(rule["metricNamespace"], rule["metricName"], {}, default, rule, events[-1].get("timestamp"))


def _record(
    namespace: str, name: str, dimensions: dict[str, str], value: float, rule: Fields, milliseconds: int | None
) -> None:
    moment = milliseconds / 1000 if milliseconds else None
    scope = _responses.get_account_id(), _responses.get_region()
    metrics.record(namespace, name, dimensions, value, rule.get("unit") or "None", *scope, moment=moment)


def _embedded(message: str) -> None:
    """Measure what a line in the embedded metric format says; one that breaks its rules is only a line.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
    """
    try:
        found = json.loads(message)
        header = found["_aws"]
        for directive in header["CloudWatchMetrics"]:
            for names in directive.get("Dimensions") or [[]]:
                dimensions = {name: str(found[name]) for name in names}
                for metric in directive["Metrics"]:
                    values = found[metric["Name"]]
                    for value in values if isinstance(values, list) else [values]:
                        rule = {"unit": metric.get("Unit")}
                        _record(
                            directive["Namespace"],
                            metric["Name"],
                            dimensions,
                            float(value),
                            rule,
                            header.get("Timestamp"),
                        )
    except (ValueError, TypeError, LookupError) as error:
        _logger.info("A line with _aws is not in the embedded metric format: %r", error)


def _checked(original: Callable[[Fields], Any]) -> Callable[[Fields], Any]:
    """Refuse a call whose filter pattern is wrong."""

    def check(data: Fields) -> Any:
        try:
            compile_pattern(data.get("filterPattern") or "")
        except PatternError as error:
            return _responses.error_response_json("InvalidParameterException", str(error), 400)
        return original(data)

    return check


def _compile(pattern: str) -> Callable[[str], bool]:
    match = compile_pattern(pattern or "")
    return lambda message: match(message) is not None


emulator.patch(_logs, "_fanout_to_subscription_filters", _measure)
for _name in ("_put_metric_filter", "_put_subscription_filter", "_filter_log_events"):
    emulator.patch(_logs, _name, _checked)
emulator.replace(_logs, "_compile_filter_pattern", _compile)
emulator.replace(_logs, "_subscription_pattern_matches", lambda pattern, message: _compile(pattern)(message))
