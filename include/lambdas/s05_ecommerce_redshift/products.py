"""The product catalogue, a JSON object in the lake: product id to name and category."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import ClientError

REFRESH_SECONDS = 60
UNKNOWN = {"name": None, "category": "unknown"}
"""A product that the catalogue does not know yet: its sales count all the same."""


@dataclass
class Products:
    """Reads the catalogue when it is first asked for, and again when it has changed.

    Args:
        s3: boto3 client.
        bucket: bucket of the catalogue.
        key: its object.
    """

    s3: Any
    bucket: str
    key: str
    _known: dict[str, dict[str, str]] = field(default_factory=dict)
    _version: str = '""'
    _looked_at: float = 0

    def describe(self, product_id: str) -> dict[str, Any]:
        """Return ``name`` and ``category`` of a product."""
        return self._known.get(product_id, UNKNOWN)

    def refresh(self) -> None:
        """Fetch the catalogue if the last look is a minute ago and there is a new one.

        Raises:
            ClientError: the catalogue cannot be read; without one, nothing must be loaded as ``unknown``.
        """
        if time.monotonic() - self._looked_at < REFRESH_SECONDS and self._known:
            return
        try:
            answer = self.s3.get_object(Bucket=self.bucket, Key=self.key, IfNoneMatch=self._version)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 304:
                raise
        else:
            self._known, self._version = json.load(answer["Body"]), answer["ETag"]
        self._looked_at = time.monotonic()
