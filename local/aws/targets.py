"""What event rules, schedules, topic rules and pipes send to: one call of a target's public API each.

A target is called with a role that the service assumes, or by the service itself if the target's own policy lets it
(https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-use-resource-based.html).
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import queue
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import emulator
from local.aws.emulator import AwsError
from local.aws.event_sources.mapping import pause

_lambda = emulator.module("services.lambda_svc")
_logs = emulator.module("services.cloudwatch_logs")
_sns = emulator.module("services.sns")
_sqs = emulator.module("services.sqs")

_log = logging.getLogger(__name__)

ERRORS = (AwsError, BotoCoreError, ClientError)
"""What a call of a target raises."""

# --- Who calls ---------------------------------------------------------------------------------------------------

_SESSION_SECONDS = 3600
_CALL = {
    "read_timeout": 910,
    "max_pool_connections": 50,
    "inject_host_prefix": False,
    "retries": {"total_max_attempts": 1},
}
"""A function that a pipe waits for runs at most 900 seconds; StartSyncExecution has a host of its own on AWS; whoever
calls tries again himself."""
_sessions: dict[tuple[str, str], tuple[float, emulator.Credentials]] = {}
_clients: dict[tuple[str, str, str], Any] = {}
_lock = threading.Lock()


def _client(service: str, credentials: emulator.Credentials, region: str) -> Any:
    key = (service, credentials.access_key, region)
    with _lock:
        if key not in _clients:
            _clients[key] = emulator.client(service, credentials, region, **_CALL)
        return _clients[key]


@dataclass(frozen=True)
class Sender:
    """The AWS service ``principal`` on behalf of ``source``, the ARN of a rule, schedule or pipe."""

    principal: str
    source: str

    @property
    def region(self) -> str:
        """The region of the source, in which it acts."""
        return self.source.split(":")[3]

    @property
    def account(self) -> str:
        """The account of the source."""
        return self.source.split(":")[4]

    def credentials(self, role: str) -> emulator.Credentials:
        """Return a session of ``role`` (an ARN), which is used again for an hour.

        Raises:
            AwsError: the role does not exist or does not trust the service, now.
        """
        made, credentials = _sessions.get((self.principal, role), (0.0, None))
        expired = time.monotonic() - made > _SESSION_SECONDS
        if credentials is None or expired or not emulator.trusts(role, self.principal):
            try:
                credentials = emulator.service_role_credentials(role, self.principal, uuid.uuid4().hex)
            except AwsError as error:
                raise AwsError("AccessDeniedException", error.message, 403) from error
            _sessions[self.principal, role] = (time.monotonic(), credentials)
        return credentials

    def client(self, service: str, role: str) -> Any:
        """Return a client of ``service`` that acts with ``role``; threads may share it.

        Raises:
            AwsError: as for ``credentials``.
        """
        return _client(service, self.credentials(role), self.region)

    def require(self, action: str, resource: str) -> None:
        """Check that the own policy of ``resource`` lets the service do ``action`` with it.

        Raises:
            AwsError: there is no such resource, or its policy does not let the service do this.
        """
        policies = _policies(resource)
        if not any(emulator.policy_allows(each, self.principal, action, resource, self.source) for each in policies):
            message = f"{self.principal} is not authorized to perform: {action} on resource: {resource}"
            raise AwsError("AccessDeniedException", f"{message} because no resource-based policy allows it", 403)

    def permitted(self, service: str, action: str, resource: str) -> Any:
        """Return a client of ``service`` for ``action`` on ``resource``, whose own policy must allow it.

        Raises:
            AwsError: as for ``require``.
        """
        self.require(action, resource)
        return _client(service, emulator.root_credentials(), self.region)

    def caller(self, service: str, role: str, action: str, resource: str) -> Any:
        """Return a client of ``service`` that acts with ``role`` or, if that is empty, as ``permitted``."""
        return self.client(service, role) if role else self.permitted(service, action, resource)


def _policies(resource: str) -> list[Any]:
    """Return the policies of ``resource``, none if it has none.

    Raises:
        AwsError: there is no such resource.
    """
    service, name = resource.split(":")[2], resource.split(":", 5)[5]
    if service == "sqs":
        found = _sqs._queue_by_arn(resource)
        policies = [found["attributes"].get("Policy")] if found else []
    elif service == "sns":
        found = _sns._topic_by_arn_any_scope(resource)
        policies = [found["attributes"].get("Policy")] if found else []
    elif service == "lambda":
        found, _, _ = _lambda._get_func_record_for_ref(resource)
        policies = [found["policy"]] if found else []
    elif service == "logs":
        group = name.removeprefix("log-group:").partition(":")[0]
        found = _logs._log_groups.get(group)
        documents = [*_logs._resource_policies.values(), _logs._log_group_policies.get(group)]
        policies = [each["policyDocument"] for each in documents if each]
    else:
        raise AwsError("InvalidParameterException", f"RoleArn is required for target {resource}.")
    if not found:
        raise AwsError("ResourceNotFoundException", f"{resource} does not exist.", 404)
    return policies


# --- What went wrong ---------------------------------------------------------------------------------------------

_THROTTLED = ("Throttl", "TooManyRequests", "ProvisionedThroughputExceeded", "LimitExceeded", "SlowDown")


@dataclass(frozen=True)
class Problem:
    """Why a call failed: AWS's error code and message, the kind of the failure, and whether to try again."""

    code: str
    message: str
    kind: str
    again: bool


