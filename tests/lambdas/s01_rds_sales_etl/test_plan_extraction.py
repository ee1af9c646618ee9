"""Planning the extraction of the sales source, against a real PostgreSQL."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from tests.glue_scripts.scripts import without_spark
from tests.lambdas.s01_rds_sales_etl.conftest import READER, READER_PASSWORD, Source, sale, sales

extract = without_spark("s01_rds_sales_etl_extract")
PLANNED = ("orders", "order_items", "customers")
BEGINNING = "1970-01-01T00:00:00+00:00"
LINES = (sale("1"), sale("1"), sale("2", customer="12001"), sale("3"))
INSERT = "INSERT INTO order_items VALUES ('99', 1, '20000', 'RED LANTERN', 1, 1.00)"


def after(plan: dict[str, Any]) -> dict[str, str]:
    """Return the watermarks once ``plan`` is published."""
    return dict.fromkeys(plan["watermarks"], plan["end"])


def extracted(source: Source, plan: dict[str, Any]) -> dict[str, list[tuple[Any, ...]]]:
    """Return what the extraction reads by ``plan``: first the invoice, or customer, of each row."""
    tables: dict[str, list[tuple[Any, ...]]] = {"orders": [], "order_items": [], "customers": []}
    with source.connect(user=READER, password=READER_PASSWORD) as reader:
        for index, piece in enumerate(plan["ranges"]):
            queries = extract.queries({**plan, **piece, "index": index})
            for table in tables.keys() & queries.keys():
                tables[table] += list(reader.execute(queries[table]))
    return tables


def changed(orders: int, order_items: int, customers: int) -> dict[str, int]:
    """Return the counts of a plan."""
    return {"orders": orders, "order_items": order_items, "customers": customers}


@contextmanager
def without_stamps(source: Source) -> Iterator[None]:
    """Let tests say when a row was changed."""
    for table in PLANNED:
        source.run(f"ALTER TABLE {table} DISABLE TRIGGER USER")
    try:
        yield
    finally:
        for table in PLANNED:
            source.run(f"ALTER TABLE {table} ENABLE TRIGGER USER")


def test_the_first_plan_covers_everything_and_the_next_nothing(source: Source) -> None:
    source.load("day.csv", sales(*LINES))

    first = source.plan()
    second = source.plan(after(first))

    assert first["changed"] == changed(3, 4, 2)
    assert first["watermarks"] == dict.fromkeys(PLANNED, BEGINNING)
    assert first["ranges"] == [{"after": None, "up_to": None}]
    assert timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(first["end"]) < timedelta(minutes=1)
    assert first["interval"].startswith("19700101T000000.000000Z_20")
    assert second["changed"] == changed(0, 0, 0)
    assert second["ranges"] == []
    assert second["watermarks"] == after(first)


def test_a_late_change_of_a_line_brings_its_whole_order_only(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    first = source.plan()
    source.run("UPDATE order_items SET quantity = 7 WHERE invoice_no = '1' AND line_no = 2")

    late = source.plan(after(first))

    assert late["changed"] == changed(1, 2, 0)
    found = extracted(source, late)
    assert [row[0] for row in found["orders"]] == ["1"]
    assert sorted((row[0], row[1], row[4]) for row in found["order_items"]) == [("1", 1, 1), ("1", 2, 7)]


def test_a_change_of_the_header_brings_its_lines(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    first = source.plan()
    source.run("UPDATE orders SET country = 'Norway' WHERE invoice_no = '1'")

    assert source.plan(after(first))["changed"] == changed(1, 2, 0)


def test_a_changed_customer_alone_is_one_range_without_orders(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    first = source.plan()
    source.run("UPDATE customers SET country = 'Norway' WHERE customer_id = '12001'")

    plan = source.plan(after(first))

    assert plan["changed"] == changed(0, 0, 1)
    assert plan["ranges"] == [{"after": None, "up_to": None}]
    found = extracted(source, plan)
    assert (found["orders"], found["order_items"], [row[0] for row in found["customers"]]) == ([], [], ["12001"])


def test_each_table_has_its_own_watermark(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    end = source.plan()["end"]

    assert source.plan({"orders": end, "order_items": end})["changed"] == changed(0, 0, 2)
    assert source.plan({"orders": end, "customers": end})["changed"] == changed(3, 4, 0)


@pytest.mark.parametrize(
    ("table", "key"), [("orders", "invoice_no"), ("order_items", "invoice_no"), ("customers", "customer_id")]
)
def test_a_row_exactly_at_the_end_belongs_to_the_next_plan(source: Source, table: str, key: str) -> None:
    source.load("day.csv", sales(*(sale(number, customer=number) for number in "123")))
    start, end, next_end = (f"2026-01-01T{hour}:00:00+00:00" for hour in ("09", "10", "11"))
    with without_stamps(source):
        for other in PLANNED:
            source.run(f"UPDATE {other} SET updated_at = '2025-01-01'")
        for number, changed_at in {"1": "2026-01-01T09:59:59.999999Z", "2": end, "3": next_end}.items():
            source.run(f"UPDATE {table} SET updated_at = '{changed_at}' WHERE {key} = '{number}'")
    first = source.plan(dict.fromkeys(PLANNED, start), end=end)
    second = source.plan(after(first), end=next_end)

    for plan, number in ((first, "1"), (second, "2")):
        assert plan["changed"][table] == 1
        assert [row[0] for row in extracted(source, plan)[table]] == [number]


@pytest.mark.parametrize("safe", [True, False], ids=["oldest open transaction", "control: the present time"])
def test_rows_of_an_open_transaction_are_not_lost(source: Source, safe: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan up to the present moves the watermark over rows that nobody could see yet; up to the oldest, not."""
    if not safe:
        monkeypatch.setattr(source.plan_extraction, "SAFE_END", "SELECT clock_timestamp()")
    source.load("day.csv", sales(*LINES))
    with source.connect(autocommit=False) as writer:
        writer.execute(INSERT)
        while_open = source.plan()
        writer.commit()

    then = source.plan(after(while_open))

    assert while_open["changed"] == changed(3, 4, 2)
    assert then["changed"]["order_items"] == (1 if safe else 0)


