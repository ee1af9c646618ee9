"""What all decisions on a load of payments must add up to.

Each card is replayed by the scoring rules themselves, in the order in which its payments were decided: a payment that
was applied twice, left out, or judged by another past than its card's shows as a wrong number or score. Which cards
were stolen is known from the load, without the rules.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

from atlas.hooks.dynamodb import Item
from atlas.loadgen.cards import Payment

Violation = dict[str, Any]

VIOLATIONS = (
    *("missing_outcomes", "altered_outcomes", "pending_outcomes", "wrong_numbers", "wrong_scores", "wrong_decisions"),
    *("blocks_without_outcome", "outcomes_without_block", "passed_while_blocked", "blocks_without_notice"),
    *("missing_executions", "needless_executions", "failed_executions", "open_reviews"),
    *("missed_cards", "false_alarms"),
)
"""Every rule that :func:`violations` may name."""

CLOCKS = timedelta(seconds=5)
"""What clocks of different services may be apart, with the time between reading the block list and deciding."""

DECIDED = {
    "low": {("APPROVED", "rules")},
    "review": {("APPROVED", "review"), ("BLOCKED", "review"), ("BLOCKED", "timeout")},
    "block": {("BLOCKED", "workflow")},
}
"""Decision and who made it, by how suspicious a payment is; a pending one is a violation of its own."""


@dataclass(frozen=True)
class Books:
    """What is on record about a load: outcomes by payment, profiles and blocks by card, executions' states by name."""

    outcomes: Mapping[str, Item]
    profiles: Mapping[str, Item]
    blocks: Mapping[str, Item]
    executions: Mapping[str, str]
    open_reviews: Iterable[str]


def violations(payments: Mapping[str, Payment], books: Books, rules: ModuleType) -> Iterator[Violation]:
    """Yield whatever is wrong, as ``rule`` and what helps to find it.

    ``payments`` are all of the load by id; ``rules`` is the scoring function's module of that name.
    """
    yield from _outcomes(payments, books)
    yield from _replay(payments, books, rules)
    yield from _blocks(books)
    yield from _workflows(books, rules)
    yield from _planted(payments, books, rules)


def suspicious(outcome: Item, rules: ModuleType) -> bool:
    """Return whether the payment had to go to a workflow."""
    return bool(outcome["score"] >= rules.REVIEW_FROM)


def _outcomes(payments: Mapping[str, Payment], books: Books) -> Iterator[Violation]:
    for event_id, payment in payments.items():
        outcome = books.outcomes.get(event_id)
        if outcome is None:
            yield {"rule": "missing_outcomes", "event_id": event_id, "card": payment.card}
        elif (outcome["card"], outcome["amount"], outcome["currency"]) != (
            payment.card,
            payment.amount,
            payment.currency,
        ):
            yield {"rule": "altered_outcomes", "event_id": event_id, "amount": outcome["amount"]}
        elif outcome["decision"] == "PENDING":
            yield {"rule": "pending_outcomes", "event_id": event_id, "card": payment.card}


def _replay(payments: Mapping[str, Payment], books: Books, rules: ModuleType) -> Iterator[Violation]:
    by_card: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for event_id, outcome in books.outcomes.items():
        by_card[outcome["card"]].append((int(outcome["number"]), event_id))
    for card, decided in by_card.items():
        numbers = sorted(number for number, _ in decided)
        seen = int(books.profiles[card]["seen"]) if card in books.profiles else 0
        if numbers != list(range(1, seen + 1)):
            yield {"rule": "wrong_numbers", "card": card, "seen": seen, "numbers": numbers}
            continue
        profile = rules.UNKNOWN
        for _, event_id in sorted(decided):
            payment, outcome = payments[event_id], books.outcomes[event_id]
            found = (outcome["decision"], outcome["decided_by"])
            if outcome["decision"] == "REFUSED":
                profile = {**profile, "seen": profile["seen"] + 1}
                continue
            verdict = rules.judge(profile, payment)
            profile = rules.learn(profile, payment, verdict)
            if (outcome["score"], outcome["reasons"]) != (verdict.score, verdict.reasons):
                yield {"rule": "wrong_scores", "event_id": event_id, "score": outcome["score"], "due": verdict.score}
            elif found[0] != "PENDING" and found not in DECIDED[verdict.band]:
                yield {"rule": "wrong_decisions", "event_id": event_id, "band": verdict.band, "decision": found}


def _blocks(books: Books) -> Iterator[Violation]:
    for card, block in books.blocks.items():
        cause = books.outcomes.get(block["event_id"])
        if cause is None or cause["decision"] != "BLOCKED" or cause["card"] != card:
            yield {"rule": "blocks_without_outcome", "card": card, "event_id": block["event_id"]}
        if "notice_id" not in block:
            yield {"rule": "blocks_without_notice", "card": card, "event_id": block["event_id"]}
    for event_id, outcome in books.outcomes.items():
        held = books.blocks.get(outcome["card"])
        if outcome["decision"] in ("BLOCKED", "REFUSED") and held is None:
            yield {"rule": "outcomes_without_block", "event_id": event_id, "card": outcome["card"]}
        elif held and outcome["decided_by"] == "rules" and _time(outcome["decided_at"]) > _since(held):
            yield {"rule": "passed_while_blocked", "event_id": event_id, "card": outcome["card"]}


def _workflows(books: Books, rules: ModuleType) -> Iterator[Violation]:
    due = {event_id for event_id, outcome in books.outcomes.items() if suspicious(outcome, rules)}
    yield from ({"rule": "missing_executions", "event_id": event_id} for event_id in due - books.executions.keys())
    yield from ({"rule": "needless_executions", "event_id": event_id} for event_id in books.executions.keys() - due)
    for event_id, status in books.executions.items():
        if status not in ("SUCCEEDED", "RUNNING"):
            yield {"rule": "failed_executions", "event_id": event_id, "status": status}
    yield from ({"rule": "open_reviews", "event_id": event_id} for event_id in books.open_reviews)


def _planted(payments: Mapping[str, Payment], books: Books, rules: ModuleType) -> Iterator[Violation]:
    stolen = {payment.card for payment in payments.values() if payment.planted != "nothing"}
    for event_id, payment in payments.items():
        outcome = books.outcomes.get(event_id)
        if outcome is None or not suspicious(outcome, rules):
            continue
        stolen.discard(payment.card)
        if payment.planted == "nothing":
            yield {"rule": "false_alarms", "event_id": event_id, "reasons": "; ".join(outcome["reasons"])}
    yield from ({"rule": "missed_cards", "card": card} for card in sorted(stolen))


def _since(block: Item) -> datetime:
    """Return from when on every decision must know of the block."""
    return _time(block["blocked_at"]) + CLOCKS


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
