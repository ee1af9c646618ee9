"""The state table: keys, items as plain dictionaries, consistent reads, transactions whose cancellation is understood.

Layout, keys ``pk`` and ``sk`` (strings), time to live ``expires_at`` (epoch seconds)::

    checkpoint#<incarnation>#<consumer>       <shard>        sequence, part, arrived_at
    window#<incarnation>#<consumer>#<shard>   <sequence>#0   ids (packed 64 bit), arrived_at, expires_at
    outbox#<message id>                       outbox         kind, body (JSON), expires_at
    inbox#<message id>                        inbox          expires_at
    as the scenario says                                     its states
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import boto3
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.config import Config
from botocore.exceptions import ClientError

Item = Mapping[str, Any]
"""An item's attributes without pk and sk: str, Decimal or int, bytes, bool, None, list, dict, set."""

Action = dict[str, Any]
"""One entry of TransactWriteItems."""

RETRYABLE = {
    "TransactionConflict",
    "ThrottlingError",
    "ProvisionedThroughputExceeded",
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "TransactionInProgressException",
}
"""Cancellation reasons and error codes after which the same transaction may succeed, see
https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html"""


class Key(NamedTuple):
    """The key of an item; ``shared`` says that writers other than this shard's write it, see `fold`."""

    pk: str
    sk: str
    shared: bool = False


class ConditionFailed(Exception):  # noqa: N818  # a fact about the table, not a mistake
    """A transaction was cancelled because conditions did not hold; ``indexes`` are those of their actions."""

    def __init__(self, indexes: Sequence[int]) -> None:
        super().__init__(f"Conditions of the actions {list(indexes)} did not hold")
        self.indexes = list(indexes)


class OutOfTime(Exception):  # noqa: N818
    """The time given is used up before the table took the request."""


@cache
def dynamodb() -> Any:
    """Return the process's client. Its retries are few and short: the function's own time limit ends them."""
    config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "total_max_attempts": 4})
    return boto3.client("dynamodb", config=config)


class _Deserializer(TypeDeserializer):
    def _deserialize_b(self, value: bytes) -> bytes:
        return value  # not wrapped into a type of its own


_serialize = TypeSerializer().serialize
_deserialize = _Deserializer().deserialize


def serialize(item: Item) -> dict[str, Any]:
    """Return an item as the low-level API takes it.

    Raises:
        TypeError: a value has no DynamoDB type; floats have none, use Decimal.
    """
    return {name: _serialize(value) for name, value in item.items()}


def deserialize(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of the low-level API as plain values."""
    return {name: _deserialize(value) for name, value in item.items()}


def size(item: Mapping[str, Any]) -> int:
    """Return at least the bytes that DynamoDB counts for an item of the low-level API.

    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html
    """
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _size(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    if kind == "M":
        return 3 + len(content) + size(content)
    if kind == "L":
        return 3 + sum(1 + _size(one) for one in content)
    if kind in {"SS", "NS", "BS"}:
        return sum(_size({kind[0]: one}) for one in content)
    if kind in {"BOOL", "NULL"}:
        return 1
    return len(content) if kind == "B" else len(content.encode()) + 1


class Table:
    """The table ``name``, read consistently and written in transactions."""

    def __init__(self, name: str, client: Any = None) -> None:
        self.name = name
        self.client = client or dynamodb()

    def put(self, key: Key, item: Item, **condition: Any) -> Action:
        """Return the action that puts an item; ``condition`` holds the ConditionExpression and what it names."""
        return {"Put": {"TableName": self.name, "Item": serialize({"pk": key.pk, "sk": key.sk, **item})} | condition}

    def get(self, key: Key) -> dict[str, Any] | None:
        """Return an item, or None."""
        answer = self.client.get_item(
            TableName=self.name, Key=serialize({"pk": key.pk, "sk": key.sk}), ConsistentRead=True
        )
        return _attributes(answer["Item"])[1] if "Item" in answer else None

    def get_all(self, keys: Collection[Key], deadline: float) -> dict[Key, dict[str, Any] | None]:
        """Return the items of at most 100 keys, None where there is none.

        Raises:
            OutOfTime: some were not to be had before ``deadline`` (of the monotonic clock).
        """
        found: dict[tuple[str, str], dict[str, Any]] = {}
        request = [serialize({"pk": key.pk, "sk": key.sk}) for key in keys]
        attempt = 0
        while request:
            answer = self.client.batch_get_item(RequestItems={self.name: {"Keys": request, "ConsistentRead": True}})
            found |= map(_attributes, answer["Responses"].get(self.name, []))
            request = answer.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if request:
                attempt = pause(attempt, deadline)
        return {key: found.get((key.pk, key.sk)) for key in keys}

    def transact(self, actions: list[Action], deadline: float) -> None:
        """Write all actions or none, trying again after conflicts and throttling.

        A retry needs no token: where an attempt whose answer was lost has been applied, the next one finds its
        own condition broken.

        Raises:
            ConditionFailed: conditions did not hold; nothing is written.
            OutOfTime: conflicts or throttling lasted until ``deadline`` (of the monotonic clock).
            ClientError: any other refusal.
        """
        attempt = 0
        while True:
            try:
                self.client.transact_write_items(TransactItems=actions)
            except ClientError as error:
                reasons = [reason["Code"] for reason in error.response.get("CancellationReasons", [])]
                if failed := [index for index, reason in enumerate(reasons) if reason == "ConditionalCheckFailed"]:
                    raise ConditionFailed(failed) from error
                if not ({reason for reason in reasons if reason != "None"} or {error.response["Error"]["Code"]}) <= (
                    RETRYABLE
                ):
                    raise
                attempt = pause(attempt, deadline)
            else:
                return


def pause(attempt: int, deadline: float) -> int:
    """Wait a random time, on average longer with each attempt (at most a second), and return the next attempt.

    https://docs.aws.amazon.com/prescriptive-guidance/latest/cloud-design-patterns/retry-backoff.html

    Raises:
        OutOfTime: the wait would end after ``deadline``.
    """
    seconds = random.uniform(0, min(1.0, 0.02 * 2**attempt))  # noqa: S311  # spreads load, guards nothing
    if time.monotonic() + seconds > deadline:
        raise OutOfTime
    time.sleep(seconds)
    return attempt + 1


def _attributes(item: Mapping[str, Any]) -> tuple[tuple[str, str], dict[str, Any]]:
    values = deserialize(item)
    return (values.pop("pk"), values.pop("sk")), values
