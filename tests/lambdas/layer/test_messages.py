"""The inbox, the outbox's relay, and the rehearsed crash."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from greenlet import GreenletExit, getcurrent, greenlet

from exactly_once.faults import __file__ as faults
from exactly_once.faults import crash
from exactly_once.inbox import Inbox
from exactly_once.outbox import Message, Relay
from exactly_once.table import Action, ConditionFailed, Key, Table
from tests.lambdas.layer.model import DynamoDB, cancelled

WEEK = timedelta(days=7)


def deposit(table: Table, amount: int) -> list[Action]:
    """Return the actions of a deposit, as a read followed by a guarded write."""
    key = Key("account", "balance")
    item = table.get(key)
    if item is None:
        return [table.put(key, {"sum": amount}, ConditionExpression="attribute_not_exists(pk)")]
    condition: dict[str, Any] = {
        "ConditionExpression": "#sum = :sum",
        "ExpressionAttributeNames": {"#sum": "sum"},
        "ExpressionAttributeValues": {":sum": {"N": str(item["sum"])}},
    }
    return [table.put(key, {"sum": int(item["sum"]) + amount}, **condition)]


def test_an_effect_comes_with_its_marker_and_its_messages_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    model = DynamoDB()
    inbox = Inbox("t", WEEK, model)
    message = Message("m1-receipt", "receipt", {"amount": Decimal("1.50")})

    assert inbox.once("m1", deposit(Table("t", model), 5), [message])
    assert not inbox.once("m1", deposit(Table("t", model), 5), [message])

    assert len(model.transactions) == 1
    assert model.plain("account") == {("account", "balance"): {"sum": 5}}
    assert model.plain("inbox#") == {("inbox#m1", "inbox"): {"expires_at": 1000 + 7 * 86_400}}
    ((key, item),) = model.plain("outbox#").items()
    assert (key, item["kind"], item["body"]) == (("outbox#m1-receipt", "outbox"), "receipt", '{"amount":"1.50"}')


def test_a_broken_condition_of_the_effect_is_told_by_its_index_and_leaves_no_marker() -> None:
    model = DynamoDB()
    inbox, table = Inbox("t", WEEK, model), Table("t", model)
    stale = deposit(table, 5)
    inbox.once("m1", stale)

    with pytest.raises(ConditionFailed) as failed:
        inbox.once("m2", [table.put(Key("other", "1"), {}), *stale])

    assert failed.value.indexes == [1]
    assert set(model.plain("inbox#")) == {("inbox#m1", "inbox")}
    assert not model.plain("other")


def test_conflicts_are_waited_out() -> None:
    model = DynamoDB()
    model.failures = [cancelled("TransactionConflict", "None")] * 3

    assert Inbox("t", WEEK, model).once("m1", deposit(Table("t", model), 5))
    assert len(model.transactions) == 1


@pytest.mark.parametrize("marked", [True, False], ids=["inbox", "without the marker, which must go wrong"])
def test_queues_deliver_at_least_once_and_effects_happen_once(marked: bool) -> None:
    """Random schedules: every message delivered until a consumer has acknowledged it, by two consumers at a time."""

    def suspend() -> None:
        if (parent := getcurrent().parent) is not None:
            parent.switch()

    def schedule(seed: int) -> bool:
        choice = random.Random(seed)
        model = DynamoDB(suspend, seed=seed)
        table, inbox = Table("t", model), Inbox("t", WEEK, model)
        queue = {f"m{number}": choice.randint(1, 9) for number in range(choice.randint(2, 6))}
        expected = sum(queue.values())

        def consume(message: str, amount: int) -> None:
            while True:
                actions = deposit(table, amount)
                try:
                    if marked:
                        inbox.once(message, actions, [Message(message, "receipt", {})])
                    else:
                        table.transact(actions, float("inf"))
                except ConditionFailed:
                    continue  # the balance has changed in between
                queue.pop(message, None)
                return

        running: list[greenlet] = []
        while queue or running:
            if queue and (len(running) < 2 or choice.random() < 0.05):
                message = choice.choice(list(queue))
                consumer = greenlet(consume)
                running.append(consumer)
                consumer.switch(message, queue[message])
            else:
                consumer = choice.choice(running)
                if choice.random() < 0.03:
                    consumer.throw(GreenletExit)
                else:
                    consumer.switch()
            running = [consumer for consumer in running if not consumer.dead]
        states = {sk: int(item["sum"]) for (_, sk), item in model.plain("account").items()}
        return states == {"balance": expected} and len(model.plain("outbox#")) == len(model.plain("inbox#"))

    wrong = [seed for seed in range(200) if not schedule(seed)]

    if marked:
        assert wrong == []
    else:
        assert len(wrong) > 100


def change(kind: str, key: str, sequence: str) -> dict[str, Any]:
    """Return a record of a table's stream."""
    keys = {"pk": {"S": key}, "sk": {"S": "outbox"}}
    image = keys | {"kind": {"S": "receipt"}, "body": {"S": '{"amount":"1.50"}'}}
    return {
        "eventName": kind,
        "dynamodb": {"Keys": keys, "SequenceNumber": sequence} | ({"NewImage": image} if kind != "REMOVE" else {}),
    }


def test_the_relay_sends_new_messages_and_nothing_else() -> None:
    sent: list[Message] = []

    answer = Relay(sent.append).handle(
        {
            "Records": [
                change("INSERT", "outbox#a", "1"),
                change("INSERT", "account#a", "2"),
                change("MODIFY", "outbox#b", "3"),
                change("REMOVE", "outbox#a", "4"),
                change("INSERT", "outbox#c#1", "5"),
            ]
        }
    )

    body = {"amount": "1.50"}
    assert sent == [Message("a", "receipt", body), Message("c#1", "receipt", body)]
    assert answer == {"batchItemFailures": []}


def test_the_relay_hands_back_from_the_first_failure_on(caplog: pytest.LogCaptureFixture) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html"""
    sent: list[str] = []

    def send(message: Message) -> None:
        sent.append(message.id)
        if message.id == "b":
            raise ConnectionError("not now")

    answer = Relay(send).handle({"Records": [change("INSERT", f"outbox#{id}", f"7{id}") for id in "abc"]})

    assert answer == {"batchItemFailures": [{"itemIdentifier": "7b"}]}
    assert sent == ["a", "b"]
    assert "ConnectionError" in caplog.text
    assert [vars(record)["message_id"] for record in caplog.records] == ["b"]
    assert "1.50" not in caplog.text, "payloads stay out of logs"


def test_crashes_are_rehearsed_only_where_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in ("", "0"):
        monkeypatch.setenv("CRASH_SHARE", nothing)
        crash("here")
    program = "from exactly_once.faults import crash; crash('after the commit'); print('alive')"
    folder = faults.rpartition("/exactly_once/")[0]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"CRASH_SHARE": "1", "PYTHONPATH": folder},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (70, "Rehearsed crash: after the commit\n")
