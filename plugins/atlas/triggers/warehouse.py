"""Waiting for a load of the warehouse, or for something to load, without holding a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.providers.amazon.aws.triggers.redshift_data import RedshiftDataTrigger
from airflow.triggers.base import TriggerEvent


class WarehouseTrigger(RedshiftDataTrigger):
    """Fires when a statement has ended, however it did, or its time is up, or after ``poll_interval`` if there is none.

    A kill cancels the statement, which the provider's trigger does.

    Args:
        progress: what the task has to know when it goes on; the event is this, because ``dag.test()`` drops what a
            deferred task keeps for itself.
        statement_id: the statement to wait for, if there is one.
        deadline: until when, in seconds since 1970.
        poll_interval: seconds between two looks.
        hook_params: connection, region and the like.
    """

    def __init__(
        self,
        *,
        progress: dict[str, Any],
        statement_id: str | None,
        deadline: float,
        poll_interval: float,
        **hook_params: Any,
    ) -> None:
        super().__init__(statement_id or "", task_id="", poll_interval=poll_interval, **hook_params)  # type: ignore[arg-type]
        self.progress = progress
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments."""
        arguments = {
            "progress": self.progress,
            "statement_id": self.statement_id,
            "deadline": self.deadline,
            "poll_interval": self.poll_interval,
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, then hand the progress back."""
        if not self.statement_id:
            await asyncio.sleep(self.poll_interval)
        while self.statement_id and time.time() < self.deadline:
            if not await self.hook.is_still_running(self.statement_id):
                break
            await asyncio.sleep(self.poll_interval)
        yield TriggerEvent(self.progress)  # type: ignore[no-untyped-call]
