"""Strategy natural key: the business fact is its own proof.

A payment has one receipt. It is written on the condition that there is none, in the transaction that changes the
balance: whoever comes second changes nothing. No marker, nothing that expires, no further request; it needs a fact with
a name of its own, kept for as long as duplicates may come.
"""

from __future__ import annotations

from typing import Any

import consumer
import ledger
from contract import Payment


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Consume a batch of messages."""
    return consumer.consume(event, context, capture)


def capture(payment: Payment) -> bool:
    """Capture ``payment`` unless it has a receipt; return whether this was the first time.

    Raises:
        TamperedError: the receipt is for something else.
    """
    receipt, balance = ledger.capture(payment)
    receipt["Put"] |= {
        "ConditionExpression": "attribute_not_exists(pk)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    try:
        ledger.commit([receipt, balance])
    except ledger.client.exceptions.TransactionCanceledException as error:
        found = ledger.found_instead(error)
        if found is None:
            raise
        ledger.compare(found, payment)
        return False
    return True
