"""Plans one incremental extraction of the sales source.

Each table has a high watermark: everything that changed before it was published. A plan covers the half-open interval
from there up to ``end``, so consecutive plans neither overlap nor leave a gap. The unit of extraction is the whole
order (its header and all its lines): an order whose header and lines were written on both sides of ``end`` is still
read complete.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import pg8000.native
from database import connect

TABLES = ("orders", "order_items", "customers")
BEGINNING = "1970-01-01T00:00:00+00:00"

# updated_at is set when a row is written but becomes visible when its transaction commits, later. Rows of a
# transaction that is open now carry times after its start, so an interval that ends before the oldest open writing
# transaction began can never be added to afterwards. The plan's own transaction writes nothing and has no
# backend_xid. Without an open one the end is when this statement arrived: before it looked for them, not after.
SAFE_END = """
SELECT least(statement_timestamp(), min(xact_start)) FROM pg_stat_activity WHERE backend_xid IS NOT NULL
"""

CHANGED_ORDERS = """
(SELECT invoice_no FROM orders WHERE updated_at >= :orders AND updated_at < :end
 UNION SELECT invoice_no FROM order_items WHERE updated_at >= :order_items AND updated_at < :end)
"""

COUNTS = f"""
SELECT (SELECT count(*) FROM {CHANGED_ORDERS} c),
       (SELECT count(*) FROM order_items i WHERE i.invoice_no IN {CHANGED_ORDERS}),
       (SELECT count(*) FROM customers WHERE updated_at >= :customers AND updated_at < :end)
"""

# Upper bounds that cut the changed orders into pieces of about the same number of lines.
BOUNDS = f"""
SELECT max(invoice_no) FROM (
    SELECT invoice_no, ntile(:pieces) OVER (ORDER BY invoice_no, line_no) AS piece
    FROM order_items WHERE invoice_no IN {CHANGED_ORDERS}
) lines GROUP BY piece ORDER BY 1
"""


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return what to extract.

    Args:
        event: ``watermarks`` (table name to ISO time, may lack tables never published), optional ``end`` (ISO time,
            to run an interval again; by default as late as is safe), ``rows_per_range`` and ``max_ranges``.

    Returns:
        ``watermarks`` (lower bounds used), ``start`` (the lowest), ``end``, ``interval`` (its name), ``changed`` (rows
        by table) and ``ranges``: a list of ``{"after": invoice or null, "up_to": invoice or null}``, empty when nothing
        changed.

    Raises:
        ValueError: ``end`` lies before a watermark or after what is safe to read.
    """
    watermarks = {table: event["watermarks"].get(table) or BEGINNING for table in TABLES}
    connection = connect(os.environ["READER_SECRET_ARN"])
    try:
        end = _end(connection, event.get("end"), watermarks)
        bounds = {**watermarks, "end": end.isoformat()}
        ((orders, items, customers),) = connection.run(COUNTS, **bounds)
        ranges = []
        if orders or customers:
            pieces = max(1, min(event["max_ranges"], -(-items // event["rows_per_range"])))
            # Each upper bound once, in the order of the database, which need not be Python's order of texts.
            inner = list(dict.fromkeys(row[0] for row in connection.run(BOUNDS, pieces=pieces, **bounds)))[:-1]
            ranges = [
                {"after": after, "up_to": up_to} for after, up_to in zip([None, *inner], [*inner, None], strict=True)
            ]
    finally:
        connection.close()
    return {
        "watermarks": watermarks,
        "start": min(watermarks.values()),
        "end": end.isoformat(),
        "interval": f"{_compact(min(watermarks.values()))}_{_compact(end.isoformat())}",
        "changed": {"orders": orders, "order_items": items, "customers": customers},
        "ranges": ranges,
    }


def _end(connection: pg8000.native.Connection, asked: str | None, watermarks: dict[str, str]) -> datetime:
    ((safe,),) = connection.run(SAFE_END)
    end = datetime.fromisoformat(asked) if asked else safe
    if end > safe:
        raise ValueError(f"end {end.isoformat()} is later than what is safe to read: {safe.isoformat()}")
    late = [table for table, watermark in watermarks.items() if datetime.fromisoformat(watermark) > end]
    if late:
        raise ValueError(f"end {end.isoformat()} lies before the watermark of {', '.join(late)}")
    return end


def _compact(time: str) -> str:
    return datetime.fromisoformat(time).astimezone(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
