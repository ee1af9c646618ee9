"""Query results: values as Athena prints them, the object it writes, and pages of it.

https://docs.aws.amazon.com/athena/latest/ug/querying-finding-output-files.html
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import IO, Any

from local.aws.athena import hive
from local.aws.athena.errors import QueryError, aws_errors
from local.aws.athena.hive import Column
from local.aws.athena.lake import location

Value = str | None
Row = list[Value]

PAGE = 1000
"""Most rows a page of GetQueryResults has."""
_BLOCK = 1 << 20
_FIELD = re.compile(rb'(?:"((?:[^"]|"")*)")?([,\n])')

# Athena's precision and scale of types that do not carry them.
_PRECISION = {
    **{"tinyint": 3, "smallint": 5, "integer": 10, "bigint": 19, "real": 17, "float": 17, "double": 17},
    **{"varchar": 2147483647, "varbinary": 1073741824, "timestamp": 3, "timestamp with time zone": 3},
}


def text(value: Any) -> Value:
    """Return a value as it stands in a result: exact decimals, Java's doubles, millisecond timestamps."""
    if value is None or isinstance(value, str):
        return value
    for kind, write in _WRITERS:
        if isinstance(value, kind):
            return write(value)
    return str(value)


def _nested(value: Any) -> str:
    written = text(value)
    return "null" if written is None else written


def _double(value: float) -> str:
    """Write a double as Java does: 0.001 to 10 million in full, otherwise in scientific notation."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return repr(value) if "e" not in repr(value) else format(Decimal(repr(value)), "f")
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    figures = "".join(map(str, digits))
    power = len(digits) - 1 + int(exponent)
    return f"{'-' if sign else ''}{figures[0]}.{figures[1:] or '0'}E{power}"


def _moment(value: datetime) -> str:
    plain = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
    return plain.isoformat(" ", "milliseconds") + (" UTC" if value.tzinfo else "")


def _map_or_row(value: dict[Any, Any]) -> str:
    return "{" + ", ".join(f"{_nested(k)}={_nested(v)}" for k, v in value.items()) + "}"


_WRITERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (bool, lambda value: "true" if value else "false"),
    (float, _double),
    (Decimal, lambda value: format(value, "f")),
    (datetime, _moment),
    (date, date.isoformat),
    (time, lambda value: value.isoformat("milliseconds")),
    (bytes, lambda value: value.hex(" ")),
    (list, lambda value: "[" + ", ".join(map(_nested, value)) + "]"),
    (tuple, lambda value: "[" + ", ".join(map(_nested, value)) + "]"),
    (dict, _map_or_row),
)


def column_info(column: Column) -> dict[str, Any]:
    """Return a column's ResultSetMetadata entry; the column's type is DuckDB's.

    https://docs.aws.amazon.com/athena/latest/APIReference/API_ColumnInfo.html
    """
    whole = "json" if column.type == "JSON" else hive.trino_type(column.type)
    base = whole.split("(")[0]
    precision, scale = _PRECISION.get(base, 0), 0
    if base == "decimal":
        precision, scale = map(int, re.findall(r"\d+", whole))
    return {
        "CatalogName": "hive",
        "SchemaName": "",
        "TableName": "",
        "Name": column.name,
        "Label": column.name,
        "Type": "float" if base == "real" else base,
        "Precision": precision,
        "Scale": scale,
        "Nullable": "UNKNOWN",
        "CaseSensitive": base in ("varchar", "json"),
    }


def write_csv(target: IO[bytes], rows: Iterable[Row]) -> None:
    """Write rows as Athena does: every value in double quotes, NULL as nothing."""
    for row in rows:
        cells = ("" if value is None else '"' + value.replace('"', '""') + '"' for value in row)
        target.write((",".join(cells) + "\n").encode())


def read_page(s3: Any, address: str, start: int, limit: int, columns: int) -> tuple[list[Row], int | None]:
    """Return up to ``limit`` rows of a result object from byte ``start`` on, and where the next page starts.

    Raises:
        QueryError: the object is gone, or the caller may not read it.
    """
    bucket, key = location(address)
    with aws_errors(f"reading the results at {address}"):
        size = s3.head_object(Bucket=bucket, Key=key)["ContentLength"]
        data = b""
        while True:
            rows, used = _parse(data, limit, columns)
            fetched = start + len(data)
            if len(rows) == limit or fetched >= size:
                following = start + used
                return rows, following if following < size else None
            end = min(fetched + _BLOCK, size) - 1
            data += s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={fetched}-{end}")["Body"].read()


def _parse(data: bytes, limit: int, columns: int) -> tuple[list[Row], int]:
    """Return the complete rows at the start of ``data`` and how many bytes they take."""
    rows: list[Row] = []
    row: Row = []
    used = at = 0
    while len(rows) < limit and (field := _FIELD.match(data, at)):
        at = field.end()
        row.append(None if field[1] is None else field[1].decode().replace('""', '"'))
        if field[2] == b"\n":
            if len(row) != columns:
                raise QueryError(f"The result has a row of {len(row)} instead of {columns} columns")
            rows.append(row)
            row, used = [], at
    return rows, used


def read_lines(s3: Any, address: str) -> list[Row]:
    """Return the lines of a DDL statement's result as rows of one value."""
    bucket, key = location(address)
    with aws_errors(f"reading the results at {address}"):
        data: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return [[line] for line in data.decode().splitlines()]
