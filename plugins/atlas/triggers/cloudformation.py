"""Waiting for a CloudFormation stack without holding a worker."""

from __future__ import annotations

from typing import Any

from airflow.providers.amazon.aws.triggers.base import AwsBaseWaiterTrigger

from atlas.hooks.cloudformation import StackHook


class StackSettledTrigger(AwsBaseWaiterTrigger):
    """Fires when no operation is in progress on a stack; it does not judge how the operation ended.

    Args:
        stack_id: ARN of the stack; by its name a deleted stack could not be told from one that never was.
        expected: status in which the task's own operation should end, None if it is somebody else's. The
            event hands it back, with the stack, as ``awaited``: ``dag.test()`` drops what a deferred task
            keeps for itself. ``UPDATE_COMPLETE`` makes a kill cancel the update.
        waiter_delay: seconds between two looks.
        waiter_max_attempts: looks before the event says ``error``.
    """

    def __init__(
        self,
        *,
        stack_id: str,
        expected: str | None,
        waiter_delay: int,
        waiter_max_attempts: int,
        **hook_params: Any,
    ) -> None:
        awaited = {"stack_id": stack_id, "expected": expected}
        super().__init__(
            serialized_fields=awaited,
            waiter_name="stack_settled",
            waiter_args={"StackName": stack_id},
            failure_message=f"Cannot follow stack {stack_id}",
            status_message=f"Stack {stack_id}",
            status_queries=["Stacks[0].StackStatus"],
            return_key="awaited",
            return_value=awaited,
            waiter_delay=waiter_delay,
            waiter_max_attempts=waiter_max_attempts,
            **hook_params,
        )
        self.stack_id = stack_id
        self.expected = expected

    def hook(self) -> StackHook:
        """Return the hook that knows the ``stack_settled`` waiter."""
        return StackHook(  # type: ignore[no-untyped-call]
            aws_conn_id=self.aws_conn_id,
            region_name=self.region_name,
            verify=self.verify,
            config=self.botocore_config,
        )

    async def on_kill(self) -> None:
        """Cancel the task's own update when a user clears or marks the task; CloudFormation rolls it back.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CancelUpdateStack.html
        """
        if self.expected == "UPDATE_COMPLETE":
            self.log.info("Cancelling the update of %s", self.stack_id)
            hook = self.hook()
            async with await hook.get_async_conn() as client:  # type: ignore[no-untyped-call]
                await client.cancel_update_stack(StackName=self.stack_id)
