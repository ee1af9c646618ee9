"""Waiting, without holding a worker, until everything that was sent has been processed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

_DEPTHS = {
    "ApproximateNumberOfMessages": "visible",
    "ApproximateNumberOfMessagesNotVisible": "in flight",
    "ApproximateNumberOfMessagesDelayed": "delayed",
}


class DrainedTrigger(BaseTrigger):
    """Fires when every shard's checkpoint is where it has to be and every queue has stayed empty.

    The event is ``{"status": "drained" | "timeout", "behind": [texts], "shards": how many were wanted, "deadline": as
    given}``; ``behind`` names each shard with its checkpoint and each queue with its depths.

    Args:
        wanted: shard id to the sequence number its checkpoint has to reach.
        checkpoints: ``table``, ``consumer`` and ``incarnation`` of the checkpoints; None where ``wanted`` is empty.
        queues: URLs of the queues that have to be empty.
        deadline: when to give up, in seconds since 1970: a triggerer that restarts does not begin anew.
        settle_seconds: how long the queues have to stay empty.
        poll_interval: seconds between two looks.
        aws_conn_id: Airflow connection.
        region_name: region, where the connection's is not meant.
    """

    def __init__(
        self,
        *,
        wanted: Mapping[str, str],
        checkpoints: Mapping[str, str] | None,
        queues: Sequence[str],
        deadline: float,
        settle_seconds: float,
        poll_interval: float,
        aws_conn_id: str | None,
        region_name: str | None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wanted = wanted
        self.checkpoints = checkpoints
        self.queues = queues
        self.deadline = deadline
        self.settle_seconds = settle_seconds
        self.poll_interval = poll_interval
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        arguments = {
            "wanted": dict(self.wanted),
            "checkpoints": dict(self.checkpoints) if self.checkpoints else None,
            "queues": list(self.queues),
            "deadline": self.deadline,
            "settle_seconds": self.settle_seconds,
            "poll_interval": self.poll_interval,
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look until all is drained, or the deadline has passed."""
        empty_since: float | None = None
        async with AsyncExitStack() as stack:
            dynamodb = await self._client(stack, "dynamodb") if self.wanted else None
            sqs = await self._client(stack, "sqs") if self.queues else None
            while True:
                behind = await self._shards_behind(dynamodb) if dynamodb else []
                waiting = await self._queues_behind(sqs) if sqs else []
                now = time.monotonic()
                empty_since = None if waiting else empty_since or now
                settled = not self.queues or (empty_since is not None and now - empty_since >= self.settle_seconds)
                if settled and not behind:
                    yield self._event("drained", [])
                    return
                if time.time() >= self.deadline:
                    yield self._event("timeout", behind + waiting or ["the queues have only just become empty"])
                    return
                self.log.info("Not drained: %s", "; ".join(behind + waiting) or "queues are empty, settling")
                await asyncio.sleep(self.poll_interval)

    def _event(self, status: str, behind: list[str]) -> TriggerEvent:
        payload = {"status": status, "behind": behind, "shards": len(self.wanted), "deadline": self.deadline}
        return TriggerEvent(payload)  # type: ignore[no-untyped-call]

    async def _client(self, stack: AsyncExitStack, service: str) -> Any:
        hook = AwsBaseHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name, client_type=service)
        return await stack.enter_async_context(await hook.get_async_conn())  # type: ignore[no-untyped-call]

    async def _shards_behind(self, dynamodb: Any) -> list[str]:
        reached = await self._reached(dynamodb)
        return [
            f"shard {shard_id} is at {reached.get(shard_id, 'its beginning')}, wanted {sequence}"
            for shard_id, sequence in self.wanted.items()
            if int(reached.get(shard_id, 0)) < int(sequence)
        ]

    async def _reached(self, dynamodb: Any) -> dict[str, str]:
        """Return the consumer's checkpoints: shard id to the sequence number up to which all is applied.

        A checkpoint with a part stands inside its record, of which some keys are still to do.
        """
        where = self.checkpoints or {}
        pages = dynamodb.get_paginator("query").paginate(
            TableName=where["table"],
            ConsistentRead=True,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"checkpoint#{where['incarnation']}#{where['consumer']}"}},
        )
        return {
            item["sk"]["S"]: str(int(item["sequence"]["S"]) - (item["part"]["N"] != "0"))
            async for page in pages
            for item in page["Items"]
        }

    async def _queues_behind(self, sqs: Any) -> list[str]:
        behind = []
        for url in self.queues:
            answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(_DEPTHS))
            depths = {name: int(answer["Attributes"][attribute]) for attribute, name in _DEPTHS.items()}
            if any(depths.values()):
                text = ", ".join(f"{depth} {name}" for name, depth in depths.items())
                behind.append(f"queue {url.rsplit('/', 1)[-1]} has {text}")
        return behind
