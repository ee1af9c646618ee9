"""Redriving an execution that did not succeed: it goes on in the state where it ended, with the same input.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_RedriveExecution.html
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError, Call, Payload
from local.aws.stepfunctions.calls import Data

_sfn = emulator.module("services.stepfunctions")
_responses = emulator.module("core.responses")


@emulator.json_action("states", "RedriveExecution")
def _redrive_execution(call: Call) -> Payload:
    arn = call.payload["executionArn"]
    execution = _sfn._executions.get(arn)
    if execution is None:
        raise AwsError("ExecutionDoesNotExist", f"Execution Does Not Exist: '{arn}'")
    token = call.payload.get("clientToken")
    if token and token == execution.get("_redriveToken"):
        return {"redriveDate": datetime.fromisoformat(execution["redriveDate"])}
    standing = _standing(execution)
    if standing["redriveStatus"] != "REDRIVABLE":
        raise AwsError("ExecutionNotRedrivable", standing.get("redriveStatusReason", "It is redriven by its Map Run."))
    restart(execution)
    execution["_redriveToken"] = token
    _sfn._emit_execution_status_event(execution)
    emulator.in_background(lambda: _sfn._run_execution(arn), f"redrive-{execution['name'][:20]}")
    return {"redriveDate": datetime.now(UTC)}


def restart(execution: Data) -> None:
    """Let an ended execution run again from where it was; who calls this runs it."""
    count = execution.get("redriveCount", 0) + 1
    execution.update(status="RUNNING", stopDate=None, output=None, redriveCount=count, redriveDate=_responses.now_iso())
    for member in ("error", "cause"):
        execution.pop(member, None)
    if "_progress" in execution:
        execution["_progress"].resume()
    _sfn._add_event(execution, "ExecutionRedriven", {"executionRedrivenEventDetails": {"redriveCount": count}})


def _standing(execution: Data) -> Data:
    """Return the members of a description that say whether the execution can be redriven."""
    status, counted = execution["status"], {"redriveCount": execution.get("redriveCount", 0)}
    machine = _sfn._state_machines.get(execution["stateMachineArn"])
    if "redriveDate" in execution:
        counted["redriveDate"] = execution["redriveDate"]
    if status in {"RUNNING", "SUCCEEDED"}:
        reason = f"Execution is {status} and cannot be redriven"
    elif "mapRunArn" in execution:
        return {**counted, "redriveStatus": "REDRIVABLE_BY_MAP_RUN"}
    elif machine is None:
        reason = "State machine is in DELETING status."
    elif machine["type"] == "EXPRESS":
        reason = "Express executions cannot be redriven"
    else:
        return {**counted, "redriveStatus": "REDRIVABLE"}
    return {**counted, "redriveStatus": "NOT_REDRIVABLE", "redriveStatusReason": reason}


def _describe(original: Callable[[Data], Any]) -> Callable[[Data], Any]:
    """Add what https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeExecution.html says."""

    def describe(data: Data) -> Any:
        answer = original(data)
        if answer[0] != 200:
            return answer
        execution = _sfn._executions[data["executionArn"]]
        described = {**json.loads(answer[2]), **_standing(execution)}
        if execution["status"] != "SUCCEEDED":
            described.pop("output", None)
            described.pop("outputDetails", None)
        return _responses.json_response(described)

    return describe


emulator.patch(_sfn, "_describe_execution", _describe)
