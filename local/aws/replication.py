"""Replication of buckets, with the permissions of the role that its configuration names.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/setting-repl-config-perm-overview.html
"""

from __future__ import annotations

import contextvars
import logging
import re
from collections.abc import Callable
from typing import Any

from local.aws import emulator, iam
from local.aws.emulator import AwsError
from local.aws.targets import Sender

_responses = emulator.module("core.responses")
_s3 = emulator.module("services.s3")

_log = logging.getLogger(__name__)

PRINCIPAL = "s3.amazonaws.com"

_action: contextvars.ContextVar[str] = contextvars.ContextVar("action", default="s3:ReplicateObject")
"""What is done in the destination bucket."""


def _denial(role: str, source: str, destination: str, key: str) -> str | None:
    """Return why ``role`` may not replicate the object ``key`` of a bucket to another (ARNs), None if it may."""
    try:
        session = Sender(PRINCIPAL, source).credentials(role)
    except AwsError as error:
        return error.message
    needed = {
        "s3:GetReplicationConfiguration": source,
        "s3:ListBucket": source,
        "s3:GetObjectVersionForReplication": f"{source}/{key}",
        "s3:GetObjectVersionAcl": f"{source}/{key}",
        _action.get(): f"{destination}/{key}",
    }
    checks = [iam.Check(action, resource, {}) for action, resource in needed.items()]
    found = (iam.denial(session.access_key, check, _responses.get_region()) for check in checks)
    return next(filter(None, found), None)


def _destination(original: Callable[..., Any]) -> Callable[..., Any]:
    def find(bucket: str, key: str, rule: dict[str, Any], role: str) -> Any:
        if denied := _denial(role, f"arn:aws:s3:::{bucket}", rule["Destination"]["Bucket"], key):
            _log.warning("%s/%s is not replicated: %s", bucket, key, denied)
            return None
        return original(bucket, key, rule, role)

    return find


def _delete(original: Callable[..., None]) -> Callable[..., None]:
    def replicate(*arguments: Any) -> None:
        token = _action.set("s3:ReplicateDelete")
        try:
            original(*arguments)
        finally:
            _action.reset(token)

    return replicate


def _put(original: Callable[[str, bytes], Any]) -> Callable[[str, bytes], Any]:
    """Whoever configures a replication passes its role.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketReplication.html
    """

    def put(bucket: str, body: bytes) -> Any:
        for role in re.findall(r"<Role>([^<]+)</Role>", body.decode()):
            if denied := iam.denial(iam.caller(), iam.pass_role(role, PRINCIPAL), _responses.get_region()):
                return _s3._error("AccessDenied", denied, 403)
        return original(bucket, body)

    return put


emulator.patch(_s3, "_replication_destination", _destination)
emulator.patch(_s3, "_maybe_replicate_delete_marker", _delete)
emulator.patch(_s3, "_put_bucket_replication", _put)
