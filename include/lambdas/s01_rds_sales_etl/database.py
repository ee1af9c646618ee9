"""The connection to the sales source."""

from __future__ import annotations

import json
import os
import ssl
from typing import Any

import boto3
import pg8000.native

_secrets = boto3.client("secretsmanager")


def read_secret(arn: str, **version: str) -> dict[str, Any]:
    """Return ``username`` and ``password`` in secret ``arn``, in its current version unless told otherwise."""
    secret: dict[str, Any] = json.loads(_secrets.get_secret_value(SecretId=arn, **version)["SecretString"])
    return secret


def connect(secret_arn: str, **version: str) -> pg8000.native.Connection:
    """Open a TLS connection to the source as the user in ``secret_arn``, in its current version unless told otherwise.

    The connection is encrypted without checking the server's name, which is what RDS for PostgreSQL asks for by
    default (``sslmode=require``); who can reach the server is decided by its security group.
    """
    secret = read_secret(secret_arn, **version)
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return pg8000.native.Connection(
        secret["username"],
        password=secret["password"],
        host=os.environ["DATABASE_HOST"],
        port=int(os.environ["DATABASE_PORT"]),
        database=os.environ["DATABASE_NAME"],
        ssl_context=context,
        timeout=10,
        application_name=os.environ["AWS_LAMBDA_FUNCTION_NAME"],
    )
