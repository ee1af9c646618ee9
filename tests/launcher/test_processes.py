"""Starting, recognising and ending processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local.launcher import LauncherError, layout, processes

FAMILY = """
import os, signal, subprocess, sys, time
sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
own_group = subprocess.Popen(sleeper, process_group=0)
own_session = subprocess.Popen(sleeper, start_new_session=True)
print(own_group.pid, own_session.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def family(tmp_path: Path) -> Iterator[list[psutil.Process]]:
    """A started process and its two children: one in a process group, one in a session of its own."""
    log = tmp_path / "family.log"
    leader = processes.spawn([sys.executable, "-c", FAMILY], log, processes.environment())
    while len(log.read_text().split()) < 2:
        assert leader.poll() is None
        time.sleep(0.01)
    members = [psutil.Process(pid) for pid in (leader.pid, *map(int, log.read_text().split()))]
    yield members
    for member in members:
        if member.is_running():
            member.kill()
    leader.wait()


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder of the test's own."""
    monkeypatch.setattr(layout, "RUN", tmp_path / "run")
    return tmp_path / "run"


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_ending_a_session_leaves_no_descendant(family: list[psutil.Process]) -> None:
    processes.end_session(family[0].pid, family[0].create_time())

    assert [process for process in family if _alive(process)] == []


def test_orphans_of_a_killed_leader_are_ended(family: list[psutil.Process]) -> None:
    leader, own_group, _ = family
    started = leader.create_time()
    leader.kill()
    leader.wait()
    assert _alive(own_group)

    processes.end_session(leader.pid, started)

    assert not _alive(own_group)


def test_a_stranger_with_the_same_id_is_left_alone(family: list[psutil.Process]) -> None:
    leader = family[0]

    processes.end_session(leader.pid, leader.create_time() - 1000)

    assert all(_alive(process) for process in family)


def test_a_stale_pid_file_does_not_count_as_running(run_folder: Path, family: list[psutil.Process]) -> None:
    daemon = processes.Daemon("scheduler", family[0].pid, family[0].create_time() - 1000)
    file = run_folder / "pids" / "scheduler.json"
    file.parent.mkdir(parents=True)
    file.write_text(f'{{"pid": {daemon.pid}, "started": {daemon.started}, "port": null}}')
    assert processes.remembered() == {"scheduler": daemon}

    assert processes.running("scheduler") is None
    processes.clear_up()

    assert not file.exists()
    assert _alive(family[0])


def test_a_remembered_process_is_found_and_stopped(run_folder: Path) -> None:
    log = run_folder / "logs" / "sleeper.log"
    process = processes.spawn([sys.executable, "-c", "import time; time.sleep(60)"], log, processes.environment())
    processes.remember("sleeper", process, 4566)

    daemon = processes.running("sleeper")
    assert daemon is not None
    assert (daemon.pid, daemon.port) == (process.pid, 4566)
    daemon.stop()

    assert processes.running("sleeper") is None
    assert processes.remembered() == {}
    process.wait()


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(LauncherError, match=rf"Port {port} is in use.*ATLAS_UI_PORT=<port>"):
            processes.check_free(port, "ATLAS_UI_PORT")
    processes.check_free(port, "ATLAS_UI_PORT")


@pytest.mark.parametrize("text", ["abc", "0", "65536", ""])
def test_a_wrong_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_UI_PORT", text)
    with pytest.raises(LauncherError, match="ATLAS_UI_PORT"):
        processes.wanted_port("ATLAS_UI_PORT", 8080)


def test_a_wanted_port_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATLAS_UI_PORT", raising=False)
    assert processes.wanted_port("ATLAS_UI_PORT", 8080) == 8080
    monkeypatch.setenv("ATLAS_UI_PORT", "8081")
    assert processes.wanted_port("ATLAS_UI_PORT", 8080) == 8081


def test_a_process_that_ends_while_waited_for_is_reported_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "scheduler.log"
    process = processes.spawn([sys.executable, "-c", "raise SystemExit(3)"], log, processes.environment())
    with pytest.raises(LauncherError, match=r"scheduler ended with code 3.*scheduler\.log"):
        processes.wait_until(lambda: False, {log: process}, 30)


def test_waiting_ends_after_the_given_time(tmp_path: Path) -> None:
    with pytest.raises(LauncherError, match="No answer within 0 s"):
        processes.wait_until(lambda: False, {}, 0)


def test_the_users_own_aws_account_stays_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    environment = processes.environment(AIRFLOW_HOME="/here")
    shown = subprocess.run(
        [sys.executable, "-c", "import os; print(*sorted(n for n in os.environ if n.startswith(('AWS_', 'AIRFLOW'))))"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.split() == ["AIRFLOW_HOME", "AWS_EC2_METADATA_DISABLED"]
