"""What is the same for all scenarios of one environment.

The section ``[atlas]`` of the Airflow configuration sets it: ``AIRFLOW__ATLAS__ENVIRONMENT=prod`` or, on Amazon MWAA,
the configuration option ``atlas.environment``.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any

from airflow.sdk import conf

ENVIRONMENT: str = conf.get("atlas", "environment", fallback="dev")
"""Part of every resource's name, so that two environments live in one account."""

POLL_SECONDS: float = conf.getfloat("atlas", "poll_seconds", fallback=15)
"""Between two looks at something AWS is busy with."""

POLL_ATTEMPTS: int = round(3600 / POLL_SECONDS)
"""Looks in an hour, after which a task is given up: for operators of the Amazon provider that count them."""

BUFFER_SECONDS: int = conf.getint("atlas", "buffer_seconds", fallback=60)
"""How long Amazon Data Firehose gathers records before it writes an object, unless a run asks for something else."""

S3_ADDRESS = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$"
"""What a param that is an address in S3 has to look like."""

MOST_A_SECOND = 10_000
"""Events a second that a run can be asked to send; what a scenario takes is less."""

SERVICE_ROLE = f"atlas-{ENVIRONMENT}-cloudformation"
"""The role CloudFormation deploys with; deploy/permissions.yaml makes it."""

PLATFORM_STACK = f"atlas-{ENVIRONMENT}-platform"

DEFAULT_ARGS: dict[str, Any] = {
    "owner": "atlas",
    "retries": 2,
    "retry_delay": timedelta(seconds=conf.getint("atlas", "retry_seconds", fallback=30)),
    "retry_exponential_backoff": True,
    "execution_timeout": timedelta(hours=1),
}


class Tag(StrEnum):
    """Tags by which a user finds a DAG: its kind first, then the services it uses."""

    BATCH = "batch"
    MESSAGING = "messaging"
    STREAMING = "streaming"
    WORKFLOW = "workflow"
    ATHENA = "athena"
    DYNAMODB = "dynamodb"
    FIREHOSE = "firehose"
    GLUE = "glue"
    KINESIS = "kinesis"
    LAMBDA = "lambda"
    RDS = "rds"
    REDSHIFT = "redshift"
    S3 = "s3"
    SNS = "sns"
    SQS = "sqs"
    STEP_FUNCTIONS = "step-functions"


def stack_name(scenario: str) -> str:
    """Return the name of a scenario's stack in this environment: ``atlas-<environment>-s01-rds-sales-etl``."""
    return f"atlas-{ENVIRONMENT}-{scenario.replace('_', '-')}"


def cost_tags(scenario: str) -> dict[str, str]:
    """Return the tags by which costs are told apart."""
    return {"atlas:environment": ENVIRONMENT, "atlas:scenario": scenario}
