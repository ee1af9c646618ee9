"""Step Functions: the role of a state machine, callbacks, names of executions, errors and histories."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_cloudformation import create, failures, resource, settled, template
from tests.conformance.test_iam import allow, arn, function, role, unique
from tests.conftest import Aws

STATES = "states.amazonaws.com"
INTEGRATION = "arn:aws:states:::"


def task(action: str, arguments: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a JSONata machine of one task."""
    state = {"Type": "Task", "Resource": INTEGRATION + action, "Arguments": arguments, "End": True, **fields}
    return {"QueryLanguage": "JSONata", "StartAt": "Only", "States": {"Only": state}}


def machine(aws: Aws, definition: dict[str, Any], *statements: dict[str, Any]) -> str:
    """Return the ARN of a new state machine whose role may do what ``statements`` allow."""
    made: str = aws.client("stepfunctions").create_state_machine(
        name=unique("machine"), definition=json.dumps(definition), roleArn=role(aws, STATES, *statements)
    )["stateMachineArn"]
    return made


def start(aws: Aws, machine_arn: str, given: Any = None, **arguments: Any) -> str:
    started: str = aws.client("stepfunctions").start_execution(
        stateMachineArn=machine_arn, input=json.dumps(given or {}), **arguments
    )["executionArn"]
    return started


def ended(aws: Aws, execution: str) -> dict[str, Any]:
    """Return the execution once it no longer runs."""
    found: dict[str, Any] = until(
        lambda: aws.client("stepfunctions").describe_execution(executionArn=execution),
        lambda each: each["status"] != "RUNNING",
    )
    return found


def until(look: Callable[[], Any], condition: Callable[[Any], bool]) -> Any:
    """Return what ``look`` sees as soon as it fulfils ``condition``."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        if condition(seen := look()):
            return seen
        time.sleep(0.05)
    raise AssertionError(f"still {seen}")


def run(aws: Aws, definition: dict[str, Any], *statements: dict[str, Any], given: Any = None) -> dict[str, Any]:
    return ended(aws, start(aws, machine(aws, definition, *statements), given))


def history(aws: Aws, execution: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = aws.client("stepfunctions").get_execution_history(executionArn=execution)["events"]
    return events


def table(aws: Aws) -> str:
    name = unique("table")
    aws.client("dynamodb").create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    return name


def item(aws: Aws, name: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = aws.client("dynamodb").get_item(TableName=name, Key={"id": {"S": key}}).get("Item", {})
    return found


def queue(aws: Aws) -> str:
    url: str = aws.client("sqs").create_queue(QueueName=unique("queue"))["QueueUrl"]
    return url


def queue_arn(url: str) -> str:
    return arn("sqs", url.rpartition("/")[2])


def received(aws: Aws, url: str) -> str:
    """Return the body of the one message in a queue."""
    messages = aws.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=10)["Messages"]
    assert len(messages) == 1
    body: str = messages[0]["Body"]
    return body


# --- The role ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "arguments", "error"),
    [
        pytest.param(
            "dynamodb:putItem", {"TableName": "t", "Item": {"id": {"S": "a"}}}, "DynamoDB.AmazonDynamoDBException"
        ),
        pytest.param(
            "aws-sdk:dynamodb:getItem", {"TableName": "t", "Key": {"id": {"S": "a"}}}, "DynamoDb.DynamoDbException"
        ),
        pytest.param("sns:publish", {"TopicArn": arn("sns", "t"), "Message": "m"}, "SNS.AuthorizationErrorException"),
        pytest.param("lambda:invoke", {"FunctionName": "f"}, "Lambda.AWSLambdaException"),
        pytest.param("athena:startQueryExecution", {"QueryString": "SELECT 1"}, "Athena.AmazonAthenaException"),
        pytest.param("glue:startJobRun", {"JobName": "j"}, "Glue.AWSGlueException"),
        pytest.param(
            "events:putEvents",
            {"Entries": [{"Source": "shop", "DetailType": "order", "Detail": {}}]},
            "EventBridge.AmazonEventBridgeException",
        ),
        pytest.param(
            "states:startExecution",
            {"StateMachineArn": arn("states", "stateMachine:m"), "Input": {}},
            "StepFunctions.AWSStepFunctionsException",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_task_has_the_permissions_of_the_role_only(
    aws: Aws, action: str, arguments: dict[str, Any], error: str
) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/procedure-create-iam-role.html"""
    failed = run(aws, task(action, arguments))
    assert (failed["status"], failed["error"]) == ("FAILED", error)
    assert "is not authorized to perform: " in failed["cause"]


