"""What every scenario's DAG begins and ends with: its budget checked, stacks made and removed, a notice sent.

``platform`` is the output of ``deploy_platform``; a DAG hands over the placeholder of what it becomes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.providers.amazon.aws.operators.sns import SnsPublishOperator
from airflow.sdk import TriggerRule

from atlas import settings
from atlas.costs import Price
from atlas.operators.budget import CheckBudgetOperator
from atlas.operators.cloudformation import DeployStackOperator, RemoveStackOperator

LAKE = "s3://{{ ti.xcom_pull('deploy_platform')['LakeBucket'] }}"
"""Address of the lake bucket, for templated fields."""

ESTIMATE = "{{ ti.xcom_pull('check_budget') }}"
"""What the run is estimated to cost, for the facts of its report."""


def deploy_platform() -> DeployStackOperator:
    """Return the task ``deploy_platform``: what all scenarios of the environment share; its output has addresses."""
    return DeployStackOperator(
        task_id="deploy_platform",
        template="platform.yaml",
        stack_name=settings.PLATFORM_STACK,
        service_role=settings.SERVICE_ROLE,
        parameters={"Environment": settings.ENVIRONMENT},
        tags=settings.cost_tags("platform"),
        poll_interval=settings.POLL_SECONDS,
    )


def check_budget(price: Price, platform: Mapping[str, str], load: str = "events") -> CheckBudgetOperator:
    """Return the task ``check_budget``: comes before ``deploy_stack`` and refuses what the params make too dear.

    Args:
        price: what the scenario costs.
        platform: addresses of what is shared.
        load: name of the param that says how many events are generated.
    """
    return CheckBudgetOperator(task_id="check_budget", price=price, load=load, lake=platform["LakeBucket"])


def deploy_stack(
    stem: str, platform: Mapping[str, str], from_platform: Sequence[str], parameters: Mapping[str, Any] | None = None
) -> DeployStackOperator:
    """Return the task ``deploy_stack``: the stack of scenario ``stem``, by its template of that name.

    Args:
        stem: the scenario.
        platform: addresses of what is shared.
        from_platform: the template's parameters that are outputs of the platform of the same name.
        parameters: the others, besides ``Environment`` (templated).
    """
    return DeployStackOperator(
        task_id="deploy_stack",
        template=f"{stem}.yaml",
        stack_name=settings.stack_name(stem),
        service_role=settings.SERVICE_ROLE,
        artifact_bucket=platform["ArtifactBucket"],
        parameters={
            "Environment": settings.ENVIRONMENT,
            **(parameters or {}),
            **{name: platform[name] for name in from_platform},
        },
        tags=settings.cost_tags(stem),
        poll_interval=settings.POLL_SECONDS,
    )


def remove_stack(stem: str, deployed: DeployStackOperator) -> RemoveStackOperator:
    """Return the task ``remove_stack``, the teardown of ``deploy_stack``; the param ``keep_stack`` skips it."""
    task = RemoveStackOperator(
        task_id="remove_stack",
        stack_name=settings.stack_name(stem),
        keep="{{ params.keep_stack }}",
        poll_interval=settings.POLL_SECONDS,
    )
    task.as_teardown(setups=deployed, on_failure_fail_dagrun=True)
    return task


def notify(platform: Mapping[str, str]) -> SnsPublishOperator:
    """Return the task ``notify``: tells by Amazon SNS what the report says, whatever happened before."""
    return SnsPublishOperator(
        task_id="notify",
        target_arn=platform["AlertTopicArn"],
        subject="{{ (ti.xcom_pull('report') or {}).get('subject', 'FAILED without a report: ' ~ dag.dag_id) }}",
        message="{{ (ti.xcom_pull('report') or {}).get('message', 'See the log of task report, run ' ~ run_id) }}",
        trigger_rule=TriggerRule.ALL_DONE,
    )
