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

from atlas.hooks.redshift_data import WarehouseHook
from atlas.quality.athena import AthenaRows
from atlas.quality.judge import Finding, judge, load_suite
from atlas.quality.redshift import RedshiftRows
from atlas.quality.rows import Row, Rows
from atlas.reports.page import PageLink, publish, render

SAMPLE_ROWS = 20
ROWS_IN_MESSAGE = 3


class QualityGateLink(PageLink):
    """Link to the gate's page."""

    name = "Quality gate"
    key = "quality_gate_page"


class QualityGateOperator(BaseOperator):
    """Judge a data set with Great Expectations and publish the verdict.

    The suite judges one row of measures (how many orders lack a customer, revenue by order, revenue by line
    item), so the data stays where it is. When an expectation that names a rule fails, the verdict shows up to
    20 offending rows: a column ``rule``, then any columns that help. The rows come from one of:

    - Athena: ``sql``, ``violations_sql``, ``database``, ``workgroup``
    - Redshift by the Data API: ``sql``, ``violations_sql``, ``database`` and ``workgroup_name`` or
      ``cluster_identifier``
    - a task that has measured already, where there is no SQL: ``measures``, ``violations``

    The verdict goes to ``<output_prefix>/<task id>.html`` and ``.json`` before the task ends, and to XCom
    whether the gate passes or not: ``{"passed": bool, "evaluated": int, "failed": [names], "html": s3
    address, "json": s3 address}``.

    Args:
        dataset: what is judged, in words.
        suite: path of the Python file of expectations.
        suite_function: the function in it that returns the list of expectations.
        sql: query of the measures, or a ``.sql`` template file.
        violations_sql: query of the offending rows, or a ``.sql`` template file.
        measures: the measures themselves, value by name.
        violations: the offending rows themselves.
        parameters: keyword arguments for the suite's function, such as totals the load is known to have;
            templated values are text.
        output_prefix: ``s3://bucket/prefix`` for the page and the document.
        database: the queries run in: a Glue database for Athena.
        workgroup: Athena workgroup; it says where query results go.
        catalog: Athena data catalog.
        workgroup_name: of Redshift Serverless.
        cluster_identifier: of a provisioned Redshift cluster.
        secret_arn: secret with the Redshift user; by default the user is the caller's IAM identity.
        poll_interval: seconds between two looks at a running query.
        aws_conn_id: Airflow connection.
        region_name: region, where the connection's is not meant.

    Raises:
        ValueError: there is no place the rows come from, or more than one.
        AirflowFailException: the gate failed; names the failed expectations with observed values, bounds and
            a few offending rows. Never retried: data does not get better by looking again.
        AirflowException: the measures could not be read, or were not exactly one row.
    """

    template_fields: Sequence[str] = (
        "dataset",
        "sql",
        "violations_sql",
        "measures",
        "violations",
        "parameters",
        "output_prefix",
        "database",
        "workgroup",
        "catalog",
        "workgroup_name",
        "cluster_identifier",
        "secret_arn",
        "aws_conn_id",
        "region_name",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar = {
        "sql": "sql",
        "violations_sql": "sql",
        "parameters": "json",
        "measures": "json",
    }
    operator_extra_links = (QualityGateLink(),)
    ui_color = "#cfe8d5"

    def __init__(
        self,
        *,
        dataset: str,
        suite: str | Path,
        suite_function: str,
        sql: str | None = None,
        violations_sql: str | None = None,
        measures: Row | None = None,
        violations: Sequence[Row] = (),
        parameters: Mapping[str, Any] | None = None,
        output_prefix: str,
        database: str | None = None,
        workgroup: str | None = None,
        catalog: str = "AwsDataCatalog",
        workgroup_name: str | None = None,
        cluster_identifier: str | None = None,
        secret_arn: str | None = None,
        poll_interval: int = 2,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        places = (measures, workgroup, workgroup_name, cluster_identifier)
        if sum(place is not None for place in places) != 1 or (measures is None) == (sql is None):
            raise ValueError(
                f"{self.task_id}: give measures, or sql with one of workgroup, workgroup_name, cluster_identifier"
            )
        self.dataset = dataset
        self.suite = str(suite)
        self.suite_function = suite_function
        self.sql = sql
        self.violations_sql = violations_sql
        self.measures = measures
        self.violations = violations
        self.parameters = parameters or {}
        self.output_prefix = output_prefix
        self.database = database
        self.workgroup = workgroup
        self.catalog = catalog
        self.workgroup_name = workgroup_name
        self.cluster_identifier = cluster_identifier
        self.secret_arn = secret_arn
        self.poll_interval = poll_interval
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self._rows: Rows | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Measure, judge, publish, and raise if the verdict is bad."""
        import pandas as pd

        suite = load_suite(self.suite, self.suite_function, self.parameters)
        rows = self._rows = self._place()
        measures = rows.fetch(str(self.sql), limit=2) if rows else [self.measures] if self.measures else []
        if len(measures) != 1:
            source = "the query returned" if rows else "the earlier task gave"
            raise AirflowException(f"{self.dataset}: the measures must be one row, {source} {len(measures)}")
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
        if self._rows:
            self._rows.cancel()

    def _place(self) -> Rows | None:
        """Return the engine that the rows come from, if they are not given."""
        if self.sql is None:
            return None
        database = str(self.database)
        if self.workgroup is not None:
            athena = AthenaHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)
            return AthenaRows(athena, database, self.workgroup, self.catalog, self.poll_interval)
        redshift = WarehouseHook(
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            database=database,
            workgroup_name=self.workgroup_name,
            cluster_identifier=self.cluster_identifier,
            secret_arn=self.secret_arn,
        )
        return RedshiftRows(redshift, self.poll_interval)

    def _samples(self, failed: Sequence[Finding]) -> tuple[list[dict[str, str | None]], str | None]:
        """Return offending rows, or why there are none; failing to read them must not hide the verdict."""
        if not any(finding.rule for finding in failed):
            return [], None
        rows = list(self.violations)[:SAMPLE_ROWS]
        try:
            if self._rows and self.violations_sql:
                rows = self._rows.fetch(self.violations_sql, limit=SAMPLE_ROWS)
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
            "source": self._rows.name if self._rows else "measures of an earlier task",
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
