"""Measures what the README states: ``make bench`` prints one table and writes ``bench/bench.json``.

``make bench ARGS="parse embedded"`` measures these parts alone. Where there is a target, it stands beside the figure.

- demo: wall time of ``make demo`` when all is installed and nothing is running
- parse: milliseconds of CPU time a DAG file takes once everything but Atlas's modules is imported
- s01: wall time of a run, from an empty account, without Airflow's servers; seconds of its quality gate, Great
  Expectations' import included; rows per second of its extraction and transformation, start-up included
- streams: wall time of the runs; put-to-visible latency of s08, delivery by Firehose and COPY of s05
- layer: records per second and core of the fold, by part, with_commits is wall time against the embedded AWS; DynamoDB
  units and requests per 1,000 records, the fold beside Powertools idempotency plus an update
- embedded: the embedded AWS by itself, see ``bench_embedded``
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local import bench_embedded, bench_layer, bench_streams, runner
from local.bootstrap import root
from local.launcher import embedded, layout

RESULTS = layout.REPOSITORY / "bench" / "bench.json"
S01_ORDERS = 20_000
STREAMS = ("s05_ecommerce_redshift", "s08_fraud_workflow", "s27_idempotent_consumer")
AT_MOST = {
    "streams.copy.seconds": 10,
    "embedded.start.seconds": 5,
    "embedded.idle.after_start_megabytes": 400,
    "embedded.idle.after_warm_up_megabytes": 400,
    "embedded.glue.cold_seconds": 12,
    "embedded.athena.first_seconds": 1,
    "embedded.stream.lag_seconds": 1,
    "embedded.stream.cores": (os.cpu_count() or 1) - 1,
}
AT_LEAST = {
    "streams.firehose.records_per_second": 10_000,
    "embedded.stream.put_records_per_second": bench_embedded.SHARDS * bench_embedded.SHARD_RATE,
}
"""Targets, by the figures' names in the table."""


def parse_times(scratch: Path) -> dict[str, float]:
    """Return milliseconds by DAG file, as the tests judge them."""
    answer, files = scratch / "parse.json", sorted((layout.REPOSITORY / "dags").glob("*.py"))
    environment = {**os.environ, "PYTHONPATH": str(layout.REPOSITORY / "plugins")}
    probe: list[str | Path] = [sys.executable, layout.REPOSITORY / "local" / "probe.py", answer, *files]
    subprocess.run(probe, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {
        Path(file).stem: round(1000 * found["seconds"], 1) for file, found in json.loads(answer.read_text()).items()
    }


@contextmanager
def _scenarios(scratch: Path) -> Iterator[runner.Scenarios]:
    """Start an embedded AWS for runs and stop it; what Airflow says goes to a file."""
    running = embedded.start(scratch / "aws", embedded.free_port())
    try:
        with runner.quietly(RESULTS.with_suffix(".log")):
            yield runner.Scenarios(root(running.endpoint), running.endpoint)
    finally:
        running.stop()


def s01(scratch: Path) -> dict[str, Any]:
    """Run s01 as it comes and with a larger load."""
    stem = "s01_rds_sales_etl"
    with _scenarios(scratch) as scenarios:
        start = time.perf_counter()
        default = scenarios.run(stem)
        wall = time.perf_counter() - start
        large = scenarios.run(stem, orders=S01_ORDERS, seed=11)
    rows = int(large.fact("Rows"))
    for run in (default, large):
        _succeeded(stem, run)
    return {
        "default_run_seconds": round(wall, 1),
        "default_rows": int(default.fact("Rows")),
        "gate_seconds": round(default.seconds["quality_gate"], 1),
        "large_rows": rows,
        "extract_rows_per_second": round(rows / large.seconds["extract"]),
        "transform_rows_per_second": round(rows / large.seconds["transform"]),
    }


def streams(scratch: Path) -> dict[str, Any]:
    """Run the scenarios of streams and measure on their stacks."""
    with _scenarios(scratch) as scenarios:
        client = scenarios.client
        return {
            "default_run_seconds": {stem: default_run(scenarios, stem) for stem in STREAMS},
            "put_to_visible": bench_streams.latency(client, "atlas-dev-s08-fraud-workflow"),
            "firehose": bench_streams.delivery(client, "atlas-dev-s05-ecommerce-redshift", scenarios.lake),
            "copy": bench_streams.copy(client, "atlas-dev-s05-ecommerce-redshift", scenarios.lake),
        }


def layer(scratch: Path) -> dict[str, Any]:
    """Measure the layer on a table of its own."""
    running = embedded.start(scratch / "aws", embedded.free_port())
    try:
        dynamodb = root(running.endpoint)("dynamodb")
        return {"fold": bench_layer.speed(dynamodb), "cost_per_1000_records": bench_layer.cost(dynamodb)}
    finally:
        running.stop()


def default_run(scenarios: runner.Scenarios, stem: str) -> float:
    """Return the seconds a scenario takes as it comes; its stack stays, for what is measured on it."""
    start = time.perf_counter()
    _succeeded(stem, scenarios.run(stem))
    return round(time.perf_counter() - start, 1)


def _succeeded(stem: str, run: runner.Run) -> None:
    if run.state != "success":
        raise RuntimeError(f"{stem} ended {run.state}: a benchmark of a failed run means nothing")


def demo(scratch: Path) -> dict[str, float]:
    """Return the seconds ``make demo`` takes now; leaves nothing running."""
    start = time.perf_counter()
    try:
        subprocess.run(["make", "demo"], cwd=layout.REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        return {"seconds": round(time.perf_counter() - start, 1)}
    finally:
        subprocess.run(["make", "down"], cwd=layout.REPOSITORY, check=True, stdout=subprocess.DEVNULL)


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "demo": demo,
    "parse": parse_times,
    "s01": s01,
    "streams": streams,
    "layer": layer,
    "embedded": bench_embedded.measure,
}
"""What can be measured alone, each in a folder of its own."""


def main() -> None:
    """Measure, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=PARTS, help="all of them unless named")
    parts = parser.parse_args().parts or PARTS
    RESULTS.parent.mkdir(exist_ok=True)
    results: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    with tempfile.TemporaryDirectory(prefix="atlas-bench-") as scratch:
        runner.configure(Path(scratch) / "airflow")
        for part in parts:
            folder = Path(scratch) / part
            folder.mkdir()
            results[part] = PARTS[part](folder)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    print(f"written to {RESULTS.relative_to(layout.REPOSITORY)}")


def table(results: dict[str, Any]) -> str:
    """Return the figures, one to a line: name, value, target and whether it holds.

    Raises:
        LookupError: a part was measured without a figure that has a target.
    """
    figures = dict(_flat(results))
    for name in (AT_MOST | AT_LEAST).keys() - figures.keys():
        if name.partition(".")[0] in results:
            raise LookupError(f"{name} has a target and was not measured")
    lines = [f"{'':<60} {'measured':>14}  target"]
    lines += [f"{name:<60} {value!s:>14}  {_target(name, value)}".rstrip() for name, value in figures.items()]
    return "\n".join(lines)


def _target(name: str, value: Any) -> str:
    if name in AT_MOST:
        return f"at most {AT_MOST[name]:,}: {'holds' if value <= AT_MOST[name] else 'missed'}"
    if name in AT_LEAST:
        return f"at least {AT_LEAST[name]:,}: {'holds' if value >= AT_LEAST[name] else 'missed'}"
    return ""


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


if __name__ == "__main__":
    main()
