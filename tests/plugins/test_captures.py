"""Payment captures for queues: generated, and the user's own."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from atlas.loadgen.captures import VALIDITY, generate, read_captures

NOW = datetime(2026, 1, 5, 10, tzinfo=UTC)


def line(**changes: Any) -> bytes:
    """Return a line of the user's file."""
    return json.dumps({"payment_id": "P1", "account": "A", "amount": "12.30", "currency": "EUR", **changes}).encode()


def test_the_same_seed_gives_the_same_payments() -> None:
    first, again, other = (generate(seed, 200, 0.1, 0.1, "run", NOW) for seed in (7, 7, 8))

    assert first == again
    assert [c.amount for c in first.first] != [c.amount for c in other.first]
    assert len({c.payment_id for c in first.first}) == 200
    assert all(c.payment_id.startswith("run-") and c.account.startswith("run-") for c in first.first)


def test_an_account_has_one_currency_and_amounts_are_cents() -> None:
    load = generate(7, 500, 0.1, 0.1, "run", NOW)

    assert len({(c.account, c.currency) for c in load.first}) == len({c.account for c in load.first}) > 10
    assert all(c.amount > 0 and c.amount == round(c.amount, 2) for c in load.first)


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.1, 60, 140), (1.0, 1000, 1000)])
def test_as_many_have_expired_as_asked_for(share: float, least: int, most: int) -> None:
    expired = [c for c in generate(7, 1000, share, 0, "run", NOW).first if c.expires_at <= NOW]

    assert least <= len(expired) <= most


def test_forgeries_imitate_payments_that_have_not_expired() -> None:
    load = generate(7, 1000, 0.5, 0.2, "run", NOW)
    originals = {c.payment_id: c for c in load.first}

    assert 60 < len(load.forged) < 140
    for forgery in load.forged:
        original = originals[forgery.payment_id]
        assert original.expires_at > NOW
        assert (forgery.account, forgery.currency) == (original.account, original.currency)
        assert forgery.content != original.content


def test_an_event_is_keyed_by_account_and_carries_money_and_times_as_text() -> None:
    (capture,) = generate(7, 1, 0, 0, "run", NOW).first
    event = capture.event()

    assert (event.key, event.id, event.duplicate) == (capture.account, capture.payment_id, False)
    assert json.loads(event.data) == {
        "payment_id": capture.payment_id,
        "account": capture.account,
        "amount": str(capture.amount),
        "currency": capture.currency,
        "captured_at": "2026-01-05T09:59:59+00:00",
        "expires_at": "2026-01-12T09:59:59+00:00",
    }


def test_own_payments_get_the_runs_label_and_a_week() -> None:
    load = read_captures([line(), line(payment_id="P2", amount=1, expires_at="2026-01-01T00:00:00+00:00")], "run", NOW)

    first, second = load.first
    assert (first.payment_id, first.account, first.amount) == ("run-P1", "run-A", Decimal("12.30"))
    assert (first.captured_at, first.expires_at) == (NOW, NOW + VALIDITY)
    assert second.expires_at < NOW - timedelta(days=4)


def test_what_comes_again_is_a_repeat_or_a_forgery() -> None:
    load = read_captures([line(), line(amount="12.3"), line(amount="99"), line(account="B")], "run", NOW)

    assert [c.amount for c in load.first] == [Decimal("12.30")]
    assert load.repeats == load.first
    assert [(c.account, c.amount) for c in load.forged] == [("run-A", Decimal("99")), ("run-B", Decimal("12.30"))]


def test_a_forgery_expires_with_its_original() -> None:
    load = read_captures([line(expires_at="2026-01-01T00:00:00+00:00"), line(amount="99")], "run", NOW)

    assert [c.expires_at for c in load.forged] == [load.first[0].expires_at]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        pytest.param(b"{", "JSONDecodeError", id="no JSON"),
        pytest.param(b"[]", "list", id="no object"),
        pytest.param(line(amount="-1"), "not positive", id="negative"),
        pytest.param(line(amount="1.001"), "finer than cents", id="too fine"),
        pytest.param(line(amount="much"), "InvalidOperation|ConversionSyntax", id="no number"),
        pytest.param(line(expires_at="2026-01-01T00:00:00"), "no offset", id="local time"),
        pytest.param(b'{"account": "A"}', "amount", id="field missing"),
    ],
)
def test_a_line_that_is_no_payment_is_named(bad: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=rf"line 2 is no payment .*({why}).*payment_id, account, amount and currency"):
        read_captures([line(), bad], "run", NOW)
