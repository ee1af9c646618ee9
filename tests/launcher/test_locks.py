"""The lock files and what Amazon MWAA installs name the same versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.launcher import environments, layout, lock

LOCKS = (environments.AIRFLOW.lock, environments.AWS.lock, environments.CHECKOV.lock)

with_image = pytest.mark.skipif(
    not (lock.CONSTRAINTS.is_file() and lock.IMAGE.is_file()),
    reason="the pins of the MWAA image are not part of the repository: ../shared/mwaa",
)


def _pins_on_3_12(text: str) -> dict[str, str]:
    """Return the pins of a universal lock without those for older Pythons only."""
    return lock.pins("\n".join(line for line in text.splitlines() if "< '3.12'" not in line))


@pytest.fixture(name="locked")
def _locked() -> dict[str, str]:
    return _pins_on_3_12(environments.AIRFLOW.lock.read_text())


def test_pins_are_read_with_normalised_names() -> None:
    text = "# none==0\nRuamel.YAML==0.19.1\npsycopg[binary]==3.3.4 ; python_version >= '3.12'\n-c other==1\n"
    assert lock.pins(text) == {"ruamel-yaml": "0.19.1", "psycopg": "3.3.4"}


def test_mwaa_installs_the_versions_that_are_tested(locked: dict[str, str]) -> None:
    wanted = lock.pins(lock.REQUIREMENTS.read_text())
    assert "great-expectations" in wanted
    assert wanted == {name: locked[name] for name in wanted}


def test_requirements_begin_with_the_constraint_line_mwaa_demands() -> None:
    """https://docs.aws.amazon.com/mwaa/latest/userguide/working-dags-dependencies.html"""
    lines = [line for line in lock.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    assert lines[0].startswith("--constraint ")
    assert f"constraints-{lock.AIRFLOW_VERSION}/constraints-3.12.txt" in lines[0]


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: str(file.relative_to(layout.REPOSITORY)))
def test_a_lock_names_no_index_and_pins_everything(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    assert "://" not in file.read_text()
    assert all("==" in line for line in lines)


@with_image
def test_the_lock_keeps_to_the_constraints_of_the_image(locked: dict[str, str]) -> None:
    allowed = lock.pins(lock.CONSTRAINTS.read_text())
    differing = {
        name: (locked[name], allowed[name]) for name in locked.keys() & allowed if locked[name] != allowed[name]
    }
    assert differing == {}


@with_image
def test_nothing_the_image_has_is_installed_again(locked: dict[str, str]) -> None:
    present = lock.pins(lock.IMAGE.read_text())
    assert lock.pins(lock.REQUIREMENTS.read_text()).keys() & present.keys() == set()
