"""Start and stop the embedded AWS."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from local.launcher import layout

START_SECONDS = 60.0
STOP_SECONDS = 20.0


class StartError(RuntimeError):
    """A service did not start; the message says why and where its log is."""


def free_port() -> int:
    """Return a TCP port that is free on loopback now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def port_taken(port: int) -> bool:
    """Return whether something listens on ``port`` on loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class EmbeddedAws:
    """A running embedded AWS."""

    process: subprocess.Popen[bytes]
    port: int
    state: Path
    log: Path

    @property
    def endpoint(self) -> str:
        """Return the address every AWS service is reached at."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the embedded AWS and everything it started."""
        stop(self.process)


def start(state: Path, port: int, python: Path = layout.AWS_VENV / "bin" / "python") -> EmbeddedAws:
    """Start the embedded AWS on ``port`` with its files in ``state`` and wait until it answers.

    Raises:
        StartError: the port is taken, the process ended, or it did not answer within ``START_SECONDS``.
    """
    if port_taken(port):
        raise StartError(f"Port {port} is in use. Stop what listens there or choose another port: ATLAS_AWS_PORT.")
    state.mkdir(parents=True, exist_ok=True)
    log = state / "embedded-aws.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [python, "-m", "local.aws.server", "--port", str(port), "--state", state, "--region", layout.REGION],
            cwd=layout.REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    embedded = EmbeddedAws(process, port, state, log)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise StartError(f"The embedded AWS ended with code {process.returncode}; see {log}.")
        if _answers(f"{embedded.endpoint}/_ministack/health"):
            return embedded
        time.sleep(0.1)
    embedded.stop()
    raise StartError(f"The embedded AWS did not answer within {START_SECONDS:.0f} s; see {log}.")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process started in a session of its own, politely first, then its whole process group."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as response:  # noqa: S310 - loopback http only
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
