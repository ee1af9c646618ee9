"""CloudFormation stacks: their state, why an operation failed, change sets.

For operators and programs alike: nothing here needs Airflow. States of a stack:
https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError, WaiterError

if TYPE_CHECKING:
    from datetime import datetime

    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import (
        DescribeEventsInputPaginateTypeDef,
        ResourceChangeTypeDef,
        StackTypeDef,
    )

# The events with which an operation on a stack begins. A rollback is part of the operation that failed.
_BEGINNINGS = ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS")

# Reasons that only count the errors name the API that tells them.
_DETAILS_ELSEWHERE = "DescribeEvents"

_NO_CHANGES = ("didn't contain changes", "No updates are to be performed")


class StackError(RuntimeError):
    """A change set could not be created; the message has the reasons."""


@dataclass(frozen=True)
class ChangeSet:
    """A change set that can be executed, and what it does to the stack's resources."""

    id: str
    stack_id: str
    changes: list[ResourceChangeTypeDef]


def find(client: CloudFormationClient, name_or_id: str) -> StackTypeDef | None:
    """Return the stack, or None if it does not exist or is deleted (only an id finds a deleted one)."""
    try:
        stack = client.describe_stacks(StackName=name_or_id)["Stacks"][0]
    except ClientError as error:
        if "does not exist" in error.response["Error"]["Message"]:
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def outputs(stack: StackTypeDef) -> dict[str, str]:
    """Return a stack's outputs, value by key."""
    return {output["OutputKey"]: output["OutputValue"] for output in stack.get("Outputs", [])}


def in_progress(stack: StackTypeDef) -> bool:
    """Return whether an operation on the stack is in progress; a stack in review waits for its first one."""
    status = stack["StackStatus"]
    return status.endswith("_IN_PROGRESS") and status != "REVIEW_IN_PROGRESS"


def create_change_set(client: CloudFormationClient, delay: int, **request: Any) -> ChangeSet | None:
    """Create a change set and wait until it is computed; None: there is nothing to change, and it is deleted again.

    CloudFormation reports an empty change set as a failed one and says so only in words:
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-changesets.html

    Args:
        client: of CloudFormation.
        delay: seconds between two looks.
        request: members of the ``CreateChangeSet`` call.

    Raises:
        StackError: the change set could not be created.
    """
    created = client.create_change_set(**request)
    change_set = created["Id"]
    try:
        client.get_waiter("change_set_create_complete").wait(
            ChangeSetName=change_set, WaiterConfig={"Delay": delay, "MaxAttempts": 120}
        )
    except WaiterError as error:
        described = client.describe_change_set(ChangeSetName=change_set)
        reason = described.get("StatusReason", str(error))
        if described["Status"] == "FAILED" and any(text in reason for text in _NO_CHANGES):
            client.delete_change_set(ChangeSetName=change_set)
            return None
        details = _validation_errors(client, {"ChangeSetName": change_set}) if _DETAILS_ELSEWHERE in reason else []
        raise StackError(
            "\n  ".join([f"No change set for stack {request['StackName']}: {reason}", *details])
        ) from error
    pages = client.get_paginator("describe_change_set").paginate(ChangeSetName=change_set)
    changes = [change["ResourceChange"] for page in pages for change in page["Changes"]]
    return ChangeSet(change_set, created["StackId"], changes)


def failures(client: CloudFormationClient, stack_id: str) -> list[str]:
    """Return what failed in the latest operation: "resource (type) status: reason", oldest first.

    Resources that were merely cancelled because another one failed are left out.
    """
    found = []
    began = None
    pages = client.get_paginator("describe_stack_events").paginate(StackName=stack_id)
    for event in (event for page in pages for event in page["StackEvents"]):
        status, reason = event.get("ResourceStatus", ""), event.get("ResourceStatusReason", "no reason given")
        if status.endswith("_FAILED") and not reason.endswith("cancelled"):
            found.append(f"{event['LogicalResourceId']} ({event['ResourceType']}) {status}: {reason}")
        if event.get("PhysicalResourceId") == stack_id and status in _BEGINNINGS:
            began = event["Timestamp"]
            break
    found.reverse()
    if any(_DETAILS_ELSEWHERE in failure for failure in found):
        found += _validation_errors(client, {"StackName": stack_id}, began)
    return found


def _validation_errors(
    client: CloudFormationClient, of: DescribeEventsInputPaginateTypeDef, since: datetime | None = None
) -> list[str]:
    """Return "resource path: reason" for each error pre-deployment validation or a hook found.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/validate-stack-deployments.html
    """
    query: DescribeEventsInputPaginateTypeDef = {**of, "Filters": {"FailedEvents": True}}
    pages = client.get_paginator("describe_events").paginate(**query)
    return [
        f"{event.get('LogicalResourceId', '')} {event.get('ValidationPath', '')}: {reason}"
        for page in pages
        for event in page["OperationEvents"]
        if (since is None or event["Timestamp"] >= since)
        and (reason := event.get("ValidationStatusReason") or event.get("HookStatusReason"))
    ]
