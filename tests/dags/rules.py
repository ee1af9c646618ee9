"""The house rules for DAGs. Each takes a DAG, or a file's syntax tree, and yields what is wrong with it, in words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow.providers.amazon.aws.operators.sns import SnsPublishOperator
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.exceptions import ParamValidationError

from atlas import lifecycle, settings
from atlas.costs import Price, dollars, total
from atlas.operators.budget import CheckBudgetOperator, with_copies
from atlas.operators.cloudformation import DeployStackOperator, RemoveStackOperator
from atlas.operators.report import RunReportOperator
from atlas.operators.verdict import VerdictOperator
from atlas.settings import Tag

if TYPE_CHECKING:
    from airflow.sdk.types import Operator

KINDS = {Tag.BATCH, Tag.MESSAGING, Tag.STREAMING, Tag.WORKFLOW}
SECTIONS = ("Alternatives", "Scaling", "Failure", "Security", "Cost")
BOUNDS = ("enum", "minimum", "maximum", "pattern", "format")
NUMBER_LIMITS = (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"))
LIMITS: dict[str, tuple[tuple[str, ...], ...]] = {
    "boolean": (),
    "integer": NUMBER_LIMITS,
    "number": NUMBER_LIMITS,
    "string": (("enum", "pattern", "format"),),
}
"""What a value of a type needs besides the type: one of each."""
DEFAULTS = ("owner", "retries", "retry_delay", "execution_timeout")
MACHINERY: dict[str, type] = {"report": RunReportOperator, "notify": SnsPublishOperator, "verdict": VerdictOperator}
PROVIDER = "airflow.providers.amazon.aws.operators."
OPERATORS = {
    Tag.ATHENA: "athena",
    Tag.GLUE: "glue",
    Tag.LAMBDA: "lambda_function",
    Tag.REDSHIFT: "redshift_data",
    Tag.SNS: "sns",
}
CALLED_BY_AWS = {Tag.LAMBDA}
"""What streams, queues and workflows start themselves; in a batch DAG an operator does."""
PASSES_FAILURE_ON = {
    TriggerRule.ALL_SUCCESS,
    TriggerRule.NONE_FAILED,
    TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
}
BOTO = {"boto3", "botocore", "aiobotocore", "aioboto3"}
CLIENTS = {"conn", "conn_client_meta", "get_client_type", "get_conn", "get_resource_type", "get_async_conn"}


def starts_only_when_asked(dag: DAG) -> Iterator[str]:
    if dag.schedule is not None:
        yield f"schedule is {dag.schedule!r}, not None"
    if dag.max_active_runs != 1:
        yield f"max_active_runs is {dag.max_active_runs}, not 1"


def tasks_have_owner_and_limits(dag: DAG) -> Iterator[str]:
    yield from (f"default_args set no {name}" for name in DEFAULTS if not dag.default_args.get(name))
    for task in dag.tasks:
        if task.owner != settings.DEFAULT_ARGS["owner"]:
            yield f"{task.task_id}: owner is {task.owner!r}"
        if task.execution_timeout is None:
            yield f"{task.task_id}: no execution_timeout"


def tags_are_known(dag: DAG) -> Iterator[str]:
    yield from (f"tag {tag!r} is not in atlas.settings.Tag" for tag in dag.tags if tag not in set(Tag))
    if len(KINDS & dag.tags) != 1:
        yield f"tags name {len(KINDS & dag.tags)} kinds, not one of {', '.join(KINDS)}"


def documentation_answers(dag: DAG) -> Iterator[str]:
    """A title, the question in italics, the flow in an indented block, then the sections."""
    text = dag.doc_md or ""
    lines = text.splitlines()
    if not text.startswith(f"# {dag.dag_id.partition('_')[0]}: "):
        yield "no title that begins with the scenario's number"
    if not any(paragraph.startswith("*") and paragraph.rstrip().endswith("?*") for paragraph in text.split("\n\n")):
        yield "no question in italics"
    if not any(line.startswith("    ") and "->" in line for line in lines):
        yield "no flow line"
    yield from (f"no section {name}" for name in SECTIONS if f"**{name}.**" not in text)
    if f"`docs/operations.md#{dag.dag_id}`" not in text:
        yield "no way to the runbook"


def params_explain_themselves(dag: DAG) -> Iterator[str]:
    for name in dag.params:
        param = dag.params.get_param(name)
        if not param.schema.get("title"):
            yield f"param {name}: no title"
        if not param.description and not param.schema.keys() & set(BOUNDS):
            yield f"param {name}: neither description nor bounds"
        try:
            param.resolve()
        except ParamValidationError as error:
            yield f"param {name}: no valid default: {str(error).splitlines()[0]}"


def access_is_granted_in_airflow(dag: DAG) -> Iterator[str]:
    """``access_control`` takes back what administrators granted; a role in it that nobody has made stops the import."""
    if dag.access_control is not None:
        yield "access_control is set; roles are granted to DAGs in Airflow, see docs/security.md"


def params_are_bounded(dag: DAG) -> Iterator[str]:
    """Nobody can type a load without an end, or a text of any form."""
    for name in dag.params:
        schema = dag.params.get_param(name).schema
        types = schema.get("type", [])
        kinds = {types} if isinstance(types, str) else set(types) - {"null"}
        if not kinds:
            yield f"param {name}: no type"
        for kind in sorted(kinds):
            if kind not in LIMITS:
                yield f"param {name}: nothing is known to limit type {kind}"
            elif "enum" not in schema:
                missing = [limits for limits in LIMITS[kind] if not schema.keys() & set(limits)]
                yield from (f"param {name}: no {' or '.join(limits)}" for limits in missing)


def stacks_are_removed(dag: DAG) -> Iterator[str]:
    """The platform's stack is shared by all scenarios and stays."""
    own = [
        task
        for task in dag.tasks
        if isinstance(task, DeployStackOperator) and task.stack_name != settings.PLATFORM_STACK
    ]
    if not own:
        yield "deploys no stack of its own"
    for task in own:
        removals = [
            removal
            for removal in task.downstream_list
            if isinstance(removal, RemoveStackOperator) and removal.stack_name == task.stack_name
        ]
        if not task.is_setup:
            yield f"{task.task_id} is no setup task"
        if not any(removal.is_teardown for removal in removals):
            yield f"{task.task_id} has no teardown that removes {task.stack_name}"
        if not all(removal.on_failure_fail_dagrun for removal in removals):
            yield f"the teardown of {task.task_id} may fail unseen"


