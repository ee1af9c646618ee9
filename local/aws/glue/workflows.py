"""Workflows: triggers and jobs that are started, watched and stopped together.

https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-workflow.html
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError, Call, Payload
from local.aws.glue import jobs
from local.aws.glue.chains import Chain, fire, watched_jobs
from local.aws.glue.pages import page
from local.aws.glue.runs import now

_glue = emulator.module("services.glue")
_provisioners = emulator.module("services.cloudformation.provisioners")

_MOST = 1000
_STATISTICS = {
    "SUCCEEDED": "SucceededActions",
    "FAILED": "FailedActions",
    "TIMEOUT": "TimeoutActions",
    "STOPPED": "StoppedActions",
    "STARTING": "RunningActions",
    "RUNNING": "RunningActions",
    "STOPPING": "RunningActions",
}
_chains: dict[str, Chain] = {}
"""What the workflow runs led to, by their ids."""


def start_run(name: str, properties: dict[str, str] | None = None) -> str:
    """Start a run of the workflow ``name`` with its start trigger and return the run's id.

    Raises:
        AwsError: there is no such workflow or no trigger to start it, or it has as many runs as it may.
    """
    workflow = _workflow(name)
    begins = [each for each in _triggers(name) if each["Type"] in {"ON_DEMAND", "SCHEDULED"}]
    if not begins:
        raise AwsError("InvalidInputException", f"The workflow {name} has no start trigger.")
    runs: list[Payload] = _glue._workflow_runs.setdefault(name, [])
    active = sum(run["Status"] in {"RUNNING", "STOPPING"} for run in runs)
    if (most := workflow.get("MaxConcurrentRuns")) and active >= most:
        raise AwsError("ConcurrentRunsExceededException", f"Concurrent runs exceeded for workflow: {name}")
    run_id = f"wr_{secrets.token_hex(32)}"
    run = {
        "Name": name,
        "WorkflowRunId": run_id,
        "WorkflowRunProperties": {**workflow["DefaultRunProperties"], **(properties or {})},
        "StartedOn": now(),
        "Status": "RUNNING",
    }

    def end() -> None:
        if run["Status"] in {"RUNNING", "STOPPING"}:
            run.update(Status="STOPPED" if chain.stopping else "COMPLETED", CompletedOn=now())

    chain = Chain(name, {"--WORKFLOW_NAME": name, "--WORKFLOW_RUN_ID": run_id}, end)
    _chains[run_id] = chain
    runs.append(run)
    fire(begins, chain)
    return run_id


def _workflow(name: str) -> Payload:
    found: Payload | None = _glue._workflows.get(name)
    if found is None:
        raise AwsError("EntityNotFoundException", f"Workflow {name} not found")
    return found


def _triggers(name: str) -> list[Payload]:
    return [trigger for trigger in _glue._triggers.values() if trigger["WorkflowName"] == name]


def _run(call: Call) -> Payload:
    name, run_id = call.payload["Name"], call.payload["RunId"]
    _workflow(name)
    for run in _glue._workflow_runs.get(name, []):
        if run["WorkflowRunId"] == run_id:
            found: Payload = run
            return found
    raise AwsError("EntityNotFoundException", f"Workflow run {run_id} not found")


def _described(run: Payload, *, graph: bool) -> Payload:
    chain, triggers = _chains[run["WorkflowRunId"]], _triggers(run["Name"])
    names = {"TotalActions", "ErroredActions", "WaitingActions", *_STATISTICS.values()}
    statistics = dict.fromkeys(sorted(names), 0)
    for found in chain.runs.values():
        statistics[_STATISTICS[found["JobRunState"]]] += 1
    statistics["ErroredActions"] = chain.refused
    statistics["TotalActions"] = sum(len(trigger["Actions"]) for trigger in triggers)
    return {**run, "Statistics": statistics, **({"Graph": _graph(triggers, chain.runs)} if graph else {})}


def _graph(triggers: list[Payload], runs: dict[str, Payload]) -> Payload:
    """Triggers lead to the jobs they start, jobs to the triggers that wait for them."""
    edges = [(trigger["Name"], action["JobName"]) for trigger in triggers for action in trigger["Actions"]]
    jobs_ = dict.fromkeys(job for _, job in edges)
    nodes: list[Payload] = [
        {
            "Type": "TRIGGER",
            "Name": each["Name"],
            "UniqueId": _node("t", each["Name"]),
            "TriggerDetails": {"Trigger": each},
        }
        for each in triggers
    ]
    for job in jobs_:
        details = {"JobRuns": [runs[job]] if job in runs else []}
        nodes.append({"Type": "JOB", "Name": job, "UniqueId": _node("j", job), "JobDetails": details})
    links = [(_node("t", trigger), _node("j", job)) for trigger, job in edges]
    links += [(_node("j", job), _node("t", each["Name"])) for each in triggers for job in watched_jobs(each)]
    return {"Nodes": nodes, "Edges": [{"SourceId": source, "DestinationId": target} for source, target in links]}


def _node(kind: str, name: str) -> str:
    return f"wnode_{kind}_{name}"


@emulator.json_action("glue", "StartWorkflowRun")
def _start_workflow_run(call: Call) -> Payload:
    return {"RunId": start_run(call.payload["Name"], call.payload.get("RunProperties"))}


@emulator.json_action("glue", "StopWorkflowRun")
def _stop_workflow_run(call: Call) -> Payload:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StopWorkflowRun.html"""
    run = _run(call)
    if run["Status"] != "RUNNING":
        raise AwsError("IllegalWorkflowStateException", f"The workflow run is {run['Status']}.")
    chain = _chains[run["WorkflowRunId"]]
    chain.stopping = True
    run["Status"] = "STOPPING"
    for found in list(chain.runs.values()):
        jobs.stop(found["Id"])
    return {}


