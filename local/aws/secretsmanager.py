"""Secrets in templates, whose ``Ref`` is the ARN and not the name as in the emulator; rotation by a function.

A rotation runs when it is asked for; the passing of time starts none.
https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-secretsmanager-secret.html
https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotating-secrets.html
"""

from __future__ import annotations

import functools
import json
import logging
import uuid
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError, Call, Payload
from local.aws.targets import Sender

_log = logging.getLogger(__name__)

SUFFIX = len("-abcdef")
"""Secrets Manager adds a hyphen and six characters to the name:
https://docs.aws.amazon.com/secretsmanager/latest/userguide/whats-in-a-secret.html"""

PRINCIPAL = "secretsmanager.amazonaws.com"
STEPS = ("createSecret", "setSecret", "testSecret", "finishSecret")
"""https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html"""

_secrets = emulator.module("services.secretsmanager")
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


# Rotation ---------------------------------------------------------------------------------------------------------


@emulator.json_action("secretsmanager", "RotateSecret")
def _rotate_secret(call: Call) -> Payload:
    """https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html"""
    given = call.payload
    secret = _configure(given["SecretId"], given.get("RotationLambdaARN", ""), given.get("RotationRules"))
    version = given.get("ClientRequestToken") or str(uuid.uuid4())
    if given.get("RotateImmediately", True):
        emulator.in_background(functools.partial(_rotate, secret, version), f"rotation {secret['Name']}")
    return {"ARN": secret["ARN"], "Name": secret["Name"], "VersionId": version}


def _configure(secret_id: str, function: str, rules: Any) -> dict[str, Any]:
    """Turn a secret's rotation on and return its record.

    Raises:
        AwsError: there is no such secret, or no function, or its policy does not let Secrets Manager call it.
    """
    _, secret = _secrets._resolve(secret_id)
    if secret is None:
        raise AwsError("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
    function = function or secret.get("RotationLambdaARN") or ""
    if not function:
        raise AwsError("InvalidRequestException", "No Lambda rotation function ARN is associated with this secret.")
    Sender(PRINCIPAL, secret["ARN"]).permitted("lambda", "lambda:InvokeFunction", function)
    secret.update(RotationEnabled=True, RotationLambdaARN=function)
    if rules:
        secret["RotationRules"] = rules
    found: dict[str, Any] = secret
    return found


def _rotate(secret: dict[str, Any], version: str) -> None:
    """Call the function for each step; one that fails ends the rotation, and the old version stays the current one."""
    function = secret["RotationLambdaARN"]
    client = Sender(PRINCIPAL, secret["ARN"]).permitted("lambda", "lambda:InvokeFunction", function)
    for step in STEPS:
        event = {"Step": step, "SecretId": secret["ARN"], "ClientRequestToken": version}
        answer = client.invoke(FunctionName=function, Payload=json.dumps(event))
        if "FunctionError" in answer:
            _log.warning("Rotation of %s failed in %s: %s", secret["Name"], step, answer["Payload"].read().decode())
            return


def _scheduled(_logical_id: str, properties: dict[str, Any], _stack: str) -> tuple[str, dict[str, str]]:
    secret = _configure(
        properties["SecretId"], properties.get("RotationLambdaARN", ""), properties.get("RotationRules")
    )
    if properties.get("RotateImmediatelyOnUpdate", True) in (True, "true"):
        _rotate(secret, str(uuid.uuid4()))
    return secret["ARN"], {}


def _unscheduled(arn: str, _properties: dict[str, Any]) -> None:
    _, secret = _secrets._resolve(arn)
    if secret is not None:
        secret.update(RotationEnabled=False, RotationLambdaARN=None, RotationRules=None)


emulator.resource_type("AWS::SecretsManager::RotationSchedule", _scheduled, _unscheduled)
