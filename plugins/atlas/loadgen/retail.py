"""A retailer's sales, as files in the layout of the UCI Online Retail data set with a currency column.

The same seed gives the same bytes. Trade follows the week (quiet Sundays), a few products and customers make most of
it, some customers are unknown, some orders come back as returns, and a fifth is paid in another currency.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal

Fault = Literal["none", "malformed_rows", "bad_rows"]

FIRST_DAY = date(2026, 1, 5)
"""A Monday; a fixed day, because the same seed must give the same bytes whenever it is used."""

HEADER = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
    "Currency",
)
CENT = Decimal("0.01")
WEEKDAY_TRADE = (9, 10, 10, 11, 13, 8, 4)
MARKETS = (
    ("United Kingdom", "GBP", 80),
    ("Germany", "EUR", 8),
    ("France", "EUR", 6),
    ("USA", "USD", 4),
    ("Switzerland", "CHF", 2),
)
RATES = {"EUR": Decimal("0.86"), "USD": Decimal("0.75"), "CHF": Decimal("0.91")}
ADJECTIVES = ("RED", "IVORY", "VINTAGE", "POLKADOT", "WOODEN", "GLASS", "SET OF 6", "JUMBO", "PAPER", "RETROSPOT")
NOUNS = (
    "LANTERN",
    "TEA TOWEL",
    "CAKE STAND",
    "MUG",
    "BUNTING",
    "CANDLE",
    "PICTURE FRAME",
    "LUNCH BAG",
    "CLOCK",
    "TRAY",
)


@dataclass(frozen=True)
class Retail:
    """Files by name, and the truth about them in the base currency (GBP)."""

    files: dict[str, bytes]
    bad_file: str | None
    """The file that is to reach the source unchecked and without its customers, if the fault asks for one."""
    lines: int
    orders: int
    net_sales: Decimal
    rejected: int
    """Rows of ``files`` that a loader has to refuse."""


def generate(seed: int, orders: int, days: int = 28, fault: Fault = "none") -> Retail:
    """Return ``days`` days of sales with ``orders`` orders in all, from ``FIRST_DAY`` on."""
    dice = random.Random(f"retail/{seed}")  # noqa: S311 - reproducible, not secret
    calendar = [FIRST_DAY + timedelta(days=offset) for offset in range(days)]
    rates = {
        (currency, day): (middle * Decimal(dice.randint(980, 1020)) / 1000).quantize(Decimal("0.000001"))
        for currency, middle in RATES.items()
        for day in calendar
    }
    products = _products(dice)
    lines_by_day: dict[date, list[tuple[object, ...]]] = {day: [] for day in calendar}
    net_sales, lines = Decimal(0), 0
    for number, day in enumerate(
        sorted(dice.choices(calendar, [WEEKDAY_TRADE[d.weekday()] for d in calendar], k=orders))
    ):
        order = list(_order(dice, seed, number, day, orders, products))
        lines_by_day[day] += order
        for row in order:
            rate = rates.get((str(row[8]), day), Decimal(1))
            net_sales += (int(str(row[3])) * Decimal(str(row[5])) * rate).quantize(CENT, ROUND_HALF_UP)
        lines += len(order)
    files = {
        f"retail-{seed}-rates.csv": _text(
            ("Currency", "RateDate", "Rate"), [(*key, rate) for key, rate in rates.items()]
        )
    }
    for day, rows in lines_by_day.items():
        files[f"retail-{seed}-{day}.csv"] = _text(HEADER, rows)
    rejected, bad_file = 0, None
    if fault == "malformed_rows":
        rejected = _malform(dice, files, f"retail-{seed}-{calendar[0]}.csv")
    elif fault == "bad_rows":
        bad_file = f"retail-{seed}-{fault}.csv"
        files[bad_file] = _text(HEADER, _bad_rows(seed, calendar[-1]))
    return Retail(files, bad_file, lines, orders, net_sales, rejected)


def _products(dice: random.Random) -> list[tuple[str, str, Decimal]]:
    names = [f"{adjective} {noun}" for adjective in ADJECTIVES for noun in NOUNS]
    return [
        (f"{20000 + 7 * index}", name, Decimal(dice.randint(29, 1995)) / 100) for index, name in enumerate(names)
    ] + [("POST", "POSTAGE", Decimal("18.00"))]


def _order(
    dice: random.Random, seed: int, number: int, day: date, orders: int, products: list[tuple[str, str, Decimal]]
) -> Iterator[tuple[object, ...]]:
    """Yield the lines of one order; one in thirty is a return, as in the real data."""
    returned = dice.random() < 1 / 30
    invoice = f"{'C' if returned else ''}{seed:03d}{number:06d}"
    ordered_at = datetime.combine(day, time(8), UTC) + timedelta(minutes=dice.randrange(600))
    country, currency, _ = dice.choices(MARKETS, [share for *_, share in MARKETS])[0]
    # A few customers order often; one order in twelve is from somebody unknown.
    customer = "" if dice.random() < 1 / 12 else str(12000 + int(max(10, orders // 4) * dice.random() ** 2))
    for _ in range(1 if returned else dice.randint(1, 9)):
        code, name, price = products[int(len(products) * dice.random() ** 2)]
        quantity = dice.choice((1, 1, 2, 3, 4, 6, 6, 12, 24))
        yield (
            invoice, code, name, -quantity if returned else quantity, f"{ordered_at:%Y-%m-%d %H:%M:%S}", price,
            customer, country, currency,
        )  # fmt: skip


def _bad_rows(seed: int, day: date) -> list[tuple[object, ...]]:
    """A negative price, a customer that nobody knows, an order from the far future."""

    def row(number: int, ordered_on: date, price: str, customer: str) -> tuple[object, ...]:
        ordered_at = f"{ordered_on} 12:00:00"
        return f"BAD{seed:03d}{number}", "20000", "RED LANTERN", 2, ordered_at, price, customer, "United Kingdom", "GBP"

    return [
        row(1, day, "-4.25", ""),
        row(2, day, "4.25", f"NOBODY-{seed}"),
        row(3, day.replace(year=day.year + 1000), "4.25", ""),
    ]


def _malform(dice: random.Random, files: dict[str, bytes], name: str) -> int:
    """Add rows to a file that no loader can accept; returns how many."""
    bad = [
        b"1,20000,RED LANTERN,two,2026-01-05 10:00:00,4.25,12000,United Kingdom,GBP\n",
        b"2,20000,RED LANTERN,2,yesterday,4.25,12000,United Kingdom,GBP\n",
        b"3,20000,RED LANTERN,2,2026-01-05 10:00:00,-4.25,12000,United Kingdom,GBP\n",
        b"4,20000,RED \xff\xfe LANTERN,2,2026-01-05 10:00:00,4.25,12000,United Kingdom,GBP\n",
        b"5,20000,RED LANTERN\n",
    ]
    head, *rows = files[name].splitlines(keepends=True)
    for row in bad:
        rows.insert(dice.randrange(len(rows) + 1), row)
    files[name] = b"".join([head, *rows])
    return len(bad)


def _text(header: tuple[str, ...], rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()
