"""The glue code of s08: feeding, asking people, and the audit, which must find every kind of mistake."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from atlas.loadgen.cards import FIELDS, Payment, generate
from atlas.loadgen.feed import Manifest
from atlas.quality.judge import load_suite
from atlas.scenarios import s08_fraud_workflow as scenario
from atlas.scenarios.s08_fraud_workflow_audit import VIOLATIONS, Books, violations
from local.launcher import layout
from tests.conftest import Aws

INCLUDE = layout.REPOSITORY / "include"
STEM = "s08_fraud_workflow"
LAKE, STATE, REVIEWS = "s08-glue-lake", "s08-glue-state", "s08-glue-reviews"
RUN = "manual__1"
BLOCKED_AT = "2026-01-09T12:00:00+00:00"
PARAMS = {
    "events": 40,
    "seed": 7,
    "source_uri": None,
    "duplicates_percent": 0,
    "malformed_percent": 0,
    "rate": None,
    "review": "timeout",
}
rules = scenario._module(str(INCLUDE / "lambdas" / STEM / "rules.py"))

Make = Callable[[dict[str, Payment], Books], Any]


def sound(payments: dict[str, Payment]) -> Books:
    """Return books in which all is well: reviews end by timeout, cards are blocked after their last payment."""
    profiles: dict[str, dict[str, Any]] = {}
    outcomes: dict[str, dict[str, Any]] = {}
    blocks: dict[str, dict[str, Any]] = {}
    for event_id, payment in payments.items():
        profile = profiles.get(payment.card, rules.UNKNOWN)
        verdict = rules.judge(profile, payment)
        profiles[payment.card] = rules.learn(profile, payment, verdict)
        decision = {
            "low": ("APPROVED", "rules"),
            "review": ("BLOCKED", "timeout"),
            "block": ("BLOCKED", "workflow"),
        }[verdict.band]
        outcomes[event_id] = {
            "card": payment.card,
            "amount": payment.amount,
            "currency": payment.currency,
            "occurred_at": payment.occurred_at.isoformat(),
            "number": Decimal(profiles[payment.card]["seen"]),
            "score": Decimal(verdict.score),
            "reasons": verdict.reasons,
            "decision": decision[0],
            "decided_by": decision[1],
            "decided_at": "2026-01-09T11:00:00+00:00",
        }
        if verdict.band != "low":
            block = {"event_id": event_id, "blocked_at": BLOCKED_AT, "blocked_by": decision[1]}
            blocks.setdefault(payment.card, {**block, "notice_id": f"n{event_id}", "score": 75, "reasons": "many"})
    executions = {event_id: "SUCCEEDED" for event_id, one in outcomes.items() if one["score"]}
    return Books(outcomes, profiles, blocks, executions, [])


@pytest.fixture(scope="module")
def payments() -> dict[str, Payment]:
    return {payment.event_id: payment for payment in generate(7, 400, "x")}


@pytest.fixture
def books(payments: dict[str, Payment]) -> Books:
    return copy.deepcopy(sound(payments))


def found(payments: dict[str, Payment], books: Books) -> set[str]:
    return {violation["rule"] for violation in violations(payments, books, rules)}


def ordinary(books: Books) -> str:
    """Return a payment that nobody suspected, of a card that was not blocked."""
    return next(
        event_id
        for event_id, one in books.outcomes.items()
        if one["decided_by"] == "rules" and one["card"] not in books.blocks and one["number"] > 1
    )


def suspected(books: Books, by: str = "workflow") -> str:
    """Return a payment that was blocked."""
    return next(event_id for event_id, one in books.outcomes.items() if one["decided_by"] == by)


def change(where: str, which: Callable[[Books], str], **values: Any) -> Make:
    """Return what changes one entry of the books."""
    return lambda _, books: getattr(books, where)[which(books)].update(values)


def cause(books: Books) -> str:
    """Return a card that was blocked."""
    return next(iter(books.blocks))


def lost_card(payments: dict[str, Payment], books: Books) -> None:
    """Take one card off the list of those that anybody suspected, as if the rules had not seen it."""
    card = books.outcomes[suspected(books)]["card"]
    for event_id, outcome in books.outcomes.items():
        if outcome["card"] == card:
            outcome.update(score=0, decision="APPROVED", decided_by="rules")
            books.executions.pop(event_id, None)  # type: ignore[attr-defined]


MISTAKES: dict[str, Make] = {
    "missing_outcomes": lambda _, books: books.outcomes.pop(ordinary(books)),  # type: ignore[attr-defined]
    "altered_outcomes": change("outcomes", ordinary, amount=Decimal("0.01")),
    "pending_outcomes": change("outcomes", suspected, decision="PENDING", decided_by="rules"),
    "wrong_numbers": change("outcomes", ordinary, number=Decimal(99)),
    "wrong_scores": change("outcomes", ordinary, score=Decimal(1)),
    "wrong_decisions": change("outcomes", suspected, decision="APPROVED", decided_by="review"),
    "blocks_without_outcome": change("blocks", cause, event_id="x-unknown"),
    "outcomes_without_block": lambda _, books: books.blocks.pop(cause(books)),  # type: ignore[attr-defined]
    "passed_while_blocked": lambda _, books: next(
        one for one in books.outcomes.values() if one["card"] in books.blocks and one["decided_by"] == "rules"
    ).update(decided_at="2026-01-09T12:00:06+00:00"),
    "blocks_without_notice": lambda _, books: books.blocks[cause(books)].pop("notice_id"),
    "missing_executions": lambda _, books: books.executions.pop(suspected(books)),  # type: ignore[attr-defined]
    "needless_executions": lambda _, books: books.executions.update({ordinary(books): "SUCCEEDED"}),  # type: ignore[attr-defined]
    "failed_executions": lambda _, books: books.executions.update({suspected(books): "FAILED"}),  # type: ignore[attr-defined]
    "open_reviews": lambda _, books: books.open_reviews.append(suspected(books)),  # type: ignore[attr-defined]
    "missed_cards": lost_card,
    "false_alarms": change("outcomes", ordinary, score=Decimal(50)),
}


def test_sound_books_have_nothing_wrong(payments: dict[str, Payment], books: Books) -> None:
    assert len(books.blocks) > 2
    assert found(payments, books) == set()


def test_every_rule_has_its_mistake() -> None:
    assert set(MISTAKES) == set(VIOLATIONS)


@pytest.mark.parametrize("rule", VIOLATIONS)
def test_the_audit_finds(rule: str, payments: dict[str, Payment], books: Books) -> None:
    MISTAKES[rule](payments, books)
    assert rule in found(payments, books)


def test_a_refused_payment_counts_and_is_not_scored(payments: dict[str, Payment], books: Books) -> None:
    """A card is blocked before its last payment: that payment is refused, which is right."""
    card = cause(books)
    last = max((one for one in books.outcomes.values() if one["card"] == card), key=lambda one: one["number"])
    last.update(decision="REFUSED", decided_by="block list", score=Decimal(0), reasons=["the card is blocked"])
    assert found(payments, books) == set()


def test_a_payment_applied_twice_shows_in_the_numbers(payments: dict[str, Payment], books: Books) -> None:
    card = books.outcomes[ordinary(books)]["card"]
    books.profiles[card]["seen"] += 1
    assert found(payments, books) == {"wrong_numbers"}


def test_the_gate_judges_every_rule_of_the_audit() -> None:
    suite = load_suite(INCLUDE / "expectations" / f"{STEM}.py", "decisions", {})
    assert {expectation.meta["rule"] for expectation in suite if expectation.meta} == set(VIOLATIONS)


@pytest.fixture
def account(connected: Aws) -> Any:
    """A lake and the scenario's tables, empty."""
    s3, dynamodb = connected.client("s3"), connected.client("dynamodb")
    s3.create_bucket(Bucket=LAKE)
    for table, keys in ((STATE, ("pk", "sk")), (REVIEWS, ("event_id",))):
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in keys],
            KeySchema=[
                {"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
        )
    yield dynamodb
    for table in (STATE, REVIEWS):
        dynamodb.delete_table(TableName=table)
    for entry in s3.list_objects_v2(Bucket=LAKE).get("Contents", []):
        s3.delete_object(Bucket=LAKE, Key=entry["Key"])
    s3.delete_bucket(Bucket=LAKE)


def put_outcome(dynamodb: Any, event_id: str, decision: str) -> None:
    item = {"pk": f"outcome#{event_id}", "sk": "outcome", "decision": decision}
    dynamodb.put_item(TableName=STATE, Item={name: {"S": value} for name, value in item.items()})


def put_review(dynamodb: Any, event_id: str, score: int, token: str) -> None:
    item = {"event_id": event_id, "card": "A", "amount": "9 EUR", "reasons": "many", "opened_at": "now"}
    texts = {name: {"S": value} for name, value in {**item, "task_token": token}.items()}
    dynamodb.put_item(TableName=REVIEWS, Item={**texts, "score": {"N": str(score)}})


def suspicious(dynamodb: Any) -> tuple[dict[str, Any], list[str]]:
    """Return what the search finds when two of the run's payments are pending, and their ids."""
    ids = [payment.event_id for payment in generate(7, 40, scenario._label(RUN))]
    for event_id in ids:
        put_outcome(dynamodb, event_id, "PENDING" if event_id in ids[:2] else "APPROVED")
    stack = {"StateTable": STATE, "ReviewTable": REVIEWS, "Workflow": "arn"}
    moment = datetime.now(UTC)
    counts = dict.fromkeys(("events", "duplicates", "malformed", "records", "retried"), 0)
    manifest = Manifest(**counts, shards={}, started_at=moment, finished_at=moment, truth={})
    sent = manifest.store(S3Hook(), f"s3://{LAKE}/run/feed.json")
    return scenario.find_suspicious(LAKE, stack, f"s3://{LAKE}/run", sent["manifest"], PARAMS, RUN), ids[:2]


class Workflows:
    """Executions by name, and tasks that take answers; one has waited too long."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.sent: dict[str, str] = {}

    def executions(self, state_machine_arn: str, since: datetime) -> list[tuple[str, str]]:
        assert (state_machine_arn, since.utcoffset()) == ("arn", timedelta(0))
        return list(self.states.items())

    def answer(self, task_token: str, output: dict[str, str]) -> bool:
        self.sent[task_token] = output["decision"]
        return task_token != "late"


@pytest.fixture
def workflows(monkeypatch: pytest.MonkeyPatch) -> Workflows:
    workflows = Workflows()
    monkeypatch.setattr(scenario, "WorkflowHook", lambda: workflows)
    return workflows


def test_pending_payments_are_found_and_waited_for(account: Any, workflows: Workflows) -> None:
    found, pending = suspicious(account)
    assert found["pending"] == 2
    ended = scenario.WorkflowsSensor(task_id="ended", found=found)
    rest = scenario.WorkflowsSensor(task_id="rest", found=found, or_reviewed=True)
    assert not ended.poke({})
    assert not rest.poke({})
    put_outcome(account, pending[0], "BLOCKED")
    put_review(account, pending[1], 50, "secret")
    assert rest.poke({})
    assert not ended.poke({})
    put_outcome(account, pending[1], "APPROVED")
    assert ended.poke({})


def test_a_workflow_that_ends_without_an_outcome_ends_the_waiting(account: Any, workflows: Workflows) -> None:
    found, (first, second) = suspicious(account)
    sensor = scenario.WorkflowsSensor(task_id="ended", found=found)
    workflows.states = {first: "RUNNING", second: "RUNNING", "other": "FAILED"}
    assert not sensor.poke({})
    workflows.states[second] = "FAILED"
    with pytest.raises(AirflowFailException, match=f"1 workflows ended without an outcome: {second}. .* redrive"):
        sensor.poke({})


def test_people_are_asked_about_open_reviews_without_the_token(account: Any) -> None:
    found, (first, second) = suspicious(account)
    put_review(account, first, 45, "secret")
    put_review(account, second, 60, "secret")
    assert scenario.ask(found, PARAMS) == []
    asked = scenario.ask(found, {**PARAMS, "review": "airflow"})
    assert [one["event_id"] for one in asked] == [second, first]
    assert "secret" not in json.dumps(asked)
    assert scenario.question(asked[0]).keys() == {"subject", "body"}
    assert "Score **60** of 100: many" in asked[0]["body"]


@pytest.mark.parametrize(
    ("review", "answers", "sent", "counts"),
    [
        pytest.param("timeout", None, {}, {"answered": 0, "late": 0}, id="nobody"),
        pytest.param(
            "approve", None, {"good": "APPROVED", "late": "APPROVED"}, {"answered": 1, "late": 1}, id="the run approves"
        ),
        pytest.param(
            "block", None, {"good": "BLOCKED", "late": "BLOCKED"}, {"answered": 1, "late": 1}, id="the run blocks"
        ),
        pytest.param(
            "airflow",
            [scenario.APPROVE, scenario.BLOCK, scenario.APPROVE],
            {"good": "APPROVED", "late": "BLOCKED"},
            {"answered": 1, "late": 2},
            id="people answer",
        ),
    ],
)
def test_answers_go_to_the_tasks_that_wait(
    account: Any,
    workflows: Workflows,
    review: str,
    answers: list[str] | None,
    sent: dict[str, str],
    counts: dict[str, int],
) -> None:
    found, (first, second) = suspicious(account)
    put_review(account, first, 45, "good")
    put_review(account, second, 60, "late")
    asked = [{"event_id": event_id} for event_id in (first, second, "x-ended")]
    chosen = [{"chosen_options": [answer]} for answer in answers] if answers else None
    assert scenario.answer_reviews(found, asked, chosen, {**PARAMS, "review": review}) == counts
    assert workflows.sent == sent


def test_no_payments_are_no_feed(account: Any) -> None:
    with pytest.raises(AirflowSkipException):
        scenario.feed(LAKE, "stream", f"s3://{LAKE}/run", {**PARAMS, "events": 0}, RUN)


ROW = "{},A,1.50,EUR,DE,fuel,2026-01-05T13:00:00Z\n"


def payments_of(*files: str) -> list[Payment]:
    """Return the run's payments when the user's files hold these rows."""
    for number, rows in enumerate(files):
        S3Hook().load_string(f"{','.join(FIELDS)}\n{rows}", f"uploads/{number}.csv", LAKE)
    return scenario._payments(S3Hook(), LAKE, {**PARAMS, "source_uri": f"s3://{LAKE}/uploads/"}, RUN)


def test_a_files_payments_are_those_of_the_run(account: Any) -> None:
    label = scenario._label(RUN)
    assert [one.event_id for one in payments_of(ROW.format(1), ROW.format(2))] == [f"{label}-1", f"{label}-2"]
    assert label != scenario._label("manual__2")


def test_two_payments_under_one_id_are_refused(account: Any) -> None:
    with pytest.raises(ValueError, match=r"1 event ids stand for several payments, such as .*-1;"):
        payments_of(ROW.format(1), ROW.format(1))


def test_the_report_gets_rows_that_it_can_draw(account: Any, books: Books) -> None:
    rows = scenario._pictures(replace(books, outcomes=dict(list(books.outcomes.items())[:50])))
    address = scenario._store(S3Hook(), f"s3://{LAKE}/run/timeline.csv", rows["timeline"])
    stored = list(csv.DictReader(io.StringIO(S3Hook().read_key("run/timeline.csv", LAKE))))
    assert address == f"s3://{LAKE}/run/timeline.csv"
    assert sum(int(row["payments"]) for row in stored) == 50
    assert all(datetime.fromisoformat(row["hour"]).utcoffset() == timedelta(0) for row in stored)
    assert {row["card"] for row in rows["blocked"]} == set(books.blocks)
    assert datetime.fromisoformat(stored[0]["hour"]) < datetime.now(UTC)
