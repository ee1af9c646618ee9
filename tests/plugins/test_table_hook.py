"""Reading many items of a table."""

from __future__ import annotations

from typing import Any

import pytest

from atlas.hooks import dynamodb
from atlas.hooks.dynamodb import TableHook


class Client:
    """Answers a BatchGetItem call with all but the last key, as a busy table does, and pages of a scan."""

    def __init__(self, stubborn: bool = False) -> None:
        self.calls: list[int] = []
        self.stubborn = stubborn

    def batch_get_item(self, RequestItems: Any) -> dict[str, Any]:  # noqa: N803
        keys = RequestItems["t"]["Keys"]
        assert RequestItems["t"]["ConsistentRead"]
        self.calls.append(len(keys))
        served = keys if len(keys) == 1 and not self.stubborn else keys[:-1]
        left = {"t": {"Keys": keys[len(served) :], "ConsistentRead": True}} if len(served) < len(keys) else {}
        return {"Responses": {"t": [key for key in served if key["pk"] != 7]}, "UnprocessedKeys": left}

    def get_paginator(self, operation: str) -> Client:
        assert operation == "scan"
        return self

    def paginate(self, **arguments: Any) -> list[dict[str, Any]]:
        assert arguments == {"TableName": "t", "ConsistentRead": True}
        return [{"Items": [{"pk": 1}, {"pk": 2}]}, {"Items": [{"pk": 3}]}]


def hook(client: Client) -> TableHook:
    table: Any = TableHook("t")
    table.client = client
    found: TableHook = table
    return found


def test_all_items_come_in_calls_of_a_hundred_keys_and_what_is_left_over_is_asked_for_again() -> None:
    client = Client()
    items = list(hook(client).get_all([{"pk": number} for number in range(150)]))
    assert sorted(item["pk"] for item in items) == [number for number in range(150) if number != 7]
    assert client.calls == [100, 1, 50, 1]


def test_a_table_that_stays_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamodb, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(TimeoutError, match="t was throttled"):
        list(hook(Client(stubborn=True)).get_all([{"pk": 1}]))


def test_a_scan_reads_all_pages() -> None:
    assert [item["pk"] for item in hook(Client()).scan()] == [1, 2, 3]
