"""Reading many items of a DynamoDB table, which the provider's hook lacks."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from airflow.providers.amazon.aws.hooks.dynamodb import DynamoDBHook

Item = dict[str, Any]

KEYS = 100
"""In a BatchGetItem call: https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html"""
FIRST_PAUSE_SECONDS = 0.1
PATIENCE_SECONDS = 120.0


class TableHook(DynamoDBHook):
    """Reads the table ``name``; values are plain Python ones, numbers ``Decimal``."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name

    def get_all(self, keys: Sequence[Mapping[str, Any]]) -> Iterator[Item]:
        """Yield the items of these keys that exist, in no order, each as it is now (consistent reads).

        Raises:
            TimeoutError: the table was throttled for ``PATIENCE_SECONDS``.
        """
        client = self.client
        for start in range(0, len(keys), KEYS):
            wanted: Any = {self.name: {"Keys": list(keys[start : start + KEYS]), "ConsistentRead": True}}
            pause, patience = FIRST_PAUSE_SECONDS, time.monotonic() + PATIENCE_SECONDS
            while wanted:
                answer: Any = client.batch_get_item(RequestItems=wanted)  # type: ignore[attr-defined]
                yield from answer["Responses"].get(self.name, [])
                wanted = answer.get("UnprocessedKeys")
                if wanted:
                    if time.monotonic() > patience:
                        raise TimeoutError(f"{self.name} was throttled for {PATIENCE_SECONDS:.0f} seconds")
                    time.sleep(random.uniform(0, pause))  # noqa: S311 - jitter
                    pause *= 2

    def scan(self) -> Iterator[Item]:
        """Yield all items, in no order (consistent reads): for small tables."""
        pages = self.client.get_paginator("scan").paginate(TableName=self.name, ConsistentRead=True)
        for page in pages:
            yield from page["Items"]
