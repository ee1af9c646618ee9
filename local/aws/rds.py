"""Amazon RDS for PostgreSQL: every DB instance is a PostgreSQL server of its own.

The emulator keeps the records and answers the API. This module gives each record of engine ``postgres`` that is not
part of a cluster its server, whichever way it was made, and reports ``available`` once that server accepts
connections. ``EngineVersion`` stays what was asked for; the server is the one that is installed.

Clients must use TLS, as ``rds.force_ssl`` is 1 by default since PostgreSQL 15:
https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/PostgreSQL.Concepts.General.SSL.html
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from local.aws import cloudformation, emulator, iam, postgres
from local.aws.emulator import AwsError

Record = dict[str, Any]
Parameters = dict[str, Any]
Handler = Callable[[Parameters], emulator.Response]
Wrapper = Callable[[Handler, Parameters], emulator.Response]

CLOUDFORMATION_TYPE = "AWS::RDS::DBInstance"
RESERVED_USERS = ("admin", "rdsadmin")

responses = emulator.module("core.responses")
rds = emulator.module("services.rds")
secrets_manager = emulator.module("services.secretsmanager")

_servers: dict[str, postgres.Server] = {}
"""Servers by ``DbiResourceId``, which never changes and is never used twice."""
_backups: dict[str, Path] = {}
"""Data of snapshots by ``DBSnapshotArn``."""
_registering = threading.Lock()


def _has_server(record: Record | None) -> bool:
    return bool(record and record["Engine"] == "postgres" and not record.get("DBClusterIdentifier"))


# Servers of records -----------------------------------------------------------------------------------------------


@contextmanager
def _failed_on_error(instance: Record) -> Iterator[None]:
    try:
        yield
    except Exception:
        instance["DBInstanceStatus"] = "failed"
        raise


def _provision(instance: Record, backup: Path | None) -> None:
    """Start the server of ``instance``, empty or with the data of ``backup``, and report it available.

    Raises:
        ServerError: it did not start; the instance is ``failed``.
        psycopg.Error: the master user or the initial database has an impossible name; the instance is ``failed``.
    """
    with _failed_on_error(instance):
        server = postgres.create(instance["DbiResourceId"], backup)
        with _registering:
            if rds._instances.get(instance["DBInstanceIdentifier"]) is not instance:
                server.remove()  # the instance was deleted while it was created
                return
            _servers[instance["DbiResourceId"]] = server
        if backup is None:
            server.create_master(instance["MasterUsername"], instance["_MasterUserPassword"], instance["DBName"])
    instance["Endpoint"]["Port"] = server.port
    instance["DBInstanceStatus"] = "available"


def _release(instance: Record) -> None:
    """Remove what belongs to an instance that is no more: its server and its managed secret."""
    with _registering:
        server = _servers.pop(instance["DbiResourceId"], None)
    if server:
        server.remove()
    if secret := instance.get("MasterUserSecret"):
        secrets_manager.delete_secret_in_process(secret["SecretArn"])


def _then(instance: Record, status: str, step: Callable[[], None], final: str) -> None:
    """Report ``status`` while ``step`` runs in the background, then ``final``."""

    def run() -> None:
        with _failed_on_error(instance):
            step()
        instance["DBInstanceStatus"] = final

    instance["DBInstanceStatus"] = status
    emulator.in_background(run, f"rds-{status}-{instance['DBInstanceIdentifier']}")


# Master user ------------------------------------------------------------------------------------------------------


def _check_password(password: str) -> None:
    """Refuse a master password as CreateDBInstance does.

    https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/API_CreateDBInstance.html
    """
    problem = ""
    if not 8 <= len(password) <= 128:
        problem = "it must have from 8 to 128 characters"
    elif not re.fullmatch(r"[!-~]+", password) or set(password) & set('/@"'):
        problem = "only printable ASCII characters besides '/', '@', '\"', ' ' may be used"
    if problem:
        raise AwsError("InvalidParameterValue", f"The parameter MasterUserPassword is not a valid password: {problem}.")


def _master(user: str, password: str, managed: bool) -> str:
    """Return the master password to use: the given one, checked, or a generated one for a managed secret."""
    if user.lower() in RESERVED_USERS or not re.fullmatch(r"(?!pg_)[A-Za-z]\w{0,62}", user):
        raise AwsError(
            "InvalidParameterValue",
            f"MasterUsername {user} cannot be used as it is a reserved word used by the engine or malformed.",
        )
    if managed and password:
        raise AwsError(
            "InvalidParameterCombination",
            "You can't specify MasterUserPassword for an instance with ManageMasterUserPassword enabled.",
        )
    if managed:
        return str(rds._generate_master_user_password())
    _check_password(password)
    return password


def _check_secret(access_key: str) -> None:
    """Refuse a managed master password to whoever may not make its secret.

    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-secrets-manager.html#rds-secrets-manager-permissions

    Raises:
        AwsError: AccessDenied.
    """
    region = responses.get_region()
    secret = f"arn:aws:secretsmanager:{region}:{responses.get_account_id()}:secret:rds!db-*"
    if denied := iam.denial(access_key, iam.Check("secretsmanager:CreateSecret", secret, {}), region):
        raise AwsError("AccessDenied", denied, 403)


def _manage_secret(instance: Record, key: str) -> None:
    """Keep the master user in Secrets Manager, in a secret named and shaped as RDS does it.

    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-secrets-manager.html
    """
    login = {"username": instance["MasterUsername"], "password": instance["_MasterUserPassword"]}
    arn = secrets_manager.create_secret_in_process(
        f"rds!db-{uuid.uuid4()}",
        json.dumps(login),
        description=f"Secret associated with primary RDS DB instance: {instance['DBInstanceArn']}",
    )
    instance["MasterUserSecret"] = {"SecretArn": arn, "SecretStatus": "active", "KmsKeyId": key}


# API --------------------------------------------------------------------------------------------------------------


def _action(name: str) -> Callable[[Wrapper], Wrapper]:
    """Put a function in front of the emulator's own handler of action ``name``, which it gets as first argument."""

    def register(function: Wrapper) -> Wrapper:
        handler = partial(function, rds._ACTION_MAP[name])

        def handle(parameters: Parameters) -> emulator.Response:
            try:
                return handler(parameters)
            except AwsError as error:
                answer: emulator.Response = rds._error(error.code, error.message, error.status)
                return answer

        rds._ACTION_MAP[name] = handle
        return function

    return register


