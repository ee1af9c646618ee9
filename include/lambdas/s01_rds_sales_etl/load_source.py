"""Loads one file of sales or exchange rates from S3 into the sales source, as the order system would have.

Loading a file again changes nothing: rows are matched by invoice and line, and only what differs is written, so that
the extraction that follows sees only real changes. Rows that cannot be used go to the quarantine prefix with line and
reason.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import boto3
import pg8000.native
from database import connect, read_secret
from source_files import Rate, Reject, Sale, read_rows

_s3 = boto3.client("s3")

STAGING = """
CREATE TEMPORARY TABLE staged_sales (
    invoice_no text, line_no integer, stock_code text, description text, quantity integer, ordered_at timestamptz,
    unit_price numeric(12, 4), customer_id text, country text, currency char(3)
) ON COMMIT DROP;
CREATE TEMPORARY TABLE staged_rates (currency char(3), rate_date date, rate numeric(12, 6)) ON COMMIT DROP
"""

# An invoice belongs to the file that brought it first: the same number in another file is another order's line.
FOREIGN = """
DELETE FROM staged_sales s USING orders o
WHERE o.invoice_no = s.invoice_no AND o.source_file <> :file
RETURNING s.invoice_no, s.line_no, o.source_file
"""

UPSERTS = (
    """
    INSERT INTO orders AS o (invoice_no, customer_id, country, currency, ordered_at, source_file)
    SELECT DISTINCT ON (invoice_no) invoice_no, customer_id, country, currency, ordered_at, :file
    FROM staged_sales ORDER BY invoice_no, line_no
    ON CONFLICT (invoice_no) DO UPDATE SET customer_id = excluded.customer_id, country = excluded.country,
        currency = excluded.currency, ordered_at = excluded.ordered_at
    WHERE (o.customer_id, o.country, o.currency, o.ordered_at)
        IS DISTINCT FROM (excluded.customer_id, excluded.country, excluded.currency, excluded.ordered_at)
    """,
    # Where a customer is, the latest order says, whichever file brought it.
    """
    INSERT INTO customers AS c (customer_id, country)
    SELECT DISTINCT ON (customer_id) customer_id, country
    FROM orders WHERE customer_id IN (SELECT customer_id FROM staged_sales)
    ORDER BY customer_id, ordered_at DESC, country
    ON CONFLICT (customer_id) DO UPDATE SET country = excluded.country WHERE c.country <> excluded.country
    """,
    """
    INSERT INTO order_items AS i (invoice_no, line_no, stock_code, description, quantity, unit_price)
    SELECT invoice_no, line_no, stock_code, description, quantity, unit_price FROM staged_sales
    ON CONFLICT (invoice_no, line_no) DO UPDATE SET stock_code = excluded.stock_code,
        description = excluded.description, quantity = excluded.quantity, unit_price = excluded.unit_price,
        deleted = false
    WHERE (i.stock_code, i.description, i.quantity, i.unit_price, i.deleted)
        IS DISTINCT FROM (excluded.stock_code, excluded.description, excluded.quantity, excluded.unit_price, false)
    """,
    """
    INSERT INTO exchange_rates AS r (currency, rate_date, rate)
    SELECT DISTINCT ON (currency, rate_date) currency, rate_date, rate FROM staged_rates
    ORDER BY currency, rate_date, rate DESC
    ON CONFLICT (currency, rate_date) DO UPDATE SET rate = excluded.rate WHERE r.rate <> excluded.rate
    """,
)

# What an earlier delivery of the file brought and this one does not.
DELETE_MISSING = """
UPDATE order_items i SET deleted = true
FROM orders o
WHERE o.invoice_no = i.invoice_no AND o.source_file = :file AND NOT i.deleted
    AND NOT EXISTS (SELECT FROM staged_sales s WHERE s.invoice_no = i.invoice_no AND s.line_no = i.line_no)