def problem(error: Exception) -> Problem:
    """Classify one of ``ERRORS``; the kinds are error codes of an event rule's dead letters.

    Missing permissions and missing targets are not tried again:
    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-dlq.html
    """
    if isinstance(error, BotoCoreError):
        return Problem(type(error).__name__, str(error), "CONNECTION_FAILURE", again=True)
    if isinstance(error, ClientError):
        code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    else:
        code, message, status = getattr(error, "code", type(error).__name__), str(error), getattr(error, "status", 400)
    if any(mark in code for mark in _THROTTLED) or status == 429:
        return Problem(code, message, "THROTTLING", again=True)
    if status >= 500:
        return Problem(code, message, "ERROR_FROM_TARGET", again=True)
    if "AccessDenied" in code or code in {"AuthorizationError", "NotAuthorized", "UnauthorizedException"}:
        return Problem(code, message, "NO_PERMISSIONS", again=False)
    if "NotFound" in code or "NonExistent" in code or "DoesNotExist" in code:
        return Problem(code, message, "NO_RESOURCE", again=False)
    invalid = "Invalid" in code or "Validation" in code
    return Problem(code, message, "INVALID_PARAMETER" if invalid else "SDK_CLIENT_ERROR", again=False)


def persist(call: Callable[[], None]) -> None:
    """Do ``call``, and again after a failure that may pass, a few times.

    Raises:
        AwsError, BotoCoreError, ClientError: the last failure.
    """
    for attempt in range(_ATTEMPTS - 1):
        try:
            return call()
        except ERRORS as error:
            if not problem(error).again:
                raise
            time.sleep(pause(attempt))
    return call()


_ATTEMPTS = 4

# --- What is called ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """What some targets need beside the payload; ``kind`` and ``origin`` are an event's detail-type and source."""

    partition_key: str = ""
    group: str = ""
    kind: str = ""
    origin: str = ""


SERVICES = frozenset({"events", "firehose", "kinesis", "lambda", "logs", "sns", "sqs", "states"})
"""The services of the targets there are."""
BY_POLICY = frozenset({"lambda", "logs", "sns", "sqs"})
"""Those that may let a service call them without a role."""


