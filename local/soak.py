"""Runs scenarios again and again while AWS throttles, fails, is slow and loses answers: ``make soak``.

Every run has to end with all gates passed, which compare the results with what was sent: nothing is lost and nothing
counts twice. Each round removes its stacks and its objects, so that what the embedded AWS still holds after a round
should not become more; its memory, processes, threads and open files are printed after each. ``SOAK_SECONDS`` (600)
bounds it; the round in progress is finished. It fails if a run fails, if the embedded AWS grows by more than
``MOST_GROWTH`` after the second round (the first ones import and cache), or if a process is left over at the end.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from atlas.operators.cloudformation import empty_bucket
from local import runner
from local.bootstrap import root
from local.launcher import embedded, faults, layout, spark

LOADS: dict[str, dict[str, Any]] = {
    "s01_rds_sales_etl": {},
    "s08_fraud_workflow": {"events": 150},
    "s27_idempotent_consumer": {"events": 40, "crash_percent": 3, "visibility_seconds": 6},
    "s05_ecommerce_redshift": {"events": 300, "crash_percent": 3},
}
MOST_GROWTH = 1.1
LOG = layout.REPOSITORY / "bench" / "soak.log"


@dataclass(frozen=True)
class Footprint:
    """What the embedded AWS takes: its own megabytes, threads and open files, and processes with all it started."""

    megabytes: float
    threads: int
    files: int
    processes: int

    def __str__(self) -> str:
        """Return it as columns."""
        return f"{self.megabytes:7.0f} MB {self.threads:5} threads {self.files:5} files {self.processes:4} processes"


def footprint(pid: int) -> Footprint:
    """Measure the process ``pid``."""
    process = psutil.Process(pid)
    processes = 1 + len(process.children(recursive=True))
    return Footprint(process.memory_info().rss / 2**20, process.num_threads(), process.num_fds(), processes)


def soak(running: embedded.EmbeddedAws, seconds: float) -> list[str]:
    """Run rounds for ``seconds``; return what went wrong."""
    with runner.quietly(LOG):
        scenarios = runner.Scenarios(root(running.endpoint), running.endpoint)
    begun, footprints, wrong = time.monotonic(), list[Footprint](), list[str]()
    while time.monotonic() - begun < seconds and not wrong:
        for stem, load in LOADS.items():
            wrong += _run(running, scenarios, stem, {**load, "seed": len(footprints)})
        footprints.append(footprint(running.process.pid))
        print(f"{time.monotonic() - begun:6.0f} s  round {len(footprints):3}  {footprints[-1]}", flush=True)
    if len(footprints) > 2 and footprints[-1].megabytes > MOST_GROWTH * footprints[1].megabytes:
        wrong.append(f"memory grew from {footprints[1].megabytes:.0f} to {footprints[-1].megabytes:.0f} MB")
    first, last = ([round_.processes for round_ in part] for part in (footprints[:3], footprints[-3:]))
    if min(last) > max(first):  # one more comes and goes: PostgreSQL has workers of its own
        wrong.append(f"processes grew from {first} to {last}")
    return wrong


def _run(running: embedded.EmbeddedAws, scenarios: runner.Scenarios, stem: str, load: dict[str, Any]) -> list[str]:
    """Run a scenario in a storm and forget its objects, each version of them; return what went wrong."""
    begun = time.monotonic()
    with runner.quietly(LOG), faults.on(running.endpoint, faults.read("storm")):
        run = scenarios.run(stem, **load, keep_stack=False)
        struck = Counter[str]()
        for rule in faults.struck(running.endpoint):
            struck[rule["fault"]] += rule["struck"]
    passed = all(gate.get("passed") for gate in run.report["gates"])
    counts = ", ".join(f"{number} {fault}" for fault, number in struck.items())
    verdict = f"{run.state}, gates {'passed' if passed else 'failed'}"
    print(f"          {stem:<26} {time.monotonic() - begun:5.1f} s  {verdict}; {counts}", flush=True)
    empty_bucket(scenarios.client("s3"), scenarios.lake, f"{stem}/")
    return [] if run.state == "success" and passed else [f"{stem} {load}: {verdict}"]


def main() -> int:
    """Soak, print, and return the exit code."""
    LOG.parent.mkdir(exist_ok=True)
    LOG.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="atlas-soak-") as scratch:
        runner.configure(Path(scratch) / "airflow")
        spark.ensure(layout.python(layout.AWS_VENV), layout.JARS)
        running = embedded.start(Path(scratch) / "aws", embedded.free_port())
        family = [psutil.Process(running.process.pid)]
        try:
            wrong = soak(running, float(os.environ.get("SOAK_SECONDS", "600")))
            family += family[0].children(recursive=True)
        finally:
            running.stop()
    left = [process.pid for process in family + psutil.Process().children(recursive=True) if process.is_running()]
    if left:
        wrong.append(f"processes {left} are left over")
    for problem in wrong:
        print(f"soak: {problem}")
    print(f"soak: {'failed' if wrong else 'nothing lost, nothing leaked'}; what Airflow said is in {LOG}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
