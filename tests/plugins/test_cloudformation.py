"""Deploying and removing stacks: what is asked of AWS, what comes back, what a failure says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from aiobotocore.session import get_session  # type: ignore[import-untyped]
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowException, AirflowSkipException, TaskDeferred
from airflow.sdk import DAG
from airflow.triggers.base import TriggerEvent

from atlas.hooks.cloudformation import StackHook
from atlas.operators import cloudformation
from atlas.operators.cloudformation import DeployStackOperator, RemoveStackOperator
from atlas.stacks import StackError
from atlas.triggers.cloudformation import StackSettledTrigger

STACK_ID = "arn:aws:cloudformation:eu-west-1:123456789012:stack/atlas-s00/1"
CHANGE_SET_ID = "arn:aws:cloudformation:eu-west-1:123456789012:changeSet/airflow-1/1"
KEYS = {"region_name": "eu-west-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
MISSING = {"Error": {"Code": "ValidationError", "Message": "Stack with id atlas-s00 does not exist"}}
EMPTY = {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes."}


class Api:
    """Answers AWS calls from a script, the last answer of an operation again and again, and keeps the calls."""

    def __init__(self) -> None:
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def attach(self, client: Any) -> Any:
        client.meta.events.register("before-parameter-build", self._record)
        client.meta.events.register("before-call", self._answer)
        return client

    def asked(self, *operations: str) -> list[tuple[str, dict[str, Any]]]:
        return [call for call in self.calls if call[0] in operations]

    def _record(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.calls.append((model.name, dict(params)))

    def _answer(self, model: Any, **_: Any) -> tuple[Any, dict[str, Any]]:
        answers = self.answers[model.name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        status = 400 if "Error" in answer else 200
        status = 404 if answer.get("Error", {}).get("Code") == "404" else status
        metadata = {"HTTPStatusCode": status, "HTTPHeaders": {}}
        return SimpleNamespace(status_code=status, headers={}), {**answer, "ResponseMetadata": metadata}


def stack(status: str, **more: Any) -> dict[str, Any]:
    return {"Stacks": [{"StackName": "atlas-s00", "StackId": STACK_ID, "StackStatus": status, **more}]}


def event(logical_id: str, status: str, reason: str | None = None, kind: str = "AWS::S3::Bucket") -> dict[str, Any]:
    stack_event = logical_id == "atlas-s00"
    return {
        "LogicalResourceId": logical_id,
        "PhysicalResourceId": STACK_ID if stack_event else f"physical-{logical_id}",
        "ResourceType": "AWS::CloudFormation::Stack" if stack_event else kind,
        "ResourceStatus": status,
        "Timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        **({"ResourceStatusReason": reason} if reason else {}),
    }


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """Scripted CloudFormation and S3 behind the hooks, and no waiting."""
    api = Api()
    api.answers = {
        "CreateChangeSet": [{"Id": CHANGE_SET_ID, "StackId": STACK_ID}],
        "DescribeChangeSet": [{"Status": "CREATE_COMPLETE", "Changes": []}],
        "HeadObject": [{}],
        **{
            operation: [{}]
            for operation in (
                "ExecuteChangeSet",
                "DeleteChangeSet",
                "DeleteStack",
                "ContinueUpdateRollback",
                "CancelUpdateStack",
                "PutObject",
            )
        },
        "ListStackResources": [{"StackResourceSummaries": []}],
    }
    monkeypatch.setattr(StackHook, "conn", api.attach(boto3.client("cloudformation", **KEYS)))  # type: ignore[call-overload]
    monkeypatch.setattr(StackHook, "account_id", "123456789012")
    monkeypatch.setattr(S3Hook, "conn", api.attach(boto3.client("s3", **KEYS)))  # type: ignore[call-overload]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return api


@pytest.fixture
def dag(tmp_path: Path) -> Iterator[DAG]:
    """A DAG whose include folder has one template with a local source."""
    (tmp_path / "include" / "templates").mkdir(parents=True)
    (tmp_path / "include" / "job.py").write_text("print('job')\n")
    (tmp_path / "include" / "templates" / "s00.yaml").write_text(
        """