def send(sender: Sender, arn: str, role: str, payload: str, options: Options) -> None:
    """Call the target ``arn`` once; return when it has accepted ``payload``.

    Raises:
        AwsError, BotoCoreError, ClientError: it has not.
    """
    service, name = arn.split(":")[2], arn.split(":", 5)[5]
    if service == "lambda":
        client = sender.caller("lambda", role, "lambda:InvokeFunction", arn)
        client.invoke(FunctionName=arn, InvocationType="Event", Payload=payload.encode())
    elif service == "sqs":
        given = {"MessageGroupId": options.group} if options.group else {}
        client = sender.caller("sqs", role, "sqs:SendMessage", arn)
        client.send_message(QueueUrl=queue_url(arn), MessageBody=payload, **given)
    elif service == "sns":
        sender.caller("sns", role, "sns:Publish", arn).publish(TopicArn=arn, Message=payload)
    elif service == "kinesis":
        key = options.partition_key or str(uuid.uuid4())
        sender.client("kinesis", role).put_record(StreamARN=arn, Data=payload.encode(), PartitionKey=key)
    elif service == "firehose":
        stream = name.partition("/")[2]
        sender.client("firehose", role).put_record(DeliveryStreamName=stream, Record={"Data": payload.encode()})
    elif service == "states":
        sender.client("stepfunctions", role).start_execution(stateMachineArn=arn, input=payload)
    elif service == "logs":
        group = name.removeprefix("log-group:").partition(":")[0]
        resource = ":".join([*arn.split(":")[:5], "log-group", group, "log-stream", ""])
        client = sender.caller("logs", role, "logs:PutLogEvents", f"{resource}*")
        log(client, group, uuid.uuid5(uuid.NAMESPACE_URL, sender.source).hex, [(time.time(), payload)])
    else:
        entry = {"EventBusName": arn, "DetailType": options.kind, "Source": options.origin, "Detail": payload}
        answer = sender.client("events", role).put_events(Entries=[entry])["Entries"][0]
        if "ErrorCode" in answer:
            raise AwsError(answer["ErrorCode"], answer["ErrorMessage"])


def queue_url(arn: str) -> str:
    """Return the URL of the queue ``arn``."""
    return str(_sqs._queue_url(arn.rpartition(":")[2]))


def log(client: Any, group: str, stream: str, messages: Sequence[tuple[float, str]]) -> None:
    """Write messages, each with its time in seconds since 1970, to a stream of a log group; make the stream if needed.

    Raises:
        BotoCoreError, ClientError: not possible.
    """
    events = [{"timestamp": int(at * 1000), "message": message} for at, message in messages]
    call = {"logGroupName": group, "logStreamName": stream}
    try:
        client.put_log_events(**call, logEvents=events)
    except client.exceptions.ResourceNotFoundException:
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):  # another thread was first
            client.create_log_stream(**call)
        client.put_log_events(**call, logEvents=events)


def attributes(values: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return text message attributes of SQS; empty values are left out, because SQS refuses them."""
    return {name: {"DataType": "String", "StringValue": value} for name, value in values.items() if value}


# --- When it is called -------------------------------------------------------------------------------------------

_WORKERS = 8
_waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
_workers: list[threading.Thread] = []


def _work() -> None:
    while True:
        function = _waiting.get()
        try:
            function()
        except Exception:  # the next one has nothing to do with it
            _log.exception("A call of a target ended unexpectedly")


def soon(function: Callable[[], None]) -> None:
    """Run ``function`` in one of a few threads, with the account and region of the caller."""
    with _lock:
        if not _workers:
            for number in range(_WORKERS):
                _workers.append(threading.Thread(target=_work, name=f"targets-{number}", daemon=True))
                _workers[-1].start()
    context = contextvars.copy_context()
    _waiting.put(lambda: context.run(function))


def later(seconds: float, function: Callable[[], None]) -> None:
    """Run ``function`` as ``soon`` does, after ``seconds``."""
    context = contextvars.copy_context()
    timer = threading.Timer(seconds, lambda: context.run(soon, function))
    timer.daemon = True
    timer.start()