def _text(parameters: Parameters, name: str) -> str:
    return str(rds._p(parameters, name))


def _answer(action: str, instance: Record) -> emulator.Response:
    answer: emulator.Response = rds._single_instance_response(f"{action}Response", f"{action}Result", instance)
    return answer


def _named(parameters: Parameters, status: str | None = None) -> Record | None:
    """Return the instance that a request names if it has a server.

    Raises:
        AwsError: InvalidDBInstanceState, it is in another status than ``status``.
    """
    instance: Record | None = rds._resolve_instance(_text(parameters, "DBInstanceIdentifier"))
    if instance is None or not _has_server(instance):
        return None
    if status and instance["DBInstanceStatus"] != status:
        raise AwsError(
            "InvalidDBInstanceState",
            f"Instance {instance['DBInstanceIdentifier']} is not in {status} state.",
        )
    return instance


@_action("CreateDBInstance")
def _create(original: Handler, parameters: Parameters) -> emulator.Response:
    if _text(parameters, "Engine") != "postgres" or _text(parameters, "DBClusterIdentifier"):
        return original(parameters)
    managed = _text(parameters, "ManageMasterUserPassword") == "true"
    if managed:
        _check_secret(iam.caller())
    password = _master(_text(parameters, "MasterUsername"), _text(parameters, "MasterUserPassword"), managed)
    response = original({**parameters, "MasterUserPassword": password})
    if response[0] >= 400:
        return response
    instance = rds._instances[_text(parameters, "DBInstanceIdentifier")]
    instance["DBInstanceStatus"] = "creating"
    instance["DBName"] = _text(parameters, "DBName")
    if managed:
        _manage_secret(instance, _text(parameters, "MasterUserSecretKmsKeyId"))
    emulator.in_background(partial(_provision, instance, None), f"rds-{instance['DBInstanceIdentifier']}")
    return _answer("CreateDBInstance", instance)


