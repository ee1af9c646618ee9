"""The glue code of s01: finding the load, adding it up, planning, publishing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from atlas.scenarios import s01_rds_sales_etl as scenario
from local.launcher import layout

LAKE = "lake"
PARAMS = {
    "source_uri": None,
    "orders": 0,
    "seed": 7,
    "faults": "none",
    "interval_start": None,
    "interval_end": None,
    "rows_per_range": 1000,
    "max_ranges": 4,
}
BEGINNING = "1970-01-01T00:00:00+00:00"
EARLY, NOON, LATE = (f"2026-01-05T{hour}:00:00+00:00" for hour in ("08", "12", "18"))


class Hook:
    """Airflow's S3 hook over a bucket in memory, with what was written in its order."""

    def __init__(self) -> None:
        self.objects: dict[str, str] = {}
        self.written: list[str] = []
        self.broken_prefix: str | None = None

    def list_keys(self, bucket: str, prefix: str) -> list[str]:
        assert bucket == LAKE
        return sorted(key for key in self.objects if key.startswith(prefix))

    def check_for_key(self, key: str, bucket: str) -> bool:
        assert bucket == LAKE
        return key in self.objects

    def read_key(self, key: str, bucket: str) -> str:
        assert bucket == LAKE
        return self.objects[key]

    def load_string(self, text: str, key: str, bucket: str, replace: bool) -> None:
        assert bucket == LAKE
        assert replace
        self._write(key, text)

    def load_bytes(self, content: bytes, key: str, bucket: str, replace: bool) -> None:
        self.load_string(content.decode(errors="replace"), key, bucket, replace)

    def copy_object(self, source: str, target: str, source_bucket: str, target_bucket: str) -> None:
        assert source_bucket == target_bucket == LAKE
        self._write(target, self.objects[source])

    def delete_objects(self, bucket: str, keys: list[str]) -> None:
        assert bucket == LAKE
        for key in keys:
            del self.objects[key]

    def _write(self, key: str, text: str) -> None:
        if self.broken_prefix and key.startswith(self.broken_prefix):
            raise ConnectionError(key)
        self.objects[key] = text
        self.written.append(key)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Hook:
    """A lake that the scenario sees."""
    found = Hook()
    monkeypatch.setattr(scenario, "S3Hook", lambda: found)
    return found


def load(kind: str = "sales", **more: Any) -> dict[str, Any]:
    """Return one file's part of the loading function's answer."""
    return {
        "file": "s3://lake/sources/day.csv",
        "kind": kind,
        "rows": 10,
        "loaded": 10,
        "control_total": "100.0001",
        "changed": 12,
        "rejected": 0,
        "damaged": None,
        "reasons": {},
        "quarantine": None,
        **more,
    }


