"""Which records are transactions."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from exactly_once.contracts import Malformed
from tests.lambdas.s08_fraud_workflow.conftest import Functions

GOOD = {
    "event_id": "tx-1",
    "card": "card-1",
    "amount": "12.30",
    "currency": "EUR",
    "country": "DE",
    "category": "fuel",
    "occurred_at": "2026-01-05T13:00:00+01:00",
}


def test_money_is_decimal_and_time_has_a_zone(functions: Functions) -> None:
    transaction = functions.contract.CONTRACT.decode(json.dumps(GOOD | {"new_field": 1}).encode())
    assert transaction.amount == Decimal("12.30")
    assert transaction.occurred_at.isoformat() == "2026-01-05T13:00:00+01:00"
    assert functions.contract.CONTRACT.event_id(transaction) == "tx-1"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"event_id": "with space"}, "event_id", id="no name for an execution"),
        pytest.param({"event_id": "x" * 81}, "event_id", id="too long for an execution's name"),
        pytest.param({"amount": "0"}, "amount must be", id="nothing"),
        pytest.param({"amount": "-1"}, "amount must be", id="negative"),
        pytest.param({"amount": "NaN"}, "amount must be", id="not a number"),
        pytest.param({"amount": "1000000.01"}, "amount must be", id="too much"),
        pytest.param({"amount": "0.00001"}, "four digits", id="smaller than any coin"),
        pytest.param({"currency": "euro"}, "currency", id="no currency"),
        pytest.param({"country": "Germany"}, "country", id="no country code"),
        pytest.param({"occurred_at": "2026-01-05T13:00:00"}, "occurred_at", id="time without zone"),
        pytest.param({"card": 1}, "card", id="wrong type"),
    ],
)
def test_what_is_no_transaction_is_refused_by_name(functions: Functions, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Malformed, match=named):
        functions.contract.CONTRACT.decode(json.dumps(GOOD | changes).encode())