def test_an_end_that_an_open_transaction_forbids_is_refused(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    with source.connect(autocommit=False) as writer:
        writer.execute(INSERT)
        time.sleep(0.01)
        now = datetime.now(UTC).isoformat()
        with pytest.raises(ValueError, match="later than what is safe to read"):
            source.plan(end=now)
        writer.rollback()
    assert source.plan(end=now)["end"] == now


def test_a_transaction_that_only_reads_holds_nothing_back(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    with source.connect(autocommit=False) as other:
        other.execute("SELECT count(*) FROM orders")
        begun = datetime.now(UTC)
        source.run("UPDATE orders SET country = 'Norway'")

        assert datetime.fromisoformat(source.plan()["end"]) > begun


@pytest.mark.parametrize("rows_per_range", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("max_ranges", [1, 3, 100])
def test_ranges_hold_every_changed_row_once(source: Source, rows_per_range: int, max_ranges: int) -> None:
    """One order is larger than most ranges, one has lost its header, one all its lines."""
    numbers = [*range(20), *([7] * 15)]
    source.load("day.csv", sales(*(sale(f"{'C' if number % 3 else ''}{number:02d}") for number in numbers)))
    source.run(INSERT)
    source.run("DELETE FROM order_items WHERE invoice_no = 'C19'")

    plan = source.plan(rows_per_range=rows_per_range, max_ranges=max_ranges)

    found = extracted(source, plan)
    assert sorted(row[0] for row in found["orders"]) == [row[0] for row in source.rows("SELECT invoice_no FROM orders")]
    assert sorted(row[:2] for row in found["order_items"]) == source.rows("SELECT invoice_no, line_no FROM order_items")
    assert len(found["customers"]) == 1
    assert len(plan["ranges"]) <= min(max_ranges, -(-35 // rows_per_range))
    if rows_per_range <= 7 and max_ranges == 3:
        assert len(plan["ranges"]) == 3
        lines = Counter(row[0] for row in found["order_items"])
        assert lines["C07"] == 16


def test_ranges_follow_the_order_of_the_database(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts sort otherwise in Python than in a database with a linguistic order, the default on Amazon RDS.

    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/PostgreSQL-Collations.html
    """

    class Linguistic:
        def run(self, statement: str, **_bounds: Any) -> list[list[Any]]:
            answers: dict[str, list[list[Any]]] = {
                source.plan_extraction.SAFE_END: [[datetime(2026, 1, 5, tzinfo=UTC)]],
                source.plan_extraction.COUNTS: [[4, 4, 0]],
                source.plan_extraction.BOUNDS: [["a1"], ["B2"], ["B2"], ["c3"]],
            }
            return answers[statement]

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr(source.plan_extraction, "connect", lambda _secret: Linguistic())

    assert source.plan(rows_per_range=1)["ranges"] == [
        {"after": None, "up_to": "a1"},
        {"after": "a1", "up_to": "B2"},
        {"after": "B2", "up_to": None},
    ]


def test_an_interval_can_be_planned_again(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    first = source.plan(rows_per_range=2)
    source.load("later.csv", sales(sale("4")))

    again = source.plan(first["watermarks"], end=first["end"], rows_per_range=2)

    assert again == first
    assert first["changed"] == changed(3, 4, 2)


@pytest.mark.parametrize(
    ("watermark", "end", "message"),
    [
        pytest.param(BEGINNING, "2999-01-01T00:00:00+00:00", "later than what is safe to read", id="in the future"),
        pytest.param(
            "2026-01-02T00:00:00+00:00",
            "2026-01-01T00:00:00+00:00",
            "lies before the watermark of order_items",
            id="before a watermark",
        ),
        pytest.param("2999-01-01T00:00:00+00:00", None, "lies before the watermark", id="watermark in the future"),
    ],
)
def test_an_impossible_interval_is_refused(source: Source, watermark: str, end: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source.plan({"order_items": watermark}, end=end)


def test_the_end_may_be_the_watermark_and_in_any_zone(source: Source) -> None:
    plan = source.plan(dict.fromkeys(PLANNED, "2026-01-02T00:00:00+00:00"), end="2026-01-02T01:00:00+01:00")

    assert plan["ranges"] == []
    assert plan["interval"] == "20260102T000000.000000Z_20260102T000000.000000Z"


def test_the_reader_may_not_write(source: Source) -> None:
    source.load("day.csv", sales(*LINES))
    with source.connect(user=READER, password=READER_PASSWORD) as reader:
        for statement in (INSERT, "DELETE FROM orders", "TRUNCATE customers"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)
    assert source.plan()["changed"] == changed(3, 4, 2)
