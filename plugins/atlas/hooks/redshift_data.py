"""Redshift by the Data API: query results as typed rows, and what a load stumbled over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import islice
from typing import Any

from airflow.providers.amazon.aws.hooks.redshift_data import FINISHED_STATE, RUNNING_STATES, RedshiftDataHook
from airflow.providers.amazon.aws.utils import trim_none_values
from airflow.providers.common.compat.sdk import AirflowException

Row = dict[str, Any]

FIRST_PAUSE_SECONDS = 0.2
SHOWN_LOAD_ERRORS = 5

_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "numeric": Decimal,
    "date": date.fromisoformat,
    "timestamp": lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC),
    "timestamptz": lambda text: datetime.fromisoformat(text).astimezone(UTC),
}


class WarehouseHook(RedshiftDataHook):
    """The provider's hook for one database, plus typed rows.

    Args:
        database: name of the database.
        workgroup_name: of Redshift Serverless; give it or ``cluster_identifier``.
        cluster_identifier: of a provisioned cluster.
        secret_arn: secret with the database user; without it the user is the caller's IAM identity.
    """

    def __init__(
        self,
        *args: Any,
        database: str,
        workgroup_name: str | None = None,
        cluster_identifier: str | None = None,
        secret_arn: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.database = database
        self.workgroup_name = workgroup_name
        self.cluster_identifier = cluster_identifier
        self.secret_arn = secret_arn
        self.running: str | None = None
        """Id of the statement that was started or found last."""

    @property
    def client(self) -> Any:
        """The Data API client of the connection."""
        return self.get_conn()

    def start(self, sql: str | list[str], name: str | None = None, parameters: Mapping[str, str] | None = None) -> str:
        """Start a statement, or several as one transaction, and return its id.

        Args:
            sql: ``:name`` stands for a parameter.
            name: what :meth:`find_running` finds it by.
            parameters: value by name.
        """
        self.running = self.execute_query(
            sql,
            database=self.database,
            workgroup_name=self.workgroup_name,
            cluster_identifier=self.cluster_identifier,
            secret_arn=self.secret_arn,
            statement_name=name,
            parameters=[{"name": key, "value": value} for key, value in parameters.items()] if parameters else None,
            wait_for_completion=False,
        ).statement_id
        return self.running

    def find_running(self, prefix: str) -> tuple[str, str] | None:
        """Return id and name of a running statement whose name begins with ``prefix``."""
        target = {
            "Database": self.database,
            "WorkgroupName": self.workgroup_name,
            "ClusterIdentifier": self.cluster_identifier,
        }
        pages = self.client.get_paginator("list_statements").paginate(
            StatementName=prefix, Status="ALL", **trim_none_values(target)
        )
        for statement in (statement for page in pages for statement in page["Statements"]):
            if statement["Status"] in RUNNING_STATES:
                self.running = statement["Id"]
                return statement["Id"], statement["StatementName"]
        return None

    def rows(
        self,
        sql: str,
        poll_interval: float,
        parameters: Mapping[str, str] | None = None,
        limit: int | None = None,
    ) -> list[Row]:
        """Run a query and return its rows, one dict per row keyed by column name.

        Args:
            sql: one statement; ``:name`` stands for a parameter.
            poll_interval: seconds between two looks at most; the first ones come sooner.
            parameters: value by name.
            limit: return at most so many rows.

        Raises:
            AirflowException: the query failed; says why.
        """
        statement_id = self.start(sql, parameters=parameters)
        pause = FIRST_PAUSE_SECONDS
        while (description := self.client.describe_statement(Id=statement_id))["Status"] in RUNNING_STATES:
            time.sleep(min(pause, poll_interval))
            pause *= 2
        if description["Status"] != FINISHED_STATE:
            reason = description.get("Error", "no reason given")
            raise AirflowException(f"Statement {statement_id} is {description['Status']}: {reason}")
        pages = self.client.get_paginator("get_statement_result").paginate(Id=statement_id)
        return list(islice((row for page in pages for row in _typed(page)), limit))

    def cancel(self) -> None:
        """Cancel the statement that was started or found last, if it still runs."""
        if self.running and self.client.describe_statement(Id=self.running)["Status"] in RUNNING_STATES:
            self.log.info("Cancelling statement %s", self.running)
            self.client.cancel_statement(Id=self.running)

    def load_errors(self, prefix: str, since: datetime, poll_interval: float) -> list[str]:
        """Return why COPY refused rows of files below an ``s3://`` prefix: "file, line n, column c: reason".

        https://docs.aws.amazon.com/redshift/latest/dg/SYS_LOAD_ERROR_DETAIL.html
        """
        errors = self.rows(
            """
            SELECT TRIM(file_name) AS file, line_number AS line, TRIM(column_name) AS name, TRIM(error_message) AS why
            FROM sys_load_error_detail
            WHERE file_name LIKE :files AND start_time >= :since
            ORDER BY 1, 2
            """,
            poll_interval,
            {"files": f"{prefix}%", "since": f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S}"},
            limit=SHOWN_LOAD_ERRORS,
        )
        return [f"{error['file']}, line {error['line']}, column {error['name']}: {error['why']}" for error in errors]


def _typed(page: Mapping[str, Any]) -> list[Row]:
    """Return a page's rows; NUMERIC as ``Decimal``, times as aware UTC times, NULL as None, other text as it is.

    https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_GetStatementResult.html
    """
    columns = page["ColumnMetadata"]
    return [
        {
            column["name"]: _value(field, column["typeName"].lower())
            for column, field in zip(columns, record, strict=True)
        }
        for record in page["Records"]
    ]


def _value(field: Mapping[str, Any], kind: str) -> Any:
    if field.get("isNull"):
        return None
    (value,) = field.values()
    return _PARSERS.get(kind, str)(value) if isinstance(value, str) else value
