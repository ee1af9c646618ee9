"""Bring a stack to its template, and remove it.

The Amazon provider's CloudFormation operators start an operation and do not wait for it; these two wait,
package local sources, and recover from what an earlier operation left behind.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.providers.amazon.aws.utils.waiter_with_logging import wait
from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException, conf
from airflow.sdk.log import mask_secret
from botocore.exceptions import ClientError

from atlas import stacks
from atlas.hooks.cloudformation import StackHook
from atlas.packaging import Package, Template, digest, package, parse_template
from atlas.paths import include_folder
from atlas.triggers.cloudformation import StackSettledTrigger

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import Context
    from mypy_boto3_cloudformation.literals import ChangeSetTypeType
    from mypy_boto3_cloudformation.type_defs import StackTypeDef
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectIdentifierTypeDef

# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html
MAX_TEMPLATE_BODY_BYTES = 51_200

# https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
MAX_DELETED_OBJECTS = 1000

# A stack in one of these can only be deleted; it never was complete, or somebody wanted it gone.
_BROKEN = ("CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED")


class _StackOperator(AwsBaseOperator[StackHook]):
    """Starts an operation on a stack, waits until the stack settles, and goes on from there.

    Every wait ends in :meth:`resume`, on the worker that waited or, deferred, on the one that takes over.

    Args:
        stack_name: name of the stack (templated).
        poll_interval: seconds between two looks at the stack.
        timeout: seconds to wait for one operation on the stack.
        deferrable: wait in the triggerer instead of on the worker.
    """

    aws_hook_class = StackHook

    goals: tuple[str, ...]
    """The statuses an own operation reaches when the task's work is done."""

    def __init__(
        self,
        *,
        stack_name: str,
        poll_interval: int = 15,
        timeout: int = 3600,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stack_name = stack_name
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.deferrable = deferrable

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, str] | None:
        """Judge the stack now that it settled, and go on.

        The event is that of :class:`StackSettledTrigger`: ``awaited`` says which stack was waited for, and in
        which status this task's own operation should end, None if the operation was somebody else's.

        Raises:
            AirflowException: the stack did not settle in time, or not as expected; lists the failed events.
        """
        if event["status"] != "success":
            raise AirflowException(event["message"])
        stack_id, expected = event["awaited"]["stack_id"], event["awaited"]["expected"]
        stack = stacks.find(self.hook.client, stack_id)
        status = stack["StackStatus"] if stack else "DELETE_COMPLETE"
        self.log.info("Stack %s is %s", self.stack_name, status)
        if expected not in (None, status):
            failures = stacks.failures(self.hook.client, stack_id)
            raise AirflowException("\n  ".join([f"Stack {self.stack_name} is {status}:", *failures]))
        if expected in self.goals:
            return stacks.outputs(stack) if stack else None
        return self._proceed(context)

    def _proceed(self, context: Context) -> dict[str, str] | None:
        """Start the next operation, once nobody else's is in progress."""
        stack = stacks.find(self.hook.client, self.stack_name)
        if stack and stacks.in_progress(stack):
            self.log.info("Stack %s is %s: waiting until it settles", self.stack_name, stack["StackStatus"])
            return self._wait(context, stack["StackId"], None)
        return self._next(context, stack)

    @abstractmethod
    def _next(self, context: Context, stack: StackTypeDef | None) -> dict[str, str] | None:
        """Start what a stack without an operation in progress needs; None: there is no stack."""

    def _wait(self, context: Context, stack_id: str, expected: str | None) -> dict[str, str] | None:
        attempts = math.ceil(self.timeout / self.poll_interval)
        if self.deferrable:
            self.defer(
                trigger=StackSettledTrigger(
                    stack_id=stack_id,
                    expected=expected,
                    waiter_delay=self.poll_interval,
                    waiter_max_attempts=attempts,
                    aws_conn_id=self.aws_conn_id,
                    region_name=self.region_name,
                    verify=self.verify,
                    botocore_config=self.botocore_config,
                ),
                method_name="resume",
            )
        wait(
            waiter=self.hook.get_waiter("stack_settled"),
            waiter_delay=self.poll_interval,
            waiter_max_attempts=attempts,
            args={"StackName": stack_id},
            failure_message=f"Cannot follow stack {stack_id}",
            status_message=f"Stack {stack_id}",
            status_args=["Stacks[0].StackStatus"],
        )
        return self.resume(context, {"status": "success", "awaited": {"stack_id": stack_id, "expected": expected}})

    def _delete(self, context: Context, stack: StackTypeDef) -> dict[str, str] | None:
        s3: S3Client = S3Hook(**self._hook_parameters).get_conn()
        for bucket in self._deletable_buckets(stack["StackId"]):
            self.log.info("Emptied s3://%s of %d object versions", bucket, empty_bucket(s3, bucket))
        self.hook.client.delete_stack(StackName=stack["StackId"])
        return self._wait(context, stack["StackId"], "DELETE_COMPLETE")

    def _deletable_buckets(self, stack_id: str) -> Iterator[str]:
        """Yield the names of the stack's buckets that CloudFormation will delete with it.

        ``Retain`` and ``RetainExceptOnCreate`` keep a bucket when its stack is deleted:
        https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-attribute-deletionpolicy.html
        """
        client = self.hook.client
        pages = client.get_paginator("list_stack_resources").paginate(StackName=stack_id)
        buckets = {
            resource["LogicalResourceId"]: resource["PhysicalResourceId"]
            for page in pages
            for resource in page["StackResourceSummaries"]
            if resource["ResourceType"] == "AWS::S3::Bucket"
            and resource["ResourceStatus"] != "DELETE_COMPLETE"
            and resource.get("PhysicalResourceId")
        }
        if not buckets:
            return
        body = client.get_template(StackName=stack_id, TemplateStage="Processed")["TemplateBody"]
        template: Template = parse_template(body) if isinstance(body, str) else dict(body)
        for logical_id, bucket in buckets.items():
            policy = template["Resources"].get(logical_id, {}).get("DeletionPolicy", "Delete")
            if policy == "Delete":
                yield bucket
            else:
                self.log.info("Leaving s3://%s alone: its DeletionPolicy is %s", bucket, policy)


