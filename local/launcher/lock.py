"""Compile the lock files from what is asked for in ``*.in``.

Policy for upgrades: Airflow and its providers follow the newest Amazon MWAA image, never ahead of it; the versions
that image pins win over any other. To move to a new image, put its constraint file and its list of packages into
``../shared/mwaa`` (or the folder that ATLAS_MWAA names), change the versions in ``requirements-dev.in``, run ``make
lock`` and every test. The emulator and what the embedded AWS stands on are pinned exactly in ``local/requirements.in``
and moved one at a time, with the conformance tests.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from local.launcher import LauncherError, environments, layout
from local.launcher.progress import step

AIRFLOW_VERSION = "3.3.1"
PYTHON_VERSION = "3.12"
MWAA = Path(os.environ.get("ATLAS_MWAA") or layout.REPOSITORY.parent / "shared" / "mwaa")
CONSTRAINTS = MWAA / f"constraints-{AIRFLOW_VERSION}.txt"
"""The versions the Amazon MWAA image allows for what is installed into it; no part of the repository."""
IMAGE = MWAA / f"base-image-{AIRFLOW_VERSION}.txt"
"""The Python packages of that image."""

REQUIREMENTS = layout.REPOSITORY / "requirements.txt"
HEAD = f"""\
# What Amazon MWAA installs beside its {AIRFLOW_VERSION} image; the constraint file has the versions of all else that
# comes with it. `make lock` writes it.
--constraint "https://raw.githubusercontent.com/apache/airflow/constraints-{AIRFLOW_VERSION}/constraints-{PYTHON_VERSION}.txt"
"""


def renew() -> None:
    """Write requirements.lock, the locks in local/ and requirements.txt anew.

    Raises:
        LauncherError: the files that describe the MWAA image are not there, or no set of versions fits.
    """
    need_image()
    environments.make_installer()
    root = layout.REPOSITORY
    with tempfile.TemporaryDirectory() as scratch:
        relaxed = Path(scratch, "constraints.txt")
        # The image's Python is 3.12; these two versions have no build for 3.11, all others have.
        relaxed.write_text(
            re.sub(r"(?m)^((numpy|scipy)==.*)$", r'\1 ; python_version >= "3.12"', CONSTRAINTS.read_text())
        )
        anywhere = ["--universal", "--python-version", "3.11"]
        constrained = ["--constraint", str(relaxed)]
        _compile(root / "requirements-dev.in", environments.AIRFLOW.lock, *anywhere, *constrained)
        _compile(root / "local" / "requirements.in", environments.AWS.lock, *anywhere)
        _compile(root / "local" / "checkov.in", environments.CHECKOV.lock, *anywhere)
        complete = Path(scratch, "requirements.txt")
        _compile(root / "requirements.in", complete, "--python-version", PYTHON_VERSION, *constrained)
        present = pins(CONSTRAINTS.read_text()) | pins(IMAGE.read_text())
        lacking = [line for line in complete.read_text().splitlines() if not pins(line).items() <= present.items()]
    REQUIREMENTS.write_text(HEAD + "\n".join(lacking) + "\n")


def need_image() -> None:
    """Make sure that the files that describe the MWAA image are there.

    Raises:
        LauncherError: they are not; says where they are looked for.
    """
    if not (CONSTRAINTS.is_file() and IMAGE.is_file()):
        raise LauncherError(
            f"{CONSTRAINTS} and {IMAGE.name} beside it are needed: what the MWAA image allows and has. They may lie "
            "elsewhere: ATLAS_MWAA=<folder>"
        )


def pins(text: str) -> dict[str, str]:
    """Return normalised package name to version for the ``name==version`` lines of a requirements file."""
    found = re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;]+)", text)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def _compile(wanted: Path, lock: Path, *options: str) -> None:
    layouts = ["--no-header", "--no-annotate", "--no-emit-index-url", "--upgrade"]
    with step(f"{wanted.relative_to(layout.REPOSITORY)} to {lock.name}"):
        environments.run(
            [environments.UV, "pip", "compile", *layouts, *options, wanted, "--output-file", lock],
            f"Compiling {wanted.name}",
        )
