"""What the account holds before the first DAG runs."""

from __future__ import annotations

from typing import Any

import pytest

from local import bootstrap
from tests.conftest import Aws

ENVIRONMENT = "boot"


@pytest.fixture(scope="module")
def access_key(aws: Aws) -> dict[str, str]:
    """The access key of Airflow's user after the account was prepared."""
    return bootstrap.bootstrap(aws.client, ENVIRONMENT)


def test_airflow_acts_as_a_user_of_its_own(aws: Aws, access_key: dict[str, str]) -> None:
    identity = aws.client("sts", access_key).get_caller_identity()
    assert identity["Arn"].endswith(f":user/atlas-airflow-{ENVIRONMENT}")


def test_that_user_may_not_what_the_policy_does_not_name(aws: Aws, access_key: dict[str, str]) -> None:
    iam = aws.client("iam", access_key)
    with pytest.raises(iam.exceptions.ClientError) as refused:
        iam.create_user(UserName="somebody")
    assert refused.value.response["Error"]["Code"] == "AccessDenied"


def test_a_second_time_replaces_the_key(aws: Aws, access_key: dict[str, str]) -> None:
    renewed = bootstrap.bootstrap(aws.client, ENVIRONMENT)
    user = f"atlas-airflow-{ENVIRONMENT}"
    keys = aws.client("iam").list_access_keys(UserName=user)["AccessKeyMetadata"]
    assert [key["AccessKeyId"] for key in keys] == [renewed["AccessKeyId"]]
    assert renewed["AccessKeyId"] != access_key["AccessKeyId"]


def test_the_lake_is_made_for_data_that_comes_before_the_first_run(aws: Aws) -> None:
    key = bootstrap.bootstrap(aws.client, ENVIRONMENT)

    def as_airflow(service: str) -> Any:
        return aws.client(service, key)

    bucket = bootstrap.lake_bucket(as_airflow, ENVIRONMENT)
    as_airflow("s3").put_object(Bucket=bucket, Key="uploads/a.csv", Body=b"a")
    assert bootstrap.lake_bucket(as_airflow, ENVIRONMENT) == bucket


def test_no_stack_has_no_outputs(aws: Aws) -> None:
    assert bootstrap.outputs_of(aws.client, "atlas-none") == {}
