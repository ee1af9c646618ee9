"""A payment capture as it stands in a message."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec

from exactly_once.contracts import Contract, check_decimal

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
UtcTime = Annotated[datetime, msgspec.Meta(tz=True)]

CENT, LARGEST = Decimal("0.01"), Decimal(1_000_000)


class Payment(msgspec.Struct, frozen=True):
    """Money to be put to an account: ``amount`` in ``currency``, with at most two digits after the point."""

    payment_id: Name
    account: Name
    amount: Decimal
    currency: Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
    captured_at: UtcTime
    expires_at: UtcTime

    def __post_init__(self) -> None:
        """Refuse what is not an amount of money.

        Raises:
            ValueError: says why; it becomes the reason in quarantine.
        """
        check_decimal("amount", self.amount, CENT, LARGEST)

    @property
    def digest(self) -> str:
        """The hash of what must not differ between two messages of one payment."""
        content = "\0".join((self.account, f"{self.amount:.2f}", self.currency))
        return hashlib.sha256(content.encode()).hexdigest()

    def is_expired(self) -> bool:
        """Whether the capture is no longer wanted."""
        return self.expires_at <= datetime.now(UTC)


PAYMENT = Contract(Payment, event_id=lambda payment: payment.payment_id)
