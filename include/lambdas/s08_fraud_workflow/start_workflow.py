"""Starts the workflow of each suspicious transaction, once.

The outbox is relayed at least once; the execution is named after the transaction, and a name that a state machine has
seen in the last 90 days is refused:
https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
"""

from __future__ import annotations

import json
import os
from typing import Any

import boto3

from exactly_once.outbox import Message, Relay

_workflows = boto3.client("stepfunctions")


def start(message: Message) -> None:
    """Start the workflow of one suspicious transaction; one that was started before is left alone."""
    try:
        _workflows.start_execution(
            stateMachineArn=os.environ["STATE_MACHINE_ARN"], name=message.id, input=json.dumps(message.body)
        )
    except _workflows.exceptions.ExecutionAlreadyExists:
        return


_relay = Relay(start)


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Relay the outbox messages of one batch of the table's stream."""
    return _relay.handle(event)
