"""Start, look at and stop the embedded AWS and Airflow."""

from __future__ import annotations

import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

from local.bootstrap import bootstrap, root
from local.launcher import LauncherError, airflow, embedded, faults, layout, processes
from local.launcher.progress import say, step

AWS_STATE = layout.RUN / "aws"
NAMES = (embedded.NAME, *airflow.COMPONENTS)


def up() -> None:
    """Start what does not run yet, wait until all of it is ready, and let faults be as asked for.

    Raises:
        LauncherError: a port is taken, a process did not come up, or ``FAULTS`` names no faults.
    """
    rules = faults.wanted()
    processes.clear_up()
    with ThreadPoolExecutor() as pool:
        database = pool.submit(_database)
        _account()
        database.result()
    port = _port(airflow.API_SERVER, "ATLAS_UI_PORT", 8080)
    with step("Airflow: API server, scheduler, DAG processor, triggerer"):
        airflow.start(port)
    faults.switch(aws_endpoint(), rules)
    say(f"Airflow UI: http://127.0.0.1:{port}")


def _account() -> None:
    """Have an embedded AWS with an account Airflow can work in."""
    port = _port(embedded.NAME, "ATLAS_AWS_PORT", 4566)
    if not processes.running(embedded.NAME):
        # Airflow's access key ends with the account: what still runs with it has to start again.
        airflow.CONNECTION.unlink(missing_ok=True)
        _stop_airflow()
        with step("Embedded AWS"):
            shutil.rmtree(AWS_STATE, ignore_errors=True)
            embedded.start(AWS_STATE, port, daemon=True)
    if not airflow.CONNECTION.exists():
        with step("Account: permissions and Airflow's user"):
            endpoint = embedded.endpoint(port)
            airflow.connect(endpoint, bootstrap(root(endpoint), layout.ENVIRONMENT))


def _database() -> None:
    if not all(processes.running(name) for name in airflow.COMPONENTS):
        with step("Airflow: database"):
            airflow.migrate()


def _port(name: str, variable: str, default: int) -> int:
    daemon = processes.running(name)
    return daemon.port if daemon and daemon.port else processes.wanted_port(variable, default)


def aws_endpoint() -> str:
    """Return the address of the embedded AWS."""
    return embedded.endpoint(_port(embedded.NAME, "ATLAS_AWS_PORT", 4566))


def ui_port() -> int:
    """Return the port of the running API server.

    Raises:
        LauncherError: it does not run.
    """
    daemon = processes.running(airflow.API_SERVER)
    if not daemon or not daemon.port:
        raise LauncherError("Airflow does not run: make up")
    return daemon.port


def status() -> None:
    """Print a line for each process."""
    for name in NAMES:
        daemon = processes.remembered().get(name)
        process = daemon.process() if daemon else None
        if daemon and process:
            megabytes = process.memory_info().rss / 2**20
            minutes = (time.time() - daemon.started) / 60
            where = f"http://127.0.0.1:{daemon.port}" if daemon.port else ""
            say(f"{name:<14} up {minutes:7.1f} min  {megabytes:5.0f} MB  pid {daemon.pid:<8} {where}")
        else:
            say(f"{name:<14} {'died: make up' if daemon else 'down'}")


def down() -> None:
    """Stop everything that was started.

    Raises:
        LauncherError: a process does not end.
    """
    daemons = processes.remembered()
    if not daemons:
        say("Nothing runs.")
        return
    with step("Stopped Airflow and the embedded AWS"):
        _stop_airflow()
        if embedded.NAME in daemons:
            daemons[embedded.NAME].stop()


def _stop_airflow() -> None:
    daemons = processes.remembered()
    with ThreadPoolExecutor() as pool:
        names = [name for name in airflow.COMPONENTS if name in daemons]
        for ended in [pool.submit(daemons[name].stop, airflow.STOP_SECONDS) for name in names]:
            ended.result()


def reset() -> None:
    """Stop everything and forget every run: the database, the account, logs and reports."""
    down()
    shutil.rmtree(layout.RUN, ignore_errors=True)
    say(f"Removed {layout.RUN}")


def logs() -> None:
    """Show the end of every log and what comes, until interrupted."""
    files = sorted([*airflow.LOGS.glob("*.log"), *AWS_STATE.glob("*.log")])
    if not files:
        raise LauncherError("There are no logs yet: make up")
    subprocess.run(["tail", "-n", "15", "-F", *files], check=True)
