"""The queries that the extraction sends to the sales source."""

from __future__ import annotations

from typing import Any

import pytest

from tests.glue_scripts.scripts import without_spark

extract = without_spark("s01_rds_sales_etl_extract")
TASK = {
    "watermarks": {
        "orders": "2026-01-01T00:00:00+00:00",
        "order_items": "2026-01-02T00:00:00+00:00",
        "customers": "2026-01-03T00:00:00+00:00",
    },
    "end": "2026-01-04T00:00:00.5+00:00",
    "after": None,
    "up_to": None,
    "index": 0,
}
INJECTIONS = ["'; DROP TABLE orders; --", "1' OR '1'='1", "1)", "a b", "\\", "1\n", "é", "\0", ""]


def query(table: str, **task: Any) -> str:
    """Return the query of one table in one line."""
    return " ".join(extract.queries({**TASK, **task})[table].split())


def test_only_the_first_range_reads_customers_and_rates() -> None:
    assert set(extract.queries(TASK)) == {"orders", "order_items", "customers", "exchange_rates"}
    assert set(extract.queries({**TASK, "index": 1})) == {"orders", "order_items"}


@pytest.mark.parametrize(
    ("task", "bounds"),
    [
        pytest.param({}, "", id="one range"),
        pytest.param({"up_to": "536365"}, " AND t.invoice_no <= '536365'", id="first"),
        pytest.param(
            {"after": "536365", "up_to": "C5"}, " AND t.invoice_no > '536365' AND t.invoice_no <= 'C5'", id="middle"
        ),
        pytest.param({"after": "C5"}, " AND t.invoice_no > 'C5'", id="last"),
    ],
)
@pytest.mark.parametrize("table", ["orders", "order_items"])
def test_an_order_is_read_whole_when_header_or_line_changed(table: str, task: dict[str, Any], bounds: str) -> None:
    assert query(table, **task).endswith(
        f"FROM {table} t WHERE t.invoice_no IN (SELECT invoice_no FROM orders "
        "WHERE updated_at >= '2026-01-01T00:00:00+00:00' AND updated_at < '2026-01-04T00:00:00.5+00:00' "
        "UNION SELECT invoice_no FROM order_items "
        f"WHERE updated_at >= '2026-01-02T00:00:00+00:00' AND updated_at < '2026-01-04T00:00:00.5+00:00'){bounds}"
    )


def test_customers_are_bounded_by_their_own_watermark() -> None:
    assert query("customers").endswith(
        "FROM customers WHERE updated_at >= '2026-01-03T00:00:00+00:00' AND updated_at < '2026-01-04T00:00:00.5+00:00'"
    )


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize("place", ["end", "after", "up_to", "watermark"])
def test_a_bound_that_could_be_a_statement_is_refused(place: str, value: str) -> None:
    changed = (
        {"watermarks": {**TASK["watermarks"], "order_items": value}}  # type: ignore[dict-item]
        if place == "watermark"
        else {place: value}
    )
    with pytest.raises(ValueError, match="not a time or an invoice number"):
        extract.queries({**TASK, **changed})


def test_every_invoice_number_that_is_loaded_may_be_a_bound() -> None:
    """A number that the loader accepts but no range may end with would stop every extraction after it."""
    from include.lambdas.s01_rds_sales_etl.source_files import INVOICE_NO

    accepted = [chr(code) for code in range(0x250) if INVOICE_NO.fullmatch(chr(code))]
    assert len(accepted) > 60
    assert extract.literal("".join(accepted)) == f"'{''.join(accepted)}'"
