"""Nothing of the embedded AWS can be reached from another machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from local.launcher import layout
from tests.conformance.test_lambda import PYTHON, function
from tests.conformance.test_rds import create_instance
from tests.conftest import Aws

LOOPBACK = {"0100007F", "00000000000000000000000001000000"}
LISTENING = "0A"


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are read from /proc, which only Linux has")
def test_every_listener_of_every_process_is_on_loopback(aws: Aws) -> None:
    """https://docs.kernel.org/networking/proc_net_tcp.html"""
    instance = create_instance(aws, "loopback")
    function(aws, "loopback", PYTHON)
    aws.client("lambda").invoke(FunctionName="loopback", Payload=b"{}")
    listeners = _listeners(_family(aws.process.pid))
    aws.client("rds").delete_db_instance(DBInstanceIdentifier="loopback", SkipFinalSnapshot=True)
    assert {port for _, port in listeners} >= {int(aws.endpoint.rsplit(":", 1)[1]), instance["Endpoint"]["Port"]}
    assert {address for address, _ in listeners} <= LOOPBACK


def test_a_listener_that_asks_for_all_interfaces_gets_loopback() -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/protocols.html"""
    script = (
        "import socket, local.aws.loopback\n"
        "for host in ('0.0.0.0', ''):\n"
        "    with socket.create_server((host, 0)) as listener:\n"
        "        print(listener.getsockname()[0])\n"
    )
    python = layout.python(layout.AWS_VENV)
    answer = subprocess.run([python, "-c", script], cwd=layout.REPOSITORY, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["127.0.0.1", "127.0.0.1"]


def _family(root: int) -> set[int]:
    """Return the process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    family = {root}
    while found := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= found
    return family


def _listeners(processes: set[int]) -> set[tuple[str, int]]:
    """Return address (in the kernel's hexadecimal form) and port of every TCP listener of the processes."""
    sockets = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(str(descriptor.readlink()))
            except FileNotFoundError:  # closed meanwhile
                continue
    listeners = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                listeners.add((address, int(port, 16)))
    return listeners
