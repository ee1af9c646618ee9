"""Metric math: expressions over time series, as GetMetricData and alarms take them.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html
"""

from __future__ import annotations

import ast
import math
import operator
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise

Points = dict[float, float]
"""Values by the start of their period, in epoch seconds."""


class ExpressionError(ValueError):
    """An expression that cannot be evaluated, in words for the caller."""


@dataclass(frozen=True)
class Series:
    """A time series: its points, the seconds of a period and the label it is shown with."""

    points: Points
    period: int
    label: str = ""


Value = float | Series | list[Series]


@dataclass(frozen=True)
class Query:
    """A request for time series.

    ``series`` are the metrics asked for by their ids, ``expressions`` the others, ``grid`` the starts of all periods.
    """

    series: Mapping[str, Series]
    expressions: Mapping[str, str]
    grid: Sequence[float]

    def value(self, name: str) -> list[Series]:
        """Return the time series that the metric or expression with the id ``name`` stands for.

        Raises:
            ExpressionError: the expression is wrong, or is a single number.
        """
        found = _Evaluation(self, (name,)).of(name)
        if isinstance(found, float):
            raise ExpressionError(f"Error in expression '{name}': it returns a scalar, not a time series")
        return found if isinstance(found, list) else [found]


@dataclass(frozen=True)
class _Evaluation:
    """The evaluation of one expression; ``names`` are those under way, which it must not need again."""

    query: Query
    names: tuple[str, ...]

    def of(self, name: str) -> Value:
        """Return the value of an id."""
        if name in self.query.series:
            return self.query.series[name]
        try:
            return self._node(_parse(self.query.expressions[name]))
        except ExpressionError as error:
            message = str(error)
            raise ExpressionError(
                message if message.startswith("Error in") else f"Error in expression '{name}': {message}"
            ) from error

    def _node(self, node: ast.expr) -> Value:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.Name(id=name):
                return self._named(name)
            case ast.List(elts=elements):
                return [each for element in elements for each in _as_list(self._node(element))]
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return self._call(name.upper(), arguments)
        return self._operation(node)

    def _operation(self, node: ast.expr) -> Value:
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return _map(operator.neg, self._node(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _combine(_ARITHMETIC[type(op)], self._node(left), self._node(right))
            case ast.Compare(left=left, ops=[sign], comparators=[right]) if type(sign) in _COMPARISONS:
                compare = _COMPARISONS[type(sign)]
                return _combine(lambda a, b: float(compare(a, b)), self._node(left), self._node(right))
            case ast.BoolOp(op=join, values=[first, *rest]):
                found = self._node(first)
                for each in rest:
                    found = _combine(_and if isinstance(join, ast.And) else _or, found, self._node(each))
                return found
        raise ExpressionError(f"unexpected {ast.unparse(node)}")

    def _named(self, name: str) -> Value:
        if name in self.names:
            raise ExpressionError(f"{name} refers to itself")
        if name not in self.query.series and name not in self.query.expressions:
            raise ExpressionError(f"undefined variable {name}")
        return _Evaluation(self.query, (*self.names, name)).of(name)

    def _call(self, name: str, arguments: list[ast.expr]) -> Value:
        if name == "METRICS":
            part = str(ast.literal_eval(arguments[0])) if arguments else ""
            return [series for key, series in self.query.series.items() if part in key]
        if name not in _FUNCTIONS and name not in _GRID_FUNCTIONS:
            raise ExpressionError(f"the function {name} is not supported")
        values = [
            node.id if isinstance(node, ast.Name) and node.id in _FILLINGS else self._node(node) for node in arguments
        ]
        try:
            if name in _FUNCTIONS:
                return _FUNCTIONS[name](*values)
            return _GRID_FUNCTIONS[name](self.query.grid, *values)
        except TypeError as error:
            raise ExpressionError(f"wrong arguments of {name}") from error


def _parse(expression: str) -> ast.expr:
    """Read an expression, whose syntax differs from Python's in the names of a few operators only."""
    parts = re.split(r"(\"[^\"]*\"|'[^']*')", expression)
    for index in range(0, len(parts), 2):
        text = parts[index].replace("&&", " and ").replace("||", " or ").replace("^", "**")
        text = re.sub(r"\b(AND|OR)\b", lambda found: found[0].lower(), text)
        parts[index] = re.sub(r"\bIF\s*\(", "IF_(", text)
    try:
        return ast.parse("".join(parts).strip(), mode="eval").body
    except SyntaxError as error:
        raise ExpressionError(f"it cannot be parsed: {expression}") from error


def _and(left: float, right: float) -> float:
    return float(left != 0 and right != 0)


def _or(left: float, right: float) -> float:
    return float(left != 0 or right != 0)


_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _as_list(value: Value) -> list[Series]:
    if isinstance(value, float):
        raise ExpressionError("a time series is needed, not a number")
    return value if isinstance(value, list) else [value]


def _number(value: Value) -> float:
    if not isinstance(value, float):
        raise ExpressionError("a number is needed, not a time series")
    return value


def _each(change: Callable[[Series], Series], value: Value) -> Value:
    changed = [change(series) for series in _as_list(value)]
    return changed if isinstance(value, list) else changed[0]


def _map(function: Callable[[float], float], value: Value) -> Value:
    """Apply a function to a number or to all points; a point without a result is left out."""
    if isinstance(value, float):
        return function(value)

    def change(series: Series) -> Series:
        return _pair(lambda number, _: function(number), series, 0.0)

    return _each(change, value)


def _combine(function: Callable[[float, float], float], left: Value, right: Value) -> Value:
    """Apply an operator point by point, where both sides have one and there is a result (not at x / 0)."""
    if isinstance(left, float) and isinstance(right, float):
        try:
            return float(function(left, right))
        except ArithmeticError as error:
            raise ExpressionError("it divides by zero") from error
    lengths = {len(side) for side in (left, right) if isinstance(side, list)}
    if len(lengths) > 1:
        raise ExpressionError("the arrays have different lengths")
    count = max(lengths, default=1)
    lefts = left if isinstance(left, list) else [left] * count
    rights = right if isinstance(right, list) else [right] * count
    pairs = [_pair(function, *both) for both in zip(lefts, rights, strict=True)]
    return pairs if lengths else pairs[0]


def _pair(function: Callable[[float, float], float], left: Series | float, right: Series | float) -> Series:
    """Combine two series, or a series and a number."""
    series = [side for side in (left, right) if isinstance(side, Series)]
    points: Points = {}
    for moment in sorted(set.intersection(*(set(each.points) for each in series))):
        first, second = (side.points[moment] if isinstance(side, Series) else side for side in (left, right))
        with suppress(ArithmeticError, ValueError):  # there is no point at x / 0
            points[moment] = function(first, second)
    return Series(points, max(each.period for each in series), series[0].label)


# --- Functions ---------------------------------------------------------------------------------------------------


def _aggregate(function: Callable[[list[float]], float], value: Value) -> Value:
    """Return one number of a series, or one series of an array: over what is there at each moment."""
    if isinstance(value, Series):
        return function(list(value.points.values())) if value.points else 0.0
    found = _as_list(value)
    moments = sorted({moment for series in found for moment in series.points})
    points = {at: function([series.points[at] for series in found if at in series.points]) for at in moments}
    return Series(points, max((series.period for series in found), default=60))


def _repeat(series: Series, grid: Sequence[float]) -> Series:
    points: Points = {}
    last: float | None = None
    for moment in grid:
        last = series.points.get(moment, last)
        if last is not None:
            points[moment] = last
    return Series(points, series.period, series.label)


def _linear(series: Series, grid: Sequence[float]) -> Series:
    known = sorted(series.points)
    points = dict(series.points)
    for before, after in pairwise(known):
        low, high = series.points[before], series.points[after]
        for moment in grid:
            if before < moment < after:
                points[moment] = low + (high - low) * (moment - before) / (after - before)
    return Series(dict(sorted(points.items())), series.period, series.label)


_FILLINGS: dict[str, Callable[[Series, Sequence[float]], Series]] = {"REPEAT": _repeat, "LINEAR": _linear}


def _fill(grid: Sequence[float], value: Value, filling: Value | str) -> Value:
    """Fill gaps with a number, with another series, or from the points beside them."""

    def filled(series: Series) -> Series:
        if isinstance(filling, str):
            return _FILLINGS[filling](series, grid)
        other = filling.points if isinstance(filling, Series) else dict.fromkeys(grid, _number(filling))
        points = {moment: other[moment] for moment in grid if moment in other}
        return Series(dict(sorted({**points, **series.points}.items())), series.period, series.label)

    return _each(filled, value)


def _time_series(grid: Sequence[float], value: Value) -> Series:
    period = int(grid[1] - grid[0]) if len(grid) > 1 else 60
    return Series(dict.fromkeys(grid, _number(value)), period)


def _differences(series: Series, of: Callable[[float, float], float]) -> Series:
    """Return what ``of`` makes of the change since the point before, and of the seconds since then."""
    known = sorted(series.points.items())
    pairs = pairwise(known)
    points = {at: of(value - before, at - then) for (then, before), (at, value) in pairs}
    return Series(points, series.period, series.label)


def _if(condition: Value, positive: Value, negative: Value | None = None) -> Value:
    """Choose by a number, or point by point; without ``negative`` the other points are left out."""
    if isinstance(condition, float):
        chosen = positive if condition else negative
        if chosen is None:
            raise ExpressionError("IF with a number needs both values")
        return chosen
    if not isinstance(condition, Series) or isinstance(positive, list) or isinstance(negative, list):
        raise ExpressionError("IF takes no arrays")
    points: Points = {}
    for moment, holds in condition.points.items():
        chosen = positive if holds else negative
        value = chosen.points.get(moment) if isinstance(chosen, Series) else chosen
        if value is not None:
            points[moment] = value
    return Series(points, condition.period, condition.label)


def _running_sum(series: Series) -> Series:
    total, points = 0.0, {}
    for moment, value in sorted(series.points.items()):
        total += value
        points[moment] = total
    return Series(points, series.period, series.label)


def _moments(part: Callable[[datetime], int]) -> Callable[[Value], Value]:
    def apply(value: Value) -> Value:
        return _each(
            lambda series: Series(
                {at: float(part(datetime.fromtimestamp(at, UTC))) for at in series.points}, series.period, series.label
            ),
            value,
        )

    return apply


_GRID_FUNCTIONS: dict[str, Callable[..., Value]] = {"FILL": _fill, "TIME_SERIES": _time_series}
"""Those that need to know the starts of all periods."""
_FUNCTIONS: dict[str, Callable[..., Value]] = {
    "ABS": lambda value: _map(abs, value),
    "AVG": partial(_aggregate, statistics.fmean),
    "CEIL": lambda value: _map(lambda number: float(math.ceil(number)), value),
    "DAY": _moments(lambda at: at.isoweekday()),
    "DIFF": lambda value: _each(lambda series: _differences(series, lambda change, _: change), value),
    "DIFF_TIME": lambda value: _each(lambda series: _differences(series, lambda _, seconds: seconds), value),
    "EPOCH": _moments(lambda at: int(at.timestamp())),
    "FIRST": lambda value: _as_list(value)[0],
    "FLOOR": lambda value: _map(lambda number: float(math.floor(number)), value),
    "HOUR": _moments(lambda at: at.hour),
    "IF_": _if,
    "LAST": lambda value: _as_list(value)[-1],
    "LOG": lambda value: _map(math.log, value),
    "LOG10": lambda value: _map(math.log10, value),
    "MAX": partial(_aggregate, max),
    "METRIC_COUNT": lambda value: float(len(_as_list(value))),
    "MIN": partial(_aggregate, min),
    "MINUTE": _moments(lambda at: at.minute),
    "PERIOD": lambda value: float(_as_list(value)[0].period),
    "RATE": lambda value: _each(lambda series: _differences(series, operator.truediv), value),
    "REMOVE_EMPTY": lambda value: [series for series in _as_list(value) if series.points],
    "RUNNING_SUM": lambda value: _each(_running_sum, value),
    "STDDEV": partial(_aggregate, statistics.pstdev),
    "SUM": partial(_aggregate, math.fsum),
}
