"""The run report: what it shows, what it says is missing, how it announces itself."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TriggerRule
from botocore.exceptions import ClientError

from atlas.operators import report
from atlas.operators.report import RunReportLink, RunReportOperator
from atlas.reports.charts import MAX_BYTES, Chart, Table, numeric_columns, read_csv, svg

TREND = b"""day,country,revenue
"2024-01-01","<b>DE","10.50"
"2024-01-02","<b>DE",""
"2024-01-03","<b>DE","7"
"""
LINE = Chart("Revenue", "s3://lake/trend.csv", "day:T", "revenue:Q", "Day (UTC)", "Revenue (EUR)", color="country:N")
GATE = {
    "dataset": "Orders",
    "passed": False,
    "evaluated": 2,
    "failed": ["orphan"],
    "expectations": [
        {
            "name": "orphan",
            "description": "No orphan",
            "observed": "3",
            "bound": "exactly 0",
            "passed": False,
            "error": None,
        }
    ],
    "samples": [{"rule": "orphan", "item": "<i>17"}],
    "samples_error": None,
}


class FakeS3:
    """Objects by address, with the errors of S3."""

    conn_region_name = "eu-central-1"
    conn_partition = "aws"
    parse_s3_url = staticmethod(S3Hook.parse_s3_url)

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    def get_conn(self) -> FakeS3:
        return self

    def get_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803 - as S3 names them
        address = f"s3://{Bucket}/{Key}"
        if address not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        body = self.objects[address]
        return {"ContentLength": len(body), "Body": io.BytesIO(body)}

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, ContentType: str) -> None:  # noqa: N803
        assert ContentType
        self.objects[f"s3://{Bucket}/{Key}"] = Body


class FakeTaskInstance:
    """What the report asks of its task instance; plain methods, for templates may call nothing else."""

    dag_id = "s00"
    run_id = "manual__1"
    task_id = "report"
    map_index = -1

    def __init__(self, states: dict[str, str]) -> None:
        self.states = states
        self.xcoms: dict[str, Any] = {"extract": {"rows": 12}}
        self.pushed: dict[str, Any] = {}

    def xcom_pull(self, task_ids: str) -> Any:
        return self.xcoms.get(task_ids)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_task_breadcrumbs(self, dag_id: str, run_id: str) -> Iterator[dict[str, Any]]:
        assert (dag_id, run_id) == (self.dag_id, self.run_id)
        for task_id, state in self.states.items():
            yield {"task_id": task_id, "map_index": -1, "state": state, "operator": "X", "duration": 61.2}


class Run:
    """A run of a DAG of four tasks and the report, executed without a scheduler."""

    def __init__(self, s3: FakeS3, **states: str) -> None:
        self.s3 = s3
        self.ti = FakeTaskInstance({"extract": "success", "gate": "success", "publish": "success", **states})

    def report(self, **arguments: Any) -> dict[str, str]:
        with DAG("s00", schedule=None) as dag:
            for task_id in ("extract", "gate", "publish"):
                EmptyOperator(task_id=task_id)
            operator = RunReportOperator(
                task_id="report",
                **{
                    "title": "Sales & trends",
                    "output_prefix": "s3://reports/s00",
                    "watched": ["extract", "gate", "publish"],
                    **arguments,
                },
            )
            EmptyOperator(task_id="verdict")
        day = datetime(2024, 1, 1, tzinfo=UTC)
        dag_run = MagicMock(data_interval_start=day, data_interval_end=day.replace(day=2))
        context: Any = {"ti": self.ti, "dag": dag, "dag_run": dag_run}
        return operator.execute(context)

    @property
    def page(self) -> str:
        return self.s3.objects["s3://reports/s00/report.html"].decode()

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.s3.objects["s3://reports/s00/report.json"])
        return document


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    fake = FakeS3({"s3://lake/trend.csv": TREND, "s3://gates/gate.json": json.dumps(GATE).encode()})
    monkeypatch.setattr(report, "S3Hook", MagicMock(return_value=fake, parse_s3_url=fake.parse_s3_url))
    return fake


class TestOperator:
    @pytest.mark.parametrize("field", RunReportOperator.template_fields, ids=str)
    def test_template_fields_are_attributes(self, field: str) -> None:
        operator = RunReportOperator(task_id="report", title="T", output_prefix="s3://b", watched=[])
        assert hasattr(operator, field)

    def test_it_runs_whatever_happened_before(self) -> None:
        operator = RunReportOperator(task_id="report", title="T", output_prefix="s3://b", watched=[])
        assert operator.trigger_rule == TriggerRule.ALL_DONE

    def test_a_good_run(self, s3: FakeS3) -> None:
        run = Run(s3)
        result = run.report(
            facts={"Rows": "{{ ti.xcom_pull('extract')['rows'] }}"},
            charts=[LINE],
            tables=[Table("Trend", LINE.data, 2)],
        )
        assert result["state"] == "success"
        assert result["html"] == "s3://reports/s00/report.html"
        assert result["json"] == "s3://reports/s00/report.json"
        assert result["subject"] == "Sales & trends: success"
        assert "Rows: 12" in result["message"]
        assert "Interval (UTC): 2024-01-01 00:00 to 2024-01-02 00:00" in result["message"]
        assert "Sales &amp; trends" in run.page
        assert "Revenue (EUR)" in run.page
        assert "First 2 of 3 rows" in run.page
        assert "Not available" not in run.page
        assert run.document["tasks"][0] == {"label": "extract", "state": "success", "duration": "1 min 01 s"}
        assert [task["label"] for task in run.document["tasks"]] == [
            "extract",
            "gate",
            "publish",
            "report",
            "verdict",
        ]
        assert run.document["tasks"][-1]["state"] == "not finished"
        assert list(run.ti.pushed) == [RunReportLink.key]

    def test_a_failed_gate_is_shown_with_its_rows(self, s3: FakeS3) -> None:
        run = Run(s3, gate="failed", publish="upstream_failed")
        run.ti.xcoms["gate"] = {"passed": False, "json": "s3://gates/gate.json"}
        result = run.report(gates=["gate"])
        assert result["state"] == "failed"
        assert result["subject"] == "Sales & trends: failed"
        assert "Did not succeed: gate: failed" in result["message"]
        assert "Gate Orders: failed orphan" in result["message"]
        assert "No orphan" in run.page
        assert "&lt;i&gt;17" in run.page
        assert "<i>17" not in run.page
        assert run.document["gates"][0]["samples"] == GATE["samples"]

    @pytest.mark.parametrize(
        ("arguments", "where"),
        [
            pytest.param({"facts": {"X": "{{ ti.xcom_pull('publish')['rows'] }}"}}, "facts", id="fact"),
            pytest.param({"facts": {"X": "{{ ti.xcom_pull('publish') }}"}}, "facts", id="fact without a value"),
            pytest.param(
                {"facts": {"X": "{{ '%.2f' | format(ti.xcom_pull('publish')) }}"}},
                "facts",
                id="formatted fact",
            ),
            pytest.param({"gates": ["publish"]}, "gates", id="gate"),
            pytest.param({"tables": [Table("X", "s3://lake/{{ ti.xcom_pull('publish') }}.csv")]}, "tables", id="table"),
            pytest.param({"tables": [Table("X", "{{ ti.xcom_pull('publish') or '' }}")]}, "tables", id="no address"),
        ],
    )
    def test_what_a_failed_task_owes_is_named(self, s3: FakeS3, arguments: dict[str, Any], where: str) -> None:
        run = Run(s3, publish="failed")
        run.report(**arguments)
        assert run.document[where][0]["missing"] == "task publish did not succeed"
        assert "Not available: task publish did not succeed" in run.page

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            pytest.param("s3://lake/absent.csv", "s3://lake/absent.csv: could not be read (NoSuchKey)", id="absent"),
            pytest.param("s3://lake/empty.csv", "s3://lake/empty.csv: it is empty", id="empty"),
            pytest.param("s3://lake/huge.csv", f"{MAX_BYTES + 1} bytes are too many", id="huge"),
            pytest.param("s3://lake/other.csv", "it has no column &#39;day&#39;", id="other columns"),
        ],
    )
    def test_a_chart_without_data_says_why(self, s3: FakeS3, data: str, reason: str) -> None:
        s3.objects |= {
            "s3://lake/empty.csv": b"",
            "s3://lake/huge.csv": b"x" * (MAX_BYTES + 1),
            "s3://lake/other.csv": b"week,revenue\n1,2\n",
        }
        run = Run(s3)
        result = run.report(charts=[Chart("Revenue", data, "day:T", "revenue:Q", "Day", "EUR")])
        assert reason in run.page
        assert result["state"] == "success"

    @pytest.mark.parametrize(
        ("title", "subject"),
        [
            pytest.param("Größe\nund mehr", "Gr??e?und mehr: success", id="not ascii"),
            pytest.param("x" * 200, "x" * 90 + ": success", id="too long"),
        ],
    )
    def test_the_subject_is_one_sns_accepts(self, s3: FakeS3, title: str, subject: str) -> None:
        assert Run(s3).report(title=title)["subject"] == subject
        assert len(subject) < 100

    def test_the_page_needs_nothing_but_itself(self, s3: FakeS3) -> None:
        run = Run(s3)
        run.report(charts=[LINE])
        assert "<svg" in run.page
        assert "<script" not in run.page
        assert "src=" not in run.page
        assert "<link" not in run.page
        assert "url(" not in run.page


class TestCharts:
    def test_text_in_the_data_is_escaped_and_takes_the_page_s_colour(self) -> None:
        drawing = svg(LINE, read_csv(TREND)[1])
        assert "&lt;b&gt;DE" in drawing
        assert "<b>DE" not in drawing
        assert set(re.findall(r'<text[^>]* fill="([^"]*)"', drawing)) == {"currentColor"}

    @pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
    def test_days_do_not_move_with_the_time_zone_of_the_worker(self, zone: str) -> None:
        script = """
