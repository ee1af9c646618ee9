"""What the transform stages, by Spark, compared with results worked out by hand and by plain Python."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from local.launcher import layout, spark

Row = dict[str, Any]
Tables = dict[str, list[Row]]
CENT = Decimal("0.01")
# A few rows in many queries: what Spark does to speed up large ones would take most of the time.
SPARK_SETTINGS = {
    "spark.sql.shuffle.partitions": "1",
    "spark.default.parallelism": "1",
    "spark.sql.adaptive.enabled": "false",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}


def order(invoice: str, at: str, customer: str | None = "k1", currency: str = "GBP", changed: str = "09:00") -> Row:
    """Return an order; ``at`` is a day or a time."""
    return {
        "invoice_no": invoice,
        "customer_id": customer,
        "country": "France",
        "currency": currency,
        "ordered_at": at if ":" in at else f"{at} 10:00:00",
        "source_file": "day.csv",
        "updated_at": f"2026-03-01 {changed}:00",
    }


def item(invoice: str, line: int, quantity: int, price: str, code: str = "20000", **more: Any) -> Row:
    """Return an order's line."""
    return {
        "invoice_no": invoice,
        "line_no": str(line),
        "stock_code": code,
        "description": more.get("description", f"PRODUCT {code}"),
        "quantity": str(quantity),
        "unit_price": price,
        "deleted": "true" if more.get("deleted") else "false",
        "updated_at": f"2026-03-01 {more.get('changed', '09:00')}:00",
    }


def customer(number: str, country: str = "France") -> Row:
    """Return a customer."""
    return {"customer_id": number, "country": country, "updated_at": "2026-03-01 09:00:00"}


def rate(currency: str, day: str, value: str) -> Row:
    """Return an exchange rate."""
    return {"currency": currency, "rate_date": day, "rate": value}


def interval(
    orders: Iterable[Row], items: Iterable[Row], customers: Iterable[Row] = (), rates: Iterable[Row] = ()
) -> Tables:
    """Return what one extraction brings."""
    return {
        "orders": list(orders),
        "order_items": list(items),
        "customers": list(customers),
        "exchange_rates": list(rates),
    }


AMOUNTS = interval(
    [
        order("A", "2026-01-05"),
        order("C1", "2026-01-05"),
        order("E1", "2026-01-06 23:59:59", None, "EUR"),
        order("E2", "2026-01-07 00:00:00", currency="EUR"),
        order("E3", "2026-01-20", currency="EUR"),
        order("EARLY", "2026-01-04", currency="EUR"),
        order("NORATE", "2026-01-05", currency="USD"),
        order("EMPTY", "2026-01-05"),
    ],
    [
        item("A", 1, 3, "0.3350"),
        item("A", 2, 1, "2.0050", "85123A", description="OLD NAME"),
        item("A", 3, 1, "18.00", "POST"),
        item("A", 4, 1, "500.00", "20014", deleted=True),
        item("C1", 1, -1, "0.1250"),
        item("E1", 1, 2, "1.00", "20007"),
        item("E2", 1, 2, "1.00", "20007"),
        item("E3", 1, 1, "9.9999", "85123A", description="NEW NAME"),
        item("EARLY", 1, 1, "1.00"),
        item("NORATE", 1, 1, "1.00"),
        item("ORPHAN", 1, 1, "1.00"),
        item("ORPHAN", 2, 1, "1.00", deleted=True),
    ],
    rates=[
        rate("EUR", "2026-01-07", "0.900000"),
        rate("EUR", "2026-01-05", "0.860000"),
        rate("EUR", "2026-02-01", "5.000000"),
        rate("USD", "2026-01-06", "0.750000"),
    ],
)
WEEKS = interval(
    [
        order("1", "2026-01-05", "k1"),
        order("2", "2026-01-06", "k2"),
        order("3", "2026-01-12", "k3"),
        order("4", "2026-01-19", "k4"),
        order("5", "2026-01-26", "k5"),
        order("6", "2026-02-02", "k5"),
        order("C7", "2026-02-02", "k6"),
        order("8", "2026-02-02", None),
    ],
    [item(invoice, 1, 1, price) for invoice, price in zip("123456", ("100", "50", "10", "20", "30", "35"), strict=True)]
    + [item("C7", 1, -2, "2.50"), item("8", 1, 1, "5")],
    [customer("k1", "Norway")],
)
LATE_START = interval(
    [order("L1", "2026-01-05"), order("L2", "2026-01-05"), order("L3", "2026-01-06"), order("L4", "2026-01-08", "k2")],
    [
        item("L1", 1, 1, "10"),
        item("L1", 2, 1, "20"),
        item("L2", 1, 1, "5"),
        item("L3", 1, 1, "7"),
        item("L4", 1, 1, "9"),
    ],
    [customer("k1"), customer("k2")],
)
LATE_CHANGE = interval(
    [order("L1", "2026-01-05"), order("L3", "2026-01-07", changed="11:00")],
    [item("L1", 1, 1, "10"), item("L1", 2, 1, "20", deleted=True, changed="11:00"), item("L3", 1, 1, "7")],
    [customer("k1", "Norway")],
)


