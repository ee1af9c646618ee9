"""Reading sales and exchange-rate files."""

from __future__ import annotations

import gzip
import io
import random
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from include.lambdas.s01_rds_sales_etl.source_files import Rate, Reject, Sale, read_rows
from tests.lambdas.s01_rds_sales_etl.conftest import HEADER, sales

GOOD = "536365,85123A,WHITE LANTERN,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom"
SALE = Sale(
    invoice_no="536365",
    line_no=1,
    stock_code="85123A",
    description="WHITE LANTERN",
    quantity=6,
    ordered_at=datetime(2010, 12, 1, 8, 26, tzinfo=UTC),
    unit_price=Decimal("2.55"),
    customer_id="17850",
    country="United Kingdom",
    currency="GBP",
)


def read(content: bytes, compressed: bool = False, checked: bool = True) -> list[Sale | Rate | Reject]:
    """Return all that ``content`` holds."""
    return list(read_rows(io.BytesIO(content), compressed, checked))


def row(**cells: str) -> str:
    """Return the good row with other cells."""
    return ",".join((dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | cells).values())


def rates(*rows: str) -> bytes:
    """Return a file of exchange rates."""
    return "".join(f"{row}\n" for row in ("Currency,RateDate,Rate", *rows)).encode()


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param({}, SALE, id="as in the data set"),
        pytest.param({"Quantity": "-6"}, replace(SALE, quantity=-6), id="return"),
        pytest.param({"Quantity": "6.0"}, replace(SALE, quantity=6), id="whole number with a point"),
        pytest.param({"Quantity": "2147483647"}, replace(SALE, quantity=2**31 - 1), id="largest quantity"),
        pytest.param({"UnitPrice": "0"}, replace(SALE, unit_price=Decimal(0)), id="gift"),
        pytest.param({"UnitPrice": "0.0001"}, replace(SALE, unit_price=Decimal("0.0001")), id="smallest price"),
        pytest.param(
            {"UnitPrice": "99999999.9999"}, replace(SALE, unit_price=Decimal("99999999.9999")), id="largest price"
        ),
        pytest.param({"UnitPrice": "2.550000"}, SALE, id="zeros after the fourth place"),
        pytest.param({"CustomerID": ""}, replace(SALE, customer_id=None), id="unknown customer"),
        pytest.param({"CustomerID": "  "}, replace(SALE, customer_id=None), id="blank customer"),
        pytest.param({"Description": ""}, replace(SALE, description=""), id="no description"),
        pytest.param({"InvoiceDate": "2010-12-01T08:26:00Z"}, SALE, id="UTC"),
        pytest.param({"InvoiceDate": "2010-12-01 03:26:00-05:00"}, SALE, id="New York"),
        pytest.param(
            {"InvoiceDate": "2010-12-01 00:30:00+05:30"},
            replace(SALE, ordered_at=datetime(2010, 11, 30, 19, tzinfo=UTC)),
            id="the day before in UTC",
        ),
        pytest.param({"Description": '"WHITE, ""BIG"""'}, replace(SALE, description='WHITE, "BIG"'), id="quoted"),
        pytest.param({"InvoiceNo": " 536365 "}, SALE, id="spaces around"),
    ],
)
def test_a_good_row_is_a_sale(cells: dict[str, str], expected: Sale) -> None:
    (found,) = read(sales(row(**cells)))

    assert found == expected
    assert isinstance(found, Sale)
    assert found.ordered_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        pytest.param({"InvoiceNo": " "}, "InvoiceNo or StockCode is empty", id="no invoice"),
        pytest.param({"StockCode": ""}, "InvoiceNo or StockCode is empty", id="no product"),
        pytest.param(
            {"InvoiceNo": "1' OR '1"},
            "InvoiceNo has other characters than letters, digits, points and dashes: 1' OR '1",
            id="strange invoice",
        ),
        pytest.param({"UnitPrice": "-0.01"}, "UnitPrice is negative: -0.01", id="negative price"),
        pytest.param({"UnitPrice": "free"}, "UnitPrice is not a number: free", id="price is a word"),
        pytest.param({"UnitPrice": ""}, "UnitPrice is not a number: ", id="no price"),
        pytest.param({"UnitPrice": "NaN"}, "UnitPrice is not a number: NaN", id="NaN"),
        pytest.param({"UnitPrice": "sNaN"}, "UnitPrice is not a number: sNaN", id="signalling NaN"),
        pytest.param({"UnitPrice": "-Infinity"}, "UnitPrice is not a number: -Infinity", id="infinite"),
        pytest.param(
            {"UnitPrice": "2.55555"},
            "UnitPrice has more than 8 digits before or 4 after the point: 2.55555",
            id="five decimals",
        ),
        pytest.param(
            {"UnitPrice": "100000000"},
            "UnitPrice has more than 8 digits before or 4 after the point: 100000000",
            id="price too large",
        ),
        pytest.param(
            {"UnitPrice": "1e400"},
            "UnitPrice has more than 8 digits before or 4 after the point: 1e400",
            id="price beyond a float",
        ),
        pytest.param({"UnitPrice": "1e9999999"}, "UnitPrice is not a number: 1e9999999", id="price overflows"),
        pytest.param({"UnitPrice": "1e-9999999"}, "UnitPrice is not a number: 1e-9999999", id="price underflows"),
        pytest.param({"Quantity": "two"}, "Quantity is not a number: two", id="quantity is a word"),
        pytest.param({"Quantity": "1.5"}, "Quantity is not a whole number in range: 1.5", id="half a piece"),
        pytest.param(
            {"Quantity": "2147483648"}, "Quantity is not a whole number in range: 2147483648", id="huge quantity"
        ),
        pytest.param({"Quantity": "1e400"}, "Quantity is not a whole number in range: 1e400", id="beyond a float"),
        pytest.param({"Quantity": "1e9999999"}, "Quantity is not a number: 1e9999999", id="quantity overflows"),
        pytest.param(
            {"InvoiceDate": "12/1/2010 8:26"},
            "InvoiceDate is not a date and time (YYYY-MM-DD HH:MM:SS): 12/1/2010 8:26",
            id="another way to write a date",
        ),
        pytest.param(
            {"InvoiceDate": "2010-02-30 08:26:00"},
            "InvoiceDate is not a date and time (YYYY-MM-DD HH:MM:SS): 2010-02-30 08:26:00",
            id="no such day",
        ),
        pytest.param(
            {"InvoiceDate": "0001-01-01 00:00:00+14:00"},
            "InvoiceDate is not a date and time (YYYY-MM-DD HH:MM:SS): 0001-01-01 00:00:00+14:00",
            id="before the first year in UTC",
        ),
        pytest.param({"Country": "Norway,Oslo"}, "9 fields where 8 were expected", id="too many fields"),
        pytest.param({"Description": "X" * 501}, "a field has more than 500 characters", id="long field"),
        pytest.param({"Description": "A\0B"}, "not UTF-8 text", id="NUL"),
    ],
)
def test_a_bad_row_is_rejected_with_line_and_reason(cells: dict[str, str], reason: str) -> None:
    good, rejected, after = read(sales(GOOD, row(**cells), GOOD))

    assert isinstance(rejected, Reject)
    assert (rejected.line, rejected.reason, rejected.ends_file) == (3, reason, False)
    assert [good, after] == [SALE, replace(SALE, line_no=2)]
    if "\0" not in cells.get("Description", ""):
        assert rejected.record == row(**cells)[:200]


