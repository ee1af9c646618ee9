"""The inbox: a message's effect, the proof that it was applied and what it has to tell, in one transaction.

For sources without an order or a shard in the event: SQS, SNS, EventBridge, DynamoDB streams.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from exactly_once import outbox
from exactly_once.outbox import Message
from exactly_once.table import Action, ConditionFailed, Key, Table

PATIENCE_SECONDS = 10.0


class Inbox:
    """The messages that ``table`` has taken, each remembered for ``retention``.

    ``retention`` must outlast the source's last possible redelivery: for SQS the queue's retention period plus that of
    its dead-letter queue. ``client`` is a DynamoDB client, the process's own by default.
    """

    def __init__(self, table: str, retention: timedelta, client: Any = None) -> None:
        self._table = Table(table, client)
        self._retention = retention

    def once(self, message_id: str, effect_items: Sequence[Action], messages: Iterable[Message] = ()) -> bool:
        """Apply an effect, unless the message was taken before; return whether this call applied it.

        ``effect_items`` are entries of TransactWriteItems in the low-level form (`table.serialize` makes it); with
        ``messages`` and the marker at most 100. Losing the answer of a commit is harmless: the next delivery finds
        the marker.

        Raises:
            ConditionFailed: conditions of the effect did not hold; ``indexes`` are those of ``effect_items``.
            OutOfTime: conflicts or throttling lasted for 10 s.
            ClientError: DynamoDB refused for another reason.
        """
        marker = self._table.put(
            Key(f"inbox#{message_id}", "inbox"),
            {"expires_at": int(time.time() + self._retention.total_seconds())},
            ConditionExpression="attribute_not_exists(pk)",
        )
        actions = [marker, *effect_items, *outbox.actions(self._table, messages)]
        try:
            self._table.transact(actions, time.monotonic() + PATIENCE_SECONDS)
        except ConditionFailed as failed:
            if 0 in failed.indexes:
                return False
            raise ConditionFailed([index - 1 for index in failed.indexes]) from failed
        return True
