"""Strategy inbox: a marker named after the payment is written in the transaction of the effect.

The effect may be anything DynamoDB can write, also where nothing in it is unique by itself; the price is one item more
in each transaction. The marker expires; the receipt is read only when a duplicate comes, to tell it from a forgery.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import consumer
import ledger
from contract import Payment

from exactly_once.inbox import Inbox

_inbox = Inbox(ledger.TABLE, timedelta(seconds=int(os.environ["RETENTION_SECONDS"])), client=ledger.client)


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Consume a batch of messages."""
    return consumer.consume(event, context, capture)


def capture(payment: Payment) -> bool:
    """Capture ``payment`` unless its marker is there; return whether this was the first time.

    Raises:
        TamperedError: the receipt is for something else.
    """
    if _inbox.once(payment.payment_id, ledger.capture(payment)):
        return True
    key = ledger.receipt_key(payment.payment_id)
    found = ledger.client.get_item(TableName=ledger.TABLE, Key=key, ConsistentRead=True)
    ledger.compare(found["Item"], payment)
    return False
