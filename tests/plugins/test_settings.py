"""Settings of an environment."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from airflow.sdk import Param
from airflow.sdk.exceptions import ParamValidationError

from atlas import settings
from atlas.settings import Tag
from local.launcher import layout


def test_names_carry_the_environment_and_fit_cloudformation() -> None:
    assert settings.stack_name("s01_rds_sales_etl") == "atlas-dev-s01-rds-sales-etl"
    assert settings.SERVICE_ROLE == "atlas-dev-cloudformation"
    assert settings.PLATFORM_STACK == "atlas-dev-platform"
    assert settings.cost_tags("s01_rds_sales_etl") == {
        "atlas:environment": "dev",
        "atlas:scenario": "s01_rds_sales_etl",
    }


def test_every_task_has_an_owner_retries_and_a_time_limit() -> None:
    assert settings.DEFAULT_ARGS["owner"]
    assert settings.DEFAULT_ARGS["retries"] >= 1
    assert settings.DEFAULT_ARGS["retry_delay"].total_seconds() > 0
    assert settings.DEFAULT_ARGS["execution_timeout"].total_seconds() > 0


@pytest.mark.parametrize(
    ("address", "accepted"),
    [
        ("s3://atlas-dev-lake-000000000000-us-east-1/uploads/retail/", True),
        ("s3://atlas-dev-lake-000000000000-us-east-1/uploads/payments.jsonl", True),
        ("s3://lake", True),
        ("./my-data", False),  # `make run` uploads it and hands over the address of that
        ("https://lake.example/uploads/", False),
        ("s3://", False),
        ("s3://Lake_1/uploads/", False),
        ("see s3://lake/uploads/", False),
    ],
)
def test_an_address_in_s3_is_told_from_others(address: str, accepted: bool) -> None:
    param = Param(None, type=["null", "string"], pattern=settings.S3_ADDRESS)
    assert param.resolve() is None
    with nullcontext() if accepted else pytest.raises(ParamValidationError):
        assert param.resolve(address) == address


def test_tags_are_texts_in_small_letters() -> None:
    assert all(isinstance(tag, str) and tag.value == tag.value.lower() for tag in Tag)
    assert len({tag.value for tag in Tag}) == len(Tag)


def test_the_configuration_names_the_environment(tmp_path: Path) -> None:
    """Read when first imported, so in a process of its own."""
    program = (
        "from atlas import settings as s; "
        "print(s.stack_name('s05_x'), s.SERVICE_ROLE, s.POLL_SECONDS, s.DEFAULT_ARGS['retry_delay'].seconds)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(layout.REPOSITORY / "plugins"),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__ATLAS__ENVIRONMENT": "prod",
            "AIRFLOW__ATLAS__POLL_SECONDS": "3",
            "AIRFLOW__ATLAS__RETRY_SECONDS": "4",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split()[-4:] == ["atlas-prod-s05-x", "atlas-prod-cloudformation", "3.0", "4"]
