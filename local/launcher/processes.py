"""Processes that outlive the command that starts them, each in a session of its own, remembered by a file."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from local.launcher import LauncherError, layout

STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Daemon:
    """A process this launcher started, perhaps in an earlier command.

    ``started`` is the process's creation time, in seconds since 1970: process ids are used again, so an id alone
    proves nothing.
    """

    name: str
    pid: int
    started: float
    port: int | None = None

    @property
    def file(self) -> Path:
        """Return the file that remembers the process."""
        return layout.RUN / "pids" / f"{self.name}.json"

    def process(self) -> psutil.Process | None:
        """Return the process if it still runs, None if it ended or its id went to another one."""
        try:
            process = psutil.Process(self.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive and process.create_time() == self.started else None

    def stop(self, patience: float = STOP_SECONDS) -> None:
        """End the process and everything it started, by force after ``patience`` seconds, then forget it.

        Raises:
            LauncherError: something still runs.
        """
        end_session(self.pid, self.started, patience)
        self.file.unlink(missing_ok=True)


def remember(name: str, process: subprocess.Popen[bytes], port: int | None = None) -> None:
    """Write the file that later commands find the process by."""
    daemon = Daemon(name, process.pid, psutil.Process(process.pid).create_time(), port)
    daemon.file.parent.mkdir(parents=True, exist_ok=True)
    temporary = daemon.file.with_suffix(".new")
    temporary.write_text(json.dumps({"pid": daemon.pid, "started": daemon.started, "port": port}))
    temporary.replace(daemon.file)


def remembered() -> dict[str, Daemon]:
    """Return what was started and not stopped, by name; it may have died since."""
    daemons = {}
    for file in sorted((layout.RUN / "pids").glob("*.json")):
        daemons[file.stem] = Daemon(file.stem, **json.loads(file.read_text()))
    return daemons


def running(name: str) -> Daemon | None:
    """Return the daemon of this name if it runs."""
    daemon = remembered().get(name)
    return daemon if daemon and daemon.process() else None


def clear_up() -> None:
    """End what processes that died have left behind, such as their children, and forget them."""
    for daemon in remembered().values():
        if not daemon.process():
            daemon.stop()


def spawn(command: Sequence[str | Path], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            cwd=layout.REPOSITORY,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end_session(leader: int, started: float, patience: float = STOP_SECONDS) -> None:
    """End the process that leads a session, politely for ``patience`` seconds, then every one that came from it.

    Airflow's tasks leave their parent's process group, and a parent that was killed leaves orphans: both keep
    the session. A program that opened a session of its own is found as a descendant of one that did not.

    Raises:
        LauncherError: a process did not end, even killed.
    """
    members = _session(leader, started)
    for process in members:
        if process.pid == leader:
            process.terminate()
            psutil.wait_procs([process], patience)
    members |= _session(leader, started)
    for process in members:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(members, STOP_SECONDS)
    if alive:
        pids = ", ".join(str(process.pid) for process in alive)
        raise LauncherError(f"Processes {pids} do not end; end them by hand, then try again.")


def _session(leader: int, started: float) -> set[psutil.Process]:
    members: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != leader or process.create_time() < started:
                continue
            if process.pid == leader and process.create_time() != started:
                return set()  # the id was given to a stranger, which can only be once all of ours had ended
            members |= {process, *process.children(recursive=True)}
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with ``variables``, without settings that lead to another AWS or Airflow."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AIRFLOW", "BOTO_", "PYTHON"))
    }
    return kept | {"AWS_EC2_METADATA_DISABLED": "true", "PYTHONUNBUFFERED": "1"} | variables


def port_taken(port: int) -> bool:
    """Return whether something listens on ``port`` on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wanted_port(variable: str, default: int) -> int:
    """Return the port the user asked for by an environment variable.

    Raises:
        LauncherError: the variable is not a port number.
    """
    text = os.environ.get(variable, str(default))
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise LauncherError(f"{variable}={text} is not a port: choose a number from 1024 to 65535.")
    return int(text)


def check_free(port: int, variable: str) -> None:
    """Check that nothing listens on ``port``.

    Raises:
        LauncherError: something does.
    """
    if port_taken(port):
        raise LauncherError(f"Port {port} is in use: stop what listens there or choose another one, {variable}=<port>.")


def wait_until(ready: Callable[[], bool], started: Mapping[Path, subprocess.Popen[bytes]], seconds: float) -> None:
    """Wait until ``ready`` says so, watching the processes that have to get there; keys are their logs.

    Raises:
        LauncherError: a process ended, or ``seconds`` have passed.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        for log, process in started.items():
            if process.poll() is not None:
                raise LauncherError(f"{log.stem} ended with code {process.returncode}; the reason is in {log}")
        if time.monotonic() > deadline:
            logs = ", ".join(str(log) for log in started)
            raise LauncherError(f"No answer within {seconds:.0f} s; the reason is in {logs}")
        time.sleep(0.1)


def fetch(address: str) -> bytes | None:
    """Return what an address on loopback answers, None while nothing answers there."""
    try:
        with OPENER.open(address, timeout=5) as response:
            content: bytes = response.read()
            return content
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Loopback is reached without a proxy, whatever the environment says."""
