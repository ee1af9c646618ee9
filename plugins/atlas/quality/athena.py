"""Athena query results as typed rows.

Athena returns every value as text beside the column's type
(https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html); a gate compares numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

Row = dict[str, Any]

_PARSERS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("tinyint", "smallint", "integer", "bigint"), int),
    **dict.fromkeys(("float", "real", "double"), float),
    "decimal": Decimal,
    "boolean": lambda text: text == "true",
    "date": date.fromisoformat,
    "timestamp": lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC),
}


def typed_rows(result: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a SELECT's ``GetQueryResults`` answer, one dict per row keyed by column name.

    Integers become ``int``, decimals ``Decimal``, timestamps aware UTC times, NULL ``None``; any other type
    stays text. ``result`` must hold the first page: a SELECT's first row repeats the column names and is
    dropped.
    """
    columns = result["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
    names = [column["Name"] for column in columns]
    parsers = [_PARSERS.get(column["Type"], str) for column in columns]
    return [
        {
            name: parse(datum["VarCharValue"]) if "VarCharValue" in datum else None
            for name, parse, datum in zip(names, parsers, row["Data"], strict=True)
        }
        for row in result["ResultSet"]["Rows"][1:]
    ]
