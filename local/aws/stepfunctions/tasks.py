"""Task states: attempts with Retry and Catch, and callbacks that end by their token, timeout or heartbeat.

https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from local.aws import emulator
from local.aws.stepfunctions import jobs
from local.aws.stepfunctions.calls import CALLBACK, Data, Failure

_sfn = emulator.module("services.stepfunctions")
_responses = emulator.module("core.responses")

State = dict[str, Any]


_token_secret = secrets.token_bytes(32)


def _new_token(execution: str) -> str:
    """Return a task token, which nobody else can make up."""
    body = json.dumps([execution, secrets.token_hex(16)]).encode()
    return base64.b64encode(hmac.digest(_token_secret, body, hashlib.sha256) + body).decode()


def _is_token(token: str) -> bool:
    try:
        content = base64.b64decode(token, validate=True)
    except ValueError:
        return False
    return hmac.compare_digest(content[:32], hmac.digest(_token_secret, content[32:], hashlib.sha256))


@dataclass
class _Callback:
    """A task that waits for its token; ``changed`` is set by an answer and by every heartbeat."""

    execution: str
    changed: threading.Event
    beat: float
    output: str | None = None
    failure: Exception | None = None

    @property
    def closed(self) -> bool:
        return self.output is not None or self.failure is not None


_callbacks: dict[str, _Callback] = {}
_answering = threading.Lock()
"""Held while a callback is closed, so that an answer is either taken or refused."""


def _execute_task(state: State, raw_input: Any, execution: Data, context: Data) -> tuple[Any, str | None]:
    """Run a Task state with its Retry and Catch fields and return its output and the next state's name.

    Raises:
        Failure: the task failed and nothing caught it, or the execution was ended meanwhile.
    """
    retries: dict[int, int] = {}
    jsonata = _sfn._state_query_language(state, context) == "JSONata"
    while True:
        context["State"]["RetryCount"] = sum(retries.values())
        try:
            result = _attempt(state, raw_input, execution, context, jsonata)
            return succeeded(state, raw_input, result, context, jsonata)
        except Failure as failure:
            if execution["status"] != "RUNNING":
                raise
            retrier, index = _sfn._find_matching_retrier(state.get("Retry", []), failure.error, retries)
            if retrier is not None:
                _sfn._scaled_sleep(_delay(retrier, retries.get(index, 0)))
                retries[index] = retries.get(index, 0) + 1
                continue
            catcher = _sfn._find_matching_catcher(state.get("Catch", []), failure.error)
            if catcher is None:
                raise
            error = {"Error": failure.error, "Cause": failure.cause}
            language = "JSONata" if jsonata else "JSONPath"
            return _sfn._apply_catcher(catcher, raw_input, context, language, error), catcher["Next"]


def succeeded(state: State, raw_input: Any, result: Any, context: Data, jsonata: bool) -> tuple[Any, str | None]:
    """Return a state's output, made of its result, and the next state's name."""
    if jsonata:
        output = _sfn._apply_jsonata_output(state, raw_input, context, result=result, default=result)
        _sfn._apply_state_assign(state, raw_input, context, result=result)
    else:
        output = _sfn._apply_result_path(state, raw_input, _sfn._apply_result_selector(state, result))
        output = _sfn._apply_output_path(state, output, context)
    return output, _sfn._next_or_end(state)


def _delay(retrier: Data, attempt: int) -> float:
    """Return the seconds before retry number ``attempt`` (from 0).

    https://docs.aws.amazon.com/step-functions/latest/dg/concepts-error-handling.html
    """
    seconds: float = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** attempt
    seconds = min(seconds, retrier.get("MaxDelaySeconds", seconds))
    return random.uniform(0, seconds) if retrier.get("JitterStrategy") == "FULL" else seconds  # noqa: S311 - no secret


def _attempt(state: State, raw_input: Any, execution: Data, context: Data, jsonata: bool) -> Any:
    resource = str(state["Resource"])
    callback = (
        _Callback(execution["executionArn"], threading.Event(), time.monotonic()) if CALLBACK in resource else None
    )
    token = _new_token(execution["executionArn"])
    if callback:
        context = {**context, "Task": {"Token": token}}  # branches share the context, not the token
        _callbacks[token] = callback
    try:
        if jsonata:
            arguments = _sfn._apply_jsonata_arguments(state, raw_input, context)
        else:
            effective = _sfn._apply_input_path(state, raw_input, context)
            arguments = _sfn._apply_parameters(state, effective, context)
        timeout, heartbeat = (
            number(state, field, raw_input, context, jsonata) for field in ("TimeoutSeconds", "HeartbeatSeconds")
        )
        return _run(resource, arguments, timeout, heartbeat, callback, execution)
    finally:
        _callbacks.pop(token, None)


def number(state: State, field: str, raw_input: Any, context: Data, jsonata: bool) -> float | None:
    """Return a field's number, None without one: a literal, a JSONata expression, or a path in ``<field>Path``."""
    if f"{field}Path" in state:
        found: float = _sfn._resolve_path_or_ctx(state[f"{field}Path"], raw_input, context)
        return found
    if field not in state:
        return None
    value = _sfn._jsonata_state_field(state, field, "number", raw_input, context) if jsonata else state[field]
    return float(value)


