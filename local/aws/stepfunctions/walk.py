"""The walk from state to state, which remembers how far it came: a redrive goes on from there.

https://docs.aws.amazon.com/step-functions/latest/dg/redrive-executions.html
"""

from __future__ import annotations

import contextvars
import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from local.aws import emulator
from local.aws.stepfunctions.calls import Data, Failure
from local.aws.stepfunctions.tasks import State

_sfn = emulator.module("services.stepfunctions")
_responses = emulator.module("core.responses")


@dataclass
class Progress:
    """How far a machine, a branch or an iteration came.

    ``state`` is the one it is in, ``data`` its input; ``branches`` are the branches and iterations of that state and
    ``map_run`` is its Map Run. ``resuming`` is set by a redrive until the state goes on.
    """

    state: str | None = None
    data: Any = None
    branches: dict[tuple[int, int | None], Progress] = field(default_factory=dict)
    map_run: Any = None
    resuming: bool = False
    finished: bool = False

    def resume(self) -> None:
        """Let this and every unfinished branch go on in the state it came to."""
        self.resuming = True
        for branch in self.branches.values():
            if not branch.finished:
                branch.resume()


_here: contextvars.ContextVar[Progress] = contextvars.ContextVar("progress")


def here() -> Progress:
    """Return the progress of the machine, branch or iteration that the present thread walks."""
    return _here.get()


def attempt_of(execution: Data) -> Callable[[], bool]:
    """Return what tells whether the present attempt at an execution goes on: neither ended nor redriven meanwhile."""
    redrives = execution.get("redriveCount")
    return lambda: execution["status"] == "RUNNING" and execution.get("redriveCount") == redrives


def walk(machine: Data, data: Any, execution: Data, context: Data, progress: Progress) -> Any:
    """Walk the states of ``machine`` from its start, or from where ``progress`` is, and return the output.

    Args:
        machine: what has ``StartAt`` and ``States``: a definition, a branch or an item processor.
        data: the input.
        execution: the record whose history is told of it; the walk ends when it no longer runs.
        context: the context object; tasks read and change it.
        progress: is kept up to date; one that is finished is answered at once.

    Raises:
        Failure: a state failed and nothing caught it.
    """
    if progress.finished:
        return copy.deepcopy(progress.data)
    token = _here.set(progress)
    goes_on = attempt_of(execution)
    try:
        name = progress.state if progress.resuming else machine.get("StartAt")
        data = progress.data if progress.resuming else data
        while name and goes_on():
            if name not in machine["States"]:
                raise Failure("States.Runtime", f"State '{name}' not found in definition")
            state = machine["States"][name]
            context["State"] = {"Name": name, "EnteredTime": _responses.now_iso(), "RetryCount": 0}
            if not progress.resuming:
                progress.state, progress.data = name, copy.deepcopy(data)
                entered = {"name": name, "input": json.dumps(data)}
                _sfn._add_event(execution, f"{state['Type']}StateEntered", {"stateEnteredEventDetails": entered})
            data, following = _step(state, data, execution, context)
            progress.resuming = False
            left = {"name": name, "output": json.dumps(data)}
            _sfn._add_event(execution, f"{state['Type']}StateExited", {"stateExitedEventDetails": left})
            name = following
        if goes_on():
            progress.data, progress.finished = copy.deepcopy(data), True
        return data
    finally:
        _here.reset(token)


def _step(state: State, data: Any, execution: Data, context: Data) -> tuple[Any, str | None]:
    """Do what one state does; return its output and the name of the next state, None at the end."""
    kind = state["Type"]
    if kind == "Fail":
        raise Failure(*_sfn._fail_state_error(state, data, context))
    if kind == "Succeed":
        if _sfn._state_query_language(state, context) == "JSONata":
            return _sfn._apply_jsonata_output(state, data, context, default=data), None
        return _sfn._apply_output_path(state, _sfn._apply_input_path(state, data, context), context), None
    simple = {"Pass": _sfn._execute_pass, "Choice": _sfn._execute_choice, "Wait": _sfn._execute_wait}
    working = {"Task": _sfn._execute_task, "Parallel": _sfn._execute_parallel, "Map": _sfn._execute_map}
    if kind in simple:
        output, following = simple[kind](state, data, context)
    elif kind in working:
        output, following = working[kind](state, data, execution, context)
    else:
        raise Failure("States.Runtime", f"Unknown state type: {kind}")
    return output, following


def _run_branch(states: Data, start: str, data: Any, execution: Data, context: Data) -> Any:
    """Walk a branch or an iteration, each of which has its own progress within the state's."""
    place = (id(states), context.get("Map", {}).get("Item", {}).get("Index"))
    progress = here().branches.setdefault(place, Progress())
    return walk({"StartAt": start, "States": states}, copy.deepcopy(data), execution, context, progress)


def _attempt(original: Callable[..., Any]) -> Callable[..., Any]:
    """Only a redrive keeps the branches that succeeded: a retry runs all of them again."""

    def attempt(*arguments: Any) -> Any:
        progress = here()
        if not progress.resuming:
            progress.branches.clear()
            progress.map_run = None
        progress.resuming = False
        return original(*arguments)

    return attempt


def _with_jsonata(original: Callable[..., Any]) -> Callable[..., Any]:
    """Give a Parallel state ``Arguments``, ``Output`` and ``Assign``, which the emulator knows for other states."""

    def attempt(state: State, data: Any, execution: Data, context: Data) -> Any:
        if _sfn._state_query_language(state, context) != "JSONata":
            return original(state, data, execution, context)
        arguments = _sfn._apply_jsonata_arguments(state, data, context)
        results, following = original(state, arguments, execution, context)
        output = _sfn._apply_jsonata_output(state, data, context, result=results, default=results)
        _sfn._apply_state_assign(state, data, context, result=results)
        return output, following

    return attempt


emulator.replace(_sfn, "_run_sub_machine", _run_branch)
emulator.patch(_sfn, "_run_parallel_branches", _with_jsonata)
emulator.patch(_sfn, "_run_parallel_branches", _attempt)
emulator.patch(_sfn, "_run_map_items", _attempt)
