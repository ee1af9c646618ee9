"""Function errors of AWS Lambda: what a caller, a destination and a state machine learn of an exception."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from typing import Any

import pytest

from tests.conftest import Aws

PYTHON = """
import os, sys

class OutOfStockError(Exception):
    pass

CALLS = []

def handler(event, context):
    CALLS.append(event)
    action = event.get("action")
    if action == "raise":
        raise OutOfStockError("no apples left")
    if action == "exit":
        sys.exit(3)
    if action == "crash":
        os.kill(os.getpid(), 9)
    if action == "unmarshallable":
        return {"answer": object()}
    return {"calls": len(CALLS)}
"""
NODE = """
class OutOfStockError extends Error {
  constructor(message) { super(message); this.name = "OutOfStockError"; }
}
exports.handler = async (event) => {
  if (event.action === "raise") throw new OutOfStockError("no apples left");
  if (event.action === "reject") { Promise.reject(new Error("nobody waits")); await new Promise(() => {}); }
  return { fine: true };
};
"""


def role(aws: Aws, name: str, service: str, *statements: dict[str, Any]) -> str:
    """Return the ARN of a new role that ``service`` may assume and that allows ``statements``."""
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
    arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))["Role"]["Arn"]
    if statements:
        iam.put_role_policy(RoleName=name, PolicyName="work", PolicyDocument=_policy(*statements))
    return arn


def function(aws: Aws, name: str, source: str, *statements: dict[str, Any], **options: Any) -> str:
    """Return the ARN of a new, active function whose one file holds ``source``."""
    arn = pending_function(aws, name, source, *statements, **options)
    waiter = aws.client("lambda").get_waiter("function_active_v2")
    waiter.wait(FunctionName=name, WaiterConfig={"Delay": 1})
    return arn


def pending_function(aws: Aws, name: str, source: str, *statements: dict[str, Any], **options: Any) -> str:
    """Return the ARN of a new function, of one file, that may write its log; it is active after a moment."""
    runtime = options.setdefault("Runtime", "python3.12")
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("app.py" if runtime.startswith("python") else "app.js", source)
    options.setdefault("Handler", "app.handler")
    role_arn = role(aws, f"{name}-role", "lambda.amazonaws.com", *statements)
    let_log(aws, name)
    arn: str = aws.client("lambda").create_function(
        FunctionName=name,
        Role=role_arn,
        Code={"ZipFile": package.getvalue()},
        **options,
    )["FunctionArn"]
    return arn


def let_log(aws: Aws, name: str) -> None:
    """Let the role of function ``name`` write its log."""
    actions = ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents"]
    group = f"arn:aws:logs:*:*:log-group:/aws/lambda/{name}:*"
    document = _policy({"Effect": "Allow", "Action": actions, "Resource": group})
    aws.client("iam").put_role_policy(RoleName=f"{name}-role", PolicyName="logs", PolicyDocument=document)


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def _invoke(aws: Aws, name: str, event: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    answer = aws.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))
    return answer.get("FunctionError"), json.loads(answer["Payload"].read())


@pytest.fixture(scope="module")
def python(aws: Aws) -> str:
    return function(aws, "errors-python", PYTHON)


@pytest.fixture(scope="module")
def node(aws: Aws) -> str:
    return function(aws, "errors-node", NODE, Runtime="nodejs20.x", Timeout=5)


def test_a_python_exception_is_reported_by_class_message_and_trace(aws: Aws, python: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/python-exceptions.html"""
    kind, error = _invoke(aws, python, {"action": "raise"})
    assert (kind, error["errorType"], error["errorMessage"]) == ("Unhandled", "OutOfStockError", "no apples left")
    assert error["requestId"]
    assert len(error["stackTrace"]) == 1
    assert error["stackTrace"][0].startswith('  File "/var/task/app.py", line 13, in handler\n    raise')


