"""Secrets in templates: ``Ref`` gives the secret's ARN, where the emulator gives its name.

https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-secretsmanager-secret.html
"""

from __future__ import annotations

from typing import Any

from local.aws import emulator

SUFFIX = len("-abcdef")
"""Secrets Manager adds a hyphen and six characters to the name:
https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html"""

_provisioners = emulator.module("services.cloudformation.provisioners")
_handlers = _provisioners._RESOURCE_HANDLERS["AWS::SecretsManager::Secret"]
_create, _update, _delete = (_handlers[operation] for operation in ("create", "update", "delete"))


def _name(arn: str) -> str:
    return arn.partition(":secret:")[2][:-SUFFIX]


def _created(logical_id: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, str]]:
    _, attributes = _create(logical_id, properties, stack)
    return attributes["Arn"], attributes


def _updated(arn: str, *arguments: Any) -> tuple[str, dict[str, str]]:
    _, attributes = _update(_name(arn), *arguments)
    return attributes["Arn"], attributes


def _deleted(arn: str, properties: dict[str, Any]) -> None:
    _delete(_name(arn), properties)


_handlers.update(create=_created, update=_updated, delete=_deleted)