def test_a_row_that_is_too_short_is_rejected() -> None:
    assert read(sales("536365,85123A")) == [Reject(2, "2 fields where 8 were expected", "536365,85123A")]


def test_a_row_that_is_not_utf_8_is_rejected_in_a_form_that_can_be_written() -> None:
    latin = GOOD.replace("WHITE", "WEISS GRÜN").encode("latin-1")

    rejected, good = read(sales(GOOD).replace(GOOD.encode(), latin + b"\n" + GOOD.encode()))

    assert isinstance(rejected, Reject)
    assert (rejected.line, rejected.reason) == (2, "not UTF-8 text")
    assert rejected.record.isascii()
    assert "GR\\udcdcN" in rejected.record
    assert good == SALE


def test_a_negative_price_passes_only_unchecked() -> None:
    file = sales(row(UnitPrice="-4.25"), row(UnitPrice="-99999999999"))

    passed, too_large = read(file, checked=False)

    assert passed == replace(SALE, unit_price=Decimal("-4.25"))
    assert isinstance(too_large, Reject)
    assert [type(found) for found in read(file)] == [Reject, Reject]


def test_lines_are_counted_in_the_file_and_within_the_invoice() -> None:
    """A quoted line break makes a row of two lines; blank lines are no rows; a refused row has no line number."""
    two_lines = row(Description='"WHITE\nLANTERN"')
    rows = [two_lines, "", row(Quantity="x"), row(InvoiceNo="2"), GOOD, row(Quantity="y", Description='"A\r\nB\nC"')]

    found = read(sales(*rows))

    assert [(sale.invoice_no, sale.line_no) for sale in found if isinstance(sale, Sale)] == [
        ("536365", 1),
        ("2", 1),
        ("536365", 2),
    ]
    assert [reject.line for reject in found if isinstance(reject, Reject)] == [5, 8]
    assert isinstance(found[0], Sale)
    assert found[0].description == "WHITE\nLANTERN"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_and_a_byte_order_mark_are_read(end: str) -> None:
    file = b"\xef\xbb\xbf" + sales(GOOD, row(Quantity="x")).replace(b"\n", end.encode())

    assert read(file) == [SALE, Reject(3, "Quantity is not a number: x", row(Quantity="x"))]


