"""Measures what the README states: ``make bench`` prints one table and writes ``bench/bench.json``.

- parse: milliseconds of CPU time a DAG file takes once everything but Atlas's modules is imported
- glue: rows per second of s01's extraction and transformation, start-up included
- gate: seconds of s01's quality gate, Great Expectations' import included
- scenario: wall time of a run, from an empty account, without Airflow's servers
- handler: records per second and core of the layer's fold, by part; with_commits is wall time against the embedded AWS
- cost: DynamoDB units and requests per 1,000 records, the fold beside Powertools idempotency plus an update
- streams: put-to-visible latency of s08, delivery by Firehose and COPY of s05
- demo: wall time of ``make demo`` when all is installed and nothing is running
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local import bench_layer, bench_streams, runner
from local.bootstrap import root
from local.launcher import embedded, layout

RESULTS = layout.REPOSITORY / "bench" / "bench.json"
S01_ORDERS = 20_000
STREAMS = ("s05_ecommerce_redshift", "s08_fraud_workflow", "s27_idempotent_consumer")


def parse_times(scratch: Path) -> dict[str, float]:
    """Return milliseconds by DAG file, as the tests judge them."""
    answer, files = scratch / "parse.json", sorted((layout.REPOSITORY / "dags").glob("*.py"))
    environment = {**os.environ, "PYTHONPATH": str(layout.REPOSITORY / "plugins")}
    probe: list[str | Path] = [sys.executable, layout.REPOSITORY / "local" / "probe.py", answer, *files]
    subprocess.run(probe, env=environment, check=True, stdout=subprocess.DEVNULL)
    return {
        Path(file).stem: round(1000 * found["seconds"], 1) for file, found in json.loads(answer.read_text()).items()
    }


def s01(scenarios: runner.Scenarios) -> dict[str, Any]:
    """Run s01 as it comes and with a larger load."""
    stem = "s01_rds_sales_etl"
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


def default_run(scenarios: runner.Scenarios, stem: str) -> dict[str, float]:
    """Run a scenario as it comes; its stack stays, for what is measured on it."""
    start = time.perf_counter()
    _succeeded(stem, scenarios.run(stem))
    return {"default_run_seconds": round(time.perf_counter() - start, 1)}


def _succeeded(stem: str, run: runner.Run) -> None:
    if run.state != "success":
        raise RuntimeError(f"{stem} ended {run.state}: a benchmark of a failed run means nothing")


def demo() -> float:
    """Return the seconds ``make demo`` takes now; leaves nothing running."""
    start = time.perf_counter()
    try:
        subprocess.run(["make", "demo"], cwd=layout.REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        return round(time.perf_counter() - start, 1)
    finally:
        subprocess.run(["make", "down"], cwd=layout.REPOSITORY, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure everything, print the table, write the file."""
    RESULTS.parent.mkdir(exist_ok=True)
    results: dict[str, Any] = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "demo_seconds": demo(),
    }
    with tempfile.TemporaryDirectory(prefix="atlas-bench-") as scratch:
        runner.configure(Path(scratch) / "airflow")
        results["parse_milliseconds"] = parse_times(Path(scratch))
        running = embedded.start(Path(scratch) / "aws", embedded.free_port())
        try:
            with runner.quietly(RESULTS.with_suffix(".log")):
                scenarios = runner.Scenarios(root(running.endpoint), running.endpoint)
                results["s01_rds_sales_etl"] = s01(scenarios)
                results["runs"] = {stem: default_run(scenarios, stem) for stem in STREAMS}
            client, lake = scenarios.client, scenarios.lake
            results["streams"] = {
                "put_to_visible": bench_streams.latency(client, "atlas-dev-s08-fraud-workflow"),
                "firehose": bench_streams.delivery(client, "atlas-dev-s05-ecommerce-redshift", lake),
                "copy": bench_streams.copy(client, "atlas-dev-s05-ecommerce-redshift", lake),
            }
            results["handler"] = bench_layer.speed(client("dynamodb"))
            results["cost_per_1000_records"] = bench_layer.cost(client("dynamodb"))
        finally:
            running.stop()
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    for name, value in _flat(results):
        print(f"{name:<60} {value:>14}")
    print(f"written to {RESULTS.relative_to(layout.REPOSITORY)}")


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", str(value))]
    return rows


if __name__ == "__main__":
    main()
