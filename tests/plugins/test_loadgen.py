"""Generated sales, checked against what the sales source's own reader makes of them."""

from __future__ import annotations

import hashlib
import io
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest

from atlas.loadgen.files import list_files, put_files
from atlas.loadgen.retail import FIRST_DAY, Retail, generate
from include.lambdas.s01_rds_sales_etl.source_files import Rate, Reject, Sale, read_rows


def digest(load: Retail) -> str:
    """Return one hash of all names and bytes."""
    everything = b"".join(name.encode() + content for name, content in load.files.items())
    return hashlib.sha256(everything).hexdigest()


def read(load: Retail, checked: bool = True) -> tuple[list[Sale], dict[tuple[str, Any], Decimal], list[Reject]]:
    """Return the sales, rates and rejected rows of all files."""
    sales: list[Sale] = []
    rates: dict[tuple[str, Any], Decimal] = {}
    rejects: list[Reject] = []
    for content in load.files.values():
        for row in read_rows(io.BytesIO(content), False, checked):
            if isinstance(row, Sale):
                sales.append(row)
            elif isinstance(row, Rate):
                rates[(row.currency, row.rate_date)] = row.rate
            else:
                rejects.append(row)
    return sales, rates, rejects


def net_sales(sales: list[Sale], rates: dict[tuple[str, Any], Decimal]) -> Decimal:
    """Return what was earned in pounds, rounded to pence line by line."""
    return sum(
        (
            (
                line.quantity
                * line.unit_price
                * (Decimal(1) if line.currency == "GBP" else rates[(line.currency, line.ordered_at.date())])
            ).quantize(Decimal("0.01"), ROUND_HALF_UP)
            for line in sales
        ),
        Decimal(0),
    )


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert digest(generate(7, 50)) == digest(generate(7, 50))
    # On every machine and version of Python; whoever changes the generator on purpose changes this, too.
    assert digest(generate(7, 50)) == "5957ccbd2d9896f2293d0b0a533696d63f5bca2b3d3e79fe7ecd012190e15a94"
    assert len({digest(generate(seed, 50)) for seed in (7, 8, 70)}) == 3


@pytest.mark.parametrize("orders", [1, 2, 500])
def test_the_truth_is_what_the_files_hold(orders: int) -> None:
    load = generate(3, orders)

    sales, rates, rejects = read(load)

    assert rejects == []
    assert (load.rejected, load.bad_file) == (0, None)
    assert load.lines == len(sales)
    assert load.orders == orders == len({line.invoice_no for line in sales})
    assert load.net_sales == net_sales(sales, rates)


def test_sales_are_like_trade() -> None:
    sales, _, _ = read(generate(3, 1000))

    returns = {line.invoice_no for line in sales if line.quantity < 0}
    assert returns == {line.invoice_no for line in sales if line.invoice_no.startswith("C")}
    assert 10 < len(returns) < 80
    assert {line.currency for line in sales} == {"GBP", "EUR", "USD", "CHF"}
    assert 0 < sum(line.customer_id is None for line in sales) < len(sales) / 5
    assert any(line.stock_code == "POST" for line in sales)
    on = [line.ordered_at.weekday() for line in sales]
    assert on.count(6) < on.count(4) / 2
    assert all(0 <= (line.ordered_at.date() - FIRST_DAY).days < 28 for line in sales)


def test_there_is_a_file_of_every_day_and_one_of_rates() -> None:
    assert list(generate(3, 1, days=2).files) == [
        "retail-3-rates.csv",
        "retail-3-2026-01-05.csv",
        "retail-3-2026-01-06.csv",
    ]


def test_malformed_rows_are_refused_and_change_nothing_else() -> None:
    good, bad = generate(3, 100), generate(3, 100, fault="malformed_rows")

    sales, rates, rejects = read(bad)

    assert [name for name in good.files if good.files[name] != bad.files[name]] == ["retail-3-2026-01-05.csv"]
    assert len(rejects) == bad.rejected == 5
    assert sorted(reject.reason.split(":")[0] for reject in rejects) == [
        "3 fields where 9 were expected",
        "InvoiceDate is not a date and time (YYYY-MM-DD HH",
        "Quantity is not a number",
        "UnitPrice is negative",
        "not UTF-8 text",
    ]
    assert (sales, rates, []) == read(good)
    assert (bad.net_sales, bad.lines, bad.bad_file) == (good.net_sales, good.lines, None)


def test_bad_rows_are_in_a_file_of_their_own_that_only_the_gate_can_judge() -> None:
    good, bad = generate(3, 100), generate(3, 100, fault="bad_rows")

    sales, _, rejects = read(bad, checked=False)

    assert bad.bad_file == "retail-3-bad_rows.csv"
    assert {name: content for name, content in bad.files.items() if name != bad.bad_file} == good.files
    assert rejects == []
    known = {line.customer_id for line in read(good)[0]}
    wrong = [line for line in sales if line.invoice_no.startswith("BAD")]
    assert [line.unit_price < 0 for line in wrong] == [True, False, False]
    assert [line.customer_id not in known | {None} for line in wrong] == [False, True, False]
    assert [line.ordered_at.year > 3000 for line in wrong] == [False, False, True]
    assert (bad.net_sales, bad.lines, bad.orders) == (good.net_sales, good.lines, good.orders)


class Lake:
    """A bucket of Airflow's S3 hook in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def load_bytes(self, content: bytes, key: str, bucket: str, replace: bool) -> None:
        assert replace
        self.objects[f"{bucket}/{key}"] = content

    def list_keys(self, bucket: str, prefix: str) -> list[str]:
        return [key.split("/", 1)[1] for key in self.objects if key.startswith(f"{bucket}/{prefix}")]


def test_files_are_put_below_a_prefix_and_found_there() -> None:
    lake: Any = Lake()
    keys = put_files(lake, "lake", "sources", {"b.csv": b"2", "a.csv.gz": b"1", "notes.txt": b""})

    assert keys == ["sources/b.csv", "sources/a.csv.gz", "sources/notes.txt"]
    assert list_files(lake, "lake", "s3://lake/sources/") == ["sources/a.csv.gz", "sources/b.csv"]
    assert list_files(lake, "lake", "s3://lake/sources/b.csv") == ["sources/b.csv"]


@pytest.mark.parametrize(
    ("source_uri", "message"),
    [
        pytest.param("s3://other/sources/", "outside of s3://lake/", id="another bucket"),
        pytest.param("s3://lake/empty/", "holds no .csv or .csv.gz file", id="nothing there"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused(source_uri: str, message: str) -> None:
    lake: Any = Lake()
    put_files(lake, "other", "sources", {"b.csv": b"2"})

    with pytest.raises(ValueError, match=message):
        list_files(lake, "lake", source_uri)