@_action("DeleteDBInstance")
def _delete(original: Handler, parameters: Parameters) -> emulator.Response:
    instance = _named(parameters)
    if instance is None:
        return original(parameters)
    final = _text(parameters, "FinalDBSnapshotIdentifier")
    if not final and _text(parameters, "SkipFinalSnapshot") != "true":
        raise AwsError(
            "InvalidParameterCombination",
            "FinalDBSnapshotIdentifier is required unless SkipFinalSnapshot is specified.",
        )
    if final in rds._snapshots:
        raise AwsError("DBSnapshotAlreadyExists", f"Snapshot {final} already exists.")
    response = original(parameters)
    if response[0] < 400:
        _release(instance)
    return response


@_action("ModifyDBInstance")
def _modify(original: Handler, parameters: Parameters) -> emulator.Response:
    instance = _named(parameters, "available")
    if instance and (password := _text(parameters, "MasterUserPassword")):
        _check_password(password)
        if instance.get("MasterUserSecret"):
            raise AwsError(
                "InvalidParameterCombination",
                "You can't specify MasterUserPassword for an instance with ManageMasterUserPassword enabled.",
            )
    return original(parameters)


@_action("StopDBInstance")
def _stop(original: Handler, parameters: Parameters) -> emulator.Response:
    instance = _named(parameters, "available")
    if instance is None:
        return original(parameters)
    if snapshot := _text(parameters, "DBSnapshotIdentifier"):
        rds._create_snapshot_internal(snapshot, instance)
    _then(instance, "stopping", _servers[instance["DbiResourceId"]].stop, "stopped")
    return _answer("StopDBInstance", instance)


@_action("StartDBInstance")
def _start(original: Handler, parameters: Parameters) -> emulator.Response:
    instance = _named(parameters, "stopped")
    if instance is None:
        return original(parameters)
    _then(instance, "starting", _servers[instance["DbiResourceId"]].start, "available")
    return _answer("StartDBInstance", instance)


@_action("CreateDBSnapshot")
def _create_snapshot(original: Handler, parameters: Parameters) -> emulator.Response:
    _named(parameters, "available")
    return original(parameters)


@_action("DeleteDBSnapshot")
def _delete_snapshot(original: Handler, parameters: Parameters) -> emulator.Response:
    snapshot = rds._snapshots.get(_text(parameters, "DBSnapshotIdentifier"))
    response = original(parameters)
    if snapshot and (backup := _backups.pop(snapshot["DBSnapshotArn"], None)):
        shutil.rmtree(backup)
    return response


@_action("RestoreDBInstanceFromDBSnapshot")
def _restore(original: Handler, parameters: Parameters) -> emulator.Response:
    response = original(parameters)
    snapshot = rds._snapshots.get(_text(parameters, "DBSnapshotIdentifier"))
    if response[0] >= 400 or snapshot["DBSnapshotArn"] not in _backups:
        return response
    instance = rds._instances[_text(parameters, "DBInstanceIdentifier")]
    instance["DBInstanceStatus"] = "creating"
    instance["_MasterUserPassword"] = snapshot["_MasterUserPassword"]
    backup = _backups[snapshot["DBSnapshotArn"]]
    emulator.in_background(partial(_provision, instance, backup), f"rds-{instance['DBInstanceIdentifier']}")
    return _answer("RestoreDBInstanceFromDBSnapshot", instance)


# The emulator's own functions, called by its API and by its CloudFormation alike --------------------------------------


def _with_backup(original: Callable[[str, Record], Record]) -> Callable[[str, Record], Record]:
    def create_snapshot(name: str, instance: Record) -> Record:
        server = _servers.get(instance["DbiResourceId"])
        backup = server.backup(f"snapshot-{uuid.uuid4()}") if server else None
        snapshot = original(name, instance)
        if backup:
            _backups[snapshot["DBSnapshotArn"]] = backup
            snapshot["_MasterUserPassword"] = instance["_MasterUserPassword"]
        return snapshot

    return create_snapshot


