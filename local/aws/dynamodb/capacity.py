"""What requests cost, in the answers that ask for it and in CloudWatch.

Capacity is measured as billed (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html):
reads by started 4 KB, half of it if eventually consistent and twice in a transaction. The emulator does the same for
writes by started KB, but takes every read for a small one and no request into its metrics. A transaction that is
repeated under its token is answered by reads, so it has to be known.
"""

from __future__ import annotations

import contextvars
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from local.aws import emulator, metrics

_dynamodb = emulator.module("services.dynamodb")
_responses = emulator.module("core.responses")

Data = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]
Handler = Callable[[Data], Answer]

_LESS = {"NONE", "TOTAL"}
"""What a request may ask for that is less than all of its capacity."""

READ_UNIT = 4096
WRITE_UNIT = 1024

meters: list[Callable[[Mapping[str, str], str, float], None]] = []
"""Told of every request: CloudWatch dimensions of the table or index, Read or Write, and the units used."""

_evaluated: contextvars.ContextVar[int] = contextvars.ContextVar("evaluated", default=0)
"""The bytes that the query or scan in progress has read."""


def _units(size: int, unit: int) -> int:
    return max(1, -(-size // unit))


def _size(table: str, key: Data) -> int:
    """Return the bytes of the item with ``key``, 0 if there is none."""
    found = _dynamodb._tables.get(_dynamodb._normalize_table_name(table))
    item = _dynamodb._get_item_by_key(found, key) if found else None
    size: int = _dynamodb._item_size_bytes(item) if item else 0
    return size


def _measure_page(original: Callable[..., Any]) -> Callable[..., Any]:
    """Remember how much a query or scan read, whatever its filter and projection leave of it."""

    def paginate(items: Any, limit: Any, table: Data, index_name: str | None = None) -> Any:
        page, more = original(items, limit, table, index_name)
        entries = (_dynamodb._apply_index_projection(item, table, index_name) if index_name else item for item in page)
        _evaluated.set(sum(map(_dynamodb._item_size_bytes, entries)))
        return page, more

    return paginate


def _measure(original: Callable[..., None]) -> Callable[..., None]:
    """Measure a request about one table, tell CloudWatch, and answer as much of it as is asked for."""

    def add(
        result: Data,
        data: Data,
        name: str,
        write: bool = False,
        old_item: Data | None = None,
        new_item: Data | None = None,
        index_name: str | None = None,
    ) -> None:
        measured: Data = {}
        all_of_it = {**data, "ReturnConsumedCapacity": "INDEXES"}
        original(measured, all_of_it, name, write, old_item, new_item, index_name)
        capacity = measured["ConsumedCapacity"]
        if not write:
            size = _size(name, data["Key"]) if "Key" in data else _evaluated.get()
            capacity = _times(capacity, _units(size, READ_UNIT))
        _publish([capacity], "Write" if write else "Read")
        _keep([capacity], data, lambda kept: result.update(ConsumedCapacity=kept[0]))

    return add


def _times(capacity: Any, factor: int) -> Any:
    if isinstance(capacity, dict):
        return {name: _times(value, factor) for name, value in capacity.items()}
    return capacity * factor if isinstance(capacity, (int, float)) else capacity


def _keep(capacities: list[Data], data: Data, keep: Callable[[list[Data]], None]) -> None:
    """Hand ``keep`` what ReturnConsumedCapacity asks for."""
    asked = data.get("ReturnConsumedCapacity", "NONE")
    if asked == "TOTAL":
        parts = {"TableName", "CapacityUnits", "ReadCapacityUnits", "WriteCapacityUnits"}
        capacities = [{name: value for name, value in each.items() if name in parts} for each in capacities]
    if asked != "NONE":
        keep(capacities)


def _publish(capacities: Iterable[Data], kind: str) -> None:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/metrics-dimensions.html"""
    account, region = _responses.get_account_id(), _responses.get_region()
    metric = f"Consumed{kind}CapacityUnits"
    for capacity in capacities:
        table = {"TableName": str(capacity["TableName"]).rpartition("/")[2]}
        indexes = {name: part["CapacityUnits"] for name, part in capacity.get("GlobalSecondaryIndexes", {}).items()}
        own = capacity["CapacityUnits"] - sum(indexes.values())
        parts = [(table, own), *((table | {"GlobalSecondaryIndexName": name}, used) for name, used in indexes.items())]
        for dimensions, used in parts:
            if used:
                metrics.count("AWS/DynamoDB", metric, dimensions, used, "Count", account, region)
                for meter in meters:
                    meter(dimensions, kind, used)


def _measure_refused_write(original: Handler) -> Handler:
    """A condition that does not hold costs as much as the write of the item that is there.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/WorkingWithItems.html
    """

    def write(data: Data) -> Answer:
        answer = original(data)
        if answer[0] == 400 and b"ConditionalCheckFailedException" in answer[2]:
            name = data["TableName"]
            used = _units(_size(name, data.get("Key") or data.get("Item", {})), WRITE_UNIT)
            _publish([{"TableName": name, "CapacityUnits": used}], "Write")
        return answer

    return write


def _measure_reads(original: Handler, keys: Callable[[Data], Iterable[tuple[str, Data, float]]]) -> Handler:
    """Measure a request that reads items by their keys; ``keys`` yields table, key and factor of each."""

    def read(data: Data) -> Answer:
        status, headers, body = original(data)
        if status != 200:
            return status, headers, body
        used: dict[str, float] = {}
        for table, key, factor in keys(data):
            used[table] = used.get(table, 0.0) + factor * _units(_size(table, key), READ_UNIT)
        capacities = [
            {"TableName": table, "CapacityUnits": units, "Table": {"CapacityUnits": units}}
            for table, units in used.items()
        ]
        _publish(capacities, "Read")
        answer: Data = {}
        _keep(capacities, data, lambda kept: answer.update(ConsumedCapacity=kept))
        if answer:
            body = json.dumps(json.loads(body) | answer).encode()
        return status, headers, body

    return read


def _batch_keys(data: Data) -> Iterable[tuple[str, Data, float]]:
    for table, request in data["RequestItems"].items():
        for key in request["Keys"]:
            yield table, key, 1.0 if request.get("ConsistentRead") else 0.5


def _transaction_keys(data: Data) -> Iterable[tuple[str, Data, float]]:
    for item in data["TransactItems"]:
        yield item["Get"]["TableName"], item["Get"]["Key"], 2.0


def _measure_writes(original: Handler) -> Handler:
    """Measure a batch or a transaction of writes; a cancelled transaction has cost what it would have."""

    def write(data: Data) -> Answer:
        asked = data.get("ReturnConsumedCapacity", "NONE")
        status, headers, body = original(data | {"ReturnConsumedCapacity": "INDEXES"} if asked in _LESS else data)
        answer = json.loads(body)
        if status != 200:
            if answer.get("__type", "").endswith("TransactionCanceledException"):
                _publish(_cancelled(data), "Write")
            return status, headers, body
        capacities = answer.pop("ConsumedCapacity", [])
        # A repeated ClientRequestToken is answered by reads.
        _publish(capacities, "Read" if any("ReadCapacityUnits" in each for each in capacities) else "Write")
        _keep(capacities, data, lambda kept: answer.update(ConsumedCapacity=kept))
        return status, headers, json.dumps(answer).encode()

    return write


def _cancelled(data: Data) -> Iterable[Data]:
    for item in data["TransactItems"]:
        for action in item.values():
            written = _dynamodb._item_size_bytes(action.get("Item", {}))
            size = max(written, _size(action["TableName"], action.get("Key") or action.get("Item", {})))
            yield {"TableName": action["TableName"], "CapacityUnits": 2.0 * _units(size, WRITE_UNIT)}


def _known_as_sent(original: Handler) -> Handler:
    """Compare a repeated ClientRequestToken with what was sent, of which a digest is kept.

    The emulator keeps the request itself for the ten minutes a token is valid, and brings numbers in it into their
    shortest form meanwhile: 1.50 is 1.5.
    https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html
    """

    def write(data: Data) -> Answer:
        token = data.get("ClientRequestToken")
        if not token:
            return original(data)
        request = {name: value for name, value in data.items() if name != "ClientRequestToken"}
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).digest()
        if (known := _dynamodb._txn_token_lookup(token)) is not None and known["digest"] == digest:
            known["signature"] = request
        answer = original(data)
        if (known := _dynamodb._txn_token_lookup(token)) is not None:
            known["signature"] = None
            known.setdefault("digest", digest)
        return answer

    return write


emulator.patch(_dynamodb, "_paginate_evaluated_items", _measure_page)
emulator.patch(_dynamodb, "_add_consumed_capacity", _measure)
for _name in ("_put_item", "_update_item", "_delete_item"):
    emulator.patch(_dynamodb, _name, _measure_refused_write)
emulator.patch(_dynamodb, "_batch_get_item", lambda original: _measure_reads(original, _batch_keys))
emulator.patch(_dynamodb, "_transact_get_items", lambda original: _measure_reads(original, _transaction_keys))
emulator.patch(_dynamodb, "_batch_write_item", _measure_writes)
emulator.patch(_dynamodb, "_transact_write_items", _known_as_sent)
emulator.patch(_dynamodb, "_transact_write_items", _measure_writes)
