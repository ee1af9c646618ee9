"""Listing executions and answering tasks that wait."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from atlas.hooks.step_functions import WorkflowHook

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class Client:
    """Step Functions with four executions, the latest first, and one task that waits."""

    class exceptions:  # noqa: N801
        class TaskTimedOut(Exception):  # noqa: N818
            pass

        class TaskDoesNotExist(Exception):  # noqa: N818
            pass

    def __init__(self) -> None:
        self.pages = 0

    def get_paginator(self, operation: str) -> Client:
        assert operation == "list_executions"
        return self

    def paginate(self, stateMachineArn: str) -> Any:  # noqa: N803
        assert stateMachineArn == "arn"
        for page in (("d", "c"), ("b",), ("a",)):
            self.pages += 1
            yield {
                "executions": [
                    {"name": name, "status": "RUNNING", "startDate": NOON + timedelta(hours=ord(name) - ord("b"))}
                    for name in page
                ]
            }

    def send_task_success(self, taskToken: str, output: str) -> None:  # noqa: N803
        if taskToken == "late":
            raise self.exceptions.TaskTimedOut
        if taskToken == "gone":
            raise self.exceptions.TaskDoesNotExist
        assert json.loads(output) == {"decision": "APPROVED"}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> tuple[WorkflowHook, Client]:
    client = Client()
    monkeypatch.setattr(WorkflowHook, "get_conn", lambda _: client)
    return WorkflowHook(), client


def test_executions_since_a_time_are_listed_without_reading_all_history(hook: tuple[WorkflowHook, Client]) -> None:
    workflows, client = hook
    assert list(workflows.executions("arn", NOON + timedelta(minutes=1))) == [("d", "RUNNING"), ("c", "RUNNING")]
    assert client.pages == 2
    assert [name for name, _ in workflows.executions("arn", NOON)] == ["d", "c", "b"]


@pytest.mark.parametrize(("token", "taken"), [("waiting", True), ("late", False), ("gone", False)])
def test_an_answer_says_whether_somebody_waited_for_it(
    hook: tuple[WorkflowHook, Client], token: str, taken: bool
) -> None:
    assert hook[0].answer(token, {"decision": "APPROVED"}) is taken
