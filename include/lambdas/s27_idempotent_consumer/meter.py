"""Counts what DynamoDB charges, in whatever library the request is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

READS = {"BatchGetItem", "GetItem", "Query"}


@dataclass
class Cost:
    """Requests, and the request units they took (strongly consistent reads of up to 4 KB, writes of up to 1 KB)."""

    requests: int = 0
    read_units: float = 0.0
    write_units: float = 0.0


class Meter:
    """Listens to a DynamoDB client: asks each request for its consumed capacity and adds the answers up.

    A refused write takes write units too and does not say how many. Counted is what the documentation gives for items
    below 1 KB, which all are here: one for a write whose condition fails, two per item of a transaction.
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
    https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/transaction-apis.html

    Not safe for threads: a function processes one event at a time.
    """

    def __init__(self, client: Any) -> None:
        self.cost = Cost()
        self._items = 1
        client.meta.events.register("provide-client-params.dynamodb", self._ask)
        client.meta.events.register("after-call.dynamodb", self._count)

    def reset(self) -> None:
        """Begin at nothing."""
        self.cost = Cost()

    def _ask(self, params: dict[str, Any], **_: Any) -> dict[str, Any]:
        self._items = 2 * len(params["TransactItems"]) if "TransactItems" in params else 1
        return {**params, "ReturnConsumedCapacity": "TOTAL"}

    def _count(self, parsed: dict[str, Any], model: Any, **_: Any) -> None:
        self.cost.requests += 1
        if parsed.get("Error", {}).get("Code") in ("ConditionalCheckFailedException", "TransactionCanceledException"):
            self.cost.write_units += self._items
        consumed = parsed.get("ConsumedCapacity", [])
        for capacity in consumed if isinstance(consumed, list) else [consumed]:
            # A transaction that is sent again under its token is answered by a read, and says so.
            read = capacity.get("ReadCapacityUnits", capacity["CapacityUnits"] if model.name in READS else 0.0)
            self.cost.read_units += read
            self.cost.write_units += capacity["CapacityUnits"] - read