def test_a_currency_column_is_read() -> None:
    file = "".join(f"{line}\n" for line in (f"{HEADER},Currency", f"{GOOD},eur ", f"{GOOD},EURO", f"{GOOD},", GOOD))

    euro, too_long, empty, missing = read(file.encode())

    assert euro == replace(SALE, currency="EUR")
    assert [reject.reason for reject in (too_long, empty, missing) if isinstance(reject, Reject)] == [
        "Currency is not a code of three letters: EURO",
        "Currency is not a code of three letters: ",
        "8 fields where 9 were expected",
    ]


def test_rates_are_read() -> None:
    file = rates("EUR,2026-01-05,0.86", "usd,2026-01-05 23:00:00-05:00,0.750001")

    assert read(file) == [
        Rate("EUR", date(2026, 1, 5), Decimal("0.86")),
        Rate("USD", date(2026, 1, 6), Decimal("0.750001")),
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("EUR,2026-01-05,0", "Rate is not positive: 0", id="zero"),
        pytest.param("EUR,2026-01-05,-1", "Rate is not positive: -1", id="negative"),
        pytest.param("EUR,2026-01-05,NaN", "Rate is not a number: NaN", id="NaN"),
        pytest.param(
            "EUR,2026-01-05,1e400", "Rate has more than 6 digits before or 6 after the point: 1e400", id="too large"
        ),
        pytest.param(
            "EUR,2026-01-05,0.0000001",
            "Rate has more than 6 digits before or 6 after the point: 0.0000001",
            id="too fine",
        ),
        pytest.param("EURO,2026-01-05,1", "Currency is not a code of three letters: EURO", id="currency"),
        pytest.param(
            "EUR,5 January,1", "RateDate is not a date and time (YYYY-MM-DD HH:MM:SS): 5 January", id="another date"
        ),
    ],
)
def test_a_bad_rate_is_rejected(text: str, reason: str) -> None:
    assert read(rates(text)) == [Reject(2, reason, text)]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="blank"),
        pytest.param(b"InvoiceNo;StockCode\n1;2\n", id="semicolons"),
        pytest.param(HEADER.lower().encode(), id="small letters"),
        pytest.param(bytes(range(256)) * 40, id="binary junk"),
        pytest.param(b"\x1f\x8b\x08\x00 gzip that nobody unpacks", id="gzip by another name"),
    ],
)
def test_a_file_with_an_unknown_header_is_set_aside(content: bytes) -> None:
    (rejected,) = read(content)

    assert isinstance(rejected, Reject)
    assert rejected.ends_file
    assert rejected.line == 1
    assert rejected.reason.startswith(("unknown header: expected InvoiceNo,", "not a CSV file from here on"))
    assert rejected.record.isascii()