def test_an_exception_keeps_the_execution_environment(aws: Aws, python: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html"""
    before = _invoke(aws, python, {})[1]["calls"]
    _invoke(aws, python, {"action": "raise"})
    assert _invoke(aws, python, {})[1]["calls"] == before + 2


def test_a_function_gets_the_sdk_it_brings_and_no_other_ones_variables(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/python-layers.html"""
    source = (
        "import os, boto3\ndef handler(event, context):\n    names = sorted(set(os.environ) & {'FIRST', 'SECOND'})\n"
        "    return {'sdk': boto3.__version__, 'variables': names}"
    )
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("python/boto3/__init__.py", "__version__ = 'its own'")
    layer = aws.client("lambda").publish_layer_version(LayerName="own-sdk", Content={"ZipFile": package.getvalue()})
    function(aws, "sdk-first", source, Environment={"Variables": {"FIRST": "1"}})
    function(
        *(aws, "sdk-second", source), Environment={"Variables": {"SECOND": "1"}}, Layers=[layer["LayerVersionArn"]]
    )
    first, second = (_invoke(aws, name, {})[1] for name in ("sdk-first", "sdk-second"))
    assert (first["variables"], second) == (["FIRST"], {"sdk": "its own", "variables": ["SECOND"]})
    assert first["sdk"].startswith("1.")


def test_the_error_is_logged_with_its_trace(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html"""
    function(aws, "errors-logged", PYTHON)
    answer = aws.client("lambda").invoke(FunctionName="errors-logged", Payload=b'{"action": "raise"}')
    assert answer["FunctionError"] == "Unhandled"
    messages: list[str] = []
    deadline = time.monotonic() + 5
    while not any("[ERROR] OutOfStockError: no apples left" in message for message in messages):
        assert time.monotonic() < deadline, messages
        events = aws.client("logs").filter_log_events(logGroupName="/aws/lambda/errors-logged")["events"]
        messages = [event["message"] for event in events]
    assert any("in handler" in message for message in messages)


def test_a_log_is_written_if_the_role_may(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs.html"""
    name, client, logs = "errors-silent", aws.client("lambda"), aws.client("logs")
    pending_function(aws, name, "def handler(event, context):\n    print('heard', event)\n")
    aws.client("iam").delete_role_policy(RoleName=f"{name}-role", PolicyName="logs")
    tail = client.invoke(FunctionName=name, Payload=b"1", LogType="Tail")["LogResult"]
    assert base64.b64decode(tail).decode().strip().endswith("heard 1")
    with pytest.raises(logs.exceptions.ResourceNotFoundException):
        logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")
    let_log(aws, name)
    client.invoke(FunctionName=name, Payload=b"2")
    lines = [event["message"] for event in logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]]
    assert [line.strip() for line in lines if "heard" in line] == ["heard 2"]


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        pytest.param("exit", "Runtime.ExitError", "Runtime exited with error: exit status 3", id="exit"),
        pytest.param("crash", "Runtime.ExitError", "Runtime exited with error: signal: killed", id="crash"),
        pytest.param("unmarshallable", "Runtime.MarshalError", "Unable to marshal response: ", id="marshal"),
    ],
)
def test_what_ends_otherwise_has_the_runtimes_own_error_type(
    aws: Aws, python: str, action: str, kind: str, message: str
) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/troubleshooting-invocation.html"""
    reported, error = _invoke(aws, python, {"action": action})
    assert reported == "Unhandled"
    assert error["errorType"] == kind
    assert message in error["errorMessage"]
    assert _invoke(aws, python, {})[0] is None, "the next invocation gets a new environment"


@pytest.mark.parametrize(
    ("name", "source", "options", "kind", "message"),
    [
        pytest.param(
            "import",
            "import no_such_package",
            {},
            "Runtime.ImportModuleError",
            "Unable to import module 'app': No module named 'no_such_package'",
            id="import",
        ),
        pytest.param(
            "handler",
            "",
            {"Handler": "app.missing"},
            "Runtime.HandlerNotFound",
            "Handler 'missing' missing on module 'app'",
            id="handler",
        ),
        pytest.param("syntax", "def (", {}, "Runtime.UserCodeSyntaxError", "Syntax error in module 'app'", id="syntax"),
        pytest.param("setting", "import os; os.environ['TABLE']", {}, "KeyError", "'TABLE'", id="exception"),
        pytest.param(
            "leave", "import sys; sys.exit(2)", {}, "Runtime.ExitError", "exited with error: exit status 2", id="exit"
        ),
        pytest.param(
            "node-import",
            "require('no-such-package')",
            {"Runtime": "nodejs20.x"},
            "Runtime.ImportModuleError",
            "Error: Cannot find module 'no-such-package'",
            id="node import",
        ),
        pytest.param(
            "node-handler",
            "",
            {"Runtime": "nodejs20.x"},
            "Runtime.HandlerNotFound",
            "app.handler is undefined or not exported",
            id="node handler",
        ),
    ],
)
def test_a_function_that_cannot_be_loaded_says_why(
    aws: Aws, name: str, source: str, options: dict[str, str], kind: str, message: str
) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/troubleshooting-invocation.html"""
    function(aws, f"errors-{name}", source, **options)
    reported, error = _invoke(aws, f"errors-{name}", {})
    assert (reported, error["errorType"]) == ("Unhandled", kind)
    assert message in error["errorMessage"]


