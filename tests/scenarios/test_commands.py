"""The commands a user types, with Airflow's real scheduler, triggerer and REST API."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil

from tests.scenarios.conftest import Command


def test_up_run_and_down(laptop: Path, command: Command) -> None:
    """A good run ends well and its page is on disk; a bad one ends with an error; nothing is left."""
    up = command("up")
    assert up.returncode == 0, up.stdout + up.stderr
    good = command("run", DAG="s01_rds_sales_etl", CONF=json.dumps({"orders": 100}))
    assert good.returncode == 0, good.stdout + good.stderr
    assert "success after" in good.stdout
    (page,) = (laptop / "reports" / "s01_rds_sales_etl").glob("*.html")
    assert "Sales from RDS to the lake" in page.read_text()
    unknown = command("run", DAG="s99_nothing")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "atlas: There is no dags/s99_nothing.py: name a scenario by its stem.\n",
    )
    down = command("down")
    assert down.returncode == 0, down.stdout + down.stderr
    left = [process for process in psutil.process_iter(["environ"]) if _belongs(process, laptop)]
    assert left == []


def _belongs(process: psutil.Process, laptop: Path) -> bool:
    environment = process.info["environ"] or {}
    return process.pid != os.getpid() and environment.get("ATLAS_RUN") == str(laptop)