def some_sales(dice: random.Random) -> tuple[Tables, Tables, Tables]:
    """Return a first interval, a second that changes some of its orders, and the source as it is after both."""
    start = date(2026, 1, 1)
    rates = [rate("EUR", f"{start + timedelta(offset)}", f"0.{dice.randint(700000, 999999)}") for offset in range(90)]
    customers = [customer(f"k{number}") for number in range(20)]
    orders: dict[str, Row] = {}
    items: dict[str, list[Row]] = {}

    def write(number: int) -> str:
        invoice = f"{'C' if number % 9 == 0 else ''}{number:03d}"
        day = start + timedelta(dice.randrange(90))
        orders[invoice] = order(
            invoice,
            f"{day} {dice.randrange(24):02d}:{number % 60:02d}:00",
            dice.choice([f"k{int(20 * dice.random() ** 2)}", None]),
            dice.choice(["GBP", "EUR"]),
        )
        items[invoice] = [
            item(
                invoice,
                line,
                -1 if invoice.startswith("C") else dice.randint(1, 9),
                f"{dice.randint(1, 90000) / 10000}",
                dice.choice(["20000", "20007", "85123A", "POST"]),
                deleted=dice.random() < 0.1,
            )
            for line in range(1, dice.randint(2, 4))
        ]
        return invoice

    def tables(invoices: Iterable[str]) -> Tables:
        chosen = list(invoices)
        return interval(
            [orders[invoice] for invoice in chosen],
            [row for invoice in chosen for row in items[invoice]],
            customers,
            rates,
        )

    first = tables([write(number) for number in range(120)])
    second = tables([write(number) for number in range(90, 140)])
    everything = tables(orders)
    for rows in everything.values():
        dice.shuffle(rows)
    return first, second, everything


