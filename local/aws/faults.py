"""Faults on demand: calls of AWS that are throttled, fail, are slow, or whose answers get lost.

``PUT /_atlas/faults`` takes a list of rules and puts it in the place of the one before (an empty list switches faults
off); ``GET`` returns the rules with how often each has struck. A rule is a JSON object:

- ``actions``: which calls, in the language of IAM policies, such as ``["dynamodb:*", "s3:GetObject"]``
- ``fault``: ``throttle`` or ``error`` (refused before anything is done, with the service's own code), ``latency`` (held
  up for at most ``seconds``), ``reset`` (carried out, then the connection is reset in place of an answer) or
  ``truncate`` (carried out, then the connection closes in the middle of the answer)
- ``share``: probability from 0 to 1 that it strikes a call
- ``most``: how often it strikes at all, for ever without it

The account's root is spared: it sets up and looks, and is no part of a workload. What services do for each other with
their roles is not. Several rules may fit a call; the first that strikes decides.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from local.aws import emulator

_app = emulator.module("app")
_router = emulator.module("core.router")
_iam_actions = emulator.module("core.iam_actions")
_tcp_server = importlib.import_module("hypercorn.asyncio.tcp_server")
"""The web server under the emulator: the only place that has the connection of a request."""
_StreamingResponse = emulator.module("core.responses").StreamingResponse

Answer = Any
"""Status, headers and body, as the emulator's handlers return them."""

_THROTTLED = {
    "dynamodb": ("ProvisionedThroughputExceededException", 400),
    "firehose": ("ServiceUnavailableException", 503),
    "kinesis": ("ProvisionedThroughputExceededException", 400),
    "lambda": ("TooManyRequestsException", 429),
    "s3": ("SlowDown", 503),
    "sqs": ("RequestThrottled", 403),
}
_FAILED = {
    "dynamodb": ("InternalServerError", 500),
    "lambda": ("ServiceException", 500),
    "s3": ("InternalError", 500),
}
"""Code and status by service; the others have the common ones of the pages
https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html and
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html."""

_FAULTS = ("throttle", "error", "latency", "reset", "truncate")


@dataclass
class Rule:
    """Which calls a fault strikes, and how often it did; see the module."""

    actions: list[str]
    fault: str
    share: float = 1.0
    seconds: float = 0.0
    most: int | None = None
    struck: int = field(default=0)

    def __post_init__(self) -> None:
        """Refuse what no rule can be.

        Raises:
            ValueError: says what is wrong.
        """
        if self.fault not in _FAULTS:
            raise ValueError(f"fault is one of {', '.join(_FAULTS)}, not {self.fault!r}")
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is from 0 to 1, not {self.share}")
        if not isinstance(self.actions, list) or not self.actions:
            raise ValueError('actions is a list, such as ["dynamodb:*"]')

    def strikes(self, action: str) -> bool:
        """Return whether the fault happens to this call."""
        if self.struck == self.most or not any(fnmatchcase(action, pattern) for pattern in self.actions):
            return False
        strikes = random.random() < self.share  # noqa: S311 - no secret
        self.struck += strikes
        return strikes


_rules: list[Rule] = []
_writer: contextvars.ContextVar[asyncio.StreamWriter] = contextvars.ContextVar("writer")
"""The connection on which the call in progress came."""


def _remember_writer(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def run(self: Any) -> None:
        _writer.set(self.writer)
        await original(self)

    return run


def _strike(original: Callable[..., Any]) -> Callable[..., Any]:
    async def dispatch(
        method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any], request_id: str
    ) -> Answer:
        call = method, path, headers, body, query
        access_key = _router.extract_access_key_id(headers, query)
        if not _rules or access_key in (None, emulator.root_credentials().access_key):
            return await original(*call, request_id)
        parameters = _app._routing_params(*call)
        service = _router.detect_service(method, path, headers, parameters)
        action = _iam_actions.extract_iam_action(service, method, path, headers, body, parameters) or ""
        rule = next((rule for rule in _rules if rule.strikes(action)), None)
        if rule is None:
            return await original(*call, request_id)
        if rule.fault == "throttle":
            return _refusal(service, action, headers, request_id, *_THROTTLED.get(service, _throttled(headers)))
        if rule.fault == "error":
            return _refusal(service, action, headers, request_id, *_FAILED.get(service, ("InternalFailure", 500)))
        if rule.fault == "latency":
            await asyncio.sleep(random.uniform(0, rule.seconds))  # noqa: S311 - no secret
        answer = await original(*call, request_id)
        if rule.fault == "reset":
            _reset()
        return _truncated(answer) if rule.fault == "truncate" else answer

    return dispatch


def _throttled(headers: dict[str, str]) -> tuple[str, int]:
    """Return what services answer that have no code of their own; those of the Query protocol have an older one."""
    query = headers.get("content-type", "").startswith("application/x-www-form-urlencoded")
    return "Throttling" if query else "ThrottlingException", 400


def _refusal(service: str, action: str, headers: dict[str, str], request_id: str, code: str, status: int) -> Answer:
    """Return an error in the service's protocol."""
    message = "Rate exceeded" if status in (400, 403, 429, 503) else "The request could not be processed."
    _, answer, body = _iam_actions.access_denied_response(
        service, action, "", request_id, error_code=code, message=message, headers=headers
    )
    return status, answer | {"x-amzn-requestid": request_id}, body


def _reset() -> None:
    """Reset the connection: what is closed without lingering is not closed but reset."""
    connection = _writer.get()
    no_linger = struct.pack("ii", 1, 0)
    connection.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
    connection.transport.abort()


def _truncated(answer: Answer) -> Answer:
    """Return an answer that ends half-way, as does the connection."""
    status, headers, body = answer
    if isinstance(body, _StreamingResponse) or len(body) < 2:
        return answer
    content = body if isinstance(body, bytes) else body.encode()

    async def send_half(send: Callable[[dict[str, Any]], Any], _receive: Any) -> None:
        await send({"type": "http.response.body", "body": content[: len(content) // 2], "more_body": True})
        _writer.get().close()

    length = {"Content-Length": str(len(content))}
    kept = {name: value for name, value in headers.items() if name.lower() != "content-length"}
    return status, kept | length, _StreamingResponse(send_half)


@emulator.control("faults")
def _switch(rules: Any) -> Any:
    if rules is not None:
        _rules[:] = [Rule(**rule) for rule in rules]
    return [asdict(rule) for rule in _rules]


emulator.patch(_tcp_server.TCPServer, "run", _remember_writer)
emulator.patch(_app, "_dispatch_service_request", _strike)
