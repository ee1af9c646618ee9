"""s08 from end to end: what docs and design promise of it, each line a test.

The tests tell one story on one stack, in this order: a load with duplicates, damage and crashes that reconciles; then
single payments with cards of their own; last a load that breaks the contract, which fails the gate and ends with the
stack removed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError

from atlas import dead_letters
from local.bootstrap import outputs_of
from local.runner import Run, Scenarios
from tests.scenarios import isolation

STEM = "s08_fraud_workflow"
STACK = "atlas-dev-s08-fraud-workflow"
FULL = os.environ.get("ATLAS_TEST_SIZE") == "full"
EVENTS = 10_000 if FULL else 150
RATE = 60 if FULL else None
"""Payments a second. Thousands at once are minutes of work, and the alarm of a function that falls behind rings."""
REVIEW_SECONDS = 3
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
PATIENCE_SECONDS = 15

Payment = dict[str, str]


@pytest.fixture(scope="module")
def first(scenarios: Scenarios) -> Run:
    return scenarios.run(
        STEM,
        events=EVENTS,
        duplicates_percent=10,
        malformed_percent=2,
        crash_percent=5,
        rate=RATE,
        review_seconds=REVIEW_SECONDS,
    )


class Stack:
    """The deployed stack as a payment system and a reader of its books see it."""

    def __init__(self, scenarios: Scenarios) -> None:
        self.outputs = outputs_of(scenarios.client, STACK)
        self.kinesis, self.dynamodb = scenarios.client("kinesis"), scenarios.client("dynamodb")
        self.workflows = scenarios.client("stepfunctions")

    def put(self, *payments: Payment) -> None:
        """Put payments on the stream in this order."""
        records = [{"Data": json.dumps(one).encode(), "PartitionKey": one.get("card", "")} for one in payments]
        answer = self.kinesis.put_records(StreamName=self.outputs["Stream"], Records=records)
        assert answer["FailedRecordCount"] == 0

    def outcome(self, payment: Payment) -> dict[str, Any]:
        """Return a payment's outcome, empty if it has none."""
        return self._item("StateTable", pk=f"outcome#{payment['event_id']}", sk="outcome")

    def review(self, payment: Payment) -> dict[str, Any]:
        return self._item("ReviewTable", event_id=payment["event_id"])

    def block(self, card: str) -> dict[str, Any]:
        return self._item("StateTable", pk=f"card#{card}", sk="block")

    def blocked_cards(self) -> list[str]:
        """Return the cards on the block list."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName=self.outputs["StateTable"])
        keys = [(item["pk"]["S"], item["sk"]["S"]) for page in pages for item in page["Items"]]
        return [pk.removeprefix("card#") for pk, sk in keys if sk == "block"]

    def executions(self, payment: Payment) -> int:
        """Return how many workflows were started for a payment."""
        pages = self.workflows.get_paginator("list_executions").paginate(stateMachineArn=self.outputs["Workflow"])
        return [one["name"] for page in pages for one in page["executions"]].count(payment["event_id"])

    def _item(self, table: str, **key: str) -> dict[str, Any]:
        typed = {name: {"S": value} for name, value in key.items()}
        answer = self.dynamodb.get_item(TableName=self.outputs[table], Key=typed, ConsistentRead=True)
        return {name: TypeDeserializer().deserialize(value) for name, value in answer.get("Item", {}).items()}


@pytest.fixture(scope="module")
def stack(scenarios: Scenarios, first: Run) -> Stack:
    return Stack(scenarios)


def payment(card: str, number: int, **changes: str) -> Payment:
    """Return an ordinary payment with a card, an hour after the one before."""
    fields = {
        "event_id": f"{card}-{number}",
        "card": card,
        "amount": "20.00",
        "currency": "EUR",
        "country": "DE",
        "category": "groceries",
        "occurred_at": (NOON + timedelta(hours=number)).isoformat(),
    }
    return fields | changes


def history(card: str) -> list[Payment]:
    """Return as many payments as the rules need to know what is usual."""
    return [payment(card, number) for number in range(6)]


def eventually(look: Callable[[], Any]) -> Any:
    """Return what ``look`` finds once it finds something."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := look()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)
    return found


def decided(stack: Stack, payment: Payment) -> dict[str, Any]:
    """Return a payment's outcome once it is final."""
    eventually(lambda: stack.outcome(payment).get("decision", "PENDING") != "PENDING")
    return stack.outcome(payment)


@pytest.fixture(scope="module")
def notices(scenarios: Scenarios, stack: Stack) -> Iterator[Callable[[], list[str]]]:
    """What customers are told from now on."""
    sqs = scenarios.client("sqs")
    queue = sqs.create_queue(QueueName="s08-notices")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    scenarios.client("sns").subscribe(TopicArn=stack.outputs["Customers"], Protocol="sqs", Endpoint=arn)

    def read() -> list[str]:
        messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        for message in messages:
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"])["Message"] for message in messages]

    yield read
    sqs.delete_queue(QueueUrl=queue)


