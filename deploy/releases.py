"""The bucket of an Amazon MWAA environment: which release lies in it, by object versions, and who changes it.

``deploy/release.json`` has the digest and the version of every object of the release, and the version of the record of
the release before. So what has changed is told by digests; an object somebody else has written is noticed by its
version; and to go back is to copy versions. ``deploy/lock.json`` is there while somebody deploys.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from local.launcher import LauncherError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

RECORD = "deploy/release.json"
LOCK = "deploy/lock.json"
DAGS = "dags/"
INCLUDE = "dags/include/"
PINNED = ("plugins.zip", "requirements.txt")
"""What the environment uses a certain version of, whichever is the newest."""

AT_ONCE = 8
"""Uploads side by side; half of a client's connections."""
LOST = ("PreconditionFailed", "ConditionalRequestConflict")
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""


class DeployError(LauncherError):
    """Nothing was deployed, or not all; the message says why and what to do."""


@dataclass(frozen=True)
class File:
    """An object of a release: the SHA-256 of its content and its version."""

    sha256: str
    version: str


@dataclass(frozen=True)
class Release:
    """What was deployed; ``previous`` is the version of the record of the release before it."""

    files: dict[str, File]
    previous: str | None

    @property
    def digests(self) -> dict[str, str]:
        """The SHA-256 of each object by key."""
        return {key: file.sha256 for key, file in self.files.items()}


@dataclass(frozen=True)
class Record:
    """A release with the version and the ETag of its record."""

    release: Release
    version: str
    etag: str


@dataclass(frozen=True)
class Plan:
    """What makes the bucket hold a release: objects that stay, are written and are deleted, each in this order."""

    kept: dict[str, File]
    written: list[str]
    deleted: list[str]


def plan(wanted: Mapping[str, str], known: Mapping[str, File], newest: Mapping[str, str]) -> Plan:
    """Return what to do for the objects ``wanted``, digest by key, to be the newest.

    What DAGs read comes before them and goes after them.

    Args:
        wanted: the release that is to be.
        known: what is there, as far as its content is known.
        newest: the newest version of each object below ``dags/``.
    """
    kept = {
        key: known[key]
        for key in wanted
        if key in known
        and known[key].sha256 == wanted[key]
        and (key in PINNED or newest.get(key) == known[key].version)
    }
    written = sorted(wanted.keys() - kept.keys(), key=lambda key: (not key.startswith(INCLUDE), key))
    deleted = sorted(newest.keys() - wanted.keys(), key=lambda key: (key.startswith(INCLUDE), key))
    return Plan(kept, written, deleted)


class Bucket:
    """The bucket ``name``, or one that is yet to be made if it is empty, which has nothing in it."""

    def __init__(self, s3: S3Client, name: str) -> None:
        self.s3 = s3
        self.name = name

    def current(self) -> Record | None:
        """Return the record of the release that is there, None if nothing has been deployed."""
        return self._record() if self.name else None

    def release(self, version: str) -> Release:
        """Return a release by the version of its record.

        Raises:
            DeployError: the record is no longer there.
        """
        record = self._record(VersionId=version)
        if record is None:
            raise DeployError(f"s3://{self.name}/{RECORD} has no version {version} any more")
        return record.release

    def _record(self, **of: str) -> Record | None:
        try:
            found = self.s3.get_object(Bucket=self.name, Key=RECORD, **of)  # type: ignore[arg-type]
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchVersion"):
                return None
            raise
        body = json.load(found["Body"])
        files = {key: File(**file) for key, file in body["files"].items()}
        return Record(Release(files, body["previous"]), found["VersionId"], found["ETag"])

    def newest(self) -> dict[str, str]:
        """Return the version of each object below ``dags/`` that is not deleted."""
        if not self.name:
            return {}
        pages = self.s3.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=DAGS)
        versions = (version for page in pages for version in page.get("Versions", []))
        return {version["Key"]: version["VersionId"] for version in versions if version["IsLatest"]}

    def write(self, keys: Iterable[str], write: Callable[[str], File]) -> dict[str, File]:
        """Write objects with ``write``, several at a time."""
        wanted = list(keys)
        with ThreadPoolExecutor(AT_ONCE) as workers:
            return dict(zip(wanted, workers.map(write, wanted), strict=True))

    def put(self, key: str, content: bytes, sha256: str) -> File:
        """Upload an object and note its digest on it; S3 itself compares the content with the digest."""
        checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
        put = self.s3.put_object(
            Bucket=self.name, Key=key, Body=content, ChecksumSHA256=checksum, Metadata={"sha256": sha256}
        )
        return File(sha256, put["VersionId"])

    def file(self, key: str, version: str) -> File:
        """Return a version of an object with the digest that is noted on it, an empty one if somebody else wrote it."""
        found = self.s3.head_object(Bucket=self.name, Key=key, VersionId=version)
        return File(found["Metadata"].get("sha256", ""), version)

    def restore(self, key: str, file: File) -> File:
        """Make an old version of an object the newest.

        Raises:
            DeployError: the version is no longer there.
        """
        source: Any = {"Bucket": self.name, "Key": key, "VersionId": file.version}
        try:
            copied = self.s3.copy_object(Bucket=self.name, Key=key, CopySource=source)
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "NoSuchVersion"):
                raise DeployError(f"s3://{self.name}/{key} has no version {file.version} any more") from error
            raise
        return File(file.sha256, copied["VersionId"])

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects one after the other; their versions stay."""
        for key in keys:
            self.s3.delete_object(Bucket=self.name, Key=key)

    def record(self, release: Release, replaced: Record | None) -> None:
        """Write down that ``release`` is there instead of ``replaced``.

        Raises:
            DeployError: somebody else has deployed meanwhile, which takes a lock removed by force.
        """
        condition: Any = {"IfMatch": replaced.etag} if replaced else {"IfNoneMatch": "*"}
        try:
            self.s3.put_object(Bucket=self.name, Key=RECORD, Body=json.dumps(asdict(release)).encode(), **condition)
        except ClientError as error:
            if error.response["Error"]["Code"] in LOST:
                raise DeployError("Somebody else has deployed at the same time: deploy again") from error
            raise

    @contextmanager
    def locked(self, holder: str, *, by_force: bool) -> Iterator[None]:
        """Keep everybody else from deploying; ``by_force`` removes a lock somebody has left behind.

        Raises:
            DeployError: somebody else is deploying; says who and since when.
        """
        if by_force:
            self._unlock()
        body = json.dumps({"holder": holder, "since": datetime.now(UTC).isoformat(timespec="seconds")})
        try:
            lock = self.s3.put_object(Bucket=self.name, Key=LOCK, Body=body.encode(), IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] in LOST:
                raise DeployError(
                    f"Somebody is deploying here: {self._lock()}. If that has ended without removing "
                    f"s3://{self.name}/{LOCK}: --unlock"
                ) from error
            raise
        try:
            yield
        finally:
            self.s3.delete_object(Bucket=self.name, Key=LOCK, VersionId=lock["VersionId"])

    def _lock(self) -> str:
        """Return who holds the lock and since when."""
        try:
            lock = json.load(self.s3.get_object(Bucket=self.name, Key=LOCK)["Body"])
        except self.s3.exceptions.NoSuchKey:
            return "it has just ended"
        return f"{lock['holder']} since {lock['since']}"

    def _unlock(self) -> None:
        try:
            version = self.s3.get_object(Bucket=self.name, Key=LOCK)["VersionId"]
        except self.s3.exceptions.NoSuchKey:
            return
        self.s3.delete_object(Bucket=self.name, Key=LOCK, VersionId=version)
