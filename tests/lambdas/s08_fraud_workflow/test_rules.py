"""What is suspicious about a payment, and what a card's profile learns from it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.lambdas.s08_fraud_workflow.conftest import NOON, Functions


def test_a_card_without_a_past_is_not_suspicious(functions: Functions) -> None:
    verdict = functions.rules.judge(functions.rules.UNKNOWN, functions.transaction(amount=Decimal(900_000)))
    assert (verdict.score, verdict.reasons, verdict.band) == (0, [], "low")


@pytest.mark.parametrize(
    ("changes", "score", "reason"),
    [
        pytest.param({"amount": Decimal("44.99")}, 0, None, id="twice the usual"),
        pytest.param({"amount": Decimal("45.00")}, 45, "45.00 where 20.00 is usual (+45)", id="5 deviations"),
        pytest.param({"amount": Decimal("80.00")}, 75, "80.00 where 20.00 is usual (+75)", id="12 deviations"),
        pytest.param({"country": "BR"}, 50, "km from DE to BR in 1.0 hours (+50)", id="impossible journey"),
        pytest.param({"country": "NL"}, 0, None, id="neighbour, 580 km in an hour"),
        pytest.param({"country": "XX"}, 0, None, id="country without a place"),
        pytest.param({"category": "crypto"}, 0, None, id="risky trade alone"),
        pytest.param({"category": "crypto", "country": "BR"}, 65, "risky trade: crypto (+15)", id="risky and far away"),
        pytest.param({"amount": Decimal("80.00"), "country": "BR"}, 100, "80.00 where", id="no more than 100"),
    ],
)
def test_points_and_reasons(functions: Functions, changes: dict[str, Any], score: int, reason: str | None) -> None:
    verdict = functions.rules.judge(functions.profile(6), functions.transaction(**changes))
    assert verdict.score == score
    assert reason is None or reason in "; ".join(verdict.reasons)
    assert bool(verdict.reasons) == bool(score)


@pytest.mark.parametrize(
    ("hours", "band"), [pytest.param(11, "review", id="too fast"), pytest.param(12, "low", id="by plane")]
)
def test_a_journey_is_judged_by_its_speed(functions: Functions, hours: int, band: str) -> None:
    payment = functions.transaction(minutes=60 * (hours - 1), country="BR")
    assert functions.rules.judge(functions.profile(6), payment).band == band


def test_uses_within_ten_minutes_are_counted(functions: Functions) -> None:
    rules, profile, bands = functions.rules, functions.profile(6), []
    for number in range(9):
        payment = functions.transaction(number, minutes=number)
        verdict = rules.judge(profile, payment)
        profile = rules.learn(profile, payment, verdict)
        bands.append(verdict.band)
    assert bands == ["low"] * 5 + ["review"] * 3 + ["block"]
    assert rules.judge(profile, functions.transaction(minutes=18)).band == "low"
    assert len(profile["recent"]) <= 9


def test_a_suspicious_payment_teaches_nothing_but_that_the_card_was_used(functions: Functions) -> None:
    before = functions.profile(6)
    payment = functions.transaction(country="JP", amount=Decimal("500.00"))
    verdict = functions.rules.judge(before, payment)
    after = functions.rules.learn(before, payment, verdict)
    assert verdict.band == "block"
    assert after == {**before, "seen": 7, "recent": [int(NOON.timestamp())]}


def test_mean_and_deviation_are_those_of_the_ordinary_amounts(functions: Functions) -> None:
    profile = functions.rules.UNKNOWN
    amounts = [Decimal(text) for text in ("10.00", "12.00", "14.00", "9.50")]
    for number, amount in enumerate(amounts):
        payment = functions.transaction(number, minutes=60 * number, amount=amount)
        profile = functions.rules.learn(profile, payment, functions.rules.judge(profile, payment))
    mean = sum(amounts, Decimal(0)) / 4
    assert profile["mean"] == mean
    assert abs(profile["squares"] - sum(((amount - mean) ** 2 for amount in amounts), Decimal(0))) < Decimal("0.001")


def test_a_payment_that_arrives_late_is_judged_by_when_it_happened(functions: Functions) -> None:
    early = functions.transaction(minutes=-24 * 60, country="BR")
    assert early.occurred_at == NOON - timedelta(days=1)
    assert functions.rules.judge(functions.profile(6), early).band == "low"