def test_a_header_alone_holds_nothing() -> None:
    assert read(f"{HEADER}\n".encode()) == []
    assert read(gzip.compress(HEADER.encode()), compressed=True) == []


def test_a_cut_off_gzip_file_yields_its_good_rows_and_where_it_ends() -> None:
    dice = random.Random(1)
    file = sales(*(row(InvoiceNo=str(number), StockCode=f"{dice.random()}") for number in range(5000)))
    whole = gzip.compress(file)

    *good, end = read(whole[: len(whole) // 2], compressed=True)

    assert 1000 < len(good) < 4000
    assert good == read(file)[: len(good)]
    assert isinstance(end, Reject)
    assert end.ends_file
    # The rest of the last line that could be unpacked is not a row.
    assert end.line == len(good) + 2
    assert end.reason.startswith("file is damaged from here on: ")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(sales(GOOD), id="not gzip"),
        pytest.param(gzip.compress(sales(GOOD))[:-8] + b"\0" * 8, id="wrong checksum"),
        pytest.param(gzip.compress(sales(GOOD))[:12] + b"\xff" * 40, id="broken stream"),
    ],
)
def test_a_damaged_gzip_file_says_so(content: bytes) -> None:
    *_, end = read(content, compressed=True)

    assert isinstance(end, Reject)
    assert end.ends_file
    assert "damaged" in end.reason


def test_an_open_quote_ends_the_file_instead_of_swallowing_it() -> None:
    found = read(sales(GOOD, row(Description='"WHITE'), *[GOOD] * 50))

    assert found[0] == SALE
    assert found[1:] == [Reject(3, "not a CSV file from here on: unexpected end of data", "", ends_file=True)]


def test_no_bytes_make_reading_fail() -> None:
    """Random damage to good files, plain and compressed, and pure noise; the seed is fixed, so a failure repeats."""
    dice = random.Random("noise")
    plain = sales(GOOD, row(Description='"A ""B""\nC"'), row(UnitPrice="1e5")) + f'"{"x" * 200_000}"'.encode()
    sources = [plain[:2000], rates("EUR,2026-01-05,0.86"), f"{HEADER},Currency\n{GOOD},EUR\n".encode(), b""]
    interesting = (b'"', b",", b"\n", b"\0", b"\xff", b"\r", b"9" * 40, b"e999999999", b"-", b"NaN", b"+14:00", b"\xc2")
    kinds: set[type] = set()
    for turn in range(3000):
        content = bytearray(dice.choice(sources))
        for _ in range(dice.randrange(6)):
            place = dice.randrange(len(content) + 1)
            piece = dice.choice(interesting) if dice.random() < 0.7 else dice.randbytes(dice.randrange(8))
            content[place : place + dice.randrange(3)] = piece
        compressed = turn % 3 == 0
        if compressed:
            content = bytearray(gzip.compress(bytes(content), compresslevel=1))
            for _ in range(dice.randrange(3)):
                content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        kinds |= {type(found) for found in read(bytes(content), compressed)}
        for found in read(bytes(content), compressed):
            assert not isinstance(found, Reject) or f"{found.reason}{found.record}".encode()
    assert kinds == {Sale, Rate, Reject}


def test_a_field_without_end_ends_the_file() -> None:
    (end,) = read(sales(row(Description='"' + "x" * 200_000 + '"'), GOOD))

    assert isinstance(end, Reject)
    assert (end.line, end.ends_file) == (2, True)
    assert "field larger than field limit" in end.reason
