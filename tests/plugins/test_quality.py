"""The quality gate: typed rows, findings, files before failure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pandas as pd
import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from botocore.exceptions import ClientError

from atlas.operators import quality
from atlas.operators.quality import QualityGateLink, QualityGateOperator
from atlas.quality.athena import typed_rows
from atlas.quality.judge import Finding, judge, load_suite

SUITE = """
import great_expectations.expectations.core as gxe

def staged(expected_orders="2"):
    return [
        gxe.ExpectColumnValuesToBeBetween(
            column="orphans", min_value=0, max_value=0,
            description="No orphan <items>", meta={"rule": "orphan"},
        ),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="by_order", column_B="by_item"),
        gxe.ExpectColumnMaxToBeBetween(
            column="orders", min_value=int(expected_orders), max_value=int(expected_orders),
        ),
    ]

def nothing():
    return []
"""
GOOD = {"orphans": ("bigint", "0"), "by_order": ("decimal", "9.10"), "by_item": ("decimal", "9.10")}
GOOD["orders"] = ("integer", "2")
BAD = GOOD | {"orphans": ("bigint", "3")}
ROWS: list[dict[str, str | None]] = [{"rule": "orphan", "item": "<script>i-1"}, {"rule": "orphan", "item": None}]


def answer(*rows: Mapping[str, tuple[str, str | None]]) -> dict[str, Any]:
    """Return a GetQueryResults answer as Athena gives it for a SELECT."""
    columns = [{"Name": name, "Type": kind} for name, (kind, _) in rows[0].items()]
    lines: list[list[str | None]] = [list(rows[0]), *([value for _, value in row.values()] for row in rows)]
    return {
        "ResultSet": {
            "ResultSetMetadata": {"ColumnInfo": columns},
            "Rows": [{"Data": [{} if value is None else {"VarCharValue": value} for value in line]} for line in lines],
        }
    }


def text_rows(rows: list[dict[str, str | None]]) -> dict[str, Any]:
    return answer(*({name: ("varchar", value) for name, value in row.items()} for row in rows))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that reaches for the network, even where the library at fault swallows the error."""
    reached = MagicMock(side_effect=OSError("no network"))
    monkeypatch.setattr("socket.socket.connect", reached)
    monkeypatch.setattr("socket.getaddrinfo", reached)
    yield
    assert reached.call_args_list == []


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("expectations") / "s00_example.py"
    file.write_text(SUITE)
    return file


class Bench:
    """A gate over a suite, with Athena and S3 replaced and a task instance that records what it is given."""

    def __init__(self, suite: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.suite = suite
        self.s3 = MagicMock(conn_region_name="eu-central-1", conn_partition="aws")
        self.s3.parse_s3_url = S3Hook.parse_s3_url
        self.athena = MagicMock()
        self.ti = MagicMock(dag_id="s00", run_id="manual__1", task_id="gate", map_index=-1)
        monkeypatch.setattr(quality, "S3Hook", MagicMock(return_value=self.s3))
        monkeypatch.setattr(quality, "AthenaHook", MagicMock(return_value=self.athena))

    def answers(self, *answers: dict[str, Any] | str) -> None:
        """Make Athena answer the queries in turn; an answer that is text is the reason a query failed."""
        results = [a for a in answers if isinstance(a, dict)]
        hook = self.athena
        hook.run_query.side_effect = [f"query-{number}" for number in range(len(answers))]
        hook.poll_query_status.side_effect = ["SUCCEEDED" if a in results else "FAILED" for a in answers]
        hook.get_state_change_reason.side_effect = [a for a in answers if isinstance(a, str)]
        hook.get_query_results_paginator.side_effect = [
            MagicMock(**{"build_full_result.return_value": result}) for result in results
        ]

    def gate(self, **changes: Any) -> QualityGateOperator:
        arguments: dict[str, Any] = {
            "dataset": "Orders & items",
            "suite": self.suite,
            "suite_function": "staged",
            "sql": "SELECT measures",
            "violations_sql": "SELECT rows",
            "output_prefix": "s3://reports/s00/",
            "database": "sales",
            "workgroup": "atlas",
        }
        return QualityGateOperator(task_id="gate", **(arguments | changes))

    def execute(self, **changes: Any) -> dict[str, Any]:
        return self.gate(**changes).execute({"ti": self.ti})

    @property
    def stored(self) -> dict[str, dict[str, Any]]:
        return {call.kwargs["Key"]: call.kwargs for call in self.s3.get_conn().put_object.call_args_list}

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.stored["s00/gate.json"]["Body"])
        return document