def test_duplicates_damage_and_crashes_leave_exact_books(scenarios: Scenarios, first: Run) -> None:
    assert first.state == "success"
    assert first.gate["passed"]
    assert first.fact("Payments") == str(EVENTS)
    assert int(first.fact("Duplicates sent")) > 0
    malformed = int(first.fact("Malformed sent"))
    assert len(scenarios.objects(f"{STEM}/quarantine/")) == malformed > 0


def test_a_review_that_nobody_answers_takes_the_safe_choice(first: Run, stack: Stack) -> None:
    assert "BLOCKED by timeout" in first.fact("Decisions")
    assert first.fact("Reviews answered") == "0"
    assert int(first.fact("Cards blocked")) == len(stack.blocked_cards()) > 0


def test_the_next_payment_with_a_blocked_card_is_refused_at_once(stack: Stack) -> None:
    card = stack.blocked_cards()[0]
    refused = payment(card, 99)
    stack.put(refused)
    outcome = decided(stack, refused)
    assert (outcome["decision"], outcome["decided_by"]) == ("REFUSED", "block list")
    assert stack.executions(refused) == 0


def test_a_duplicated_payment_starts_one_workflow_and_an_answer_approves_it(stack: Stack) -> None:
    """Then a second answer is too late, and the card goes on."""
    suspicious = payment("approved", 7, country="BR")
    stack.put(*history("approved"), suspicious, suspicious)
    stack.put(suspicious)
    token = eventually(lambda: stack.review(suspicious).get("task_token"))
    stack.workflows.send_task_success(taskToken=token, output=json.dumps({"decision": "APPROVED"}))
    outcome = decided(stack, suspicious)
    assert (outcome["decision"], outcome["decided_by"]) == ("APPROVED", "review")
    assert stack.executions(suspicious) == 1
    assert stack.review(suspicious) == stack.block("approved") == {}
    with pytest.raises(ClientError, match=r"TaskTimedOut|TaskDoesNotExist"):
        stack.workflows.send_task_success(taskToken=token, output=json.dumps({"decision": "BLOCKED"}))


def test_two_reasons_to_block_a_card_give_one_block_and_one_notice(
    stack: Stack, notices: Callable[[], list[str]]
) -> None:
    frauds = [payment("stolen", number, amount="900.00") for number in (7, 8)]
    stack.put(*history("stolen"), *frauds)
    for fraud in frauds:
        outcome = decided(stack, fraud)
        assert (outcome["decision"], outcome["decided_by"]) == ("BLOCKED", "workflow")
    told = eventually(notices)
    assert [text for text in told if " stolen " in text] == told
    assert len(told) == 1
    assert stack.block("stolen")["event_id"] in {fraud["event_id"] for fraud in frauds}
    assert notices() == []


def test_a_malformed_payment_is_decided_once_it_is_mended(scenarios: Scenarios, stack: Stack, tmp_path: Path) -> None:
    good = payment("mended", 1)
    before = scenarios.objects(f"{STEM}/quarantine/").keys()
    stack.put({name: value for name, value in good.items() if name != "currency"})
    (key,) = eventually(lambda: scenarios.objects(f"{STEM}/quarantine/").keys() - before)
    letters, quarantine = tmp_path / "letters.jsonl", ("--bucket", scenarios.lake, "--prefix", key)
    assert dead_letters.main(["export", *quarantine, "--file", str(letters)]) == 0
    letter = json.loads(letters.read_text())
    assert "currency" in letter["reason"]
    letters.write_text(json.dumps(letter | {"text": json.dumps(good)}))
    assert dead_letters.main(["replay", *quarantine, "--file", str(letters), "--stream", stack.outputs["Stream"]]) == 0
    assert decided(stack, good)["decision"] == "APPROVED"
    assert scenarios.objects(f"{STEM}/quarantine/").keys() == before


def test_its_roles_reach_nothing_of_others(scenarios: Scenarios, first: Run) -> None:
    assert list(isolation.breaches(scenarios, STEM)) == []


def test_a_load_that_breaks_the_contract_fails_the_gate_and_its_stack_is_removed(scenarios: Scenarios) -> None:
    """The user's own data holds a payment that is refused: it is named, the others are decided."""
    rows = [payment("own", 1), payment("own", 2, country="Germany"), payment("own", 3)]
    text = "\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)])
    scenarios.client("s3").put_object(Bucket=scenarios.lake, Key="uploads/s08/payments.csv", Body=text.encode())
    run = scenarios.run(STEM, source_uri=f"s3://{scenarios.lake}/uploads/s08/", duplicates_percent=0, keep_stack=False)
    assert run.state == "failed"
    assert run.tasks["quality_gate"] == {"failed"}
    assert "missing_outcomes" in run.gate["failed"]
    (sample,) = run.gate["samples"]
    assert (sample["rule"], sample["event_id"].partition("-")[2]) == ("missing_outcomes", "own-2")
    assert run.fact("Decisions") == "2 APPROVED by rules"
    assert run.tasks["remove_stack"] == run.tasks["report"] == run.tasks["notify"] == {"success"}
    tagged = scenarios.client("resourcegroupstaggingapi").get_resources(
        TagFilters=[{"Key": "atlas:scenario", "Values": [STEM]}]
    )
    assert tagged["ResourceTagMappingList"] == []
