"""A child process with a time limit and a certain end."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

_POLL_SECONDS = 0.1
_TICK_SECONDS = 1.0


class CancelledError(Exception):
    """The process was killed because it was no longer wanted."""


class TimedOutError(Exception):
    """The process was killed because its time was over."""


def run(
    command: Sequence[str | Path],
    *,
    environment: Mapping[str, str],
    folder: Path,
    seconds: float,
    cancelled: threading.Event,
    tick: Callable[[], None],
) -> int:
    """Run ``command`` in ``folder`` and return its exit code, 128 and the signal's number if a signal ended it.

    What it prints goes to the files output and error in the folder.
    If it is stopped here, neither the process nor anything it started is left when this returns.

    Args:
        environment: all the variables the process gets.
        seconds: how long it may run.
        cancelled: ends it when set.
        tick: called about once a second meanwhile.

    Raises:
        CancelledError: ``cancelled`` was set.
        TimedOutError: it ran for ``seconds``.
    """
    with (folder / "output").open("wb") as output, (folder / "error").open("wb") as error:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=error
        )
    try:
        deadline = time.monotonic() + seconds
        next_tick = time.monotonic() + _TICK_SECONDS
        while process.poll() is None:
            if cancelled.wait(_POLL_SECONDS):
                raise CancelledError
            now = time.monotonic()
            if now >= deadline:
                raise TimedOutError
            if now >= next_tick:
                tick()
                next_tick = now + _TICK_SECONDS
        return 128 - process.returncode if process.returncode < 0 else process.returncode
    finally:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants: Python, its JVM, the JVM's Python workers."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    process.kill()
    for member in family:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()
    if process.stdin:
        process.stdin.close()
