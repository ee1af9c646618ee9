"""Amazon Redshift Serverless: namespaces, workgroups and the credentials of their databases.

https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from local.aws import emulator, iam
from local.aws.emulator import AwsError, Call, json_action
from local.aws.redshift import records
from local.aws.redshift.records import Namespace, Workgroup

Members = dict[str, Any]

SERVICE = "redshift-serverless"
CREDENTIAL_SECONDS = 900
"""How long temporary credentials last if nothing else is asked for."""

_secrets_manager = emulator.module("services.secretsmanager")
_evaluator = emulator.module("core.iam_evaluator")

emulator.service(SERVICE, "RedshiftServerless")


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z0-9-]{3,64}", name):
        raise _invalid(f"{kind} must have 3 to 64 characters of a-z, 0-9 and -.")


def _check_password(password: str) -> None:
    """https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/API_CreateNamespace.html"""
    wanted = (string.ascii_uppercase, string.ascii_lowercase, string.digits)
    if not re.fullmatch(r"[!-~]{8,64}", password) or set(password) & set("/@\"'\\"):
        raise _invalid("The admin password must have 8 to 64 printable ASCII characters besides / @ \" ' \\ and space.")
    if not all(set(password) & set(kind) for kind in wanted):
        raise _invalid("The admin password needs an upper-case letter, a lower-case letter and a digit.")


# Namespaces -------------------------------------------------------------------------------------------------------


def create_namespace(members: Members, key: str) -> Namespace:
    """Make a namespace with the members of CreateNamespace; ``key`` is the access key that asks for it.

    Raises:
        AwsError: ValidationException, ConflictException or, for a managed password, AccessDeniedException.
    """
    name = members.get("namespaceName", "")
    _check_name("namespaceName", name)
    place = (*records.scope(), name)
    if place in records.namespaces:
        raise AwsError("ConflictException", f"Namespace {name} already exists.")
    roles = list(members.get("iamRoles", []))
    default = members.get("defaultIamRoleArn")
    if default and default not in roles:
        raise _invalid("The default IAM role must be one of the namespace's IAM roles.")
    managed, given = bool(members.get("manageAdminPassword")), members.get("adminUserPassword", "")
    if managed and given:
        raise _invalid("adminUserPassword cannot be given if manageAdminPassword is true.")
    if given:
        _check_password(given)
        if not members.get("adminUsername"):
            raise _invalid("adminUsername and adminUserPassword must be given together.")
    identifier, arn = records.new_arn("namespace")
    shown = {
        "namespaceName": name,
        "namespaceId": identifier,
        "namespaceArn": arn,
        "dbName": members.get("dbName") or "dev",
        "adminUsername": members.get("adminUsername") or "admin",
        "iamRoles": roles,
        "kmsKeyId": members.get("kmsKeyId") or "AWS_OWNED_KMS_KEY",
        "logExports": list(members.get("logExports", [])),
        "creationDate": datetime.now(UTC),
        "status": "AVAILABLE",
    } | ({"defaultIamRoleArn": default} if default else {})
    namespace = Namespace(shown, given or secrets.token_urlsafe(24))
    if managed:
        _manage_password(namespace, members.get("adminPasswordSecretKmsKeyId", ""), key)
    records.namespaces[place] = namespace
    records.tags[arn] = tags(members)
    return namespace


def _manage_password(namespace: Namespace, kms_key: str, key: str) -> None:
    """Keep the administrator in Secrets Manager, in a secret named and shaped as Redshift does it.

    https://docs.aws.amazon.com/redshift/latest/mgmt/redshift-secrets-manager-integration.html
    """
    shown = namespace.members
    account, region = records.scope()
    name = f"redshift!{shown['namespaceName']}-{shown['adminUsername']}"
    pattern = f"arn:aws:secretsmanager:{region}:{account}:secret:{name}-??????"
    if denied := iam.denial(key, iam.Check("secretsmanager:CreateSecret", pattern, {}), region):
        raise AwsError("AccessDeniedException", denied)
    login = {"username": shown["adminUsername"], "password": namespace.password}
    arn = _secrets_manager.create_secret_in_process(name, json.dumps(login), description=shown["namespaceArn"])
    if arn is None:
        raise AwsError("ConflictException", f"Secret {name} already exists.")
    shown["adminPasswordSecretArn"] = arn
    if kms_key:
        shown["adminPasswordSecretKmsKeyId"] = kms_key


def update_namespace(members: Members, key: str) -> Namespace:
    """Change a namespace as UpdateNamespace does.

    Raises:
        AwsError: ResourceNotFoundException or ValidationException.
    """
    namespace = records.namespace(members.get("namespaceName", ""))
    shown = namespace.members
    changes: Members = {name: members[name] for name in ("iamRoles", "logExports", "kmsKeyId") if name in members}
    default = members.get("defaultIamRoleArn", shown.get("defaultIamRoleArn"))
    roles = list(changes.get("iamRoles") or shown["iamRoles"])
    if default and default not in roles:
        raise _invalid("The default IAM role must be one of the namespace's IAM roles.")
    managed = members.get("manageAdminPassword", "adminPasswordSecretArn" in shown)
    password = members.get("adminUserPassword")
    if password:
        if managed:
            raise _invalid("adminUserPassword cannot be given if manageAdminPassword is true.")
        _check_password(password)
    if members.get("adminUsername", shown["adminUsername"]) != shown["adminUsername"]:
        raise _invalid("The embedded Redshift cannot rename an administrator.")
    if managed and "adminPasswordSecretArn" not in shown:
        _manage_password(namespace, members.get("adminPasswordSecretKmsKeyId", ""), key)
    if not managed and "adminPasswordSecretArn" in shown:
        _secrets_manager.delete_secret_in_process(shown.pop("adminPasswordSecretArn"))
        shown.pop("adminPasswordSecretKmsKeyId", None)
    if password:
        namespace.set_password(password)
    shown.update(changes)
    if default:
        shown["defaultIamRoleArn"] = default
    return namespace


def delete_namespace(name: str) -> Namespace:
    """Delete a namespace with its data.

    Raises:
        AwsError: ResourceNotFoundException, or ConflictException if a workgroup serves it.
    """
    namespace = records.namespace(name)
    if any(workgroup.namespace is namespace for workgroup in records.workgroups.values()):
        raise AwsError("ConflictException", f"There is a workgroup associated with namespace {name}.")
    del records.namespaces[(*records.scope(), name)]
    records.tags.pop(namespace.members["namespaceArn"], None)
    namespace.remove()
    if secret := namespace.members.get("adminPasswordSecretArn"):
        _secrets_manager.delete_secret_in_process(secret)
    namespace.members["status"] = "DELETING"
    return namespace


# Workgroups -------------------------------------------------------------------------------------------------------


def create_workgroup(members: Members) -> Workgroup:
    """Make a workgroup with the members of CreateWorkgroup; it is CREATING until ``serve`` has run.

    Raises:
        AwsError: ValidationException, ConflictException or, for the namespace, ResourceNotFoundException.
    """
    name = members.get("workgroupName", "")
    _check_name("workgroupName", name)
    place = (*records.scope(), name)
    if place in records.workgroups:
        raise AwsError("ConflictException", f"Workgroup {name} already exists.")
    settings = _settings(members)
    namespace = records.namespace(members.get("namespaceName", ""))
    if any(workgroup.namespace is namespace for workgroup in records.workgroups.values()):
        raise AwsError("ConflictException", f"Namespace {members['namespaceName']} already has a workgroup.")
    identifier, arn = records.new_arn("workgroup")
    default = {"baseCapacity": 128, "enhancedVpcRouting": False, "publiclyAccessible": False, "configParameters": []}
    shown = default | {"subnetIds": [], "securityGroupIds": [], "trackName": "current"} | settings
    workgroup = Workgroup(
        shown
        | {
            "workgroupName": name,
            "workgroupId": identifier,
            "workgroupArn": arn,
            "namespaceName": members["namespaceName"],
            "creationDate": datetime.now(UTC),
            "status": "CREATING",
        },
        namespace,
    )
    records.workgroups[place] = workgroup
    records.tags[arn] = tags(members)
    return workgroup


def _settings(members: Members) -> Members:
    """Return the settings of a workgroup that a request gives, checked.

    https://docs.aws.amazon.com/redshift/latest/mgmt/serverless-capacity.html
    """
    names = (
        *("baseCapacity", "maxCapacity", "enhancedVpcRouting", "publiclyAccessible", "configParameters"),
        *("subnetIds", "securityGroupIds", "trackName", "pricePerformanceTarget", "ipAddressType"),
    )
    settings = {name: members[name] for name in names if name in members}
    base = settings.get("baseCapacity", 8)
    if not 4 <= base <= 1024 or (base > 8 and base % 8 and base != 4):
        raise _invalid("Base capacity must be 4, or a multiple of 8 from 8 to 1024.")
    if "maxCapacity" in settings and settings["maxCapacity"] < base:
        raise _invalid("Max capacity must not be below the base capacity.")
    subnets = settings.get("subnetIds", [])
    if subnets and len(set(subnets)) < 3:
        # https://docs.aws.amazon.com/redshift/latest/mgmt/serverless-usage-considerations.html
        raise _invalid("A workgroup needs at least three subnets in three Availability Zones.")
    return settings


def serve(workgroup: Workgroup) -> None:
    """Start the workgroup's database server and report it available.

    Raises:
        ServerError: PostgreSQL is missing or did not start; the workgroup is gone.
        psycopg.Error: the administrator or the database has an impossible name; the workgroup is gone.
    """
    try:
        server = workgroup.namespace.start()
    except Exception:
        delete_workgroup(workgroup.members["workgroupName"])
        raise
    workgroup.members.update(
        endpoint={"address": "127.0.0.1", "port": server.port, "vpcEndpoints": []}, port=server.port, status="AVAILABLE"
    )


def update_workgroup(members: Members) -> Workgroup:
    """Change a workgroup as UpdateWorkgroup does.

    Raises:
        AwsError: ResourceNotFoundException or ValidationException.
    """
    workgroup = records.workgroup(members.get("workgroupName", ""))
    workgroup.members.update(_settings(members))
    return workgroup


def delete_workgroup(name: str) -> Workgroup:
    """Delete a workgroup; its namespace keeps the data.

    Raises:
        AwsError: ResourceNotFoundException.
    """
    workgroup = records.workgroup(name)
    del records.workgroups[(*records.scope(), name)]
    records.tags.pop(workgroup.members["workgroupArn"], None)
    workgroup.namespace.stop()
    workgroup.members["status"] = "DELETING"
    return workgroup


# Database users of IAM identities ---------------------------------------------------------------------------------


def database_user(access_key: str) -> str:
    """Return the database user of a caller: ``IAM:user``, or ``IAMR:role`` for a session of a role.

    https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/API_GetCredentials.html
    """
    arn: str = _evaluator.resolve_credential(access_key).principal_arn
    if ":assumed-role/" in arn:
        return f"IAMR:{arn.split('/')[1]}"
    return f"IAM:{re.split('[/:]', arn)[-1]}"


# API --------------------------------------------------------------------------------------------------------------


def tags(members: Members) -> dict[str, str]:
    return {tag["key"]: tag.get("value", "") for tag in members.get("tags", [])}


@json_action(SERVICE, "CreateNamespace")
def _create_namespace(call: Call) -> Members:
    return {"namespace": create_namespace(call.payload, call.caller.access_key).members}


@json_action(SERVICE, "GetNamespace")
def _get_namespace(call: Call) -> Members:
    return {"namespace": records.namespace(call.payload["namespaceName"]).members}


@json_action(SERVICE, "UpdateNamespace")
def _update_namespace(call: Call) -> Members:
    return {"namespace": update_namespace(call.payload, call.caller.access_key).members}


@json_action(SERVICE, "DeleteNamespace")
def _delete_namespace(call: Call) -> Members:
    return {"namespace": delete_namespace(call.payload["namespaceName"]).members}


@json_action(SERVICE, "ListNamespaces")
def _list_namespaces(call: Call) -> Members:
    return _page("namespaces", records.namespaces.items(), call)


@json_action(SERVICE, "CreateWorkgroup")
def _create_workgroup(call: Call) -> Members:
    workgroup = create_workgroup(call.payload)
    answer = {"workgroup": dict(workgroup.members)}
    emulator.in_background(partial(serve, workgroup), f"redshift-{workgroup.members['workgroupName']}")
    return answer


@json_action(SERVICE, "GetWorkgroup")
def _get_workgroup(call: Call) -> Members:
    return {"workgroup": records.workgroup(call.payload["workgroupName"]).members}


@json_action(SERVICE, "UpdateWorkgroup")
def _update_workgroup(call: Call) -> Members:
    return {"workgroup": update_workgroup(call.payload).members}


@json_action(SERVICE, "DeleteWorkgroup")
def _delete_workgroup(call: Call) -> Members:
    return {"workgroup": delete_workgroup(call.payload["workgroupName"]).members}


@json_action(SERVICE, "ListWorkgroups")
def _list_workgroups(call: Call) -> Members:
    return _page("workgroups", records.workgroups.items(), call)


def _page(name: str, items: Iterable[tuple[records.Key, Namespace | Workgroup]], call: Call) -> Members:
    own = [item.members for (account, region, _), item in items if (account, region) == (call.account, call.region)]
    start = int(call.payload.get("nextToken") or 0)
    end = start + int(call.payload.get("maxResults") or 100)
    return {name: own[start:end]} | ({"nextToken": str(end)} if end < len(own) else {})


@json_action(SERVICE, "GetCredentials")
def _get_credentials(call: Call) -> Members:
    """Return a temporary login of the wire protocol.

    https://docs.aws.amazon.com/redshift-serverless/latest/APIReference/API_GetCredentials.html
    """
    workgroup = records.workgroup(call.payload.get("workgroupName", ""))
    seconds = int(call.payload.get("durationSeconds") or CREDENTIAL_SECONDS)
    if not 900 <= seconds <= 3600:
        raise _invalid("durationSeconds must be from 900 to 3600.")
    user = database_user(call.caller.access_key)
    password, expires = workgroup.namespace.login(user, seconds)
    return {
        "dbUser": user,
        "dbPassword": password,
        "expiration": expires,
        "nextRefreshTime": expires - timedelta(seconds=seconds / 2),
    }


@json_action(SERVICE, "TagResource")
def _tag_resource(call: Call) -> Members:
    _tags_of(call).update(tags(call.payload))
    return {}


@json_action(SERVICE, "UntagResource")
def _untag_resource(call: Call) -> Members:
    known = _tags_of(call)
    for key in call.payload["tagKeys"]:
        known.pop(key, None)
    return {}


@json_action(SERVICE, "ListTagsForResource")
def _list_tags(call: Call) -> Members:
    return {"tags": [{"key": key, "value": value} for key, value in _tags_of(call).items()]}


def _tags_of(call: Call) -> dict[str, str]:
    arn = call.payload["resourceArn"]
    if arn not in records.tags:
        raise AwsError("ResourceNotFoundException", f"{arn} was not found.", 404)
    return records.tags[arn]


# Permissions ------------------------------------------------------------------------------------------------------


def _named(request: iam.Request, kind: str, kept: dict[records.Key, Any], *names: str) -> list[str]:
    """Return the ARN of the record a request names; an unknown one may be any."""
    record = kept.get((request.account, request.region, request.get(*names)))
    arn = record.members[f"{kind}Arn"] if record else f"arn:aws:{SERVICE}:{request.region}:{request.account}:{kind}/*"
    return [arn]


def _resources(request: iam.Request) -> list[str]:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonredshiftserverless.html"""
    if request.get("resourceArn"):
        return [request.get("resourceArn")]
    if "Namespace" in request.operation:
        return _named(request, "namespace", records.namespaces, "namespaceName", "NamespaceName")
    return _named(request, "workgroup", records.workgroups, "workgroupName", "WorkgroupName")


def workgroup_of(request: iam.Request) -> list[str]:
    """Name the workgroup that a Data API request runs on; the other ones have no resource.

    https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonredshiftdataapi.html
    """
    return _named(request, "workgroup", records.workgroups, "WorkgroupName") if request.get("WorkgroupName") else ["*"]


iam.name_resources(SERVICE, _resources)
