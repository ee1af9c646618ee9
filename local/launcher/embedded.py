"""Start and stop the embedded AWS."""

from __future__ import annotations

import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from local.launcher import layout, processes

NAME = "embedded-aws"
"""The daemon's name."""
START_SECONDS = 60.0
ALLOCATOR = {"MALLOC_ARENA_MAX": "2"}
"""glibc gives up to eight arenas a core to threads, and what is free in one is of no use to another: with the many
short threads of a server its memory grew by some 7 MB a minute. https://man7.org/linux/man-pages/man3/mallopt.3.html"""


def free_port() -> int:
    """Return a TCP port that is free on loopback now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class EmbeddedAws:
    """A running embedded AWS; ``started`` is its process's creation time in seconds since 1970."""

    process: subprocess.Popen[bytes]
    started: float
    port: int
    state: Path
    log: Path

    @property
    def endpoint(self) -> str:
        """Return the address every AWS service is reached at."""
        return endpoint(self.port)

    def stop(self) -> None:
        """End the embedded AWS and everything it started."""
        processes.end_session(self.process.pid, self.started)
        self.process.wait()


def endpoint(port: int) -> str:
    """Return the address of an embedded AWS that listens on ``port``."""
    return f"http://127.0.0.1:{port}"


def start(
    state: Path, port: int, *, daemon: bool = False, bind: str = "127.0.0.1", bare: bool = False, **settings: str
) -> EmbeddedAws:
    """Start the embedded AWS on ``port`` with its files in ``state`` and wait until it answers.

    A ``daemon`` is remembered from its first moment, for a later command to stop it. ``bind`` is the address it listens
    on, which has to include loopback. ``bare`` leaves out all that Atlas adds to the emulator.
    ``settings`` are environment variables of the server, such as ``ATLAS_LIMITS="1"``.

    Raises:
        LauncherError: the port is taken, the process ended, or it did not answer within ``START_SECONDS``.
    """
    processes.check_free(port, "ATLAS_AWS_PORT")
    state.mkdir(parents=True, exist_ok=True)
    log = state / "embedded-aws.log"
    process = processes.spawn(
        [
            layout.python(layout.AWS_VENV),
            "-m",
            "local.aws.server",
            "--bind",
            bind,
            "--port",
            str(port),
            "--state",
            state,
            "--region",
            layout.REGION,
            *(["--bare"] if bare else []),
        ],
        log,
        processes.environment(**ALLOCATOR | settings),
    )
    if daemon:
        processes.remember(NAME, process, port)
    embedded = EmbeddedAws(process, psutil.Process(process.pid).create_time(), port, state, log)
    try:
        processes.wait_until(lambda: answers(port), {log: process}, START_SECONDS)
    except BaseException:
        embedded.stop()
        raise
    return embedded


def answers(port: int) -> bool:
    """Return whether an embedded AWS answers on ``port``."""
    return processes.fetch(f"{endpoint(port)}/_ministack/health") is not None
