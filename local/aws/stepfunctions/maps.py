"""Distributed Map: each item or batch is a child execution of a Map Run, and failures are tolerated up to a threshold.

https://docs.aws.amazon.com/step-functions/latest/dg/concepts-examine-map-run.html
"""

from __future__ import annotations

import contextvars
import copy
import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from local.aws import emulator
from local.aws.stepfunctions import items, results
from local.aws.stepfunctions.calls import Data, Failure, require
from local.aws.stepfunctions.executions import finish
from local.aws.stepfunctions.redrive import restart
from local.aws.stepfunctions.tasks import State, number, release, succeeded
from local.aws.stepfunctions.walk import Progress, here, walk

_sfn = emulator.module("services.stepfunctions")
_responses = emulator.module("core.responses")

_MOST_AT_ONCE = 64
"""Threads of one Map Run; AWS runs 10,000 children at once."""
_LOOK_SECONDS = 0.5
_OUTCOMES = {"SUCCEEDED": "succeeded", "FAILED": "failed", "TIMED_OUT": "timedOut", "ABORTED": "aborted"}
_COUNTS = {"PENDING": "pending", "PENDING_REDRIVE": "pendingRedrive", "RUNNING": "running", **_OUTCOMES}
_THRESHOLD = "States.ExceedToleratedFailureThreshold"


@dataclass
class _MapRun:
    """A Map Run: ``record`` is what DescribeMapRun returns; ``sizes`` are the numbers of items of the children."""

    record: Data
    processor: Data
    children: list[Data]
    sizes: list[int]
    context: Data
    changed: threading.Condition = field(default_factory=threading.Condition)

    def run(self, wanted: Callable[[], bool]) -> None:
        """Run the children that have not succeeded until all ended, too many failed or nobody wants them.

        Args:
            wanted: tells whether the parent execution goes on.
        """
        for child in self.children:
            if child["status"] not in {"PENDING", "SUCCEEDED"}:
                child["status"] = "PENDING_REDRIVE"
        pending = [index for index, child in enumerate(self.children) if child["status"] != "SUCCEEDED"]
        self._count()
        running = 0

        def run_child(index: int) -> None:
            nonlocal running
            try:
                self._run_child(self.children[index])
            finally:
                with self.changed:
                    running -= 1
                    self._count()
                    self.changed.notify()

        with self.changed:
            while pending or running:
                if not wanted() or self.exceeded():
                    self._abort()
                    pending.clear()
                while pending and running < min(self.record["maxConcurrency"] or _MOST_AT_ONCE, _MOST_AT_ONCE):
                    index = pending.pop(0)
                    _start(self.children[index])
                    running += 1
                    work = contextvars.copy_context().run
                    threading.Thread(target=work, args=(run_child, index), name="map-run", daemon=True).start()
                self._count()
                self.changed.wait(_LOOK_SECONDS)

    def _run_child(self, child: Data) -> None:
        context = {
            **{name: self.context[name] for name in ("QueryLanguage", "StateMachine")},
            "Execution": {
                **self.context["Execution"],
                "Id": child["executionArn"],
                "Input": json.loads(child["input"]),
                "Name": child["name"],
                "StartTime": child["startDate"],
            },
            "variables": {},
        }
        if child["_type"] == "EXPRESS":
            child["_progress"] = Progress()  # it is restarted, not redriven
        given = json.loads(child["input"])
        finish(child, lambda: walk(self.processor, given, child, context, child["_progress"]))

    def exceeded(self) -> bool:
        """Return whether more items failed than are tolerated."""
        counts, record = self.record["itemCounts"], self.record
        failed = counts["failed"] + counts["timedOut"]
        if not failed:
            return False
        share = 100 * failed / counts["total"]
        tolerated = [(record["toleratedFailureCount"], failed), (record["toleratedFailurePercentage"], share)]
        stated = [(most, found) for most, found in tolerated if most]
        return not stated or any(found > most for most, found in stated)

    def _abort(self) -> None:
        for child in self.children:
            if child["status"] == "RUNNING":
                child.update(status="ABORTED", stopDate=_responses.now_iso())
                _sfn._add_event(child, "ExecutionAborted", {"executionAbortedEventDetails": {}})
                release(child["executionArn"])

    def _count(self) -> None:
        names = [*_COUNTS.values(), "total", "resultsWritten"]
        items_, executions = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        for child, size in zip(self.children, self.sizes, strict=True):
            state = _COUNTS[child["status"]]
            for counts, weight in ((items_, size), (executions, 1)):
                counts[state] += weight
                counts["total"] += weight
        self.record.update(itemCounts=items_, executionCounts=executions)


def _start(child: Data) -> None:
    """Let a child run: for the first time, or again after a redrive."""
    if child["status"] == "PENDING":
        child.update(status="RUNNING", startDate=_responses.now_iso())
        started = {"executionStartedEventDetails": {"input": child["input"]}}
        _sfn._add_event(child, "ExecutionStarted", started)
        _sfn._executions[child["executionArn"]] = child
    else:
        restart(child)