class DeployStackOperator(_StackOperator):
    """Bring a stack to its template: create it, update it through a change set, or find it unchanged.

    Local sources the template names are packaged and uploaded first (see :mod:`atlas.packaging`). What
    earlier operations left behind is cleared up: a stack whose creation or deletion failed is deleted and
    created again, an update rollback that failed is continued, a stack still in review is reused, and an
    operation in progress is waited for, so that a retry re-attaches to its own update and then finds nothing
    to change. States: https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html

    Stopping the task cancels its running update, deferred too; a creation goes on, because only an update can
    be
    cancelled: https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CancelUpdateStack.html

    Args:
        template: path of the template below ``include/templates``.
        parameters: values of the template's parameters (templated); a parameter left out takes its default,
            on updates too. Values of ``NoEcho`` parameters are masked in logs and in the rendered template.
        tags: tags of the stack, which CloudFormation passes on to its resources (templated).
        artifact_bucket: bucket for packages and for templates over 51,200 bytes (templated); optional if the
            template needs neither.
        service_role: name of the role CloudFormation acts with (templated); by default it acts with the
            caller's permissions. The role stays with the stack for later operations.
        capabilities: what the template is allowed to create.

    Returns:
        The stack's outputs, value by key, each an XCom of its own as well: ``deploy.output["BucketName"]``.

    Raises:
        FileNotFoundError: the template or one of its local sources is missing.
        ValueError: an artifact bucket is needed and none is given.
        StackError: the change set could not be created.
        AirflowException: the operation failed (with the failed events), or it took longer than ``timeout``.
    """

    template_fields: Sequence[str] = aws_template_fields(
        "stack_name", "parameters", "tags", "artifact_bucket", "service_role"
    )
    goals = ("CREATE_COMPLETE", "UPDATE_COMPLETE")

    def __init__(
        self,
        *,
        template: str,
        parameters: Mapping[str, str | int | bool] | None = None,
        tags: Mapping[str, str] | None = None,
        artifact_bucket: str | None = None,
        service_role: str | None = None,
        capabilities: Sequence[str] = ("CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"),
        multiple_outputs: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(multiple_outputs=multiple_outputs, **kwargs)
        self.template = template
        self.parameters = parameters
        self.tags = tags
        self.artifact_bucket = artifact_bucket
        self.service_role = service_role
        self.capabilities = capabilities
        self._updating: str | None = None

    def render_template_fields(self, context: Context, jinja_env: jinja2.Environment | None = None) -> None:
        """Render, then mask the values of ``NoEcho`` parameters before anything shows them."""
        super().render_template_fields(context, jinja_env)
        declared = parse_template(self._template_file.read_text(encoding="utf-8")).get("Parameters", {})
        for name, value in (self.parameters or {}).items():
            if str(declared.get(name, {}).get("NoEcho", False)).lower() == "true":
                mask_secret(str(value))

    def execute(self, context: Context) -> dict[str, str] | None:
        """Bring the stack to its template and return its outputs."""
        return self._proceed(context)

    def on_kill(self) -> None:
        """Cancel the update this task started, if it is still running."""
        stack = stacks.find(self.hook.client, self._updating) if self._updating else None
        if stack and stack["StackStatus"] == "UPDATE_IN_PROGRESS":
            self.log.info("Cancelling the update of stack %s", self.stack_name)
            self.hook.client.cancel_update_stack(StackName=stack["StackId"])

    @property
    def _template_file(self) -> Path:
        return include_folder(self.dag.fileloc) / "templates" / self.template

    def _next(self, context: Context, stack: StackTypeDef | None) -> dict[str, str] | None:
        if stack is None or stack["StackStatus"] == "REVIEW_IN_PROGRESS":
            return self._deploy(context, "CREATE")
        stack_id, status = stack["StackId"], stack["StackStatus"]
        if status in _BROKEN:
            self.log.info("Stack %s is %s: deleting it to create it again", self.stack_name, status)
            return self._delete(context, stack)
        if status == "UPDATE_ROLLBACK_FAILED":
            self.log.info("Stack %s is %s: continuing the rollback", self.stack_name, status)
            self.hook.client.continue_update_rollback(StackName=stack_id)
            return self._wait(context, stack_id, "UPDATE_ROLLBACK_COMPLETE")
        return self._deploy(context, "UPDATE")

    def _deploy(self, context: Context, kind: ChangeSetTypeType) -> dict[str, str] | None:
        client = self.hook.client
        change_set = stacks.create_change_set(
            client,
            min(self.poll_interval, 5),
            StackName=self.stack_name,
            ChangeSetName=f"airflow-{uuid4()}",
            ChangeSetType=kind,
            Capabilities=list(self.capabilities),
            Parameters=[
                {
                    "ParameterKey": key,
                    "ParameterValue": value if isinstance(value, str) else json.dumps(value),
                }
                for key, value in (self.parameters or {}).items()
            ],
            Tags=[{"Key": key, "Value": value} for key, value in (self.tags or {}).items()],
            **self._upload(package(self._template_file, self.artifact_bucket)),
            **self._role(),
        )
        if change_set is None:
            self.log.info("Stack %s already is as its template says", self.stack_name)
            return stacks.outputs(client.describe_stacks(StackName=self.stack_name)["Stacks"][0])
        for change in change_set.changes:
            self.log.info("%s %s (%s)", change["Action"], change["LogicalResourceId"], change["ResourceType"])
        client.execute_change_set(ChangeSetName=change_set.id)
        if kind == "UPDATE":
            self._updating = change_set.stack_id
        return self._wait(context, change_set.stack_id, f"{kind}_COMPLETE")

    def _upload(self, packaged: Package) -> dict[str, Any]:
        """Upload what is not there yet and return the template argument of ``create_change_set``."""
        body = packaged.body.encode()
        objects = dict(packaged.objects)
        template_key = f"templates/{digest(body)}.json"
        if len(body) > MAX_TEMPLATE_BODY_BYTES:
            if not self.artifact_bucket:
                raise ValueError(f"{self.template} exceeds {MAX_TEMPLATE_BODY_BYTES} bytes: artifact bucket needed")
            objects[template_key] = body
        s3 = S3Hook(**self._hook_parameters)
        for key, content in objects.items():
            if not s3.check_for_key(key, self.artifact_bucket):
                self.log.info("Uploading s3://%s/%s (%d bytes)", self.artifact_bucket, key, len(content))
                s3.load_bytes(content, key, self.artifact_bucket, replace=True)
        if template_key in objects:
            return {"TemplateURL": f"{s3.conn_client_meta.endpoint_url}/{self.artifact_bucket}/{template_key}"}
        return {"TemplateBody": packaged.body}

    def _role(self) -> dict[str, Any]:
        if not self.service_role:
            return {}
        arn = f"arn:{self.hook.conn_partition}:iam::{self.hook.account_id}:role/{self.service_role}"
        return {"RoleARN": arn}


class RemoveStackOperator(_StackOperator):
    """Delete a stack with what is in its buckets; a stack that is not there is a success.

    Every object version and delete marker goes, except in buckets the template retains and under Object Lock,
    whose objects make the task fail. CloudFormation acts with the role the stack was deployed with. A retry
    re-attaches to a deletion in progress. Buckets of nested stacks are not emptied.

    With ``keep`` the task ends *skipped*: the grid then shows that the stack is still there, and a skipped
    teardown does not decide the state of its run.

    Args:
        keep: leave the stack (templated): a bool, or "true" or "false" in any case.

    Raises:
        ValueError: ``keep`` is neither true nor false; nothing is deleted on a guess.
        AirflowSkipException: ``keep`` is true.
        AirflowException: the deletion failed (with the failed events), an object could not be deleted, or it
            took longer than ``timeout``.
    """

    template_fields: Sequence[str] = aws_template_fields("stack_name", "keep")
    goals = ("DELETE_COMPLETE",)

    def __init__(self, *, keep: bool | str = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keep = keep

    def execute(self, context: Context) -> None:
        """Delete the stack unless it is to be kept."""
        keep = str(self.keep).lower()
        if keep not in ("true", "false"):
            raise ValueError(f"keep is {self.keep!r}, expected true or false")
        if keep == "true":
            raise AirflowSkipException(f"Stack {self.stack_name} is kept, as asked")
        self._proceed(context)

    def _next(self, context: Context, stack: StackTypeDef | None) -> dict[str, str] | None:
        if stack is None:
            self.log.info("There is no stack %s", self.stack_name)
            return None
        return self._delete(context, stack)


def empty_bucket(s3: S3Client, bucket: str, prefix: str = "") -> int:
    """Delete all object versions and delete markers of ``bucket``, or those below ``prefix``; return how many.

    Raises:
        AirflowException: S3 refused to delete some of them.
    """
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=prefix)
    versions: Iterator[ObjectIdentifierTypeDef] = (
        {"Key": entry["Key"], "VersionId": entry["VersionId"]}
        for page in pages
        for entry in [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
    )
    deleted = 0
    try:
        while batch := list(islice(versions, MAX_DELETED_OBJECTS)):
            errors = s3.delete_objects(Bucket=bucket, Delete={"Objects": batch, "Quiet": True}).get("Errors", [])
            if errors:
                first = "; ".join(f"{error['Key']}: {error['Message']}" for error in errors[:5])
                raise AirflowException(f"{len(errors)} objects of s3://{bucket} cannot be deleted: {first}")
            deleted += len(batch)
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchBucket":
            raise
    return deleted
