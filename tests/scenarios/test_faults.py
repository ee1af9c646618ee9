"""Scenarios on an AWS that throttles, fails, is slow and loses answers: their results stay exact.

Each run is judged by its quality gates, which compare what it left with what its feed knows to be true. That faults
reach a client is what ``tests/conformance/test_faults.py`` shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from local.launcher import faults, layout, spark
from local.runner import Scenarios
from tests.conftest import embedded_aws

FULL = os.environ.get("ATLAS_TEST_SIZE") == "full"
LOADS: dict[str, dict[str, Any]] = {
    "s27_idempotent_consumer": {"events": 1000 if FULL else 20, "visibility_seconds": 6}
}
MORE_LOADS: dict[str, dict[str, Any]] = {
    "s01_rds_sales_etl": {},
    "s05_ecommerce_redshift": {"events": 20_000},
    "s08_fraud_workflow": {"events": 300},
}


@pytest.fixture(scope="module")
def stormy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    """An account of its own: what a storm leaves there is no other test's business."""
    with pytest.MonkeyPatch.context() as patch, embedded_aws(tmp_path_factory.mktemp("stormy")) as aws:
        patch.setenv("AIRFLOW_CONN_AWS_DEFAULT", "")  # put back at the end
        spark.ensure(layout.python(layout.AWS_VENV), layout.JARS)
        yield Scenarios(aws.client, aws.endpoint)


@pytest.mark.parametrize("stem", LOADS | (MORE_LOADS if FULL else {}))
def test_results_are_exact_in_a_storm(stormy: Scenarios, stem: str) -> None:
    load = (LOADS | MORE_LOADS)[stem]
    with faults.on(stormy.endpoint, faults.read("storm")):
        run = stormy.run(stem, **load, seed=11, keep_stack=True)
        struck = sum(rule["struck"] for rule in faults.struck(stormy.endpoint))
    assert run.state == "success"
    assert run.gate["passed"]
    assert run.gate["evaluated"] > 0
    assert struck >= 5