def costs_are_bounded(dag: DAG) -> Iterator[str]:
    """The default load is let through; what is refused makes no stack, and the report says why."""
    guard = dag.task_dict.get("check_budget")
    if not isinstance(guard, CheckBudgetOperator):
        yield "no check_budget that is a CheckBudgetOperator"
        return
    for task in dag.tasks:
        if isinstance(task, DeployStackOperator) and task.stack_name != settings.PLATFORM_STACK:
            if guard.task_id not in task.upstream_task_ids or task.trigger_rule != TriggerRule.ALL_SUCCESS:
                yield f"{task.task_id} does not depend on {guard.task_id}"
        elif isinstance(task, RunReportOperator) and lifecycle.ESTIMATE not in task.facts.values():
            yield f"{task.task_id} does not tell the estimate"
    params = dag.params.dump()
    missing = {"budget_usd", "source_uri", guard.load} - params.keys()
    if missing:
        yield f"no param {', '.join(sorted(missing))}"
    elif guard.price.of_run(with_copies(params[guard.load], params)) > params["budget_usd"]:
        yield "the default load is refused"


def documentation_names_the_price(dag: DAG) -> Iterator[str]:
    """The sums of what the DAG declares, in its section on cost."""
    guard = dag.task_dict.get("check_budget")
    if isinstance(guard, CheckBudgetOperator):
        section = (dag.doc_md or "").partition("**Cost.**")[2].partition("\n\n")[0]
        said = " ".join(section.split())
        yield from (f"the section on cost does not say {text!r}" for text in _prices(guard.price) if text not in said)


def ends_with_report_notice_verdict(dag: DAG) -> Iterator[str]:
    missing = MACHINERY.keys() - set(dag.task_ids)
    if missing:
        yield f"no task {', '.join(sorted(missing))}"
        return
    for task_id, kind in MACHINERY.items():
        task = dag.get_task(task_id)
        if not isinstance(task, kind):
            yield f"{task_id} is a {task.task_type}, not a {kind.__name__}"
        if task.trigger_rule != TriggerRule.ALL_DONE:
            yield f"{task_id} has trigger rule {task.trigger_rule.value}, not all_done"
    leaves = sorted(task.task_id for task in dag.leaves)
    if leaves != ["verdict"]:
        yield f"the last tasks are {', '.join(leaves)}, not verdict alone"
    report, notify, verdict = (dag.get_task(task_id) for task_id in MACHINERY)
    if "report" not in notify.upstream_task_ids or "notify" not in verdict.upstream_task_ids:
        yield "report, notify, verdict do not follow each other"
    late = set(dag.task_ids) - MACHINERY.keys() - report.get_flat_relative_ids(upstream=True)
    yield from (f"{task_id} does not come before report" for task_id in sorted(late))


