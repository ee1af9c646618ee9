"""Results of the Data API: fields, column metadata and pages.

https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_GetStatementResult.html
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

from local.aws.redshift.session import Column, Result, Row

Members = dict[str, Any]

PAGE_ROWS = 1000
"""Rows a page has here; AWS states no number."""
MAX_ROW_BYTES = 64 * 1024
MAX_RESULT_BYTES = 500 * 1024 * 1024
"""Both: https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-troubleshooting.html"""

# Redshift's name of a PostgreSQL type (by its object id), and its precision.
_TYPES = {
    16: ("bool", 1),
    17: ("varbyte", 0),
    18: ("char", 1),
    19: ("name", 64),
    20: ("int8", 19),
    21: ("int2", 5),
    23: ("int4", 10),
    25: ("varchar", 65535),
    26: ("oid", 10),
    700: ("float4", 8),
    701: ("float8", 17),
    1042: ("bpchar", 0),
    1043: ("varchar", 65535),
    1082: ("date", 13),
    1083: ("time", 15),
    1114: ("timestamp", 29),
    1184: ("timestamptz", 35),
    1186: ("interval", 0),
    1700: ("numeric", 38),
    3802: ("super", 0),
}
_WHOLE = frozenset({20, 21, 23, 26})
_NUMBERS = _WHOLE | {700, 701, 1700}


def field(value: bytes | None, kind: int) -> Members:
    """Return a value as a Field: numbers with a fraction that must stay exact, and times, are strings."""
    if value is None:
        return {"isNull": True}
    if kind == 16:
        return {"booleanValue": value == b"t"}
    if kind in _WHOLE:
        return {"longValue": int(value)}
    if kind in (700, 701):
        return {"doubleValue": float(value)}
    return {"stringValue": value.decode()}


def metadata(column: Column, tables: dict[int, tuple[str, str]]) -> Members:
    """Return the ColumnMetadata of a result's column; ``tables`` are schema and name by object id."""
    name, precision = _TYPES.get(column.type, ("varchar", 65535))
    scale = 0
    if column.modifier > 0 and name in ("varchar", "bpchar"):
        precision = column.modifier - 4
    if column.modifier > 0 and name == "numeric":
        precision, scale = (column.modifier - 4) >> 16, (column.modifier - 4) & 0xFFFF
    schema, table = tables.get(column.table, ("", ""))
    return {
        "isCaseSensitive": name in ("varchar", "bpchar", "char", "name"),
        "isCurrency": False,
        "isSigned": column.type in _NUMBERS,
        "label": column.name,
        "length": 0,
        "name": column.name,
        "nullable": 1,
        "precision": precision,
        "scale": scale,
        "schemaName": schema,
        "tableName": table,
        "typeName": name,
    }


def records(result: Result, start: int) -> list[list[Members]]:
    """Return a page of rows from row ``start`` on."""
    kinds = [column.type for column in result.columns]
    return [
        [field(value, kind) for value, kind in zip(row, kinds, strict=True)]
        for row in result.rows[start : start + PAGE_ROWS]
    ]


def csv_records(result: Result, start: int) -> list[Members]:
    """Return a page of rows from row ``start`` on as CSV text."""
    text = io.StringIO()
    writer = csv.writer(text)
    for row in result.rows[start : start + PAGE_ROWS]:
        writer.writerow([None if value is None else value.decode() for value in row])
    return [{"CSVRecords": text.getvalue()}]


def size(result: Result, limit_reached: Callable[[str], Exception]) -> int:
    """Return a result's size in bytes.

    Raises:
        Exception: the one ``limit_reached`` makes of the text, if a row or the result is too large.
    """
    total = 0
    for row in result.rows:
        length = _length(row)
        if length > MAX_ROW_BYTES:
            raise limit_reached(f"Packet for query is too large ({length} > {MAX_ROW_BYTES})")
        total += length
    if total > MAX_RESULT_BYTES:
        raise limit_reached("Database response exceeded size limit")
    return total


def _length(row: Row) -> int:
    return sum(len(value) for value in row if value is not None)
