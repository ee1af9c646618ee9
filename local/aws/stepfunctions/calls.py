"""What a task calls, with the credentials of the state machine's role.

https://docs.aws.amazon.com/step-functions/latest/dg/integrate-services.html
"""

from __future__ import annotations

import contextvars
import json
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError, ParamValidationError

from local.aws import emulator, iam

_sfn = emulator.module("services.stepfunctions")
_responses = emulator.module("core.responses")

Failure = _sfn._ExecutionError
"""A task's failure: ``error`` is the name that Retry and Catch match, ``cause`` says more."""

Data = dict[str, Any]
PRINCIPAL = "states.amazonaws.com"
CALLBACK = ".waitForTaskToken"


role: contextvars.ContextVar[str] = contextvars.ContextVar("role", default="")
"""The ARN of the role that the execution in progress acts with; its threads inherit it."""

SESSION_SECONDS = 3600
LONGEST_CALL_SECONDS = 910
"""A little more than a function can run."""
_sessions: dict[str, tuple[float, emulator.Credentials]] = {}
_clients: dict[tuple[str, str, str], Any] = {}
_clients_lock = threading.Lock()

# The name an optimized integration's service has in error names, and the class of errors its API does not declare.
_OPTIMIZED = {
    "athena": ("Athena", "AmazonAthenaException"),
    "dynamodb": ("DynamoDB", "AmazonDynamoDBException"),
    "events": ("EventBridge", "AmazonEventBridgeException"),
    "glue": ("Glue", "AWSGlueException"),
    "sns": ("SNS", "AmazonSNSException"),
    "sqs": ("SQS", "AmazonSQSException"),
    "states": ("StepFunctions", "AWSStepFunctionsException"),
}
_BOTOCORE_NAME = {
    "cloudwatchlogs": "logs",
    "eventbridge": "events",
    "rdsdata": "rds-data",
    "redshiftdata": "redshift-data",
    "redshiftserverless": "redshift-serverless",
    "sfn": "stepfunctions",
    "states": "stepfunctions",
}

_ERROR_PREFIX = {"redshiftdata": "RedshiftData", "redshiftserverless": "RedshiftServerless"}
"""What the names of errors begin with, of services that the emulator does not know."""


def client(service: str) -> Any:
    """Return a client of ``service`` that acts as the execution's role; clients are shared by all threads.

    Raises:
        Failure: the role does not exist or does not trust Step Functions.
    """
    arn = role.get()
    made, credentials = _sessions.get(arn, (0.0, None))
    if credentials is None or time.monotonic() - made > SESSION_SECONDS or not emulator.trusts(arn, PRINCIPAL):
        try:
            credentials = emulator.service_role_credentials(arn, PRINCIPAL, secrets.token_hex(16))
        except emulator.AwsError as error:
            raise Failure("States.TaskFailed", error.message) from error
        _sessions[arn] = (time.monotonic(), credentials)
    key = (service, credentials.access_key, _responses.get_region())
    with _clients_lock:
        if key not in _clients:
            patient = {"read_timeout": LONGEST_CALL_SECONDS, "max_pool_connections": 50}
            _clients[key] = emulator.client(service, credentials, key[2], **patient)
        return _clients[key]