def no_failure_goes_unseen(dag: DAG) -> Iterator[str]:
    """The verdict watches a task, or some task that cannot succeed once that one has failed."""
    verdicts = [task for task in dag.tasks if isinstance(task, VerdictOperator)]
    reports = [task for task in dag.tasks if isinstance(task, RunReportOperator)]
    watched = {task_id for verdict in verdicts for task_id in verdict.watched}
    yield from (f"{task_id} is watched and does not exist" for task_id in sorted(watched - set(dag.task_ids)))
    for task in verdicts + reports:
        yield from (f"{task_id} is optional and not watched" for task_id in task.optional if task_id not in watched)
    for report in reports:
        if set(report.watched) != watched - MACHINERY.keys():
            yield "report and verdict watch different tasks"
    for task_id in MACHINERY.keys() - {"verdict"} - watched:
        yield f"{task_id} is not watched"
    yield from (
        f"{task.task_id} can fail unseen"
        for task in dag.tasks
        if task.task_id not in MACHINERY and not _is_seen(task, watched)
    )


def uses_the_providers_operators(dag: DAG) -> Iterator[str]:
    modules = {_operator_class(task).__module__ for task in dag.tasks}
    for tag, module in OPERATORS.items():
        used = PROVIDER + module in modules
        if used and tag not in dag.tags:
            yield f"uses {module} operators without the tag {tag}"
        if not used and tag in dag.tags and (Tag.BATCH in dag.tags or tag not in CALLED_BY_AWS):
            yield f"has the tag {tag} and no task with a {module} operator of the provider"


def names_its_kind_first(tree: ast.Module) -> Iterator[str]:
    """Read from the source: a DAG keeps its tags as a set."""
    keywords = [keyword for node in ast.walk(tree) if isinstance(node, ast.Call) for keyword in node.keywords]
    tags = [keyword.value for keyword in keywords if keyword.arg == "tags" and isinstance(keyword.value, ast.List)]
    firsts = [ast.unparse(elements.elts[0]) for elements in tags if elements.elts]
    if len(firsts) != 1 or firsts[0] not in {f"Tag.{kind.name}" for kind in KINDS}:
        yield f"the list of tags begins with {', '.join(firsts) or 'nothing'}, not with a kind"


def leaves_boto3_to_operators_and_hooks(tree: ast.Module) -> Iterator[str]:
    """Neither a client of its own nor the client inside a hook."""
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        yield from (f"line {node.lineno}: imports {name}" for name in modules if name.partition(".")[0] in BOTO)  # type: ignore[attr-defined]
        if isinstance(node, ast.Attribute) and node.attr in CLIENTS:
            yield f"line {node.lineno}: takes the client out of a hook ({node.attr})"


DAG_RULES = (
    starts_only_when_asked,
    tasks_have_owner_and_limits,
    tags_are_known,
    documentation_answers,
    params_explain_themselves,
    params_are_bounded,
    access_is_granted_in_airflow,
    stacks_are_removed,
    costs_are_bounded,
    documentation_names_the_price,
    ends_with_report_notice_verdict,
    no_failure_goes_unseen,
    uses_the_providers_operators,
)


def _is_seen(task: Operator, watched: set[str]) -> bool:
    """Whether the failure of ``task`` keeps some watched task from succeeding."""
    reached, pending = set[str](), [task]
    while pending:
        current = pending.pop()
        if current.task_id in watched:
            return True
        reached.add(current.task_id)
        pending += [
            follower
            for follower in current.downstream_list
            if follower.trigger_rule in PASSES_FAILURE_ON and follower.task_id not in reached
        ]
    return False


def _prices(price: Price) -> list[str]:
    return [
        f"{dollars(total(price.per_hour))} USD an hour",
        *([f"{dollars(total(price.per_run))} USD a run"] if price.per_run else []),
        f"{dollars(total(price.per_million_events))} USD per million",
    ]


def _operator_class(task: Operator) -> Any:
    return task.operator_class if isinstance(task, MappedOperator) else type(task)
