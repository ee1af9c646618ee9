"""EventBridge Scheduler: one-time, rate and cron schedules call their target on time, as its role.

https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html

A flexible time window is a time in which Scheduler may choose; here it always chooses the beginning.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from local.aws import emulator, iam, metrics, targets
from local.aws.emulator import AwsError
from local.aws.events.delivery import Delivery
from local.aws.targets import Problem, Sender

_eventbridge = emulator.module("services.eventbridge")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")
_scheduler = emulator.module("services.scheduler")

Schedule = dict[str, Any]
Key = tuple[str, str, str]
"""Account, region and ``group/name``."""

PRINCIPAL = "scheduler.amazonaws.com"
_LONGEST_WINDOW_MINUTES = 1440

# --- When --------------------------------------------------------------------------------------------------------


def _at(schedule: Schedule) -> float | None:
    """Return the time of a one-time schedule, None if it is another."""
    moment = _scheduler._at_time_epoch(schedule["ScheduleExpression"])
    if moment is None:
        return None
    wall = datetime.fromtimestamp(moment, UTC).replace(tzinfo=_zone(schedule))
    return wall.timestamp()


def _zone(schedule: Schedule) -> ZoneInfo:
    return ZoneInfo(schedule.get("ScheduleExpressionTimezone") or "UTC")


def _due(schedule: Schedule, after: float | None) -> float | None:
    """Return when a schedule is due next, ``after`` the last time (None: it never was), or None if never again."""
    begin, end = _scheduler._to_epoch(schedule.get("StartDate")), _scheduler._to_epoch(schedule.get("EndDate"))
    first = max(begin or 0.0, schedule["LastModificationDate"])
    if (moment := _at(schedule)) is not None:
        due = moment if after is None else None
    elif seconds := _eventbridge._parse_rate_seconds(schedule["ScheduleExpression"]):
        changed = schedule["LastModificationDate"] > schedule["CreationDate"]
        due = after + seconds if after is not None else first + (seconds if changed else 0)
    else:
        fields = _eventbridge._parse_cron_fields(schedule["ScheduleExpression"])
        last = datetime.fromtimestamp(first if after is None else after, _zone(schedule))
        found = _eventbridge._cron_next_fire(fields, last)
        due = found.timestamp() if found else None
    return None if due is None or (end is not None and due > end) else due


_changed = threading.Event()
_last: dict[Key, tuple[Schedule, float | None]] = {}
"""The schedules that have been seen, each with the time it was due last; a changed schedule is another."""


def wake() -> None:
    """Look again at what is due: a schedule has changed, or the clock was moved."""
    _changed.set()


def _run() -> None:
    while True:
        soonest = _fire(time.time())
        _changed.wait(None if soonest is None else max(0.0, soonest - time.time()))
        _changed.clear()


def _fire(now: float) -> float | None:
    """Start what is due and return when the next is, None if none is."""
    soonest: list[float] = []
    present: dict[Key, Schedule] = dict(_scheduler._schedules._data)
    for gone in _last.keys() - present.keys():
        del _last[gone]
    for key, schedule in present.items():
        known, last = _last.get(key, (None, None))
        if known is not schedule:
            last = None
        _last[key] = (schedule, last)
        due = _due(schedule, last)
        if schedule.get("State") != "ENABLED":
            continue
        if due is not None and due <= now:
            with _responses.request_scope(*key[:2]):
                _ScheduleDelivery(schedule, due).start()
            _last[key] = (schedule, due)
            due = _due(schedule, due)
        if due is not None:
            soonest.append(due)
        elif schedule.get("ActionAfterCompletion") == "DELETE":
            _scheduler._schedules._data.pop(key, None)
    return min(soonest, default=None)


# --- What --------------------------------------------------------------------------------------------------------


class _ScheduleDelivery(Delivery):
    def __init__(self, schedule: Schedule, due: float) -> None:
        super().__init__(schedule["Target"])
        self._schedule = schedule
        self._execution = str(uuid.uuid4())
        self._time = datetime.fromtimestamp(due, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._sender = Sender(PRINCIPAL, schedule["Arn"])

    def _payload(self) -> str:
        """Return the target's input with its context attributes, or the event that stands for none.

        https://docs.aws.amazon.com/scheduler/latest/UserGuide/managing-schedule-context-attributes.html
        """
        if not self.target.get("Input"):
            event = {
                "version": "0",
                "id": self._execution,
                "detail-type": "Scheduled Event",
                "source": "aws.scheduler",
                "account": self._sender.account,
                "time": self._time,
                "region": self._sender.region,
                "resources": [self._schedule["Arn"]],
                "detail": "{}",
            }
            return json.dumps(event)
        text = str(self.target["Input"])
        for name, value in (
            ("schedule-arn", self._schedule["Arn"]),
            ("scheduled-time", self._time),
            ("execution-id", self._execution),
            ("attempt-number", str(self.retries + 1)),
        ):
            text = text.replace(f"<aws.scheduler.{name}>", value)
        return text

    def send(self) -> None:
        event = self.target.get("EventBridgeParameters") or {}
        options = targets.Options(
            partition_key=(self.target.get("KinesisParameters") or {}).get("PartitionKey", ""),
            group=(self.target.get("SqsParameters") or {}).get("MessageGroupId", ""),
            kind=event.get("DetailType", ""),
            origin=event.get("Source", ""),
        )
        targets.send(self._sender, self.arn, self.role, self._payload(), options)

    def bury(self, queue: str, problem: Problem, exhausted: str) -> None:
        """https://docs.aws.amazon.com/scheduler/latest/UserGuide/configuring-schedule-dlq.html"""
        values = {
            "SCHEDULE_ARN": self._schedule["Arn"],
            "SCHEDULED_TIME": self._time,
            "EXECUTION_ID": self._execution,
            "TARGET_ARN": self.arn,
            "ERROR_CODE": problem.code,
            "ERROR_MESSAGE": problem.message,
            "EXHAUSTED_RETRY_CONDITION": exhausted,
            "RETRY_ATTEMPTS": str(self.retries),
            "IS_PAYLOAD_TRUNCATED": "false",
        }
        self._sender.client("sqs", self.role).send_message(
            QueueUrl=targets.queue_url(queue),
            MessageBody=self._payload(),
            MessageAttributes=targets.attributes(values),
        )

    def count(self, outcome: str) -> None:
        """https://docs.aws.amazon.com/scheduler/latest/UserGuide/monitoring-cloudwatch.html"""
        group, scope = {"ScheduleGroup": self._schedule["GroupName"]}, (self._sender.account, self._sender.region)
        for metric in _METRICS[outcome]:
            metrics.count("AWS/Scheduler", metric, group, 1, "Count", *scope)


