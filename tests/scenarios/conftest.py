"""One account and one Airflow for all scenario tests of the session."""

from __future__ import annotations

import pytest

from local.launcher import layout, spark
from local.runner import Scenarios
from tests.conftest import Aws


@pytest.fixture(scope="session")
def scenarios(aws: Aws) -> Scenarios:
    """An account with Atlas's permissions and an Airflow that uses it."""
    spark.ensure(layout.AWS_VENV / "bin" / "python", layout.HOME / "jars")
    return Scenarios(aws.client, aws.endpoint)
