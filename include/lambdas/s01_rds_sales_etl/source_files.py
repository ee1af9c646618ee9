"""Reading sales and exchange-rate files: what is a good row, and what is wrong with a bad one.

Sales files follow the UCI Online Retail layout (one row per invoice line; a negative quantity is a return; the customer
may be unknown), with an optional last column ``Currency``, by default GBP. Files may be gzip-compressed.
"""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from gzip import BadGzipFile, GzipFile
from typing import BinaryIO, cast

SALES_HEADER = (
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
)
RATES_HEADER = ("Currency", "RateDate", "Rate")
UNKNOWN_HEADER = (
    f"unknown header: expected {','.join(SALES_HEADER)}[,Currency] or {','.join(RATES_HEADER)}; "
    "the whole file was set aside"
)
MAX_PRICE = Decimal(10**8)
MAX_RATE = Decimal(10**6)
MAX_QUANTITY = 2**31 - 1
MAX_FIELD = 500
"""Characters; a longer key would not fit into a PostgreSQL index entry."""
INVOICE_NO = re.compile(r"[0-9A-Za-z_.-]+")
"""What the extraction accepts as the bound of a range."""


@dataclass(frozen=True)
class Reject:
    """A row that cannot be used, or (``ends_file``) the place from which on nothing of the file can."""

    line: int
    reason: str
    record: str
    ends_file: bool = False


@dataclass(frozen=True)
class Sale:
    """One invoice line; ``line_no`` counts the lines of the invoice within its file, from 1."""

    invoice_no: str
    line_no: int
    stock_code: str
    description: str
    quantity: int
    ordered_at: datetime
    unit_price: Decimal
    customer_id: str | None
    country: str
    currency: str


@dataclass(frozen=True)
class Rate:
    """How much one unit of ``currency`` is worth in the base currency on a day."""

    currency: str
    rate_date: date
    rate: Decimal


Parser = Callable[[list[str], dict[str, int], bool], Sale | Rate]


def read_rows(stream: BinaryIO, compressed: bool, checked: bool = True) -> Iterator[Sale | Rate | Reject]:
    """Yield what each row of a file is.

    A damaged file yields its good rows up to the damage and then one ``Reject`` that says where it is.
    ``checked=False`` lets rows through that break a business rule (a negative price), for the rehearsal of bad data
    that reached the database some other way; what has the wrong form is rejected all the same.
    """
    raw = cast(BinaryIO, GzipFile(fileobj=stream)) if compressed else stream
    rows = csv.reader(io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline=""), strict=True)
    line = 1
    try:
        header = tuple(next(rows, ()))
        parse = _PARSERS.get(header)
        if parse is None:
            yield Reject(line, UNKNOWN_HEADER, ascii(",".join(header))[:200], ends_file=True)
            return
        seen: dict[str, int] = {}
        line = rows.line_num + 1
        for row in rows:
            if row:
                yield _row(row, line, len(header), parse, seen, checked)
            line = rows.line_num + 1
    except (EOFError, BadGzipFile, zlib.error) as error:
        yield Reject(rows.line_num + 1, f"file is damaged from here on: {error}", "", ends_file=True)
    except csv.Error as error:  # a quote that is not closed, for one, which would swallow the rows after it
        yield Reject(line, f"not a CSV file from here on: {error}", "", ends_file=True)


def _row(
    row: list[str], line: int, width: int, parse: Parser, seen: dict[str, int], checked: bool
) -> Sale | Rate | Reject:
    record = ",".join(row)
    if any("\udc80" <= character <= "\udcff" or character == "\0" for character in record):
        return Reject(line, "not UTF-8 text", ascii(record)[:200])
    if len(row) != width:
        return Reject(line, f"{len(row)} fields where {width} were expected", record[:200])
    if max(map(len, row)) > MAX_FIELD:
        return Reject(line, f"a field has more than {MAX_FIELD} characters", record[:200])
    try:
        return parse(row, seen, checked)
    except ValueError as error:
        return Reject(line, str(error), record[:200])


def _sale(row: list[str], seen: dict[str, int], checked: bool) -> Sale:
    invoice, stock_code = row[0].strip(), row[1].strip()
    if not invoice or not stock_code:
        raise ValueError("InvoiceNo or StockCode is empty")
    if not INVOICE_NO.fullmatch(invoice):
        raise ValueError(f"InvoiceNo has other characters than letters, digits, points and dashes: {invoice}")
    price = _decimal("UnitPrice", row[5])
    if checked and price < 0:
        raise ValueError(f"UnitPrice is negative: {row[5]}")
    if abs(price) >= MAX_PRICE or price != round(price, 4):
        raise ValueError(f"UnitPrice has more than 8 digits before or 4 after the point: {row[5]}")
    quantity = _integer("Quantity", row[3])
    ordered_at = _timestamp("InvoiceDate", row[4])
    currency = _currency(row[8]) if len(row) > len(SALES_HEADER) else "GBP"
    seen[invoice] = seen.get(invoice, 0) + 1
    return Sale(
        invoice_no=invoice,
        line_no=seen[invoice],
        stock_code=stock_code,
        description=row[2].strip(),
        quantity=quantity,
        ordered_at=ordered_at,
        unit_price=price,
        customer_id=row[6].strip().removesuffix(".0") or None,
        country=row[7].strip(),
        currency=currency,
    )


def _rate(row: list[str], _seen: dict[str, int], _checked: bool) -> Rate:
    rate = _decimal("Rate", row[2])
    if rate <= 0:
        raise ValueError(f"Rate is not positive: {row[2]}")
    if rate >= MAX_RATE or rate != round(rate, 6):
        raise ValueError(f"Rate has more than 6 digits before or 6 after the point: {row[2]}")
    return Rate(_currency(row[0]), _timestamp("RateDate", row[1]).date(), rate)


def _currency(text: str) -> str:
    currency = text.strip().upper()
    if len(currency) != 3 or not currency.isascii() or not currency.isalpha():
        raise ValueError(f"Currency is not a code of three letters: {text}")
    return currency


def _decimal(column: str, text: str) -> Decimal:
    try:
        value = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"{column} is not a number: {text}") from None
    # Arithmetic overflows with exponents that a decimal itself may have.
    if not value.is_finite() or abs(value.adjusted()) > 1000:
        raise ValueError(f"{column} is not a number: {text}")
    return value


def _integer(column: str, text: str) -> int:
    value = _decimal(column, text)
    if value != value.to_integral_value() or abs(value) > MAX_QUANTITY:
        raise ValueError(f"{column} is not a whole number in range: {text}")
    return int(value)


def _timestamp(column: str, text: str) -> datetime:
    """Times without a zone are UTC."""
    try:
        time = datetime.fromisoformat(text.strip())
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{column} is not a date and time (YYYY-MM-DD HH:MM:SS): {text}") from None


_PARSERS: dict[tuple[str, ...], Parser] = {
    SALES_HEADER: _sale,
    (*SALES_HEADER, "Currency"): _sale,
    RATES_HEADER: _rate,
}
