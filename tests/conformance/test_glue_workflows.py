"""Glue: triggers by demand, schedule and condition, and workflows of them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.launcher import control
from tests.conformance.test_cloudformation import create, resource, settled, template
from tests.conformance.test_glue import FINAL, Glue, until
from tests.conformance.test_iam import allow, denied, role, user
from tests.conftest import Aws, embedded_aws

FAILS = "raise SystemExit('broken')"
TELLS = "import sys; print(' '.join(sys.argv[1:]))"
SLEEPS = "import time; time.sleep(600)"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    """An embedded AWS of its own: its clock is everybody's."""
    with embedded_aws(tmp_path_factory.mktemp("glue")) as running:
        yield running


class Work(Glue):
    """Jobs, and the triggers and workflows between them."""

    def trigger(self, kind: str, *jobs: str, **definition: Any) -> str:
        """Create a trigger that starts ``jobs`` and return its name; all but those on demand are active."""
        name = f"trigger-{uuid.uuid4().hex[:8]}"
        active = {} if kind == "ON_DEMAND" else {"StartOnCreation": True}
        actions = definition.pop("Actions", [{"JobName": job} for job in jobs])
        self.client.create_trigger(Name=name, Type=kind, Actions=actions, **active, **definition)
        return name

    def after(self, *jobs: str, states: dict[str, str], logical: str = "AND", **definition: Any) -> str:
        """Create a trigger that starts ``jobs`` when other jobs have ended in ``states``."""
        conditions = [{"LogicalOperator": "EQUALS", "JobName": job, "State": state} for job, state in states.items()]
        predicate = {"Logical": logical, "Conditions": conditions}
        return self.trigger("CONDITIONAL", *jobs, Predicate=predicate, **definition)

    def workflow(self, **definition: Any) -> str:
        name = f"workflow-{uuid.uuid4().hex[:8]}"
        self.client.create_workflow(Name=name, **definition)
        return name

    def runs(self, job: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get_job_runs(JobName=job)["JobRuns"]
        return found

    def one(self, job: str) -> dict[str, Any]:
        """Return the one run of a job once it is over."""
        until(lambda: bool(self.runs(job)) and self.runs(job)[0]["JobRunState"] in FINAL)
        [found] = self.runs(job)
        return found

    def workflow_run(self, name: str, run_id: str, **arguments: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get_workflow_run(Name=name, RunId=run_id, **arguments)["Run"]
        return found

    def ended(self, name: str, run_id: str) -> dict[str, Any]:
        """Return a workflow run once it is over, with its graph."""
        until(lambda: self.workflow_run(name, run_id)["Status"] in {"COMPLETED", "STOPPED", "ERROR"})
        return self.workflow_run(name, run_id, IncludeGraph=True)


@pytest.fixture(scope="module")
def work(aws: Aws) -> Work:
    return Work(aws)


def test_a_trigger_on_demand_starts_its_jobs_with_arguments(work: Work) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StartTrigger.html"""
    job = work.job(TELLS, DefaultArguments={"--day": "none", "--kind": "full"})
    trigger = work.trigger("ON_DEMAND", Actions=[{"JobName": job, "Arguments": {"--day": "today"}}])
    work.client.start_trigger(Name=trigger)
    run = work.one(job)
    assert (run["JobRunState"], run["TriggerName"]) == ("SUCCEEDED", trigger)
    assert work.log("output", run["Id"]) == ["--day today --kind full"]
    assert work.client.get_trigger(Name=trigger)["Trigger"]["State"] == "CREATED"


def test_a_condition_on_all_jobs_waits_for_all_of_one_start(work: Work) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_Predicate.html"""
    one, two, both, never = work.job(TELLS), work.job(TELLS), work.job(TELLS), work.job(TELLS)
    start = work.trigger("ON_DEMAND", one, two)
    follow = work.after(both, states={one: "SUCCEEDED", two: "SUCCEEDED"})
    work.after(never, states={one: "SUCCEEDED", two: "FAILED"})
    work.run(one)
    work.run(two)
    assert work.runs(both) == []  # nobody waits for runs that no trigger started
    work.client.start_trigger(Name=start)
    run = work.one(both)
    assert run["TriggerName"] == follow
    assert {each["JobName"] for each in run["PredecessorRuns"]} == {one, two}
    assert {each["RunId"] for each in run["PredecessorRuns"]} == {work.runs(one)[0]["Id"], work.runs(two)[0]["Id"]}
    assert work.runs(never) == []


def test_a_condition_on_any_job_is_met_once_and_by_a_failure(work: Work) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_Condition.html"""
    good, bad = work.job(TELLS), work.job(FAILS, MaxRetries=1)
    either, rescue, idle = work.job(TELLS), work.job(TELLS), work.job(TELLS)
    start = work.trigger("ON_DEMAND", good, bad)
    work.after(either, states={good: "SUCCEEDED", bad: "FAILED"}, logical="ANY")
    work.after(rescue, states={bad: "FAILED"})
    inactive = work.after(idle, states={bad: "FAILED"})
    work.client.stop_trigger(Name=inactive)
    work.client.start_trigger(Name=start)
    assert work.one(rescue)["JobRunState"] == "SUCCEEDED"
    assert work.one(rescue)["PredecessorRuns"][0]["RunId"].endswith("_attempt_1")
    work.one(either)
    assert work.client.get_trigger(Name=inactive)["Trigger"]["State"] == "DEACTIVATED"
    assert work.runs(idle) == []


def test_a_scheduled_trigger_starts_in_time(aws: Aws, work: Work) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/monitor-data-warehouse-schedule.html"""
    job, other = work.job(TELLS), work.job(TELLS)
    work.trigger("SCHEDULED", job, Schedule="cron(0/5 * * * ? *)")
    stopped = work.trigger("SCHEDULED", other, Schedule="cron(0/5 * * * ? *)")
    work.client.stop_trigger(Name=stopped)
    assert work.runs(job) == []
    control.exchange(aws.endpoint, "clock", {"advance": 301})
    assert work.one(job)["JobRunState"] == "SUCCEEDED"
    assert work.runs(other) == []


@pytest.mark.parametrize(
    ("definition", "code"),
    [
        ({"Type": "SCHEDULED", "Schedule": "every day"}, "InvalidInputException"),
        ({"Type": "CONDITIONAL"}, "InvalidInputException"),
        ({"Type": "EVENT"}, "InvalidInputException"),
        ({"Type": "ON_DEMAND", "StartOnCreation": True}, "InvalidInputException"),
        ({"Type": "ON_DEMAND", "Actions": [{"CrawlerName": "c"}]}, "InvalidInputException"),
        ({"Type": "ON_DEMAND", "Actions": [{"JobName": "absent"}]}, "EntityNotFoundException"),
        ({"Type": "ON_DEMAND", "WorkflowName": "absent"}, "EntityNotFoundException"),
    ],
)
def test_a_wrong_trigger_is_refused(work: Work, definition: dict[str, Any], code: str) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_CreateTrigger.html"""
    with pytest.raises(ClientError, match=code):
        work.client.create_trigger(Name="wrong", **{"Actions": [], **definition})


def test_a_workflow_runs_its_jobs_and_counts_them(work: Work) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-workflow.html"""
    extract, load, clean = work.job(TELLS), work.job(FAILS), work.job(TELLS)
    name = work.workflow(DefaultRunProperties={"day": "none", "kind": "full"})
    begin = work.trigger("ON_DEMAND", extract, WorkflowName=name)
    then = work.after(load, states={extract: "SUCCEEDED"}, WorkflowName=name)
    last = work.after(clean, states={load: "FAILED"}, WorkflowName=name)
    run_id = work.client.start_workflow_run(Name=name, RunProperties={"day": "today"})["RunId"]
    work.client.put_workflow_run_properties(Name=name, RunId=run_id, RunProperties={"rows": "3"})
    run = work.ended(name, run_id)
    assert run["Status"] == "COMPLETED"
    properties = work.client.get_workflow_run_properties(Name=name, RunId=run_id)["RunProperties"]
    assert properties == {"day": "today", "kind": "full", "rows": "3"}
    counts = {kind: count for kind, count in run["Statistics"].items() if count}
    assert counts == {"TotalActions": 3, "SucceededActions": 2, "FailedActions": 1}
    names = {node["UniqueId"]: node["Name"] for node in run["Graph"]["Nodes"]}
    edges = [(names[edge["SourceId"]], names[edge["DestinationId"]]) for edge in run["Graph"]["Edges"]]
    assert set(edges) == {(begin, extract), (extract, then), (then, load), (load, last), (last, clean)}
    [failed] = [node for node in run["Graph"]["Nodes"] if node["Name"] == load]
    assert failed["JobDetails"]["JobRuns"][0]["JobRunState"] == "FAILED"
    assert work.log("output", work.one(clean)["Id"]) == [f"--WORKFLOW_NAME {name} --WORKFLOW_RUN_ID {run_id}"]
    described = work.client.get_workflow(Name=name)["Workflow"]
    assert described["LastRun"]["WorkflowRunId"] == run_id
    listed = work.client.get_workflow_runs(Name=name)["Runs"]
    assert [each["Status"] for each in listed] == ["COMPLETED"]


def test_a_workflow_run_is_stopped_with_its_jobs(work: Work) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StopWorkflowRun.html"""
    slow, never = work.job(SLEEPS), work.job(TELLS)
    name = work.workflow(MaxConcurrentRuns=1)
    work.trigger("ON_DEMAND", slow, WorkflowName=name)
    work.after(never, states={slow: "STOPPED"}, WorkflowName=name)
    run_id = work.client.start_workflow_run(Name=name)["RunId"]
    assert work.workflow_run(name, run_id)["Statistics"]["RunningActions"] == 1
    with pytest.raises(work.client.exceptions.ConcurrentRunsExceededException):
        work.client.start_workflow_run(Name=name)
    work.client.stop_workflow_run(Name=name, RunId=run_id)
    run = work.ended(name, run_id)
    assert (run["Status"], run["Statistics"]["StoppedActions"]) == ("STOPPED", 1)
    assert work.runs(never) == []
    with pytest.raises(work.client.exceptions.IllegalWorkflowStateException):
        work.client.stop_workflow_run(Name=name, RunId=run_id)


def test_a_job_that_cannot_start_is_an_errored_action(work: Work) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_WorkflowRunStatistics.html"""
    busy = work.job(SLEEPS)
    blocking = work.start(busy)
    name = work.workflow()
    work.trigger("ON_DEMAND", busy, WorkflowName=name)
    run = work.ended(name, work.client.start_workflow_run(Name=name)["RunId"])
    assert (run["Status"], run["Statistics"]["ErroredActions"]) == ("COMPLETED", 1)
    work.client.batch_stop_job_run(JobName=busy, JobRunIds=[blocking])


@pytest.mark.parametrize("triggers", [False, None])
def test_a_workflow_that_cannot_run_says_so(work: Work, triggers: bool | None) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StartWorkflowRun.html"""
    name = "absent" if triggers is None else work.workflow()
    code = "EntityNotFoundException" if triggers is None else "InvalidInputException"
    with pytest.raises(ClientError, match=code):
        work.client.start_workflow_run(Name=name)
    with pytest.raises(ClientError, match="EntityNotFoundException"):
        work.client.get_workflow_run(Name=name, RunId="absent")


def test_a_workflow_is_started_by_who_may(aws: Aws, work: Work) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_awsglue.html"""
    name = work.workflow()
    stranger = aws.client("glue", user(aws, allow("glue:GetWorkflow", "*")))
    message = denied(lambda: stranger.start_workflow_run(Name=name))
    assert "glue:StartWorkflowRun" in message
    assert f"workflow/{name}" in message


def test_a_stack_makes_a_workflow(aws: Aws, work: Work) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-glue-workflow.html"""
    first, second, name = work.job(TELLS), work.job(TELLS), f"stacked-{uuid.uuid4().hex[:8]}"
    condition = {"LogicalOperator": "EQUALS", "JobName": first, "State": "SUCCEEDED"}

    def body(**properties: Any) -> str:
        return template(
            Flow=resource("AWS::Glue::Workflow", Name=name, DefaultRunProperties={"day": "one"}, **properties),
            Begin=resource(
                "AWS::Glue::Trigger", Type="ON_DEMAND", WorkflowName={"Ref": "Flow"}, Actions=[{"JobName": first}]
            ),
            Then=resource(
                "AWS::Glue::Trigger",
                Type="CONDITIONAL",
                StartOnCreation=True,
                WorkflowName={"Ref": "Flow"},
                Actions=[{"JobName": second}],
                Predicate={"Conditions": [condition]},
            ),
        )

    actions = [
        f"glue:{verb}{kind}" for verb in ("Create", "Get", "Update", "Delete") for kind in ("Workflow", "Trigger")
    ]
    deployer = role(aws, "cloudformation.amazonaws.com", allow(actions, "*"))
    client = aws.client("cloudformation")
    stack = create(client, body(), RoleARN=deployer)
    run_id = work.client.start_workflow_run(Name=name)["RunId"]
    assert work.ended(name, run_id)["Statistics"]["SucceededActions"] == 2
    assert work.client.get_workflow(Name=name)["Workflow"]["DefaultRunProperties"] == {"day": "one"}
    client.update_stack(StackName=stack["StackId"], TemplateBody=body(MaxConcurrentRuns=2), RoleARN=deployer)
    assert settled(client, stack["StackId"])["StackStatus"] == "UPDATE_COMPLETE"
    assert work.client.get_workflow(Name=name)["Workflow"]["MaxConcurrentRuns"] == 2
    client.delete_stack(StackName=stack["StackId"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    with pytest.raises(work.client.exceptions.EntityNotFoundException):
        work.client.get_workflow(Name=name)
