"""The outbox: messages written in the transaction of the effect that they tell of, relayed by the table's stream.

A message is relayed at least once, so what receives it has an inbox of its own or an idempotent API.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from aws_lambda_powertools import Logger

from exactly_once.table import Action, Key, Table

KEPT_SECONDS = 7 * 86_400
"""How long a message stays in the table. A stream's records live for a day; the rest is for people who look."""

logger = Logger(service=os.environ.get("AWS_LAMBDA_FUNCTION_NAME"))


@dataclass(frozen=True)
class Message:
    """Something to be told once; ``id`` identifies it for ever, ``body`` is written as JSON (decimals as text)."""

    id: str
    kind: str
    body: Mapping[str, Any]


def actions(table: Table, messages: Iterable[Message]) -> list[Action]:
    """Return the actions that put messages into the outbox.

    Without a condition: a message that is there already is not inserted again, so it is not relayed again.
    """
    expires_at = int(time.time()) + KEPT_SECONDS
    return [
        table.put(
            Key(f"outbox#{message.id}", "outbox"),
            {"kind": message.kind, "body": msgspec.json.encode(message.body).decode(), "expires_at": expires_at},
        )
        for message in messages
    ]


class Relay:
    """Hands each new message of the table's stream to ``send``, in order, at least once."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send

    def handle(self, event: Mapping[str, Any], context: object = None) -> dict[str, list[dict[str, str]]]:
        """Relay the messages of a DynamoDB stream's event.

        Stops at the first that fails: the answer names it, and Lambda delivers again from there on. See
        https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html
        """
        for record in event["Records"]:
            change = record["dynamodb"]
            key = change["Keys"]["pk"]["S"]
            if record["eventName"] != "INSERT" or not key.startswith("outbox#"):
                continue
            item = change["NewImage"]
            message = Message(key.removeprefix("outbox#"), item["kind"]["S"], msgspec.json.decode(item["body"]["S"]))
            try:
                self._send(message)
            except Exception:
                logger.exception("A message was not sent", extra={"message_id": message.id, "kind": message.kind})
                return {"batchItemFailures": [{"itemIdentifier": change["SequenceNumber"]}]}
        return {"batchItemFailures": []}