def _run(
    resource: str,
    arguments: Any,
    timeout: float | None,
    heartbeat: float | None,
    callback: _Callback | None,
    execution: Data,
) -> Any:
    """Run one attempt of a task and tell the execution's history about it."""
    kind, _, action = resource.partition(":states:::")[2].rpartition(":")
    what = {"resourceType": kind or "lambda", "resource": action or resource}

    def tell(event: str, **details: Any) -> None:
        given = {name: value for name, value in details.items() if value is not None}
        _sfn._add_event(execution, f"Task{event}", {f"task{event}EventDetails": what | given})

    tell(
        "Scheduled",
        region=_responses.get_region(),
        parameters=json.dumps(arguments),
        timeoutInSeconds=timeout,
        heartbeatInSeconds=heartbeat,
    )
    tell("Started")
    ends = time.monotonic() + timeout if timeout is not None else None
    try:
        # An activity's timeout begins when a worker takes the task.
        if jobs.is_job(resource):
            result = jobs.run(resource, arguments, ends, lambda: execution["status"] == "RUNNING")
        elif callback or timeout is None or ":activity:" in resource:
            result = _sfn._invoke_resource(resource, arguments)
        else:
            result = _sfn._invoke_resource_with_timeout(resource, arguments, timeout)
        if callback:
            tell("Submitted", output=json.dumps(result))
            result = _wait(callback, ends, heartbeat)
    except Failure as failure:
        timed_out = failure.error in {"States.Timeout", "States.HeartbeatTimeout"}
        tell("TimedOut" if timed_out else "Failed", error=failure.error, cause=failure.cause)
        raise
    tell("Succeeded", output=json.dumps(result))
    return result


def _wait(callback: _Callback, ends: float | None, heartbeat: float | None) -> Any:
    """Wait until the token comes back.

    Raises:
        Failure: the answer is a failure, or neither answer nor heartbeat came in time.
    """
    while True:
        beat_ends = callback.beat + heartbeat if heartbeat is not None else None
        until = min((moment for moment in (ends, beat_ends) if moment is not None), default=None)
        callback.changed.wait(None if until is None else max(0.0, until - time.monotonic()))
        callback.changed.clear()
        with _answering:
            now = time.monotonic()
            if not callback.closed and ends is not None and now >= ends:
                callback.failure = Failure("States.Timeout", "The task was not answered within its TimeoutSeconds.")
            elif not callback.closed and heartbeat is not None and now >= callback.beat + heartbeat:
                cause = "No heartbeat came within the task's HeartbeatSeconds."
                callback.failure = Failure("States.HeartbeatTimeout", cause)
        if callback.failure:
            raise callback.failure
        if callback.output is not None:
            return json.loads(callback.output)


def _error_matches(original: Callable[[list[str], str], bool]) -> Callable[[list[str], str], bool]:
    """``States.ALL`` and ``States.TaskFailed`` leave out what cannot be caught."""

    def matches(names: list[str], error: str) -> bool:
        terminal = error in {"States.Runtime", "States.DataLimitExceeded"}
        return error in names if terminal else original(names, error)

    return matches


def _answer(change: Callable[[_Callback, Data], None]) -> Callable[[Callable[[Data], Any]], Callable[[Data], Any]]:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_SendTaskSuccess.html"""

    def wrap(original: Callable[[Data], Any]) -> Callable[[Data], Any]:
        def send(data: Data) -> Any:
            token = str(data.get("taskToken", ""))
            if token in _sfn._task_tokens:  # an activity's
                return original(data)
            if not _is_token(token):
                return refuse("InvalidToken", "Invalid Token: 'Invalid token'")
            callback = _callbacks.get(token)
            try:
                with _answering:
                    if callback is None or callback.closed:
                        return refuse("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'")
                    change(callback, data)
            except ValueError as error:
                return refuse("InvalidOutput", f"Invalid Output: '{error}'")
            callback.changed.set()
            return _responses.json_response({})

        return send

    return wrap


def _succeed(callback: _Callback, data: Data) -> None:
    json.loads(data["output"])
    callback.output = data["output"]


def _fail(callback: _Callback, data: Data) -> None:
    callback.failure = Failure(data.get("error", "States.TaskFailed"), data.get("cause", ""))


def _beat(callback: _Callback, data: Data) -> None:
    callback.beat = time.monotonic()


def release(execution: str) -> None:
    """Let the tasks of an ended execution stop waiting."""
    for callback in [callback for callback in _callbacks.copy().values() if callback.execution == execution]:
        with _answering:
            callback.failure = Failure("States.TaskFailed", "The execution has ended.")
        callback.changed.set()


def refuse(code: str, message: str) -> Any:
    """Return the answer to a call that is refused."""
    return _responses.error_response_json(code, message, 400)


emulator.replace(_sfn, "_execute_task", _execute_task)
emulator.patch(_sfn, "_error_matches", _error_matches)
emulator.patch(_sfn, "_send_task_success", _answer(_succeed))
emulator.patch(_sfn, "_send_task_failure", _answer(_fail))
emulator.patch(_sfn, "_send_task_heartbeat", _answer(_beat))
