"""Runs the transform of s01 over small inline tables; needs Spark, so it runs in the environment of the embedded AWS.

Standard input: by case, a list of intervals; each gives by source table a list of rows (column to text or null).
Standard output: by case and interval, what is staged, by data set a list of rows as JSON objects.
Intervals of a case follow one another: what is staged in one is published before the next, without Spark's help.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

SCRIPT = Path(__file__).resolve().parents[2] / "include" / "glue_scripts" / "s01_rds_sales_etl_transform.py"
COLUMNS = {
    "orders": {
        "invoice_no": "string",
        "customer_id": "string",
        "country": "string",
        "currency": "string",
        "ordered_at": "timestamp",
        "source_file": "string",
        "updated_at": "timestamp",
    },
    "order_items": {
        "invoice_no": "string",
        "line_no": "int",
        "stock_code": "string",
        "description": "string",
        "quantity": "int",
        "unit_price": "decimal(12, 4)",
        "deleted": "boolean",
        "updated_at": "timestamp",
    },
    "customers": {"customer_id": "string", "country": "string", "updated_at": "timestamp"},
    "exchange_rates": {"currency": "string", "rate_date": "date", "rate": "decimal(12, 6)"},
}
"""What Spark's JDBC source makes of the sales source's columns."""


def table(spark: SparkSession, columns: dict[str, str], rows: list[dict[str, str | None]]) -> DataFrame:
    """Return ``rows`` with the types of ``columns``."""
    texts = spark.createDataFrame(
        [tuple(row[name] for name in columns) for row in rows], ", ".join(f"{name} string" for name in columns)
    )
    return texts.select(*(f.col(name).cast(kind) for name, kind in columns.items()))


def staged(frames: dict[str, DataFrame]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all ``frames`` as Spark writes them as JSON, collected at once; numbers stay texts."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in frames}
    parts = [
        frame.select(f.lit(name).alias("name"), f.to_json(f.struct("*"), {"ignoreNullFields": "false"}).alias("row"))
        for name, frame in frames.items()
    ]
    everything = parts[0]
    for part in parts[1:]:
        everything = everything.unionAll(part)
    for name, row in everything.collect():
        found[name].append(json.loads(row, parse_float=str))
    return found


def run(spark: SparkSession, transform: ModuleType, intervals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stage and publish ``intervals`` one after the other."""
    lines = spark.createDataFrame([], transform.LINES).collect()
    customers = spark.createDataFrame([], transform.CUSTOMERS).collect()
    answers = []
    for interval in intervals:
        for name, columns in COLUMNS.items():
            table(spark, columns, interval[name]).createOrReplaceTempView(name)
        spark.createDataFrame(lines, transform.LINES).createOrReplaceTempView("published_lines")
        spark.createDataFrame(customers, transform.CUSTOMERS).createOrReplaceTempView("published_customers")
        frames = transform.stage(spark, "GBP")
        answers.append(staged(frames))
        days = {row["order_date"] for row in frames["rebuilt_days"].collect()}
        lines = [row for row in lines if row["order_date"] not in days] + frames["sales_lines"].collect()
        customers = frames["customers"].collect()
        spark.catalog.clearCache()
    return answers


def main() -> None:
    """Run all cases in one Spark."""
    specification = importlib.util.spec_from_file_location("transform", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    transform = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(transform)
    cases = json.load(sys.stdin)
    spark = SparkSession.builder.getOrCreate()
    answers = {name: run(spark, transform, intervals) for name, intervals in cases.items()}
    spark.stop()
    print(json.dumps(answers))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
