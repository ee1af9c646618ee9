"""Namespaces and workgroups in templates.

https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_RedshiftServerless.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from local.aws import cloudformation, emulator
from local.aws.redshift import records, serverless

Members = dict[str, Any]

_provisioners = emulator.module("services.cloudformation.provisioners")
_tagging = emulator.module("services.tagging")

_WHOLE_NUMBERS = ("baseCapacity", "maxCapacity", "port", "finalSnapshotRetentionPeriod")
_SWITCHES = ("manageAdminPassword", "publiclyAccessible", "enhancedVpcRouting")


def _members(properties: Members) -> Members:
    """Return a template's properties as the API names and types them."""
    members: Members = {}
    for name, value in properties.items():
        key = name[:1].lower() + name[1:]
        if key in _WHOLE_NUMBERS:
            members[key] = int(value)
        elif key in _SWITCHES:
            members[key] = str(value).lower() == "true"
        elif key == "tags":
            members[key] = [{"key": tag["Key"], "value": tag["Value"]} for tag in value]
        elif key == "configParameters":
            members[key] = [{name[:1].lower() + name[1:]: text for name, text in each.items()} for each in value]
        else:
            members[key] = value
    return members


def _attributes(prefix: str, members: Members) -> dict[str, Any]:
    """Return what Fn::GetAtt gives: the members of ``prefix``, structures spread out."""
    attributes: dict[str, Any] = {}
    for key, value in members.items():
        name = f"{prefix}.{key[:1].upper()}{key[1:]}"
        if isinstance(value, dict):
            attributes |= _attributes(name, value)
        else:
            attributes[name] = value if isinstance(value, list) else str(value)
    return attributes


def _namespace_attributes(namespace: records.Namespace) -> dict[str, Any]:
    hidden = ("adminPasswordSecretArn", "adminPasswordSecretKmsKeyId")
    return _attributes("Namespace", {k: v for k, v in namespace.members.items() if k not in hidden})


def _create_namespace(logical: str, properties: Members, stack: str) -> tuple[str, dict[str, Any]]:
    namespace = serverless.create_namespace(_members(properties), cloudformation.operator_key())
    return namespace.members["namespaceName"], _namespace_attributes(namespace)


def _update_namespace(name: str, old: Members, new: Members, stack: str) -> tuple[str, dict[str, Any]]:
    changed = {key: value for key, value in _members(new).items() if value != _members(old).get(key)}
    namespace = serverless.update_namespace(changed | {"namespaceName": name}, cloudformation.operator_key())
    if "tags" in changed:
        records.tags[namespace.members["namespaceArn"]] = serverless.tags(changed)
    return name, _namespace_attributes(namespace)


def _delete_namespace(name: str, properties: Members) -> None:
    if (*records.scope(), name) in records.namespaces:
        serverless.delete_namespace(name)


def _create_workgroup(logical: str, properties: Members, stack: str) -> tuple[str, dict[str, Any]]:
    workgroup = serverless.create_workgroup(_members(properties))
    serverless.serve(workgroup)
    return workgroup.members["workgroupName"], _attributes("Workgroup", workgroup.members)


def _update_workgroup(name: str, old: Members, new: Members, stack: str) -> tuple[str, dict[str, Any]]:
    workgroup = serverless.update_workgroup(_members(new) | {"workgroupName": name})
    records.tags[workgroup.members["workgroupArn"]] = serverless.tags(_members(new))
    return name, _attributes("Workgroup", workgroup.members)


def _delete_workgroup(name: str, properties: Members) -> None:
    if (*records.scope(), name) in records.workgroups:
        serverless.delete_workgroup(name)


def _collect_tags() -> Iterator[tuple[str, list[dict[str, str]]]]:
    for arn, tags in records.tags.items():
        yield arn, _tagging._normalise_flat(tags)


for _kind in ("Namespace", "Workgroup"):
    _provisioners._STACK_TAG_PROPERTY[f"AWS::RedshiftServerless::{_kind}"] = ("Tags", "list")
_tagging._COLLECTORS["redshift-serverless"] = _collect_tags


emulator.resource_type("AWS::RedshiftServerless::Namespace", _create_namespace, _delete_namespace, _update_namespace)
emulator.resource_type("AWS::RedshiftServerless::Workgroup", _create_workgroup, _delete_workgroup, _update_workgroup)