def payloads(params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the loading function is asked for."""
    return [json.loads(payload) for payload in scenario.find_load(LAKE, {**PARAMS, **params})]


def test_no_load_is_asked_for_without_orders(hook: Hook) -> None:
    assert payloads({}) == []
    assert hook.written == []


def test_generated_files_are_written_and_loaded_in_calls_of_limited_length(hook: Hook) -> None:
    first, second = payloads({"orders": 5})

    assert (first["bucket"], len(first["files"]), len(second["files"])) == (LAKE, 20, 9)
    assert [file["key"] for file in first["files"] + second["files"]] == hook.written
    assert all(set(file) == {"key"} for file in first["files"] + second["files"])
    assert first["files"][0] == {"key": "s01_rds_sales_etl/sources/retail-7-rates.csv"}


def test_only_the_file_of_bad_rows_goes_unchecked(hook: Hook) -> None:
    *calls, last = payloads({"orders": 5, "faults": "bad_rows"})

    *good, bad = last["files"]
    assert bad == {
        "key": "s01_rds_sales_etl/sources/retail-7-bad_rows.csv",
        "checked": False,
        "forget_customers": True,
    }
    assert all(set(file) == {"key"} for call in calls for file in call["files"])
    assert all(set(file) == {"key"} for file in good)


def test_own_files_take_the_place_of_generated_ones(hook: Hook) -> None:
    hook.objects = {"uploads/mine/a.csv": "", "uploads/mine/readme.txt": "", "uploads/mine/b.csv.gz": ""}

    assert payloads({"orders": 5, "source_uri": "s3://lake/uploads/mine/"}) == [
        {"bucket": LAKE, "files": [{"key": "uploads/mine/a.csv"}, {"key": "uploads/mine/b.csv.gz"}]}
    ]
    assert hook.written == []


@pytest.mark.parametrize("answers", [None, [], ["[]"]])
def test_no_load_adds_up_to_nothing(answers: list[str] | None) -> None:
    totals = scenario.load_totals(answers)

    assert totals == {
        "files": [],
        "lines": 0,
        "control_total": "0",
        "rows": 0,
        "changed": 0,
        "rejected": 0,
        "damaged": 0,
        "problems": [],
    }
    scenario.check_load(totals, "0")


def test_answers_are_added_up_exactly() -> None:
    bad = load(
        file="s3://lake/sources/bad.csv",
        rows=3,
        loaded=1,
        control_total="-0.0002",
        rejected=2,
        reasons={"Quantity is not a number": 2},
        quarantine="s3://lake/quarantine/bad.csv.rejected.csv",
    )
    rates = load("rates", file="s3://lake/sources/rates.csv", control_total="0", rows=4, loaded=4, changed=4)
    answers = [json.dumps([load(), rates]), json.dumps([bad])]

    assert scenario.load_totals(answers) == {
        "files": ["day.csv", "bad.csv"],
        "lines": 11,
        "control_total": "99.9999",
        "rows": 17,
        "changed": 28,
        "rejected": 2,
        "damaged": 0,
        "problems": [
            "s3://lake/sources/bad.csv: {'Quantity is not a number': 2}, see s3://lake/quarantine/bad.csv.rejected.csv"
        ],
    }


@pytest.mark.parametrize(
    ("rejected", "limit", "fails"),
    [(0, "0", False), (1, "0", True), (1, "1.0", False), (2, "1.0", True), (2, "1.99", True), (100, "100", False)],
)
def test_the_share_of_refused_rows_is_limited(rejected: int, limit: str, fails: bool) -> None:
    totals = scenario.load_totals([json.dumps([load(rows=100, rejected=rejected, quarantine="s3://lake/q")])])

    if fails:
        with pytest.raises(
            AirflowFailException, match=rf"{rejected} of 100 rows refused \({rejected}.00 %, limit {limit} %"
        ):
            scenario.check_load(totals, limit)
    else:
        scenario.check_load(totals, limit)


def test_a_damaged_file_fails_whatever_the_limit_and_is_named() -> None:
    damaged = load(rejected=1, damaged="line 7: file is damaged from here on", quarantine="s3://lake/q")
    totals = scenario.load_totals([json.dumps([load(), damaged])])

    with pytest.raises(AirflowFailException) as error:
        scenario.check_load(totals, "100")

    assert "1 files damaged" in str(error.value)
    assert "s3://lake/sources/day.csv: line 7: file is damaged from here on, see s3://lake/q" in str(error.value)


def test_the_first_plan_has_no_watermarks(hook: Hook) -> None:
    assert json.loads(scenario.plan_request(LAKE, PARAMS)) == {
        "watermarks": {},
        "end": None,
        "rows_per_range": 1000,
        "max_ranges": 4,
    }


def test_a_plan_begins_at_the_watermarks(hook: Hook) -> None:
    hook.objects[scenario.WATERMARKS] = json.dumps({"orders": EARLY, "customers": NOON})

    assert json.loads(scenario.plan_request(LAKE, PARAMS))["watermarks"] == {"orders": EARLY, "customers": NOON}


def test_an_interval_of_ones_own_replaces_the_watermarks(hook: Hook) -> None:
    hook.objects[scenario.WATERMARKS] = json.dumps({"orders": LATE})

    request = json.loads(scenario.plan_request(LAKE, {**PARAMS, "interval_start": EARLY, "interval_end": NOON}))

    assert request["watermarks"] == {"orders": EARLY, "order_items": EARLY, "customers": EARLY}
    assert request["end"] == NOON


def test_one_extraction_a_range() -> None:
    planned = {
        "watermarks": {"orders": EARLY},
        "end": NOON,
        "interval": "a_b",
        "changed": {"orders": 2},
        "ranges": [{"after": None, "up_to": "5"}, {"after": "5", "up_to": None}],
    }
    shared = {"watermarks": {"orders": EARLY}, "end": NOON, "interval": "a_b"}

    assert [json.loads(extraction["--task"]) for extraction in scenario.extractions(planned)] == [
        {**shared, "after": None, "up_to": "5", "index": 0},
        {**shared, "after": "5", "up_to": None, "index": 1},
    ]
    assert scenario.extractions({**planned, "ranges": []}) == []
    assert scenario.plan(json.dumps(planned)) == planned


def planned(since: str = BEGINNING, end: str = NOON) -> dict[str, Any]:
    """Return a plan."""
    return {"watermarks": dict.fromkeys(scenario.TABLES, since), "end": end}


def stage(hook: Hook) -> None:
    """Stage two days, one of which no order is on any more, and the reports."""
    root = f"{scenario.ROOT}/staging"
    days = '{"order_date":"2026-01-05"}\n{"order_date":"2026-01-06"}\n'
    hook.objects |= {
        f"{root}/rebuilt_days/_SUCCESS": "",
        f"{root}/rebuilt_days/part-0.json": days,
        f"{root}/sales_lines/order_date=2026-01-05/part-0.parquet": "new",
        f"{scenario.ROOT}/published/sales_lines/order_date=2026-01-04/part-00000.parquet": "untouched",
        f"{scenario.ROOT}/published/sales_lines/order_date=2026-01-05/part-00000.parquet": "old",
        f"{scenario.ROOT}/published/sales_lines/order_date=2026-01-06/part-00000.parquet": "old",
        **{f"{root}/{name}/part-0.parquet": name for name in scenario.DATA_SETS},
    }


def watermarks(hook: Hook) -> dict[str, str] | None:
    """Return the watermarks in the lake."""
    text = hook.objects.get(scenario.WATERMARKS)
    return json.loads(text) if text else None


def test_rebuilt_days_and_reports_are_published_then_the_watermarks_move(hook: Hook) -> None:
    stage(hook)

    assert scenario.publish(LAKE, planned()) == {"days": 2, "objects": 7}

    published = {key: body for key, body in hook.objects.items() if "/published/" in key}
    assert published == {
        f"{scenario.ROOT}/published/sales_lines/order_date=2026-01-04/part-00000.parquet": "untouched",
        f"{scenario.ROOT}/published/sales_lines/order_date=2026-01-05/part-00000.parquet": "new",
        **{f"{scenario.ROOT}/published/{name}/part-00000.parquet": name for name in scenario.DATA_SETS},
    }
    assert watermarks(hook) == dict.fromkeys(scenario.TABLES, NOON)
    assert hook.written[-1] == scenario.WATERMARKS


def test_a_crash_before_the_end_leaves_the_watermarks(hook: Hook) -> None:
    stage(hook)
    hook.objects[scenario.WATERMARKS] = json.dumps(dict.fromkeys(scenario.TABLES, EARLY))
    hook.broken_prefix = f"{scenario.ROOT}/published/{scenario.DATA_SETS[-1]}/"

    with pytest.raises(ConnectionError):
        scenario.publish(LAKE, planned(EARLY))
    assert watermarks(hook) == dict.fromkeys(scenario.TABLES, EARLY)

    hook.broken_prefix = None
    assert scenario.publish(LAKE, planned(EARLY)) == {"days": 2, "objects": 7}
    assert watermarks(hook) == dict.fromkeys(scenario.TABLES, NOON)


@pytest.mark.parametrize(
    ("known", "since", "end", "expected"),
    [
        pytest.param(EARLY, EARLY, NOON, NOON, id="the next interval"),
        pytest.param(LATE, EARLY, NOON, LATE, id="an old interval again"),
        pytest.param(NOON, EARLY, LATE, LATE, id="an old interval and more"),
        pytest.param(EARLY, NOON, LATE, EARLY, id="after a gap"),
        pytest.param("2026-01-05T09:00:00+01:00", EARLY, NOON, NOON, id="the same time in another zone"),
        pytest.param(EARLY, EARLY, "2026-01-05T08:00:00.000001+00:00", "2026-01-05T08:00:00.000001+00:00", id="a tick"),
        pytest.param(None, BEGINNING, NOON, NOON, id="the first"),
        pytest.param(None, EARLY, NOON, None, id="the first after a gap"),
    ],
)
def test_watermarks_move_forward_and_over_no_gap(
    hook: Hook, known: str | None, since: str, end: str, expected: str | None
) -> None:
    stage(hook)
    if known:
        hook.objects[scenario.WATERMARKS] = json.dumps(dict.fromkeys(scenario.TABLES, known))

    scenario.publish(LAKE, planned(since, end))

    assert watermarks(hook) == (dict.fromkeys(scenario.TABLES, expected) if expected else {})


def test_the_beginning_is_that_of_the_planning_function() -> None:
    source = (layout.REPOSITORY / "include/lambdas/s01_rds_sales_etl/plan_extraction.py").read_text()
    assert f'BEGINNING = "{scenario.BEGINNING}"' in source
