"""Glue job: turn one interval of changed orders into staged sales lines, trends and customer segments.

Only the days that an order of the interval is on, or was on before, are rebuilt. What is staged replaces what is
published of the same name once the quality gate has passed it:

- ``sales_lines/order_date=<day>/``: every invoice line of a rebuilt day, amounts in the base currency
- ``customers/``: all customers
- ``daily_sales/``, ``weekly_sales/``, ``top_products/``, ``customer_segments/``, ``customer_months/``: over all days
- ``rebuilt_days/`` (JSON lines): the rebuilt days, those that no order is on any more included
- ``unmatched_lines/``: lines without an order or without an exchange rate; the gate refuses any

Amounts are rounded to cents once, per line and half up, so that every total is exactly the sum of its lines.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat

from awsglue.utils import getResolvedOptions
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession

LINES = """
    invoice_no string, line_no int, stock_code string, description string, quantity int, unit_price decimal(12, 4),
    currency string, rate decimal(12, 6), amount decimal(18, 2), is_return boolean, is_merchandise boolean,
    customer_id string, country string, source_file string, ordered_at timestamp, updated_at timestamp,
    order_date date
"""
# As the extraction wrote them; stated, so that no file is opened to find out.
RAW = {
    "orders": """
        invoice_no string, customer_id string, country string, currency string, ordered_at timestamp,
        source_file string, updated_at timestamp
    """,
    "order_items": """
        invoice_no string, line_no int, stock_code string, description string, quantity int,
        unit_price decimal(12, 4), deleted boolean, updated_at timestamp
    """,
    "customers": "customer_id string, country string, updated_at timestamp",
    "exchange_rates": "currency string, rate_date date, rate decimal(12, 6)",
}

# The rate of an order is that of the latest day on or before it that has one.
CHANGED_LINES = """
WITH rates AS (
    SELECT o.invoice_no, max_by(r.rate, r.rate_date) AS rate
    FROM orders o JOIN exchange_rates r ON r.currency = o.currency AND r.rate_date <= to_date(o.ordered_at)
    GROUP BY o.invoice_no
), priced AS (
    SELECT i.*, o.customer_id, o.country, o.currency, o.source_file, o.ordered_at,
           greatest(i.updated_at, o.updated_at) AS changed_at,
           if(o.currency = '{base}', cast(1 AS decimal(12, 6)), r.rate) AS rate
    FROM order_items i
    LEFT JOIN orders o ON o.invoice_no = i.invoice_no
    LEFT JOIN rates r ON r.invoice_no = i.invoice_no
    WHERE NOT i.deleted
)
SELECT invoice_no, line_no, stock_code, description, quantity, unit_price, currency, rate,
       cast(round(quantity * unit_price * rate, 2) AS decimal(18, 2)) AS amount,
       quantity < 0 AS is_return,
       stock_code RLIKE '^[0-9]{{5}}' AS is_merchandise,
       customer_id, country, source_file, ordered_at, changed_at AS updated_at, to_date(ordered_at) AS order_date
FROM priced
"""

REBUILT_DAYS = """
SELECT order_date FROM changed_lines WHERE order_date IS NOT NULL
UNION
SELECT p.order_date FROM published_lines p LEFT SEMI JOIN orders o ON o.invoice_no = p.invoice_no
"""

# Orders are replaced whole, so a line that the source deleted is gone here, too.
REBUILT_LINES = """
SELECT * FROM changed_lines WHERE order_date IS NOT NULL AND rate IS NOT NULL
UNION ALL
SELECT p.* FROM published_lines p
LEFT SEMI JOIN rebuilt_days d ON d.order_date = p.order_date
LEFT ANTI JOIN orders o ON o.invoice_no = p.invoice_no
"""

ALL_LINES = """
SELECT * FROM rebuilt_lines
UNION ALL
SELECT p.* FROM published_lines p LEFT ANTI JOIN rebuilt_days d ON d.order_date = p.order_date
"""

UNMATCHED_LINES = """
SELECT invoice_no, line_no,
       if(order_date IS NULL, 'order is missing', concat('no exchange rate for ', currency)) AS reason
