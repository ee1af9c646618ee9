"""Contracts: what a record must be. A record either becomes a typed event or is malformed, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Malformed(Exception):  # noqa: N818  # a fact about the record, not a mistake
    """A record that its contract refuses; ``reason`` names the field."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Contract(Generic[T]):
    """JSON records of ``type``, a frozen msgspec.Struct; ``event_id`` returns what identifies the event.

    Bounds are stated by msgspec.Meta; what it cannot state, those of decimals, is checked in the type's
    ``__post_init__`` (`check_decimal`), whose ValueError makes the record malformed.
    """

    def __init__(self, type: type[T], event_id: Callable[[T], str]) -> None:
        self.event_id = event_id
        self._decoder = msgspec.json.Decoder(type)

    def decode(self, data: bytes) -> T:
        """Return the event of a record.

        Raises:
            Malformed: it is not JSON, not of the type, or has no event id.
        """
        try:
            event = self._decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(str(error)) from error
        if not self.event_id(event):
            raise Malformed("The event id is empty")
        return event


def check_decimal(name: str, value: Decimal, low: Decimal, high: Decimal, places: int = 2) -> None:
    """Check a decimal's bounds (both allowed) and that it has no more than ``places`` decimal places.

    Raises:
        ValueError: it is not a number, out of bounds or too precise; the message names the field ``name``.
    """
    if not (value.is_finite() and low <= value <= high):
        raise ValueError(f"Expected a number from {low} to {high} - at `$.{name}`")
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > places:
        raise ValueError(f"Expected at most {places} decimal places - at `$.{name}`")
