"""What the provider's hook for Step Functions lacks: listing executions, answering a task that waits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from airflow.providers.amazon.aws.hooks.step_function import StepFunctionHook


class WorkflowHook(StepFunctionHook):
    """Lists a state machine's executions and answers its callbacks."""

    def executions(self, state_machine_arn: str, since: datetime) -> Iterator[tuple[str, str]]:
        """Yield name and status of the executions started at ``since`` or later, the latest first.

        https://docs.aws.amazon.com/step-functions/latest/apireference/API_ListExecutions.html
        """
        client: Any = self.get_conn()
        for page in client.get_paginator("list_executions").paginate(stateMachineArn=state_machine_arn):
            for execution in page["executions"]:
                if execution["startDate"] < since:
                    return
                yield execution["name"], execution["status"]

    def answer(self, task_token: str, output: Mapping[str, Any]) -> bool:
        """Answer the task that waits with ``task_token``; false if it does not wait any more.

        https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html
        """
        client: Any = self.get_conn()
        try:
            client.send_task_success(taskToken=task_token, output=json.dumps(output))
        except (client.exceptions.TaskTimedOut, client.exceptions.TaskDoesNotExist):
            return False
        return True
