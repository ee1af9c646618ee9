"""Every delivery but the first has no effect, whatever comes in between; without idempotency each has one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.lambdas.s27_idempotent_consumer.conftest import Consumer, Crash, payment

Start = Callable[[str], Consumer]

NEVER, ONCE, TWICE = (0, Decimal(0)), (1, Decimal("12.34")), (2, Decimal("24.68"))
EXPIRED = payment(2, expires_at="2026-01-05T11:00:00+00:00")

each_strategy = pytest.mark.parametrize("strategy", ["natural", "powertools", "inbox"])
each_consumer = pytest.mark.parametrize("strategy", ["natural", "powertools", "inbox", "control"])


def die(_point: str) -> None:
    raise Crash


@each_consumer
def test_a_payment_changes_the_balance_and_has_a_receipt(start: Start, strategy: str) -> None:
    consumer = start(strategy)

    assert consumer.deliver(payment(1), payment(2, account="B")) == []

    assert consumer.outcomes == ["applied", "applied"]
    assert consumer.balance == ONCE
    receipt = consumer.table.get_item(Key={"pk": "receipt#P1", "sk": "receipt"})["Item"]
    assert (receipt["account"], receipt["amount"], receipt["currency"]) == ("A", Decimal("12.34"), "EUR")


@each_strategy
def test_duplicates_have_no_effect(start: Start, strategy: str) -> None:
    consumer = start(strategy)

    assert consumer.deliver(payment(), payment()) == []
    assert consumer.outcomes == ["applied", "duplicate"]
    # Sent anew by the producer; 12.34 as a number is the same amount.
    assert consumer.deliver(payment(captured_at="2026-01-06T10:00:00+00:00", amount=12.34)) == []

    assert consumer.outcomes == ["duplicate"]
    assert consumer.balance == ONCE
    assert consumer.quarantine == []


def test_the_control_counts_duplicates(start: Start) -> None:
    consumer = start("control")

    consumer.deliver(payment(), payment())

    assert consumer.balance == TWICE


@each_strategy
def test_a_crash_before_the_acknowledgement_does_no_harm(
    start: Start, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = start(strategy)
    with monkeypatch.context() as rehearsal:
        rehearsal.setattr(consumer.consumer, "crash", die)
        with pytest.raises(Crash):
            consumer.deliver(payment())
    assert consumer.balance == ONCE

    assert consumer.deliver(payment()) == []

    assert consumer.outcomes == ["duplicate"]
    assert consumer.balance == ONCE


def crash_between_effect_and_record(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliver a payment to an invocation that dies after the effect; its lock runs out at once."""
    with monkeypatch.context() as rehearsal:
        rehearsal.setattr(consumer.module, "crash", die)
        rehearsal.setattr("random.random", lambda: 0.0)
        with pytest.raises(Crash):
            consumer.deliver(payment(), milliseconds=1)
    assert consumer.balance == ONCE
    time.sleep(0.02)


