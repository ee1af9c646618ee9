"""Tries a package as Amazon MWAA would use it: Python 3.12, the image's packages, requirements.txt, nothing else.

The package is unpacked into a folder of its own: a dags folder, a plugins folder and no repository around them. There
Airflow loads the plugins, and the tests of ``tests/dags`` run on the DAGs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from local.launcher import LauncherError, environments, layout, processes
from local.launcher.lock import CONSTRAINTS, IMAGE, PYTHON_VERSION, pins
from local.launcher.progress import step

ENVIRONMENT = layout.HOME / "venv" / "mwaa"
TOOLS = layout.HOME / "venv" / "mwaa-tools"
"""pytest, beside the environment and not in it."""


def check(dist: Path) -> None:
    """Check the package in ``dist``.

    Raises:
        LauncherError: its requirements cannot be installed, its plugins cannot be loaded or need what the image does
            not have, a DAG breaks a rule, or there is no Python 3.12 here.
    """
    with step("An environment like Amazon MWAA's"):
        _make_environment(dist)
    with tempfile.TemporaryDirectory() as folder, step("Plugins and DAGs in that environment"):
        unpacked = unpack(dist, Path(folder))
        settings = {"AIRFLOW_HOME": folder, "PYTHONPATH": str(TOOLS)}
        probe_plugins(layout.python(ENVIRONMENT), unpacked, settings)
        run_integrity_tests(layout.python(ENVIRONMENT), unpacked, settings)


def unpack(dist: Path, folder: Path) -> Path:
    """Lay the package out in ``folder`` as MWAA does, and return the folder."""
    shutil.copytree(dist / "dags", folder / "dags")
    with zipfile.ZipFile(dist / "plugins.zip") as plugins:
        plugins.extractall(folder / "plugins")
    return folder


def probe_plugins(python: Path, unpacked: Path, settings: dict[str, str]) -> None:
    """Let Airflow load the plugins.

    Raises:
        LauncherError: one cannot be loaded, or needs a package at load time that the image does not have.
    """
    probe: list[str | Path] = [python, Path(__file__).with_name("plugins_probe.py"), IMAGE]
    _run(probe, unpacked, settings, "Airflow does not load the plugins as Amazon MWAA would")


def run_integrity_tests(python: Path, unpacked: Path, settings: dict[str, str]) -> None:
    """Run the tests of ``tests/dags`` on the unpacked DAGs.

    Raises:
        LauncherError: one failed.
    """
    pytest: list[str | Path] = [python, "-m", "pytest", layout.REPOSITORY / "tests" / "dags"]
    pytest += ["-q", "-p", "no:cacheprovider"]
    # In the place of the repository's own: its plugins are out of reach.
    pytest += ["-o", f"pythonpath={unpacked / 'plugins'}"]
    _run(pytest, unpacked, settings, "The unpacked DAGs do not pass tests/dags")


def _run(command: list[str | Path], unpacked: Path, settings: dict[str, str], problem: str) -> None:
    environment = processes.environment(
        ATLAS_DAGS=str(unpacked / "dags"),
        ATLAS_PLUGINS=str(unpacked / "plugins"),
        AIRFLOW__CORE__PLUGINS_FOLDER=str(unpacked / "plugins"),
        AIRFLOW__CORE__LOAD_EXAMPLES="false",
        **settings,
    )
    done = subprocess.run(
        command, cwd=unpacked, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise LauncherError(f"{problem}:\n{done.stdout.strip()}")


def _make_environment(dist: Path) -> None:
    """Make ``ENVIRONMENT``, unless it is there already, and pytest beside it."""
    requirements = dist / "requirements.txt"
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in (IMAGE, CONSTRAINTS, requirements))).hexdigest()
    marker = ENVIRONMENT / "atlas-package"
    if marker.is_file() and marker.read_text() == wanted:
        return
    environments.make_installer()
    if not environments.UV.is_file():
        raise LauncherError("The check needs uv, which could not be installed; --no-check leaves the check out.")
    try:
        venv: list[str | Path] = [environments.UV, "venv", "--clear", "--python", _python(), ENVIRONMENT]
        environments.run(venv, f"Making {ENVIRONMENT}")
    except LauncherError as error:
        raise LauncherError(
            f"Amazon MWAA has Python {PYTHON_VERSION}, and none was found here: "
            f"make package PYTHON312=/path/to/python{PYTHON_VERSION}. {error}"
        ) from error
    install: list[str | Path] = [environments.UV, "pip", "install", "--python", layout.python(ENVIRONMENT)]
    install += ["--only-binary", ":all:"]
    with tempfile.TemporaryDirectory() as folder:
        # The image built psycopg2 from source; psycopg2-binary, which it has as well, is the same module.
        image = Path(folder, "image.txt")
        image.write_text("\n".join(line for line in IMAGE.read_text().splitlines() if "psycopg2==" not in line))
        environments.run([*install, "--no-deps", "-r", image], f"Installing {IMAGE.name}")
        # The constraint line's address cannot be reached everywhere: its content is here.
        beyond = Path(folder, "requirements.txt")
        beyond.write_text("\n".join(f"{name}=={version}" for name, version in pins(requirements.read_text()).items()))
        source: list[str | Path] = []
        if "--no-index" in requirements.read_text():
            with zipfile.ZipFile(dist / "plugins.zip") as plugins:
                plugins.extractall(folder)
            source = ["--no-index", "--find-links", folder]
        wanted_too = [*install, *source, "-c", CONSTRAINTS, "-r", beyond]
        environments.run(wanted_too, "Installing requirements.txt as MWAA would")
    locked = pins(environments.AIRFLOW.lock.read_text())
    tools = [f"{name}=={locked[name]}" for name in ("pytest", "iniconfig", "pluggy")]
    environments.run([*install, "--no-deps", "--target", TOOLS, *tools], "Installing pytest")
    marker.write_text(wanted)


def _python() -> str:
    """Return this interpreter if it is of MWAA's version, else what ``PYTHON312`` names, else a version to look for."""
    if sys.version_info[:2] == tuple(map(int, PYTHON_VERSION.split("."))):
        return sys.executable
    return os.environ.get("PYTHON312", PYTHON_VERSION)
