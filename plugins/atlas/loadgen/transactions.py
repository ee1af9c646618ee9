"""A shop's transactions as events, with their ground truth, from sales files in the layout of UCI Online Retail.

The files are those of ``atlas.loadgen.retail`` or the user's own: one row per line of an invoice, a negative quantity
is a return. Rows of one invoice make one transaction, at the time of its first row.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from atlas.loadgen.retail import CENT, HEADER

RATES_COLUMNS = {"Currency", "RateDate", "Rate"}
SALES_COLUMNS = set(HEADER) - {"Currency"}
CATEGORIES = {
    "light": ("LIGHT", "LANTERN", "CANDLE", "LAMP"),
    "kitchen": ("MUG", "CUP", "TEA", "CAKE", "PLATE", "BOWL", "GLASS", "JAR", "SPOON", "TRAY"),
    "bag": ("BAG", "PURSE", "CASE"),
    "seasonal": ("CHRISTMAS", "EASTER", "SNOW", "BUNTING", "REINDEER", "ADVENT"),
    "decoration": ("HEART", "FRAME", "CLOCK", "SIGN", "WREATH", "HOOK"),
    "postage": ("POSTAGE", "CARRIAGE"),
}
"""By which words of its description a product belongs to a category; the first that fits."""


@dataclass(frozen=True)
class Line:
    """One product of a transaction. ``amount`` is in GBP, rounded half up to the cent."""

    line_no: int
    product_id: str
    quantity: int
    unit_price: Decimal
    amount: Decimal


@dataclass(frozen=True)
class Transaction:
    """What the shop sends when a purchase or a return is finished."""

    transaction_id: str
    occurred_at: datetime
    customer_id: str | None
    country: str
    currency: str
    exchange_rate: Decimal
    lines: tuple[Line, ...]

    def event(self) -> bytes:
        """Return the event as JSON; money travels as text, so that no float touches it."""
        return json.dumps(
            {
                "transaction_id": self.transaction_id,
                "occurred_at": self.occurred_at.isoformat(),
                "customer_id": self.customer_id,
                "country": self.country,
                "currency": self.currency,
                "exchange_rate": str(self.exchange_rate),
                "lines": [
                    {
                        "line_no": line.line_no,
                        "product_id": line.product_id,
                        "quantity": line.quantity,
                        "unit_price": str(line.unit_price),
                    }
                    for line in self.lines
                ],
            }
        ).encode()


@dataclass(frozen=True)
class Shop:
    """``transactions`` in the order in which they happened, and ``products``: id to name and category."""

    transactions: list[Transaction]
    products: dict[str, dict[str, str]]

    @property
    def lines(self) -> int:
        """The number of lines of all transactions."""
        return sum(len(transaction.lines) for transaction in self.transactions)

    @property
    def net_sales(self) -> Decimal:
        """What all lines add up to, in GBP."""
        return sum((line.amount for transaction in self.transactions for line in transaction.lines), Decimal(0))

    def truth(self) -> bytes:
        """Return one CSV row per line, gzip-compressed: transaction, line, time, quantity, amount."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for transaction in self.transactions:
            for line in transaction.lines:
                at = f"{transaction.occurred_at:%Y-%m-%d %H:%M:%S}"
                writer.writerow((transaction.transaction_id, line.line_no, at, line.quantity, line.amount))
        return gzip.compress(text.getvalue().encode(), mtime=0)


def read_shop(files: Mapping[str, bytes]) -> Shop:
    """Return the transactions of sales files; rows in other currencies need a file of exchange rates among them.

    Raises:
        ValueError: names the file, the line and what is wrong with it; nothing has been sent then.
    """
    tables = {name: list(_table(name, content)) for name, content in files.items()}
    rates: dict[tuple[str, date], Decimal] = {}
    invoices: dict[str, list[tuple[dict[str, str], datetime, int, Decimal]]] = {}
    products: dict[str, dict[str, str]] = {}
    for name, rows in tables.items():
        for place, row in rows:
            try:
                if row.keys() == RATES_COLUMNS:
                    rates[row["Currency"], date.fromisoformat(row["RateDate"])] = Decimal(row["Rate"])
                    continue
                at = datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC)
                parsed = (row, at, int(row["Quantity"]), Decimal(row["UnitPrice"]))
            except (ValueError, InvalidOperation) as error:
                raise ValueError(
                    f"{name}, line {place}: {error or 'not a number'}; mend the row or remove it"
                ) from error
            invoices.setdefault(row["InvoiceNo"], []).append(parsed)
            description = row["Description"].strip()
            if description:
                products[row["StockCode"]] = {"name": description, "category": _category(description)}
    found = [_transaction(invoice, rows, rates) for invoice, rows in invoices.items()]
    return Shop(sorted(found, key=lambda one: (one.occurred_at, one.transaction_id)), products)


def _table(name: str, content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and row of a CSV file with a header, plain or gzip."""
    try:
        text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: {error}; a CSV file in UTF-8, plain or gzip, is needed") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    header = set(reader.fieldnames or ())
    if header != RATES_COLUMNS and not header >= SALES_COLUMNS:
        raise ValueError(f"{name}: the header lacks {', '.join(sorted(SALES_COLUMNS - header))}")
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(f"{name}, line {reader.line_num}: not as many fields as the header names")
        yield reader.line_num, row


def _transaction(
    invoice: str,
    rows: Iterable[tuple[dict[str, str], datetime, int, Decimal]],
    rates: Mapping[tuple[str, date], Decimal],
) -> Transaction:
    rows = list(rows)
    first, at = min(((row, at) for row, at, _, _ in rows), key=lambda found: found[1])
    currency = first.get("Currency") or "GBP"
    rate = Decimal(1) if currency == "GBP" else rates.get((currency, at.date()))
    if rate is None:
        raise ValueError(f"invoice {invoice}: no exchange rate of {currency} on {at.date()}; add a file of rates")
    return Transaction(
        transaction_id=invoice,
        occurred_at=at,
        customer_id=first["CustomerID"] or None,
        country=first["Country"],
        currency=currency,
        exchange_rate=rate,
        lines=tuple(
            Line(number, row["StockCode"], quantity, price, (quantity * price * rate).quantize(CENT, ROUND_HALF_UP))
            for number, (row, _, quantity, price) in enumerate(rows, start=1)
        ),
    )


def _category(description: str) -> str:
    upper = description.upper()
    return next((name for name, words in CATEGORIES.items() if any(word in upper for word in words)), "other")