def test_powertools_alone_repeats_an_effect_whose_record_was_not_completed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the next test: with a receiver that does not know the payment, the effect happens twice."""
    consumer = start("powertools")
    commit = consumer.ledger.commit
    monkeypatch.setattr(consumer.ledger, "commit", lambda actions, **_: commit(actions))
    crash_between_effect_and_record(consumer, monkeypatch)

    assert consumer.deliver(payment()) == []

    assert consumer.balance == TWICE


def test_the_receivers_key_closes_that_gap(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = start("powertools")
    crash_between_effect_and_record(consumer, monkeypatch)

    assert consumer.deliver(payment(captured_at="2026-01-06T10:00:00+00:00")) == []

    assert consumer.outcomes == ["applied"]
    assert consumer.balance == ONCE
    consumer.deliver(payment())
    assert consumer.outcomes == ["duplicate"]


def test_a_forgery_of_such_a_payment_is_refused_by_the_receiver(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = start("powertools")
    crash_between_effect_and_record(consumer, monkeypatch)

    assert consumer.deliver(payment(amount="99.99")) == []

    assert consumer.outcomes == ["tampered"]
    assert consumer.balance == ONCE


def test_a_payment_that_another_invocation_holds_comes_again(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = start("powertools")
    monkeypatch.setattr(consumer.module, "LOCKED_PAUSE", 0.001)
    with monkeypatch.context() as rehearsal:
        rehearsal.setattr(consumer.ledger, "commit", lambda *_, **__: die("before the effect"))
        with pytest.raises(Crash):
            consumer.deliver(payment(), milliseconds=60_000)

    assert consumer.deliver(payment(), payment(2)) == ["m0"]

    assert consumer.outcomes == ["failed", "applied"]
    assert consumer.balance == ONCE


def test_a_record_that_has_expired_knows_the_payment_no_more(start: Start) -> None:
    consumer = start("powertools")
    consumer.deliver(payment())
    records = consumer.table.meta.client
    name = f"{consumer.table.name}-records"
    (record,) = records.scan(TableName=name)["Items"]
    assert record["expires_at"] > time.time() + 1_295_000
    records.put_item(TableName=name, Item=record | {"expires_at": int(time.time()) - 10})

    assert consumer.deliver(payment(captured_at="2026-01-06T10:00:00+00:00", amount="1.00")) == []

    assert consumer.outcomes == ["tampered"]  # the receiver still knows it, for ten minutes


def test_the_inboxs_marker_outlives_every_redelivery(start: Start) -> None:
    consumer = start("inbox")
    consumer.deliver(payment())

    marker = consumer.table.get_item(Key={"pk": "inbox#P1", "sk": "inbox"})["Item"]

    assert 1_295_000 < int(marker["expires_at"]) - time.time() <= 1_296_000


@each_strategy
def test_two_consumers_at_once_have_one_effect(start: Start, strategy: str) -> None:
    consumer = start(strategy)
    message = consumer.consumer.PAYMENT.decode(payment().encode())
    consumer.deliver(payment(2, account="B"))  # makes the invocation known to Powertools

    with ThreadPoolExecutor(8) as pool:
        firsts = list(pool.map(lambda _: consumer.module.capture(message), range(8)))

    assert sorted(firsts) == [False] * 7 + [True]
    assert consumer.balance == ONCE


@each_strategy
@pytest.mark.parametrize("changes", [{"amount": "99.99"}, {"account": "B"}, {"currency": "USD"}], ids=str)
def test_a_forgery_has_no_effect_and_is_set_aside(start: Start, strategy: str, changes: dict[str, Any]) -> None:
    consumer = start(strategy)
    consumer.deliver(payment())
    forgery = payment(**changes)

    assert consumer.deliver(forgery) == []
    assert consumer.deliver(forgery) == []

    assert consumer.outcomes == ["tampered"]
    assert consumer.balance == ONCE
    assert consumer.quarantine == [("tampered", forgery)]
    assert not consumer.table.get_item(Key={"pk": "account#B", "sk": "balance#EUR"}).get("Item")


@each_consumer
def test_an_expired_payment_has_no_effect_and_is_set_aside(start: Start, strategy: str) -> None:
    consumer = start(strategy)

    assert consumer.deliver(EXPIRED) == []

    assert consumer.outcomes == ["expired"]
    assert consumer.balance == NEVER
    assert consumer.quarantine == [("expired", EXPIRED)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param("{", "truncated", id="cut off"),
        pytest.param('"text"', "Expected `object`", id="no object"),
        pytest.param(payment(amount=None), "$.amount", id="no amount"),
        pytest.param(payment(amount="-1"), "from 0.01 to 1000000", id="negative"),
        pytest.param(payment(amount="NaN"), "from 0.01 to 1000000", id="not a number"),
        pytest.param(payment(amount="1.001"), "2 decimal places", id="finer than cents"),
        pytest.param(payment(currency="euro"), "$.currency", id="currency"),
        pytest.param(payment(payment_id=""), "$.payment_id", id="no id"),
        pytest.param(payment(expires_at="2026-01-05T10:00:00"), "$.expires_at", id="local time"),
    ],
)
def test_a_malformed_message_is_set_aside_with_its_reason(start: Start, body: str, reason: str) -> None:
    consumer = start("natural")

    assert consumer.deliver(body, payment(3)) == []

    assert consumer.outcomes == ["malformed", "applied"]
    ((found, data),) = consumer.quarantine
    assert reason in found
    assert data == body


@each_consumer
def test_only_what_failed_comes_again(start: Start, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = start(strategy)
    effect = consumer.ledger.capture

    def refuse_one(message: Any) -> Any:
        if message.payment_id == "P2":
            raise ConnectionError("no network")
        return effect(message)

    monkeypatch.setattr(consumer.ledger, "capture", refuse_one)

    assert consumer.deliver(payment(1), payment(2), payment(3)) == ["m1"]
    assert consumer.outcomes == ["applied", "failed", "applied"]

    monkeypatch.setattr(consumer.ledger, "capture", effect)
    assert consumer.deliver(payment(2)) == []
    assert consumer.balance == (3, Decimal("37.02"))


@pytest.mark.parametrize(
    ("strategy", "first", "again"),
    [
        pytest.param("control", (1, 0, 4), (1, 0, 4), id="control"),
        pytest.param("natural", (1, 0, 4), (1, 0, 4), id="natural key"),
        pytest.param("powertools", (3, 0, 6), (1, 0, 1), id="Powertools"),
        pytest.param("inbox", (1, 0, 6), (2, 1, 6), id="inbox"),
    ],
)
def test_what_it_costs_is_written_down(
    start: Start, strategy: str, first: tuple[int, int, int], again: tuple[int, int, int]
) -> None:
    """Requests, read units and write units of a first delivery and of a duplicate."""
    consumer = start(strategy)

    consumer.deliver(payment(), payment())

    costs = [tuple(row[name] for name in ("requests", "read_units", "write_units")) for row in consumer.measures]
    assert costs == [first, again]
    assert all(row["milliseconds"] > 0 for row in consumer.measures)


class Conflicts:
    """A DynamoDB client whose transactions are cancelled, for these reasons in turn."""

    class exceptions:  # noqa: N801 - boto3's name
        TransactionCanceledException = ClientError

    def __init__(self, *reasons: str) -> None:
        self._reasons = list(reasons)

    def transact_write_items(self, **_: Any) -> None:
        if self._reasons:
            cancelled = {"Error": {"Code": "TransactionCanceledException"}}
            reasons = [{"Code": "None"}, {"Code": self._reasons.pop(0)}]
            raise ClientError(cancelled | {"CancellationReasons": reasons}, "TransactWriteItems")  # type: ignore[arg-type]


def test_conflicts_of_two_payments_to_one_account_are_waited_out(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = start("natural").ledger
    monkeypatch.setattr(ledger, "client", Conflicts("TransactionConflict", "TransactionConflict"))

    ledger.commit([])

    monkeypatch.setattr(ledger, "client", Conflicts("ConditionalCheckFailed"))
    with pytest.raises(ClientError):
        ledger.commit([])


def test_logs_carry_no_payment(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    consumer = start("natural")

    consumer.deliver(payment(), EXPIRED, "{")

    (batch,) = [record for record in caplog.records if record.getMessage() == "Batch consumed"]
    assert vars(batch)["outcomes"] == ["applied", "expired", "malformed"]
    assert "12.34" not in str([vars(record) for record in caplog.records])
