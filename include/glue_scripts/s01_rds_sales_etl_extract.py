"""Glue job: read one range of changed orders from the sales source over JDBC into ``raw/``.

Each range has its own folder, which a second attempt overwrites:
``raw/<table>/interval=<interval>/range=<n>/*.parquet``. The first range also reads the changed customers and, whole
because it is small, the table of exchange rates.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import boto3
from awsglue.utils import getResolvedOptions
from pyspark.sql import DataFrame, SparkSession

# What may stand in a bound: it goes into the SQL text, because Spark's JDBC source knows no parameters.
SAFE = set("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.:+")


def literal(value: str) -> str:
    """Return ``value`` as an SQL literal.

    Raises:
        ValueError: ``value`` has a character that no time and no invoice number has.
    """
    if not value or not set(value) <= SAFE:
        raise ValueError(f"not a time or an invoice number: {value!r}")
    return f"'{value}'"


def queries(task: dict[str, Any]) -> dict[str, str]:
    """Return one query per table for the range that ``task`` describes (see plan_extraction and ``main``)."""
    end = literal(task["end"])
    since = {table: literal(watermark) for table, watermark in task["watermarks"].items()}
    changed = (
        f"SELECT invoice_no FROM orders WHERE updated_at >= {since['orders']} AND updated_at < {end} "
        f"UNION SELECT invoice_no FROM order_items "
        f"WHERE updated_at >= {since['order_items']} AND updated_at < {end}"
    )
    bounds = [
        f"t.invoice_no {operator} {literal(bound)}"
        for operator, bound in ((">", task["after"]), ("<=", task["up_to"]))
        if bound is not None
    ]
    where = " AND ".join([f"t.invoice_no IN ({changed})", *bounds])
    found = {
        "orders": f"""
            SELECT invoice_no, customer_id, country, currency, ordered_at, source_file, updated_at
            FROM orders t WHERE {where}""",
        "order_items": f"""
            SELECT invoice_no, line_no, stock_code, description, quantity, unit_price, deleted, updated_at
            FROM order_items t WHERE {where}""",
    }
    if task["index"] == 0:
        found["customers"] = (
            "SELECT customer_id, country, updated_at FROM customers "
            f"WHERE updated_at >= {since['customers']} AND updated_at < {end}"
        )
        found["exchange_rates"] = "SELECT currency, rate_date, rate FROM exchange_rates"
    return found


def read(spark: SparkSession, options: dict[str, str], secret: dict[str, str], query: str) -> DataFrame:
    """Run ``query`` in the source as the reader."""
    return (
        spark.read.format("jdbc")
        .option(
            "url",
            f"jdbc:postgresql://{options['host']}:{options['port']}/{options['database']}?sslmode=require",
        )
        .option("driver", "org.postgresql.Driver")
        .option("user", secret["username"])
        .option("password", secret["password"])
        .option("query", query)
        .option("fetchsize", 10_000)
        .load()
    )


def main() -> None:
    """Read the job's arguments and extract its range."""
    options = getResolvedOptions(sys.argv, ["JOB_NAME", "host", "port", "database", "reader_secret", "root", "task"])
    task = json.loads(options["task"])
    secrets = boto3.client("secretsmanager")
    secret = json.loads(secrets.get_secret_value(SecretId=options["reader_secret"])["SecretString"])
    spark = SparkSession.builder.appName(options["JOB_NAME"]).getOrCreate()
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    for table, query in queries(task).items():
        target = f"{options['root']}/raw/{table}/interval={task['interval']}/range={task['index']}"
        read(spark, options, secret, query).coalesce(1).write.mode("overwrite").parquet(target)
        print(f"{table}: written to {target}")  # noqa: T201 - a Glue job's standard output is its log
    spark.stop()


if __name__ == "__main__":
    main()
