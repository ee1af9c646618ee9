"""Rules of event buses: the targets of an event that matches.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-targets.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from local.aws import emulator, iam, metrics, targets
from local.aws.emulator import AwsError
from local.aws.events import paths
from local.aws.events.delivery import LONGEST_SECONDS, MOST_ATTEMPTS, Delivery
from local.aws.targets import Problem, Sender

_eventbridge = emulator.module("services.eventbridge")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")

Event = dict[str, Any]
Rule = dict[str, Any]
Target = Mapping[str, Any]

PRINCIPAL = "events.amazonaws.com"
MOST_TARGETS = 5
"""https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-quota.html"""
_YOUNGEST_SECONDS = 60


# --- Targets are checked -----------------------------------------------------------------------------------------


def _check(added: list[Target], present: list[Target]) -> None:
    """Refuse targets that AWS refuses, and those that are not there.

    Raises:
        AwsError: the reason.
    """
    ids = {target["Id"] for target in [*present, *added]}
    if len(ids) > MOST_TARGETS:
        raise AwsError("LimitExceededException", "The requested resource exceeds the maximum number allowed.")
    for target in added:
        arn = str(target.get("Arn", ""))
        service = arn.split(":")[2] if arn.count(":") >= 5 else ""
        destination = ":api-destination/" in arn
        if service in _eventbridge._SUPPORTED_TARGET_SERVICES - targets.SERVICES:
            raise AwsError("ValidationException", f"The embedded AWS has no targets of {service}: {arn}")
        if service in targets.SERVICES - targets.BY_POLICY and not destination and not target.get("RoleArn"):
            raise AwsError("ValidationException", f"RoleArn is required for target {arn}.")
        if (role := target.get("RoleArn")) and (refusal := iam.refusal("events", role)):
            raise AwsError(*refusal)
        if arn.endswith(".fifo") and service == "sqs" and not _group(target):
            raise AwsError("ValidationException", f"Parameter(s) SqsParameters must be specified for target: {arn}.")
        policy = target.get("RetryPolicy") or {}
        for name, least, most in (
            ("MaximumRetryAttempts", 0, MOST_ATTEMPTS),
            ("MaximumEventAgeInSeconds", _YOUNGEST_SECONDS, LONGEST_SECONDS),
        ):
            if not least <= int(policy.get(name, most)) <= most:
                raise AwsError("ValidationException", f"{name} must be between {least} and {most}.")
        given = [name for name in ("Input", "InputPath", "InputTransformer") if target.get(name)]
        if len(given) > 1:
            message = f"Only one of Input, InputPath, or InputTransformer must be provided for target {target['Id']}."
            raise AwsError("ValidationException", message)
        transformer = target.get("InputTransformer") or {}
        for path in [*(transformer.get("InputPathsMap") or {}).values(), target.get("InputPath") or "$"]:
            if not paths.valid(path):
                raise AwsError("ValidationException", f"Invalid path: {path}")


def _group(target: Target) -> str:
    return str((target.get("SqsParameters") or {}).get("MessageGroupId") or "")


def _put_targets(original: Callable[[Event], Any]) -> Callable[[Event], Any]:
    def put(request: Event) -> Any:
        key = _eventbridge._rule_key(request.get("Rule"), request.get("EventBusName", "default"))
        try:
            _check(request.get("Targets", []), _eventbridge._targets.get(key, []))
        except AwsError as error:
            return _responses.error_response_json(error.code, error.message, error.status)
        return original(request)

    return put


def _provision(original: Callable[..., Any]) -> Callable[..., Any]:
    """A stack's rule is checked as the API checks it: its targets, its bus and its pattern."""

    def create(logical: str, properties: Event, stack: str) -> Any:
        try:
            _check(properties.get("Targets") or [], [])
        except AwsError as error:
            raise ValueError(error.message) from error
        _eventbridge._ensure_default_bus()
        bus = _provisioners._eb_rule_bus_name(properties)
        if bus not in _eventbridge._event_buses:
            raise ValueError(f"Event bus {bus} does not exist.")
        pattern = properties.get("EventPattern")
        if pattern and (reason := _eventbridge._event_pattern_error(json.dumps(pattern))):
            raise ValueError(f"Event pattern is not valid. Reason: {reason}")
        return original(logical, properties, stack)

    return create


# --- Events are dispatched ---------------------------------------------------------------------------------------


def _dispatch(event: Event, view: Any = None) -> None:
    """Start a delivery to every target of every rule that matches ``event``; called on the emulator's event loop."""
    view = view or _eventbridge._pattern_event_view(event)
    bus, passed = event.get("EventBusName", "default"), set(event.get("_DispatchPath") or [])
    chosen = _chosen_rules(event)
    for key, rule in list(_eventbridge._rules.items()):
        if rule.get("EventBusName", "default") != bus or key in passed or rule.get("State") != "ENABLED":
            continue
        pattern = rule.get("EventPattern")
        if not pattern or (chosen and rule["Arn"] not in chosen):
            continue
        if _eventbridge._matches_pattern_view(pattern, view, f"rule {key}"):
            _count(rule, "MatchedEvents")
            found = list(_eventbridge._targets.get(key, []))
            if found:
                _count(rule, "TriggeredRules")
            for target in found:
                _invoke(target, event, rule, view)


