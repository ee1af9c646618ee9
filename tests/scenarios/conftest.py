"""One account and one Airflow for all scenario tests of the session; a laptop for those that need its commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from local.launcher import layout, spark
from local.launcher.embedded import free_port
from local.runner import Scenarios
from tests.conftest import Aws
from tests.scenarios import secrecy

Command = Callable[..., "subprocess.CompletedProcess[str]"]

KNOWN: dict[str, str] = {}
"""The secrets there were so far: value to what it is called."""

PRINTED = pytest.StashKey[list[tuple[str, str]]]()
"""What the tests, and Airflow's tasks with them, have printed: test and text."""


@pytest.fixture(scope="session")
def scenarios(aws: Aws, pytestconfig: pytest.Config) -> Iterator[Scenarios]:
    """An account with Atlas's permissions and an Airflow that uses it; no secret may get out of their runs."""
    spark.ensure(layout.python(layout.AWS_VENV), layout.JARS)
    made = Scenarios(aws.client, aws.endpoint)
    KNOWN[json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"])["password"]] = "Airflow's access key"
    yield made
    texts = [*secrecy.kept(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db"), *pytestconfig.stash[PRINTED]]
    assert list(secrecy.leaks(KNOWN, texts)) == []


@pytest.fixture(autouse=True)
def _secrets_are_known(request: pytest.FixtureRequest) -> None:
    """Learn the secrets of the stacks that are there; at the end of the session most of them are gone."""
    if "scenarios" in request.fixturenames:
        KNOWN.update(secrecy.secrets(request.getfixturevalue("scenarios").client))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    printed = item.config.stash.setdefault(PRINTED, [])
    printed += [(report.nodeid, text) for title, text in report.sections if title.endswith(call.when)]
    return report


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
