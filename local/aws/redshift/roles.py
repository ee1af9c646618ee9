"""The roles with which COPY and UNLOAD reach S3, and what S3 says no to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from local.aws import emulator
from local.aws.redshift.errors import SqlError, unsupported
from local.aws.redshift.records import Namespace

SERVICES = ("redshift-serverless.amazonaws.com", "redshift.amazonaws.com")


def s3_client(namespace: Namespace, clauses: dict[str, str], user: str, region: str) -> Any:
    """Return an S3 client with the role that a statement names.

    https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-authorization.html

    Raises:
        SqlError: no role is named, the namespace does not have it, or it does not trust Redshift.
    """
    role = clauses.get("IAM_ROLE")
    if role is None:
        raise SqlError("COPY and UNLOAD need the IAM_ROLE parameter")
    if role.upper() == "DEFAULT":
        role = namespace.members.get("defaultIamRoleArn")
        if not role:
            raise SqlError("Default IAM role is not set for the namespace.")
    if "," in role:
        raise unsupported("Role chaining")
    if role not in namespace.roles:
        raise SqlError(f"The requested role {role} is not associated to cluster")
    for service in SERVICES:
        if emulator.trusts(role, service):
            credentials = emulator.service_role_credentials(role, service, "RedshiftIamRoleSession")
            return emulator.client("s3", credentials, clauses.get("REGION", region))
    account = role.split(":")[4]
    identity = f"arn:aws:redshift:{region}:{account}:dbuser:serverless-{namespace.members['namespaceId']}/{user}"
    raise SqlError(f"User {identity} is not authorized to assume IAM Role {role}.")


@contextmanager
def s3_errors() -> Iterator[None]:
    """Turn refusals of S3 into the words of COPY and UNLOAD."""
    try:
        yield
    except ClientError as error:
        detail = error.response["Error"]
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = {"403": "AccessDenied", "404": "NoSuchKey"}.get(detail["Code"], detail["Code"])
        text = "Access Denied" if code == "AccessDenied" else detail.get("Message", code)
        raise SqlError(f"S3ServiceException:{text},Status {status},Error {code}") from error
