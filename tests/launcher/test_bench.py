"""What ``make bench`` says of its figures, and that they are taken of work that was done."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from local import bench, bench_embedded
from local.bootstrap import ClientFactory, root
from local.launcher import layout
from tests.conftest import Aws

FAST: dict[str, Any] = {"copy": {"seconds": 9.9}, "firehose": {"records_per_second": 10_000}}
SLOW: dict[str, Any] = {"copy": {"seconds": 10.1}, "firehose": {"records_per_second": 9_999}}


def test_the_command_knows_its_parts() -> None:
    variables = {**os.environ, "ARGS": "nothing"}
    answer = subprocess.run(
        ["make", "bench"], cwd=layout.REPOSITORY, env=variables, capture_output=True, text=True, check=False
    )
    assert answer.returncode
    assert all(f"'{part}'" in answer.stderr for part in bench.PARTS), answer.stderr


@pytest.mark.parametrize(("streams", "verdict"), [(FAST, "holds"), (SLOW, "missed")])
def test_a_figure_stands_beside_its_target(streams: dict[str, Any], verdict: str) -> None:
    _, cores, copy, firehose = bench.table({"cores": 2, "streams": streams}).splitlines()
    assert cores.split() == ["cores", "2"]
    assert copy.endswith(f"at most 10: {verdict}")
    assert firehose.endswith(f"at least 10,000: {verdict}")


def test_a_target_whose_figure_is_missing_is_told() -> None:
    with pytest.raises(LookupError, match=r"streams\.copy\.seconds"):
        bench.table({"streams": {"firehose": FAST["firehose"]}})


@pytest.fixture(scope="module")
def client(aws: Aws) -> ClientFactory:
    made = root(aws.endpoint)
    bench_embedded.deploy(made)
    return made


def test_a_stream_is_measured_until_its_last_record_is_committed(aws: Aws, client: ClientFactory) -> None:
    figures = bench_embedded.stream(client, aws.process.pid, seconds=1)
    assert figures["records"] == 4_000
    assert figures["committed_records_per_second"] <= figures["put_records_per_second"] <= 8_000
    assert figures["cores"] > 0


def test_a_query_is_measured_with_all_its_rows(client: ClientFactory) -> None:
    figures = bench_embedded.athena(client, rows=2_000)
    assert figures["rows"] == 2_000
    assert 0 < figures["best_seconds"] <= figures["first_seconds"]


def test_what_failed_is_not_measured(client: ClientFactory) -> None:
    with pytest.raises(RuntimeError, match="FAILED instead of SUCCEEDED"):
        bench_embedded._query(client("athena"), "SELECT * FROM nothing")
