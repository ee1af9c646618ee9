"""What a card transaction looks like on the stream."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from msgspec import Meta, Struct

from exactly_once.contracts import Contract

# The event id becomes the name of a workflow execution, which allows 80 characters and few signs:
# https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
EventId = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,80}$")]
Token = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
CountryCode = Annotated[str, Meta(pattern="^[A-Z]{2}$")]
CurrencyCode = Annotated[str, Meta(pattern="^[A-Z]{3}$")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Time = Annotated[datetime, Meta(tz=True)]

MAX_AMOUNT = 1_000_000
SMALLEST_UNIT = Decimal("0.0001")
"""No currency has more than four digits after the point (ISO 4217)."""


class Transaction(Struct, frozen=True):
    """One payment with a card.

    ``card`` is a token, never a card number; ``amount`` is in ``currency``, the one the card is billed in; ``country``
    (ISO 3166) is where the merchant is; ``category`` is the merchant's trade.
    """

    event_id: EventId
    card: Token
    amount: Decimal
    currency: CurrencyCode
    country: CountryCode
    category: Name
    occurred_at: Time

    def __post_init__(self) -> None:
        if not (self.amount.is_finite() and 0 < self.amount <= MAX_AMOUNT):
            raise ValueError(f"amount must be more than 0 and at most {MAX_AMOUNT}")
        if self.amount % SMALLEST_UNIT:
            raise ValueError("amount has more than four digits after the point")


CONTRACT = Contract(Transaction, event_id=lambda transaction: transaction.event_id)