_METRICS = {
    "attempted": ("InvocationAttemptCount",),
    "retried": ("TargetErrorCount",),
    "throttled": ("TargetErrorThrottledCount",),
    "delivered": (),
    "failed": ("TargetErrorCount", "InvocationDroppedCount"),
    "buried": ("TargetErrorCount", "InvocationDroppedCount", "InvocationsSentToDeadLetterCount"),
    "lost": ("TargetErrorCount", "InvocationDroppedCount", "InvocationsFailedToBeSentToDeadLetterCount"),
}

# --- The API and stacks ------------------------------------------------------------------------------------------


def _check(body: Schedule) -> None:
    """Refuse what Scheduler refuses, and targets that are not there.

    Raises:
        AwsError: the reason.
    """
    expression, window = str(body.get("ScheduleExpression", "")), body.get("FlexibleTimeWindow") or {}
    known = (_scheduler._at_time_epoch, _eventbridge._parse_rate_seconds, _eventbridge._parse_cron_fields)
    if all(parse(expression) is None for parse in known):
        raise AwsError("ValidationException", f"Invalid Schedule Expression {expression}.")
    if (zone := body.get("ScheduleExpressionTimezone")) and zone not in available_timezones():
        raise AwsError("ValidationException", f"Invalid Timezone {zone}.")
    minutes = int(window.get("MaximumWindowInMinutes") or 0)
    if (window.get("Mode") == "FLEXIBLE") != (1 <= minutes <= _LONGEST_WINDOW_MINUTES):
        raise AwsError("ValidationException", "MaximumWindowInMinutes belongs to a FLEXIBLE window: 1 to 1440.")
    arn = str((body.get("Target") or {}).get("Arn", ""))
    service = arn.split(":")[2] if arn.count(":") >= 5 else ""
    if service not in targets.SERVICES - {"logs"}:
        raise AwsError("ValidationException", f"The embedded AWS has no schedule targets like {arn}.")


def _checked(original: Callable[[str, Schedule], Any]) -> Callable[[str, Schedule], Any]:
    def put(name: str, body: Schedule) -> Any:
        try:
            _check(body)
        except AwsError as error:
            return _scheduler._error(error.status, error.code, error.message)
        answer = original(name, body)
        wake()
        return answer

    return put


def _start() -> None:
    threading.Thread(target=_run, name="schedules", daemon=True).start()


def _body(properties: Schedule) -> Schedule:
    role = properties["Target"]["RoleArn"]
    if refusal := iam.refusal("scheduler", role):
        raise ValueError(refusal[1])
    return {"FlexibleTimeWindow": {"Mode": "OFF"}, **properties}


def _create(logical: str, properties: Schedule, stack: str) -> tuple[str, dict[str, str]]:
    name = properties.get("Name") or _provisioners._physical_name(stack, logical, max_len=64)
    return _answered(name, properties, _scheduler._create_schedule(name, _body(properties)))


def _update(physical: str, old: Schedule, new: Schedule, stack: str) -> tuple[str, dict[str, str]]:
    """A schedule with another name or group is another schedule."""
    if any(old.get(name) != new.get(name) for name in ("Name", "GroupName")):
        made = _create(physical, new, stack)
        _delete(physical, old)
        return made
    return _answered(physical, new, _scheduler._update_schedule(physical, _body(new)))


def _answered(name: str, properties: Schedule, answer: Any) -> tuple[str, dict[str, str]]:
    if answer[0] >= 400:
        raise ValueError(json.loads(answer[2])["Message"])
    return name, {"Arn": _scheduler._schedule_arn(properties.get("GroupName", "default"), name)}


def _delete(physical: str, properties: Schedule) -> None:
    _scheduler._delete_schedule(physical, {"groupName": properties.get("GroupName", "default")})


emulator.replace(_scheduler, "start_scheduler", _start)
emulator.patch(_scheduler, "_create_schedule", _checked)
emulator.patch(_scheduler, "_update_schedule", _checked)
emulator.resource_type("AWS::Scheduler::Schedule", _create, _delete, _update)