def test_a_role_is_named_in_the_denial_of_a_queue(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-sqs.html"""
    url = queue(aws)
    send = task("sqs:sendMessage", {"QueueUrl": url, "MessageBody": "{% $states.input %}"})
    failed = run(aws, send)
    assert failed["error"] == "SQS.AmazonSQSException"
    assert "assumed-role/" in failed["cause"]
    assert run(aws, send, allow("sqs:SendMessage", queue_arn(url)), given={"a": 1})["status"] == "SUCCEEDED"
    assert json.loads(received(aws, url)) == {"a": 1}


def test_a_role_that_is_gone_fails_the_execution(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""
    made = machine(aws, task("sqs:sendMessage", {"QueueUrl": queue(aws), "MessageBody": "m"}))
    name = aws.client("stepfunctions").describe_state_machine(stateMachineArn=made)["roleArn"].rpartition("/")[2]
    aws.client("iam").delete_role(RoleName=name)
    failed = ended(aws, start(aws, made))
    assert failed["status"] == "FAILED"
    assert name in failed["cause"]


def test_dynamodb_and_sns_act(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-ddb.html"""
    name, url = table(aws), queue(aws)
    topic = aws.client("sns").create_topic(Name=unique())["TopicArn"]
    aws.client("sns").subscribe(
        TopicArn=topic, Protocol="sqs", Endpoint=queue_arn(url), Attributes={"RawMessageDelivery": "true"}
    )
    let_in(aws, url, topic)
    key = {"id": {"S": "{% $states.input.id %}"}}

    def step(action: str, arguments: dict[str, Any], following: str) -> dict[str, Any]:
        state = {"Type": "Task", "Resource": INTEGRATION + action, "Arguments": arguments}
        return {**state, "Output": "{% $merge([$states.input, {'last': $states.result}]) %}", "Next": following}

    states = {
        "Put": step("dynamodb:putItem", {"TableName": name, "Item": {**key, "n": {"N": "1"}}}, "Update"),
        "Update": step(
            "dynamodb:updateItem",
            {
                "TableName": name,
                "Key": key,
                "UpdateExpression": "ADD n :n",
                "ExpressionAttributeValues": {":n": {"N": "2"}},
            },
            "Get",
        ),
        "Get": step("dynamodb:getItem", {"TableName": name, "Key": key}, "Tell"),
        "Tell": step("sns:publish", {"TopicArn": topic, "Message": "{% $states.input.last.Item.n.N %}"}, "Drop"),
        "Drop": step("aws-sdk:dynamodb:deleteItem", {"TableName": name, "Key": key, "ReturnValues": "ALL_OLD"}, "End"),
        "End": {"Type": "Succeed"},
    }
    actions = ["dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:GetItem", "dynamodb:DeleteItem"]
    done = run(
        aws,
        {"QueryLanguage": "JSONata", "StartAt": "Put", "States": states},
        allow(actions, arn("dynamodb", f"table/{name}")),
        allow("sns:Publish", topic),
        given={"id": "a"},
    )
    assert done["status"] == "SUCCEEDED"
    assert json.loads(done["output"])["last"]["Attributes"] == {"id": {"S": "a"}, "n": {"N": "3"}}
    assert received(aws, url) == "3"
    assert item(aws, name, "a") == {}


def let_in(aws: Aws, url: str, topic: str) -> None:
    """Let a queue take what a topic sends."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn(url),
        "Condition": {"ArnEquals": {"aws:SourceArn": topic}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    aws.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})


# --- Errors ------------------------------------------------------------------------------------------------------


def test_a_declared_error_is_caught_by_its_name(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""
    name = table(aws)
    once = {
        "TableName": name,
        "Item": {"id": {"S": "a"}},
        "ConditionExpression": "attribute_not_exists(id)",
    }
    catch = [{"ErrorEquals": ["DynamoDB.ConditionalCheckFailedException"], "Next": "Known"}]
    definition = task("dynamodb:putItem", once, Catch=catch)
    definition["States"]["Known"] = {"Type": "Pass", "Output": "known", "End": True}
    made = machine(aws, definition, allow("dynamodb:PutItem", arn("dynamodb", f"table/{name}")))
    first, second = (ended(aws, start(aws, made)) for _ in range(2))
    assert first["status"] == second["status"] == "SUCCEEDED"
    assert first["output"] != '"known"'
    assert second["output"] == '"known"'


def test_a_retry_waits_and_gives_up(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""
    retry = [{"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 1, "MaxDelaySeconds": 1, "MaxAttempts": 2}]
    began = time.monotonic()
    failed = run(aws, task("sqs:sendMessage", {"QueueUrl": queue(aws), "MessageBody": "m"}, Retry=retry))
    assert 2 <= time.monotonic() - began < 5
    events = [event["type"] for event in history(aws, failed["executionArn"])]
    assert events.count("TaskFailed") == 3


def test_what_cannot_be_caught_fails_the_execution(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""
    definition = task("sqs:sendMessage", {"Nonsense": 1}, Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Caught"}])
    definition["States"]["Caught"] = {"Type": "Succeed"}
    failed = run(aws, definition)
    assert (failed["status"], failed["error"]) == ("FAILED", "States.Runtime")


def test_a_function_is_invoked_with_the_payload(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-lambda.html"""
    name = unique("function")
    function(aws.client("lambda"), name, role(aws, "lambda.amazonaws.com"))
    arguments = {"FunctionName": name, "Payload": {"a": "{% $states.input.a %}"}}
    invoke = allow("lambda:InvokeFunction", arn("lambda", f"function:{name}"))
    done = run(aws, task("lambda:invoke", arguments), invoke, given={"a": 1})
    assert json.loads(done["output"]) == {"ExecutedVersion": "$LATEST", "Payload": {"a": 1}, "StatusCode": 200}


# --- Callbacks ---------------------------------------------------------------------------------------------------


def waiting(aws: Aws, **fields: Any) -> tuple[str, str]:
    """Return an execution that waits for an answer, and its task token."""
    url = queue(aws)
    arguments = {"QueueUrl": url, "MessageBody": {"token": "{% $states.context.Task.Token %}"}}
    definition = task("sqs:sendMessage.waitForTaskToken", arguments, **fields)
    execution = start(aws, machine(aws, definition, allow("sqs:SendMessage", queue_arn(url))))
    token: str = json.loads(received(aws, url))["token"]
    return execution, token


def refused(call: Callable[[], Any]) -> str:
    """Return the code of the error that ``call`` ends in."""
    with pytest.raises(ClientError) as failure:
        call()
    code: str = failure.value.response["Error"]["Code"]
    return code


def test_an_answer_ends_the_wait_once(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html"""
    client = aws.client("stepfunctions")
    execution, token = waiting(aws)
    assert refused(lambda: client.send_task_success(taskToken=token, output="no JSON")) == "InvalidOutput"
    assert refused(lambda: client.send_task_success(taskToken="made-up", output="{}")) == "InvalidToken"
    client.send_task_success(taskToken=token, output='{"decision": "approve"}')
    assert refused(lambda: client.send_task_success(taskToken=token, output="{}")) == "TaskTimedOut"
    done = ended(aws, execution)
    assert (done["status"], json.loads(done["output"])) == ("SUCCEEDED", {"decision": "approve"})


def test_an_answer_may_be_a_failure(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskFailure.html"""
    execution, token = waiting(aws)
    aws.client("stepfunctions").send_task_failure(taskToken=token, error="Refused", cause="not mine")
    failed = ended(aws, execution)
    assert (failed["status"], failed["error"], failed["cause"]) == ("FAILED", "Refused", "not mine")


def test_no_answer_in_time_is_a_timeout(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""
    began = time.monotonic()
    execution, token = waiting(aws, TimeoutSeconds="{% 1 %}")
    failed = ended(aws, execution)
    assert 1 <= time.monotonic() - began < 5
    assert (failed["status"], failed["error"]) == ("FAILED", "States.Timeout")
    client = aws.client("stepfunctions")
    assert refused(lambda: client.send_task_success(taskToken=token, output="{}")) == "TaskTimedOut"
    assert refused(lambda: client.send_task_heartbeat(taskToken=token)) == "TaskTimedOut"


def test_heartbeats_keep_a_task_alive(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html"""
    client = aws.client("stepfunctions")
    execution, token = waiting(aws, HeartbeatSeconds=1)
    for _ in range(3):
        time.sleep(0.5)
        client.send_task_heartbeat(taskToken=token)
    assert client.describe_execution(executionArn=execution)["status"] == "RUNNING"
    failed = ended(aws, execution)
    assert failed["error"] == "States.HeartbeatTimeout"


def test_a_stopped_execution_waits_no_more(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_StopExecution.html"""
    client = aws.client("stepfunctions")
    execution, token = waiting(aws)
    client.stop_execution(executionArn=execution, error="Enough", cause="nobody needs it")
    assert refused(lambda: client.send_task_success(taskToken=token, output="{}")) == "TaskTimedOut"
    stopped = ended(aws, execution)
    assert (stopped["status"], stopped["error"]) == ("ABORTED", "Enough")
    assert history(aws, execution)[-1]["type"] == "ExecutionAborted"


def test_an_execution_has_a_time_limit(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/statemachine-structure.html"""
    definition = {
        "TimeoutSeconds": 1,
        "StartAt": "Wait",
        "States": {"Wait": {"Type": "Wait", "Seconds": 3, "End": True}},
    }
    done = run(aws, definition)
    assert done["status"] == "TIMED_OUT"
    assert history(aws, done["executionArn"])[-1]["type"] == "ExecutionTimedOut"


# --- Executions and their history ---------------------------------------------------------------------------------


def test_a_name_starts_one_execution(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html"""
    client = aws.client("stepfunctions")
    made = machine(aws, {"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 1, "End": True}}})
    first = client.start_execution(stateMachineArn=made, name="event-1", input='{"a": 1}')
    again = client.start_execution(stateMachineArn=made, name="event-1", input='{"a": 1}')
    assert (again["executionArn"], again["startDate"]) == (first["executionArn"], first["startDate"])
    other = {"stateMachineArn": made, "name": "event-1", "input": '{"a": 2}'}
    assert refused(lambda: client.start_execution(**other)) == "ExecutionAlreadyExists"
    ended(aws, first["executionArn"])
    same = {"stateMachineArn": made, "name": "event-1", "input": '{"a": 1}'}
    assert refused(lambda: client.start_execution(**same)) == "ExecutionAlreadyExists"
    assert len(client.list_executions(stateMachineArn=made)["executions"]) == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"name": "a b"}, "InvalidName"),
        ({"name": "a" * 81}, "InvalidName"),
        ({"input": "{"}, "InvalidExecutionInput"),
    ],
    ids=["space", "long", "no JSON"],
)
def test_a_wrong_name_or_input_is_refused(aws: Aws, arguments: dict[str, str], code: str) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html"""
    made = machine(aws, {"StartAt": "S", "States": {"S": {"Type": "Succeed"}}})
    client = aws.client("stepfunctions")
    assert refused(lambda: client.start_execution(stateMachineArn=made, **arguments)) == code


def test_a_history_tells_the_whole_of_a_task(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html"""
    execution, token = waiting(aws, TimeoutSeconds=60)
    aws.client("stepfunctions").send_task_success(taskToken=token, output="1")
    ended(aws, execution)
    events = history(aws, execution)
    assert [event["type"] for event in events] == [
        "ExecutionStarted",
        "TaskStateEntered",
        "TaskScheduled",
        "TaskStarted",
        "TaskSubmitted",
        "TaskSucceeded",
        "TaskStateExited",
        "ExecutionSucceeded",
    ]
    assert [event["previousEventId"] for event in events] == [event["id"] - 1 for event in events]
    scheduled = events[2]["taskScheduledEventDetails"]
    assert (scheduled["resourceType"], scheduled["resource"]) == ("sqs", "sendMessage.waitForTaskToken")
    assert scheduled["timeoutInSeconds"] == 60
    assert json.loads(scheduled["parameters"])["MessageBody"] == {"token": token}


# --- State machines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "named"),
    [
        pytest.param('{"StartAt": ', "INVALID_JSON_DESCRIPTION", id="no JSON"),
        pytest.param('{"StartAt": "A", "States": {"B": {"Type": "Succeed"}}}', "MISSING_TRANSITION_TARGET", id="start"),
        pytest.param(
            '{"StartAt": "A", "States": {"A": {"Type": "Pass", "Next": "B"}}}', "MISSING_TRANSITION_TARGET", id="next"
        ),
        pytest.param('{"StartAt": "A", "States": {"A": {"Type": "Pass"}}}', "SCHEMA_VALIDATION_FAILED", id="no end"),
        pytest.param(
            '{"StartAt": "A", "States": {"A": {"Type": "Task", "Resource": "x", "TimeoutSeconds": "9", "End": true}}}',
            "/States/A/TimeoutSeconds",
            id="timeout as text",
        ),
    ],
)
def test_a_wrong_definition_is_refused(aws: Aws, definition: str, named: str) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_CreateStateMachine.html"""
    client, passed = aws.client("stepfunctions"), role(aws, STATES)
    with pytest.raises(client.exceptions.InvalidDefinition, match=named):
        client.create_state_machine(name=unique(), definition=definition, roleArn=passed)
    assert client.validate_state_machine_definition(definition=definition)["result"] == "FAIL"


LOG_DELIVERY = [
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
    "logs:DescribeLogGroups",
]


def test_a_log_needs_a_role_that_may_deliver_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html"""
    client, group = aws.client("stepfunctions"), f"/aws/vendedlogs/states/{unique()}"
    aws.client("logs").create_log_group(logGroupName=group)
    destination = {"cloudWatchLogsLogGroup": {"logGroupArn": f"{arn('logs', f'log-group:{group}')}:*"}}
    logging = {"level": "ERROR", "includeExecutionData": False, "destinations": [destination]}
    definition = json.dumps({"StartAt": "S", "States": {"S": {"Type": "Succeed"}}})

    def make(passed: str) -> Any:
        return client.create_state_machine(
            name=unique(), definition=definition, roleArn=passed, loggingConfiguration=logging
        )

    with pytest.raises(ClientError, match="not authorized to access the Log Destination"):
        make(role(aws, STATES))
    made = make(role(aws, STATES, allow(LOG_DELIVERY, "*")))["stateMachineArn"]
    assert client.describe_state_machine(stateMachineArn=made)["loggingConfiguration"] == logging


def test_a_template_makes_a_machine_from_a_file(aws: Aws) -> None:
    """https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-resource-statemachine.html"""
    client, bucket, url = aws.client("cloudformation"), unique("definitions"), queue(aws)
    aws.client("s3").create_bucket(Bucket=bucket)
    definition = task("sqs:sendMessage", {"QueueUrl": "${Queue}", "MessageBody": "m"}, TimeoutSeconds="{% ${Limit} %}")
    aws.client("s3").put_object(Bucket=bucket, Key="machine.asl.json", Body=json.dumps(definition))
    passed = role(aws, STATES, allow("sqs:SendMessage", queue_arn(url)))

    def body(limit: int, passed: str) -> str:
        properties = {
            "Name": f"{bucket}-machine",
            "Role": passed,
            "DefinitionUri": {"Bucket": bucket, "Key": "machine.asl.json"},
            "DefinitionSubstitutions": {"Queue": url, "Limit": limit},
            "Tracing": {"Enabled": False},
        }
        machine = {"Type": "AWS::Serverless::StateMachine", "Properties": properties}
        return json.dumps({"Transform": "AWS::Serverless-2016-10-31", "Resources": {"Machine": machine}})

    name, able = unique("stack"), ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
    client.create_stack(StackName=name, TemplateBody=body(30, passed), Capabilities=able)
    stack = settled(client, name)
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    made = arn("states", f"stateMachine:{bucket}-machine")
    assert ended(aws, start(aws, made))["status"] == "SUCCEEDED"
    assert received(aws, url) == "m"

    client.update_stack(StackName=name, TemplateBody=body(31, passed), Capabilities=able)
    assert settled(client, name)["StackStatus"] == "UPDATE_COMPLETE"
    states = aws.client("stepfunctions")
    assert "{% 31 %}" in states.describe_state_machine(stateMachineArn=made)["definition"]
    client.delete_stack(StackName=name)
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    assert refused(lambda: states.describe_state_machine(stateMachineArn=made)) == "StateMachineDoesNotExist"


def test_a_template_is_refused_a_role_or_definition_that_the_api_refuses(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-stepfunctions-statemachine.html"""
    client, sound = aws.client("cloudformation"), '{"StartAt": "S", "States": {"S": {"Type": "Succeed"}}}'

    def machine(definition: str, passed: str) -> str:
        return template(
            M=resource("AWS::StepFunctions::StateMachine", DefinitionString=definition, RoleArn=passed),
        )

    stack = create(client, machine(sound, role(aws, "lambda.amazonaws.com")))
    assert "is authorized to assume the provided role" in failures(client, stack["StackId"])["M"]
    stack = create(client, machine('{"StartAt": "A", "States": {}}', role(aws, STATES)))
    assert "MISSING_TRANSITION_TARGET" in failures(client, stack["StackId"])["M"]
    assert create(client, machine(sound, role(aws, STATES)))["StackStatus"] == "CREATE_COMPLETE"
