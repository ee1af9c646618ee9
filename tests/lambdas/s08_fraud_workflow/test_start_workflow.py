"""Starting workflows from the outbox."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.lambdas.s08_fraud_workflow.conftest import Functions


class Workflows:
    """Step Functions as the function sees it: a name is taken once."""

    class exceptions:  # noqa: N801
        class ExecutionAlreadyExists(Exception):  # noqa: N818
            pass

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}
        self.broken = False

    def start_execution(self, stateMachineArn: str, name: str, input: str) -> None:  # noqa: N803
        assert stateMachineArn == "arn"
        if self.broken:
            raise ClientError({"Error": {"Code": "ThrottlingException", "Message": "busy"}}, "StartExecution")
        if name in self.started:
            raise self.exceptions.ExecutionAlreadyExists
        self.started[name] = json.loads(input)


@pytest.fixture
def workflows(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> Workflows:
    workflows = Workflows()
    monkeypatch.setattr(functions.start_workflow, "_workflows", workflows)
    return workflows


def changes(*ids: str) -> dict[str, Any]:
    """Return the event in which these messages enter the table."""
    return {
        "Records": [
            {
                "eventName": "INSERT",
                "dynamodb": {
                    "SequenceNumber": str(number),
                    "Keys": {"pk": {"S": f"outbox#{id}"}, "sk": {"S": "outbox"}},
                    "NewImage": {"kind": {"S": "suspicion"}, "body": {"S": json.dumps({"event_id": id})}},
                },
            }
            for number, id in enumerate(ids, 1)
        ]
    }


def test_a_message_that_comes_again_starts_nothing_new(functions: Functions, workflows: Workflows) -> None:
    for event in (changes("tx-1"), changes("tx-1", "tx-2")):
        assert functions.start_workflow.handler(event, None) == {"batchItemFailures": []}
    assert workflows.started == {"tx-1": {"event_id": "tx-1"}, "tx-2": {"event_id": "tx-2"}}


def test_what_could_not_be_started_is_delivered_again(functions: Functions, workflows: Workflows) -> None:
    workflows.broken = True
    assert functions.start_workflow.handler(changes("tx-1", "tx-2"), None) == {
        "batchItemFailures": [{"itemIdentifier": "1"}]
    }
    assert workflows.started == {}
