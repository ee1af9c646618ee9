"""Scenarios on an AWS that throttles, fails, is slow and loses answers: their results stay exact.

Each run is judged by its quality gates, which compare what it left with what its feed knows to be true. That faults
reach a client is what ``tests/conformance/test_faults.py`` shows.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from local.launcher import faults
from local.runner import Scenarios
from tests.conftest import Aws

FULL = os.environ.get("ATLAS_TEST_SIZE") == "full"
LOADS: dict[str, dict[str, Any]] = {
    "s27_idempotent_consumer": {"events": 1000 if FULL else 20, "visibility_seconds": 6},
    "s05_ecommerce_redshift": {"events": 20_000 if FULL else 200},
}
MORE_LOADS: dict[str, dict[str, Any]] = {
    "s01_rds_sales_etl": {},
    "s08_fraud_workflow": {"events": 300},
}


@pytest.mark.parametrize("stem", LOADS | (MORE_LOADS if FULL else {}))
def test_results_are_exact_in_a_storm(aws: Aws, scenarios: Scenarios, stem: str) -> None:
    load = (LOADS | MORE_LOADS)[stem]
    with faults.on(aws.endpoint, faults.read("storm")):
        run = scenarios.run(stem, **load, seed=11, keep_stack=True)
        struck = sum(rule["struck"] for rule in faults.struck(aws.endpoint))
    assert run.state == "success"
    assert run.gate["passed"]
    assert run.gate["evaluated"] > 0
    assert struck >= 5
