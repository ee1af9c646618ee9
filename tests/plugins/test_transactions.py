"""A shop's transactions from its sales files, and the truth about them."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal

import pytest

from atlas.loadgen.retail import generate
from atlas.loadgen.transactions import read_shop

HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


def sales(*rows: str) -> bytes:
    return "\n".join((HEADER, *rows)).encode()


def test_a_generated_load_keeps_its_totals() -> None:
    load = generate(seed=3, orders=200)
    shop = read_shop(load.files)
    assert (len(shop.transactions), shop.lines, shop.net_sales) == (load.orders, load.lines, load.net_sales)


def test_transactions_come_in_the_order_of_their_time() -> None:
    shop = read_shop(generate(seed=3, orders=200).files)
    assert [one.occurred_at for one in shop.transactions] == sorted(one.occurred_at for one in shop.transactions)


def test_the_rows_of_an_invoice_are_one_event() -> None:
    shop = read_shop(
        {
            "a.csv.gz": gzip.compress(
                sales(
                    "1,20000,RED LANTERN,2,2026-01-05 10:00:00,4.255,,France",
                    "2,20001,IVORY MUG,1,2026-01-05 09:00:00,1.00,12000,France",
                    "1,20001,IVORY MUG,-1,2026-01-05 10:00:00,1.00,,France",
                )
            )
        }
    )
    assert [one.transaction_id for one in shop.transactions] == ["2", "1"]
    event = json.loads(shop.transactions[1].event())
    assert event["customer_id"] is None
    assert event["occurred_at"] == "2026-01-05T10:00:00+00:00"
    assert [(line["line_no"], line["quantity"], line["unit_price"]) for line in event["lines"]] == [
        (1, 2, "4.255"),
        (2, -1, "1.00"),
    ]
    assert shop.net_sales == Decimal("8.51") + 1 - 1


def test_amounts_are_converted_by_the_day_s_rate_and_rounded_half_up() -> None:
    rates = b"Currency,RateDate,Rate\nEUR,2026-01-05,0.845000\n"
    row = "1,20000,RED LANTERN,1,2026-01-05 10:00:00,1.00,12000,France,EUR"
    shop = read_shop({"sales.csv": f"{HEADER},Currency\n{row}".encode(), "rates.csv": rates})
    assert shop.net_sales == Decimal("0.85")  # half up; to even it would be 0.84


def test_the_truth_has_a_row_for_every_line() -> None:
    shop = read_shop(generate(seed=3, orders=50).files)
    rows = list(csv.reader(io.StringIO(gzip.decompress(shop.truth()).decode())))
    assert len(rows) == shop.lines
    assert sum(Decimal(row[4]) for row in rows) == shop.net_sales
    assert shop.truth() == shop.truth()


def test_products_know_their_category() -> None:
    shop = read_shop({"a.csv": sales("1,20000,RED LANTERN,2,2026-01-05 10:00:00,4.25,,France")})
    assert shop.products == {"20000": {"name": "RED LANTERN", "category": "light"}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": sales("1,20000,X,two,2026-01-05 10:00:00,4.25,,France")}, "a.csv, line 2: .*'two'"),
        ({"a.csv": sales("1,20000,X,2,yesterday,4.25,,France")}, "a.csv, line 2: .*yesterday"),
        ({"a.csv": sales("1,20000,X,2,2026-01-05 10:00:00,much,,France")}, "a.csv, line 2: "),
        ({"a.csv": sales("1,20000,X")}, "a.csv, line 2: not as many fields"),
        ({"a.csv": b"InvoiceNo,Quantity\n1,2\n"}, "a.csv: the header lacks Country, CustomerID"),
        ({"a.csv.gz": b"no gzip"}, "a.csv.gz: "),
        ({"a.csv": b"\xff\xfe"}, "a.csv: .*UTF-8"),
        (
            {"a.csv": f"{HEADER},Currency\n1,20000,X,2,2026-01-05 10:00:00,4.25,,France,EUR".encode()},
            "invoice 1: no exchange rate of EUR on 2026-01-05",
        ),
    ],
    ids=["quantity", "date", "price", "fields", "header", "gzip", "encoding", "rate"],
)
def test_a_bad_file_is_named_with_line_and_reason(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_shop(files)
