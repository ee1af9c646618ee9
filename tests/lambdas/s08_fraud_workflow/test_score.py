"""What the scoring function decides, and that it decides once."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from exactly_once.fold import Fold
from exactly_once.quarantine import Quarantine
from exactly_once.table import Key, deserialize
from tests.conftest import Aws
from tests.lambdas.s08_fraud_workflow.conftest import ENVIRONMENT, Functions

PROFILE, BLOCK, OUTCOME = Key("card#card-1", "profile"), Key("card#card-1", "block"), Key("outcome#tx-1", "outcome")
NAME = "s08-functions"


def states(functions: Functions, **items: Any) -> dict[Key, Any]:
    return {PROFILE: items.get("profile"), BLOCK: items.get("block"), OUTCOME: items.get("outcome")}


def test_an_ordinary_payment_is_approved_at_once(functions: Functions) -> None:
    effects = functions.score.step(states(functions, profile=functions.profile(6)), functions.transaction())
    outcome = effects.states[OUTCOME]
    assert (outcome["decision"], outcome["decided_by"], outcome["score"]) == ("APPROVED", "rules", 0)
    assert (outcome["card"], outcome["amount"], outcome["number"]) == ("card-1", Decimal("20.00"), 7)
    assert effects.states[PROFILE]["seen"] == 7
    assert list(effects.messages) == []


@pytest.mark.parametrize(
    ("amount", "band"), [pytest.param("50.00", "review", id="review"), pytest.param("500.00", "block", id="block")]
)
def test_a_suspicious_payment_waits_for_its_workflow(functions: Functions, amount: str, band: str) -> None:
    effects = functions.score.step(
        states(functions, profile=functions.profile(6)), functions.transaction(amount=Decimal(amount))
    )
    (message,) = effects.messages
    assert effects.states[OUTCOME]["decision"] == "PENDING"
    assert message.id == "tx-1"
    assert {name: message.body[name] for name in ("event_id", "card", "amount", "currency", "band")} == {
        "event_id": "tx-1",
        "card": "card-1",
        "amount": amount,
        "currency": "EUR",
        "band": band,
    }
    assert message.body["reasons"] == effects.states[OUTCOME]["reasons"] != []


def test_a_payment_with_a_blocked_card_is_refused_whatever_it_is(functions: Functions) -> None:
    profile = functions.profile(6)
    effects = functions.score.step(
        states(functions, profile=profile, block={"event_id": "tx-0"}), functions.transaction(amount=Decimal(500))
    )
    assert (effects.states[OUTCOME]["decision"], effects.states[OUTCOME]["decided_by"]) == ("REFUSED", "block list")
    assert effects.states[PROFILE] == {**profile, "seen": 7}
    assert BLOCK not in effects.states
    assert list(effects.messages) == []


def test_a_payment_that_has_an_outcome_changes_nothing(functions: Functions) -> None:
    effects = functions.score.step(
        states(functions, profile=functions.profile(6), outcome={"decision": "PENDING"}), functions.transaction()
    )
    assert (dict(effects.states), list(effects.messages)) == ({}, [])


class Stream:
    """Batches of one shard for the function, and the table it writes."""

    def __init__(self, aws: Aws, functions: Functions) -> None:
        self.dynamodb, self.s3 = aws.client("dynamodb"), aws.client("s3")
        self.functions = functions
        self.sequence = 0

    def records(self, *data: bytes) -> dict[str, Any]:
        """Return the event that delivers these records."""
        records = []
        for one in data:
            self.sequence += 1
            records.append(
                {
                    "eventID": f"shardId-000000000000:{self.sequence}",
                    "eventSourceARN": f"arn:aws:kinesis:us-east-1:000000000000:stream/{NAME}",
                    "kinesis": {
                        "data": base64.b64encode(one).decode(),
                        "sequenceNumber": str(self.sequence),
                        "partitionKey": "card-1",
                        "approximateArrivalTimestamp": 1_760_000_000.0 + self.sequence,
                    },
                }
            )
        return {"Records": records}

    def handle(self, event: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self.functions.score.handler(event, None)
        return answer

    def items(self, prefix: str) -> list[dict[str, Any]]:
        """Return the items whose key begins like this."""
        found = map(deserialize, self.dynamodb.scan(TableName=NAME, ConsistentRead=True)["Items"])
        return [item for item in found if item["pk"].startswith(prefix)]


def payment(number: int, **changes: Any) -> bytes:
    fields = {
        "event_id": f"tx-{number}",
        "card": "card-1",
        "amount": "20.00",
        "currency": "EUR",
        "country": "DE",
        "category": "fuel",
        "occurred_at": f"2026-01-05T{number:02d}:00:00Z",
    }
    return json.dumps(fields | changes).encode()


@pytest.fixture
def stream(aws: Aws, functions: Functions, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    stream = Stream(aws, functions)
    stream.s3.create_bucket(Bucket=NAME)
    kinesis = aws.client("kinesis")
    kinesis.create_stream(StreamName=NAME, ShardCount=1)
    kinesis.get_waiter("stream_exists").wait(StreamName=NAME, WaiterConfig={"Delay": 1})
    stream.dynamodb.create_table(
        TableName=NAME,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    fold = Fold(
        table=NAME,
        consumer="score",
        incarnation="one",
        contract=functions.contract.CONTRACT,
        keys=functions.score.keys,
        step=functions.score.step,
        quarantine=Quarantine(NAME, ENVIRONMENT["QUARANTINE_PREFIX"], "", stream.s3),
        client=stream.dynamodb,
        kinesis=kinesis,
    )
    monkeypatch.setattr(functions.score, "_fold", fold)
    yield stream
    stream.dynamodb.delete_table(TableName=NAME)
    kinesis.delete_stream(StreamName=NAME)
    for entry in stream.s3.list_objects_v2(Bucket=NAME).get("Contents", []):
        stream.s3.delete_object(Bucket=NAME, Key=entry["Key"])
    stream.s3.delete_bucket(Bucket=NAME)


def test_redelivery_and_duplicates_decide_nothing_anew(stream: Stream) -> None:
    first = stream.records(*(payment(number) for number in range(1, 7)), payment(7, country="BR"))
    assert stream.handle(first) == stream.handle(first) == {"batchItemFailures": []}
    stream.handle(stream.records(payment(7, country="BR"), payment(8)))
    (profile,) = [item for item in stream.items("card#") if item["sk"] == "profile"]
    (message,) = stream.items("outbox#")
    outcomes = {item["pk"]: (item["decision"], int(item["number"])) for item in stream.items("outcome#")}
    assert profile["seen"] == 8
    assert message["pk"] == "outbox#tx-7"
    assert outcomes == {
        f"outcome#tx-{number}": ("PENDING" if number == 7 else "APPROVED", number) for number in range(1, 9)
    }


def test_a_malformed_record_is_kept_and_the_others_go_on(stream: Stream) -> None:
    stream.handle(stream.records(payment(1), b'{"event_id": "tx-2"', payment(3)))
    (kept,) = stream.s3.list_objects_v2(Bucket=NAME, Prefix="quarantine/")["Contents"]
    letter = json.loads(stream.s3.get_object(Bucket=NAME, Key=kept["Key"])["Body"].read())
    assert base64.b64decode(letter["data"]) == b'{"event_id": "tx-2"'
    assert {item["pk"] for item in stream.items("outcome#")} == {"outcome#tx-1", "outcome#tx-3"}
