"""Runs the transform of s01 over small inline tables; needs Spark, so it runs in the environment of the embedded AWS.

Standard input: by case, a list of intervals; each gives by source table a list of rows (column to text or null).
Standard output: by case and interval, what is staged, by data set a list of rows as JSON objects
(amounts, days and times as text).
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


def table(spark: SparkSession, columns: dict[str, str], rows: list[dict[str, Any]]) -> DataFrame:
    """Return ``rows`` with the types of ``columns``, as literals: anything else costs a Spark job per use."""
    values = [f"({', '.join(literal(row[name]) for name in columns)})" for row in rows]
    casts = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in columns.items())
    nothing = f"({', '.join('NULL' for _ in columns)})"
    return spark.sql(
        f"SELECT {casts} FROM VALUES {', '.join(values or [nothing])} AS t({', '.join(columns)}) "
        f"WHERE {'true' if rows else 'false'}"
    )


def literal(value: Any) -> str:
    """Return ``value`` as an SQL literal, to be cast."""
    return "NULL" if value is None else "'" + str(value).replace("'", "\\'") + "'"


def run(spark: SparkSession, transform: ModuleType, intervals: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Stage and publish ``intervals`` one after the other."""
    columns = {
        **COLUMNS,
        "published_lines": kinds(spark, transform.LINES),
        "published_customers": kinds(spark, transform.RAW["customers"]),
    }
    answers: list[dict[str, Any]] = []
    published: dict[str, list[dict[str, Any]]] = {"published_lines": [], "published_customers": []}
    for interval in intervals:
        for name, rows in {**interval, **published}.items():
            table(spark, columns[name], rows).createOrReplaceTempView(name)
        frames = transform.stage(spark, "GBP")
        answer = {name: [row.asDict() for row in frame.collect()] for name, frame in frames.items()}
        answers.append(answer)
        days = {row["order_date"] for row in answer["rebuilt_days"]}
        kept = [row for row in published["published_lines"] if row["order_date"] not in days]
        published = {"published_lines": kept + answer["sales_lines"], "published_customers": answer["customers"]}
        spark.catalog.clearCache()
    return answers


def kinds(spark: SparkSession, schema: str) -> dict[str, str]:
    """Return the types of a schema by column."""
    return {field.name: field.dataType.simpleString() for field in spark.createDataFrame([], schema).schema}


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
    print(json.dumps(answers, default=str))  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
