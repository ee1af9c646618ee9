"""The control: what happens without any of it. Every delivery is an effect."""

from __future__ import annotations

from typing import Any

import consumer
import ledger
from contract import Payment


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Consume a batch of messages."""
    return consumer.consume(event, context, capture)


def capture(payment: Payment) -> bool:
    """Capture ``payment``, whatever came before."""
    ledger.commit(ledger.capture(payment))
    return True
