"""Step Functions: tasks that wait for jobs, actions of other services, and the log of a state machine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.event_targets import place
from tests.conformance.test_iam import allow, arn, role, unique
from tests.conformance.test_stepfunctions import (
    STATES,
    ended,
    machine,
    queue,
    queue_arn,
    run,
    start,
    table,
    task,
    until,
)
from tests.conftest import Aws

GLUE = "glue.amazonaws.com"


def bucket(aws: Aws) -> str:
    name = unique("states").lower()
    aws.client("s3").create_bucket(Bucket=name)
    return name


def glue_job(aws: Aws, script: str) -> str:
    """Return the name of a new Python shell job."""
    name, store = unique("job"), bucket(aws)
    aws.client("s3").put_object(Bucket=store, Key="script.py", Body=script.encode())
    aws.client("glue").create_job(
        Name=name,
        Role=role(aws, GLUE, allow("s3:GetObject", f"arn:aws:s3:::{store}/*")),
        Command={"Name": "pythonshell", "ScriptLocation": f"s3://{store}/script.py"},
    )
    return name


def may_run(job: str) -> dict[str, Any]:
    actions = ["glue:StartJobRun", "glue:GetJobRun", "glue:GetJobRuns", "glue:BatchStopJobRun"]
    return allow(actions, arn("glue", f"job/{job}"))


def test_a_task_waits_for_a_glue_job(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-glue.html"""
    job = glue_job(aws, "import sys; sys.exit('no such day' if sys.argv[2] == 'never' else 0)")
    definition = task("glue:startJobRun.sync", {"JobName": job, "Arguments": {"--day": "{% $states.input.day %}"}})
    done = run(aws, definition, may_run(job), given={"day": "today"})
    assert done["status"] == "SUCCEEDED", done
    result = json.loads(done["output"])
    assert (result["JobName"], result["JobRunState"]) == (job, "SUCCEEDED")
    failed = run(aws, definition, may_run(job), given={"day": "never"})
    assert failed["error"] == "States.TaskFailed"
    cause = json.loads(failed["cause"])
    assert (cause["JobRunState"], cause["ErrorMessage"]) == ("FAILED", "SystemExit: no such day")
    refused = run(aws, definition, allow("glue:StartJobRun", arn("glue", "job/other")), given={"day": "today"})
    assert refused["error"] == "Glue.AWSGlueException"
    assert "glue:StartJobRun" in refused["cause"]