def _with_new_password(original: Callable[..., None]) -> Callable[..., None]:
    def rotate(instance: Record, old: str, new: str) -> None:
        if server := _servers.get(instance["DbiResourceId"]):
            server.set_password(instance["MasterUsername"], new)
        else:
            original(instance, old, new)

    return rotate


def _with_restart(original: Callable[..., None]) -> Callable[..., None]:
    def finish_reboot(instance: Record, cluster: Record | None) -> None:
        if server := _servers.get(instance["DbiResourceId"]):
            with _failed_on_error(instance):
                server.stop()
                server.start()
        original(instance, cluster)

    return finish_reboot


def _with_secret(original: Callable[[Record], str]) -> Callable[[Record], str]:
    def render(instance: Record) -> str:
        members = original(instance)
        if instance["DBInstanceStatus"] == "creating":  # the address is known once the instance is
            members = re.sub(r"<Endpoint>.*?</Endpoint>", "", members, flags=re.DOTALL)
        if secret := instance.get("MasterUserSecret"):
            fields = "".join(f"<{name}>{value}</{name}>" for name, value in secret.items() if value)
            members += f"<MasterUserSecret>{fields}</MasterUserSecret>"
        return members

    return render


def _with_release(original: Callable[[], None]) -> Callable[[], None]:
    def reset() -> None:
        for instance in list(rds._instances.all_values()):
            _release(instance)
        for backup in _backups.values():
            shutil.rmtree(backup)
        _backups.clear()
        original()

    return reset


emulator.patch(rds, "_create_snapshot_internal", _with_backup)
emulator.patch(rds, "_rotate_instance_password", _with_new_password)
emulator.patch(rds, "_finish_instance_reboot", _with_restart)
emulator.patch(rds, "_instance_xml", _with_secret)
emulator.patch(rds, "reset", _with_release)
emulator.patch(rds, "_get_docker", lambda _: lambda: None)


# CloudFormation ---------------------------------------------------------------------------------------------------

provisioners = emulator.module("services.cloudformation.provisioners")


