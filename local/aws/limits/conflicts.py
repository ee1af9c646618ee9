"""Transactions take time, and what touches their items meanwhile is refused.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html#transaction-conflict-handling.
The emulator carries out a request in one go, so that nothing ever overlaps. Here a write transaction holds its items
for ``HELD_SECONDS`` before it is carried out. Batches of single writes are not refused.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from local.aws import emulator, metrics
from local.aws.limits.capacity import cancelled

_dynamodb = emulator.module("services.dynamodb")
_responses = emulator.module("core.responses")

HELD_SECONDS = 0.02
"""About what a transaction takes on AWS."""
_CONFLICT = {"Code": "TransactionConflict", "Message": "Transaction is ongoing for the item"}

Data = dict[str, Any]
Item = tuple[str, str, str, str]
"""Account, region, table and key."""

_held: set[Item] = set()
_tokens: set[tuple[str, str, str]] = set()
"""Account, region and client request token of the transactions under way."""


def _item(action: Data) -> Item:
    """Return the item that an action, or a single write, is about."""
    name = _dynamodb._normalize_table_name(action.get("TableName", ""))
    table = _dynamodb._tables.get(name) or {}
    members = action.get("Key") or action.get("Item") or {}
    key = {part: members.get(part) for part in (table.get("pk_name"), table.get("sk_name")) if part}
    return _responses.get_account_id(), _responses.get_region(), name, json.dumps(key, sort_keys=True)


def _items(data: Data) -> list[Item]:
    """Return the items of a transaction, action by action."""
    return [_item(next(iter(action.values()))) for action in data["TransactItems"]]


def _token(data: Data) -> tuple[str, str, str]:
    return _responses.get_account_id(), _responses.get_region(), data.get("ClientRequestToken", "")


def _count(item: Item) -> None:
    account, region, table, _ = item
    metrics.count("AWS/DynamoDB", "TransactionConflict", {"TableName": table}, 1, "Count", account, region)


def _refuse_conflicts(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle(method: str, path: str, headers: dict[str, str], body: bytes, query: Any) -> Any:
        action = headers.get("x-amz-target", "").rpartition(".")[2]
        data = json.loads(body) if action in _REFUSED else {}
        refusal = _REFUSED[action](data) if action in _REFUSED else None
        if refusal:
            return refusal
        if action != "TransactWriteItems":
            return await original(method, path, headers, body, query)
        items = set(_items(data))
        token = _token(data)
        _held.update(items)
        _tokens.add(token)
        try:
            await asyncio.sleep(HELD_SECONDS)
            return await original(method, path, headers, body, query)
        finally:
            _held.difference_update(items)
            _tokens.discard(token)

    return handle


def _single_write(data: Data) -> Any:
    item = _item(data)
    if item not in _held:
        return None
    _count(item)
    return _responses.error_response_json("TransactionConflictException", _CONFLICT["Message"], 400)


def _transaction(data: Data) -> Any:
    if data.get("ClientRequestToken") and _token(data) in _tokens:
        message = "The transaction with the given request token is already in progress."
        return _responses.error_response_json("TransactionInProgressException", message, 400)
    items = _items(data)
    conflicts = {item for item in items if item in _held}
    for item in conflicts:
        _count(item)
    return cancelled(_CONFLICT if item in conflicts else {"Code": "None"} for item in items) if conflicts else None


_REFUSED = {
    "PutItem": _single_write,
    "UpdateItem": _single_write,
    "DeleteItem": _single_write,
    "TransactGetItems": _transaction,
    "TransactWriteItems": _transaction,
}
"""What says, by operation, that a request has to be refused: it returns the answer, None for none."""


emulator.patch(_dynamodb, "handle_request", _refuse_conflicts)
