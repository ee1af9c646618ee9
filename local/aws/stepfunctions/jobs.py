"""Tasks that run a job and wait for its end: the ``.sync`` integrations.

https://docs.aws.amazon.com/step-functions/latest/dg/connect-to-resource.html#connect-sync
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import jmespath  # type: ignore[import-untyped]  # the library has no types

from local.aws.stepfunctions.calls import Data, Failure, call

_FIRST_LOOK_SECONDS = 0.1
_LONGEST_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class _Job:
    """How a job is looked at and stopped: actions, JMESPaths into the state and the result, arguments from a start."""

    look: str
    stop: str
    state: str
    result: str
    looking: Callable[[Data, Data], Data]
    stopping: Callable[[Data, Data], Data]


_JOBS = {
    "athena:startQueryExecution": _Job(
        "getQueryExecution",
        "stopQueryExecution",
        "QueryExecution.Status.State",
        "@",
        lambda _, started: {"QueryExecutionId": started["QueryExecutionId"]},
        lambda _, started: {"QueryExecutionId": started["QueryExecutionId"]},
    ),
    "glue:startJobRun": _Job(
        "getJobRun",
        "batchStopJobRun",
        "JobRun.JobRunState",
        "JobRun",
        lambda asked, started: {"JobName": asked["JobName"], "RunId": started["JobRunId"]},
        lambda asked, started: {"JobName": asked["JobName"], "JobRunIds": [started["JobRunId"]]},
    ),
    "states:startExecution": _Job(
        "describeExecution",
        "stopExecution",
        "Status",
        "@",
        lambda _, started: {"ExecutionArn": started["ExecutionArn"]},
        lambda _, started: {"ExecutionArn": started["ExecutionArn"]},
    ),
}
_UNSUCCESSFUL = {"ABORTED", "CANCELLED", "ERROR", "EXPIRED", "FAILED", "STOPPED", "TIMED_OUT", "TIMEOUT"}


def is_job(resource: str) -> bool:
    """Return whether a task with this resource waits for what it starts."""
    return ".sync" in resource.rpartition(":states:::")[2]


def run(resource: str, arguments: Data, ends: float | None, wanted: Callable[[], bool]) -> Data:
    """Start what ``resource`` names, wait for its end and return what it came to.

    Args:
        resource: the ARN of a task's resource.
        arguments: those of the action that starts the job.
        ends: when, on the monotonic clock, the task's time is up.
        wanted: whether the execution still waits for the result; the job is stopped when it does not.

    Raises:
        Failure: the job did not succeed (``States.TaskFailed``, the cause is its description in JSON), the time was
            up, or a call was refused.
    """
    plain, _, version = resource.partition(":states:::")[2].partition(".sync")
    if plain not in _JOBS:
        raise Failure("States.Runtime", f"The embedded Step Functions cannot wait for {plain}.")
    job, (service, _, action) = _JOBS[plain], plain.partition(":")
    started = call(service, action, arguments)
    pause = _FIRST_LOOK_SECONDS
    while True:
        seen = call(service, job.look, job.looking(arguments, started))
        result: Data = jmespath.search(job.result, seen)
        state = jmespath.search(job.state, seen)
        if state == "SUCCEEDED":
            return {**result, "Output": json.loads(result["Output"])} if version == ":2" else result
        if state in _UNSUCCESSFUL:
            raise Failure("States.TaskFailed", json.dumps(result))
        late = ends is not None and time.monotonic() >= ends
        if late or not wanted():
            with contextlib.suppress(Failure):  # AWS as well stops a job only if it can
                call(service, job.stop, job.stopping(arguments, started))
            cause = "The job did not end within the task's TimeoutSeconds." if late else "The execution has ended."
            raise Failure("States.Timeout" if late else "States.TaskFailed", cause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_LOOK_SECONDS)
