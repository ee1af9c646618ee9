"""What a record must be."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import msgspec
import pytest

from exactly_once.contracts import Contract, Malformed, check_decimal


class Sale(msgspec.Struct, frozen=True):
    """A sale."""

    id: str
    amount: Decimal
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    count: Annotated[int, msgspec.Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        check_decimal("amount", self.amount, Decimal(0), Decimal(100))


CONTRACT = Contract(Sale, event_id=lambda sale: sale.id)


def test_a_record_becomes_a_typed_event_and_unknown_fields_are_allowed() -> None:
    sale = CONTRACT.decode(b'{"id": "a", "amount": 12.30, "at": "2026-01-05T10:00:00+01:00", "new": [1]}')

    assert sale == Sale("a", Decimal("12.30"), datetime(2026, 1, 5, 9, tzinfo=UTC))
    assert str(sale.amount) == "12.30"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "truncated", id="empty"),
        pytest.param(b'{"id": "a", "amount"', "truncated", id="cut off"),
        pytest.param(b"\x80abc", "malformed", id="not JSON"),
        pytest.param(b'{"id": "\xff"}', "utf-8", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "object", id="brackets"),
        pytest.param(b'{"new": ' + b"[" * 100_000, "recursion|truncated", id="many brackets"),
        pytest.param(b'{"id": "a", "at": "2026-01-05T10:00:00Z"}', "`amount`", id="missing field"),
        pytest.param(b'{"id": 7, "amount": 1, "at": "2026-01-05T10:00:00Z"}', r"\$\.id", id="wrong type"),
        pytest.param(b'{"id": "a", "amount": 1, "at": "2026-01-05T10:00:00"}', r"\$\.at", id="no time zone"),
        pytest.param(b'{"id": "a", "amount": 1, "at": "2026-01-05T10:00:00Z", "count": 0}', r"\$\.count", id="bound"),
        pytest.param(b'{"id": "a", "amount": "NaN", "at": "2026-01-05T10:00:00Z"}', r"\$\.amount", id="not a number"),
        pytest.param(b'{"id": "a", "amount": 1e99999, "at": "2026-01-05T10:00:00Z"}', r"\$\.amount", id="too much"),
        pytest.param(b'{"id": "a", "amount": -0.01, "at": "2026-01-05T10:00:00Z"}', r"\$\.amount", id="too little"),
        pytest.param(b'{"id": "a", "amount": 0.001, "at": "2026-01-05T10:00:00Z"}', "2 decimal places", id="too fine"),
        pytest.param(b'{"id": "", "amount": 1, "at": "2026-01-05T10:00:00Z"}', "id is empty", id="no id"),
    ],
)
def test_a_malformed_record_says_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as malformed:
        CONTRACT.decode(data)
    assert malformed.value.reason == str(malformed.value)