def _invoke_resource(original: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    def invoke(resource: str, arguments: Any) -> Any:
        plain = resource.removesuffix(CALLBACK)
        if ":function:" in plain:
            return _call_function({"FunctionName": plain, "Payload": arguments})["Payload"]
        service, _, action = plain.partition(":states:::")[2].rpartition(":")
        if (service, action) == ("lambda", "invoke"):
            return _call_function(arguments)
        if service in _OPTIMIZED:
            return call(service, action, arguments)
        if service.startswith("aws-sdk:"):
            name = service.partition(":")[2].lower()
            prefix = _ERROR_PREFIX.get(name) or _sfn._AWS_SDK_ERROR_PREFIX.get(name, name.capitalize())
            return _call(name, action, arguments, prefix, f"{prefix}Exception")
        return original(plain, arguments)

    return invoke


def require(action: str, resource: str) -> None:
    """Check that the execution's role may do what Step Functions does for it by itself.

    Raises:
        Failure: it may not; the cause says so in IAM's words.
    """
    client("sts")
    key = _sessions[role.get()][1].access_key
    if denied := iam.denial(key, iam.Check(action, resource, {}), _responses.get_region()):
        raise Failure("States.Permissions", denied)


def call(service: str, action: str, arguments: Any) -> Any:
    """Call an action of an optimized integration and return its result.

    Raises:
        Failure: the service refused the call, or the arguments do not fit it.
    """
    return _call(service, action, arguments, *_OPTIMIZED[service])


def _call(name: str, action: str, arguments: Any, prefix: str, undeclared: str) -> Any:
    """Call ``action`` of the service that state machines know as ``name``; its errors are named ``<prefix>.<class>``.

    Raises:
        Failure: the service refused the call, or the arguments do not fit it.
    """
    service = _BOTOCORE_NAME.get(name, name)
    api = client(service)
    model = api.meta.service_model
    operations = {name.lower(): name for name in model.operation_names}
    if action.lower() not in operations:
        raise Failure("States.Runtime", f"{service} has no action {action}.")
    operation = model.operation_model(operations[action.lower()])
    try:
        answer = api._make_api_call(operation.name, _to_request(arguments, operation.input_shape))
    except ParamValidationError as error:
        raise Failure("States.Runtime", f"The arguments do not fit {service}:{action}: {error}") from error
    except ClientError as error:
        shapes = operation.error_shapes
        declared = {shape.metadata.get("error", {}).get("code", shape.name): shape.name for shape in shapes}
        name = declared.get(error.response["Error"]["Code"], undeclared)
        raise _failure(error, prefix, f"{name.removesuffix('Fault').removesuffix('Exception')}Exception") from error
    answer.pop("ResponseMetadata", None)
    return _to_result(answer, operation.output_shape)


def _failure(error: ClientError, prefix: str, name: str) -> Exception:
    said, metadata = error.response["Error"], error.response["ResponseMetadata"]
    cause = (
        f"{said['Message']} (Service: {prefix}; Status Code: {metadata['HTTPStatusCode']}; "
        f"Error Code: {said['Code']}; Request ID: {metadata.get('RequestId', '')})"
    )
    failure: Exception = Failure(f"{prefix}.{name}", cause)
    return failure


def _call_function(arguments: Data) -> Data:
    """Invoke a function and wait for its answer.

    Raises:
        Failure: named by the class of the function's error, so that Retry and Catch can match it.
    """
    payload = arguments.get("Payload", {})
    rest = {name: value for name, value in arguments.items() if name != "Payload"}
    try:
        answer = client("lambda").invoke(**rest, Payload=json.dumps(payload).encode())
    except ClientError as error:
        code = error.response["Error"]["Code"]
        known = {"ResourceNotFoundException", "TooManyRequestsException", "ServiceException"}
        raise _failure(error, "Lambda", code if code in known else "AWSLambdaException") from error
    body = answer["Payload"].read()
    if answer.get("FunctionError"):
        said = json.loads(body)
        raise Failure(said.get("errorType") or "Lambda.Unknown", json.dumps(said))
    return {
        "ExecutedVersion": answer.get("ExecutedVersion", "$LATEST"),
        "Payload": json.loads(body) if body else None,
        "StatusCode": answer["StatusCode"],
    }


def _to_request(value: Any, shape: Any) -> Any:
    """Return arguments as botocore wants them: members by their exact names, objects where text is asked as JSON."""
    kind = shape.type_name if shape else ""
    if isinstance(value, dict) and kind == "structure":
        members = {name.lower(): name for name in shape.members} | {"nul": "NULL"}
        named = {members.get(name.lower(), name): item for name, item in value.items()}
        value = {name: _to_request(item, shape.members.get(name)) for name, item in named.items()}
    elif isinstance(value, dict) and kind == "map":
        value = {name: _to_request(item, shape.value) for name, item in value.items()}
    elif isinstance(value, list) and kind == "list":
        value = [_to_request(item, shape.member) for item in value]
    elif isinstance(value, (dict, list)) and kind in {"string", "blob"}:
        value = _to_request(json.dumps(value), shape)
    elif isinstance(value, float) and kind in {"integer", "long"} and value.is_integer():
        value = int(value)
    elif isinstance(value, str) and kind == "blob":
        value = value.encode()
    return value


def _to_result(value: Any, shape: Any) -> Any:
    """Return an answer as a task's result: JSON values, members of structures begin with a capital letter."""
    kind = shape.type_name if shape else ""
    if kind == "structure":
        members = {name: _to_result(item, shape.members.get(name)) for name, item in value.items()}
        return {"Nul" if name == "NULL" else name[:1].upper() + name[1:]: item for name, item in members.items()}
    if kind == "list":
        return [_to_result(item, shape.member) for item in value]
    if kind == "map":
        return {name: _to_result(item, shape.value) for name, item in value.items()}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    content = value.read() if hasattr(value, "read") else value
    return content.decode(errors="replace") if isinstance(content, bytes) else content


emulator.patch(_sfn, "_invoke_resource", _invoke_resource)