@pytest.fixture
def bench(suite: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(suite, monkeypatch)


def expect(kind: str, **arguments: Any) -> Any:
    return getattr(import_module("great_expectations.expectations"), kind)(**arguments)


class TestTypedRows:
    def test_values_take_the_type_athena_states(self) -> None:
        rows = typed_rows(
            answer(
                {
                    "count": ("bigint", "12"),
                    "revenue": ("decimal", "10.10"),
                    "share": ("double", "0.5"),
                    "fresh": ("boolean", "true"),
                    "day": ("date", "2024-02-29"),
                    "at": ("timestamp", "2024-02-29 01:02:03.000"),
                    "name": ("varchar", ""),
                    "gone": ("integer", None),
                }
            )
        )
        assert rows == [
            {
                "count": 12,
                "revenue": Decimal("10.10"),
                "share": 0.5,
                "fresh": True,
                "day": date(2024, 2, 29),
                "at": datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC),
                "name": "",
                "gone": None,
            }
        ]

    def test_only_the_header_is_no_row(self) -> None:
        result = answer({"count": ("bigint", "12")})
        del result["ResultSet"]["Rows"][1:]
        assert typed_rows(result) == []


class TestJudge:
    def one(self, expectation: Any, **measures: Any) -> Finding:
        (finding,) = judge(pd.DataFrame([measures]), [expectation])
        return finding

    def test_findings_keep_the_order_of_the_suite(self, suite: Path) -> None:
        frame = pd.DataFrame([{"orphans": 3, "by_order": Decimal("9.10"), "by_item": Decimal("9.11"), "orders": 2}])
        findings = judge(frame, load_suite(suite, "staged", {"expected_orders": "2"}))
        assert [(f.name, f.passed, f.observed, f.bound) for f in findings] == [
            ("orphan", False, "3", "exactly 0"),
            (
                "expect_column_pair_values_to_be_equal(by_order, by_item)",
                False,
                "by_order = 9.10, by_item = 9.11",
                "values to be equal",
            ),
            ("expect_column_max_to_be_between(orders)", True, "2", "exactly 2"),
        ]

    def test_a_missing_column_fails_with_the_reason(self) -> None:
        finding = self.one(expect("ExpectColumnMaxToBeBetween", column="revenue", min_value=0), other=1)
        assert not finding.passed
        assert '"revenue"' in (finding.error or "")

    def test_values_that_cannot_be_compared_fail_with_the_reason(self) -> None:
        finding = self.one(expect("ExpectColumnValuesToBeBetween", column="n", min_value=0), n="many")
        assert not finding.passed
        assert "same type" in (finding.error or "")

    @pytest.mark.parametrize(
        "kind",
        ["ExpectColumnValuesToBeBetween", "ExpectColumnMaxToBeBetween"],
        ids=["passed by great expectations", "failed by great expectations"],
    )
    def test_null_is_never_a_pass(self, kind: str) -> None:
        assert not self.one(expect(kind, column="n", min_value=0, max_value=1), n=None).passed

    def test_two_nulls_are_not_equal_revenue(self) -> None:
        finding = self.one(expect("ExpectColumnPairValuesToBeEqual", column_A="a", column_B="b"), a=None, b=None)
        assert not finding.passed
        assert finding.error == "nothing was judged: a, b is NULL"

    def test_null_can_be_what_is_expected(self) -> None:
        assert self.one(expect("ExpectColumnValuesToBeNull", column="n"), n=None).passed


class TestLoadSuite:
    def test_an_empty_suite_is_refused(self, suite: Path) -> None:
        with pytest.raises(ValueError, match="nothing"):
            load_suite(suite, "nothing", {})

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"absent\.py"):
            load_suite(tmp_path / "absent.py", "staged", {})

    def test_a_missing_function_is_named(self, suite: Path) -> None:
        with pytest.raises(AttributeError, match="published"):
            load_suite(suite, "published", {})


