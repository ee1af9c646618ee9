"""Executions: a name starts one, an end is final, and the history tells all of it in order.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
"""

from __future__ import annotations

import contextvars
import json
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

from local.aws import emulator, metrics
from local.aws.stepfunctions.calls import Data, Failure, role
from local.aws.stepfunctions.tasks import refuse, release
from local.aws.stepfunctions.walk import Progress, attempt_of, walk

_sfn = emulator.module("services.stepfunctions")
_responses = emulator.module("core.responses")
_logger = logging.getLogger("stepfunctions")

_FORBIDDEN_IN_NAMES = re.compile(r"[\s<>{}\[\]?*\"#%\\^|~`$&,;:/\x00-\x1f\x7f-\x9f]")
_LONGEST = 99_999_999
"""TimeoutSeconds of a state machine that states none, which is three years."""
_start_lock = threading.Lock()
_history_lock = threading.Lock()


def _start_execution(original: Callable[[Data], Any]) -> Callable[[Data], Any]:
    """A name is used once: the same call again is answered as the first one while that runs, and refused later.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_StartExecution.html
    """

    def start(data: Data) -> Any:
        name, given = data.get("name"), data.get("input", "{}")
        if name is not None and (not 1 <= len(name) <= 80 or _FORBIDDEN_IN_NAMES.search(name)):
            return refuse("InvalidName", f"Invalid Name: '{name}'")
        try:
            json.loads(given)
        except ValueError as error:
            return refuse("InvalidExecutionInput", f"Invalid State Machine Execution Input: '{error}'")
        with _start_lock:
            machine = str(data.get("stateMachineArn", ""))
            known = _sfn._executions.get(f"{machine.replace(':stateMachine:', ':execution:')}:{name}")
            if name and known and known["status"] == "RUNNING" and known["input"] == given:
                started = {"executionArn": known["executionArn"], "startDate": known["startDate"]}
                return _responses.json_response(started)
            answer = original(data)
        if answer[0] == 200:
            execution = _sfn._executions[json.loads(answer[2])["executionArn"]]
            execution["events"][0]["previousEventId"] = 0
        return answer

    return start


def _run_execution(arn: str) -> None:
    """Run an execution as its machine's role, from its start or on from where it was, and end it in time."""
    execution = _sfn._executions[arn]
    machine = _sfn._state_machines.get(execution["stateMachineArn"])
    if machine is None:
        _sfn._fail_execution(execution, "StateMachineDeleted", "The state machine no longer exists.")
        return
    # A redriven execution has the definition it was started with.
    definition = execution.setdefault("_definition", json.loads(machine["definition"]))
    progress = execution.setdefault("_progress", Progress())
    given = json.loads(execution["input"])
    context = execution.setdefault(
        "_context",
        {
            "QueryLanguage": definition.get("QueryLanguage", "JSONPath"),
            "Execution": {
                "Id": arn,
                "Input": given,
                "Name": execution["name"],
                "RoleArn": machine["roleArn"],
                "StartTime": execution["startDate"],
            },
            "StateMachine": {"Id": execution["stateMachineArn"], "Name": machine["name"]},
            "variables": {},
        },
    )
    acting = role.set(machine["roleArn"])
    seconds = definition.get("TimeoutSeconds", _LONGEST)
    timer = threading.Timer(seconds, contextvars.copy_context().run, (_time_out, execution))
    timer.daemon = True
    if seconds < _LONGEST:
        timer.start()
    try:
        finish(execution, lambda: walk(definition, given, execution, context, progress))
    finally:
        timer.cancel()
        role.reset(acting)


def finish(execution: Data, work: Callable[[], Any]) -> None:
    """Do the ``work`` of an execution and end it with its output or failure, unless it was ended meanwhile."""
    goes_on = attempt_of(execution)
    try:
        output = json.dumps(work())
        if goes_on():
            execution.update(status="SUCCEEDED", output=output, stopDate=_responses.now_iso())
            _sfn._add_event(execution, "ExecutionSucceeded", {"executionSucceededEventDetails": {"output": output}})
            _sfn._emit_execution_status_event(execution)
    except Failure as failure:
        if goes_on():
            _sfn._fail_execution(execution, failure.error, failure.cause)
    except Exception as error:
        _logger.exception("The execution %s failed in the embedded AWS", execution["executionArn"])
        if goes_on():
            _sfn._fail_execution(execution, "States.Runtime", str(error))


def _time_out(execution: Data) -> None:
    if execution["status"] != "RUNNING":
        return
    execution.update(status="TIMED_OUT", stopDate=_responses.now_iso())
    _sfn._add_event(execution, "ExecutionTimedOut", {"executionTimedOutEventDetails": {}})
    _sfn._emit_execution_status_event(execution)
    release(execution["executionArn"])


def _stop_execution(original: Callable[[Data], Any]) -> Callable[[Data], Any]:
    def stop(data: Data) -> Any:
        answer = original(data)
        if answer[0] == 200:
            release(data["executionArn"])
        return answer

    return stop


def _add_event(original: Callable[..., Data]) -> Callable[..., Data]:
    """Chain the events of a history, and let nothing follow its end."""

    def add(execution: Data, kind: str, details: Data | None = None) -> Data:
        with _history_lock:
            if execution["status"] != "RUNNING" and not kind.startswith("Execution"):
                return {}
            event = original(execution, kind, details)
            event["previousEventId"] = event["id"] - 1
            return event

    return add


_METRICS = {
    "RUNNING": "ExecutionsStarted",
    "SUCCEEDED": "ExecutionsSucceeded",
    "FAILED": "ExecutionsFailed",
    "TIMED_OUT": "ExecutionsTimedOut",
    "ABORTED": "ExecutionsAborted",
}


def _count(original: Callable[[Data], None]) -> Callable[[Data], None]:
    """Count executions by state, where the emulator tells EventBridge about them; those of a Map Run are told by it.

    https://docs.aws.amazon.com/step-functions/latest/dg/procedure-cw-metrics.html
    """

    def emit(execution: Data) -> None:
        if "mapRunArn" in execution:
            return
        scope = _responses.get_account_id(), _responses.get_region()
        machine = {"StateMachineArn": execution["stateMachineArn"]}
        metrics.count("AWS/States", _METRICS[execution["status"]], machine, 1, "Count", *scope)
        original(execution)

    return emit


emulator.patch(_sfn, "_start_execution", _start_execution)
emulator.patch(_sfn, "_stop_execution", _stop_execution)
emulator.replace(_sfn, "_run_execution", _run_execution)
emulator.patch(_sfn, "_add_event", _add_event)
emulator.patch(_sfn, "_emit_execution_status_event", _count)
