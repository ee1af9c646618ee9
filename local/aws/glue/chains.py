"""What the start of a trigger leads to: jobs, and the triggers that wait for their ends.

https://docs.aws.amazon.com/glue/latest/dg/about-triggers.html
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from local.aws import emulator
from local.aws.emulator import AwsError, Payload
from local.aws.glue import jobs
from local.aws.glue.runs import JobRun

_glue = emulator.module("services.glue")
_responses = emulator.module("core.responses")
_logger = logging.getLogger("glue")


@dataclass
class Chain:
    """The job runs that descend from one start of a trigger; conditional triggers look at no others.

    ``workflow`` is the name of the workflow its triggers belong to, empty for triggers of their own. ``common`` are
    arguments that all its job runs get, ``ended`` is called when nothing of it runs any more. ``runs`` are the latest
    runs by job, ``refused`` counts those that could not be started.
    """

    workflow: str = ""
    common: dict[str, str] = field(default_factory=dict)
    ended: Callable[[], None] = lambda: None
    runs: dict[str, Payload] = field(default_factory=dict)
    fired: set[str] = field(default_factory=set)
    running: set[str] = field(default_factory=set)
    refused: int = 0
    stopping: bool = False


_lock = threading.RLock()
"""Held while a chain goes on: no run may end before its chain knows of it."""
_chains: dict[str, Chain] = {}
"""The chains of the runs under way, by the id of a run's first attempt."""


def fire(triggers: Iterable[Payload], chain: Chain) -> None:
    """Start the jobs of triggers."""
    with _lock:
        for trigger in triggers:
            _start_jobs(trigger, chain)
        if not chain.running:
            chain.ended()


def _start_jobs(trigger: Payload, chain: Chain) -> None:
    chain.fired.add(trigger["Name"])
    watched = [chain.runs[name] for name in watched_jobs(trigger) if name in chain.runs]
    origin = {
        "TriggerName": trigger["Name"],
        "PredecessorRuns": [{"JobName": run["JobName"], "RunId": run["Id"]} for run in watched],
    }
    for action in trigger["Actions"]:
        request = {name: value for name, value in action.items() if name in {"JobName", "Timeout"}}
        request["Arguments"] = {**(action.get("Arguments") or {}), **chain.common}
        try:
            run = jobs.start(request, _responses.get_account_id(), _responses.get_region(), origin)
        except AwsError as error:
            chain.refused += 1
            _logger.warning("The trigger %s did not start a job: %s", trigger["Name"], error)
            continue
        chain.runs[action["JobName"]] = run
        chain.running.add(run["Id"])
        _chains[run["Id"]] = chain


def watched_jobs(trigger: Payload) -> list[str]:
    """Return the names of the jobs whose ends a trigger waits for."""
    return [each["JobName"] for each in (trigger.get("Predicate") or {}).get("Conditions", [])]


def _go_on(run: JobRun) -> None:
    """Fire the triggers whose conditions are met now that a job run has ended."""
    with _lock:
        first = run.record["Id"].partition("_attempt_")[0]
        chain = _chains.pop(first, None)
        if chain is None:
            return  # no trigger waits for what no trigger started
        chain.runs[run.record["JobName"]] = run.record
        chain.running.discard(first)
        fire([] if chain.stopping else list(_met(chain)), chain)


def _met(chain: Chain) -> Iterator[Payload]:
    """Yield the active triggers of the chain that have not fired and whose conditions are met.

    https://docs.aws.amazon.com/glue/latest/webapi/API_Predicate.html
    """
    # A failed attempt that is followed by another is not the end of its run.
    over = {
        (name, run["JobRunState"])
        for name, run in chain.runs.items()
        if run["Id"].partition("_attempt_")[0] not in chain.running
    }
    for trigger in list(_glue._triggers.values()):
        waits = trigger["Type"] == "CONDITIONAL" and trigger["State"] == "ACTIVATED"
        if waits and trigger["WorkflowName"] == chain.workflow and trigger["Name"] not in chain.fired:
            predicate = trigger["Predicate"]
            met = [(each["JobName"], each["State"]) in over for each in predicate["Conditions"]]
            if any(met) if predicate.get("Logical") == "ANY" else all(met):
                yield trigger


jobs.ended.append(_go_on)