Parameters:
  Plain: {Type: String}
  Hidden: {Type: String, NoEcho: true}
Resources:
  Job: {Type: AWS::Glue::Job, Properties: {Command: {Name: glueetl, ScriptLocation: ../job.py}}}
"""
    )
    with DAG("s00", schedule=None) as dag:
        dag.fileloc = str(tmp_path / "s00.py")
        yield dag


def deploy(**more: Any) -> DeployStackOperator:
    arguments: dict[str, Any] = {"template": "s00.yaml", "artifact_bucket": "artifacts", "deferrable": False}
    return DeployStackOperator(task_id="deploy_stack", stack_name="atlas-s00", **{**arguments, **more})


def remove(**more: Any) -> RemoveStackOperator:
    return RemoveStackOperator(task_id="remove_stack", stack_name="atlas-s00", **{"deferrable": False, **more})


@pytest.mark.parametrize(
    ("operator", "fields"),
    [
        pytest.param(
            DeployStackOperator,
            {"stack_name", "parameters", "tags", "artifact_bucket", "service_role"},
            id="deploy",
        ),
        pytest.param(RemoveStackOperator, {"stack_name", "keep"}, id="remove"),
    ],
)
def test_template_fields(operator: type[DeployStackOperator], fields: set[str]) -> None:
    assert set(operator.template_fields) == fields | {"aws_conn_id", "region_name", "verify"}


def test_a_new_stack_is_created_with_its_packages(api: Api, dag: DAG) -> None:
    outputs = [{"OutputKey": "Bucket", "OutputValue": "data"}]
    api.answers["DescribeStacks"] = [MISSING, stack("CREATE_IN_PROGRESS"), stack("CREATE_COMPLETE", Outputs=outputs)]
    api.answers["HeadObject"] = [{"Error": {"Code": "404", "Message": "Not Found"}}]

    returned = deploy(
        parameters={"Plain": "a", "Hidden": True}, tags={"atlas:scenario": "s00"}, service_role="atlas-cfn"
    ).execute({})

    assert returned == {"Bucket": "data"}
    ((_, asked),) = api.asked("CreateChangeSet")
    assert asked["ChangeSetType"] == "CREATE"
    assert asked["RoleARN"] == "arn:aws:iam::123456789012:role/atlas-cfn"
    assert asked["Tags"] == [{"Key": "atlas:scenario", "Value": "s00"}]
    assert asked["Parameters"] == [
        {"ParameterKey": "Plain", "ParameterValue": "a"},
        {"ParameterKey": "Hidden", "ParameterValue": "true"},
    ]
    assert set(asked["Capabilities"]) == {"CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"}
    ((_, uploaded),) = api.asked("PutObject")
    script = json.loads(asked["TemplateBody"])["Resources"]["Job"]["Properties"]["Command"]["ScriptLocation"]
    assert script == f"s3://{uploaded['Bucket']}/{uploaded['Key']}"
    assert uploaded["Bucket"] == "artifacts"
    assert [name for name, _ in api.asked("CreateChangeSet", "ExecuteChangeSet")] == [
        "CreateChangeSet",
        "ExecuteChangeSet",
    ]


def test_a_package_that_is_there_is_not_uploaded_again(api: Api, dag: DAG) -> None:
    api.answers["DescribeStacks"] = [MISSING, stack("CREATE_COMPLETE")]

    deploy().execute({})

    assert len(api.asked("HeadObject")) == 1
    assert api.asked("PutObject") == []


def test_a_template_too_large_for_a_request_goes_through_s3(api: Api, dag: DAG, tmp_path: Path) -> None:
    (tmp_path / "include" / "templates" / "big.yaml").write_text(f"Metadata: {'x' * 51_200}\nResources: {{}}\n")
    api.answers["DescribeStacks"] = [MISSING, stack("CREATE_COMPLETE")]
    api.answers["HeadObject"] = [{"Error": {"Code": "404", "Message": "Not Found"}}]

    deploy(template="big.yaml").execute({})

    ((_, asked),) = api.asked("CreateChangeSet")
    ((_, uploaded),) = api.asked("PutObject")
    assert "TemplateBody" not in asked
    assert asked["TemplateURL"] == f"https://s3.eu-west-1.amazonaws.com/artifacts/{uploaded['Key']}"
    assert uploaded["Key"].startswith("templates/")


def test_a_template_too_large_without_a_bucket_is_refused(api: Api, dag: DAG, tmp_path: Path) -> None:
    (tmp_path / "include" / "templates" / "big.yaml").write_text(f"Metadata: {'x' * 51_200}\nResources: {{}}\n")
    api.answers["DescribeStacks"] = [MISSING]

    with pytest.raises(ValueError, match="artifact bucket"):
        deploy(template="big.yaml", artifact_bucket=None).execute({})


def test_an_empty_change_set_is_success_and_leaves_nothing_behind(api: Api, dag: DAG) -> None:
    outputs = [{"OutputKey": "Bucket", "OutputValue": "data"}]
    api.answers["DescribeStacks"] = [stack("UPDATE_COMPLETE", Outputs=outputs)]
    api.answers["DescribeChangeSet"] = [EMPTY]

    assert deploy().execute({}) == {"Bucket": "data"}

    assert api.asked("DeleteChangeSet") == [("DeleteChangeSet", {"ChangeSetName": CHANGE_SET_ID})]
    assert api.asked("ExecuteChangeSet") == []


@pytest.mark.parametrize(
    ("reason", "details"),
    [
        pytest.param("Parameters: [Plain] must have values", None, id="reason"),
        pytest.param("Validation failed. Call DescribeEvents", "Bucket data already exists", id="details"),
    ],
)
def test_a_change_set_that_cannot_be_created_says_why(api: Api, dag: DAG, reason: str, details: str | None) -> None:
    api.answers["DescribeStacks"] = [stack("CREATE_COMPLETE")]
    api.answers["DescribeChangeSet"] = [{"Status": "FAILED", "StatusReason": reason}]
    found = {"LogicalResourceId": "Data", "ValidationPath": "/Resources/Data", "ValidationStatusReason": details}
    api.answers["DescribeEvents"] = [{"OperationEvents": [found]}]

    with pytest.raises(StackError) as failure:
        deploy().execute({})

    assert reason in str(failure.value)
    assert (details is None) == (api.asked("DescribeEvents") == [])
    if details:
        assert f"Data /Resources/Data: {details}" in str(failure.value)
    assert api.asked("ExecuteChangeSet") == []


def test_a_failed_update_lists_what_failed_in_this_operation(api: Api, dag: DAG) -> None:
    api.answers["DescribeStacks"] = [stack("CREATE_COMPLETE"), stack("UPDATE_ROLLBACK_COMPLETE")]
    api.answers["DescribeStackEvents"] = [
        {
            "StackEvents": [
                event("atlas-s00", "UPDATE_ROLLBACK_COMPLETE"),
                event("Late", "UPDATE_FAILED", "no permission"),
                event("Other", "UPDATE_FAILED", "Resource update cancelled"),
                event("Data", "UPDATE_FAILED", "bucket policy is malformed"),
                event("atlas-s00", "UPDATE_IN_PROGRESS", "User Initiated"),
                event("Data", "CREATE_FAILED", "from long ago"),
            ]
        }
    ]

    with pytest.raises(AirflowException) as failure:
        deploy().execute({})

    assert str(failure.value).splitlines() == [
        "Stack atlas-s00 is UPDATE_ROLLBACK_COMPLETE:",
        "  Data (AWS::S3::Bucket) UPDATE_FAILED: bucket policy is malformed",
        "  Late (AWS::S3::Bucket) UPDATE_FAILED: no permission",
    ]


def test_validation_errors_of_earlier_operations_are_left_out(api: Api, dag: DAG) -> None:
    api.answers["DescribeStacks"] = [MISSING, stack("ROLLBACK_COMPLETE")]
    api.answers["DescribeStackEvents"] = [
        {
            "StackEvents": [
                event("atlas-s00", "CREATE_FAILED", "1 error. Call DescribeEvents to see it"),
                event("atlas-s00", "CREATE_IN_PROGRESS"),
            ]
        }
    ]
    now, before = datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(2025, 12, 31, tzinfo=UTC)
    api.answers["DescribeEvents"] = [
        {
            "OperationEvents": [
                {"LogicalResourceId": "Data", "ValidationStatusReason": "name is taken", "Timestamp": now},
                {"LogicalResourceId": "Data", "ValidationStatusReason": "name is odd", "Timestamp": before},
            ]
        }
    ]

    with pytest.raises(AirflowException, match="name is taken") as failure:
        deploy().execute({})

    assert "name is odd" not in str(failure.value)


@pytest.mark.parametrize(
    ("status", "repair", "change_set"),
    [
        pytest.param("ROLLBACK_COMPLETE", "DeleteStack", "CREATE", id="rollback-complete"),
        pytest.param("ROLLBACK_FAILED", "DeleteStack", "CREATE", id="rollback-failed"),
        pytest.param("DELETE_FAILED", "DeleteStack", "CREATE", id="delete-failed"),
        pytest.param("CREATE_FAILED", "DeleteStack", "CREATE", id="create-failed"),
        pytest.param("UPDATE_ROLLBACK_FAILED", "ContinueUpdateRollback", "UPDATE", id="update-rollback-failed"),
        pytest.param("REVIEW_IN_PROGRESS", None, "CREATE", id="review"),
        pytest.param("UPDATE_ROLLBACK_COMPLETE", None, "UPDATE", id="update-rollback-complete"),
        pytest.param("IMPORT_COMPLETE", None, "UPDATE", id="import-complete"),
    ],
)
def test_what_an_earlier_operation_left_is_cleared_up(
    api: Api, dag: DAG, status: str, repair: str | None, change_set: str
) -> None:
    repaired = {"DeleteStack": [MISSING, MISSING], "ContinueUpdateRollback": [stack("UPDATE_ROLLBACK_COMPLETE")] * 2}
    waits = {"DeleteStack": [stack("DELETE_COMPLETE")], "ContinueUpdateRollback": [stack("UPDATE_ROLLBACK_COMPLETE")]}
    api.answers["DescribeStacks"] = [
        stack(status),
        *(waits[repair] + repaired[repair] if repair else []),
        stack(f"{change_set}_COMPLETE"),
    ]

    assert deploy().execute({}) == {}

    assert [name for name, _ in api.asked("DeleteStack", "ContinueUpdateRollback")] == ([repair] if repair else [])
    assert [asked["ChangeSetType"] for _, asked in api.asked("CreateChangeSet")] == [change_set]


@pytest.mark.parametrize(
    ("statuses", "change_set"),
    [
        pytest.param(["UPDATE_IN_PROGRESS", "UPDATE_COMPLETE"], "UPDATE", id="update"),
        pytest.param(["UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "UPDATE_COMPLETE"], "UPDATE", id="cleanup"),
        pytest.param(["UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"], "UPDATE", id="rollback"),
        pytest.param(["IMPORT_IN_PROGRESS", "IMPORT_COMPLETE"], "UPDATE", id="import"),
    ],
)
def test_an_operation_in_progress_is_waited_for(api: Api, dag: DAG, statuses: list[str], change_set: str) -> None:
    busy, settled = map(stack, statuses)
    api.answers["DescribeStacks"] = [busy, busy, busy, settled]
    api.answers["DescribeChangeSet"] = [EMPTY]

    deploy().execute({})

    names = [name for name, _ in api.calls]
    assert names[:4] == ["DescribeStacks"] * 4
    assert [asked["ChangeSetType"] for _, asked in api.asked("CreateChangeSet")] == [change_set]


def test_waiting_ends_after_the_timeout(api: Api, dag: DAG) -> None:
    api.answers["DescribeStacks"] = [MISSING, stack("CREATE_IN_PROGRESS")]

    with pytest.raises(AirflowException, match="max attempts"):
        deploy(poll_interval=10, timeout=45).execute({})

    assert len(api.asked("DescribeStacks")) == 1 + 5


def test_deferred_the_task_resumes_where_it_left(api: Api, dag: DAG) -> None:
    outputs = [{"OutputKey": "Bucket", "OutputValue": "data"}]
    api.answers["DescribeStacks"] = [stack("CREATE_COMPLETE"), stack("UPDATE_COMPLETE", Outputs=outputs)]
    operator = deploy(deferrable=True, poll_interval=7, timeout=60, region_name="eu-west-1")

    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({})

    trigger = deferred.value.trigger
    assert isinstance(trigger, StackSettledTrigger)
    assert trigger.serialize() == (
        "atlas.triggers.cloudformation.StackSettledTrigger",
        {
            "stack_id": STACK_ID,
            "expected": "UPDATE_COMPLETE",
            "waiter_delay": 7,
            "waiter_max_attempts": 9,
            "aws_conn_id": "aws_default",
            "region_name": "eu-west-1",
        },
    )
    awaited = {"stack_id": STACK_ID, "expected": "UPDATE_COMPLETE"}
    resume = getattr(operator, deferred.value.method_name)
    assert resume({}, {"status": "success", "awaited": awaited}) == {"Bucket": "data"}


def test_a_deferred_wait_that_ended_in_an_error_fails_the_task(api: Api, dag: DAG) -> None:
    with pytest.raises(AirflowException, match="max attempts reached"):
        deploy().resume({}, {"status": "error", "message": "Waiter error: max attempts reached"})


def trigger(api: Api, monkeypatch: pytest.MonkeyPatch, expected: str | None) -> StackSettledTrigger:
    """Return a trigger whose async client is scripted too."""

    @asynccontextmanager
    async def scripted() -> AsyncIterator[Any]:
        async with get_session().create_client("cloudformation", **KEYS) as client:
            yield api.attach(client)

    async def get_async_conn(_: StackHook) -> AbstractAsyncContextManager[Any]:
        return scripted()

    monkeypatch.setattr(StackHook, "get_async_conn", get_async_conn)
    return StackSettledTrigger(stack_id=STACK_ID, expected=expected, waiter_delay=0, waiter_max_attempts=3)


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        pytest.param([stack("UPDATE_IN_PROGRESS"), stack("UPDATE_COMPLETE")], "success", id="complete"),
        pytest.param([stack("UPDATE_IN_PROGRESS"), stack("UPDATE_ROLLBACK_FAILED")], "success", id="failed"),
        pytest.param([MISSING], "success", id="gone"),
        pytest.param([stack("UPDATE_IN_PROGRESS")], "error", id="timeout"),
    ],
)
def test_the_trigger_fires_when_the_stack_settled(
    api: Api, monkeypatch: pytest.MonkeyPatch, answers: list[dict[str, Any]], status: str
) -> None:
    api.answers["DescribeStacks"] = answers
    settled = trigger(api, monkeypatch, "UPDATE_COMPLETE")

    async def fire() -> list[TriggerEvent]:
        return [fired async for fired in settled.run()]

    (fired,) = asyncio.run(fire())

    assert fired.payload["status"] == status
    assert fired.payload["awaited"] == {"stack_id": STACK_ID, "expected": "UPDATE_COMPLETE"}


@pytest.mark.parametrize(
    ("expected", "cancelled"),
    [
        pytest.param("UPDATE_COMPLETE", [("CancelUpdateStack", {"StackName": STACK_ID})], id="own-update"),
        pytest.param("CREATE_COMPLETE", [], id="creation"),
        pytest.param(None, [], id="somebody-elses"),
    ],
)
def test_killing_a_deferred_task_cancels_its_own_update_only(
    api: Api, monkeypatch: pytest.MonkeyPatch, expected: str | None, cancelled: list[Any]
) -> None:
    asyncio.run(trigger(api, monkeypatch, expected).on_kill())

    assert api.calls == cancelled


@pytest.mark.parametrize(
    ("before", "during", "cancelled"),
    [
        pytest.param("CREATE_COMPLETE", "UPDATE_IN_PROGRESS", 1, id="own-update"),
        pytest.param("CREATE_COMPLETE", "UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", 0, id="too-late"),
        pytest.param("UPDATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", 0, id="somebody-elses"),
    ],
)
def test_killing_a_waiting_task_cancels_its_own_update_only(
    api: Api, dag: DAG, before: str, during: str, cancelled: int
) -> None:
    api.answers["DescribeStacks"] = [stack(before), stack(during)]
    operator = deploy(poll_interval=1, timeout=1)
    with pytest.raises(AirflowException, match="max attempts"):
        operator.execute({})

    operator.on_kill()

    assert len(api.asked("CancelUpdateStack")) == cancelled


def test_values_of_noecho_parameters_are_masked(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    masked: list[str] = []
    monkeypatch.setattr(cloudformation, "mask_secret", masked.append)
    operator = deploy(parameters={"Plain": "open", "Hidden": "{{ token }}"})

    operator.render_template_fields({"token": "s3cr3t"})  # type: ignore[typeddict-unknown-key]

    assert masked == ["s3cr3t"]


def buckets(*names: str) -> list[dict[str, Any]]:
    return [
        {
            "LogicalResourceId": name.title(),
            "PhysicalResourceId": name,
            "ResourceType": "AWS::S3::Bucket",
            "ResourceStatus": "CREATE_COMPLETE",
        }
        for name in names
    ]


def versions(count: int) -> list[dict[str, Any]]:
    return [{"Key": f"k{number}", "VersionId": str(number)} for number in range(count)]


def script_removal(api: Api, *names: str, policies: dict[str, str] | None = None) -> None:
    """Script a complete stack with the buckets ``names``, and its deletion."""
    api.answers["DescribeStacks"] = [stack("CREATE_COMPLETE"), stack("DELETE_COMPLETE")]
    api.answers["ListStackResources"] = [{"StackResourceSummaries": buckets(*names)}]
    resources = {
        name.title(): {"Type": "AWS::S3::Bucket", **({"DeletionPolicy": policy} if policy else {})}
        for name in names
        for policy in [(policies or {}).get(name)]
    }
    api.answers["GetTemplate"] = [{"TemplateBody": {"Resources": resources}}]
    api.answers["DeleteObjects"] = [{}]


def test_all_versions_and_markers_are_deleted_in_batches_before_the_stack(api: Api, dag: DAG) -> None:
    script_removal(api, "data")
    marker = {"Key": "gone", "VersionId": "m"}
    api.answers["ListObjectVersions"] = [
        {"Versions": versions(1000), "IsTruncated": True, "NextKeyMarker": "k999", "NextVersionIdMarker": "999"},
        {"Versions": versions(200), "DeleteMarkers": [marker], "IsTruncated": False},
    ]

    remove().execute({})

    batches = [asked["Delete"]["Objects"] for _, asked in api.asked("DeleteObjects")]
    assert [len(batch) for batch in batches] == [1000, 201]
    assert marker in batches[1]
    names = [name for name, _ in api.asked("DeleteObjects", "DeleteStack")]
    assert names == ["DeleteObjects", "DeleteObjects", "DeleteStack"]
    assert api.asked("DeleteStack") == [("DeleteStack", {"StackName": STACK_ID})]


@pytest.mark.parametrize("policy", ["Retain", "RetainExceptOnCreate"])
def test_retained_buckets_keep_their_objects(api: Api, dag: DAG, policy: str) -> None:
    script_removal(api, "data", "kept", policies={"kept": policy, "data": "Delete"})
    api.answers["ListObjectVersions"] = [{"Versions": versions(1)}]

    remove().execute({})

    assert [asked["Bucket"] for _, asked in api.asked("DeleteObjects", "ListObjectVersions")] == ["data", "data"]


def test_a_bucket_that_is_gone_already_does_not_matter(api: Api, dag: DAG) -> None:
    script_removal(api, "data")
    api.answers["ListObjectVersions"] = [{"Error": {"Code": "NoSuchBucket", "Message": "no such bucket"}}]

    remove().execute({})

    assert len(api.asked("DeleteStack")) == 1


def test_an_object_that_cannot_be_deleted_is_named_and_stops_the_removal(api: Api, dag: DAG) -> None:
    script_removal(api, "data")
    api.answers["ListObjectVersions"] = [{"Versions": versions(1)}]
    api.answers["DeleteObjects"] = [{"Errors": [{"Key": "k0", "Code": "AccessDenied", "Message": "locked"}]}]

    with pytest.raises(AirflowException, match="k0: locked"):
        remove().execute({})

    assert api.asked("DeleteStack") == []


def test_a_stack_that_is_not_there_is_removed(api: Api, dag: DAG) -> None:
    api.answers["DescribeStacks"] = [MISSING]

    remove().execute({})

    assert [name for name, _ in api.calls] == ["DescribeStacks"]


def test_a_deletion_in_progress_is_waited_for(api: Api, dag: DAG) -> None:
    deleting = stack("DELETE_IN_PROGRESS")
    api.answers["DescribeStacks"] = [deleting, deleting, stack("DELETE_COMPLETE"), stack("DELETE_COMPLETE"), MISSING]

    remove().execute({})

    assert {name for name, _ in api.calls} == {"DescribeStacks"}


def test_a_failed_deletion_says_why(api: Api, dag: DAG) -> None:
    api.answers["DescribeStacks"] = [stack("CREATE_COMPLETE"), stack("DELETE_FAILED")]
    api.answers["DescribeStackEvents"] = [
        {
            "StackEvents": [
                event("Data", "DELETE_FAILED", "The bucket you tried to delete is not empty"),
                event("atlas-s00", "DELETE_IN_PROGRESS"),
            ]
        }
    ]

    with pytest.raises(AirflowException, match=r"Data .* DELETE_FAILED: The bucket .* is not empty"):
        remove().execute({})


def test_a_deferred_removal_waits_for_the_deletion(api: Api, dag: DAG) -> None:
    script_removal(api)
    operator = remove(deferrable=True)

    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({})

    assert isinstance(deferred.value.trigger, StackSettledTrigger)
    assert deferred.value.trigger.expected == "DELETE_COMPLETE"
    awaited = {"stack_id": STACK_ID, "expected": "DELETE_COMPLETE"}
    assert operator.resume({}, {"status": "success", "awaited": awaited}) is None
    assert len(api.asked("DeleteStack")) == 1


@pytest.mark.parametrize("keep", [True, "True", "true"])
def test_a_stack_to_be_kept_is_left_alone(api: Api, dag: DAG, keep: bool | str) -> None:
    with pytest.raises(AirflowSkipException, match="atlas-s00 is kept"):
        remove(keep=keep).execute({})

    assert api.calls == []


@pytest.mark.parametrize("keep", ["", "None", "yes", "{{ params.keep_stack }}"])
def test_nothing_is_deleted_on_a_guess(api: Api, dag: DAG, keep: str) -> None:
    with pytest.raises(ValueError, match="expected true or false"):
        remove(keep=keep).execute({})

    assert api.calls == []
