"""Tables with provisioned capacity refuse what exceeds it.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/provisioned-capacity-mode.html

A table keeps five minutes of unused capacity
(https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/burst-adaptive-capacity.html); a new one has one
second's worth. A request is let through while anything is left, and what it used is taken off afterwards. Statements in
PartiQL are not limited.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from local.aws import emulator, metrics
from local.aws.dynamodb import capacity
from local.aws.limits.allowance import Allowance

_dynamodb = emulator.module("services.dynamodb")
_responses = emulator.module("core.responses")

BURST_SECONDS = 300
_EXCEEDED = "ProvisionedThroughputExceededException"
_REASON = (
    "The level of configured provisioned throughput for the table was exceeded. Consider increasing your provisioning "
    "level with the UpdateTable API."
)

Data = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
Handler = Callable[[Data], Answer]

_allowances: dict[tuple[str, str | None, str], Allowance] = {}
"""By the table's id, the name of the index or None, and Read or Write."""


def _allowance(table: Data, index: str | None, kind: str) -> Allowance | None:
    """Return what is left of a table's or an index's capacity; None where it has no bound."""
    if table["BillingModeSummary"]["BillingMode"] != "PROVISIONED":
        return None
    indexes = {each["IndexName"]: each for each in table.get("GlobalSecondaryIndexes") or ()}
    place = indexes.get(index, table) if index else table
    rate = float(place["ProvisionedThroughput"][f"{kind}CapacityUnits"])
    key = table["TableId"], index if index in indexes else None, kind
    if key not in _allowances or _allowances[key].rate != rate:
        _allowances[key] = Allowance(rate, BURST_SECONDS * rate)
    return _allowances[key]


def _table(name: str) -> Data | None:
    found: Data | None = _dynamodb._tables.get(_dynamodb._normalize_table_name(name))
    return found


def _left(name: str, kind: str, index: str | None = None) -> float:
    """Return what may be used of a table; a write also needs capacity of every index."""
    table = _table(name)
    if table is None:
        return float("inf")
    indexes = [each["IndexName"] for each in table.get("GlobalSecondaryIndexes") or ()] if kind == "Write" else []
    allowances = [_allowance(table, each, kind) for each in (index, *indexes)]
    return min((each.left() for each in allowances if each), default=float("inf"))


def _use(dimensions: Mapping[str, str], kind: str, units: float) -> None:
    """Take off what a request has used."""
    table = _table(dimensions["TableName"])
    allowance = _allowance(table, dimensions.get("GlobalSecondaryIndexName"), kind) if table else None
    if allowance:
        allowance.use(units)


def _throttled(name: str, kind: str, operation: str, index: str | None = None) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/metrics-dimensions.html"""
    account, region = _responses.get_account_id(), _responses.get_region()
    dimensions = {"TableName": _dynamodb._normalize_table_name(name)}
    place = dimensions | ({"GlobalSecondaryIndexName": index} if index else {})
    metrics.count("AWS/DynamoDB", f"{kind}ThrottleEvents", place, 1, "Count", account, region)
    operations = dimensions | {"Operation": operation}
    metrics.count("AWS/DynamoDB", "ThrottledRequests", operations, 1, "Count", account, region)


def _single(kind: str, operation: str) -> Callable[[Handler], Handler]:
    def wrap(original: Handler) -> Handler:
        def handle(data: Data) -> Answer:
            name, index = data.get("TableName", ""), data.get("IndexName")
            if _left(name, kind, index) > 0:
                return original(data)
            _throttled(name, kind, operation, index)
            refusal: Answer = _responses.error_response_json(_EXCEEDED, _REASON, 400)
            return refusal

        return handle

    return wrap


def _batch_get(original: Handler) -> Handler:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""

    def handle(data: Data) -> Answer:
        taken: Data = {}
        refused: Data = {}
        for name, request in data["RequestItems"].items():
            most = _most(name, "Read", (1.0 if request.get("ConsistentRead") else 0.5 for _ in request["Keys"]))
            for part, keys in ((taken, request["Keys"][:most]), (refused, request["Keys"][most:])):
                if keys:
                    part[name] = request | {"Keys": keys}
        return _answer_part(original, data, taken, refused, "Read", "BatchGetItem", "UnprocessedKeys")

    return handle


def _batch_write(original: Handler) -> Handler:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchWriteItem.html"""

    def handle(data: Data) -> Answer:
        taken: Data = {}
        refused: Data = {}
        for name, requests in data["RequestItems"].items():
            most = _most(name, "Write", map(_write_units, requests))
            for part, some in ((taken, requests[:most]), (refused, requests[most:])):
                if some:
                    part[name] = some
        return _answer_part(original, data, taken, refused, "Write", "BatchWriteItem", "UnprocessedItems")

    return handle