def _run_distributed_map(
    state: State, raw_input: Any, effective: Any, processor: Data, execution: Data, context: Data
) -> tuple[Any, str | None]:
    """Run the children of a Distributed Map; return the state's output and the name of the next state.

    Raises:
        Failure: more items failed than are tolerated, or items or results could not be read or written.
    """
    require("states:StartExecution", execution["stateMachineArn"])
    progress = here()
    run: _MapRun | None = progress.map_run
    if run is None:
        run = progress.map_run = _new(state, raw_input, effective, processor, execution, context)
        _tell(execution, "Started", run.record)
    else:
        run.record.update(
            status="RUNNING", redriveCount=run.record["redriveCount"] + 1, redriveDate=_responses.now_iso()
        )
        run.record.pop("stopDate", None)
        _tell(execution, "Redriven", run.record, redriveCount=run.record["redriveCount"])
    record = run.record
    try:
        run.run(lambda: execution["status"] == "RUNNING")
        result = _results(state, raw_input, effective, run, context)
        if run.exceeded():
            raise Failure(_THRESHOLD, "The specified tolerated failure threshold was exceeded")
    except Failure as failure:
        record.update(status="FAILED", stopDate=_responses.now_iso())
        _tell(execution, "Failed", record, error=failure.error, cause=failure.cause)
        raise
    record.update(status="SUCCEEDED" if execution["status"] == "RUNNING" else "ABORTED", stopDate=_responses.now_iso())
    _tell(execution, record["status"].capitalize(), record)
    jsonata = _sfn._state_query_language(state, context) == "JSONata"
    return succeeded(state, raw_input, result, context, jsonata)


def _new(state: State, raw_input: Any, effective: Any, processor: Data, execution: Data, context: Data) -> _MapRun:
    """Make a Map Run and its children, all pending."""
    jsonata = _sfn._state_query_language(state, context) == "JSONata"
    *_, region, account, _, machine = execution["stateMachineArn"].split(":")
    scope = f"{machine}/{state.get('Label') or uuid.uuid4()}"
    arn = f"arn:aws:states:{region}:{account}"
    record = {
        "mapRunArn": f"{arn}:mapRun:{scope}:{uuid.uuid4()}",
        "executionArn": execution["executionArn"],
        "status": "RUNNING",
        "startDate": _responses.now_iso(),
        "redriveCount": 0,
        "_stateMachineArn": f"{arn}:stateMachine:{scope}",
    }
    for member, kind in (
        ("maxConcurrency", int),
        ("toleratedFailureCount", int),
        ("toleratedFailurePercentage", float),
    ):
        stated = number(state, member[:1].upper() + member[1:], effective, context, jsonata)
        record[member] = kind(stated or 0)
    given = items.inputs(state, raw_input, effective, context)
    children = []
    for data, _ in given:
        name = str(uuid.uuid4())
        children.append(
            {
                "executionArn": f"{arn}:execution:{scope}:{name}",
                "stateMachineArn": record["_stateMachineArn"],
                "mapRunArn": record["mapRunArn"],
                "name": name,
                "status": "PENDING",
                "startDate": None,
                "stopDate": None,
                "input": json.dumps(data),
                "output": None,
                "events": [],
                "_type": processor["ProcessorConfig"].get("ExecutionType", "STANDARD"),
                "_progress": Progress(),
                "_log": execution["stateMachineArn"],
            }
        )
    run = _MapRun(record, processor, children, [size for _, size in given], copy.deepcopy(context))
    _sfn._map_runs[record["mapRunArn"]] = record
    return run


def _results(state: State, raw_input: Any, effective: Any, run: _MapRun, context: Data) -> Any:
    writer = state.get("ResultWriter") or {}
    if "Resource" not in writer:
        return results.outputs(run.children, writer.get("WriterConfig") or {})
    if _sfn._state_query_language(state, context) == "JSONata":
        arguments = _sfn._apply_jsonata_template(writer["Arguments"], raw_input, context)
    else:
        arguments = _sfn._resolve_params_obj(writer["Parameters"], effective, context)
    written = results.write(writer, arguments, run.record["mapRunArn"], run.children)
    for counts in (run.record["itemCounts"], run.record["executionCounts"]):
        counts["resultsWritten"] = sum(counts[outcome] for outcome in _OUTCOMES.values())
    return written


def _tell(execution: Data, event: str, record: Data, **details: Any) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/apireference/API_HistoryEvent.html"""
    told = {"mapRunArn": record["mapRunArn"], **details} if event in {"Started", "Redriven"} else details
    _sfn._add_event(execution, f"MapRun{event}", {f"mapRun{event}EventDetails": told} if told else None)


emulator.replace(_sfn, "_run_distributed_map", _run_distributed_map)