FROM changed_lines WHERE order_date IS NULL OR rate IS NULL
"""

ALL_CUSTOMERS = """
SELECT customer_id, country, updated_at FROM customers
UNION ALL
SELECT p.* FROM published_customers p LEFT ANTI JOIN customers c ON c.customer_id = p.customer_id
"""

# What the trends need of an order, so that its lines are gone through once.
INVOICES = """
SELECT order_date, invoice_no, max(customer_id) AS customer_id, min(ordered_at) AS ordered_at,
       bool_and(is_return) AS is_return, sum(quantity) AS units,
       sum(if(is_return, 0, amount)) AS gross_sales, sum(if(is_return, amount, 0)) AS returned_sales,
       sum(amount) AS net_sales
FROM all_lines GROUP BY order_date, invoice_no
"""

DAILY_SALES = """
WITH days AS (
    SELECT order_date, count_if(NOT is_return) AS orders, count_if(is_return) AS returns,
           count(DISTINCT customer_id) AS customers, cast(sum(units) AS bigint) AS units,
           cast(sum(gross_sales) AS decimal(18, 2)) AS gross_sales,
           cast(sum(returned_sales) AS decimal(18, 2)) AS returned_sales,
           cast(sum(net_sales) AS decimal(18, 2)) AS net_sales
    FROM invoices GROUP BY order_date
)
SELECT *, cast(avg(net_sales) OVER (
    ORDER BY datediff(order_date, DATE'1970-01-01') RANGE BETWEEN 6 PRECEDING AND CURRENT ROW
) AS decimal(18, 2)) AS net_sales_7_day_average
FROM days
"""

WEEKLY_SALES = """
WITH weeks AS (
    SELECT to_date(date_trunc('week', order_date)) AS week_start, count_if(NOT is_return) AS orders,
           count(DISTINCT customer_id) AS customers, cast(sum(net_sales) AS decimal(18, 2)) AS net_sales
    FROM invoices GROUP BY 1
)
SELECT *,
       cast(avg(net_sales) OVER (ORDER BY week_start ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS decimal(18, 2))
           AS net_sales_4_week_average,
       cast(net_sales / nullif(lag(net_sales) OVER (ORDER BY week_start), 0) - 1 AS decimal(9, 4))
           AS change_to_last_week
FROM weeks
"""

TOP_PRODUCTS = """
WITH products AS (
    SELECT stock_code, max_by(description, struct(ordered_at, invoice_no, line_no)) AS description,
           cast(sum(quantity) AS bigint) AS units, cast(sum(amount) AS decimal(18, 2)) AS net_sales
    FROM all_lines WHERE is_merchandise GROUP BY stock_code
)
SELECT cast(row_number() OVER (ORDER BY net_sales DESC, stock_code) AS int) AS rank, *
FROM products ORDER BY rank LIMIT 100
"""

# Recency, frequency, monetary value in fifths (5 is best), named as in Hughes, Strategic Database Marketing (1994).
CUSTOMER_SEGMENTS = """
WITH activity AS (
    SELECT i.customer_id, max(c.country) AS country, max(i.order_date) AS last_order,
           datediff((SELECT max(order_date) FROM invoices), max(i.order_date)) AS recency_days,
           count_if(NOT i.is_return) AS frequency, cast(sum(i.net_sales) AS decimal(18, 2)) AS monetary
    FROM invoices i LEFT JOIN all_customers c ON c.customer_id = i.customer_id
    WHERE i.customer_id IS NOT NULL GROUP BY i.customer_id
), scored AS (
    SELECT *, ntile(5) OVER (ORDER BY recency_days DESC, customer_id) AS recency_score,
           ntile(5) OVER (ORDER BY frequency, customer_id) AS frequency_score,
           ntile(5) OVER (ORDER BY monetary, customer_id) AS monetary_score
    FROM activity WHERE frequency > 0
)
SELECT *, CASE
    WHEN recency_score >= 4 AND frequency_score >= 4 THEN 'champions'
    WHEN frequency_score >= 4 AND recency_score >= 2 THEN 'loyal'
    WHEN recency_score >= 4 THEN 'recent'
    WHEN frequency_score >= 3 OR monetary_score >= 4 THEN 'at risk'
    ELSE 'hibernating' END AS segment
FROM scored
"""

# A customer repeats in a month when an earlier order exists, in that month or before.
CUSTOMER_MONTHS = """
WITH numbered AS (
    SELECT customer_id, to_date(date_trunc('month', ordered_at)) AS month,
           row_number() OVER (PARTITION BY customer_id ORDER BY ordered_at, invoice_no) AS purchase
    FROM invoices WHERE customer_id IS NOT NULL AND NOT is_return
), months AS (
    SELECT month, customer_id, max(purchase) > 1 AS repeats FROM numbered GROUP BY month, customer_id
)
SELECT month, count(*) AS customers, count_if(repeats) AS repeat_customers,
       cast(count_if(repeats) / count(*) AS decimal(5, 4)) AS repeat_rate
FROM months GROUP BY month
"""

REPORTS = {
    "daily_sales": DAILY_SALES,
    "weekly_sales": WEEKLY_SALES,
    "top_products": TOP_PRODUCTS,
    "customer_segments": CUSTOMER_SEGMENTS,
    "customer_months": CUSTOMER_MONTHS,
}


def published(spark: SparkSession, path: str, schema: str) -> DataFrame:
    """Return what is published at ``path``, or no rows of ``schema`` before the first publication."""
    try:
        return spark.read.schema(schema).parquet(path)
    except AnalysisException as error:
        if error.getErrorClass() != "PATH_NOT_FOUND":
            raise
        return spark.createDataFrame([], schema)


def stage(spark: SparkSession, base_currency: str) -> dict[str, DataFrame]:
    """Return the data sets to stage, by name, from the views ``orders``, ``order_items``, ``customers``,
    ``exchange_rates``, ``published_lines`` and ``published_customers``."""

    def view(name: str, query: str) -> DataFrame:
        frame = spark.sql(query)
        frame.createOrReplaceTempView(name)
        return frame

    view("changed_lines", CHANGED_LINES.format(base=base_currency)).cache()
    days = view("rebuilt_days", REBUILT_DAYS).cache()
    lines = view("rebuilt_lines", REBUILT_LINES).cache()
    view("all_lines", ALL_LINES).cache()
    view("invoices", INVOICES).cache()
    return {
        "rebuilt_days": days,
        "sales_lines": lines,
        "customers": view("all_customers", ALL_CUSTOMERS),
        "unmatched_lines": spark.sql(UNMATCHED_LINES),
        **{name: spark.sql(query) for name, query in REPORTS.items()},
    }


def write(name: str, frame: DataFrame, staging: str) -> None:
    """Replace the staged data set ``name`` by ``frame``."""
    target = f"{staging}/{name}"
    if name == "rebuilt_days":
        frame.coalesce(1).write.mode("overwrite").json(target)
    elif name == "sales_lines":
        lines = frame.repartition("order_date").sortWithinPartitions("order_date", "invoice_no", "line_no")
        lines.write.mode("overwrite").partitionBy("order_date").parquet(target)
    else:
        frame.coalesce(1).write.mode("overwrite").parquet(target)


def main() -> None:
    """Read the job's arguments, stage the interval."""
    options = getResolvedOptions(sys.argv, ["JOB_NAME", "root", "interval", "ranges", "base_currency"])
    root = options["root"]
    spark = SparkSession.builder.appName(options["JOB_NAME"]).getOrCreate()
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    # Lets a small interval's cached data have few partitions instead of spark.sql.shuffle.partitions empty ones.
    spark.conf.set("spark.sql.optimizer.canChangeCachedPlanOutputPartitioning", "true")
    for table, schema in RAW.items():
        ranges = int(options["ranges"]) if table in ("orders", "order_items") else 1
        paths = [f"{root}/raw/{table}/interval={options['interval']}/range={index}" for index in range(ranges)]
        spark.read.schema(schema).parquet(*paths).createOrReplaceTempView(table)
    published(spark, f"{root}/published/sales_lines", LINES).createOrReplaceTempView("published_lines")
    published(spark, f"{root}/published/customers", RAW["customers"]).createOrReplaceTempView("published_customers")
    # Most of these are small and spend their time in planning and in S3: they are written side by side.
    with ThreadPoolExecutor() as pool:
        staged = stage(spark, options["base_currency"])
        list(pool.map(write, staged.keys(), staged.values(), repeat(f"{root}/staging")))
    spark.stop()


if __name__ == "__main__":
    main()