class TestOperator:
    @pytest.mark.parametrize("field", QualityGateOperator.template_fields, ids=str)
    def test_template_fields_are_attributes(self, bench: Bench, field: str) -> None:
        assert hasattr(bench.gate(), field)

    def test_a_good_data_set_passes(self, bench: Bench) -> None:
        bench.answers(answer(GOOD))
        summary = bench.execute()
        assert summary == {
            "passed": True,
            "evaluated": 3,
            "failed": [],
            "html": "s3://reports/s00/gate.html",
            "json": "s3://reports/s00/gate.json",
        }
        assert bench.athena.run_query.call_count == 1, "a passed gate needs no offending rows"
        bench.athena.run_query.assert_called_once_with(
            "SELECT measures", {"Database": "sales", "Catalog": "AwsDataCatalog"}, {}, workgroup="atlas"
        )
        written = bench.stored
        assert written["s00/gate.html"]["ContentType"] == "text/html; charset=utf-8"
        assert json.loads(written["s00/gate.json"]["Body"])["passed"] is True
        bench.ti.xcom_push.assert_called_once()
        assert bench.ti.xcom_push.call_args.kwargs["key"] == QualityGateLink.key

    def test_a_bad_data_set_writes_its_files_before_it_fails(self, bench: Bench) -> None:
        order: list[str] = []
        bench.s3.get_conn().put_object.side_effect = lambda **kwargs: order.append(kwargs["Key"])
        bench.ti.xcom_push.side_effect = lambda key, value: order.append(key)
        bench.answers(answer(BAD), text_rows(ROWS))
        with pytest.raises(AirflowFailException) as raised:
            bench.execute()
        assert order == ["s00/gate.html", "s00/gate.json", QualityGateLink.key, "return_value"]
        assert bench.ti.xcom_push.call_args.kwargs["value"]["failed"] == ["orphan"]
        assert "1 of 3 expectations failed" in str(raised.value)
        assert "orphan: observed 3, bound exactly 0" in str(raised.value)
        assert "<script>i-1" in str(raised.value)
        document = bench.document
        assert document["passed"] is False
        assert document["samples"] == ROWS
        assert document["run_id"] == "manual__1"
        assert set(document["versions"]) == {"great-expectations", "pandas", "python"}

    def test_the_page_escapes_what_it_shows(self, bench: Bench) -> None:
        bench.answers(answer(BAD), text_rows(ROWS))
        with pytest.raises(AirflowFailException):
            bench.execute()
        page = bench.stored["s00/gate.html"]["Body"].decode()
        assert "Orders &amp; items" in page
        assert "No orphan &lt;items&gt;" in page
        assert "&lt;script&gt;i-1" in page
        assert "<script" not in page
        assert "http" not in page, "a page needs nothing but itself"

    def test_an_expectation_that_raises_fails_the_gate(self, bench: Bench) -> None:
        bench.answers(answer({name: value for name, value in GOOD.items() if name != "orders"}))
        with pytest.raises(AirflowFailException, match='"orders"'):
            bench.execute()
        assert '"orders"' in bench.document["expectations"][2]["error"]

    def test_parameters_reach_the_suite(self, bench: Bench) -> None:
        bench.answers(answer(GOOD))
        with pytest.raises(AirflowFailException, match="observed 2, bound exactly 7"):
            bench.execute(parameters={"expected_orders": "7"})

    def test_a_refused_sample_query_does_not_hide_the_verdict(self, bench: Bench) -> None:
        bench.answers(answer(BAD))
        refusal = ClientError({"Error": {"Code": "InvalidRequestException"}}, "StartQueryExecution")
        bench.athena.run_query.side_effect = ["query-0", refusal]
        with pytest.raises(AirflowFailException, match="orphan: observed 3"):
            bench.execute()
        assert "InvalidRequestException" in bench.document["samples_error"]

    @pytest.mark.parametrize("row", [{"item": "i-1"}, {"rule": None, "item": "i-1"}], ids=["no column", "null"])
    def test_rows_that_name_no_rule_are_shown_all_the_same(self, bench: Bench, row: dict[str, str | None]) -> None:
        bench.answers(answer(BAD), text_rows([row]))
        with pytest.raises(AirflowFailException):
            bench.execute()
        assert bench.document["samples"] == [{"item": "i-1", "rule": "unnamed rule"}]
        assert "unnamed rule" in bench.stored["s00/gate.html"]["Body"].decode()

    def test_unreadable_samples_do_not_hide_the_verdict(self, bench: Bench) -> None:
        bench.answers(answer(BAD), "COLUMN_NOT_FOUND")
        with pytest.raises(AirflowFailException, match="orphan: observed 3"):
            bench.execute()
        assert "COLUMN_NOT_FOUND" in bench.document["samples_error"]

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            pytest.param("TABLE_NOT_FOUND", "query-0 is FAILED: TABLE_NOT_FOUND", id="query failed"),
            pytest.param(answer(GOOD, GOOD), "must be one row, the query returned 2", id="two rows"),
        ],
    )
    def test_measures_that_cannot_be_read_are_no_verdict(self, bench: Bench, result: Any, message: str) -> None:
        bench.answers(result)
        with pytest.raises(AirflowException, match=message) as raised:
            bench.execute()
        assert not isinstance(raised.value, AirflowFailException), "worth another try"
        assert bench.stored == {}

    @pytest.mark.parametrize(
        "place",
        [
            pytest.param({"workgroup_name": "atlas"}, id="serverless"),
            pytest.param({"cluster_identifier": "atlas"}, id="cluster"),
        ],
    )
    def test_a_data_set_in_redshift_is_judged_there(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch, place: dict[str, str]
    ) -> None:
        hook = MagicMock(database="sales", workgroup_name=place.get("workgroup_name"), cluster_identifier="atlas")
        hook.rows.side_effect = [
            [{"orphans": 3, "by_order": Decimal("9.10"), "by_item": Decimal("9.10"), "orders": 2}],
            [{"rule": "orphan", "item": "i-1"}],
        ]
        made = MagicMock(return_value=hook)
        monkeypatch.setattr(quality, "WarehouseHook", made)
        gate = bench.gate(workgroup=None, secret_arn="secret", **place)
        with pytest.raises(AirflowFailException, match="orphan: observed 3"):
            gate.execute({"ti": bench.ti})
        arguments = made.call_args.kwargs
        assert (arguments["database"], arguments["secret_arn"]) == ("sales", "secret")
        assert (arguments["workgroup_name"], arguments["cluster_identifier"]) == (
            place.get("workgroup_name"),
            place.get("cluster_identifier"),
        )
        assert [call.args[0] for call in hook.rows.call_args_list] == ["SELECT measures", "SELECT rows"]
        assert bench.document["samples"] == [{"rule": "orphan", "item": "i-1"}]
        assert bench.document["source"] == "Redshift, database sales, atlas"
        gate.on_kill()
        hook.cancel.assert_called_once_with()

    def test_measures_of_an_earlier_task_are_judged_as_they_are(self, bench: Bench) -> None:
        measures = {"orphans": 3, "by_order": Decimal("9.10"), "by_item": Decimal("9.10"), "orders": 2}
        violations = [{"rule": "orphan", "item": number} for number in range(30)]
        given = {"sql": None, "violations_sql": None, "database": None, "workgroup": None, "measures": measures}
        with pytest.raises(AirflowFailException, match="orphan: observed 3"):
            bench.execute(**given, violations=violations)
        assert bench.document["samples"] == [{"rule": "orphan", "item": str(number)} for number in range(20)]
        assert bench.document["source"] == "measures of an earlier task"
        assert bench.execute(**given | {"measures": measures | {"orphans": 0}})["passed"]
        bench.athena.run_query.assert_not_called()

    def test_a_task_that_measured_nothing_is_no_verdict(self, bench: Bench) -> None:
        gate = bench.gate(sql=None, workgroup=None, measures={"orders": 1})
        gate.measures = None  # rendered from a task that was skipped
        with pytest.raises(AirflowException, match="must be one row, the earlier task gave 0"):
            gate.execute({"ti": bench.ti})

    @pytest.mark.parametrize(
        "place",
        [
            pytest.param({"workgroup": None}, id="nowhere"),
            pytest.param({"workgroup_name": "atlas"}, id="two engines"),
            pytest.param({"measures": {"orders": 1}}, id="engine and measures"),
            pytest.param({"workgroup": None, "measures": {"orders": 1}}, id="sql and measures"),
            pytest.param({"sql": None}, id="no sql"),
        ],
    )
    def test_rows_come_from_one_place(self, bench: Bench, place: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="give measures, or sql with one of"):
            bench.gate(**place)

    def test_mapped_gates_do_not_overwrite_each_other(self, bench: Bench) -> None:
        bench.ti.map_index = 4
        bench.answers(answer(GOOD))
        assert bench.execute()["html"] == "s3://reports/s00/gate-4.html"

    def test_killing_the_task_stops_its_query(self, bench: Bench) -> None:
        bench.answers(answer(GOOD))
        operator = bench.gate()
        operator.on_kill()
        bench.athena.stop_query.assert_not_called()
        operator.execute({"ti": bench.ti})
        operator.on_kill()
        bench.athena.stop_query.assert_called_once_with("query-0")

    def test_the_link_leads_to_the_page_in_the_console(self) -> None:
        link = QualityGateLink()
        address = link.format_link(
            region_name="eu-central-1",
            aws_domain="aws.amazon.com",
            bucket="reports",
            object_key="s00/gate.html",
        )
        assert address == ("https://console.aws.amazon.com/s3/object/reports?region=eu-central-1&prefix=s00/gate.html")


def test_importing_the_operator_is_cheap() -> None:
    script = "import sys, atlas.operators.quality, atlas.operators.report; "
    script += "print({'pandas', 'great_expectations', 'vl_convert'} & set(sys.modules))"
    plugins = str(Path(quality.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {plugins!r}); {script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip().endswith("set()")
