"""Time to live: expired items are deleted, with a stream record that says by whom.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/howitworks-ttl.html
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/time-to-live-ttl-streams.html
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from local.aws import emulator, metrics

_dynamodb = emulator.module("services.dynamodb")
_responses = emulator.module("core.responses")

SECONDS = 60.0
"""Between two looks for expired items, which AWS deletes within a few days."""
_OLDEST_SECONDS = 5 * 365.25 * 86_400
"""Items that expired longer ago are left alone, so that a wrong attribute does not empty a table."""
_EMULATORS_OWN = "dynamodb-ttl-reaper"

_deleting_in: contextvars.ContextVar[str] = contextvars.ContextVar("deleting_in", default="")
"""The region whose expired items are being deleted; their replicas' records do not name the service."""

Item = dict[str, Any]


def _sweep() -> None:
    while True:
        time.sleep(SECONDS)
        for (account, region, name), setting in list(_dynamodb._ttl_settings.all_items()):
            table = _dynamodb._tables.get_scoped(account, region, name)
            if table is None or setting["TimeToLiveStatus"] != "ENABLED":
                continue
            attribute = setting["AttributeName"]
            partitions = list(table["items"].items())
            expired = [(p, s) for p, sorts in partitions for s, item in list(sorts.items()) if _is_due(item, attribute)]
            with _responses.request_scope(account, region):
                for partition, sort in expired:
                    emulator.on_loop(partial(_delete, table, partition, sort, attribute))


def _is_due(item: Item, attribute: str) -> bool:
    """Return whether an item has expired; an attribute that is no number never does.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/time-to-live-ttl-before-you-start.html
    """
    value = item.get(attribute, {}).get("N")
    now = time.time()
    return value is not None and now - _OLDEST_SECONDS < float(value) <= now


def _delete(table: Item, partition: str, sort: str, attribute: str) -> None:
    """Delete an item, unless it has changed or gone meanwhile."""
    item = table["items"].get(partition, {}).get(sort)
    if item is None or not _is_due(item, attribute):
        return
    name, account, region = table["TableName"], _responses.get_account_id(), _responses.get_region()
    before = _deleting_in.set(region)
    try:
        _dynamodb._remove_item(table, partition, sort)
        _dynamodb._emit_stream_event(name, "REMOVE", item, None)
    finally:
        _deleting_in.reset(before)
    metrics.count("AWS/DynamoDB", "TimeToLiveDeletedItemCount", {"TableName": name}, 1, "Count", account, region)


def _name_the_service(original: Callable[..., Item]) -> Callable[..., Item]:
    def build(*arguments: Any) -> Item:
        record = original(*arguments)
        if _deleting_in.get() == _responses.get_region():
            record["userIdentity"] = {"PrincipalId": "dynamodb.amazonaws.com", "Type": "Service"}
        return record

    return build


def _not_by_the_emulator(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the emulator's own thread, which cannot be stopped, from deleting without a record."""

    def remove(table: Item, partition: str, sort: str) -> Any:
        if threading.current_thread().name != _EMULATORS_OWN:
            return original(table, partition, sort)
        return None

    return remove


emulator.patch(_dynamodb, "_build_change_record", _name_the_service)
emulator.patch(_dynamodb, "_remove_item", _not_by_the_emulator)
emulator.on_startup(lambda: threading.Thread(target=_sweep, name="dynamodb-time-to-live", daemon=True).start())