from atlas.reports.charts import Chart, svg
chart = Chart("T", "s3://b/k", "day:T", "n:Q", "Day (UTC)", "Count")
print(svg(chart, [{"day": f"2024-01-{day}", "n": "1"} for day in range(15, 21)]))
"""
        plugins = str(Path(report.__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={"TZ": zone, "PYTHONPATH": plugins},
            capture_output=True,
            text=True,
            check=True,
        )
        days = re.findall(r">((?:Sun|Mon|Tue|Wed|Thu|Fri|Sat) [0-9]+)</text>", done.stdout)
        assert days == ["Mon 15", "Tue 16", "Wed 17", "Thu 18", "Fri 19", "Sat 20"]
        assert 'd="M0,0L180,0L360,0L540,0L720,0L900,0"' in done.stdout, "each point on its day's tick"

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            pytest.param(b"soon,DE,1", "column 'day' holds 'soon', which is not temporal", id="time"),
            pytest.param(b"2024-01-01,DE,much", "'revenue' holds 'much', which is not quantitative", id="number"),
        ],
    )
    def test_a_value_of_another_kind_is_named(self, row: bytes, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            svg(LINE, read_csv(b"day,country,revenue\n" + row)[1])

    def test_numbers_are_recognised_by_column(self) -> None:
        columns, rows = read_csv(b"a,b,c,d\n1,x,,1.50\n2,3,,\n")
        assert numeric_columns(columns, rows) == ["a", "d"]
