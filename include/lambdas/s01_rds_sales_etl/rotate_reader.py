"""Changes the reader's password in the sales source, step by step as Secrets Manager asks.

A rotation may be interrupted anywhere and is then begun again with the same token: every step can be repeated.
https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotate-secrets_lambda-functions.html
"""

from __future__ import annotations

import json
import os
from typing import Any

import boto3
import pg8000.native
from database import connect, read_secret

_secrets = boto3.client("secretsmanager")

PENDING, CURRENT = "AWSPENDING", "AWSCURRENT"


def handler(event: dict[str, str], _context: object) -> None:
    """Carry out one step.

    Args:
        event: ``Step``, ``SecretId`` and ``ClientRequestToken``, which is the id of the new version of the secret.

    Raises:
        ValueError: it is not the reader's secret, or there is no such step.
        pg8000.exceptions.DatabaseError: the source refuses the new login.
    """
    if event["SecretId"] != os.environ["READER_SECRET_ARN"]:
        raise ValueError(f"{event['SecretId']} is not the reader's secret")
    step, version = event["Step"], event["ClientRequestToken"]
    if step == "createSecret":
        _create(event["SecretId"], version)
    elif step == "setSecret":
        _set(event["SecretId"], version)
    elif step == "testSecret":
        connect(event["SecretId"], VersionId=version, VersionStage=PENDING).close()
    elif step == "finishSecret":
        _finish(event["SecretId"], version)
    else:
        raise ValueError(f"There is no step {step}")


def _create(secret: str, version: str) -> None:
    """Keep a new password as the pending version, unless an earlier attempt did."""
    try:
        read_secret(secret, VersionId=version, VersionStage=PENDING)
    except _secrets.exceptions.ResourceNotFoundException:
        password = _secrets.get_random_password(PasswordLength=32, ExcludeCharacters="\"'@/\\ ")["RandomPassword"]
        login = {**read_secret(secret), "password": password}
        _secrets.put_secret_value(
            SecretId=secret, ClientRequestToken=version, SecretString=json.dumps(login), VersionStages=[PENDING]
        )


def _set(secret: str, version: str) -> None:
    """Give the reader the pending password, as the owner."""
    login = read_secret(secret, VersionId=version, VersionStage=PENDING)
    name, password = pg8000.native.identifier(login["username"]), pg8000.native.literal(login["password"])
    owner = connect(os.environ["OWNER_SECRET_ARN"])
    try:
        owner.run(f"ALTER ROLE {name} PASSWORD {password}")
    finally:
        owner.close()


def _finish(secret: str, version: str) -> None:
    """Make the pending version the current one."""
    versions: dict[str, Any] = _secrets.describe_secret(SecretId=secret)["VersionIdsToStages"]
    (current,) = [name for name, stages in versions.items() if CURRENT in stages]
    if current != version:
        _secrets.update_secret_version_stage(
            SecretId=secret, VersionStage=CURRENT, MoveToVersionId=version, RemoveFromVersionId=current
        )
