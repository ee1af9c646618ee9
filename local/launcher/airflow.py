"""Airflow on a laptop: its settings, its four processes, its REST API."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local.launcher import LauncherError, layout, processes

HOME = layout.RUN / "airflow"
CONNECTION = HOME / "aws_default.json"
"""The connection of the user Airflow acts as, readable by the owner only."""
LOGS = layout.RUN / "logs"

START_SECONDS = 120.0
STOP_SECONDS = 5.0
"""Longer makes no difference: the triggerer waits for triggers that end only with it, the scheduler for tasks."""

API_SERVER = "api-server"
COMPONENTS = (API_SERVER, "scheduler", "dag-processor", "triggerer")


def settings(port: int) -> dict[str, str]:
    """Return the environment of every Airflow process whose API listens on ``port``.

    The settings are documented in https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html
    """
    keys = _keys()
    return processes.environment(
        AIRFLOW_HOME=str(HOME),
        AIRFLOW_CONN_AWS_DEFAULT=CONNECTION.read_text() if CONNECTION.exists() else "",
        AIRFLOW__API__BASE_URL=f"http://127.0.0.1:{port}",
        AIRFLOW__API__SECRET_KEY=keys["api"],
        AIRFLOW__API_AUTH__JWT_SECRET=keys["jwt"],
        AIRFLOW__ATLAS__ENVIRONMENT=layout.ENVIRONMENT,
        AIRFLOW__ATLAS__POLL_SECONDS="0.5",
        AIRFLOW__ATLAS__BUFFER_SECONDS="1",
        AIRFLOW__ATLAS__RETRY_SECONDS="2",
        AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="false",
        AIRFLOW__CORE__DAGS_FOLDER=str(layout.DAGS),
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{port}/execution/",
        AIRFLOW__CORE__EXECUTOR="LocalExecutor",
        AIRFLOW__CORE__LOAD_EXAMPLES="false",
        AIRFLOW__CORE__PARALLELISM="8",
        AIRFLOW__CORE__PLUGINS_FOLDER=str(layout.PLUGINS),
        # No password on a laptop: the API listens on loopback only.
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="true",
        # A changed file is parsed at the next look; an unchanged one need not be parsed every 30 seconds.
        AIRFLOW__DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL="2",
        AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL="300",
        AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL="2",
        AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE="true",
        AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME="0.5",
        # A task whose process died with the machine blocks its DAG until this many seconds have passed.
        AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT="60",
        AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="false",
        # A supervisor that misses its task's exit by a hair sleeps for this long, in seconds, before it reports the
        # end; an end reported after a deferred task was queued again makes the scheduler fail that task.
        AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL="1",
        PATH=f"{layout.AIRFLOW_VENV / 'bin'}:{os.environ['PATH']}",
    )


def _keys() -> dict[str, str]:
    """Return this machine's signing keys, made at first use."""
    file = HOME / "keys.json"
    if not file.exists():
        write_private(file, json.dumps({"api": secrets.token_urlsafe(32), "jwt": secrets.token_urlsafe(64)}))
    keys: dict[str, str] = json.loads(file.read_text())
    return keys


def write_private(file: Path, content: str) -> None:
    """Write a file only its owner can read; it is either there as a whole or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    temporary.touch(mode=0o600)
    temporary.write_text(content)
    temporary.replace(file)


def connect(endpoint: str, access_key: Mapping[str, str]) -> None:
    """Keep the connection ``aws_default`` for the processes that are to have it."""
    write_private(CONNECTION, connection(endpoint, access_key))


def connection(endpoint: str, access_key: Mapping[str, str]) -> str:
    """Return the connection ``aws_default`` as Airflow reads it: the only thing that says which AWS the DAGs are on."""
    return json.dumps(
        {
            "conn_type": "aws",
            "login": access_key["AccessKeyId"],
            "password": access_key["SecretAccessKey"],
            "extra": {"endpoint_url": endpoint, "region_name": layout.REGION},
        }
    )


def migrate() -> None:
    """Make the database, or bring it to this Airflow's version.

    A database whose making was interrupted holds nothing yet and is made anew.

    Raises:
        LauncherError: Airflow could not make it.
    """
    ready = HOME / "database-version"
    version = (layout.REPOSITORY / "requirements.lock").read_text()
    if ready.exists() and ready.read_text() == version:
        return
    if not ready.exists():
        for leftover in HOME.glob("airflow.db*"):
            leftover.unlink()
    log = LOGS / "database.log"
    migration = processes.spawn([*_airflow(), "db", "migrate"], log, settings(0))
    if migration.wait() != 0:
        raise LauncherError(f"Airflow could not make its database; the reason is in {log}")
    ready.write_text(version)


def start(port: int) -> None:
    """Start those of Airflow's processes that do not run, and wait until all report to be healthy.

    Raises:
        LauncherError: the port is taken, or a process did not come up.
    """
    missing = [name for name in COMPONENTS if not processes.running(name)]
    if API_SERVER in missing:
        processes.check_free(port, "ATLAS_UI_PORT")
    # A heartbeat of a process that has just died still counts as healthy, so only those from now on are believed.
    since = datetime.now(UTC) if missing else datetime.min.replace(tzinfo=UTC)
    started = {}
    for name in missing:
        log = LOGS / f"{name}.log"
        process = processes.spawn([*_airflow(), name, *_arguments(name, port)], log, settings(port))
        processes.remember(name, process, port if name == API_SERVER else None)
        started[log] = process
    processes.wait_until(lambda: _healthy(port, since), started, START_SECONDS)


def _airflow() -> list[str | Path]:
    return [layout.python(layout.AIRFLOW_VENV), "-m", "airflow"]


def _arguments(name: str, port: int) -> list[str]:
    if name == API_SERVER:
        return ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if name == "dag-processor":
        return []
    # Their log servers would listen on every interface; the API server reads the files instead.
    return ["--skip-serve-logs"]


def _healthy(port: int, since: datetime) -> bool:
    """Return whether the API answers and says that every component has sent its heartbeat after ``since``."""
    answer = processes.fetch(f"http://127.0.0.1:{port}/api/v2/monitor/health")
    if answer is None:
        return False
    for component in json.loads(answer).values():
        heartbeats = [value for key, value in component.items() if key.startswith("latest_")]
        if component["status"] != "healthy" or any(datetime.fromisoformat(beat) < since for beat in heartbeats):
            return False
    return True


def access() -> dict[str, Any]:
    """Return the keyword arguments with which boto3 makes clients that act as Airflow does."""
    connection = json.loads(CONNECTION.read_text())
    return {
        "aws_access_key_id": connection["login"],
        "aws_secret_access_key": connection["password"],
        **connection["extra"],
    }
