"""CloudFormation stacks: their state, why an operation failed, and a waiter that knows every state."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.providers.amazon.aws.hooks.cloud_formation import CloudFormationHook
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from datetime import datetime

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import DescribeEventsInputPaginateTypeDef, StackTypeDef

# The events with which an operation on a stack begins. A rollback is part of the operation that failed.
_BEGINNINGS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")

# Reasons that only count the errors name the API that tells them.
_DETAILS_ELSEWHERE = "DescribeEvents"


class StackHook(CloudFormationHook):
    """The provider's hook plus whole stacks, their failures and the ``stack_settled`` waiter.

    ``stack_settled`` ends when the status no longer ends in ``_IN_PROGRESS``, whatever the operation was; the
    stock waiters know one operation each and overlook some of its ends. States:
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
    """

    @cached_property
    def waiter_path(self) -> Path:
        """The waiter model, looked up by the provider's ``get_waiter``."""
        return Path(__file__).with_name("cloudformation_waiters.json")

    @property
    def client(self) -> CloudFormationClient:
        """The CloudFormation client of the connection."""
        return self.get_conn()

    def find_stack(self, name_or_id: str) -> StackTypeDef | None:
        """Return the stack, or None if it does not exist or is deleted (only an id finds a deleted one)."""
        try:
            stack = self.client.describe_stacks(StackName=name_or_id)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in error.response["Error"]["Message"]:
                return None
            raise
        return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack

    def failures(self, stack_id: str) -> list[str]:
        """Return what failed in the latest operation: "resource (type) status: reason", oldest first.

        Resources that were merely cancelled because another one failed are left out.
        """
        found = []
        began = None
        pages = self.client.get_paginator("describe_stack_events").paginate(StackName=stack_id)
        for event in (event for page in pages for event in page["StackEvents"]):
            status, reason = (
                event.get("ResourceStatus", ""),
                event.get("ResourceStatusReason", "no reason given"),
            )
            if status.endswith("_FAILED") and not reason.endswith("cancelled"):
                found.append(f"{event['LogicalResourceId']} ({event['ResourceType']}) {status}: {reason}")
            if event.get("PhysicalResourceId") == stack_id and status in _BEGINNINGS:
                began = event["Timestamp"]
                break
        found.reverse()
        if any(_DETAILS_ELSEWHERE in failure for failure in found):
            found += self.validation_errors({"StackName": stack_id}, began)
        return found

    def change_set_failures(self, change_set_id: str, reason: str) -> list[str]:
        """Return the details behind the status reason of a change set that could not be created."""
        return self.validation_errors({"ChangeSetName": change_set_id}) if _DETAILS_ELSEWHERE in reason else []

    def validation_errors(self, of: DescribeEventsInputPaginateTypeDef, since: datetime | None = None) -> list[str]:
        """Return "resource path: reason" for each error pre-deployment validation or a hook found.

        https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/validate-stack-deployments.html
        """
        query: DescribeEventsInputPaginateTypeDef = {**of, "Filters": {"FailedEvents": True}}
        pages = self.client.get_paginator("describe_events").paginate(**query)
        return [
            f"{event.get('LogicalResourceId', '')} {event.get('ValidationPath', '')}: {reason}"
            for page in pages
            for event in page["OperationEvents"]
            if (since is None or event["Timestamp"] >= since)
            and (reason := event.get("ValidationStatusReason") or event.get("HookStatusReason"))
        ]