"""

CONTROL = """
SELECT count(*) + (SELECT count(*) FROM staged_rates), coalesce(sum(quantity * unit_price), 0)::text FROM staged_sales
"""

# A rehearsed fault: orders whose customer was never created.
FORGET_CUSTOMERS = "DELETE FROM customers WHERE customer_id IN (SELECT customer_id FROM staged_sales)"


def handler(event: dict[str, Any], _context: object) -> list[dict[str, Any]]:
    """Load the files of ``event`` one after the other, each in a transaction, and return what became of each.

    Args:
        event: ``bucket`` and ``files``, a list of ``key`` with optional ``checked`` (default true, see ``read_rows``)
            and ``forget_customers`` (default false: leave out the file's customers), both for rehearsing bad data.

    Returns:
        Per file: ``file``, ``kind`` (sales, rates or unknown), ``rows``, ``loaded``, ``control_total`` (sum of quantity
        times price over the loaded lines, whatever their currency, as text), ``changed`` (rows written), ``rejected``,
        ``damaged`` (where and why the file ends early, or null), ``reasons`` (count by reason) and ``quarantine``
        (address of the rejected rows, or null).
    """
    connection = connect(os.environ["OWNER_SECRET_ARN"])
    try:
        _prepare(connection)
        return [_load(connection, event["bucket"], **file) for file in event["files"]]
    finally:
        connection.close()


def _load(
    connection: pg8000.native.Connection, bucket: str, key: str, checked: bool = True, forget_customers: bool = False
) -> dict[str, Any]:
    file = Path(key).name
    body = _s3.get_object(Bucket=bucket, Key=key)["Body"]
    rows = read_rows(cast(BinaryIO, io.BufferedReader(body)), key.endswith(".gz"), checked)
    rejects: list[Reject] = []
    connection.run("BEGIN")
    connection.run(STAGING)
    kind = _stage(connection, rows, rejects)
    rejects += [
        Reject(0, f"invoice came first in file {owner}", f"{invoice},{line}")
        for invoice, line, owner in connection.run(FOREIGN, file=file)
    ]
    ((loaded, control_total),) = connection.run(CONTROL)
    damage = next((reject for reject in rejects if reject.ends_file), None)
    changed = 0
    # What a damaged file lacks may stand after the damage.
    for statement in UPSERTS if damage else (*UPSERTS, DELETE_MISSING):
        connection.run(statement, **({"file": file} if ":file" in statement else {}))
        changed += connection.row_count
    if forget_customers:
        connection.run(FORGET_CUSTOMERS)
    connection.run("COMMIT")
    return {
        "file": f"s3://{bucket}/{key}",
        "kind": kind,
        "rows": loaded + len(rejects),
        "loaded": loaded,
        "control_total": control_total,
        "changed": changed,
        "rejected": len(rejects),
        "damaged": f"line {damage.line}: {damage.reason}" if damage else None,
        "reasons": dict(Counter(reject.reason.split(":")[0] for reject in rejects)),
        "quarantine": _quarantine(file, rejects) if rejects else None,
    }


def _quarantine(file: str, rejects: list[Reject]) -> str:
    """Keep the rejected rows where a person can read, correct and replay them."""
    lines = io.StringIO()
    writer = csv.writer(lines)
    writer.writerow(("line", "reason", "record"))
    writer.writerows((reject.line, reject.reason, reject.record) for reject in rejects)
    bucket, prefix = os.environ["QUARANTINE_BUCKET"], os.environ["QUARANTINE_PREFIX"]
    key = f"{prefix}/{file}.rejected.csv"
    _s3.put_object(Bucket=bucket, Key=key, Body=lines.getvalue().encode(), ContentType="text/csv")
    return f"s3://{bucket}/{key}"


def _prepare(connection: pg8000.native.Connection) -> None:
    """Create tables and the reader the extraction uses; nothing happens when they are there."""
    connection.run("SELECT pg_advisory_lock(1)")  # several files may be loaded at once
    connection.run((Path(__file__).parent / "schema.sql").read_text())
    reader = read_secret(os.environ["READER_SECRET_ARN"])
    name = pg8000.native.identifier(reader["username"])
    password = pg8000.native.literal(reader["password"])
    known = connection.run("SELECT 1 FROM pg_roles WHERE rolname = :name", name=reader["username"])
    connection.run(f"{'ALTER' if known else 'CREATE'} ROLE {name} LOGIN PASSWORD {password}")
    connection.run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
    # To see which transactions are still open, see plan_extraction. Since PostgreSQL 16 the administrator of a database
    # on RDS may grant pg_monitor but not the roles it is made of.
    connection.run(f"GRANT pg_monitor TO {name}")
    connection.run("SELECT pg_advisory_unlock(1)")


def _stage(connection: pg8000.native.Connection, rows: Iterator[Sale | Rate | Reject], rejects: list[Reject]) -> str:
    """Copy the good rows into the staging table of their kind, collect the others; returns the kind."""
    good = _good(rows, rejects)
    first = next(good, None)
    if first is None:
        return "unknown"
    kind = "sales" if isinstance(first, Sale) else "rates"
    connection.run(f"COPY staged_{kind} FROM STDIN WITH (FORMAT csv)", stream=map(_csv_line, chain([first], good)))
    return kind


def _good(rows: Iterator[Sale | Rate | Reject], rejects: list[Reject]) -> Iterator[Sale | Rate]:
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            yield row


def _csv_line(row: Sale | Rate) -> bytes:
    """One line of COPY's CSV format, in which an unquoted empty field is NULL."""
    values = (getattr(row, field.name) for field in fields(row))
    quoted = ("" if value is None else '"' + str(value).replace('"', '""') + '"' for value in values)
    return (",".join(quoted) + "\n").encode()
