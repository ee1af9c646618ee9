"""Airflow's connections on Amazon MWAA, as ``deploy/mwaa.yaml`` sets it up: Secrets Manager, and the execution role."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from botocore.exceptions import ClientError

from local.launcher import layout
from tests.conformance.test_iam import allow, arn, user
from tests.conftest import Aws
from tests.templates import model


@pytest.fixture
def execution_role(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of Airflow that has no connection, but credentials that may read the environment's connections."""
    keys = user(aws, allow("secretsmanager:GetSecretValue", arn("secretsmanager", "secret:atlas/dev/*")))
    monkeypatch.delenv("AIRFLOW_CONN_AWS_DEFAULT", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys["SecretAccessKey"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", layout.REGION)


def backend(environment: str) -> Any:
    """Return the secrets backend that Airflow has in an environment."""
    resources = model.read(layout.REPOSITORY / "deploy" / "mwaa.yaml")["Resources"].values()
    (airflow,) = [resource for resource in resources if resource["Type"] == "AWS::MWAA::Environment"]
    options = airflow["Properties"]["AirflowConfigurationOptions"]
    arguments = options["secrets.backend_kwargs"]["Fn::Sub"].replace("${Environment}", environment)
    module, _, name = options["secrets.backend"].rpartition(".")
    return getattr(import_module(module), name)(**json.loads(arguments))


def test_connections_come_from_secrets_manager(aws: Aws, execution_role: None) -> None:
    """One that is not there is looked for elsewhere; those of another environment are refused."""
    secret = json.dumps({"conn_type": "http", "password": "of-the-shop"})
    for environment in ("dev", "prod"):
        name = f"atlas/{environment}/connections/shop"
        aws.client("secretsmanager").create_secret(Name=name, SecretString=secret)
    assert backend("dev").get_connection("shop").password == "of-the-shop"
    assert backend("dev").get_connection("bakery") is None
    with pytest.raises(ClientError, match="not authorized to perform: secretsmanager:GetSecretValue"):
        backend("prod").get_connection("shop")


def test_the_connection_to_aws_needs_no_secret(execution_role: None) -> None:
    """The DAGs' only connection is then the role Airflow runs with."""
    assert backend("dev").get_connection("aws_default") is None
    sts: Any = AwsBaseHook(client_type="sts").get_conn()
    assert ":user/user-" in sts.get_caller_identity()["Arn"]