FIRST, SECOND, EVERYTHING = some_sales(random.Random("sales"))
CASES = {
    "amounts": [AMOUNTS],
    "weeks": [WEEKS],
    "late": [LATE_START, LATE_CHANGE, LATE_CHANGE],
    "bit by bit": [FIRST, SECOND],
    "at once": [EVERYTHING],
}


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Tables]]:
    """What is staged by case and interval; one Spark computes all."""
    scratch = tmp_path_factory.mktemp("spark")
    installed = spark.installed(layout.JARS)
    answer = subprocess.run(
        [layout.python(layout.AWS_VENV), Path(__file__).with_name("drive_transform.py")],
        input=json.dumps(CASES),
        env={"PATH": os.environ["PATH"], "TZ": "UTC", **installed.environment(scratch, SPARK_SETTINGS)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    results: dict[str, list[Tables]] = json.loads(answer.stdout)
    return results


def by(key: str, rows: Iterable[Row]) -> dict[str, Row]:
    """Return ``rows`` by the value of ``key``, which must be unique."""
    listed = list(rows)
    found = {row[key]: row for row in listed}
    assert len(found) == len(listed)
    return found


def ordered(tables: Tables) -> Tables:
    """Return ``tables`` with their rows in an order of their own."""
    return {name: sorted(rows, key=json.dumps) for name, rows in tables.items()}


def total(rows: Iterable[Row], column: str) -> Decimal:
    """Return the sum of an amount."""
    return sum((Decimal(row[column]) for row in rows), Decimal(0))


def test_amounts_are_rounded_half_up_on_every_line(staged: dict[str, list[Tables]]) -> None:
    lines = {(row["invoice_no"], row["line_no"]): row for row in staged["amounts"][0]["sales_lines"]}

    assert {key: row["amount"] for key, row in lines.items()} == {
        ("A", 1): "1.01",
        ("A", 2): "2.01",
        ("A", 3): "18.00",
        ("C1", 1): "-0.13",
        ("E1", 1): "1.72",
        ("E2", 1): "1.80",
        ("E3", 1): "9.00",
    }
    assert lines[("A", 1)]["rate"] == "1.000000"
    assert (lines[("A", 1)]["is_return"], lines[("C1", 1)]["is_return"]) == (False, True)


def test_the_rate_is_that_of_the_latest_day_that_has_one(staged: dict[str, list[Tables]]) -> None:
    rates = {row["invoice_no"]: row["rate"] for row in staged["amounts"][0]["sales_lines"] if row["currency"] == "EUR"}

    assert rates == {"E1": "0.860000", "E2": "0.900000", "E3": "0.900000"}


def test_lines_without_order_or_rate_are_set_aside(staged: dict[str, list[Tables]]) -> None:
    result = staged["amounts"][0]

    assert sorted((row["invoice_no"], row["line_no"], row["reason"]) for row in result["unmatched_lines"]) == [
        ("EARLY", 1, "no exchange rate for EUR"),
        ("NORATE", 1, "no exchange rate for USD"),
        ("ORPHAN", 1, "order is missing"),
    ]
    assert {"EARLY", "NORATE", "ORPHAN"}.isdisjoint(row["invoice_no"] for row in result["sales_lines"])


def test_top_products_are_merchandise_by_net_sales(staged: dict[str, list[Tables]]) -> None:
    products = staged["amounts"][0]["top_products"]

    assert sorted((row["rank"], row["stock_code"], row["units"], row["net_sales"]) for row in products) == [
        (1, "85123A", 2, "11.01"),
        (2, "20007", 4, "3.52"),
        (3, "20000", 2, "0.88"),
    ]
    assert by("stock_code", products)["85123A"]["description"] == "NEW NAME"


def test_returns_are_netted_out_by_day(staged: dict[str, list[Tables]]) -> None:
    assert by("order_date", staged["weeks"][0]["daily_sales"])["2026-02-02"] == {
        "order_date": "2026-02-02",
        "orders": 2,
        "returns": 1,
        "customers": 2,
        "units": 0,
        "gross_sales": "40.00",
        "returned_sales": "-5.00",
        "net_sales": "35.00",
        "net_sales_7_day_average": "35.00",
    }


def test_the_daily_average_covers_the_days_with_sales_of_seven(staged: dict[str, list[Tables]]) -> None:
    days = by("order_date", staged["weeks"][0]["daily_sales"])

    averages = {day: row["net_sales_7_day_average"] for day, row in days.items()}
    assert averages["2026-01-05"] == "100.00"
    assert averages["2026-01-06"] == "75.00"
    assert averages["2026-01-12"] == "30.00"  # of the 6th and the 12th; the 5th is the eighth day
    assert averages["2026-01-19"] == "20.00"


def test_weeks_begin_on_monday_and_average_over_four(staged: dict[str, list[Tables]]) -> None:
    weeks = staged["weeks"][0]["weekly_sales"]

    found = sorted(
        (row["week_start"], row["net_sales"], row["net_sales_4_week_average"], row["change_to_last_week"])
        for row in weeks
    )
    assert found == [
        ("2026-01-05", "150.00", "150.00", None),
        ("2026-01-12", "10.00", "80.00", "-0.9333"),
        ("2026-01-19", "20.00", "60.00", "1.0000"),
        ("2026-01-26", "30.00", "52.50", "0.5000"),
        ("2026-02-02", "35.00", "23.75", "0.1667"),
    ]


def test_customers_are_scored_in_fifths_and_named(staged: dict[str, list[Tables]]) -> None:
    segments = staged["weeks"][0]["customer_segments"]

    names = ("recency_score", "frequency_score", "monetary_score", "segment")
    assert {row["customer_id"]: tuple(row[name] for name in names) for row in segments} == {
        "k1": (1, 1, 5, "at risk"),
        "k2": (2, 2, 3, "hibernating"),
        "k3": (3, 3, 1, "at risk"),
        "k4": (4, 4, 2, "champions"),
        "k5": (5, 5, 4, "champions"),
    }
    first = by("customer_id", segments)["k1"]
    assert (first["country"], first["last_order"], first["recency_days"]) == ("Norway", "2026-01-05", 28)
    assert (first["frequency"], first["monetary"]) == (1, "100.00")


def test_a_customer_repeats_after_an_earlier_order(staged: dict[str, list[Tables]]) -> None:
    months = staged["weeks"][0]["customer_months"]

    names = ("month", "customers", "repeat_customers", "repeat_rate")
    assert sorted(tuple(row[name] for name in names) for row in months) == [
        ("2026-01-01", 5, 0, "0.0000"),
        ("2026-02-01", 1, 1, "1.0000"),
    ]


def test_only_touched_days_are_rebuilt_those_left_included(staged: dict[str, list[Tables]]) -> None:
    first, late, _ = staged["late"]

    assert sorted(row["order_date"] for row in first["rebuilt_days"]) == ["2026-01-05", "2026-01-06", "2026-01-08"]
    assert sorted(row["order_date"] for row in late["rebuilt_days"]) == ["2026-01-05", "2026-01-06", "2026-01-07"]
    found = sorted((row["order_date"], row["invoice_no"], row["line_no"]) for row in late["sales_lines"])
    assert found == [("2026-01-05", "L1", 1), ("2026-01-05", "L2", 1), ("2026-01-07", "L3", 1)]


def test_a_late_change_moves_sales_to_their_new_day(staged: dict[str, list[Tables]]) -> None:
    first, late, _ = staged["late"]

    assert {day: row["net_sales"] for day, row in by("order_date", first["daily_sales"]).items()} == {
        "2026-01-05": "35.00",
        "2026-01-06": "7.00",
        "2026-01-08": "9.00",
    }
    assert {day: row["net_sales"] for day, row in by("order_date", late["daily_sales"]).items()} == {
        "2026-01-05": "15.00",
        "2026-01-07": "7.00",
        "2026-01-08": "9.00",
    }


def test_a_line_is_as_new_as_the_newer_of_header_and_line(staged: dict[str, list[Tables]]) -> None:
    lines = {row["invoice_no"]: row["updated_at"] for row in staged["late"][1]["sales_lines"]}

    assert lines["L3"].startswith("2026-03-01 11:00")
    assert lines["L2"].startswith("2026-03-01 09:00")


def test_changed_customers_replace_published_ones(staged: dict[str, list[Tables]]) -> None:
    late = staged["late"][1]

    assert {row["customer_id"]: row["country"] for row in late["customers"]} == {"k1": "Norway", "k2": "France"}
    assert by("customer_id", late["customer_segments"])["k1"]["country"] == "Norway"


def test_the_same_interval_again_stages_the_same(staged: dict[str, list[Tables]]) -> None:
    _, late, again = staged["late"]

    days = {"rebuilt_days"}  # the day that has become empty is published as such by then
    assert {name: rows for name, rows in ordered(again).items() if name not in days} == {
        name: rows for name, rows in ordered(late).items() if name not in days
    }
    assert sorted(row["order_date"] for row in again["rebuilt_days"]) == ["2026-01-05", "2026-01-07"]


REPORTS = ("daily_sales", "weekly_sales", "top_products", "customer_segments", "customer_months", "customers")


@pytest.mark.parametrize("name", REPORTS)
def test_bit_by_bit_gives_what_all_at_once_gives(staged: dict[str, list[Tables]], name: str) -> None:
    """Neither the way the source came here nor the order of its rows shows in the result."""
    bit_by_bit, at_once = staged["bit by bit"][-1][name], staged["at once"][0][name]

    assert len(at_once) > 2
    assert sorted(bit_by_bit, key=json.dumps) == sorted(at_once, key=json.dumps)


@pytest.mark.parametrize(("case", "step"), [("bit by bit", 0), ("bit by bit", 1), ("at once", 0), ("weeks", 0)])
def test_days_weeks_and_customers_add_up_to_the_lines(staged: dict[str, list[Tables]], case: str, step: int) -> None:
    result = staged[case][step]
    tables = {"bit by bit": (FIRST, EVERYTHING), "at once": (EVERYTHING,), "weeks": (WEEKS,)}[case][step]
    lines = expected_lines(tables)

    assert total(result["daily_sales"], "net_sales") == total(lines, "amount")
    assert total(result["weekly_sales"], "net_sales") == total(lines, "amount")
    assert sum(row["units"] for row in result["daily_sales"]) == sum(row["quantity"] for row in lines)


def expected_lines(tables: Tables) -> list[Row]:
    """Return the sales lines of a source whose every line has an order and a rate, by plain Python."""
    orders = by("invoice_no", tables["orders"])
    rates = {(row["currency"], row["rate_date"]): Decimal(row["rate"]) for row in tables["exchange_rates"]}
    lines = []
    for row in tables["order_items"]:
        if row["deleted"] == "false":
            header = orders[row["invoice_no"]]
            day = header["ordered_at"][:10]
            factor = Decimal(1) if header["currency"] == "GBP" else rates[(header["currency"], day)]
            exact = int(row["quantity"]) * Decimal(row["unit_price"]) * factor
            lines.append(
                {
                    **header,
                    "code": row["stock_code"],
                    "quantity": int(row["quantity"]),
                    "day": date.fromisoformat(day),
                    "amount": exact.quantize(CENT, ROUND_HALF_UP),
                }
            )
    return lines


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Return ``rows`` by ``key``, in its order."""
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return dict(sorted(groups.items()))


def purchases(rows: Iterable[Row]) -> set[str]:
    """Return the invoices that are no returns."""
    return {row["invoice_no"] for row in rows if row["quantity"] > 0}


def mean(amounts: list[Decimal]) -> str:
    """Return the mean in cents."""
    return str((sum(amounts, Decimal(0)) / len(amounts)).quantize(CENT, ROUND_HALF_UP))


def test_days_are_what_plain_python_makes_of_them(staged: dict[str, list[Tables]]) -> None:
    days = grouped(expected_lines(EVERYTHING), lambda row: row["day"])
    net = {day: total(rows, "amount") for day, rows in days.items()}

    found = by("order_date", staged["at once"][0]["daily_sales"])

    assert sorted(found) == [str(day) for day in days]
    for day, rows in days.items():
        names = {row["customer_id"] for row in rows} - {None}
        returned = [row for row in rows if row["quantity"] < 0]
        assert found[str(day)] == {
            "order_date": str(day),
            "orders": len(purchases(rows)),
            "returns": len({row["invoice_no"] for row in returned}),
            "customers": len(names),
            "units": sum(row["quantity"] for row in rows),
            "gross_sales": str(total(rows, "amount") - total(returned, "amount")),
            "returned_sales": str(total(returned, "amount").quantize(CENT)),
            "net_sales": str(net[day]),
            "net_sales_7_day_average": mean([net[other] for other in net if 0 <= (day - other).days < 7]),
        }


def test_segments_are_what_plain_python_makes_of_them(staged: dict[str, list[Tables]]) -> None:
    lines = expected_lines(EVERYTHING)
    today = max(row["day"] for row in lines)
    activity = {
        name: (
            (today - max(row["day"] for row in rows)).days,
            len(purchases(rows)),
            total(rows, "amount"),
        )
        for name, rows in grouped((row for row in lines if row["customer_id"]), lambda row: row["customer_id"]).items()
        if purchases(rows)
    }

    def fifths(value: Callable[[str], Any]) -> dict[str, int]:
        ranked = sorted(activity, key=lambda name: (value(name), name))
        size, larger = divmod(len(ranked), 5)
        sizes = [size + (number < larger) for number in range(5)]
        scores = [score for score, count in enumerate(sizes, 1) for _ in range(count)]
        return dict(zip(ranked, scores, strict=True))

    recency = fifths(lambda name: -activity[name][0])
    frequency, monetary = fifths(lambda name: activity[name][1]), fifths(lambda name: activity[name][2])

    found = by("customer_id", staged["at once"][0]["customer_segments"])

    assert {
        name: (row["recency_days"], row["frequency"], Decimal(row["monetary"])) for name, row in found.items()
    } == activity
    for name, row in found.items():
        scores = (recency[name], frequency[name], monetary[name])
        assert (row["recency_score"], row["frequency_score"], row["monetary_score"]) == scores
        assert row["segment"] == segment(*scores)
    assert {row["segment"] for row in found.values()} == {"champions", "loyal", "recent", "at risk", "hibernating"}


def segment(recency: int, frequency: int, monetary: int) -> str:
    """Return the name of a customer's behaviour."""
    if frequency >= 4 and recency >= 2:
        return "champions" if recency >= 4 else "loyal"
    if recency >= 4:
        return "recent"
    return "at risk" if frequency >= 3 or monetary >= 4 else "hibernating"


def test_repeat_rates_are_what_plain_python_makes_of_them(staged: dict[str, list[Tables]]) -> None:
    bought = [row for row in expected_lines(EVERYTHING) if row["quantity"] > 0 and row["customer_id"]]
    seen: dict[str, set[str]] = defaultdict(set)
    expected = []
    for month, rows in grouped(bought, lambda row: row["day"].replace(day=1)).items():
        repeating = set()
        for name, own in grouped(rows, lambda row: row["customer_id"]).items():
            invoices = {row["invoice_no"] for row in own}
            if seen[name] or len(invoices) > 1:
                repeating.add(name)
            seen[name] |= invoices
        everyone = {row["customer_id"] for row in rows}
        share = (Decimal(len(repeating)) / len(everyone)).quantize(Decimal("0.0001"), ROUND_HALF_UP)
        expected.append((str(month), len(everyone), len(repeating), str(share)))

    names = ("month", "customers", "repeat_customers", "repeat_rate")
    found = sorted(tuple(row[name] for name in names) for row in staged["at once"][0]["customer_months"])

    assert found == expected
    assert any(0 < repeating < everyone for _, everyone, repeating, _ in expected)
