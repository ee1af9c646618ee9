"""The effect: an account's balance changes and a receipt exists, both in one transaction.

Items: ``receipt#<payment id>`` / ``receipt`` and ``account#<account>`` / ``balance#<currency>``, whose ``captures``
counts how often the balance was changed.
"""

from __future__ import annotations

import os
import time
from typing import Any

import boto3
from botocore.exceptions import ClientError
from contract import CENT, Payment
from meter import Meter

from exactly_once.table import Action, pause, serialize

TABLE = os.environ["LEDGER_TABLE"]
PATIENCE_SECONDS = 3.0

client = boto3.client("dynamodb")
meter = Meter(client)


class TamperedError(ValueError):
    """The payment is known with another account, amount or currency."""


def receipt_key(payment_id: str) -> dict[str, Any]:
    """Return the key of a payment's receipt, as the low-level API takes it."""
    return serialize({"pk": f"receipt#{payment_id}", "sk": "receipt"})


def capture(payment: Payment) -> list[Action]:
    """Return the effect of ``payment``: put the receipt, change the balance. It happens as often as it is written.

    Messages with the same digest have literally the same effect, as a receiver that knows it by a token demands.
    """
    amount = payment.amount.quantize(CENT)
    receipt = {
        "account": payment.account,
        "amount": amount,
        "currency": payment.currency,
        "digest": payment.digest,
    }
    balance = {
        "TableName": TABLE,
        "Key": serialize({"pk": f"account#{payment.account}", "sk": f"balance#{payment.currency}"}),
        "UpdateExpression": "ADD balance :amount, captures :one",
        "ExpressionAttributeValues": serialize({":amount": amount, ":one": 1}),
    }
    return [
        {"Put": {"TableName": TABLE, "Item": receipt_key(payment.payment_id) | serialize(receipt)}},
        {"Update": balance},
    ]


def commit(actions: list[Action], **options: Any) -> None:
    """Write all or nothing, again while another transaction holds one of the items (two payments to one account).

    Raises:
        ClientError: a condition failed, or DynamoDB refused for another reason.
        OutOfTime: the conflict lasts.
    """
    attempt, deadline = 0, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            client.transact_write_items(TransactItems=actions, **options)
        except client.exceptions.TransactionCanceledException as error:
            if "TransactionConflict" not in [reason["Code"] for reason in _reasons(error)]:
                raise
            attempt = pause(attempt, deadline)
        else:
            return


def found_instead(error: ClientError) -> dict[str, Any] | None:
    """Return the item that a transaction's first action found where there was to be none, if it failed by that."""
    first = _reasons(error)[0]
    return first["Item"] if first["Code"] == "ConditionalCheckFailed" else None


def compare(receipt: dict[str, Any], payment: Payment) -> None:
    """Make sure that ``payment`` is what ``receipt`` (as the low-level API returns it) is for.

    Raises:
        TamperedError: it is not.
    """
    if receipt["digest"]["S"] != payment.digest:
        raise TamperedError


def _reasons(error: ClientError) -> list[dict[str, Any]]:
    return error.response["CancellationReasons"]  # type: ignore[return-value]
