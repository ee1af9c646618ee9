"""All coupling to MiniStack's insides: request dispatch, credentials, records and start-up.

Service modules register themselves here; nothing else under ``local/`` imports ``ministack``. When the pinned version
changes, this is the file to read.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import botocore.session
from botocore.config import Config
from botocore.loaders import create_loader

Payload = dict[str, Any]
Response = tuple[int, dict[str, str], bytes]
Result = TypeVar("Result")


class AwsError(Exception):
    """An error the caller sees as AWS reports it: ``code`` is the exception name, ``status`` the HTTP status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status


@dataclass(frozen=True)
class Credentials:
    """What signs a request: an access key, its secret and, for a role session, the session token."""

    access_key: str
    secret_key: str
    token: str | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables through which SDKs in a child process find these credentials."""
        variables = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        if self.token:
            variables["AWS_SESSION_TOKEN"] = self.token
        return variables


@dataclass(frozen=True)
class Call:
    """One API call of a JSON-protocol service: its input members and who makes it."""

    service: str
    action: str
    payload: Payload
    account: str
    region: str
    caller: Credentials


Action = Callable[[Call], Payload]
"""Takes a call, returns the output members; raises ``AwsError``. Runs in its own thread, so it may block."""

_actions: dict[tuple[str, str], Action] = {}
_startup: list[Callable[[], None]] = []
_shutdown: list[Callable[[], None]] = []


def json_action(service: str, action: str) -> Callable[[Action], Action]:
    """Register ``action`` of a JSON-protocol service (Athena, Glue, ...) in place of the emulator's own."""

    def register(function: Action) -> Action:
        _actions[service, action] = function
        return function

    return register


def service(name: str, target_prefix: str) -> None:
    """Add a JSON-protocol service that the emulator lacks; ``target_prefix`` is that of its X-Amz-Target header."""
    module("core.router").SERVICE_PATTERNS[name] = {"target_prefixes": [f"{target_prefix}."]}
    module("core.iam_actions").SERVICE_TO_IAM_NAMESPACE[name] = name
    module("app").SERVICE_HANDLERS[name] = _unknown_operation


async def _unknown_operation(
    method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]
) -> Response:
    message = f"The embedded AWS does not know {headers.get('x-amz-target', '')}."
    return _json(400, {"__type": "UnknownOperationException", "message": message})


Control = Callable[[Any], Any]
"""Takes what was put, as parsed from JSON, or None where it is only looked at; returns what is answered as JSON.

Raises ``ValueError`` or ``TypeError`` for what cannot be put.
"""

_controls: dict[str, Control] = {}


def control(name: str) -> Callable[[Control], Control]:
    """Register what answers ``GET`` and ``PUT`` of ``/_atlas/<name>``, where the embedded AWS itself is controlled."""

    def register(function: Control) -> Control:
        _controls[f"/_atlas/{name}"] = function
        return function

    return register


