"""Card payments with frauds planted among them, and the user's own payments in the same layout.

The same seed gives the same payments. Cards belong to people with habits: a home, a usual amount, some payments a day,
now and then a journey of days. Some cards are stolen: used many times within minutes, in a country that their owner
cannot have reached, or for amounts far above the usual. What is planted is known by construction, not by the rules that
have to find it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import count, islice
from typing import Literal

from atlas.loadgen.disturb import Event

Planted = Literal["nothing", "burst", "travel", "jump"]

FIRST_TIME = datetime(2026, 1, 5, tzinfo=UTC)
"""A fixed time, because the same seed must give the same bytes whenever it is used."""

FRAUDS: tuple[Planted, ...] = ("burst", "travel", "jump")
STOLEN_EVERY = 8
"""One card in eight is stolen, the kinds of fraud in turn, the first card first."""
HISTORY = 6
"""Ordinary payments of a card before anything happens to it."""
MORE_HISTORY = 4
BURST = 10
AFTERWARDS = 2
LONGEST = HISTORY + MORE_HISTORY + BURST + AFTERWARDS
"""Payments of a card at most; where a load has no room for so many, no card is stolen whose fraud would be cut off."""
JOURNEYS = 0.2
"""Share of the owners who travel."""
HOMES = (("DE", "EUR"), ("FR", "EUR"), ("GB", "GBP"), ("SE", "SEK"), ("PL", "PLN"), ("US", "USD"))
FAR_AWAY = ("BR", "JP", "AU", "ZA", "TH")
CATEGORIES = ("groceries", "restaurants", "travel", "electronics", "fashion", "fuel")
STOLEN_GOODS = ("gift_cards", "electronics", "crypto")
FIELDS = ("event_id", "card", "amount", "currency", "country", "category", "occurred_at")


@dataclass(frozen=True, slots=True)
class Payment:
    """A card transaction as the stream carries it, and what was planted: anything but "nothing" is fraud."""

    event_id: str
    card: str
    amount: Decimal
    currency: str
    country: str
    category: str
    occurred_at: datetime
    planted: Planted = "nothing"

    def event(self) -> Event:
        """Return the payment as an event of its card, which keeps its order; money travels as text."""
        fields = {name: getattr(self, name) for name in FIELDS}
        return Event(self.card, json.dumps(fields, default=_text).encode(), self.event_id)


def generate(seed: int, payments: int, label: str) -> list[Payment]:
    """Return ``payments`` payments in the order of their times.

    ``label`` begins the names of cards and payments, so that loads of other labels meet cards without a past.
    """
    dice = random.Random(f"cards/{seed}")  # noqa: S311 - reproducible, not secret
    made: list[Payment] = []
    for number in count():
        room = payments - len(made)
        if room <= 0:
            break
        stolen = number % STOLEN_EVERY == 0 and room >= LONGEST
        planted = FRAUDS[number // STOLEN_EVERY % len(FRAUDS)] if stolen else "nothing"
        made += islice(_card(dice, f"{label}-card-{number:05d}", planted), room)
    made.sort(key=lambda one: (one.occurred_at, one.card))
    return [replace(one, event_id=f"{label}-{number:07d}") for number, one in enumerate(made)]


def read_payments(name: str, content: bytes, label: str) -> list[Payment]:
    """Return the payments of a CSV file, plain or gzip, with the columns ``FIELDS``.

    ``label`` is put before their ids and cards.

    Raises:
        ValueError: names the file, the line and what is wrong with it.
    """
    text = (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8-sig")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    if missing := set(FIELDS) - set(rows.fieldnames or ()):
        raise ValueError(f"{name}: the header lacks {', '.join(sorted(missing))}")
    found = []
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"{name}, line {rows.line_num}: not as many fields as the header names")
        try:
            amount, occurred_at = Decimal(row["amount"]), datetime.fromisoformat(row["occurred_at"])
        except (ValueError, InvalidOperation) as error:
            raise ValueError(f"{name}, line {rows.line_num}: {error or 'not a number'}; mend or remove it") from error
        ids = f"{label}-{row['event_id']}", f"{label}-{row['card']}"
        found.append(Payment(*ids, amount, row["currency"], row["country"], row["category"], occurred_at))
    return found


def _card(dice: random.Random, card: str, fraud: Planted) -> Iterator[Payment]:
    """Yield the payments of one card in the order of their times; ids are given later."""
    home, currency = dice.choice(HOMES)
    usual = Decimal(dice.randint(800, 12_000)) / 100
    at = FIRST_TIME + timedelta(seconds=dice.randrange(86_400))

    def pay(country: str = home, times: int = 1, planted: Planted = "nothing") -> Payment:
        amount = (usual * dice.randint(70, 130) * times / 100).quantize(Decimal("0.01"))
        category = dice.choice(CATEGORIES if planted == "nothing" else STOLEN_GOODS)
        return Payment("", card, amount, currency, country, category, at, planted)

    for _ in range(HISTORY + dice.randrange(MORE_HISTORY)):
        yield pay()
        at += timedelta(minutes=dice.randint(30, 240))
    if fraud == "burst":
        for _ in range(BURST):
            yield pay(planted=fraud)
            at += timedelta(seconds=dice.randint(5, 40))
    elif fraud == "travel":
        yield pay(country=dice.choice(FAR_AWAY), planted=fraud)
    elif fraud == "jump":
        yield pay(times=30, planted=fraud)
    elif dice.random() < JOURNEYS:
        at += timedelta(days=2)
        yield pay(country=dice.choice(FAR_AWAY))
        at += timedelta(days=2)
    at += timedelta(hours=dice.randint(24, 48))
    for _ in range(AFTERWARDS):
        yield pay()
        at += timedelta(minutes=dice.randint(30, 240))


def _text(value: Decimal | datetime) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