def _chosen_rules(event: Event) -> list[str]:
    """Return the ARNs of the only rules that a replay is for, none if it is for all.

    https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_ReplayDestination.html
    """
    replay = _eventbridge._replays.get(event.get("ReplayName")) or {}
    return list((replay.get("Destination") or {}).get("FilterArns") or [])


def _invoke(target: Target, event: Event, rule: Rule, view: Any = None) -> None:
    view = view or _eventbridge._pattern_event_view(event)
    if ":api-destination/" in target["Arn"]:
        _call_api_destination(target, event, rule, view)
    else:
        _RuleDelivery(target, event, rule, view).start()


_call_api_destination = _eventbridge._invoke_target


def _count(rule: Rule, metric: str) -> None:
    """Add one to a metric of the rule.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-monitoring.html
    """
    bus = rule.get("EventBusName", "default")
    dimensions = {"RuleName": rule["Name"], **({} if bus == "default" else {"EventBusName": bus})}
    region, account = rule["Arn"].split(":")[3:5]
    metrics.count("AWS/Events", metric, dimensions, 1, "Count", account, region)


_METRICS = {
    "attempted": ("InvocationAttempts",),
    "retried": ("RetryInvocationAttempts",),
    "throttled": (),
    "delivered": ("Invocations", "SuccessfulInvocationAttempts"),
    "failed": ("Invocations", "FailedInvocations"),
    "buried": ("Invocations", "InvocationsSentToDlq"),
    "lost": ("Invocations", "FailedInvocations", "InvocationsFailedToBeSentToDlq"),
}


class _RuleDelivery(Delivery):
    def __init__(self, target: Target, event: Event, rule: Rule, view: Any) -> None:
        super().__init__(target)
        self._event = event
        self._rule = rule
        self._whole = view.event_with_detail()
        self._payload = _payload(target, rule, view)
        self._sender = Sender(PRINCIPAL, rule["Arn"])

    def send(self) -> None:
        if ":event-bus/" in self.arn:
            self._forward()
            return
        path = (self.target.get("KinesisParameters") or {}).get("PartitionKeyPath")
        key = paths.find(self._whole, path) if path else self._whole["id"]
        options = targets.Options(partition_key="" if key is paths.MISSING else str(key), group=_group(self.target))
        targets.send(self._sender, self.arn, self.role, self._payload, options)

    def _forward(self) -> None:
        """Hand the event, as it is, to another bus of the account; PutEvents would make a new event of it."""
        credentials = self._sender.credentials(self.role)
        check = iam.Check("events:PutEvents", self.arn, {})
        if message := iam.denial(credentials.access_key, check, self._sender.region):
            raise AwsError("AccessDeniedException", message)
        if self.arn.rpartition("/")[2] not in _eventbridge._event_buses:
            raise AwsError("ResourceNotFoundException", f"Event bus {self.arn} does not exist.")
        changed = self._payload if any(self.target.get(name) for name in _TRANSFORMATIONS) else None
        spec = emulator.module("core.arn").parse_arn(self.arn)
        passed = set(self._event.get("_DispatchPath") or [])
        _eventbridge._dispatch_to_event_bus(spec, self._event, self._rule, passed, changed)

    def bury(self, queue: str, problem: Problem, exhausted: str) -> None:
        client = self._sender.permitted("sqs", "sqs:SendMessage", queue)
        values = {
            "RULE_ARN": self._rule["Arn"],
            "TARGET_ARN": self.arn,
            "ERROR_CODE": problem.kind,
            "ERROR_MESSAGE": problem.message,
            "EXHAUSTED_RETRY_CONDITION": exhausted,
            "RETRY_ATTEMPTS": str(self.retries) if exhausted else "",
        }
        body = json.dumps(self._whole)
        client.send_message(
            QueueUrl=targets.queue_url(queue), MessageBody=body, MessageAttributes=targets.attributes(values)
        )

    def count(self, outcome: str) -> None:
        for metric in _METRICS[outcome]:
            _count(self._rule, metric)


_TRANSFORMATIONS = ("Input", "InputPath", "InputTransformer")


def _payload(target: Target, rule: Rule, view: Any) -> str:
    """Return what a target gets of an event.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-transform-target-input.html
    """
    whole = view.event_with_detail()
    if transformer := target.get("InputTransformer"):
        variables = transformer.get("InputPathsMap") or {}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        reserved = {
            "aws.events.event.json": whole,
            "aws.events.event": view.envelope(),
            "aws.events.event.ingestion-time": now,
            "aws.events.rule-name": rule.get("Name", ""),
            "aws.events.rule-arn": rule.get("Arn", ""),
        }

        def value(name: str) -> Any:
            if name in reserved:
                return reserved[name]
            return paths.find(whole, variables.get(name, ""))

        return paths.render(transformer.get("InputTemplate", ""), value)
    if "Input" in target:
        return str(target["Input"])
    found = paths.find(whole, target["InputPath"]) if target.get("InputPath") else whole
    return json.dumps(whole if found is paths.MISSING else found)


emulator.patch(_eventbridge, "_put_targets", _put_targets)
emulator.replace(_eventbridge, "_dispatch_event", _dispatch)
emulator.replace(_eventbridge, "_invoke_target", _invoke)
_handlers = _provisioners._RESOURCE_HANDLERS["AWS::Events::Rule"]
_handlers["create"] = _provision(_handlers["create"])
