"""Sums the payments of each account: the fold that ``local/bench_layer.py`` and ``local/bench_embedded.py`` measure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any

import msgspec

from exactly_once.contracts import Contract
from exactly_once.fold import Context, Effects, Fold
from exactly_once.table import Item, Key


class Payment(msgspec.Struct, frozen=True):
    """An event as the scenarios have them."""

    id: str
    account: str
    amount: Decimal
    at: str


CONTRACT = Contract(Payment, event_id=lambda payment: payment.id)


def accounts(payment: Payment) -> list[Key]:
    """Return the item that a payment concerns."""
    return [Key(f"account#{payment.account}", "balance")]


def step(items: Mapping[Key, Item | None], payment: Payment) -> Effects:
    """Add a payment to its account."""
    return Effects({key: {"sum": (item["sum"] if item else 0) + payment.amount} for key, item in items.items()})


def handler(event: dict[str, Any], context: Context) -> dict[str, Any]:
    """Fold one batch of a shard; answers with the records to be delivered again."""
    return _fold().handle(event, context)


@cache
def _fold() -> Fold[Payment]:
    return Fold.from_environment(CONTRACT, accounts, step)
