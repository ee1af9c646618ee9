"""Parses DAG files as a scheduler would, each in a process of its own, and says what that takes, for tests and bench.

``python probe.py <answer> <DAG file>...`` writes to ``<answer>``, by file, as JSON: ``heavy`` (slow packages it
imported), ``connections`` (addresses it called), ``lookups`` (variables and connections it asked for) and ``seconds``
of CPU time it and the modules of Atlas take once everything else they import is there, the best of several rounds: what
else the machine does slows some of them down.
"""

from __future__ import annotations

import json
import multiprocessing
import runpy
import socket
import sys
import time
from pathlib import Path
from typing import Any

from airflow.models.variable import Variable as StoredVariable
from airflow.sdk import DAG, Connection, Variable

HEAVY = ("duckdb", "great_expectations", "numpy", "pandas", "psycopg", "pyspark")
ROUNDS = 5


def probe(file: str) -> dict[str, Any]:
    """Parse ``file`` with the network and Airflow's database out of reach."""
    connections: list[str] = []
    lookups: list[str] = []

    def connect(*address: Any, **_: Any) -> None:
        connections.append(str(address[1:]))
        raise OSError("there is no network while a DAG file is parsed")

    def look_up(key: str, *_: Any, **__: Any) -> str:
        lookups.append(key)
        return ""

    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, connect)
    for holder in (Variable, StoredVariable, Connection):
        holder.get = staticmethod(look_up)  # type: ignore[method-assign]
    seconds = [_parse(file) for _ in range(ROUNDS)]
    return {
        "heavy": [name for name in HEAVY if name in sys.modules],
        "connections": connections,
        "lookups": lookups,
        "seconds": min(seconds),
    }


def _parse(file: str) -> float:
    """Return the CPU time, which does not grow with what else the machine is doing."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "atlas"]:
        del sys.modules[name]
    start = time.process_time()
    found = runpy.run_path(file)
    spent = time.process_time() - start
    if not any(isinstance(value, DAG) for value in found.values()):
        raise LookupError(f"{file} holds no DAG")
    return spent


if __name__ == "__main__":
    answer, *files = sys.argv[1:]
    # A fork starts with Airflow imported and nothing of any other DAG file.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        answers = pool.map(probe, files, chunksize=1)
    Path(answer).write_text(json.dumps(dict(zip(files, answers, strict=True))), encoding="utf-8")