def _write_units(request: Data) -> float:
    item = request.get("PutRequest", {}).get("Item", {})
    return float(max(1, -(-int(_dynamodb._item_size_bytes(item)) // capacity.WRITE_UNIT)))


def _most(name: str, kind: str, units: Iterable[float]) -> int:
    """Return how many requests, of so many units each, are let through."""
    left, most = _left(name, kind), 0
    for each in units:
        if left <= 0:
            break
        left -= each
        most += 1
    return most


def _answer_part(
    original: Handler, data: Data, taken: Data, refused: Data, kind: str, operation: str, unprocessed: str
) -> Answer:
    """Do what is let through and hand back the rest; a call of which nothing is let through fails."""
    for name in refused:
        _throttled(name, kind, operation)
    if not taken:
        refusal: Answer = _responses.error_response_json(_EXCEEDED, _REASON, 400)
        return refusal
    status, headers, body = original(data | {"RequestItems": taken})
    if status != 200 or not refused:
        return status, headers, body
    return status, headers, json.dumps(json.loads(body) | {unprocessed: refused}).encode()


def _transaction(kind: str, operation: str) -> Callable[[Handler], Handler]:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""

    def wrap(original: Handler) -> Handler:
        def handle(data: Data) -> Answer:
            names = [next(iter(action.values()))["TableName"] for action in data["TransactItems"]]
            exhausted = {name for name in names if _left(name, kind) <= 0}
            if not exhausted:
                return original(data)
            for name in exhausted:
                _throttled(name, kind, operation)
            return cancelled(
                {"Code": "ProvisionedThroughputExceeded", "Message": _REASON} if name in exhausted else {"Code": "None"}
                for name in names
            )

        return handle

    return wrap


def cancelled(reasons: Iterable[Data]) -> Answer:
    """Return the answer to a transaction that is cancelled for ``reasons``, one for each of its actions."""
    reasons = list(reasons)
    codes = ", ".join(reason["Code"] for reason in reasons)
    members = {
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": f"Transaction cancelled, please refer cancellation reasons for specific reasons [{codes}]",
        "CancellationReasons": reasons,
    }
    return 400, {"Content-Type": "application/x-amz-json-1.0"}, json.dumps(members).encode()


for _function, _kind, _operation in (
    ("_put_item", "Write", "PutItem"),
    ("_update_item", "Write", "UpdateItem"),
    ("_delete_item", "Write", "DeleteItem"),
    ("_get_item", "Read", "GetItem"),
    ("_query", "Read", "Query"),
    ("_scan", "Read", "Scan"),
):
    emulator.patch(_dynamodb, _function, _single(_kind, _operation))
emulator.patch(_dynamodb, "_batch_get_item", _batch_get)
emulator.patch(_dynamodb, "_batch_write_item", _batch_write)
emulator.patch(_dynamodb, "_transact_get_items", _transaction("Read", "TransactGetItems"))
emulator.patch(_dynamodb, "_transact_write_items", _transaction("Write", "TransactWriteItems"))
capacity.meters.append(_use)
