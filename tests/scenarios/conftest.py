"""One account and one Airflow for all scenario tests of the session; a laptop for those that need its commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local.launcher import layout, spark
from local.launcher.embedded import free_port
from local.runner import Scenarios
from tests.conftest import Aws

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def scenarios(aws: Aws) -> Scenarios:
    """An account with Atlas's permissions and an Airflow that uses it."""
    spark.ensure(layout.AWS_VENV / "bin" / "python", layout.HOME / "jars")
    return Scenarios(aws.client, aws.endpoint)


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for a second Atlas beside any that runs."""
    return tmp_path_factory.mktemp("laptop")


@pytest.fixture(scope="module")
def command(laptop: Path) -> Iterator[Command]:
    """``python -m local.launcher <name>`` on free ports; whatever happens, it ends with ``down``."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")} | {
        "ATLAS_RUN": str(laptop),
        "ATLAS_AWS_PORT": str(free_port()),
        "ATLAS_UI_PORT": str(free_port()),
    }

    def call(name: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "local.launcher", name],
            cwd=layout.REPOSITORY,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    try:
        yield call
    finally:
        call("down")
