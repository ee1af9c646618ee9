"""The settings of a template's tables, and the replicas of its global tables, that the emulator's provisioner drops."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from local.aws import emulator
from local.aws.dynamodb import history

_dynamodb = emulator.module("services.dynamodb")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")

Data = dict[str, Any]
Answer = tuple[int, dict[str, str], bytes]


def _create(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(logical: str, properties: Data, stack: str) -> Any:
        name, attributes = original(logical, properties, stack)
        _configure(name, {}, properties)
        return name, attributes

    return create


def _update(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(physical: str, old: Data, new: Data, stack: str, logical: str | None = None) -> Any:
        name, attributes = original(physical, old, new, stack, logical)
        _configure(name, old if name == physical else {}, new)
        return name, attributes

    return update


def _configure(name: str, old: Data, new: Data) -> None:
    """Apply the settings of a table that the emulator's provisioner drops.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-dynamodb-table.html

    Raises:
        ValueError: DynamoDB refuses one of them.
    """
    table = _dynamodb._tables[name]
    if new.get("BillingMode") == "PAY_PER_REQUEST":
        table["ProvisionedThroughput"] = {"ReadCapacityUnits": 0, "WriteCapacityUnits": 0}
    encryption = dict(new.get("SSESpecification") or {})
    enabled = encryption.pop("SSEEnabled", False)
    described = _dynamodb._sse_description_from_spec({**encryption, "Enabled": True}) if enabled else None
    table["SSEDescription"] = described
    before, after = old.get("TimeToLiveSpecification"), new.get("TimeToLiveSpecification")
    if before != after:
        wanted = after or {**(before or {}), "Enabled": False}
        _require(_dynamodb._update_ttl({"TableName": name, "TimeToLiveSpecification": wanted}))
    _recover(name, new)


def _recover(name: str, properties: Data) -> None:
    """Switch point-in-time recovery as ``properties`` say."""
    wanted = properties.get("PointInTimeRecoverySpecification") or {"PointInTimeRecoveryEnabled": False}
    _require(_dynamodb._update_continuous_backups({"TableName": name, "PointInTimeRecoverySpecification": wanted}))


def _require(answer: Answer) -> None:
    if answer[0] != 200:
        raise ValueError(json.loads(answer[2])["message"])


def _delete(original: Callable[..., Any]) -> Callable[..., Any]:
    """https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/WorkingWithTables.Basics.html"""

    def delete(physical: str, properties: Data) -> Any:
        table = _dynamodb._tables.get(physical)
        if table and table.get("DeletionProtectionEnabled"):
            raise ValueError(
                "Resource cannot be deleted as it is currently protected against deletion. "
                "Disable deletion protection first."
            )
        if table:
            history.forget(table)
            _dynamodb._tags.pop(table["TableArn"], None)
        _dynamodb._ttl_settings.pop(physical, None)
        _dynamodb._pitr_settings.pop(physical, None)
        return original(physical, properties)

    return delete


# --- Global tables -----------------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-dynamodb-globaltable.html


def _create_global(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(logical: str, properties: Data, stack: str) -> Any:
        _check_home(properties)
        name, attributes = original(logical, properties, stack)
        _configure_global(name, {}, properties)
        return name, {**attributes, **_identity(name)}

    return create


def _update_global(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(physical: str, old: Data, new: Data, stack: str) -> Any:
        _check_home(new)
        name, attributes = original(physical, old, new, stack)
        _configure_global(name, old if name == physical else {}, new)
        return name, {**attributes, **_identity(name)}

    return update


def _delete_global(original: Callable[..., Any]) -> Callable[..., Any]:
    def delete(physical: str, properties: Data) -> Any:
        if table := _dynamodb._tables.get(physical):
            _replicate(table, set())
        return original(physical, properties)

    return delete


def _check_home(properties: Data) -> None:
    if _responses.get_region() not in _replicas(properties):
        raise ValueError(f"Replicas must include the region of the stack, {_responses.get_region()}.")


def _identity(name: str) -> dict[str, str]:
    table = _dynamodb._tables[name]
    identity = {"Arn": table["TableArn"], "TableId": table["TableId"]}
    if (table["StreamSpecification"] or {}).get("StreamEnabled"):
        identity["StreamArn"] = table["LatestStreamArn"]
    return identity


def _replicas(properties: Data) -> dict[str, Data]:
    return {replica["Region"]: replica for replica in properties.get("Replicas") or []}


def _configure_global(name: str, old: Data, new: Data) -> None:
    """Make the replicas that are missing, remove those that are too many, and apply the settings of each.

    Raises:
        ValueError: DynamoDB refuses one of them.
    """
    replicas, before = _replicas(new), _replicas(old)
    home, account = _responses.get_region(), _responses.get_account_id()
    _configure(name, {**old, **before.get(home, {})}, {**new, **replicas[home]})
    _replicate(_dynamodb._tables[name], replicas.keys() - {home})
    for region, replica in replicas.items():
        with _responses.request_scope(account, region):
            table = _dynamodb._tables[name]
            table["DeletionProtectionEnabled"] = bool(replica.get("DeletionProtectionEnabled"))
            _dynamodb._tags[table["TableArn"]] = list(replica.get("Tags") or [])
            if region != home:
                _recover(name, replica)


def _replicate(table: Data, regions: set[str]) -> None:
    """Let ``regions``, beside the table's own, be those of its replicas."""
    name, home = table["TableName"], _responses.get_region()
    present = set(_dynamodb._replica_group(table)) - {home}
    for action, changed in (("Create", regions - present), ("Delete", present - regions)):
        for region in sorted(changed):
            _require(_dynamodb._update_table({"TableName": name, "ReplicaUpdates": [{action: {"RegionName": region}}]}))


_handlers = _provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]
_handlers["create"] = _create(_handlers["create"])
_handlers["update"] = _update(_handlers["update"])
_handlers["delete"] = _delete(_handlers["delete"])
_global = _provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::GlobalTable"]
_global["create"] = _create_global(_global["create"])
_global["update"] = _update_global(_global["update"])
_global["delete"] = _delete_global(_handlers["delete"])
