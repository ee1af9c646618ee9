"""What looks for secrets finds them: a DAG that returns one and prints it.

The session itself ends with that look at all its runs (``conftest.py``); the secret here is none of theirs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag

from local.runner import Scenarios
from tests.conftest import Aws
from tests.scenarios import secrecy
from tests.scenarios.conftest import PRINTED

LOCAL_BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"
PLANTED = {'pl4nted"in-a-test': "the planted secret"}
LEAKY = f"""
from airflow.sdk import DAG, task

with DAG("s00_leaky", schedule=None) as dag:

    @task
    def leak(secret):
        print("It is", secret)
        return {{"password": secret}}

    leak({next(iter(PLANTED))!r})
"""


@pytest.fixture(scope="module")
def leaky(scenarios: Scenarios, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A run of the DAG, which is in a bundle of its own."""
    file = tmp_path_factory.mktemp("dags") / "s00_leaky.py"
    file.write_text(LEAKY)
    bundle = {"name": "leaky", "classpath": LOCAL_BUNDLE, "kwargs": {"path": str(file)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps([bundle]))
        assert DagBag(file).dags["s00_leaky"].test().state == "success"


def test_a_secret_in_an_xcom_is_found(leaky: None) -> None:
    rows = secrecy.kept(Path(os.environ["AIRFLOW_HOME"]) / "airflow.db")
    assert "the planted secret is in table xcom" in set(secrecy.leaks(PLANTED, rows))


def test_a_secret_in_a_log_is_found(leaky: None, pytestconfig: pytest.Config) -> None:
    """Printed by the run, which came before the first test of this module."""
    printed = pytestconfig.stash[PRINTED]
    assert any("test_a_secret_in_an_xcom_is_found" in found for found in secrecy.leaks(PLANTED, printed))


def test_temporary_credentials_are_found(aws: Aws) -> None:
    keys = aws.client("sts").get_session_token()["Credentials"]
    assert list(secrecy.leaks({}, [("a log", f"with {keys['AccessKeyId']} and more")])) == [
        "temporary credentials are in a log"
    ]
    assert list(secrecy.leaks(PLANTED, [("a log", "with nothing")])) == []


def test_all_versions_of_all_secrets_are_known(aws: Aws) -> None:
    manager = aws.client("secretsmanager")
    manager.create_secret(Name="plain", SecretString="first-plain")
    manager.put_secret_value(SecretId="plain", SecretString='{"username": "reader", "password": "second-plain"}')
    known = secrecy.secrets(aws.client)
    manager.delete_secret(SecretId="plain", ForceDeleteWithoutRecovery=True)
    assert {value for value, name in known.items() if name == "secret plain"} == {"first-plain", "second-plain"}
