"""The objects a query reads: DuckDB's file system over S3, with the caller's permissions, and what was scanned.

DuckDB opens only the files its filters leave, and of a Parquet file fetches only the columns it needs; which bytes
those were is recorded here and becomes the query's DataScannedInBytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from fsspec import AbstractFileSystem

from local.aws.athena.errors import aws_errors


class Location(NamedTuple):
    """A bucket and a key, or the start of keys."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


def location(address: str) -> Location:
    """Split ``s3://bucket/key`` (or s3a, s3n, as Hadoop writes it)."""
    parts = urlsplit(address)
    return Location(parts.netloc, parts.path.removeprefix("/"))


def folder(address: str) -> Location:
    """Return the location of everything under ``address``, which may lack its closing slash."""
    bucket, key = location(address)
    return Location(bucket, f"{key.rstrip('/')}/" if key.rstrip("/") else "")


class File(NamedTuple):
    """An object of a table, and the values of its partition."""

    location: Location
    size: int
    partition: tuple[str | None, ...] = ()


def list_files(s3: Any, root: Location) -> Iterator[File]:
    """Yield the objects under ``root`` that Athena reads: not empty, no part of their name hidden by _ or dot.

    https://docs.aws.amazon.com/athena/latest/ug/other-notable-limitations.html
    """
    with aws_errors(f"listing {root}"):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=root.bucket, Prefix=root.key):
            for item in page.get("Contents", []):
                below = item["Key"][len(root.key) :]
                hidden = any(part.startswith(("_", ".")) for part in below.split("/"))
                if item["Size"] and not hidden:
                    yield File(Location(root.bucket, item["Key"]), item["Size"])


def address(table: int, keys: list[str], file: File) -> str:
    """Return the name under which DuckDB opens ``file``: atlas://table/key=value/.../bucket and key in one part.

    Filters on partition columns are filters on this name, so DuckDB prunes partitions without opening a file.
    """
    values = ("__HIVE_DEFAULT_PARTITION__" if value is None else value for value in file.partition)
    folders = [f"{key}={quote(value, safe='')}" for key, value in zip(keys, values, strict=True)]
    whole = quote(f"{file.location.bucket}/{file.location.key}", safe="")
    return "/".join([f"atlas://{table}", *folders, whole])


class Lake(AbstractFileSystem):  # type: ignore[misc]
    """The file system DuckDB reads through; one per query, so that ``fetched`` belongs to that query."""

    protocol = "atlas"
    cachable = False

    def __init__(self, s3: Any, check: Callable[[int], None]) -> None:
        """Read through client ``s3``; ``check`` is called with the bytes fetched so far and may raise."""
        super().__init__()
        self.s3 = s3
        self.check = check
        self.files: dict[str, File] = {}
        self.fetched: dict[str, list[tuple[int, int]]] = {}
        self.failure: Exception | None = None
        self.total = 0

    def glob(self, path: str, **_: Any) -> list[str]:
        """Return ``path`` itself: DuckDB is always given complete names."""
        return [path]

    def open(self, path: str, mode: str = "rb", **_: Any) -> io.RawIOBase:
        """Open the object named ``path`` for reading."""
        return _Object(self, self._name(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return the size of the object named ``path``."""
        return {"name": path, "size": self.files[self._name(path)].size, "type": "file"}

    def modified(self, path: str) -> datetime:
        """Return a constant: a query sees the objects as they were listed."""
        return datetime.fromtimestamp(0, UTC)

    def fetch(self, name: str, start: int, end: int) -> bytes:
        """Return bytes ``start`` to ``end`` (exclusive) of the object called ``name``.

        DuckDB replaces an exception by its own, so the first one is kept in ``failure``.
        """
        bucket, key = self.files[name].location
        try:
            with aws_errors(f"reading s3://{bucket}/{key}"):
                answer = self.s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
                data: bytes = answer["Body"].read()
            self.fetched.setdefault(name, []).append((start, end))
            self.total += len(data)
            self.check(self.total)
        except Exception as error:
            self.failure = self.failure or error
            raise
        return data

    def _name(self, path: str) -> str:
        return f"atlas://{self._strip_protocol(path).lstrip('/')}"


class _Object(io.RawIOBase):
    """An object as a file: every read is one ranged GetObject."""

    def __init__(self, lake: Lake, name: str) -> None:
        super().__init__()
        self._lake = lake
        self._name = name
        self._size = lake.files[name].size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._size if size < 0 else min(self._at + size, self._size)
        data = self._lake.fetch(self._name, self._at, end) if self._at < end else b""
        self._at += len(data)
        return data