def test_the_job_of_a_stopped_execution_is_stopped(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-sync"""
    job = glue_job(aws, "import time; time.sleep(600)")
    definition = task("glue:startJobRun.sync", {"JobName": job})
    execution = start(aws, machine(aws, definition, may_run(job)))

    def state() -> str:
        runs = aws.client("glue").get_job_runs(JobName=job)["JobRuns"]
        return runs[0]["JobRunState"] if runs else ""

    until(state, lambda seen: seen == "RUNNING")
    aws.client("stepfunctions").stop_execution(executionArn=execution)
    until(state, lambda seen: seen == "STOPPED")
    late = run(aws, task("glue:startJobRun.sync", {"JobName": job}, TimeoutSeconds=1), may_run(job))
    assert late["error"] == "States.Timeout"
    until(state, lambda seen: seen == "STOPPED")


def test_a_task_waits_for_a_query(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-athena.html"""
    store = bucket(aws)
    definition = task(
        "athena:startQueryExecution.sync",
        {
            "QueryString": "{% $states.input.sql %}",
            "ResultConfiguration": {"OutputLocation": f"s3://{store}/results/"},
        },
    )
    actions = ["athena:StartQueryExecution", "athena:GetQueryExecution", "athena:StopQueryExecution"]
    allowed = [
        allow(actions, arn("athena", "workgroup/primary")),
        allow("s3:*", [f"arn:aws:s3:::{store}", f"arn:aws:s3:::{store}/*"]),
    ]
    done = run(aws, definition, *allowed, given={"sql": "SELECT 40 + 2 AS answer"})
    assert done["status"] == "SUCCEEDED", done
    query = json.loads(done["output"])["QueryExecution"]
    key = query["ResultConfiguration"]["OutputLocation"].removeprefix(f"s3://{store}/")
    assert aws.client("s3").get_object(Bucket=store, Key=key)["Body"].read() == b'"answer"\n"42"\n'
    failed = run(aws, definition, *allowed, given={"sql": "SELECT 1 / 0"})
    assert failed["error"] == "States.TaskFailed"
    assert "Division by zero" in json.loads(failed["cause"])["QueryExecution"]["Status"]["StateChangeReason"]


def test_a_task_waits_for_another_machine(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html"""
    fails = {"Type": "Fail", "Error": "Refused", "Cause": "too many"}
    states = {
        "Ask": {
            "Type": "Choice",
            "Choices": [{"Condition": "{% $states.input.n > 1 %}", "Next": "No"}],
            "Default": "Yes",
        },
        "Yes": {"Type": "Succeed", "Output": {"accepted": "{% $states.input.n %}"}},
        "No": fails,
    }
    inner = machine(aws, {"QueryLanguage": "JSONata", "StartAt": "Ask", "States": states})
    below = inner.replace(":stateMachine:", ":execution:") + ":*"
    rule = arn("events", "rule/StepFunctionsGetEventsForStepFunctionsExecutionRule")
    needed = [
        allow("states:StartExecution", inner),
        allow(["states:DescribeExecution", "states:StopExecution"], below),
    ]
    listening = allow(["events:PutTargets", "events:PutRule", "events:DescribeRule"], rule)
    definition = task("states:startExecution.sync:2", {"StateMachineArn": inner, "Input": "{% $states.input %}"})
    done = run(aws, definition, *needed, listening, given={"n": 1})
    assert done["status"] == "SUCCEEDED", done
    assert json.loads(done["output"])["Output"] == {"accepted": 1}
    failed = run(aws, definition, *needed, listening, given={"n": 2})
    assert failed["error"] == "States.TaskFailed"
    assert {"Error": "Refused", "Cause": "too many", "Status": "FAILED"}.items() <= json.loads(failed["cause"]).items()
    with pytest.raises(ClientError, match="not authorized to create managed-rule"):
        machine(aws, definition, *needed)


def test_events_are_published_and_workflows_started(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-eventbridge.html"""
    bus, inner = place(aws, "events"), place(aws, "states")
    entry = {"EventBusName": bus.arn, "Source": "shop", "DetailType": "order", "Detail": {"n": 1}}
    assert run(aws, task("events:putEvents", {"Entries": [entry]}), bus.statement)["status"] == "SUCCEEDED"
    assert json.loads(until(bus.read, bool)[0])["detail"] == {"n": 1}
    starting = task("states:startExecution", {"StateMachineArn": inner.arn, "Input": {"n": 2}})
    assert run(aws, starting, inner.statement)["status"] == "SUCCEEDED"
    assert [json.loads(text) for text in inner.read()] == [{"n": 2}]


def test_actions_of_other_services(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html"""
    store, name, url = bucket(aws), table(aws), queue(aws)
    query = {"KeyConditionExpression": "id = :i", "ExpressionAttributeValues": {":i": {"S": "x"}}}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("s3:putObject", {"Bucket": store, "Key": "a/1.json", "Body": {"id": 1}}),
        ("s3:getObject", {"Bucket": store, "Key": "a/1.json"}),
        ("s3:listObjectsV2", {"Bucket": store, "Prefix": "a/"}),
        ("dynamodb:batchWriteItem", {"RequestItems": {name: [{"PutRequest": {"Item": {"id": {"S": "x"}}}}]}}),
        ("dynamodb:query", {"TableName": name, **query}),
        ("sqs:getQueueAttributes", {"QueueUrl": url, "AttributeNames": ["QueueArn"]}),
        ("glue:getTables", {"DatabaseName": "absent"}),
    ]
    names = [f"Step{index}" for index in range(len(steps))]
    states: dict[str, dict[str, Any]] = {
        name: {
            "Type": "Task",
            "Resource": f"arn:aws:states:::aws-sdk:{action}",
            "Arguments": arguments,
            "Assign": {f"r{index}": "{% $states.result %}"},
            "Next": [*names, "End"][index + 1],
        }
        for index, (name, (action, arguments)) in enumerate(zip(names, steps, strict=True))
    }
    states[names[-1]]["Catch"] = [{"ErrorEquals": ["Glue.EntityNotFoundException"], "Next": "End"}]
    states["End"] = {
        "Type": "Succeed",
        "Output": "{% [$r1.Body, $r2.Contents[0].Key, $r4.Items[0].id.S, $r5.Attributes.QueueArn] %}",
    }
    allowed = [
        allow("s3:*", [f"arn:aws:s3:::{store}", f"arn:aws:s3:::{store}/*"]),
        allow(["dynamodb:BatchWriteItem", "dynamodb:Query"], arn("dynamodb", f"table/{name}")),
        allow("sqs:GetQueueAttributes", queue_arn(url)),
        allow("glue:GetTables", "*"),
    ]
    definition = {"QueryLanguage": "JSONata", "StartAt": names[0], "States": states}
    done = run(aws, definition, *allowed)
    assert done["status"] == "SUCCEEDED", done
    assert json.loads(done["output"]) == ['{"id": 1}', "a/1.json", "x", queue_arn(url)]


@pytest.mark.parametrize(
    ("action", "arguments", "error"),
    [
        ("s3:getObject", {"Bucket": "{% $states.input.bucket %}", "Key": "absent"}, "S3.NoSuchKeyException"),
        ("lambda:updateEventSourceMapping", {"Uuid": "0" * 36}, "Lambda.LambdaException"),
        ("ssm:getParameter", {"Name": "absent"}, "Ssm.SsmException"),
        (
            "redshiftdata:executeStatement",
            {"Sql": "SELECT 1", "WorkgroupName": "absent"},
            "RedshiftData.RedshiftDataException",
        ),
        (
            "dynamodb:exportTableToPointInTime",
            {"TableArn": "{% $states.input.table %}", "S3Bucket": "b"},
            "DynamoDb.DynamoDbException",
        ),
    ],
)
def test_errors_of_other_services_have_their_names(
    aws: Aws, action: str, arguments: dict[str, Any], error: str
) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/supported-services-awssdk.html#use-awssdk-integration"""
    store = bucket(aws)
    allowed = allow(["s3:GetObject", "s3:ListBucket"], [f"arn:aws:s3:::{store}", f"arn:aws:s3:::{store}/*"])
    given = {"bucket": store, "table": arn("dynamodb", "table/absent")}
    failed = run(aws, task(f"aws-sdk:{action}", arguments), allowed, given=given)
    assert failed["error"] == error, failed["cause"]


@pytest.mark.parametrize("level", ["ALL", "ERROR"])
def test_a_machine_writes_its_log(aws: Aws, level: str) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html"""
    logs, group = aws.client("logs"), unique("/aws/vendedlogs/states")
    logs.create_log_group(logGroupName=group)
    delivery = ["Create", "Get", "Update", "Delete"]
    actions = [f"logs:{verb}LogDelivery" for verb in delivery]
    actions += [
        "logs:ListLogDeliveries",
        "logs:PutResourcePolicy",
        "logs:DescribeResourcePolicies",
        "logs:DescribeLogGroups",
    ]
    states = {"Only": {"Type": "Fail", "Error": "Broken"}}
    made = aws.client("stepfunctions").create_state_machine(
        name=unique("logged"),
        definition=json.dumps({"StartAt": "Only", "States": states}),
        roleArn=role(aws, STATES, allow(actions, "*")),
        loggingConfiguration={
            "level": level,
            "includeExecutionData": level == "ALL",
            "destinations": [{"cloudWatchLogsLogGroup": {"logGroupArn": arn("logs", f"log-group:{group}:*")}}],
        },
    )["stateMachineArn"]
    execution = start(aws, made, {"secret": 1})
    assert ended(aws, execution)["status"] == "FAILED"
    lines = [json.loads(event["message"]) for event in logs.filter_log_events(logGroupName=group)["events"]]
    assert {line["execution_arn"] for line in lines} == {execution}
    wanted = {
        "ALL": ["ExecutionStarted", "FailStateEntered", "ExecutionFailed"],
        "ERROR": ["FailStateEntered", "ExecutionFailed"],
    }
    assert [line["type"] for line in lines] == wanted[level]
    assert ("secret" in json.dumps(lines)) == (level == "ALL")
