"""GetPartitions with its filter expression: https://docs.aws.amazon.com/glue/latest/webapi/API_GetPartitions.html."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError

from local.aws import emulator
from local.aws.emulator import AwsError, Call, Payload
from local.aws.glue.pages import page

_glue = emulator.module("services.glue")

_MAX_RESULTS = 1_000
_NULL = "__HIVE_DEFAULT_PARTITION__"
"""How Hive and Glue write a missing partition value."""

_CASTS: dict[str, Callable[[str], Any]] = {
    "string": str,
    "varchar": str,
    "char": str,
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
    "tinyint": int,
    "smallint": int,
    "int": int,
    "bigint": int,
    "long": int,
    "decimal": Decimal,
}
"""The supported types of partition keys, and how their values are read."""

_COMPARISONS: dict[type[exp.Expr], Callable[[Any, Any], bool]] = {
    exp.EQ: lambda left, right: bool(left == right),
    exp.NEQ: lambda left, right: bool(left != right),
    exp.LT: lambda left, right: bool(left < right),
    exp.LTE: lambda left, right: bool(left <= right),
    exp.GT: lambda left, right: bool(left > right),
    exp.GTE: lambda left, right: bool(left >= right),
}

Test = Callable[[Mapping[str, str]], bool | None]
"""Says of a partition's values, by the names of their keys, whether it is wanted; None is SQL's unknown."""

Value = Callable[[Mapping[str, str]], Any]


@emulator.json_action("glue", "GetPartitions")
def get_partitions(call: Call) -> Payload:
    """List a table's partitions, all or those for which ``Expression`` is true."""
    request = call.payload
    table_key = f"{request['DatabaseName']}/{request['TableName']}"
    table = _glue._tables.get(table_key)
    if table is None:
        raise AwsError("EntityNotFoundException", f"Table {request['TableName']} not found.")
    partitions = list(_glue._partitions.get(table_key, []))
    if segment := request.get("Segment"):
        partitions = partitions[segment["SegmentNumber"] :: segment["TotalSegments"]]
    if expression := request.get("Expression", "").strip():
        keys = {key["Name"].lower(): key["Type"].lower() for key in table.get("PartitionKeys", [])}
        wanted = _compile(expression, keys)
        partitions = [one for one in partitions if wanted(dict(zip(keys, one["Values"], strict=True)))]
    found, following = page(partitions, request, _MAX_RESULTS)
    if request.get("ExcludeColumnSchema"):
        found = [_without_columns(partition) for partition in found]
    return {"Partitions": found, **following}


def _without_columns(partition: Payload) -> Payload:
    descriptor = {name: value for name, value in partition.get("StorageDescriptor", {}).items() if name != "Columns"}
    return {**partition, "StorageDescriptor": descriptor}


def _compile(expression: str, key_types: Mapping[str, str]) -> Test:
    """Return the test that a partition filter expresses.

    Args:
        expression: comparisons of a partition key with literals, BETWEEN, IN, LIKE, IS NULL, combined by AND, OR, NOT.
        key_types: the catalog's type of each partition key, by its name in lower case.

    Raises:
        AwsError: InvalidInputException if the expression says anything else, or a literal does not fit its key's type.
    """
    try:
        tree = parse_one(expression)
    except SqlglotError:
        raise _unsupported(expression) from None
    return _test(tree, key_types)


def _test(node: exp.Expr, types: Mapping[str, str]) -> Test:
    match node:
        case exp.Paren():
            return _test(node.this, types)
        case exp.Not():
            return _negated(_test(node.this, types))
        case exp.And() | exp.Or():
            return _connected(isinstance(node, exp.And), _test(node.left, types), _test(node.right, types))
    return _condition(node, types)


