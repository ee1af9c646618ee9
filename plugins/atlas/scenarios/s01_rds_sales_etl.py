"""Sales from RDS to the lake: finding the load, adding it up, planning, publishing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowFailException

from atlas.lake import promote
from atlas.loadgen.files import list_files, put_files
from atlas.loadgen.retail import generate

ROOT = "s01_rds_sales_etl"
WATERMARKS = f"{ROOT}/state/watermarks.json"
FILES_PER_CALL = 20
"""A function call may take five minutes; a day of the UCI data takes about a second."""
BEGINNING = "1970-01-01T00:00:00+00:00"
"""The watermark of a table that was never published, as plan_extraction has it."""
TABLES = ("orders", "order_items", "customers")
DATA_SETS = ("customers", "daily_sales", "weekly_sales", "top_products", "customer_segments", "customer_months")


def find_load(lake: str, params: dict[str, Any]) -> list[str]:
    """Return the payloads of the loading function, having generated the files unless the user brings some."""
    s3 = S3Hook()
    if params["source_uri"]:
        files: list[dict[str, Any]] = [{"key": key} for key in list_files(s3, lake, params["source_uri"])]
    elif params["orders"]:
        load = generate(params["seed"], params["orders"], fault=params["faults"])
        keys = put_files(s3, lake, f"{ROOT}/sources", load.files)
        # These rows are to arrive as if some application had written them to the database itself.
        unchecked = {"checked": False, "forget_customers": True}
        files = [
            {"key": key, **(unchecked if name == load.bad_file else {})}
            for name, key in zip(load.files, keys, strict=True)
        ]
    else:
        files = []
    return [
        json.dumps({"bucket": lake, "files": files[start : start + FILES_PER_CALL]})
        for start in range(0, len(files), FILES_PER_CALL)
    ]


def load_totals(answers: Sequence[str] | None) -> dict[str, Any]:
    """Add up the loading function's answers (None when no load was asked for).

    Returns:
        ``files`` (names), ``lines`` and ``control_total`` of the sales files; ``rows``, ``changed``, ``rejected``,
        ``damaged`` (files) and ``problems`` (texts) of all files.
    """
    loads = [load for answer in answers or [] for load in json.loads(answer)]
    sales = [load for load in loads if load["kind"] == "sales"]
    return {
        "files": [load["file"].rsplit("/", 1)[-1] for load in sales],
        "lines": sum(load["loaded"] for load in sales),
        "control_total": str(sum((Decimal(load["control_total"]) for load in sales), Decimal(0))),
        "rows": sum(load["rows"] for load in loads),
        "changed": sum(load["changed"] for load in loads),
        "rejected": sum(load["rejected"] for load in loads),
        "damaged": sum(bool(load["damaged"]) for load in loads),
        "problems": [
            f"{load['file']}: {load['damaged'] or load['reasons']}, see {load['quarantine']}"
            for load in loads
            if load["rejected"]
        ],
    }


def check_load(totals: dict[str, Any], tolerated_percent: str) -> None:
    """Fail for a damaged file or too many refused rows; the good rows have gone on all the same.

    Raises:
        AirflowFailException: names the files, what is wrong with them and where the refused rows are.
    """
    percent = 100 * totals["rejected"] / max(totals["rows"], 1)
    if totals["damaged"] or percent > float(tolerated_percent):
        raise AirflowFailException(
            f"{totals['rejected']} of {totals['rows']} rows refused ({percent:.2f} %, limit {tolerated_percent} %), "
            f"{totals['damaged']} files damaged:\n" + "\n".join(totals["problems"])
        )


def plan_request(lake: str, params: dict[str, Any]) -> str:
    """Return the payload of the planning function: since when, until when, in how many pieces."""
    start = params["interval_start"]
    watermarks = dict.fromkeys(TABLES, start) if start else _watermarks(S3Hook(), lake)
    return json.dumps(
        {
            "watermarks": watermarks,
            "end": params["interval_end"],
            "rows_per_range": params["rows_per_range"],
            "max_ranges": params["max_ranges"],
        }
    )


def plan(answer: str) -> dict[str, Any]:
    """Return the planning function's answer, for templates to refer to."""
    planned: dict[str, Any] = json.loads(answer)
    return planned


def extractions(plan: dict[str, Any]) -> list[dict[str, str]]:
    """Return the arguments of one extraction per range of ``plan``; none when nothing has changed."""
    shared = {name: plan[name] for name in ("watermarks", "end", "interval")}
    return [{"--task": json.dumps({**shared, **piece, "index": index})} for index, piece in enumerate(plan["ranges"])]


def publish(lake: str, plan: dict[str, Any]) -> dict[str, int]:
    """Promote what was staged, then move the watermarks: in this order, so that a crash repeats the interval.

    Watermarks never move back, and not over a gap: an interval that begins after a watermark leaves it where it is.

    Returns:
        ``days`` rebuilt and ``objects`` published.
    """
    s3 = S3Hook()
    days_keys = [key for key in s3.list_keys(lake, f"{ROOT}/staging/rebuilt_days/") if key.endswith(".json")]
    days = [json.loads(line)["order_date"] for key in days_keys for line in s3.read_key(key, lake).splitlines()]
    data_sets = [*(f"sales_lines/order_date={day}" for day in days), *DATA_SETS]
    objects = sum(promote(s3, lake, f"{ROOT}/staging/{name}", f"{ROOT}/published/{name}") for name in data_sets)
    watermarks, end = _watermarks(s3, lake), datetime.fromisoformat(plan["end"])
    for table, since in plan["watermarks"].items():
        known = datetime.fromisoformat(watermarks.get(table, BEGINNING))
        if datetime.fromisoformat(since) <= known < end:
            watermarks[table] = plan["end"]
    s3.load_string(json.dumps(watermarks), WATERMARKS, lake, replace=True)
    return {"days": len(days), "objects": objects}


def _watermarks(s3: S3Hook, lake: str) -> dict[str, str]:
    """Return up to when each table is published; nothing before the first publication."""
    watermarks: dict[str, str] = json.loads(s3.read_key(WATERMARKS, lake)) if s3.check_for_key(WATERMARKS, lake) else {}
    return watermarks
