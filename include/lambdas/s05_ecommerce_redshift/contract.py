"""What a transaction of the shop looks like on the stream. Whatever does not fit is quarantined with the reason."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

from msgspec import Meta, Struct

from exactly_once.contracts import Contract, check_decimal

Identifier = Annotated[str, Meta(min_length=1, max_length=64)]
PLACES = 6
"""Decimal places that the warehouse keeps of prices and rates."""


class Line(Struct, frozen=True):
    """One product of a transaction; a negative quantity is a return. The price is in the transaction's currency."""

    line_no: Annotated[int, Meta(ge=1, lt=2**31)]
    product_id: Identifier
    quantity: Annotated[int, Meta(gt=-(2**31), lt=2**31)]
    unit_price: Decimal

    def __post_init__(self) -> None:
        check_decimal("lines[...].unit_price", self.unit_price, Decimal(0), Decimal(10**8), PLACES)


class Transaction(Struct, frozen=True):
    """A finished purchase or return. ``exchange_rate`` is what one unit of the currency was worth in GBP then."""

    transaction_id: Identifier
    occurred_at: Annotated[datetime, Meta(tz=True)]
    country: Identifier
    lines: Annotated[list[Line], Meta(min_length=1)]
    customer_id: Identifier | None = None
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "GBP"
    exchange_rate: Decimal = Decimal(1)

    def __post_init__(self) -> None:
        check_decimal("exchange_rate", self.exchange_rate, Decimal("0.000001"), Decimal(10**6), PLACES)


TRANSACTION = Contract(Transaction, event_id=lambda transaction: transaction.transaction_id)
