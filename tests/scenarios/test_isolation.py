"""What the DAGs themselves cannot reach; what the roles of a scenario cannot is in the scenario's own tests."""

from __future__ import annotations

import json
import os

from local.runner import Scenarios
from tests.scenarios import isolation


def test_airflow_reaches_nothing_of_another_environment(scenarios: Scenarios) -> None:
    """With a wider policy, the control, it does."""
    connection = json.loads(os.environ["AIRFLOW_CONN_AWS_DEFAULT"])
    client, iam = isolation.clients(scenarios, connection["login"], connection["password"]), scenarios.client("iam")
    name = {"UserName": "atlas-airflow-dev", "PolicyName": "wider"}
    with isolation.twin(scenarios, "s01_rds_sales_etl") as prods:
        assert list(isolation.unexpected("Airflow", client, prods, expected=False)) == []
        iam.put_user_policy(**name, PolicyDocument=isolation.WIDER)
        assert list(isolation.unexpected("Airflow", client, prods, expected=True)) == []
        iam.delete_user_policy(**name)
