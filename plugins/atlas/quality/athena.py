"""Rows for the gate by Athena.

Athena returns every value as text beside the column's type
(https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html); a gate compares numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from airflow.providers.amazon.aws.hooks.athena import AthenaHook
from airflow.providers.common.compat.sdk import AirflowException

from atlas.quality.rows import Row

QUERY_SECONDS = 30 * 60

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


class AthenaRows:
    """Runs the gate's queries in Athena; see :class:`atlas.quality.rows.Rows`.

    Args:
        hook: of the account.
        database: Glue database the queries run in.
        workgroup: Athena workgroup; it says where query results go.
        catalog: Athena data catalog.
        poll_interval: seconds between two looks at a running query.
    """

    def __init__(self, hook: AthenaHook, database: str, workgroup: str, catalog: str, poll_interval: int) -> None:
        self.name = f"Athena, database {database}, workgroup {workgroup}"
        self._hook = hook
        self._context = {"Database": database, "Catalog": catalog}
        self._workgroup = workgroup
        self._poll_interval = poll_interval
        self._query_id: str | None = None

    def fetch(self, sql: str, limit: int) -> list[Row]:
        """Return the first ``limit`` rows of a query."""
        self._query_id = self._hook.run_query(sql, self._context, {}, workgroup=self._workgroup)
        state = self._hook.poll_query_status(
            self._query_id,
            max_polling_attempts=math.ceil(QUERY_SECONDS / self._poll_interval),
            sleep_time=self._poll_interval,
        )
        if state != "SUCCEEDED":
            reason = self._hook.get_state_change_reason(self._query_id)
            raise AirflowException(f"Query {self._query_id} is {state}: {reason}")
        header = 1
        pages = self._hook.get_query_results_paginator(self._query_id, max_items=limit + header)
        if pages is None:
            raise AirflowException(f"Query {self._query_id} has no result")
        return typed_rows(pages.build_full_result())

    def cancel(self) -> None:
        """Stop the query under way."""
        if self._query_id:
            self._hook.stop_query(self._query_id)
