"""The settings and secrets Airflow runs with."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from local.launcher import airflow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Airflow home of the test's own."""
    monkeypatch.setattr(airflow, "HOME", tmp_path / "airflow")
    monkeypatch.setattr(airflow, "CONNECTION", tmp_path / "airflow" / "aws_default.json")
    return tmp_path / "airflow"


def test_secrets_are_the_owners_only_and_stay_the_same(home: Path) -> None:
    first = airflow.settings(8080)
    airflow.connect("http://127.0.0.1:4566", {"AccessKeyId": "AKIA", "SecretAccessKey": "secret"})

    assert {stat.S_IMODE(file.stat().st_mode) for file in home.iterdir()} == {0o600}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert len(first["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
    assert airflow.settings(8080)["AIRFLOW__API_AUTH__JWT_SECRET"] == first["AIRFLOW__API_AUTH__JWT_SECRET"]


def test_dags_reach_the_embedded_aws_through_the_connection_only() -> None:
    airflow.connect("http://127.0.0.1:4566", {"AccessKeyId": "AKIA", "SecretAccessKey": "secret"})

    settings = airflow.settings(8080)

    connection = json.loads(settings.pop("AIRFLOW_CONN_AWS_DEFAULT"))
    assert connection["extra"] == {"endpoint_url": "http://127.0.0.1:4566", "region_name": "us-east-1"}
    assert (connection["login"], connection["password"]) == ("AKIA", "secret")
    assert not any("127.0.0.1:4566" in value for value in settings.values())
    assert airflow.access()["aws_secret_access_key"] == "secret"
