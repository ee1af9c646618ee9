"""Waiting until a load has been processed to its last record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowException, conf
from airflow.sdk import BaseOperator, Context

from atlas.loadgen.feed import Manifest
from atlas.triggers.drained import DrainedTrigger


class DrainedSensor(BaseOperator):
    """Wait until the consumers are through with a feed.

    A stream is drained when the checkpoint of every shard is at or above the last sequence number the feed was given
    for it; a shard the feed put nothing on is drained. Iterator-age metrics are late, and absent when
    idle.

    A queue is drained when nothing in it is visible, in flight or delayed, look after look, for ``settle_seconds``:
    its counts are approximate and agree only about a minute after the last message was sent
    (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueAttributes.html).

    Args:
        manifest: ``s3://`` address of the feed's manifest (templated). None or empty, because nothing was fed: only
            the queues count.
        checkpoints: where the consumer's checkpoints are (templated): ``table``, ``consumer`` and ``incarnation``.
        queues: URLs of queues that have to run empty (templated).
        settle_seconds: how long they have to stay empty; by default four times ``poll_interval``.
        poll_interval: seconds between two looks.
        timeout: seconds to wait at most.
        deferrable: wait in the triggerer instead of on the worker.
        aws_conn_id: Airflow connection (templated).
        region_name: region, where the connection's is not meant (templated).

    Returns:
        ``{"seconds": how long it took, "shards": how many had records, "queues": how many were watched}``.

    Raises:
        ValueError: neither checkpoints nor queues are given.
        AirflowException: not drained in time; names the shards with their checkpoints and the queues with their counts.
    """

    template_fields: Sequence[str] = ("manifest", "checkpoints", "queues", "aws_conn_id", "region_name")
    ui_color = "#e6deff"

    def __init__(
        self,
        *,
        manifest: str | None = None,
        checkpoints: Mapping[str, str] | None = None,
        queues: Sequence[str] = (),
        settle_seconds: float | None = None,
        poll_interval: float = 15,
        timeout: float = 1800,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not checkpoints and not queues:
            raise ValueError(f"{self.task_id}: give checkpoints or queues to look at")
        self.manifest = manifest
        self.checkpoints = checkpoints
        self.queues = queues
        self.settle_seconds = settle_seconds
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.deferrable = deferrable
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def execute(self, context: Context) -> dict[str, float]:
        """Wait in the triggerer, or here."""
        trigger = DrainedTrigger(
            wanted=self._wanted(),
            checkpoints=self.checkpoints,
            queues=self.queues,
            deadline=time.time() + self.timeout,
            settle_seconds=4 * self.poll_interval if self.settle_seconds is None else self.settle_seconds,
            poll_interval=self.poll_interval,
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
        )
        if self.deferrable:
            self.defer(trigger=trigger, method_name="resume")

        async def fire() -> Any:
            return (await anext(trigger.run())).payload

        return self.resume(context, asyncio.run(fire()))

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, float]:
        """Judge the event of :class:`DrainedTrigger`."""
        if event["status"] != "drained":
            raise AirflowException(f"Not drained after {self.timeout:.0f} seconds: {'; '.join(event['behind'])}")
        seconds = round(self.timeout - (event["deadline"] - time.time()), 1)
        self.log.info("Drained after %s seconds", seconds)
        return {"seconds": seconds, "shards": event["shards"], "queues": len(self.queues)}

    def _wanted(self) -> dict[str, str]:
        """Return how far each shard's checkpoint has to get."""
        if not self.checkpoints or not self.manifest:
            return {}
        s3 = S3Hook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)
        return {shard_id: shard.last for shard_id, shard in Manifest.load(s3, self.manifest).shards.items()}
