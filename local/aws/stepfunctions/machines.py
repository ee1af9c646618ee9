"""State machines: definitions, roles and logs that AWS would not take are refused.

https://docs.aws.amazon.com/step-functions/latest/apireference/API_CreateStateMachine.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from local.aws import emulator, iam
from local.aws.stepfunctions.calls import PRINCIPAL, Data
from local.aws.stepfunctions.tasks import refuse

_sfn = emulator.module("services.stepfunctions")
_responses = emulator.module("core.responses")
_provisioners = emulator.module("services.cloudformation.provisioners")


_LOG_ACTIONS = (
    "logs:CreateLogDelivery",
    "logs:GetLogDelivery",
    "logs:UpdateLogDelivery",
    "logs:DeleteLogDelivery",
    "logs:ListLogDeliveries",
    "logs:PutResourcePolicy",
    "logs:DescribeResourcePolicies",
)


_RULE_ACTIONS = ("events:PutTargets", "events:PutRule", "events:DescribeRule")
_RULE = "StepFunctionsGetEventsForStepFunctionsExecutionRule"
"""How a machine that waits for executions of another one hears of their end:
https://docs.aws.amazon.com/step-functions/latest/dg/connect-stepfunctions.html"""


def _refusal(data: Data) -> tuple[str, str] | None:
    """Return the error of a state machine that cannot be made, None if it can."""
    if "definition" in data and (problem := next(_problems(data["definition"]), None)):
        return "InvalidDefinition", f"Invalid State Machine Definition: '{problem}'"
    role, logging = data.get("roleArn"), data.get("loggingConfiguration") or {}
    if role and logging.get("destinations") and logging.get("level", "OFF") != "OFF":
        # https://docs.aws.amazon.com/step-functions/latest/dg/cw-logs.html
        key = emulator.service_role_credentials(role, PRINCIPAL, "logs").access_key
        groups = f"arn:aws:logs:{_responses.get_region()}:{_responses.get_account_id()}:log-group::log-stream:"
        needed = [(action, "*") for action in _LOG_ACTIONS] + [("logs:DescribeLogGroups", groups)]
        checks = [iam.Check(action, what, {}) for action, what in needed]
        if any(iam.denial(key, check, _responses.get_region()) for check in checks):
            message = "The state machine IAM Role is not authorized to access the Log Destination"
            return "AccessDeniedException", message
    if role and ":::states:startExecution.sync" in data.get("definition", ""):
        key = emulator.service_role_credentials(role, PRINCIPAL, "rule").access_key
        rule = f"arn:aws:events:{_responses.get_region()}:{_responses.get_account_id()}:rule/{_RULE}"
        if any(iam.denial(key, iam.Check(action, rule, {}), _responses.get_region()) for action in _RULE_ACTIONS):
            return "AccessDeniedException", f"'{role}' is not authorized to create managed-rule."
    return None


def _problems(definition: str) -> Iterator[str]:
    """Yield what is wrong with a definition, of what keeps AWS from taking it.

    https://docs.aws.amazon.com/step-functions/latest/apireference/API_ValidateStateMachineDefinition.html
    """
    try:
        machine = json.loads(definition)
    except ValueError as error:
        yield f"INVALID_JSON_DESCRIPTION: {error}"
        return
    yield from _scope_problems(machine, "", machine.get("QueryLanguage", "JSONPath"))


def _scope_problems(scope: Data, path: str, language: str) -> Iterator[str]:
    states = scope.get("States") or {}
    if scope.get("StartAt") not in states:
        yield f"MISSING_TRANSITION_TARGET: Missing 'Next' target: {scope.get('StartAt')} at {path}/StartAt"
    for name, state in states.items():
        place = f"{path}/States/{name}"
        rules = [*state.get("Choices", []), *state.get("Catch", []), {"Next": state.get("Default")}, state]
        for target in [rule["Next"] for rule in rules if rule.get("Next") is not None]:
            if target not in states:
                yield f"MISSING_TRANSITION_TARGET: Missing 'Next' target: {target} at {place}/Next"
        if state.get("Type") in {"Task", "Pass", "Wait", "Map", "Parallel"} and not ("Next" in state or "End" in state):
            yield f"SCHEMA_VALIDATION_FAILED: These fields are required: [Next] or [End] at {place}"
        for field in ("TimeoutSeconds", "HeartbeatSeconds"):
            value, jsonata = state.get(field), state.get("QueryLanguage", language) == "JSONata"
            expression = jsonata and isinstance(value, str) and value.startswith("{%") and value.endswith("%}")
            if value is not None and not isinstance(value, int) and not expression:
                yield f"SCHEMA_VALIDATION_FAILED: Expected value of type Integer at {place}/{field}"
        inner = [*state.get("Branches", []), state.get("ItemProcessor") or state.get("Iterator")]
        for index, each in enumerate(filter(None, inner)):
            yield from _scope_problems(each, f"{place}/{index}", language)


def _checked(original: Callable[[Data], Any]) -> Callable[[Data], Any]:
    def handle(data: Data) -> Any:
        machine = _sfn._state_machines.get(data.get("stateMachineArn", ""), {})
        refusal = _refusal({"roleArn": machine.get("roleArn"), **data})
        return refuse(*refusal) if refusal else original(data)

    return handle


def _validate(data: Data) -> Any:
    found = [
        {"severity": "ERROR", "code": problem.partition(":")[0], "message": problem.partition(": ")[2]}
        for problem in _problems(data["definition"])
    ]
    return _responses.json_response({"result": "FAIL" if found else "OK", "diagnostics": found, "truncated": False})


def _lower(value: Any) -> Any:
    """Return a template's property with the member names of the API."""
    if isinstance(value, dict):
        return {name[:1].lower() + name[1:]: _lower(item) for name, item in value.items()}
    return [_lower(item) for item in value] if isinstance(value, list) else value


def _provision(original: Callable[..., Any], properties_at: int) -> Callable[..., Any]:
    """Refuse a template's state machine as the API does, and keep its logging as the API does."""

    def provision(*arguments: Any) -> Any:
        properties = dict(arguments[properties_at])
        if "LoggingConfiguration" in properties:
            properties["LoggingConfiguration"] = _lower(properties["LoggingConfiguration"])
        role = properties["RoleArn"]
        refusal = iam.refusal("states", role) or _refusal(
            {
                "definition": _provisioners._sfn_definition(properties),
                "roleArn": role,
                "loggingConfiguration": properties.get("LoggingConfiguration"),
            }
        )
        if refusal:
            raise _provisioners._sfn_handler_error(refusal[1])
        return original(*arguments[:properties_at], properties, *arguments[properties_at + 1 :])

    return provision


emulator.patch(_sfn, "_create_state_machine", _checked)
emulator.patch(_sfn, "_update_state_machine", _checked)
emulator.replace(_sfn, "_validate_state_machine_definition", _validate)
_handlers = _provisioners._RESOURCE_HANDLERS["AWS::StepFunctions::StateMachine"]
_handlers["create"] = _provision(_handlers["create"], 1)
_handlers["update"] = _provision(_handlers["update"], 2)
