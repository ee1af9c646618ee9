"""Payment captures for queues: good ones, expired ones and forgeries, and the user's own in the same layout.

The same seed gives the same payments. A forgery is a later message of a payment with another amount; which of two is
true cannot be told by whoever reads them, so forgeries are to be sent once the payment they imitate has been taken.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from atlas.loadgen.disturb import Event

CURRENCIES = ("EUR", "GBP", "USD")
CAPTURES_PER_ACCOUNT = 15
VALIDITY = timedelta(days=7)
"""How long a card authorisation may be captured."""


@dataclass(frozen=True, slots=True)
class Capture:
    """A message that asks to put ``amount`` to ``account``, until ``expires_at``. Times are aware."""

    payment_id: str
    account: str
    amount: Decimal
    currency: str
    captured_at: datetime
    expires_at: datetime

    def event(self, duplicate: bool = False) -> Event:
        """Return it as an event of its account; money and times travel as text."""
        fields = {name: str(value) for name, value in asdict(self).items()}
        fields |= {name: getattr(self, name).isoformat() for name in ("captured_at", "expires_at")}
        return Event(self.account, json.dumps(fields).encode(), self.payment_id, duplicate=duplicate)

    @property
    def content(self) -> tuple[str, str, str]:
        """What must not differ between two messages of one payment."""
        return self.account, f"{self.amount:.2f}", self.currency


@dataclass
class Load:
    """Messages to send: ``first`` holds each payment once, in order; ``repeats`` and ``forged`` imitate some."""

    first: list[Capture] = field(default_factory=list)
    repeats: list[Capture] = field(default_factory=list)
    forged: list[Capture] = field(default_factory=list)


def generate(seed: int, captures: int, expired: float, forged: float, label: str, now: datetime) -> Load:
    """Return ``captures`` payments, of which the share ``expired`` comes too late, and forgeries of a share ``forged``.

    Args:
        seed: of the dice.
        captures: how many payments.
        expired: share (0 to 1) of the payments that have expired.
        forged: share (0 to 1) of the others of which there is a forgery.
        label: begins the names of payments and accounts, so that loads of other labels do not meet.
        now: when the payments are made.
    """
    dice = random.Random(f"captures/{seed}")  # noqa: S311 - reproducible, not secret
    load = Load()
    accounts = max(1, captures // CAPTURES_PER_ACCOUNT)
    for number in range(captures):
        account = dice.randrange(accounts)
        late = dice.random() < expired
        captured_at = now - (2 * VALIDITY if late else timedelta(seconds=captures - number))
        capture = Capture(
            payment_id=f"{label}-payment-{number:06d}",
            account=f"{label}-account-{account:05d}",
            amount=Decimal(dice.randint(100, 50_000)) / 100,
            currency=CURRENCIES[account % len(CURRENCIES)],
            captured_at=captured_at,
            expires_at=captured_at + VALIDITY,
        )
        load.first.append(capture)
        if not late and dice.random() < forged:
            load.forged.append(replace(capture, amount=10 * capture.amount))
    return load


def read_captures(lines: Iterable[bytes], label: str, now: datetime) -> Load:
    """Return the payments of JSON lines; ``label`` is put before their ids and accounts.

    Each line has ``payment_id``, ``account``, ``amount`` and ``currency``, and may have ``captured_at`` and
    ``expires_at`` (ISO 8601 with an offset; ``now`` and a week later where they are missing). A payment that comes
    again is a repeat if account, amount and currency are the same, else a forgery.

    Raises:
        ValueError: names the line that is no payment, and what is wrong with it.
    """
    load, known = Load(), dict[str, Capture]()
    for number, line in enumerate(lines, 1):
        try:
            capture = _capture(json.loads(line), label, now)
        except (ValueError, KeyError, TypeError, InvalidOperation) as error:
            raise ValueError(
                f"line {number} is no payment ({type(error).__name__}: {error}): give one JSON object a line with "
                "payment_id, account, amount and currency"
            ) from error
        before = known.setdefault(capture.payment_id, capture)
        if before is capture:
            load.first.append(capture)
        elif before.content == capture.content:
            load.repeats.append(before)
        else:
            load.forged.append(replace(capture, expires_at=before.expires_at))
    return load


def _capture(fields: Mapping[str, Any], label: str, now: datetime) -> Capture:
    amount = Decimal(str(fields["amount"]))
    captured_at = datetime.fromisoformat(fields.get("captured_at", now.isoformat()))
    expires_at = datetime.fromisoformat(fields.get("expires_at", (captured_at + VALIDITY).isoformat()))
    if captured_at.tzinfo is None or expires_at.tzinfo is None:
        raise ValueError("a time has no offset from UTC")
    if not amount.is_finite() or amount <= 0 or amount != amount.quantize(Decimal("0.01")):
        raise ValueError(f"amount {amount} is not positive, or finer than cents")
    return Capture(
        payment_id=f"{label}-{fields['payment_id']}",
        account=f"{label}-{fields['account']}",
        amount=amount,
        currency=str(fields["currency"]),
        captured_at=captured_at,
        expires_at=expires_at,
    )
