"""Card payments: the same every time, with frauds that the scoring rules find and nothing else that they suspect."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from types import ModuleType

import pytest

from atlas.loadgen.cards import FIELDS, LONGEST, Payment, generate, read_payments
from local.launcher import layout

RULES = layout.REPOSITORY / "include" / "lambdas" / "s08_fraud_workflow" / "rules.py"


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cards_rules", RULES)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest(payments: list[Payment]) -> str:
    return hashlib.sha256(b"".join(payment.event().data for payment in payments)).hexdigest()


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert digest(generate(7, 50, "x")) == digest(generate(7, 50, "x"))
    assert len({digest(generate(seed, 50, label)) for seed, label in ((7, "x"), (8, "x"), (7, "y"))}) == 3


@pytest.mark.parametrize("payments", [1, LONGEST, 500])
def test_there_are_as_many_payments_as_asked_for_in_the_order_of_their_times(payments: int) -> None:
    made = generate(3, payments, "x")
    assert len({payment.event_id for payment in made}) == len(made) == payments
    assert [payment.occurred_at for payment in made] == sorted(payment.occurred_at for payment in made)


@pytest.mark.parametrize("seed", range(0, 50, 7))
def test_stolen_cards_are_noticed_and_no_other(seed: int, rules: ModuleType) -> None:
    profiles: dict[str, dict[str, object]] = {}
    suspected, stolen, kinds = set(), set(), defaultdict(set)
    for payment in generate(seed, 700, "x"):
        profile = profiles.get(payment.card, rules.UNKNOWN)
        verdict = rules.judge(profile, payment)
        profiles[payment.card] = rules.learn(profile, payment, verdict)
        if payment.planted != "nothing":
            stolen.add(payment.card)
            kinds[payment.planted].add(verdict.band)
        if verdict.band != "low":
            suspected.add(payment.card)
            assert payment.planted != "nothing"
    assert suspected == stolen != set()
    assert kinds == {"burst": {"low", "review", "block"}, "travel": {"review"}, "jump": {"block"}}


def test_owners_travel_too() -> None:
    homes: dict[str, str] = {}
    abroad = [
        payment
        for payment in generate(7, 700, "x")
        if payment.planted == "nothing" and homes.setdefault(payment.card, payment.country) != payment.country
    ]
    assert len(abroad) > 3


def test_payments_of_a_file_are_read_with_the_label() -> None:
    lines = [",".join(FIELDS), "1,A,12.30,EUR,DE,fuel,2026-01-05T13:00:00+01:00"]
    (payment,) = read_payments("p.csv.gz", gzip.compress("\n".join(lines).encode()), "run")
    assert (payment.event_id, payment.card, payment.amount) == ("run-1", "run-A", Decimal("12.30"))
    assert payment.occurred_at.utcoffset() == timedelta(hours=1)
    assert payment.planted == "nothing"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("event_id,card\n1,A\n", "p.csv: the header lacks amount, category", id="columns"),
        pytest.param(
            f"{','.join(FIELDS)}\n1,A,much,EUR,DE,fuel,2026-01-05T13:00:00Z\n", "p.csv, line 2: .*mend", id="amount"
        ),
        pytest.param(f"{','.join(FIELDS)}\n1,A,1,EUR,DE,fuel,today\n", "p.csv, line 2: .*today", id="time"),
        pytest.param(f"{','.join(FIELDS)}\n1,A,1\n", "p.csv, line 2: not as many", id="cut off"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_by_line(content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_payments("p.csv", content.encode(), "run")
