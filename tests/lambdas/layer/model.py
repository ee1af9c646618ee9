"""Models of DynamoDB, Kinesis and S3, as far as the layer uses them; each call is a point where time may pass."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from botocore.exceptions import ClientError

from exactly_once.table import deserialize

Stored = Mapping[str, Any]


def client_error(code: str, reasons: list[str] | None = None) -> ClientError:
    """Return an error as botocore raises it."""
    response: Any = {"Error": {"Code": code, "Message": code}}
    if reasons is not None:
        response["CancellationReasons"] = [{"Code": reason} for reason in reasons]
    return ClientError(response, "TransactWriteItems")


def cancelled(*reasons: str) -> ClientError:
    """Return the error of a cancelled transaction."""
    return client_error("TransactionCanceledException", list(reasons))


class DynamoDB:
    """A table: transactions are atomic, reads consistent.

    ``on_call`` is called before and after each request, so that a caller may be suspended or ended on either side.
    ``faults`` is the share of requests that meet a conflict, throttling or unprocessed keys.
    """

    def __init__(self, on_call: Callable[[], None] = lambda: None, faults: float = 0.0, seed: int = 0) -> None:
        self.items: dict[tuple[str, str], Stored] = {}
        self.transactions: list[list[Any]] = []
        self.failures: list[ClientError] = []
        """Raised by the next transactions, in turn."""
        self.checkpoint_only_smaller = False
        self.window_lags = 0
        """How many of the latest window items a query does not see yet, as with eventually consistent reads."""
        self.page_size = 2
        self.calls: list[str] = []
        self._on_call = on_call
        self._faults = faults
        self._random = random.Random(seed)

    def get_item(self, TableName: str, Key: Stored, ConsistentRead: bool) -> Any:  # noqa: N803
        assert ConsistentRead
        self._call("get_item")
        item = self.items.get(_key(Key))
        self._on_call()
        return {"Item": item} if item else {}

    def batch_get_item(self, RequestItems: Any) -> Any:  # noqa: N803
        self._call("batch_get_item")
        ((table, request),) = RequestItems.items()
        keys = request["Keys"]
        assert request["ConsistentRead"]
        assert 0 < len(keys) <= 100
        assert len({_key(key) for key in keys}) == len(keys)
        taken = self._random.randint(0, len(keys) - 1) if self._fault() else len(keys)
        found = [self.items[_key(key)] for key in keys[:taken] if _key(key) in self.items]
        left = {table: {"Keys": keys[taken:], "ConsistentRead": True}} if taken < len(keys) else {}
        self._on_call()
        return {"Responses": {table: found}, "UnprocessedKeys": left}

    def query(self, **request: Any) -> Any:
        assert request["ConsistentRead"]
        assert not request["ScanIndexForward"]
        self._call("query")
        values = {name: value["S"] for name, value in request["ExpressionAttributeValues"].items()}
        high = request["ExclusiveStartKey"]["sk"]["S"] if "ExclusiveStartKey" in request else values[":high"] + "\0"
        keys = sorted(
            (key for key in self.items if key[0] == values[":pk"] and values[":low"] <= key[1] < high), reverse=True
        )
        if self.window_lags and "ExclusiveStartKey" not in request:
            keys = keys[self.window_lags :]
        page = [self.items[key] for key in keys[: self.page_size]]
        self._on_call()
        if len(keys) <= self.page_size:
            return {"Items": page}
        return {"Items": page, "LastEvaluatedKey": {name: page[-1][name] for name in ("pk", "sk")}}

    def transact_write_items(self, TransactItems: list[Any]) -> Any:  # noqa: N803
        self._call("transact_write_items")
        assert 0 < len(TransactItems) <= 100
        puts = [action["Put"] for action in TransactItems]
        assert len({_key(put["Item"]) for put in puts}) == len(puts)
        if self.failures:
            raise self.failures.pop(0)
        if self._fault():
            raise self._random.choice([cancelled("None", "TransactionConflict"), client_error("ThrottlingException")])
        reasons = ["None" if self._holds(put) else "ConditionalCheckFailed" for put in puts]
        if set(reasons) != {"None"}:
            raise cancelled(*reasons)
        self.items |= {_key(put["Item"]): put["Item"] for put in puts}
        self.transactions.append(TransactItems)
        self._on_call()
        return {}

    def plain(self, prefix: str) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the items whose partition key starts with ``prefix``, without their keys."""
        found = {}
        for key, item in self.items.items():
            if key[0].startswith(prefix):
                found[key] = deserialize({name: value for name, value in item.items() if name not in {"pk", "sk"}})
        return found

    def _call(self, name: str) -> None:
        self.calls.append(name)
        self._on_call()

    def _fault(self) -> bool:
        return self._random.random() < self._faults

    def _holds(self, put: Any) -> bool:
        """Return whether a put's condition holds: ``attribute_not_exists(a)`` or equalities joined by AND."""
        item = self.items.get(_key(put["Item"]), {})
        if self.checkpoint_only_smaller and item and item["pk"]["S"].startswith("checkpoint#"):
            new = put["Item"]
            begun = item["part"]["N"] != "0" and item["sequence"] == new["sequence"]
            return bool(begun or item["sequence"]["S"] < new["sequence"]["S"])
        names = put.get("ExpressionAttributeNames", {})
        for term in put["ConditionExpression"].split(" AND ") if "ConditionExpression" in put else ():
            if term.startswith("attribute_not_exists("):
                name = term[len("attribute_not_exists(") : -1]
                if names.get(name, name) in item:
                    return False
            else:
                name, value = term.split(" = ")
                if item.get(names[name]) != put["ExpressionAttributeValues"][value]:
                    return False
        return True


class Kinesis:
    """A stream's shards with their parents, two a page."""

    def __init__(self, parents: Mapping[str, Sequence[str]]) -> None:
        self.parents = parents

    def list_shards(self, StreamARN: str = "", NextToken: str = "0") -> Any:  # noqa: N803
        first = int(NextToken)
        shards = [
            {"ShardId": name} | dict(zip(("ParentShardId", "AdjacentParentShardId"), parents, strict=False))
            for name, parents in list(self.parents.items())[first : first + 2]
        ]
        more = {"NextToken": str(first + 2)} if first + 2 < len(self.parents) else {}
        return {"Shards": shards} | more


class S3:
    """A bucket's objects and how often each was written."""

    def __init__(self, on_call: Callable[[], None] = lambda: None) -> None:
        self.objects: dict[str, bytes] = {}
        self._on_call = on_call

    def put_object(self, Bucket: str, Key: str, Body: bytes, ContentType: str) -> Any:  # noqa: N803
        self._on_call()
        assert self.objects.setdefault(Key, Body) == Body, "the same record is kept in the same words"
        self._on_call()
        return {}


def _key(item: Stored) -> tuple[str, str]:
    return item["pk"]["S"], item["sk"]["S"]
