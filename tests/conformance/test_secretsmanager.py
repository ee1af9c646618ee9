"""Rotation of a secret by a function.

https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotating-secrets.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_lambda import function
from tests.conftest import Aws

ROTATE = """
import boto3

secrets = boto3.client("secretsmanager")

def handler(event, context):
    secret, version, step = event["SecretId"], event["ClientRequestToken"], event["Step"]
    if step == "createSecret":
        secrets.put_secret_value(
            SecretId=secret, ClientRequestToken=version, SecretString="new", VersionStages=["AWSPENDING"]
        )
    elif step == "testSecret" and secrets.describe_secret(SecretId=secret)["Description"] == "refused":
        raise ValueError("the new password does not work")
    elif step == "finishSecret":
        stages = secrets.describe_secret(SecretId=secret)["VersionIdsToStages"]
        (current,) = [name for name in stages if "AWSCURRENT" in stages[name]]
        secrets.update_secret_version_stage(
            SecretId=secret, VersionStage="AWSCURRENT", MoveToVersionId=version, RemoveFromVersionId=current
        )
"""
ACTIONS = ("DescribeSecret", "GetSecretValue", "PutSecretValue", "UpdateSecretVersionStage")
SECONDS = 10


@pytest.fixture(scope="module")
def rotator(aws: Aws) -> str:
    """A function that rotates any secret, and that Secrets Manager may call."""
    statement = {"Effect": "Allow", "Action": [f"secretsmanager:{name}" for name in ACTIONS], "Resource": "*"}
    arn = function(aws, "rotator", ROTATE, statement)
    aws.client("lambda").add_permission(
        FunctionName="rotator",
        StatementId="rotation",
        Action="lambda:InvokeFunction",
        Principal="secretsmanager.amazonaws.com",
    )
    return arn


def secret(aws: Aws, name: str, description: str = "") -> str:
    """Return the ARN of a new secret with the value ``old``."""
    client = aws.client("secretsmanager")
    arn: str = client.create_secret(Name=name, SecretString="old", Description=description)["ARN"]
    return arn


def rotate(aws: Aws, arn: str, rotator: str, **options: Any) -> dict[str, Any]:
    """Ask for a rotation."""
    answer: dict[str, Any] = aws.client("secretsmanager").rotate_secret(
        SecretId=arn, RotationLambdaARN=rotator, RotationRules={"AutomaticallyAfterDays": 30}, **options
    )
    return answer


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether it holds within ``SECONDS``."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False


def current(aws: Aws, arn: str) -> str:
    value: str = aws.client("secretsmanager").get_secret_value(SecretId=arn)["SecretString"]
    return value


def test_the_function_makes_the_new_version(aws: Aws, rotator: str) -> None:
    """https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html"""
    arn = secret(aws, "rotated")
    version = rotate(aws, arn, rotator)["VersionId"]

    client = aws.client("secretsmanager")
    assert eventually(lambda: current(aws, arn) == "new")
    described = client.describe_secret(SecretId=arn)
    assert (described["RotationEnabled"], described["RotationLambdaARN"]) == (True, rotator)
    assert "AWSCURRENT" in described["VersionIdsToStages"][version]
    assert client.get_secret_value(SecretId=arn, VersionStage="AWSPREVIOUS")["SecretString"] == "old"


def test_a_step_that_fails_leaves_the_old_version_the_current_one(aws: Aws, rotator: str) -> None:
    arn = secret(aws, "not-rotated", "refused")
    version = rotate(aws, arn, rotator)["VersionId"]

    client = aws.client("secretsmanager")
    assert eventually(lambda: "failed in testSecret" in aws.log.read_text())
    assert current(aws, arn) == "old"
    assert client.describe_secret(SecretId=arn)["VersionIdsToStages"][version] == ["AWSPENDING"]


def test_it_can_wait_for_its_time(aws: Aws, rotator: str) -> None:
    """https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_RotateSecret.html"""
    arn = secret(aws, "rotated-later")
    rotate(aws, arn, rotator, RotateImmediately=False)
    described = aws.client("secretsmanager").describe_secret(SecretId=arn)
    assert described["RotationRules"] == {"AutomaticallyAfterDays": 30}
    assert len(described["VersionIdsToStages"]) == 1


def test_the_function_must_let_secrets_manager_call_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotating-secrets-required-permissions-function.html"""
    arn = secret(aws, "not-permitted")
    closed = function(aws, "closed-rotator", ROTATE)
    with pytest.raises(ClientError, match="AccessDenied"):
        rotate(aws, arn, closed)
    assert not aws.client("secretsmanager").describe_secret(SecretId=arn).get("RotationEnabled")


def test_without_a_function_there_is_no_rotation(aws: Aws) -> None:
    arn = secret(aws, "no-function")
    with pytest.raises(ClientError, match="No Lambda rotation function ARN"):
        aws.client("secretsmanager").rotate_secret(SecretId=arn)


def test_a_stack_turns_it_on_and_off(aws: Aws, rotator: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-secretsmanager-rotationschedule.html"""
    arn = secret(aws, "rotated-by-stack")
    schedule = {
        "Type": "AWS::SecretsManager::RotationSchedule",
        "Properties": {"SecretId": arn, "RotationLambdaARN": rotator, "RotateImmediatelyOnUpdate": False},
    }
    cloudformation = aws.client("cloudformation")
    cloudformation.create_stack(StackName="rotation", TemplateBody=json.dumps({"Resources": {"Schedule": schedule}}))
    often = {"Delay": 1, "MaxAttempts": 20}
    cloudformation.get_waiter("stack_create_complete").wait(StackName="rotation", WaiterConfig=often)
    assert aws.client("secretsmanager").describe_secret(SecretId=arn)["RotationEnabled"] is True

    cloudformation.delete_stack(StackName="rotation")
    cloudformation.get_waiter("stack_delete_complete").wait(StackName="rotation", WaiterConfig=often)
    assert aws.client("secretsmanager").describe_secret(SecretId=arn)["RotationEnabled"] is False
