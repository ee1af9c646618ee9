"""Loading files into the sales source, against a real PostgreSQL."""

from __future__ import annotations

import csv
import gzip
import io
from typing import Any

import pytest

from tests.lambdas.s01_rds_sales_etl.conftest import BUCKET, HEADER, Source, sale, sales

LINES = "SELECT invoice_no, line_no, quantity, unit_price::text, deleted FROM order_items"
TWO_ORDERS = (sale("1", quantity=2, price="4.25"), sale("1", "20007"), sale("2", quantity=3))


def quarantined(source: Source, loaded: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the quarantine file that an answer names."""
    bucket, key = loaded["quarantine"].removeprefix("s3://").split("/", 1)
    body = source.s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
    return list(csv.reader(io.StringIO(body, newline="")))


def test_a_sales_file_becomes_orders_lines_and_customers(source: Source) -> None:
    loaded = source.load("day.csv", sales(*TWO_ORDERS, sale("C3", quantity=-1, price="0.0001", customer="")))

    assert loaded == {
        "file": f"s3://{BUCKET}/sources/day.csv",
        "kind": "sales",
        "rows": 4,
        "loaded": 4,
        "control_total": "12.4999",
        "changed": 8,
        "rejected": 0,
        "damaged": None,
        "reasons": {},
        "quarantine": None,
    }
    assert source.rows(LINES) == [
        ("1", 1, 2, "4.2500", False),
        ("1", 2, 1, "1.0000", False),
        ("2", 1, 3, "1.0000", False),
        ("C3", 1, -1, "0.0001", False),
    ]
    assert source.rows("SELECT invoice_no, coalesce(customer_id, 'nobody'), currency, source_file FROM orders") == [
        ("1", "12000", "GBP", "day.csv"),
        ("2", "12000", "GBP", "day.csv"),
        ("C3", "nobody", "GBP", "day.csv"),
    ]
    assert source.rows("SELECT customer_id, country FROM customers") == [("12000", "France")]


def test_text_arrives_as_it_was(source: Source) -> None:
    text = 'say "hi", ünï\\N\n\\.\n\ttab \\'
    cell = '"' + text.replace('"', '""') + '"'
    loaded = source.load("day.csv", sales(f"1,20000,{cell},1,2026-01-05 10:00,1,,France"))

    assert (loaded["loaded"], loaded["rejected"]) == (1, 0)
    assert source.rows("SELECT description FROM order_items") == [(text.strip(),)]


def test_loading_a_file_again_changes_nothing(source: Source) -> None:
    source.load("day.csv", sales(*TWO_ORDERS))
    before = source.stamps()

    again = source.load("day.csv", sales(*TWO_ORDERS))

    assert (again["loaded"], again["changed"]) == (3, 0)
    assert source.stamps() == before


def test_a_corrected_file_changes_the_corrected_rows_only(source: Source) -> None:
    source.load("day.csv", sales(*TWO_ORDERS))
    before = source.stamps()

    corrected = source.load("day.csv", sales(*TWO_ORDERS[:2], sale("2", quantity=5)))

    after = source.stamps()
    assert corrected["changed"] == 1
    assert {key for key in after if after[key] != before[key]} == {("order_items", "2", "1")}
    assert after[("order_items", "2", "1")] > before[("order_items", "2", "1")]


def test_a_line_that_is_gone_from_its_file_is_deleted_until_it_returns(source: Source) -> None:
    source.load("day.csv", sales(*TWO_ORDERS))
    source.load("other.csv", sales(sale("9")))

    shorter = source.load("day.csv", sales(TWO_ORDERS[0], TWO_ORDERS[2]))

    deleted = "SELECT invoice_no, line_no FROM order_items WHERE deleted"
    assert shorter["changed"] == 1
    assert source.rows(deleted) == [("1", 2)]

    assert source.load("day.csv", sales(*TWO_ORDERS))["changed"] == 1
    assert source.rows(deleted) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("day.csv.gz", gzip.compress(sales(*TWO_ORDERS), mtime=0)[:-12], id="cut off"),
        pytest.param("day.csv.gz", gzip.compress(b"Invoice;Code\n1;2\n"), id="another header"),
        pytest.param("day.csv.gz", b"not gzip at all", id="not gzip"),
    ],
)
def test_a_damaged_delivery_deletes_nothing(source: Source, name: str, content: bytes) -> None:
    source.load("day.csv.gz", gzip.compress(sales(*TWO_ORDERS)))
    before = source.stamps()

    damaged = source.load(name, content)

    assert damaged["damaged"]
    assert damaged["changed"] == 0
    assert source.stamps() == before


def test_an_invoice_belongs_to_the_file_that_brought_it(source: Source) -> None:
    source.load("first.csv", sales(sale("1", quantity=2)))
    before = source.stamps()

    second = source.load("second.csv", sales(sale("1", quantity=99), sale("2")))

    assert (second["rows"], second["loaded"], second["rejected"], second["damaged"]) == (2, 1, 1, None)
    assert second["reasons"] == {"invoice came first in file first.csv": 1}
    assert quarantined(source, second)[1:] == [["0", "invoice came first in file first.csv", "1,1"]]
    assert second["control_total"] == "1.0000"
    assert {key: stamp for key, stamp in source.stamps().items() if key in before} == before


def test_refused_rows_are_kept_with_line_and_reason(source: Source) -> None:
    good, bad = sale("1"), '2,20000,"RED, BIG",two,2026-01-05 10:00:00,1.00,12000,France'

    loaded = source.load("day.csv", sales(good, bad, good))

    assert (loaded["rows"], loaded["loaded"], loaded["rejected"]) == (3, 2, 1)
    assert loaded["reasons"] == {"Quantity is not a number": 1}
    assert loaded["quarantine"] == f"s3://{BUCKET}/quarantine/day.csv.rejected.csv"
    assert quarantined(source, loaded) == [
        ["line", "reason", "record"],
        ["3", "Quantity is not a number: two", "2,20000,RED, BIG,two,2026-01-05 10:00:00,1.00,12000,France"],
    ]


def test_a_file_of_refused_rows_only_loads_nothing(source: Source) -> None:
    loaded = source.load("day.csv", sales("1,20000", "2,20000"))

    assert (loaded["kind"], loaded["rows"], loaded["loaded"], loaded["rejected"]) == ("unknown", 2, 0, 2)
    assert (loaded["changed"], loaded["control_total"], loaded["damaged"]) == (0, "0", None)
    assert source.stamps() == {}


def test_the_good_rows_of_a_damaged_file_are_loaded(source: Source) -> None:
    loaded = source.load("day.csv.gz", gzip.compress(sales(*TWO_ORDERS))[:-8])

    assert (loaded["loaded"], loaded["rejected"]) == (3, 1)
    assert loaded["damaged"].startswith("line 5: file is damaged from here on")
    assert len(source.rows(LINES)) == 3


def test_rates_are_loaded_and_corrected(source: Source) -> None:
    rates = "Currency,RateDate,Rate\nEUR,2026-01-05,{}\nusd,2026-01-05,0.75\n"
    first = source.load("rates.csv", rates.format("0.86").encode())
    assert (first["kind"], first["loaded"], first["changed"], first["control_total"]) == ("rates", 2, 2, "0")

    assert source.load("rates.csv", rates.format("0.86").encode())["changed"] == 0
    assert source.load("rates.csv", rates.format("0.870001").encode())["changed"] == 1
    assert source.rows("SELECT currency, rate_date::text, rate::text FROM exchange_rates") == [
        ("EUR", "2026-01-05", "0.870001"),
        ("USD", "2026-01-05", "0.750000"),
    ]


def test_customers_can_be_forgotten_to_rehearse_bad_data(source: Source) -> None:
    source.load("day.csv", sales(sale("1", customer="12000"), sale("2", customer="12001")))

    source.load("bad.csv", sales(sale("3", customer="12001", price="-4.25")), checked=False, forget_customers=True)

    assert source.rows("SELECT customer_id FROM customers") == [("12000",)]
    assert source.rows("SELECT invoice_no, customer_id FROM orders WHERE invoice_no = '3'") == [("3", "12001")]
    assert source.rows("SELECT unit_price::text FROM order_items WHERE invoice_no = '3'") == [("-4.2500",)]


def test_the_latest_order_says_where_a_customer_is(source: Source) -> None:
    old = sales(sale("1", country="France", at="2026-01-05 10:00:00"))
    new = sales(sale("2", country="Norway", at="2026-01-06 10:00:00"))
    source.load("new.csv", new)
    source.load("old.csv", old)
    assert source.rows("SELECT country FROM customers") == [("Norway",)]

    assert [load["changed"] for load in source.load_all({"new.csv": new, "old.csv": old})] == [0, 0]


def test_a_failed_load_leaves_nothing_of_its_file(source: Source) -> None:
    source.run("ALTER TABLE order_items ADD CONSTRAINT not_today CHECK (quantity <> 666)")
    try:
        with pytest.raises(Exception, match="not_today"):
            source.load_all({"good.csv": sales(sale("1")), "bad.csv": sales(sale("2"), sale("3", quantity=666))})
    finally:
        source.run("ALTER TABLE order_items DROP CONSTRAINT not_today")
    assert source.rows("SELECT invoice_no FROM orders") == [("1",)]
    assert source.rows("SELECT invoice_no FROM order_items") == [("1",)]


def test_largest_and_smallest_values_fit(source: Source) -> None:
    rates = source.load("rates.csv", b"Currency,RateDate,Rate\nEUR,2026-01-05,999999.999999\nEUR,0001-01-01,0.000001\n")
    lines = source.load("day.csv", sales(sale("1", quantity=2**31 - 1, price="99999999.9999"), sale("A" * 500)))

    assert (rates["loaded"], lines["loaded"], rates["rejected"], lines["rejected"]) == (2, 2, 0, 0)


def test_every_writer_moves_updated_at(source: Source) -> None:
    source.load("day.csv", sales(sale("1")))
    before = source.stamps()

    source.run("UPDATE order_items SET quantity = quantity + 1, updated_at = '2000-01-01'")

    key = ("order_items", "1", "1")
    assert source.stamps()[key] > before[key]


def test_a_header_alone_is_an_empty_file(source: Source) -> None:
    loaded = source.load("day.csv", f"{HEADER}\n".encode())

    assert (loaded["kind"], loaded["rows"], loaded["rejected"], loaded["damaged"]) == ("unknown", 0, 0, None)
