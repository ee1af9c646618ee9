"""A Python process with the AWS SDK loaded, which becomes an execution environment by forking.

It runs as a program of its own, with one end of a socket as its standard input. Each message asks for a child: JSON
with the ``script`` to run, its ``folder`` and its ``variables``, and four descriptors: the child's standard input,
output and error, and one to which its exit code goes. The answer is the child's process id. It ends when the socket
does.
"""

from __future__ import annotations

import functools
import json
import os
import runpy
import select
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.session

SERVICES = ("dynamodb", "firehose", "kinesis", "s3", "secretsmanager", "sns", "sqs", "stepfunctions")
"""Those whose models functions are likely to need."""
MESSAGE_BYTES = 2**20


def prepare() -> None:
    """Load what every function with an AWS client loads. All sessions of a process share what is read of the models."""
    botocore.session.create_loader = functools.cache(botocore.loaders.create_loader)
    session = boto3.Session("none", "none", region_name="us-east-1")
    for service in SERVICES:
        session.client(service)  # type: ignore[call-overload]


def serve(requests: socket.socket) -> str:
    """Fork a child for every request; return in the child, with the script it has to run."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    children = dict[int, int]()
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _tell_exits(children)
        if requests.fileno() not in ready:
            continue
        message, descriptors, _, _ = socket.recv_fds(requests, MESSAGE_BYTES, 4)
        if not message:
            sys.exit()
        *streams, told = descriptors
        if child := os.fork():
            children[child] = told
            for stream in streams:
                os.close(stream)
            requests.send(str(child).encode())
        else:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            requests.close()
            for descriptor in (woken, wake, told, *children.values()):
                os.close(descriptor)
            return _become(json.loads(message), streams)


def _tell_exits(children: dict[int, int]) -> None:
    """Write the exit codes of those who have ended, a signal's number with a minus, as ``subprocess`` has them."""
    for child in list(children):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            told = children.pop(child)
            os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(told)


def _become(wanted: dict[str, Any], streams: list[int]) -> str:
    """Make this process what a new one would be, and return the script."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(wanted["folder"])
    os.environ.clear()
    os.environ.update(wanted["variables"])
    script: str = wanted["script"]
    sys.argv[:] = [script]
    sys.path[0] = str(Path(script).parent)
    return script


if __name__ == "__main__":
    prepare()
    runpy.run_path(serve(socket.socket(fileno=os.dup(0))), run_name="__main__")
