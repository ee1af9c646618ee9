"""Decides on every transaction of the stream, exactly once.

A fold over the stream: the card's profile, its place on the block list and the transaction's outcome are read, and what
follows from them is written in one transaction with the position in the stream. A blocked card is refused and an
ordinary payment approved at once; a suspicious one waits as PENDING for its workflow, which a message in the outbox
starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from contract import CONTRACT, Transaction
from rules import UNKNOWN, judge, learn

from exactly_once.fold import Context, Effects, Fold
from exactly_once.outbox import Message
from exactly_once.table import Item, Key

SUSPICION = "suspicion"


def keys(transaction: Transaction) -> Iterable[Key]:
    """Return the items that decide on ``transaction``."""
    return (_profile(transaction), _block(transaction), _outcome(transaction))


def step(states: Mapping[Key, Item | None], transaction: Transaction) -> Effects:
    """Decide on ``transaction``.

    An outcome that exists means a duplicate from before the dedupe window: it changes nothing. The outcome carries the
    card's running number, by which an audit replays the card in the order of decisions.
    """
    if states[_outcome(transaction)]:
        return Effects({}, [])
    profile = states[_profile(transaction)] or UNKNOWN
    facts = {
        "card": transaction.card,
        "amount": transaction.amount,
        "currency": transaction.currency,
        "occurred_at": transaction.occurred_at.isoformat(),
        "number": profile["seen"] + 1,
    }
    if states[_block(transaction)]:
        refused = {**facts, **_decision("REFUSED", "block list"), "score": 0, "reasons": ["the card is blocked"]}
        seen = {**profile, "seen": profile["seen"] + 1}
        return Effects({_profile(transaction): seen, _outcome(transaction): refused}, [])
    verdict = judge(profile, transaction)
    judged = {**facts, "score": verdict.score, "reasons": verdict.reasons}
    learned = learn(profile, transaction, verdict)
    if verdict.band == "low":
        approved = {**judged, **_decision("APPROVED", "rules")}
        return Effects({_profile(transaction): learned, _outcome(transaction): approved}, [])
    pending = {**judged, **_decision("PENDING", "rules")}
    body = {
        "event_id": transaction.event_id,
        "card": transaction.card,
        "amount": str(transaction.amount),
        "currency": transaction.currency,
        "score": verdict.score,
        "band": verdict.band,
        "reasons": verdict.reasons,
    }
    return Effects(
        {_profile(transaction): learned, _outcome(transaction): pending},
        [Message(transaction.event_id, SUSPICION, body)],
    )


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Decide on the transactions of one batch; answers with the records to be delivered again, as the layer says."""
    return _fold.handle(event, context)


def _profile(transaction: Transaction) -> Key:
    return Key(f"card#{transaction.card}", "profile")


def _block(transaction: Transaction) -> Key:
    return Key(f"card#{transaction.card}", "block")


def _outcome(transaction: Transaction) -> Key:
    return Key(f"outcome#{transaction.event_id}", "outcome")


def _decision(decision: str, decided_by: str) -> dict[str, str]:
    return {
        "decision": decision,
        "decided_by": decided_by,
        "decided_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


_fold = Fold.from_environment(contract=CONTRACT, keys=keys, step=step)
