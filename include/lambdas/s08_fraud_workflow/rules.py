"""How suspicious a payment is: rules whose points add up, each with a reason a person understands.

A payment is judged by what its card did before: how often it was used in the last ten minutes, how its amount compares
with the card's usual ones, and how fast its owner would have had to travel. The card's profile is learned as payments
come in; suspicious ones count as use of the card but teach nothing about its owner.

Pure functions of their arguments, with decimal arithmetic: whoever replays a card's payments in the order in which they
were applied gets the same scores to the last point.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol

Band = Literal["low", "review", "block"]

REVIEW_FROM, BLOCK_FROM = 40, 70
"""Points from which a person decides, and from which the card is blocked without asking."""

VELOCITY_SECONDS = 600
VELOCITY = ((9, 75), (6, 45))
"""Payments within ten minutes, this one included, and the points for at least so many."""

HISTORY = 5
"""Payments a card needs before its usual amount is known."""
AMOUNT = ((12, 75), (5, 45))
"""Standard deviations above the usual amount, and their points."""
LEAST_DEVIATION = Decimal("0.25")
"""Share of the usual amount below which the standard deviation does not count: some cards always pay the same."""

TRAVEL_KMH = 900
"""A scheduled flight's speed."""
TRAVEL_KM = 300
"""Neighbours' capitals are nearer than people who cross a border are."""
TRAVEL_POINTS = 50

RISKY = frozenset({"crypto", "gambling", "gift_cards", "money_transfer"})
RISKY_POINTS = 15

PLACES = {
    "AR": (-34.6, -58.4), "AT": (48.2, 16.4), "AU": (-33.9, 151.2), "BE": (50.8, 4.4), "BR": (-23.5, -46.6),
    "CA": (43.7, -79.4), "CH": (47.4, 8.5), "CN": (31.2, 121.5), "CZ": (50.1, 14.4), "DE": (52.5, 13.4),
    "DK": (55.7, 12.6), "EG": (30.0, 31.2), "ES": (40.4, -3.7), "FI": (60.2, 24.9), "FR": (48.9, 2.4),
    "GB": (51.5, -0.1), "GR": (38.0, 23.7), "IE": (53.3, -6.3), "IN": (19.1, 72.9), "IT": (41.9, 12.5),
    "JP": (35.7, 139.7), "KE": (-1.3, 36.8), "KR": (37.6, 127.0), "MX": (19.4, -99.1), "NG": (6.5, 3.4),
    "NL": (52.4, 4.9), "NO": (59.9, 10.8), "NZ": (-36.8, 174.8), "PL": (52.2, 21.0), "PT": (38.7, -9.1),
    "SE": (59.3, 18.1), "SG": (1.4, 103.8), "TH": (13.8, 100.5), "TR": (41.0, 29.0), "US": (40.7, -74.0),
    "ZA": (-26.2, 28.0),
}  # fmt: skip
"""Latitude and longitude of each country's largest market, in degrees; elsewhere the travel rule is silent."""

EARTH_KM = 6371
STEP = Decimal("0.0001")


class Payment(Protocol):
    """What the rules look at."""

    @property
    def amount(self) -> Decimal: ...
    @property
    def country(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def occurred_at(self) -> datetime: ...


class Verdict(NamedTuple):
    """Points from 0 to 100 and the reasons for them, highest first."""

    score: int
    reasons: list[str]

    @property
    def band(self) -> Band:
        if self.score >= BLOCK_FROM:
            return "block"
        return "review" if self.score >= REVIEW_FROM else "low"


Profile = Mapping[str, Any]
"""A card as its item in the table holds it: ``seen`` payments; ``learned`` ones with ``mean`` and ``squares`` of their
amounts (sum of squared distances from the mean); ``country`` and ``last_at`` (epoch seconds) of the last one learned;
``recent`` times."""

UNKNOWN: Profile = {"seen": 0, "learned": 0, "mean": Decimal(0), "squares": Decimal(0), "recent": []}


def judge(profile: Profile, payment: Payment) -> Verdict:
    """Return how suspicious ``payment`` is for the card with this profile."""
    found = sorted([*_velocity(profile, payment), *_amount(profile, payment), *_travel(profile, payment)], reverse=True)
    if found and payment.category in RISKY:  # an ordinary payment to such a merchant is nothing to ask about
        found.append((RISKY_POINTS, f"risky trade: {payment.category}"))
    return Verdict(min(100, sum(points for points, _ in found)), [f"{reason} (+{points})" for points, reason in found])


def learn(profile: Profile, payment: Payment, verdict: Verdict) -> dict[str, Any]:
    """Return the card's profile after ``payment``; the ordinary amounts' mean and variance by Welford's method.

    https://doi.org/10.1080/00401706.1962.10490022
    """
    at = _epoch(payment)
    recent = [*(time for time in profile["recent"] if abs(at - time) < VELOCITY_SECONDS), at]
    used = {**profile, "seen": profile["seen"] + 1, "recent": recent[-max(count for count, _ in VELOCITY) :]}
    if verdict.band != "low":
        return used
    learned = profile["learned"] + 1
    distance = payment.amount - profile["mean"]
    mean = (profile["mean"] + distance / learned).quantize(STEP)
    squares = (profile["squares"] + distance * (payment.amount - mean)).quantize(STEP)
    moved = {"country": payment.country, "last_at": at}
    return {**used, "learned": learned, "mean": mean, "squares": squares, **moved}


def _velocity(profile: Profile, payment: Payment) -> Iterator[tuple[int, str]]:
    count = 1 + sum(abs(_epoch(payment) - time) < VELOCITY_SECONDS for time in profile["recent"])
    for least, points in VELOCITY:
        if count >= least:
            yield points, f"{count} payments within {VELOCITY_SECONDS // 60} minutes"
            return


def _amount(profile: Profile, payment: Payment) -> Iterator[tuple[int, str]]:
    if profile["learned"] < HISTORY:
        return
    mean = profile["mean"]
    deviation = max((profile["squares"] / (profile["learned"] - 1)).sqrt(), mean * LEAST_DEVIATION)
    distance = (payment.amount - mean) / deviation
    for least, points in AMOUNT:
        if distance >= least:
            yield points, f"{payment.amount} where {mean:.2f} is usual"
            return


def _travel(profile: Profile, payment: Payment) -> Iterator[tuple[int, str]]:
    there, here = PLACES.get(profile.get("country", "")), PLACES.get(payment.country)
    if not there or not here:
        return
    kilometres = _kilometres(there, here)
    hours = abs(_epoch(payment) - int(profile["last_at"])) / 3600
    if kilometres > TRAVEL_KM and kilometres > TRAVEL_KMH * hours:
        yield TRAVEL_POINTS, f"{kilometres:.0f} km from {profile['country']} to {payment.country} in {hours:.1f} hours"


def _kilometres(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the great-circle distance of two places in degrees (haversine formula)."""
    (lat1, lon1), (lat2, lon2) = ([math.radians(degree) for degree in place] for place in (one, other))
    half = math.sin((lat2 - lat1) / 2) ** 2 + math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * EARTH_KM * math.asin(math.sqrt(half))


def _epoch(payment: Payment) -> int:
    return int(payment.occurred_at.timestamp())
