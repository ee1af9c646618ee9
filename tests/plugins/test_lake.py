"""Promotion of staged objects, through Airflow's S3 hook and a bucket in memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.exceptions import ClientError

from atlas.lake import promote

NOW = datetime(2026, 1, 5, tzinfo=UTC)
STAGING, PUBLISHED = "s/staging/lines", "s/published/lines"


class Bucket:
    """The part of an S3 client that promotion uses, with the calls it got."""

    def __init__(self, objects: dict[str, str]) -> None:
        self.objects = objects
        self.calls: list[str] = []

    def get_paginator(self, _operation: str) -> Bucket:
        return self

    def paginate(self, Prefix: str, **_options: Any) -> Iterator[dict[str, Any]]:  # noqa: N803 - named by AWS
        keys = sorted(key for key in self.objects if key.startswith(Prefix))
        for start in range(0, len(keys), 1000):
            yield {"Contents": [{"Key": key, "LastModified": NOW} for key in keys[start : start + 1000]]}

    def copy_object(self, Key: str, CopySource: dict[str, str], **_options: Any) -> dict[str, Any]:  # noqa: N803
        self.calls.append(f"copy {Key}")
        self.objects[Key] = self.objects[CopySource["Key"]]
        return {}

    def delete_objects(self, Delete: dict[str, Any], **_options: Any) -> dict[str, Any]:  # noqa: N803
        """https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html"""
        keys = [entry["Key"] for entry in Delete["Objects"]]
        if not 1 <= len(keys) <= 1000:
            raise ClientError({"Error": {"Code": "MalformedXML"}}, "DeleteObjects")
        self.calls.append(f"delete {len(keys)}")
        for key in keys:
            del self.objects[key]
        return {"Deleted": Delete["Objects"]}

    def published(self) -> dict[str, str]:
        """Return the published objects by their names."""
        return {
            key.removeprefix(f"{PUBLISHED}/"): body
            for key, body in self.objects.items()
            if key.startswith(f"{PUBLISHED}/")
        }


def bucket(monkeypatch: pytest.MonkeyPatch, staged: dict[str, str], published: dict[str, str]) -> Bucket:
    """Return a bucket with these objects, which Airflow's hook finds."""
    found = Bucket(
        {f"{STAGING}/{name}": body for name, body in staged.items()}
        | {f"{PUBLISHED}/{name}": body for name, body in published.items()}
        | {f"{PUBLISHED}-of-others/part-00000.parquet": "others'", f"{STAGING}2/b": "others'"}
    )
    monkeypatch.setattr(S3Hook, "get_conn", lambda _hook: found)
    return found


def test_staged_objects_get_fixed_names_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = bucket(monkeypatch, {"part-2.parquet": "second", "part-1.parquet": "first"}, {})

    assert promote(S3Hook(), "lake", STAGING, PUBLISHED) == 2
    assert lake.published() == {"part-00000.parquet": "first", "part-00001.parquet": "second"}


def test_promoting_again_leaves_the_same_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = bucket(monkeypatch, {"a": "1", "b": "2"}, {"part-00000.parquet": "old"})
    promote(S3Hook(), "lake", STAGING, PUBLISHED)
    once = dict(lake.objects)

    assert promote(S3Hook(), "lake", STAGING, PUBLISHED) == 2
    assert lake.objects == once


def test_leftovers_are_deleted_last(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"part-00000.parquet": "old", "part-00001.parquet": "old", "_SUCCESS": "", "other.parquet": "old"}
    lake = bucket(monkeypatch, {"a": "new"}, before)

    assert promote(S3Hook(), "lake", STAGING, PUBLISHED) == 1
    assert lake.published() == {"part-00000.parquet": "new"}
    assert lake.calls == [f"copy {PUBLISHED}/part-00000.parquet", "delete 3"]
    assert list(lake.objects.values()).count("others'") == 2


def test_nothing_staged_empties_what_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = bucket(monkeypatch, {}, {"part-00000.parquet": "old"})

    assert promote(S3Hook(), "lake", STAGING, PUBLISHED) == 0
    assert lake.published() == {}


def test_markers_and_hidden_files_are_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = bucket(monkeypatch, {"_SUCCESS": "", ".part-1.crc": "", "part-1": "data"}, {})

    assert promote(S3Hook(), "lake", STAGING, PUBLISHED) == 1
    assert lake.published() == {"part-00000.parquet": "data"}


def test_any_number_of_leftovers_is_deleted(monkeypatch: pytest.MonkeyPatch) -> None:
    lake = bucket(monkeypatch, {"a": "new"}, {f"old-{number:05d}": "old" for number in range(2500)})

    promote(S3Hook(), "lake", STAGING, PUBLISHED)

    assert lake.published() == {"part-00000.parquet": "new"}
    assert lake.calls[1:] == ["delete 1000", "delete 1000", "delete 500"]