@emulator.json_action("glue", "GetWorkflowRun")
def _get_workflow_run(call: Call) -> Payload:
    return {"Run": _described(_run(call), graph=call.payload.get("IncludeGraph", False))}


@emulator.json_action("glue", "GetWorkflowRuns")
def _get_workflow_runs(call: Call) -> Payload:
    name, graph = call.payload["Name"], call.payload.get("IncludeGraph", False)
    _workflow(name)
    found, following = page(list(reversed(_glue._workflow_runs.get(name, []))), call.payload, _MOST)
    return {"Runs": [_described(run, graph=graph) for run in found], **following}


@emulator.json_action("glue", "GetWorkflowRunProperties")
def _get_workflow_run_properties(call: Call) -> Payload:
    return {"RunProperties": _run(call)["WorkflowRunProperties"]}


@emulator.json_action("glue", "PutWorkflowRunProperties")
def _put_workflow_run_properties(call: Call) -> Payload:
    _run(call)["WorkflowRunProperties"].update(call.payload["RunProperties"])
    return {}


@emulator.json_action("glue", "GetWorkflow")
def _get_workflow(call: Call) -> Payload:
    return {"Workflow": _definition(call.payload["Name"], graph=call.payload.get("IncludeGraph", False))}


@emulator.json_action("glue", "BatchGetWorkflows")
def _batch_get_workflows(call: Call) -> Payload:
    names, graph = call.payload["Names"], call.payload.get("IncludeGraph", False)
    known = [name for name in names if name in _glue._workflows]
    missing = [name for name in names if name not in known]
    return {"Workflows": [_definition(name, graph=graph) for name in known], "MissingWorkflows": missing}


@emulator.json_action("glue", "ListWorkflows")
def _list_workflows(call: Call) -> Payload:
    names, following = page(sorted(_glue._workflows), call.payload, _MOST)
    return {"Workflows": names, **following}


def _definition(name: str, *, graph: bool) -> Payload:
    workflow, runs = _workflow(name), _glue._workflow_runs.get(name, [])
    last = {"LastRun": _described(runs[-1], graph=graph)} if runs else {}
    return {**workflow, **last, **({"Graph": _graph(_triggers(name), {})} if graph else {})}


# --- Stacks ------------------------------------------------------------------------------------------------------

_MEMBERS = {"Description": "", "DefaultRunProperties": {}, "MaxConcurrentRuns": 0}


def _create(logical: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, str]]:
    name = properties.get("Name") or _provisioners._physical_name(stack, logical, max_len=255)
    tags = _provisioners._tag_map(properties.get("Tags") or {})
    return _changed(name, properties, _glue._create_workflow, Tags=tags)


def _update(physical: str, old: dict[str, Any], new: dict[str, Any], stack: str) -> tuple[str, dict[str, str]]:
    """A workflow with another name is another one."""
    if old.get("Name") != new.get("Name"):
        made = _create(physical, new, stack)
        _delete(physical, old)
        return made
    return _changed(physical, new, _glue._update_workflow)


def _changed(
    name: str, properties: dict[str, Any], change: Callable[[Payload], Any], **further: Any
) -> tuple[str, dict[str, str]]:
    members = {member: properties.get(member, default) for member, default in _MEMBERS.items()}
    members["MaxConcurrentRuns"] = int(members["MaxConcurrentRuns"])
    status, _, body = change({"Name": name, **members, **further})
    if status >= 400:
        raise ValueError(json.loads(body)["message"])
    return name, {}


def _delete(physical: str, properties: dict[str, Any]) -> None:
    _glue._delete_workflow({"Name": physical})


emulator.resource_type("AWS::Glue::Workflow", _create, _delete, _update)
