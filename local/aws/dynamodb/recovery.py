"""RestoreTableToPointInTime: a new table with the items there were, to the second.

https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_RestoreTableToPointInTime.html
"""

from __future__ import annotations

import copy
import json
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from local.aws import emulator, iam
from local.aws.dynamodb import history
from local.aws.emulator import AwsError, Call, Payload, json_action

_dynamodb = emulator.module("services.dynamodb")

_CREATING_SECONDS = 1.0
"""How long a restored table is CREATING; on AWS it takes minutes."""
_TARGET_ACTIONS = ("BatchWriteItem", "DeleteItem", "GetItem", "PutItem", "Query", "Scan", "UpdateItem")
"""What the caller must be allowed on the new table, beside the restore itself of the old one:
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/backuprestore_IAM.html"""


@json_action("dynamodb", "RestoreTableToPointInTime")
def restore_table_to_point_in_time(call: Call) -> Payload:
    """Make the new table, which is CREATING for a moment.

    Raises:
        AwsError: a table is not there, or there already; recovery is not enabled; the moment is out of reach; the
            caller may not write the new table.
    """
    members, now = call.payload, time.time()
    source = table_named(members.get("SourceTableArn") or members.get("SourceTableName") or "")
    target = members["TargetTableName"]
    if target in _dynamodb._tables:
        raise AwsError("TableAlreadyExistsException", f"Table already exists: {target}")
    latest = members.get("UseLatestRestorableTime", False)
    if latest == ("RestoreDateTime" in members):
        raise AwsError(
            "ValidationException", "Either RestoreDateTime or UseLatestRestorableTime must be given, and not both."
        )
    past = history.of(source)
    moment = now if latest else float(members["RestoreDateTime"])
    if not past.earliest <= moment <= now:
        raise AwsError(
            "InvalidRestoreTimeException",
            f"RestoreDateTime must be from {past.earliest:.0f} to {now:.0f}, the recovery period of the table.",
        )
    for action in _TARGET_ACTIONS:
        resource = f"arn:aws:dynamodb:{call.region}:{call.account}:table/{target}"
        check = iam.Check(f"dynamodb:{action}", resource, {})
        if message := iam.denial(call.caller.access_key, check, call.region):
            raise AwsError("AccessDeniedException", message)
    items = history.look_back(source).at(moment)
    answer = emulator.on_loop(lambda: _make(members, source, items, moment))
    emulator.in_background(lambda: _finish(target), f"dynamodb-restore-{target}")
    return answer


def table_named(name: str) -> dict[str, Any]:
    """Return the emulator's record of a table, by name or ARN.

    Raises:
        AwsError: TableNotFoundException.
    """
    table: dict[str, Any] | None = _dynamodb._tables.get(_dynamodb._normalize_table_name(name))
    if table is None:
        raise AwsError("TableNotFoundException", f"Table not found: {name}")
    return table


def _make(members: Payload, source: dict[str, Any], items: history.Items, moment: float) -> Payload:
    request = {**members, "SourceTableName": source["TableName"]}
    status, _, body = _dynamodb._restore_table_to_point_in_time(request)
    if status != 200:
        error = json.loads(body)
        raise AwsError(error["__type"].rpartition("#")[2], error["message"], status)
    table = _dynamodb._tables[members["TargetTableName"]]
    table["items"] = defaultdict(dict)
    for (partition, sort), item in items.items():
        table["items"][partition][sort] = copy.deepcopy(item)
    _dynamodb._items_replaced(table)
    if encryption := members.get("SSESpecificationOverride"):
        table["SSEDescription"] = _dynamodb._sse_description_from_spec(encryption)
    table["TableStatus"] = "CREATING"
    table["RestoreSummary"] = {
        "SourceTableArn": source["TableArn"],
        "RestoreDateTime": int(moment),
        "RestoreInProgress": True,
    }
    return {"TableDescription": _dynamodb._table_description(table["TableName"])}


def _finish(name: str) -> None:
    time.sleep(_CREATING_SECONDS)
    if table := _dynamodb._tables.get(name):
        table["TableStatus"] = "ACTIVE"
        table["RestoreSummary"]["RestoreInProgress"] = False


def _show_restore(original: Callable[[str], Payload]) -> Callable[[str], Payload]:
    def describe(name: str) -> Payload:
        summary = _dynamodb._tables[name].get("RestoreSummary")
        return original(name) | ({"RestoreSummary": summary} if summary else {})

    return describe


emulator.patch(_dynamodb, "_table_description", _show_restore)