def _with_controls(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle(method: str, path: str, headers: Any, body: bytes, query: Any, request_id: str) -> Any:
        if path not in _controls:
            return await original(method, path, headers, body, query, request_id)
        status = 200
        try:
            answer = _controls[path](json.loads(body) if method == "PUT" else None)
        except (TypeError, ValueError) as error:
            status, answer = 400, {"message": str(error)}
        return status, {"Content-Type": "application/json"}, json.dumps(answer).encode()

    return handle


def on_startup(function: Callable[[], None]) -> Callable[[], None]:
    """Run ``function`` before the emulator listens."""
    _startup.append(function)
    return function


def on_shutdown(function: Callable[[], None]) -> Callable[[], None]:
    """Run ``function`` when the emulator stops, whatever stopped it (last registered first)."""
    _shutdown.append(function)
    return function


def module(name: str) -> Any:
    """Return the emulator's module ``name`` (for example ``services.rds``), for patching in a service module."""
    import importlib

    return importlib.import_module(f"ministack.{name}")


def patch(target: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace function ``name`` of ``target`` by ``wrapper(original)``.

    Raises:
        AttributeError: the emulator no longer has it, which a version bump must not hide.
    """
    setattr(target, name, wrapper(getattr(target, name)))


def replace(target: Any, name: str, value: Any) -> None:
    """Put ``value`` in the place of ``name`` of ``target``.

    Raises:
        AttributeError: the emulator no longer has it, which a version bump must not hide.
    """
    patch(target, name, lambda _: value)


def resource_type(
    name: str,
    create: Callable[[str, dict[str, Any], str], tuple[str, dict[str, str]]],
    delete: Callable[[str, dict[str, Any]], None],
    update: Callable[[str, dict[str, Any], dict[str, Any], str], tuple[str, dict[str, str]]] | None = None,
) -> None:
    """Teach CloudFormation the resource type ``name``.

    ``create`` takes logical id, properties and stack name and returns physical id and attributes; ``delete`` takes
    physical id and properties; ``update`` takes physical id, old and new properties and stack name and returns what
    ``create`` does. Without it, changed properties create the resource anew.
    """
    handlers = module("services.cloudformation.provisioners")._RESOURCE_HANDLERS
    handlers[name] = {"create": create, "delete": delete} | ({"update": update} if update else {})
    # They call the emulator itself, which must not be done on its event loop.
    stacks = module("services.cloudformation.stacks")
    patch(stacks, "_runs_on_worker_thread", lambda original: lambda kind: kind == name or original(kind))


def patch_text(target: Any, name: str, old: str, new: str) -> None:
    """Replace the one occurrence of ``old`` by ``new`` in the text ``name`` of ``target``, such as a worker's script.

    Raises:
        LookupError: the text does not have it once, which a version bump must not hide.
    """
    text: str = getattr(target, name)
    if text.count(old) != 1:
        raise LookupError(f"{name} has {text.count(old)} times: {old}")
    setattr(target, name, text.replace(old, new))


def endpoint() -> str:
    """Return the address every service is reached at."""
    return f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"


def state_folder() -> str:
    """Return the folder in which services keep files; it is made by the launcher and removed by a reset."""
    return os.environ["ATLAS_AWS_STATE"]


def root_credentials() -> Credentials:
    """Return the account root's credentials: for set-up of the emulator itself, never for a service's work."""
    return Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])


def client(service: str, credentials: Credentials, region: str, **config: Any) -> Any:
    """Return a botocore client that calls ``service`` over loopback as ``credentials``.

    ``config`` are settings of ``botocore.config.Config`` beside, or instead of, those all clients have.
    """
    return _client_session().create_client(
        service,
        region_name=region,
        endpoint_url=endpoint(),
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
        config=Config(
            **{"s3": {"addressing_style": "path"}, "retries": {"mode": "standard", "max_attempts": 3}, **config}
        ),
    )


_sessions = threading.local()
_models = create_loader()
"""Reads a service's model once for all sessions: it takes longer than most calls."""


def _client_session() -> Any:
    """One botocore session per thread: building a session is slow and a session is not thread-safe."""
    if not hasattr(_sessions, "session"):
        _sessions.session = botocore.session.Session()
        _sessions.session.register_component("data_loader", _models)
    return _sessions.session


def service_role_credentials(role_arn: str, service: str, session_name: str) -> Credentials:
    """Assume ``role_arn`` as the AWS service ``service`` (such as ``glue.amazonaws.com``) and return the session.

    STS itself offers no way to call it as a service principal, so the role's trust policy is checked here.

    Raises:
        AwsError: the role does not exist or does not trust the service.
    """
    iam = module("services.iam")
    sts = module("services.sts")
    account = role_arn.split(":")[4]
    role_name = role_arn.rsplit("/", 1)[-1]
    role = iam._roles.get_scoped(account, None, role_name)
    if role is None:
        raise AwsError("InvalidInputException", f"Role {role_arn} does not exist.")
    if not trusts(role_arn, service):
        raise AwsError(
            "InvalidInputException",
            f"Service {service} is not allowed to assume {role_arn}: its trust policy does not name the service.",
        )
    session = Credentials(iam._gen_session_access_key(), secrets.token_urlsafe(30), iam._gen_session_token())
    sts.register_session(
        session.access_key,
        {
            "Arn": f"arn:aws:sts::{account}:assumed-role/{role_name}/{session_name[:64]}",
            "UserId": f"{role.get('RoleId', role_name)}:{session_name[:64]}",
            "SecretAccessKey": session.secret_key,
            "SessionToken": session.token,
            "AccountId": account,
            "Expiration": time.time() + 12 * 3600,
        },
    )
    return session


def trusts(role_arn: str, service: str) -> bool:
    """Return whether the role exists and its trust policy lets the AWS service ``service`` assume it.

    ``aws:SourceAccount`` is the role's own account; ``aws:SourceArn`` is not known, so a policy that
    demands it trusts nobody.
    """
    evaluator = module("core.iam_evaluator")
    if role_arn.count(":") < 5:
        return False
    account = role_arn.split(":")[4]
    role = module("services.iam")._roles.get_scoped(account, None, role_arn.rsplit("/", 1)[-1])
    if role is None:
        return False
    context = evaluator.EvalContext(
        principal_arn="",
        principal_type="Service",
        principal_account=account,
        action="sts:AssumeRole",
        resource_arn=role_arn,
        region="",
        service_context={"aws:sourceaccount": account},
    )
    trust = evaluator.evaluate_resource_policy(role["AssumeRolePolicyDocument"], context, service=service)
    return bool(trust.decision == "Allow")


def policy_allows(policy: Any, service: str, action: str, resource: str, source: str) -> bool:
    """Return whether a resource's policy lets the AWS service ``service`` itself do ``action`` on ``resource``.

    ``source`` is the ARN of the rule, schedule or the like on whose behalf the service acts: a condition on
    ``aws:SourceArn`` or ``aws:SourceAccount`` sees it; a bucket, whose ARN names no account, is one of this account.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_principal.html#principal-services
    """
    evaluator = module("core.iam_evaluator")
    account = source.split(":")[4] or module("core.responses").get_account_id()
    context = evaluator.EvalContext(
        principal_arn="*",
        principal_type="Service",
        principal_account="",
        action=action,
        resource_arn=resource,
        region="",
        secure_transport=True,
        service_context={"aws:sourcearn": source, "aws:sourceaccount": account},
    )
    return bool(evaluator.evaluate_resource_policy(policy, context, service=service).decision == "Allow")


def in_background(function: Callable[[], None], name: str) -> threading.Thread:
    """Run ``function`` in a thread that keeps the request's account and region."""
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(function,), name=name, daemon=True)
    thread.start()
    return thread


def on_loop(function: Callable[[], Result]) -> Result:
    """Run ``function`` between two requests of the emulator's own services, which its one event loop answers.

    For what must see, or change, their records as a whole. Not to be called on the loop itself.
    """

    async def run() -> Result:
        return function()

    return asyncio.run_coroutine_threadsafe(run(), module("app")._MAIN_LOOP).result()


def fall_through(call: Call) -> Payload:
    """Let the emulator's own implementation answer ``call``.

    Raises:
        AwsError: the emulator answered with an error.
    """
    app = module("app")
    headers = {"x-amz-target": f"{_TARGET_PREFIX[call.service]}.{call.action}"}
    original = _originals[call.service]
    status, _, body = app.call_service_handler_sync(
        original, "POST", "/", headers, json.dumps(call.payload, default=str).encode(), {}
    )
    answer: Payload = json.loads(body) if body else {}
    if status >= 400:
        raise AwsError(answer.get("__type", "InternalFailure"), answer.get("message", ""), status)
    return answer


_TARGET_PREFIX = {"athena": "AmazonAthena", "glue": "AWSGlue"}
_originals: dict[str, Any] = {}


def install() -> None:
    """Put the registered actions in front of the emulator's own handlers."""
    app = module("app")
    patch(app, "_handle_post_body_shortcuts", _with_controls)
    for service in {service for service, _ in _actions}:
        _originals[service] = app.SERVICE_HANDLERS[service]
        app.SERVICE_HANDLERS[service] = _dispatcher(service, app.SERVICE_HANDLERS[service])


def _dispatcher(service: str, original: Any) -> Any:
    run_reentrant = module("core.concurrency").run_reentrant
    responses = module("core.responses")
    router = module("core.router")
    evaluator = module("core.iam_evaluator")

    async def handle(method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]) -> Response:
        name = headers.get("x-amz-target", "").rpartition(".")[2]
        function = _actions.get((service, name))
        if function is None:
            answer: Response = await original(method, path, headers, body, query)
            return answer
        account, region = responses.get_account_id(), responses.get_region()
        access_key = router.extract_access_key_id(headers, query) or os.environ["AWS_ACCESS_KEY_ID"]
        resolved = evaluator.resolve_credential(access_key, account)
        call = Call(
            service=service,
            action=name,
            payload=json.loads(body) if body else {},
            account=account,
            region=region,
            caller=Credentials(resolved.access_key_id, resolved.secret_access_key, resolved.session_token),
        )
        try:
            output = await run_reentrant(function, call)
        except AwsError as error:
            return _json(error.status, {"__type": error.code, "message": error.message, "Message": error.message})
        return _json(200, output)

    return handle


def _json(status: int, members: Payload) -> Response:
    headers = {"Content-Type": "application/x-amz-json-1.1"}
    if status >= 400:
        headers["x-amzn-errortype"] = members["__type"]
    return status, headers, json.dumps(members, default=_timestamp).encode()


def _timestamp(value: Any) -> float:
    """Datetimes travel as epoch seconds in the AWS JSON protocols."""
    return float(value.timestamp())


def serve() -> None:
    """Start what was registered, run the emulator until a signal ends it, then stop what was registered."""
    try:
        for function in _startup:
            function()
        install()
        module("app").main()
    finally:
        for function in reversed(_shutdown):
            function()
