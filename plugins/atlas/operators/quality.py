"""The quality gate: judge data where it is, show the verdict, stop the run when it is bad."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from airflow.providers.amazon.aws.hooks.athena import AthenaHook
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from airflow.sdk import BaseOperator, Context
from botocore.exceptions import ClientError

from atlas.quality.athena import Row, typed_rows
from atlas.quality.judge import Finding, judge, load_suite
from atlas.reports.page import PageLink, publish, render

SAMPLE_ROWS = 20
ROWS_IN_MESSAGE = 3
ATHENA_QUERY_SECONDS = 30 * 60


class QualityGateLink(PageLink):
    """Link to the gate's page."""

    name = "Quality gate"
    key = "quality_gate_page"


class QualityGateOperator(BaseOperator):
    """Judge an Athena data set with Great Expectations and publish the verdict.

    ``sql`` returns one row of measures (how many orders lack a customer, revenue by order, revenue by line
    item); the suite judges that row, so the data stays where it is. When an expectation that names a rule
    fails, ``violations_sql`` fetches up to 20 offending rows: a column ``rule``, then any columns that help.

    The verdict goes to ``<output_prefix>/<task id>.html`` and ``.json`` before the task ends, and to XCom
    whether the gate passes or not: ``{"passed": bool, "evaluated": int, "failed": [names], "html": s3
    address, "json": s3 address}``.

    Args:
        dataset: what is judged, in words.
        suite: path of the Python file of expectations.
        suite_function: the function in it that returns the list of expectations.
        sql: query of the measures, or a ``.sql`` template file.
        violations_sql: query of the offending rows, or a ``.sql`` template file.
        parameters: keyword arguments for the suite's function, such as totals the load is known to have;
            templated values are text.
        output_prefix: ``s3://bucket/prefix`` for the page and the document.
        database: Glue database the queries run in.
        workgroup: Athena workgroup; it says where query results go.
        catalog: Athena data catalog.
        poll_interval: seconds between two looks at a running query.
        aws_conn_id: Airflow connection.
        region_name: region, where the connection's is not meant.

    Raises:
        AirflowFailException: the gate failed; names the failed expectations with observed values, bounds and
            a few offending rows. Never retried: data does not get better by looking again.
        AirflowException: the measures could not be read, or were not exactly one row.
    """

    template_fields: Sequence[str] = (
        "dataset",
        "sql",
        "violations_sql",
        "parameters",
        "output_prefix",
        "database",
        "workgroup",
        "catalog",
        "aws_conn_id",
        "region_name",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar = {"sql": "sql", "violations_sql": "sql", "parameters": "json"}
    operator_extra_links = (QualityGateLink(),)
    ui_color = "#cfe8d5"

    def __init__(
        self,
        *,
        dataset: str,
        suite: str | Path,
        suite_function: str,
        sql: str,
        violations_sql: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        output_prefix: str,
        database: str,
        workgroup: str,
        catalog: str = "AwsDataCatalog",
        poll_interval: int = 2,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset = dataset
        self.suite = str(suite)
        self.suite_function = suite_function
        self.sql = sql
        self.violations_sql = violations_sql
        self.parameters = parameters or {}
        self.output_prefix = output_prefix
        self.database = database
        self.workgroup = workgroup
        self.catalog = catalog
        self.poll_interval = poll_interval
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self._query_id: str | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Measure, judge, publish, and raise if the verdict is bad."""
        import pandas as pd

        suite = load_suite(self.suite, self.suite_function, self.parameters)
        measures = self._rows(self.sql, limit=2)
        if len(measures) != 1:
            raise AirflowException(f"{self.dataset}: the measures must be one row, the query returned {len(measures)}")
        findings = judge(pd.DataFrame(measures), suite)
        failed = [finding for finding in findings if not finding.passed]
        samples, samples_error = self._samples(failed)
        files = self._publish(context, findings, samples, samples_error)
        summary = {
            "passed": not failed,
            "evaluated": len(findings),
            "failed": [finding.name for finding in failed],
            **files,
        }
        if not failed:
            self.log.info("%s: all %d expectations passed, see %s", self.dataset, len(findings), files["html"])
            return summary
        context["ti"].xcom_push(key="return_value", value=summary)
        for finding in failed:
            self.log.error(
                "%s: %s (observed %s, bound %s)",
                finding.name,
                finding.description,
                finding.error or finding.observed,
                finding.bound,
            )
        for row in samples:
            self.log.error("Offending row: %s", row)
        raise AirflowFailException(self._message(findings, failed, samples, files["html"]))

    def on_kill(self) -> None:
        """Cancel the query under way."""
        if self._query_id:
            self._athena().stop_query(self._query_id)

    def _athena(self) -> AthenaHook:
        return AthenaHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)

    def _rows(self, sql: str, limit: int) -> list[Row]:
        athena = self._athena()
        context = {"Database": self.database, "Catalog": self.catalog}
        self._query_id = athena.run_query(sql, context, {}, workgroup=self.workgroup)
        state = athena.poll_query_status(
            self._query_id,
            max_polling_attempts=ATHENA_QUERY_SECONDS // self.poll_interval,
            sleep_time=self.poll_interval,
        )
        if state != "SUCCEEDED":
            reason = athena.get_state_change_reason(self._query_id)
            raise AirflowException(f"{self.dataset}: query {self._query_id} is {state}: {reason}")
        header = 1
        pages = athena.get_query_results_paginator(self._query_id, max_items=limit + header)
        if pages is None:
            raise AirflowException(f"{self.dataset}: query {self._query_id} has no result")
        return typed_rows(pages.build_full_result())

    def _samples(self, failed: Sequence[Finding]) -> tuple[list[dict[str, str | None]], str | None]:
        """Return offending rows, or why there are none; failing to read them must not hide the verdict."""
        if not self.violations_sql or not any(finding.rule for finding in failed):
            return [], None
        try:
            rows = self._rows(self.violations_sql, limit=SAMPLE_ROWS)
        except (AirflowException, ClientError) as error:
            self.log.exception("No sample rows")
            return [], str(error)
        return [_sample(row) for row in rows], None

    def _publish(
        self,
        context: Context,
        findings: Sequence[Finding],
        samples: Sequence[dict[str, str | None]],
        samples_error: str | None,
    ) -> dict[str, str]:
        ti = context["ti"]
        failed = [finding for finding in findings if not finding.passed]
        document = {
            "dataset": self.dataset,
            "passed": not failed,
            "evaluated": len(findings),
            "failed": [finding.name for finding in failed],
            "expectations": [asdict(finding) for finding in findings],
            "samples": samples,
            "samples_error": samples_error,
            "dag_id": ti.dag_id,
            "run_id": ti.run_id,
            "task_id": ti.task_id,
            "judged_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "source": f"Athena, database {self.database}, workgroup {self.workgroup}",
            "suite": f"{Path(self.suite).name}:{self.suite_function}",
            "versions": {
                "great-expectations": version("great-expectations"),
                "pandas": version("pandas"),
                "python": platform.python_version(),
            },
        }
        return publish(
            S3Hook(aws_conn_id=self.aws_conn_id, region_name=self.region_name),
            self.output_prefix,
            ti.task_id if ti.map_index is None or ti.map_index < 0 else f"{ti.task_id}-{ti.map_index}",
            page=render("gate.html.j2", document),
            document=document,
            link=QualityGateLink,
            context=context,
            operator=self,
        )

    def _message(
        self,
        findings: Sequence[Finding],
        failed: Sequence[Finding],
        samples: Sequence[Mapping[str, str | None]],
        page: str,
    ) -> str:
        lines = [f"{self.dataset}: {len(failed)} of {len(findings)} expectations failed. Report: {page}"]
        lines += [f"- {f.name}: observed {f.error or f.observed}, bound {f.bound}" for f in failed]
        lines += [f"- row {dict(row)}" for row in samples[:ROWS_IN_MESSAGE]]
        return "\n".join(lines)


def _sample(row: Row) -> dict[str, str | None]:
    """Return ``row`` as text, which JSON can always carry, under a rule's name whatever the query called it."""
    texts = {column: None if value is None else str(value) for column, value in row.items()}
    return texts | {"rule": texts.get("rule") or "unnamed rule"}
