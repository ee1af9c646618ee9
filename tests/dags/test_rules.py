"""The rules for DAGs find what they are there to find: each in a DAG that breaks it and nothing else."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.amazon.aws.operators.glue import GlueJobOperator
from airflow.providers.amazon.aws.operators.sns import SnsPublishOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, TriggerRule

from atlas import lifecycle, params, settings
from atlas.costs import Price
from atlas.operators.budget import CheckBudgetOperator
from atlas.operators.cloudformation import DeployStackOperator, RemoveStackOperator
from atlas.operators.report import RunReportOperator
from atlas.operators.verdict import VerdictOperator
from atlas.settings import Tag
from tests.dags import rules

WATCHED = ["check_budget", "deploy_stack", "load", "remove_stack"]
PRICE = Price(
    per_hour={"database": Decimal("0.01"), "disk": Decimal("0.002")},
    per_million_events={"queue": Decimal("2")},
    bytes_per_event=100,
    per_run={"job": Decimal("0.03")},
)
DOCUMENTATION = """# s00: an example

*Does it work?*

    files -> lake

Runbook: `docs/operations.md#s00_example`.

""" + "\n\n".join(f"**{section}.** Text." for section in rules.SECTIONS if section != "Cost")
DOCUMENTATION += "\n\n**Cost.** 0.012 USD an hour,\n0.030 USD a run, 2.00 USD per million rows."


def sound_dag(**changes: Any) -> DAG:
    """Return a DAG that keeps every rule, but for ``changes`` to its arguments."""
    arguments: dict[str, Any] = {
        "schedule": None,
        "max_active_runs": 1,
        "default_args": settings.DEFAULT_ARGS,
        "doc_md": DOCUMENTATION,
        "params": {
            "rows": Param(1, type="integer", minimum=0, maximum=9, title="Rows"),
            "share": Param(
                None, type=["null", "number"], exclusiveMinimum=0, exclusiveMaximum=1, title="Share", description="x"
            ),
            "source_uri": Param(None, type=["null", "string"], pattern="^s3://", title="Source"),
            "day": Param("2026-01-01", type="string", format="date", title="Day"),
            "budget_usd": params.budget(),
            "size": Param(5, type="integer", enum=[5, 50], title="Size"),
            "keep": Param(False, type="boolean", title="Keep", description="Keep what was made"),
        },
        "tags": [Tag.BATCH, Tag.GLUE, Tag.SNS],
    }
    with DAG("s00_example", **arguments | changes) as dag:
        guard = CheckBudgetOperator(task_id="check_budget", price=PRICE, load="rows", lake="lake")
        deploy = DeployStackOperator(task_id="deploy_stack", template="s00.yaml", stack_name="s00")
        load = GlueJobOperator(task_id="load", job_name="load")
        remove = RemoveStackOperator(task_id="remove_stack", stack_name="s00")
        report = RunReportOperator(
            task_id="report",
            title="Example",
            output_prefix="s3://lake/runs",
            watched=WATCHED,
            facts={"Estimated cost": lifecycle.ESTIMATE},
        )
        notify = SnsPublishOperator(
            task_id="notify", target_arn="topic", message="done", trigger_rule=TriggerRule.ALL_DONE
        )
        verdict = VerdictOperator(task_id="verdict", watched=[*WATCHED, "report", "notify"])
        removal = remove.as_teardown(setups=deploy, on_failure_fail_dagrun=True)
        guard >> deploy >> load >> removal >> report >> notify >> verdict
    return dag


def change(task_id: str, **attributes: Any) -> Callable[[DAG], None]:
    """Return what gives a task other attributes."""

    def apply(dag: DAG) -> None:
        for name, value in attributes.items():
            setattr(dag.get_task(task_id), name, value)

    return apply


def add(task_id: str, before: str | None = None, trigger_rule: str | None = None) -> Callable[[DAG], None]:
    """Return what adds a task before another, which gets ``trigger_rule``."""

    def apply(dag: DAG) -> None:
        task = EmptyOperator(task_id=task_id, dag=dag, execution_timeout=settings.DEFAULT_ARGS["execution_timeout"])
        if before:
            follower = dag.get_task(before)
            task >> follower
            if trigger_rule:
                follower.trigger_rule = TriggerRule(trigger_rule)

    return apply


def cut(before: str, after: str) -> Callable[[DAG], None]:
    """Return what removes the edge between two tasks."""

    def apply(dag: DAG) -> None:
        dag.get_task(before).downstream_task_ids.discard(after)
        dag.get_task(after).upstream_task_ids.discard(before)

    return apply


def nothing(dag: DAG) -> None:
    """Leave the DAG as it is."""


@pytest.mark.parametrize("rule", rules.DAG_RULES, ids=lambda rule: rule.__name__)
def test_a_sound_dag_keeps_the_rule(rule: Callable[[DAG], Iterator[str]]) -> None:
    assert list(rule(sound_dag())) == []


def test_a_stream_starts_its_functions_itself() -> None:
    dag = sound_dag(tags=[Tag.STREAMING, Tag.GLUE, Tag.LAMBDA, Tag.SNS])
    assert not list(rules.uses_the_providers_operators(dag))


@pytest.mark.parametrize(
    ("rule", "changes", "edit", "named"),
    [
        pytest.param(rules.starts_only_when_asked, {"schedule": "@daily"}, nothing, "schedule", id="scheduled"),
        pytest.param(rules.starts_only_when_asked, {"max_active_runs": 2}, nothing, "max_active_runs", id="parallel"),
        pytest.param(
            rules.tasks_have_owner_and_limits,
            {"default_args": settings.DEFAULT_ARGS | {"retries": 0}},
            nothing,
            "no retries",
            id="no retries",
        ),
        pytest.param(
            rules.tasks_have_owner_and_limits, {}, change("load", execution_timeout=None), "load", id="no timeout"
        ),
        pytest.param(rules.tasks_have_owner_and_limits, {}, change("load", owner="airflow"), "load", id="no owner"),
        pytest.param(rules.tags_are_known, {"tags": [Tag.BATCH, "misc"]}, nothing, "misc", id="unknown tag"),
        pytest.param(rules.tags_are_known, {"tags": [Tag.SNS]}, nothing, "0 kinds", id="no kind"),
        pytest.param(rules.documentation_answers, {"doc_md": None}, nothing, "no title", id="no documentation"),
        pytest.param(
            rules.documentation_answers,
            {"doc_md": DOCUMENTATION.replace("*Does it work?*", "It works.")},
            nothing,
            "no question",
            id="no question",
        ),
        pytest.param(
            rules.documentation_answers,
            {"doc_md": DOCUMENTATION.replace("    files ->", "files ->")},
            nothing,
            "no flow",
            id="no flow",
        ),
        pytest.param(
            rules.documentation_answers,
            {"doc_md": DOCUMENTATION.replace("**Cost.**", "Cost.")},
            nothing,
            "Cost",
            id="no cost",
        ),
        pytest.param(
            rules.documentation_answers,
            {"doc_md": DOCUMENTATION.replace("#s00_example", "#s01_other")},
            nothing,
            "runbook",
            id="no runbook",
        ),
        pytest.param(
            rules.params_explain_themselves, {"params": {"rows": Param(1, minimum=0)}}, nothing, "title", id="no title"
        ),
        pytest.param(
            rules.params_explain_themselves, {"params": {"rows": Param(1, title="Rows")}}, nothing, "bounds", id="bare"
        ),
        pytest.param(
            rules.params_explain_themselves,
            {"params": {"rows": Param(type="integer", minimum=0, title="Rows")}},
            nothing,
            "default",
            id="no default",
        ),
        *(
            pytest.param(
                rules.params_are_bounded, {"params": {"rows": Param(default, **schema)}}, nothing, named, id=named
            )
            for default, schema, named in (
                (1, {"minimum": 0, "maximum": 9}, "no type"),
                (1, {"type": "integer", "maximum": 9}, "no minimum"),
                (1, {"type": ["null", "number"], "exclusiveMinimum": 0}, "no maximum"),
                ("x", {"type": ["null", "string"]}, "no enum or pattern or format"),
                (1, {"type": ["string", "integer"], "pattern": "^s3://"}, "no minimum or exclusiveMinimum"),
                ([1], {"type": "array"}, "limit type array"),
            )
        ),
        pytest.param(rules.stacks_are_removed, {}, change("deploy_stack", is_setup=False), "no setup", id="no setup"),
        pytest.param(
            rules.stacks_are_removed, {}, change("remove_stack", is_teardown=False), "no teardown", id="no teardown"
        ),
        pytest.param(
            rules.stacks_are_removed, {}, change("remove_stack", stack_name="s99"), "no teardown", id="other stack"
        ),
        pytest.param(
            rules.stacks_are_removed,
            {},
            change("remove_stack", on_failure_fail_dagrun=False),
            "unseen",
            id="teardown may fail",
        ),
        pytest.param(
            rules.stacks_are_removed,
            {},
            change("deploy_stack", stack_name=settings.PLATFORM_STACK),
            "no stack of its own",
            id="platform only",
        ),
        pytest.param(
            rules.costs_are_bounded, {}, lambda dag: dag.task_dict.pop("check_budget"), "no check_budget", id="no guard"
        ),
        pytest.param(
            rules.costs_are_bounded, {}, cut("check_budget", "deploy_stack"), "does not depend", id="guard aside"
        ),
        pytest.param(
            rules.costs_are_bounded,
            {},
            change("deploy_stack", trigger_rule=TriggerRule.ALL_DONE),
            "does not depend",
            id="guard passed over",
        ),
        pytest.param(rules.costs_are_bounded, {}, change("report", facts={}), "estimate", id="estimate untold"),
        pytest.param(rules.costs_are_bounded, {"params": {"rows": 1}}, nothing, "no param budget_usd", id="no budget"),
        pytest.param(
            rules.costs_are_bounded,
            {"params": {"rows": 500_000, "source_uri": None, "budget_usd": 1.0}},
            nothing,
            "default load is refused",
            id="default too dear",
        ),
        pytest.param(
            rules.documentation_names_the_price,
            {"doc_md": DOCUMENTATION.replace("0.012 USD an hour", "0.01 USD an hour")},
            nothing,
            "0.012 USD an hour",
            id="other price",
        ),
        pytest.param(
            rules.documentation_names_the_price,
            {"doc_md": DOCUMENTATION.replace("**Cost.**", "**Cost.** Free.\n\n**Else.**")},
            nothing,
            "0.030 USD a run",
            id="price elsewhere",
        ),
        pytest.param(
            rules.ends_with_report_notice_verdict,
            {},
            change("report", trigger_rule=TriggerRule.ALL_SUCCESS),
            "report has trigger rule all_success",
            id="report may be missing",
        ),
        pytest.param(rules.ends_with_report_notice_verdict, {}, add("late"), "late", id="second end"),
        pytest.param(
            rules.ends_with_report_notice_verdict, {}, cut("report", "notify"), "follow each other", id="not in line"
        ),
        pytest.param(rules.ends_with_report_notice_verdict, {}, add("late", "notify"), "late", id="after the report"),
        pytest.param(
            rules.ends_with_report_notice_verdict, {}, lambda dag: dag.task_dict.pop("notify"), "notify", id="no notice"
        ),
        pytest.param(
            rules.no_failure_goes_unseen, {}, add("aside", "remove_stack"), "aside can fail", id="before a teardown"
        ),
        pytest.param(
            rules.no_failure_goes_unseen, {}, add("aside", "load", "all_done"), "aside can fail", id="passed over"
        ),
        pytest.param(rules.no_failure_goes_unseen, {}, add("aside", "report"), "aside can fail", id="before report"),
        pytest.param(
            rules.no_failure_goes_unseen,
            {},
            change("verdict", watched=[*WATCHED, "report", "notify", "ghost"]),
            "ghost",
            id="no such task",
        ),
        pytest.param(
            rules.no_failure_goes_unseen, {}, change("verdict", watched=WATCHED), "report is not", id="report unwatched"
        ),
        pytest.param(
            rules.no_failure_goes_unseen, {}, change("report", watched=["load"]), "different tasks", id="report differs"
        ),
        pytest.param(
            rules.no_failure_goes_unseen, {}, change("verdict", optional=["ghost"]), "ghost", id="optional unwatched"
        ),
        pytest.param(
            rules.uses_the_providers_operators,
            {"tags": [Tag.BATCH, Tag.SNS]},
            nothing,
            "without the tag glue",
            id="tag missing",
        ),
        pytest.param(
            rules.uses_the_providers_operators,
            {"tags": [Tag.BATCH, Tag.GLUE, Tag.SNS, Tag.ATHENA]},
            nothing,
            "athena operator",
            id="operator missing",
        ),
        pytest.param(
            rules.uses_the_providers_operators,
            {"tags": [Tag.STREAMING, Tag.GLUE, Tag.SNS, Tag.REDSHIFT]},
            nothing,
            "redshift_data operator",
            id="operator missing in a stream",
        ),
    ],
)
def test_the_rule_names_what_is_wrong(
    rule: Callable[[DAG], Iterator[str]], changes: dict[str, Any], edit: Callable[[DAG], object], named: str
) -> None:
    dag = sound_dag(**changes)
    edit(dag)
    assert named in "\n".join(rule(dag))


def test_access_control_is_found_and_airflow_warns_of_it() -> None:
    with pytest.warns(DeprecationWarning, match="permissions module is deprecated"):
        dag = sound_dag(access_control={"Viewer": {"can_read"}})
    assert "access_control" in "\n".join(rules.access_is_granted_in_airflow(dag))


@pytest.mark.parametrize("trigger_rule", ["all_success", "none_failed", "none_failed_min_one_success"])
def test_a_failure_is_seen_through_tasks_that_pass_it_on(trigger_rule: str) -> None:
    dag = sound_dag()
    add("aside", "load", trigger_rule)(dag)
    assert list(rules.no_failure_goes_unseen(dag)) == []


@pytest.mark.parametrize(
    ("source", "named"),
    [
        pytest.param("DAG(tags=[Tag.GLUE, Tag.BATCH])", "Tag.GLUE", id="service first"),
        pytest.param("DAG(tags=['batch'])", "'batch'", id="text"),
        pytest.param("DAG()", "nothing", id="none"),
    ],
)
def test_another_first_tag_is_found(source: str, named: str) -> None:
    assert named in "\n".join(rules.names_its_kind_first(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("import boto3", id="import"),
        pytest.param("def f():\n    from botocore.config import Config", id="import inside a function"),
        pytest.param("S3Hook().get_conn().put_object()", id="client of a hook"),
        pytest.param("AthenaHook().conn.list_work_groups()", id="client as property"),
    ],
)
def test_direct_use_of_boto3_is_found(source: str) -> None:
    assert list(rules.leaves_boto3_to_operators_and_hooks(ast.parse(source)))


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        pytest.param("a >> b >> a", "Cycle", id="cycle"),
        pytest.param("a >> c", "NameError", id="import error"),
    ],
)
def test_airflow_refuses_the_file(tmp_path: Path, lines: str, named: str) -> None:
    file = tmp_path / "s00_broken.py"
    file.write_text(
        "from airflow.sdk import DAG\n"
        "from airflow.providers.standard.operators.empty import EmptyOperator\n"
        "with DAG('s00_broken', schedule=None):\n"
        "    a, b = EmptyOperator(task_id='a'), EmptyOperator(task_id='b')\n"
        f"    {lines}\n"
    )
    bag = DagBag(file)
    assert named in "\n".join(bag.import_errors.values())
    assert not bag.dags