def _condition(node: exp.Expr, types: Mapping[str, str]) -> Test:
    """Return the test of a single key."""
    match node:
        case exp.Between():
            low, high = (kind(this=node.this, expression=node.args[side]) for kind, side in _BOUNDS)
            return _test(exp.And(this=low, expression=high), types)
        case exp.In() if node.expressions:
            tests = [_comparison(exp.EQ(this=node.this, expression=item), types) for item in node.expressions]
            return functools.reduce(functools.partial(_connected, False), tests)
        case exp.Is() if isinstance(node.expression, exp.Null):
            value = _key(node.this, types)
            return lambda partition: value(partition) is None
        case exp.Like():
            return _like(node, types)
        case _ if type(node) in _COMPARISONS:
            return _comparison(node, types)
    raise _unsupported(node.sql())


_BOUNDS: tuple[tuple[type[exp.Expr], str], ...] = ((exp.GTE, "low"), (exp.LTE, "high"))


def _negated(test: Test) -> Test:
    def negated(partition: Mapping[str, str]) -> bool | None:
        result = test(partition)
        return None if result is None else not result

    return negated


def _connected(both: bool, left: Test, right: Test) -> Test:
    """AND (``both``) or OR in three-valued logic: the deciding value wins over unknown, unknown over the other."""

    def connected(partition: Mapping[str, str]) -> bool | None:
        results = (left(partition), right(partition))
        if (not both) in results:
            return not both
        return None if None in results else both

    return connected


def _comparison(node: exp.Expr, types: Mapping[str, str]) -> Test:
    compare = _COMPARISONS[type(node)]
    left, right = node.this, node.expression
    if isinstance(right, exp.Column):
        value, constant = _key(right, types), _literal(left, right, types)
        return _unless_null(value, lambda found: compare(constant, found))
    value, constant = _key(left, types), _literal(right, left, types)
    return _unless_null(value, lambda found: compare(found, constant))


def _like(node: exp.Like, types: Mapping[str, str]) -> Test:
    pattern = node.expression
    if not isinstance(pattern, exp.Literal) or _cast_of(node.this, types) is not str:
        raise _unsupported(node.sql())
    wildcards = {"%": ".*", "_": "."}
    regex = re.compile("".join(wildcards.get(sign) or re.escape(sign) for sign in pattern.name), re.DOTALL)
    like = _unless_null(_key(node.this, types), lambda found: bool(regex.fullmatch(found)))
    return _negated(like) if node.args.get("negate") else like


def _unless_null(value: Value, test: Callable[[Any], bool]) -> Test:
    def known(partition: Mapping[str, str]) -> bool | None:
        found = value(partition)
        return None if found is None else test(found)

    return known


def _cast_of(node: exp.Expr, types: Mapping[str, str]) -> Callable[[str], Any]:
    if not isinstance(node, exp.Column) or node.name.lower() not in types:
        raise _unsupported(node.sql())
    kind = types[node.name.lower()].partition("(")[0]
    if kind not in _CASTS:
        raise AwsError("InvalidInputException", f"Partition key {node.name} has unsupported type {kind}.")
    return _CASTS[kind]


def _key(node: exp.Expr, types: Mapping[str, str]) -> Value:
    """Return what reads the partition key that ``node`` names from a partition, in the key's type."""
    cast, name = _cast_of(node, types), node.name.lower()

    def value(partition: Mapping[str, str]) -> Any:
        text = partition[name]
        return None if text == _NULL else _cast(cast, text, name)

    return value


def _literal(node: exp.Expr, key: exp.Expr, types: Mapping[str, str]) -> Any:
    """Return a literal in the type of the key it is compared with; DATE '...' and negative numbers are literals."""
    cast = _cast_of(key, types)
    inner = node.this if isinstance(node, exp.Cast | exp.Neg) else node
    if not isinstance(inner, exp.Literal):
        raise _unsupported(node.sql())
    return _cast(cast, f"-{inner.name}" if isinstance(node, exp.Neg) else inner.name, key.name)


def _cast(cast: Callable[[str], Any], text: str, name: str) -> Any:
    try:
        return cast(text)
    except (ValueError, InvalidOperation):
        raise AwsError("InvalidInputException", f"'{text}' is not a value of partition key {name}.") from None


def _unsupported(expression: str) -> AwsError:
    return AwsError("InvalidInputException", f"Unsupported expression '{expression}'")
