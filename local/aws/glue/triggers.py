"""Triggers: they start jobs or workflows on demand, by a schedule, or when watched jobs have ended.

https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-jobs-trigger.html
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError, Payload
from local.aws.glue import workflows
from local.aws.glue.chains import Chain, fire

_glue = emulator.module("services.glue")
_eventbridge = emulator.module("services.eventbridge")
_responses = emulator.module("core.responses")
_logger = logging.getLogger("glue")

_TYPES = ("ON_DEMAND", "SCHEDULED", "CONDITIONAL")
_changed = threading.Event()


def _start(trigger: Payload) -> None:
    """Begin what a trigger begins: a run of its workflow, or its own jobs.

    Raises:
        AwsError: the workflow has as many runs as it may.
    """
    if trigger["WorkflowName"]:
        workflows.start_run(trigger["WorkflowName"])
    else:
        fire([trigger], Chain())


# --- Schedules ---------------------------------------------------------------------------------------------------


def wake() -> None:
    """Look again at what is due: a trigger has changed, or the clock was moved."""
    _changed.set()


def _keep_time() -> None:
    """Start what is due, once for all the times that passed, and sleep until more is."""
    seen = time.time()
    while True:
        now = time.time()
        due = [_fire_if_due(key, trigger, seen, now) for key, trigger in list(_glue._triggers.all_items())]
        soonest = min((moment for moment in due if moment is not None), default=None)
        seen = now
        _changed.wait(None if soonest is None else max(0.0, soonest - time.time()))
        _changed.clear()


def _fire_if_due(key: tuple[str, str, str], trigger: Payload, seen: float, now: float) -> float | None:
    """Start a trigger that was due after ``seen``; return when it is due next, None if it never is."""
    if trigger["Type"] != "SCHEDULED" or trigger["State"] != "ACTIVATED":
        return None
    if (due := _next(trigger, max(seen, trigger["_since"]))) is not None and due <= now:
        with _responses.request_scope(*key[:2]):
            try:
                _start(trigger)
            except AwsError as error:
                _logger.warning("The trigger %s did not start: %s", trigger["Name"], error)
        due = _next(trigger, now)
    return due


def _next(trigger: Payload, after: float) -> float | None:
    fields = _eventbridge._parse_cron_fields(trigger["Schedule"])
    found = _eventbridge._cron_next_fire(fields, datetime.fromtimestamp(after, UTC))
    return found.timestamp() if found else None


# --- The API -----------------------------------------------------------------------------------------------------


def _check(trigger: Payload) -> None:
    """Refuse a trigger that Glue refuses, or whose actions or conditions are not run here.

    Raises:
        AwsError: the reason.
    """
    kind, conditions = trigger.get("Type"), (trigger.get("Predicate") or {}).get("Conditions") or []
    if kind not in _TYPES:
        raise AwsError("InvalidInputException", f"The embedded Glue has no triggers of type {kind}.")
    if kind == "ON_DEMAND" and trigger.get("StartOnCreation"):
        raise AwsError("InvalidInputException", "StartOnCreation is not supported for ON_DEMAND triggers.")
    if kind == "SCHEDULED" and _eventbridge._parse_cron_fields(trigger.get("Schedule") or "") is None:
        raise AwsError("InvalidInputException", f"Invalid schedule: {trigger.get('Schedule')}")
    if kind == "CONDITIONAL" and not conditions:
        raise AwsError("InvalidInputException", "A CONDITIONAL trigger needs a predicate with conditions.")
    if any("JobName" not in each for each in [*conditions, *trigger.get("Actions", [])]):
        raise AwsError("InvalidInputException", "The embedded Glue runs no crawlers from triggers.")
    for name in [each["JobName"] for each in trigger.get("Actions", [])]:
        if name not in _glue._jobs:
            raise AwsError("EntityNotFoundException", f"Job {name} not found.")
    if (workflow := trigger.get("WorkflowName")) and workflow not in _glue._workflows:
        raise AwsError("EntityNotFoundException", f"Workflow {workflow} not found")


def _answering(change: Callable[[Payload, Callable[[Payload], Any]], Any]) -> Callable[..., Callable[[Payload], Any]]:
    """Wrap a function of the emulator: errors become answers, and what is due is looked at again."""

    def wrapper(original: Callable[[Payload], Any]) -> Callable[[Payload], Any]:
        def answer(data: Payload) -> Any:
            try:
                answered = change(data, original)
            except AwsError as error:
                return _glue.error_response_json(error.code, error.message, error.status)
            if trigger := _glue._triggers.get(data["Name"]):
                trigger["_since"] = time.time()  # what was due before is not started
            wake()
            return answered

        return answer

    return wrapper


def _create(data: Payload, original: Callable[[Payload], Any]) -> Any:
    _check(data)
    return original(data)


def _update(data: Payload, original: Callable[[Payload], Any]) -> Any:
    if data["Name"] in _glue._triggers:
        _check({**_glue._triggers[data["Name"]], **data["TriggerUpdate"]})
    return original(data)


def _start_trigger(data: Payload, original: Callable[[Payload], Any]) -> Any:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StartTrigger.html"""
    trigger = _glue._triggers.get(data["Name"])
    if trigger is None or trigger["Type"] != "ON_DEMAND":
        return original(data)
    _start(trigger)
    return _responses.json_response({"Name": data["Name"]})


emulator.patch(_glue, "_create_trigger", _answering(_create))
emulator.patch(_glue, "_update_trigger", _answering(_update))
emulator.patch(_glue, "_start_trigger", _answering(_start_trigger))
emulator.on_startup(lambda: threading.Thread(target=_keep_time, name="glue-schedules", daemon=True).start())
