"""What an AWS account needs before Airflow can work in it: the permissions stack and a user for Airflow.

On AWS an administrator deploys ``deploy/permissions.yaml`` and Amazon MWAA's execution role carries the policy; on a
laptop the account root does it and an IAM user stands in for that role.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3

from local.launcher.layout import REGION, REPOSITORY, ROOT_KEYS

PERMISSIONS = REPOSITORY / "deploy" / "permissions.yaml"
PLATFORM = REPOSITORY / "include" / "templates" / "platform.yaml"

ClientFactory = Callable[[str], Any]
"""Returns the boto3 client of a service, such as ``cloudformation``."""


def root(endpoint: str) -> ClientFactory:
    """Return what makes clients that act as the root of the embedded AWS at ``endpoint``."""
    session: Any = boto3.Session(*ROOT_KEYS, region_name=REGION)
    return lambda service: session.client(service, endpoint_url=endpoint)


def bootstrap(client: ClientFactory, environment: str) -> dict[str, str]:
    """Deploy the permissions and return a new access key of the user Airflow acts as.

    Earlier access keys of that user are removed, so that this can be repeated.

    Args:
        client: makes clients that act as the account's administrator.
        environment: name of the environment, such as ``dev``.

    Returns:
        ``AccessKeyId`` and ``SecretAccessKey``.
    """
    outputs = deploy(client, f"atlas-{environment}-permissions", PERMISSIONS, {"Environment": environment})
    iam = client("iam")
    user = f"atlas-airflow-{environment}"
    try:
        iam.create_user(UserName=user)
    except iam.exceptions.EntityAlreadyExistsException:
        for key in iam.list_access_keys(UserName=user)["AccessKeyMetadata"]:
            iam.delete_access_key(UserName=user, AccessKeyId=key["AccessKeyId"])
    iam.attach_user_policy(UserName=user, PolicyArn=outputs["AirflowPolicyArn"])
    created = iam.create_access_key(UserName=user)["AccessKey"]
    return {name: created[name] for name in ("AccessKeyId", "SecretAccessKey")}


def lake_bucket(client: ClientFactory, environment: str) -> str:
    """Return the name of the environment's lake bucket, deploying the platform stack if no run has done so yet.

    Args:
        client: makes clients that act as Airflow does.
        environment: name of the environment, such as ``dev``.
    """
    permissions = outputs_of(client, f"atlas-{environment}-permissions")
    parameters = {"Environment": environment}
    platform = f"atlas-{environment}-platform"
    role = permissions["CloudFormationRoleArn"]
    return deploy(client, platform, PLATFORM, parameters, RoleARN=role)["LakeBucket"]


def deploy(
    client: ClientFactory, stack: str, template: Path, parameters: Mapping[str, str], **settings: str
) -> dict[str, str]:
    """Create a stack unless it is there, and return its outputs.

    It goes through a change set, which is what Airflow's policy allows.

    Raises:
        botocore.exceptions.WaiterError: the stack could not be made.
    """
    outputs = outputs_of(client, stack)
    if outputs:
        return outputs
    cloudformation = client("cloudformation")
    change = {"StackName": stack, "ChangeSetName": "create"}
    cloudformation.create_change_set(
        **change,
        ChangeSetType="CREATE",
        TemplateBody=template.read_text(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
        **settings,
    )
    often = {"Delay": 1, "MaxAttempts": 300}
    cloudformation.get_waiter("change_set_create_complete").wait(**change, WaiterConfig=often)
    cloudformation.execute_change_set(**change)
    cloudformation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig=often)
    return outputs_of(client, stack)


def outputs_of(client: ClientFactory, stack: str) -> dict[str, str]:
    """Return the outputs of a stack, nothing if there is no such stack."""
    cloudformation = client("cloudformation")
    try:
        found = cloudformation.describe_stacks(StackName=stack)["Stacks"][0]
    except cloudformation.exceptions.ClientError as error:
        if "does not exist" in str(error):
            return {}
        raise
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
