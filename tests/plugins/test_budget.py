"""The cost guard: what a run is estimated to cost, and what is refused."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from atlas import params
from atlas.costs import Price, dollars, total
from atlas.operators.budget import CheckBudgetOperator, with_copies
from tests.conftest import Aws

LAKE = "budget-lake"
PRICE = Price(
    per_hour={"shard": Decimal("0.015"), "alarm": Decimal("0.005")},
    per_million_events={"queue": Decimal("3"), "table": Decimal("2")},
    bytes_per_event=50,
    per_run={"job": Decimal("0.08")},
)


def check(ti: MagicMock | None = None, **params: Any) -> str:
    """Return what the operator says of a run with these params."""
    operator = CheckBudgetOperator(task_id="check_budget", price=PRICE, load="orders", lake=LAKE)
    context: Any = {"ti": ti or MagicMock(), "params": {"source_uri": None, "budget_usd": 1.0, "orders": 0} | params}
    return operator.execute(context)


@pytest.fixture
def lake(connected: Aws) -> Iterator[int]:
    """A bucket with 1,001 bytes of text and a gzip file; how long that is."""
    s3 = connected.client("s3")
    s3.create_bucket(Bucket=LAKE)
    packed = gzip.compress(b"x" * 1000, mtime=0)
    s3.put_object(Bucket=LAKE, Key="uploads/plain/a.csv", Body=b"x" * 990)
    s3.put_object(Bucket=LAKE, Key="uploads/plain/b.csv", Body=b"x" * 11)
    s3.put_object(Bucket=LAKE, Key="uploads/packed/a.csv.gz", Body=packed)
    yield len(packed)
    for entry in s3.list_objects_v2(Bucket=LAKE)["Contents"]:
        s3.delete_object(Bucket=LAKE, Key=entry["Key"])
    s3.delete_bucket(Bucket=LAKE)


@pytest.mark.parametrize(
    ("amount", "text"),
    [("0", "0.00"), ("17.125", "17.12"), ("2.9", "2.90"), ("0.5", "0.50"), ("0.03149", "0.031"), ("0.00254", "0.0025")],
)
def test_amounts_are_told_to_the_cent_or_to_two_digits(amount: str, text: str) -> None:
    assert dollars(Decimal(amount)) == text


def test_a_run_costs_an_hour_its_own_share_and_its_events() -> None:
    assert total(PRICE.per_million_events) == 5
    assert PRICE.of_run(0) == Decimal("0.10")
    assert PRICE.of_run(200_000) == Decimal("1.10")


def test_copies_are_paid_for_too() -> None:
    params = {"duplicates_percent": 30, "malformed_percent": 1.5, "forged_percent": 3, "crash_percent": 50}
    assert with_copies(1000, params) == 1345
    assert with_copies(1000, {}) == 1000


@pytest.mark.parametrize("field", CheckBudgetOperator.template_fields)
def test_template_fields_are_attributes(field: str) -> None:
    assert hasattr(CheckBudgetOperator(task_id="check_budget", price=PRICE, load="orders", lake=LAKE), field)


def test_a_load_within_the_budget_is_let_through_with_its_estimate() -> None:
    said = check(orders=100_000, duplicates_percent=10)
    assert said == "0.65 USD for 110000 events and 1 hour of the stack; the budget is 1.00 USD"


def test_what_costs_just_the_budget_is_let_through_and_a_cent_less_is_not() -> None:
    check(orders=180_000, budget_usd=1)
    with pytest.raises(AirflowFailException):
        check(orders=180_000, budget_usd=0.99)


def test_a_load_above_the_budget_is_refused_with_both_and_what_to_do() -> None:
    ti = MagicMock()
    with pytest.raises(AirflowFailException) as raised:
        check(ti, orders=1_000_000)
    assert str(raised.value) == (
        "Refused: 5.10 USD for 1000000 events and 1 hour of the stack; the budget is 1.00 USD. "
        "Ask for fewer events, or raise the param budget_usd"
    )
    ti.xcom_push.assert_called_once_with(key="return_value", value=str(raised.value))
    assert check(orders=1_000_000, budget_usd=6).startswith("5.10 USD")


def test_own_files_are_estimated_by_their_size(lake: int) -> None:
    """Whatever the param of generated events says; the last event may be a short one."""
    said = check(source_uri=f"s3://{LAKE}/uploads/plain/", orders=9_000_000)
    assert said.startswith("0.10 USD for 21 events by the size of the files and ")


def test_gzip_counts_tenfold(lake: int) -> None:
    said = check(source_uri=f"s3://{LAKE}/uploads/packed/a.csv.gz")
    assert f" for {-(-10 * lake // 50)} events by the size" in said


def test_own_files_outside_of_the_lake_are_refused(lake: int) -> None:
    with pytest.raises(ValueError, match=f"outside of s3://{LAKE}/"):
        check(source_uri="s3://elsewhere/a.csv")


def test_the_budget_has_a_title_bounds_and_a_default() -> None:
    budget = params.budget()
    assert budget.resolve() == 1.0
    assert {"title", "minimum", "maximum"} <= budget.schema.keys()