def test_a_node_exception_is_reported_by_name_message_and_trace(aws: Aws, node: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/nodejs-exceptions.html"""
    kind, error = _invoke(aws, node, {"action": "raise"})
    assert (kind, error["errorType"], error["errorMessage"]) == ("Unhandled", "OutOfStockError", "no apples left")
    assert error["trace"][0] == "OutOfStockError: no apples left"
    assert _invoke(aws, node, {}) == (None, {"fine": True})


def test_a_rejection_that_nobody_handles_ends_the_node_runtime(aws: Aws, node: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/nodejs-exceptions.html"""
    kind, error = _invoke(aws, node, {"action": "reject"})
    assert (kind, error["errorType"]) == ("Unhandled", "Runtime.UnhandledPromiseRejection")
    assert error["errorMessage"] == "Error: nobody waits"
    assert _invoke(aws, node, {}) == (None, {"fine": True})


def test_a_state_machine_catches_by_class(aws: Aws, python: str) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html"""
    allow = {"Effect": "Allow", "Action": "lambda:InvokeFunction", "Resource": python}
    catch = [
        {"ErrorEquals": ["OtherError"], "Next": "Other"},
        {"ErrorEquals": ["OutOfStockError"], "ResultPath": "$", "Next": "Caught"},
    ]
    definition = {
        "StartAt": "Work",
        "States": {
            "Work": {
                "Type": "Task",
                "Resource": "arn:aws:states:::lambda:invoke",
                "Parameters": {"FunctionName": python, "Payload": {"action": "raise"}},
                "Catch": catch,
                "End": True,
            },
            "Other": {"Type": "Fail"},
            "Caught": {"Type": "Succeed"},
        },
    }
    states = aws.client("stepfunctions")
    machine = states.create_state_machine(
        name="errors-machine",
        definition=json.dumps(definition),
        roleArn=role(aws, "errors-machine-role", "states.amazonaws.com", allow),
    )["stateMachineArn"]
    execution = states.start_execution(stateMachineArn=machine)["executionArn"]
    deadline = time.monotonic() + 10
    while (state := states.describe_execution(executionArn=execution))["status"] == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert state["status"] == "SUCCEEDED"
    output = json.loads(state["output"])
    assert output["Error"] == "OutOfStockError"
    assert json.loads(output["Cause"])["errorMessage"] == "no apples left"


def test_an_on_failure_destination_gets_the_error(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html"""
    sqs = aws.client("sqs")
    queue = sqs.create_queue(QueueName="errors-failed")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": arn}
    function(aws, "errors-async", PYTHON, allow)
    client = aws.client("lambda")
    client.put_function_event_invoke_config(
        FunctionName="errors-async",
        MaximumRetryAttempts=0,
        DestinationConfig={"OnFailure": {"Destination": arn}},
    )
    client.invoke(FunctionName="errors-async", InvocationType="Event", Payload=b'{"action": "raise"}')
    messages = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=10)["Messages"]
    record = json.loads(messages[0]["Body"])
    assert record["responseContext"]["functionError"] == "Unhandled"
    assert record["responsePayload"]["errorType"] == "OutOfStockError"
    assert record["requestPayload"] == {"action": "raise"}


def test_an_invocation_ends_with_its_log_complete_and_waits_for_no_more(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/python-logging.html"""
    source = """
import sys
def handler(event, context):
    for index in range(event):
        print("line", index)
    sys.stdout.write("no end")
"""
    function(aws, "logs-python", source)
    client = aws.client("lambda")
    took = []
    for count in (0, 300, *[0] * 10):
        began = time.monotonic()
        answer = client.invoke(FunctionName="logs-python", Payload=str(count), LogType="Tail")
        took.append(time.monotonic() - began)
        log = base64.b64decode(answer["LogResult"]).decode().splitlines()
        assert log[-1] == "no end"
        assert [line for line in log[:-1] if line.startswith("line ")][-1:] == ["line 299"] * bool(count)
    assert min(took) < 0.045  # the emulator alone waits 50 ms for a line
