"""The quarantine: malformed records, kept whole with the reason, to be looked at and replayed."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
import msgspec


@cache
def _s3() -> Any:
    return boto3.client("s3")


@dataclass(frozen=True)
class Quarantine:
    """A prefix of a bucket that keeps the bad records of ``source``, a stream's or queue's name."""

    bucket: str
    prefix: str
    source: str
    client: Any = field(default_factory=_s3, repr=False)

    @classmethod
    def from_environment(cls, source: str) -> Quarantine:
        """Return the one that QUARANTINE_BUCKET and QUARANTINE_PREFIX name."""
        return cls(os.environ["QUARANTINE_BUCKET"], os.environ["QUARANTINE_PREFIX"], source)

    def put(
        self,
        name: str,
        data: bytes,
        reason: str,
        *,
        arrived_at: float,
        partition_key: str | None = None,
        **position: Any,
    ) -> str:
        """Keep one record as ``<prefix>/<name>.json`` and return its key.

        ``name`` is the record's place in its source (``<shard>/<sequence>``, a message id), so that keeping it again
        changes nothing. ``arrived_at`` is in epoch seconds. The object holds ``reason``, ``data`` (base64),
        ``source``, ``position``, ``partition_key`` and ``arrived_at`` (ISO 8601, UTC).
        """
        key = f"{self.prefix}/{name}.json"
        content = {
            "reason": reason,
            "data": base64.b64encode(data).decode(),
            "source": self.source,
            "position": position,
            "partition_key": partition_key,
            "arrived_at": datetime.fromtimestamp(arrived_at, UTC).isoformat(),
        }
        self.client.put_object(
            Bucket=self.bucket, Key=key, Body=msgspec.json.encode(content), ContentType="application/json"
        )
        return key
