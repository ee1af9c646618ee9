"""The run report: one page that says what a run did, whatever happened to it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.exceptions import S3HookUriParseFailure
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.sdk import BaseOperator, Context, TriggerRule
from botocore.exceptions import ClientError
from jinja2 import UndefinedError

from atlas.reports.charts import MAX_BYTES, Chart, Table, numeric_columns, read_csv, svg
from atlas.reports.outcomes import Outcome, finished_tasks, shortfalls
from atlas.reports.page import PageLink, publish, render

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SUBJECT_LENGTH = 99


class RunReportLink(PageLink):
    """Link to the run's report."""

    name = "Report"
    key = "run_report_page"


class NotAvailableError(ValueError):
    """An input of the report is not there; the text says why, for the reader of the page."""


class RunReportOperator(BaseOperator):
    """Publish a page about the run so far: tasks, facts, gates, charts, tables.

    It runs whatever happened before it (``all_done``). An input that is missing because its task did not
    succeed is named as such in the page. The page is ``<output_prefix>/<task id>.html``, its machine-readable
    twin ``.json``.

    Args:
        title: of the scenario.
        output_prefix: ``s3://bucket/prefix`` for the page and the document (templated).
        watched: ids of the tasks that have to succeed for the run to count as a success.
        optional: those of them that may be skipped.
        interval: the interval the run is about, in UTC (templated); the run's data interval where it is not
            given.
        facts: name to value (values templated).
        gates: task ids of the quality gates.
        charts: charts to draw.
        tables: tables to show.
        aws_conn_id: Airflow connection (templated).
        region_name: region, where the connection's is not meant (templated).

    Returns:
        ``{"html": s3 address, "json": s3 address, "state": "success" | "failed", "subject": ..., "message":
        ...}``. ``subject`` is plain ASCII below 100 characters, as Amazon SNS asks
        (https://docs.aws.amazon.com/sns/latest/api/API_Publish.html).
    """

    template_fields: Sequence[str] = ("title", "output_prefix", "interval", "aws_conn_id", "region_name")
    operator_extra_links = (RunReportLink(),)
    ui_color = "#d6e4f5"

    def __init__(
        self,
        *,
        title: str,
        output_prefix: str,
        watched: Sequence[str],
        optional: Sequence[str] = (),
        interval: str | None = None,
        facts: Mapping[str, str] | None = None,
        gates: Sequence[str] = (),
        charts: Sequence[Chart] = (),
        tables: Sequence[Table] = (),
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        trigger_rule: str = TriggerRule.ALL_DONE,
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.title = title
        self.output_prefix = output_prefix
        self.watched = watched
        self.optional = optional
        self.interval = interval
        self.facts = facts or {}
        self.gates = gates
        self.charts = charts
        self.tables = tables
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def execute(self, context: Context) -> dict[str, str]:
        """Gather what there is, say what there is not, and publish the page."""
        ti = context["ti"]
        outcomes = finished_tasks(ti)
        bad = shortfalls(outcomes, self.watched, self.optional)
        inputs = _Inputs(self, context, outcomes)
        state = "failed" if bad else "success"
        document: dict[str, Any] = {
            "title": self.title,
            "dag_id": ti.dag_id,
            "run_id": ti.run_id,
            "interval": self.interval or _data_interval(context),
            "state": state,
            "shortfalls": bad,
            "reported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "facts": [inputs.fact(name, value) for name, value in self.facts.items()],
            "gates": [inputs.gate(task_id) for task_id in self.gates],
            "tables": [inputs.table(table) for table in self.tables],
            "charts": [inputs.chart(chart) for chart in self.charts],
            "tasks": _tasks(outcomes, context),
        }
        files = publish(
            inputs.s3,
            self.output_prefix,
            ti.task_id,
            page=render("run.html.j2", document),
            document={key: value for key, value in document.items() if key != "charts"},
            link=RunReportLink,
            context=context,
            operator=self,
        )
        return {
            **files,
            "state": state,
            "subject": _subject(self.title, state),
            "message": _message(document, files["html"]),
        }


class _Inputs:
    """Reads what the report shows; each method returns the content or, as ``missing``, why there is none."""

    def __init__(self, operator: RunReportOperator, context: Context, outcomes: Sequence[Outcome]) -> None:
        self._operator = operator
        self._context = context
        self._environment = operator.get_template_env(context["dag"])
        self._unsuccessful = dict.fromkeys(o.task_id for o in outcomes if o.state != "success")
        self.s3 = S3Hook(aws_conn_id=operator.aws_conn_id, region_name=operator.region_name)

    def fact(self, name: str, template: str) -> dict[str, Any]:
        return {"name": name, **_attempt(lambda: {"value": self._render(template)})}

    def gate(self, task_id: str) -> dict[str, Any]:
        def verdict() -> dict[str, Any]:
            summary = self._context["ti"].xcom_pull(task_ids=task_id)
            if not summary:
                raise NotAvailableError(self._blame(f"'{task_id}'") or f"task {task_id} left no verdict")
            document: dict[str, Any] = json.loads(self._read(summary["json"]))
            return document

        return {"dataset": task_id, **_attempt(verdict)}

    def chart(self, chart: Chart) -> dict[str, Any]:
        return {"title": chart.title, **_attempt(lambda: {"svg": svg(chart, self._csv(chart.data)[1])})}

    def table(self, table: Table) -> dict[str, Any]:
        def content() -> dict[str, Any]:
            columns, rows = self._csv(table.data)
            return {
                "columns": columns,
                "numeric": numeric_columns(columns, rows),
                "rows": rows[: table.limit],
                "total": len(rows),
            }

        return {"title": table.title, **_attempt(content)}

    def _render(self, template: str) -> str:
        try:
            text = str(self._operator.render_template(template, self._context, self._environment))
        except (UndefinedError, TypeError, ValueError) as error:
            raise NotAvailableError(self._blame(template) or str(error)) from error
        if text == "None":
            raise NotAvailableError(self._blame(template) or "it has no value")
        return text

    def _csv(self, template: str) -> tuple[list[str], list[dict[str, str]]]:
        address = self._render(template)
        try:
            return read_csv(self._read(address))
        except ValueError as error:
            raise NotAvailableError(self._blame(template) or f"{address}: {error}") from error

    def _read(self, address: str) -> bytes:
        try:
            bucket, key = S3Hook.parse_s3_url(address)
            client: S3Client = self.s3.get_conn()
            answer = client.get_object(Bucket=bucket, Key=key)
        except S3HookUriParseFailure as error:
            raise NotAvailableError("not an S3 address") from error
        except ClientError as error:
            raise NotAvailableError(f"could not be read ({error.response['Error']['Code']})") from error
        if answer["ContentLength"] > MAX_BYTES:
            raise NotAvailableError(f"{answer['ContentLength']} bytes are too many for a page")
        return answer["Body"].read()

    def _blame(self, template: str) -> str:
        """Return which unsuccessful tasks a template names, in words; empty if it names none."""
        named = [t for t in self._unsuccessful if f"'{t}'" in template or f'"{t}"' in template]
        return f"task {', '.join(named)} did not succeed" if named else ""


def _attempt(content: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return {"missing": None, **content()}
    except ValueError as error:
        return {"missing": str(error)}


def _data_interval(context: Context) -> str:
    start, end = context["dag_run"].data_interval_start, context["dag_run"].data_interval_end
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}" if start and end else "none: started by hand"


def _tasks(outcomes: Sequence[Outcome], context: Context) -> list[dict[str, str]]:
    """Return every task of the DAG in the order the DAG file names them, those still to end included."""
    ended: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        ended.setdefault(outcome.task_id, []).append(outcome)
    tasks = []
    for task_id in context["dag"].task_ids:
        tasks += [
            {"label": outcome.label, "state": outcome.state, "duration": _duration(outcome.seconds)}
            for outcome in ended.get(task_id, ())
        ] or [{"label": task_id, "state": "not finished", "duration": ""}]
    return tasks


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {int(rest):02d} s" if minutes else f"{rest:.1f} s"


def _subject(title: str, state: str) -> str:
    """Return the notice's subject line; the title is shortened, never the state."""
    ending = f": {state}"
    plain = "".join(character if " " <= character <= "~" else "?" for character in title)
    return f"{plain[: SUBJECT_LENGTH - len(ending)]}{ending}"


def _message(document: Mapping[str, Any], page: str) -> str:
    lines = [f"{document['title']}: {document['state']}", "", f"Run: {document['run_id']}"]
    lines.append(f"Interval (UTC): {document['interval']}")
    lines += [f"Did not succeed: {shortfall}" for shortfall in document["shortfalls"]]
    for gate in document["gates"]:
        if gate["missing"]:
            lines.append(f"Gate {gate['dataset']}: not available, {gate['missing']}")
        elif gate["passed"]:
            lines.append(f"Gate {gate['dataset']}: all {gate['evaluated']} expectations passed")
        else:
            lines.append(f"Gate {gate['dataset']}: failed {', '.join(gate['failed'])}")
    lines += [
        f"{fact['name']}: not available, {fact['missing']}" if fact["missing"] else f"{fact['name']}: {fact['value']}"
        for fact in document["facts"]
    ]
    return "\n".join([*lines, "", f"Report: {page}"])
