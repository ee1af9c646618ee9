"""The job run API, and what the emulator's job definitions lack.

https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-jobs-runs.html
"""

from __future__ import annotations

import copy
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError, Call, Payload
from local.aws.glue.pages import page
from local.aws.glue.runs import LOG_GROUP, JobRun, is_spark, now

_glue = emulator.module("services.glue")
_provisioners = emulator.module("services.cloudformation.provisioners")

_ACTIVE = ("STARTING", "RUNNING", "STOPPING")
_COMMANDS = ("glueetl", "pythonshell")
_MAX_RESULTS = 200
_COPIED_MEMBERS = ("GlueVersion", "WorkerType", "NumberOfWorkers", "MaxCapacity", "ExecutionClass")

_DROPPED_MEMBERS = {"ExecutionProperty": {"MaxConcurrentRuns": 1}, "ExecutionClass": "STANDARD", "LogUri": ""}
"""Members of a job definition that the emulator does not keep, with their defaults."""

ended: list[Callable[[JobRun], None]] = []
"""Called with the last attempt of each run when it is over."""
_under_way: dict[str, JobRun] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class _Start:
    """What was asked for when a run was started; ``origin`` are members of its record that say which trigger did."""

    job: Payload
    request: Payload
    account: str
    region: str
    origin: Payload


@emulator.json_action("glue", "StartJobRun")
def start_job_run(call: Call) -> Payload:
    """Start a run: https://docs.aws.amazon.com/glue/latest/webapi/API_StartJobRun.html."""
    return {"JobRunId": start(call.payload, call.account, call.region, {})["Id"]}


def start(request: Payload, account: str, region: str, origin: Payload) -> Payload:
    """Start a run and return its record.

    Args:
        request: the members of StartJobRun.
        account: the account and
        region: the region of the job.
        origin: members of the record that say which trigger started it.

    Raises:
        AwsError: there is no such job, the request does not fit it, or it has as many runs as it may.
    """
    name = request["JobName"]
    job = copy.deepcopy(_glue._jobs.get(name))
    if job is None:
        raise AwsError("EntityNotFoundException", "Failed to start job run due to missing metadata")
    _check(job, request)
    asked = _Start(job, request, account, region, origin)
    with _lock:
        runs = _glue._job_runs.setdefault(name, [])
        active = sum(run["JobRunState"] in _ACTIVE for run in runs)
        if active >= job["ExecutionProperty"]["MaxConcurrentRuns"]:
            raise AwsError("ConcurrentRunsExceededException", f"Concurrent runs exceeded for {name}")
        run = _new_run(asked, runs)
    emulator.in_background(lambda: _execute(asked, run, runs), f"glue-{run.record['Id'][:12]}")
    return run.record


def stop(run_id: str) -> bool:
    """Ask a run, or its attempt that is under way, to end; return whether there is one."""
    attempts = [run for name, run in _under_way.copy().items() if name.partition("_attempt_")[0] == run_id]
    run = _under_way.get(run_id) or next(iter(attempts), None)
    if run:
        run.stop()
    return run is not None


@emulator.json_action("glue", "GetJobRuns")
def get_job_runs(call: Call) -> Payload:
    """List a job's runs, newest first: https://docs.aws.amazon.com/glue/latest/webapi/API_GetJobRuns.html."""
    name = call.payload["JobName"]
    if name not in _glue._jobs:
        raise AwsError("EntityNotFoundException", f"Job {name} not found.")
    runs, following = page(list(reversed(_glue._job_runs.get(name, []))), call.payload, _MAX_RESULTS)
    return {"JobRuns": runs, **following}


@emulator.json_action("glue", "BatchStopJobRun")
def batch_stop_job_run(call: Call) -> Payload:
    """Stop runs: https://docs.aws.amazon.com/glue/latest/webapi/API_BatchStopJobRun.html."""
    name = call.payload["JobName"]
    states = {run["Id"]: run["JobRunState"] for run in _glue._job_runs.get(name, [])}
    stopped: list[Payload] = []
    errors: list[Payload] = []
    for run_id in call.payload["JobRunIds"]:
        answer: Payload = {"JobName": name, "JobRunId": run_id}
        if run_id in states and stop(run_id):
            stopped.append(answer)
        elif run_id in states:
            message = f"Job run {run_id} is in terminal state {states[run_id]}."
            errors.append(answer | {"ErrorDetail": _error("JobRunInTerminalStateException", message)})
        else:
            errors.append(answer | {"ErrorDetail": _error("EntityNotFoundException", f"Job run {run_id} not found.")})
    return {"SuccessfulSubmissions": stopped, "Errors": errors}


