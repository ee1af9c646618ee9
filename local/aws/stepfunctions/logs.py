"""The log of a state machine: the events of its executions, in the log group it names.

https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from local.aws import emulator
from local.aws.stepfunctions.calls import Data

_sfn = emulator.module("services.stepfunctions")
_logs = emulator.module("services.cloudwatch_logs")

_FATAL = ("ExecutionAborted", "ExecutionFailed", "ExecutionTimedOut")
_ERRORS = ("Aborted", "Failed", "TimedOut", "FailStateEntered")
_PAYLOADS = {"input", "output", "parameters", "cause", "error"}


def _is_logged(kind: str, level: str) -> bool:
    return level == "ALL" or (level == "ERROR" and kind.endswith(_ERRORS)) or (level == "FATAL" and kind in _FATAL)


def _deliver(original: Callable[..., Data]) -> Callable[..., Data]:
    """Write each event of a history, as far as the machine's log level asks for it.

    The log delivery service writes them with the permissions that the machine's role was checked for when it was made.
    """

    def add(execution: Data, kind: str, details: Data | None = None) -> Data:
        event = original(execution, kind, details)
        if event:
            _write(execution, event)
        return event

    return add


def _deliver_start(original: Callable[[Data], None]) -> Callable[[Data], None]:
    """Write the event a history begins with, which an execution is made with."""

    def emit(execution: Data) -> None:
        original(execution)
        if execution["status"] == "RUNNING" and len(execution["events"]) == 1:
            _write(execution, execution["events"][0])

    return emit


def _write(execution: Data, event: Data) -> None:
    machine = _sfn._state_machines.get(execution.get("_log") or execution["stateMachineArn"]) or {}
    logging = machine.get("loggingConfiguration") or {}
    if not _is_logged(event["type"], logging.get("level", "OFF")):
        return
    details: Data = next((value for name, value in event.items() if name.endswith("EventDetails")), {})
    if not logging.get("includeExecutionData"):
        details = {name: value for name, value in details.items() if name not in _PAYLOADS}
    moment = int(datetime.fromisoformat(event["timestamp"]).timestamp() * 1000)
    line = {
        "id": str(event["id"]),
        "type": event["type"],
        "details": details,
        "previous_event_id": str(event.get("previousEventId", 0)),
        "event_timestamp": str(moment),
        "execution_arn": execution["executionArn"],
        "redrive_count": str(execution.get("redriveCount", 0)),
    }
    started = datetime.fromisoformat(execution["startDate"]).astimezone(UTC)
    stream = f"states/{machine['name']}/{started:%Y-%m-%d-%H-%M}/{execution['name']}"
    for destination in logging.get("destinations", []):
        group = destination["cloudWatchLogsLogGroup"]["logGroupArn"].partition(":log-group:")[2].removesuffix(":*")
        if group not in _logs._log_groups:
            continue  # somebody deleted it
        if stream not in _logs._log_groups[group]["streams"]:
            _logs._create_log_stream({"logGroupName": group, "logStreamName": stream})
        events: list[Any] = [{"timestamp": moment, "message": json.dumps(line)}]
        _logs._put_log_events({"logGroupName": group, "logStreamName": stream, "logEvents": events})


emulator.patch(_sfn, "_add_event", _deliver)
emulator.patch(_sfn, "_emit_execution_status_event", _deliver_start)
