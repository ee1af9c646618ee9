"""Fixtures of the tests of plugins/."""

from __future__ import annotations

import pytest

from local.launcher import airflow, layout
from tests.conftest import Aws


@pytest.fixture
def connected(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> Aws:
    """The embedded AWS, with Airflow's connection leading to it."""
    key, secret = layout.ROOT_KEYS
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_DEFAULT",
        airflow.connection(aws.endpoint, {"AccessKeyId": key, "SecretAccessKey": secret}),
    )
    return aws
