"""A load as the world delivers it: with duplicates, damaged copies and out of order.

The events themselves always get through whole, so a scenario's ground truth holds whatever is added here.
"""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

DUPLICATE_DISTANCE = 1000
"""How many events later a duplicate comes at most; half of them come within its square root."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event on its way to a stream, a queue or a bucket.

    ``key`` is the partition key, ``id`` what the consumer tells duplicates by. A ``malformed`` event is a damaged copy
    of the event with its id, a ``duplicate`` an exact one. ``due`` is when to send it, in seconds after the feed's
    start.
    """

    key: str
    data: bytes
    id: str
    malformed: bool = False
    duplicate: bool = False
    due: float = 0.0


def disturb(
    events: Iterable[Event], seed: int, duplicates: float = 0.0, malformed: float = 0.0, reorder: int = 0
) -> Iterator[Event]:
    """Yield ``events`` with copies among them; the same seed gives the same sequence.

    Args:
        events: good events whose data is a JSON object; drawn lazily.
        seed: of the dice.
        duplicates: share of the events (0 to 1) of which an exact copy follows, up to ``DUPLICATE_DISTANCE`` events
            later.
        malformed: share of the events (0 to 1) beside which a damaged copy is sent: cut off, not UTF-8, without the
            event's id, with values of the wrong type, in turn.
        reorder: how many places an event may fall back; 0 keeps the order.

    Raises:
        ValueError: a share is not within 0 and 1, or ``reorder`` is negative.
    """
    if not (0 <= duplicates <= 1 and 0 <= malformed <= 1) or reorder < 0:
        raise ValueError(f"duplicates {duplicates} and malformed {malformed} are shares, reorder {reorder} a distance")
    dice = random.Random(f"disturb/{seed}")  # noqa: S311 - reproducible, not secret
    waiting: list[tuple[int, int, Event]] = []
    pushed = damaged = 0
    for place, event in enumerate(events):
        arrivals = [(place + dice.randint(0, reorder), event)]
        if dice.random() < malformed:
            damage = DAMAGES[damaged % len(DAMAGES)]
            arrivals.append((place, replace(event, data=damage(event), malformed=True)))
            damaged += 1
        if dice.random() < duplicates:
            later = place + round(DUPLICATE_DISTANCE ** dice.random())
            arrivals.append((later, replace(event, duplicate=True)))
        for due, arrival in arrivals:
            heapq.heappush(waiting, (due, pushed, arrival))
            pushed += 1
        while waiting and waiting[0][0] <= place:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _cut_off(event: Event) -> bytes:
    """A producer died while it wrote."""
    return event.data[: len(event.data) // 2]


def _not_utf8(event: Event) -> bytes:
    """A byte order mark of another encoding, which no UTF-8 text can hold."""
    return b"\xff\xfe" + event.data


def _without_id(event: Event) -> bytes:
    """The field that holds the id is missing; all of them, where the id is made of several."""
    fields: dict[str, Any] = json.loads(event.data)
    kept = {name: value for name, value in fields.items() if value != event.id}
    return json.dumps(kept if len(kept) < len(fields) else {}).encode()


def _wrong_types(event: Event) -> bytes:
    """Every value is a list of one."""
    return json.dumps({name: [value] for name, value in json.loads(event.data).items()}).encode()


DAMAGES: tuple[Callable[[Event], bytes], ...] = (_cut_off, _not_utf8, _without_id, _wrong_types)
