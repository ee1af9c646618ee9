"""Where the launcher keeps things: one ignored folder in the repository."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DAGS = Path(os.environ.get("ATLAS_DAGS", REPOSITORY / "dags")).absolute()
PLUGINS = Path(os.environ.get("ATLAS_PLUGINS", REPOSITORY / "plugins")).absolute()
"""Airflow's folders. Elsewhere they are an unpacked package, laid out as Amazon MWAA lays it out."""
HOME = REPOSITORY / ".atlas"
AIRFLOW_VENV = HOME / "venv" / "airflow"
AWS_VENV = HOME / "venv" / "aws"
UV_VENV = HOME / "venv" / "uv"
JARS = HOME / "jars"
RUN = Path(os.environ.get("ATLAS_RUN", HOME / "run")).absolute()
"""Logs, process ids and state of the running services; ``make reset`` removes it. Another place is another laptop."""

ENVIRONMENT = "dev"
"""Name of the environment the laptop plays; part of every resource name."""
REGION = "us-east-1"
ROOT_KEYS = ("test", "test")
"""The embedded AWS's account root: access key id and secret. It exists on loopback only."""


def python(environment: Path) -> Path:
    """Return the interpreter of a virtual environment."""
    return environment / "bin" / "python"