def _error(code: str, message: str) -> Payload:
    return {"ErrorCode": code, "ErrorMessage": message}


def _check(job: Payload, request: Payload) -> None:
    command = job["Command"].get("Name")
    if command not in _COMMANDS:
        raise AwsError("InvalidInputException", f"Command {command} is not one of {', '.join(_COMMANDS)}.")
    fixed = sorted(job["NonOverridableArguments"].keys() & request.get("Arguments", {}).keys())
    if fixed:
        raise AwsError("InvalidInputException", f"Arguments cannot be overridden: {', '.join(fixed)}.")
    if message := _capacity_conflict(request):
        raise AwsError("InvalidInputException", message)


def _capacity_conflict(request: Payload) -> str:
    workers = request.get("WorkerType") or request.get("NumberOfWorkers")
    if workers and request.get("MaxCapacity") is not None:
        return "Please do not set Max Capacity if using Worker Type and Number of Workers."
    return ""


def _new_run(asked: _Start, runs: list[Payload], previous: Payload | None = None) -> JobRun:
    """Return a run in state STARTING, listed among the job's ``runs``; ``previous`` is the attempt it repeats."""
    job, request = asked.job, asked.request
    attempt = previous["Attempt"] + 1 if previous else 0
    first_id = previous["Id"].split("_attempt_")[0] if previous else f"jr_{secrets.token_hex(32)}"
    started = now()
    record = {
        "Id": f"{first_id}_attempt_{attempt}" if attempt else first_id,
        "Attempt": attempt,
        "PreviousRunId": previous["Id"] if previous else None,
        "JobName": job["Name"],
        "JobRunState": "STARTING",
        "StartedOn": started,
        "LastModifiedOn": started,
        "Arguments": request.get("Arguments", {}),
        "PredecessorRuns": [],
        "ExecutionTime": 0,
        "Timeout": request.get("Timeout") or job["Timeout"],
        "LogGroupName": LOG_GROUP,
        **{member: request.get(member) or job[member] for member in _COPIED_MEMBERS},
        **asked.origin,
    }
    provided = {"--JOB_NAME": job["Name"], "--JOB_RUN_ID": record["Id"]} if is_spark(job) else {}
    arguments = {**job["DefaultArguments"], **provided, **record["Arguments"], **job["NonOverridableArguments"]}
    run = JobRun(job, record, {name: str(value) for name, value in arguments.items()}, asked.account, asked.region)
    runs.append(record)
    _under_way[record["Id"]] = run
    return run


def _execute(asked: _Start, run: JobRun, runs: list[Payload]) -> None:
    """Execute a run and, as long as it fails, up to MaxRetries more attempts; then tell who waits for its end."""
    try:
        _attempt(run)
        while run.record["JobRunState"] == "FAILED" and run.record["Attempt"] < run.job["MaxRetries"]:
            run = _new_run(asked, runs, run.record)
            _attempt(run)
    finally:
        for tell in ended:
            tell(run)


def _attempt(run: JobRun) -> None:
    try:
        run.execute()
    finally:
        del _under_way[run.record["Id"]]


def _keep_dropped_members(name_of: Callable[[Payload], str], definition_of: Callable[[Payload], Payload]) -> Any:
    """Wrap the emulator's creation or update of a job; a stack's resources go through the same functions."""

    def wrapper(original: Callable[[Payload], Any]) -> Callable[[Payload], Any]:
        def change(request: Payload) -> Any:
            definition = definition_of(request)
            if message := _capacity_conflict(definition):
                return _glue.error_response_json("InvalidInputException", message, 400)
            answer = original(request)
            if answer[0] == 200:
                kept = {member: definition.get(member, default) for member, default in _DROPPED_MEMBERS.items()}
                _glue._jobs[name_of(request)].update(kept)
            return answer

        return change

    return wrapper


emulator.patch(_glue, "_create_job", _keep_dropped_members(lambda request: request["Name"], lambda request: request))
emulator.patch(
    _glue,
    "_update_job",
    _keep_dropped_members(lambda request: request["JobName"], lambda request: request["JobUpdate"]),
)
_provisioners._GLUE_JOB_DEFAULTS.update(_DROPPED_MEMBERS)
