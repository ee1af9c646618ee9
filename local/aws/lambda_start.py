"""Quick starts: execution environments of Python functions are forked from a process that has the AWS SDK loaded.

Most of what a start takes goes into importing boto3 and into reading the models of services. A function that brings an
SDK of its own, or settings for Python, starts from nothing.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from local.aws import emulator

_runtime = emulator.module("core.lambda_runtime")


class Environment:
    """A forked child as ``subprocess.Popen`` would show it, as far as the emulator looks.

    Attributes:
        pid: its process id.
        returncode: its exit code once ``poll`` or ``wait`` have seen its end, None before.
    """

    def __init__(self, pid: int, streams: tuple[int, int, int], told: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdin: IO[str] = open(streams[0], "w", buffering=1, encoding="utf-8")  # noqa: SIM115, PTH123
        self.stdout: IO[str] = open(streams[1], encoding="utf-8")  # noqa: SIM115, PTH123
        self.stderr: IO[str] = open(streams[2], encoding="utf-8")  # noqa: SIM115, PTH123
        self._told = told
        self._end = select.poll()  # not select.select, which knows descriptors up to 1023 only
        self._end.register(told, select.POLLIN)
        self._looking = threading.Lock()

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: it did not end in ``timeout`` seconds.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
        return code

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def _look(self, timeout: float | None) -> int | None:
        with self._looking:
            if self.returncode is None and self._end.poll(None if timeout is None else 1000 * timeout):
                # Nothing comes if the process it was forked from has been killed, and with it whoever could say.
                self.returncode = int(os.read(self._told, 16) or -signal.SIGKILL)
                os.close(self._told)
            return self.returncode


class _Prepared:
    """The process that forks, started at first use and again if it has ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def start(self, script: str, folder: str, variables: Mapping[str, str]) -> Environment:
        """Start an environment.

        Raises:
            OSError: the process has been killed.
        """
        request = json.dumps({"script": script, "folder": folder, "variables": dict(variables)}).encode()
        mine, theirs = zip(*(os.pipe()[::step] for step in (-1, 1, 1, 1)), strict=True)
        try:
            with self._lock:
                channel = self._open()
                socket.send_fds(channel, [request], list(theirs))
                pid = int(channel.recv(16))
        except (OSError, ValueError):
            for descriptor in mine:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return Environment(pid, mine[:3], mine[3])

    def stop(self) -> None:
        """End the process; environments go on."""
        if self._channel is not None and self._process is not None:
            self._channel.close()
            self._process.wait()

    def _open(self) -> socket.socket:
        if self._channel is None or self._process is None or self._process.poll() is not None:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                program: list[str | Path] = [sys.executable, Path(__file__).with_name("lambda_prepared.py")]
                self._process = subprocess.Popen(program, stdin=theirs.fileno(), stdout=subprocess.DEVNULL)
        return self._channel


_prepared = _Prepared()
emulator.on_shutdown(_prepared.stop)


class _Subprocess:
    """The module ``subprocess`` as the emulator's runtime sees it."""

    def __getattr__(self, name: str) -> Any:
        return getattr(subprocess, name)

    def Popen(self, command: Sequence[str], **options: Any) -> Any:  # noqa: N802 - the name it has
        """Start a process, of Python from the prepared one where that makes no difference."""
        folder, variables = options["cwd"], options["env"]
        if command[0] != sys.executable or _differs(folder, variables):
            return subprocess.Popen(command, **options)
        return _prepared.start(command[1], folder, variables)


def _differs(folder: str, variables: Mapping[str, str]) -> bool:
    """Return whether a function's Python or SDK is another one than the prepared process has."""
    places = [Path(folder)]
    for layer in filter(None, variables.get("_LAMBDA_LAYERS_DIRS", "").split(os.pathsep)):
        places += [Path(layer), Path(layer, "python"), *Path(layer, "python", "lib").glob("*/site-packages")]
    brings_its_own = any((place / package).exists() for place in places for package in ("boto3", "botocore"))
    named = {name for name in variables.keys() | os.environ.keys() if name.startswith("PYTHON")}
    return brings_its_own or any(variables.get(name) != os.environ.get(name) for name in named)


emulator.replace(_runtime, "subprocess", _Subprocess())