def _stack_create(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(logical_id: str, properties: Record, stack: str) -> tuple[str, Record]:
        if properties.get("Engine") != "postgres" or properties.get("DBClusterIdentifier"):
            created: tuple[str, Record] = original(logical_id, properties, stack)
            return created
        identifier = properties.get("DBInstanceIdentifier")
        if identifier in rds._instances:
            raise AwsError("DBInstanceAlreadyExists", f"DB instance {identifier} already exists")
        snapshot = _stack_snapshot(properties)
        managed = str(properties.get("ManageMasterUserPassword", "")).lower() == "true"
        if managed:
            _check_secret(cloudformation.operator_key())
        if snapshot:
            login = {key: snapshot[key] for key in ("MasterUsername", "DBName")}
            password = snapshot["_MasterUserPassword"]
        else:
            login = {"MasterUsername": properties.get("MasterUsername", "")}
            password = _master(login["MasterUsername"], str(properties.get("MasterUserPassword", "")), managed)
        identifier, _ = original(logical_id, properties | login | {"MasterUserPassword": password}, stack)
        instance = rds._instances[identifier]
        instance["DBInstanceStatus"] = "creating"
        instance["DBName"] = login.get("DBName", properties.get("DBName", ""))
        instance["Endpoint"]["Address"] = "127.0.0.1"
        if managed and not snapshot:
            _manage_secret(instance, properties.get("MasterUserSecret", {}).get("KmsKeyId", ""))
        try:
            _provision(instance, _backups[snapshot["DBSnapshotArn"]] if snapshot else None)
        except Exception:
            del rds._instances[identifier]
            _release(instance)
            raise
        return identifier, provisioners._rds_db_instance_attrs(instance)

    return create


def _stack_snapshot(properties: Record) -> Record | None:
    name = properties.get("DBSnapshotIdentifier")
    if not name:
        return None
    snapshot: Record | None = rds._snapshots.get(name)
    if snapshot is None or snapshot["DBSnapshotArn"] not in _backups:
        raise AwsError("DBSnapshotNotFound", f"DBSnapshot {name} not found.", 404)
    return snapshot


def _stack_update(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(identifier: str, old: Record, new: Record, *names: str | None) -> tuple[str, Record]:
        password: str = new.get("MasterUserPassword", "")
        changed = password not in ("", old.get("MasterUserPassword"))
        if changed and identifier in rds._instances and _has_server(rds._instances[identifier]):
            _check_password(password)
        updated, attributes = original(identifier, old, new, *names)
        instance = rds._instances[updated]
        server = _servers.get(instance["DbiResourceId"])
        if server is None:
            return updated, attributes
        instance["Endpoint"]["Port"] = server.port
        if changed:
            server.set_password(instance["MasterUsername"], password)
        return updated, provisioners._rds_db_instance_attrs(instance)

    return update


def _stack_delete(original: Callable[..., Any]) -> Callable[..., Any]:
    def delete(identifier: str, properties: Record) -> None:
        instance = rds._instances.get(identifier)
        if instance and _has_server(instance) and instance.get("DeletionProtection"):
            raise AwsError(
                "InvalidParameterCombination",
                "Cannot delete protected DB Instance, please disable deletion protection and try again.",
            )
        original(identifier, properties)
        if instance:
            _release(instance)

    return delete


def _stack_attributes(original: Callable[[Record], Record]) -> Callable[[Record], Record]:
    def attributes(instance: Record) -> Record:
        secret = instance.get("MasterUserSecret")
        return original(instance) | ({"MasterUserSecret.SecretArn": secret["SecretArn"]} if secret else {})

    return attributes


def _with_generated_password(original: Callable[[Record], str]) -> Callable[[Record], str]:
    """Generate a template's password by all of its rules: the emulator's stacks know two, its API knows all.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-secretsmanager-secret-generatesecretstring.html
    """

    def secret_string(properties: Record) -> str:
        rules = properties.get("GenerateSecretString")
        if not rules or properties.get("SecretString"):
            return original(properties)
        typed = {name: {"true": True, "false": False}.get(str(value).lower(), value) for name, value in rules.items()}
        typed["PasswordLength"] = int(rules.get("PasswordLength", 32))
        status, _, body = secrets_manager._get_random_password(typed)
        answer = json.loads(body)
        if status >= 400:
            raise AwsError("InvalidParameterException", answer["message"], status)
        password: str = answer["RandomPassword"]
        template = rules.get("SecretStringTemplate")
        return json.dumps(json.loads(template) | {rules["GenerateStringKey"]: password}) if template else password

    return secret_string


def _on_thread(original: Callable[[str], bool]) -> Callable[[str], bool]:
    """Creating a server takes a second, which the emulator's event loop must not wait for."""
    return lambda resource_type: resource_type == CLOUDFORMATION_TYPE or original(resource_type)


for _name, _wrapper in (("create", _stack_create), ("update", _stack_update), ("delete", _stack_delete)):
    # By name for the emulator's own replacements, in the table for its engine.
    emulator.patch(provisioners, f"_rds_db_instance_{_name}", _wrapper)
    provisioners._RESOURCE_HANDLERS[CLOUDFORMATION_TYPE][_name] = getattr(provisioners, f"_rds_db_instance_{_name}")
emulator.patch(provisioners, "_rds_db_instance_attrs", _stack_attributes)
emulator.patch(provisioners, "_sm_secret_string", _with_generated_password)
emulator.patch(emulator.module("services.cloudformation.stacks"), "_runs_on_worker_thread", _on_thread)


# Data API ---------------------------------------------------------------------------------------------------------

rds_data = emulator.module("services.rds_data")


def _clusters_only(original: Callable[..., Any]) -> Callable[..., Any]:
    """The Data API serves Aurora clusters; a DB instance's ARN names no cluster.

    https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/data-api.html
    """

    def validate(cluster: Record | None, resource: str) -> Any:
        if ":db:" in resource:
            return rds_data._error("BadRequestException", f"{resource} is not the ARN of an Aurora DB cluster.")
        return original(cluster, resource)

    return validate


emulator.patch(rds_data, "_validate_http_endpoint_enabled", _clusters_only)
