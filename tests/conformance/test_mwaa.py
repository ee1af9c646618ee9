"""Amazon MWAA up to Airflow itself.

https://docs.aws.amazon.com/mwaa/latest/API/API_CreateEnvironment.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from local.launcher import layout
from tests.conformance.test_iam import allow, denied, user
from tests.conftest import Aws

ACCOUNT = "000000000000"
SERVICES = ("airflow.api", "airflow.env", "airflow.ops", "ecr.api", "ecr.dkr", "kms", "logs", "monitoring", "sqs")
ROLE_ACTIONS = (
    *("airflow:PublishMetrics", "cloudwatch:PutMetricData", "logs:CreateLogStream", "logs:PutLogEvents"),
    *("s3:GetAccountPublicAccessBlock", "s3:GetBucketPublicAccessBlock", "s3:GetObject", "s3:GetObjectVersion"),
    *("s3:ListBucket", "sqs:ReceiveMessage", "sqs:SendMessage"),
)
SECONDS = 10


@dataclass
class World:
    """What an environment needs: a bucket with a package, a role, a network without a way out."""

    aws: Aws
    settings: dict[str, Any]

    @property
    def mwaa(self) -> Any:
        return self.aws.client("mwaa", inject_host_prefix=False, parameter_validation=False)

    @property
    def bucket(self) -> str:
        return str(self.settings["SourceBucketArn"].rpartition(":")[2])

    def settled(self, name: str) -> dict[str, Any]:
        """Return an environment once nothing is in progress on it."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.mwaa.get_environment(Name=name)["Environment"]
            if found["Status"] not in ("CREATING", "UPDATING"):
                return found
            time.sleep(0.05)
        raise TimeoutError(name)


def role(aws: Aws, name: str, principals: tuple[str, ...], actions: tuple[str, ...] = ROLE_ACTIONS) -> str:
    """Return the ARN of a new role that such services can assume and that may do ``actions``."""
    iam = aws.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": list(principals)}, "Action": "sts:AssumeRole"}
    policy = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
    document = {"Version": "2012-10-17", "Statement": [trust]}
    arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(document))["Role"]["Arn"]
    document = {"Version": "2012-10-17", "Statement": [policy]}
    iam.put_role_policy(RoleName=name, PolicyName="one", PolicyDocument=json.dumps(document))
    return arn


def network(aws: Aws, endpoints: tuple[str, ...] = (*SERVICES, "s3")) -> dict[str, list[str]]:
    """Return two subnets and a group that lets itself in, in a new network with such endpoints."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/24")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.77.0.{start}/25", AvailabilityZone=f"{layout.REGION}{zone}")
        for start, zone in ((0, "a"), (128, "b"))
    ]
    group = ec2.create_security_group(GroupName="airflow", Description="airflow", VpcId=vpc)["GroupId"]
    itself = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[itself])
    for service in endpoints:
        ec2.create_vpc_endpoint(VpcId=vpc, ServiceName=f"com.amazonaws.{layout.REGION}.{service}")
    return {"SubnetIds": [each["Subnet"]["SubnetId"] for each in subnets], "SecurityGroupIds": [group]}


@pytest.fixture(name="world", scope="module")
def _world(aws: Aws) -> World:
    s3, bucket = aws.client("s3"), "mwaa-conformance"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    blocked = dict.fromkeys(("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True)
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=blocked)
    s3.put_object(Bucket=bucket, Key="dags/s00.py")
    settings = {
        "ExecutionRoleArn": role(aws, "mwaa-conformance", ("airflow.amazonaws.com", "airflow-env.amazonaws.com")),
        "SourceBucketArn": f"arn:aws:s3:::{bucket}",
        "DagS3Path": "dags",
        "PluginsS3Path": "plugins.zip",
        "PluginsS3ObjectVersion": s3.put_object(Bucket=bucket, Key="plugins.zip", Body=b"1")["VersionId"],
        "NetworkConfiguration": network(aws),
    }
    return World(aws, settings)


@pytest.fixture(name="airflow", scope="module")
def _airflow(world: World) -> Iterator[str]:
    """The name of an environment that is available."""
    world.mwaa.create_environment(Name="conformance", Tags={"team": "data"}, **world.settings)
    assert world.settled("conformance")["Status"] == "AVAILABLE"
    yield "conformance"
    world.mwaa.delete_environment(Name="conformance")


def test_an_environment_is_created_and_described(world: World, airflow: str) -> None:
    created = world.mwaa.create_environment(Name="described", MinWorkers=2, MaxWorkers=3, **world.settings)
    assert world.mwaa.get_environment(Name="described")["Environment"]["Status"] == "CREATING"

    found = world.settled("described")

    assert created["Arn"] == found["Arn"] == f"arn:aws:airflow:{layout.REGION}:{ACCOUNT}:environment/described"
    assert {name: found[name] for name in world.settings} == world.settings
    assert (found["MinWorkers"], found["MaxWorkers"], found["EnvironmentClass"]) == (2, 3, "mw1.small")
    assert {"described", airflow} <= set(world.mwaa.list_environments()["Environments"])
    world.mwaa.delete_environment(Name="described")
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        world.mwaa.get_environment(Name="described")


def test_an_update_takes_a_new_version_and_says_that_it_succeeded(world: World, airflow: str) -> None:
    """https://docs.aws.amazon.com/mwaa/latest/API/API_UpdateEnvironment.html"""
    version = world.aws.client("s3").put_object(Bucket=world.bucket, Key="plugins.zip", Body=b"2")["VersionId"]
    world.mwaa.update_environment(Name=airflow, PluginsS3ObjectVersion=version)
    assert world.mwaa.get_environment(Name=airflow)["Environment"]["Status"] == "UPDATING"
    with pytest.raises(ClientError, match="UPDATING"):
        world.mwaa.update_environment(Name=airflow, MaxWorkers=2)

    found = world.settled(airflow)

    assert (found["Status"], found["LastUpdate"]["Status"]) == ("AVAILABLE", "SUCCESS")
    assert found["PluginsS3ObjectVersion"] == version


def test_an_update_that_cannot_work_leaves_the_environment_as_it_was(world: World, airflow: str) -> None:
    principals = ("airflow.amazonaws.com", "airflow-env.amazonaws.com")
    poor = role(world.aws, "mwaa-poor", principals, ("s3:GetObject",))
    world.mwaa.update_environment(Name=airflow, ExecutionRoleArn=poor)

    found = world.settled(airflow)

    assert (found["Status"], found["LastUpdate"]["Status"]) == ("UPDATE_FAILED", "FAILED")
    assert "not authorized to perform: airflow:PublishMetrics" in found["LastUpdate"]["Error"]["ErrorMessage"]
    assert found["ExecutionRoleArn"] == world.settings["ExecutionRoleArn"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        pytest.param({"SourceBucketArn": "arn:aws:s3:::nowhere"}, "nowhere cannot be used", id="bucket"),
        pytest.param({"DagS3Path": "dag"}, "no folder dag/", id="DAG folder"),
        pytest.param({"PluginsS3ObjectVersion": "v0"}, "version v0 of plugins.zip", id="plugins"),
        pytest.param({"RequirementsS3Path": "r.txt"}, "version None of r.txt", id="requirements"),
        pytest.param({"ExecutionRoleArn": f"arn:aws:iam::{ACCOUNT}:role/nobody"}, "does not exist", id="role"),
        pytest.param({"EnvironmentClass": "mw2.small"}, "mw2.small", id="class"),
        pytest.param({"MinWorkers": 3, "MaxWorkers": 2}, "no range", id="workers"),
        pytest.param({"EnvironmentClass": "mw1.micro", "MaxWorkers": 2}, "one worker", id="workers of the smallest"),
        pytest.param({"NetworkConfiguration": {"SubnetIds": ["subnet-1"]}}, "2 are needed", id="one subnet"),
    ],
)
def test_what_cannot_be_is_refused_at_once(world: World, changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ClientError, match=f"ValidationException.*{reason}"):
        world.mwaa.create_environment(Name="refused", **world.settings | changed)


def test_a_role_that_the_workers_cannot_assume_is_refused(world: World) -> None:
    half = role(world.aws, "mwaa-half", ("airflow.amazonaws.com",))
    with pytest.raises(ClientError, match=r"does not trust airflow-env\.amazonaws\.com"):
        world.mwaa.create_environment(Name="refused", **world.settings | {"ExecutionRoleArn": half})


def test_a_role_must_be_passed(world: World) -> None:
    """https://docs.aws.amazon.com/mwaa/latest/userguide/access-policies.html"""
    caller = world.aws.client(
        "mwaa", user(world.aws, allow("airflow:CreateEnvironment", "*")), inject_host_prefix=False
    )
    message = denied(lambda: caller.create_environment(Name="refused", **world.settings))
    assert f"iam:PassRole on resource: {world.settings['ExecutionRoleArn']}" in message


def test_a_bucket_without_versions_is_refused(world: World) -> None:
    world.aws.client("s3").create_bucket(Bucket="mwaa-plain")
    with pytest.raises(ClientError, match="mwaa-plain is not versioned"):
        world.mwaa.create_environment(Name="refused", **world.settings | {"SourceBucketArn": "arn:aws:s3:::mwaa-plain"})


def test_a_network_in_which_it_cannot_start_fails_the_creation(world: World) -> None:
    """https://docs.aws.amazon.com/mwaa/latest/userguide/vpc-vpe-create-access.html"""
    ec2 = world.aws.client("ec2")
    closed = network(world.aws)
    vpc = ec2.describe_subnets(SubnetIds=closed["SubnetIds"])["Subnets"][0]["VpcId"]
    found = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    (sqs,) = [each for each in found if each["VpcId"] == vpc and each["ServiceName"].endswith(".sqs")]
    ec2.delete_vpc_endpoints(VpcEndpointIds=[sqs["VpcEndpointId"]])
    world.mwaa.create_environment(Name="closed", **world.settings | {"NetworkConfiguration": closed})

    environment = world.settled("closed")

    assert environment["Status"] == "CREATE_FAILED"
    assert environment["LastUpdate"]["Error"]["ErrorMessage"] == (
        f"The subnets have no way out and {vpc} has no endpoint of sqs"
    )


@pytest.mark.parametrize(
    ("way_out", "status"),
    [pytest.param("nat", "AVAILABLE", id="NAT"), pytest.param("igw", "CREATE_FAILED", id="public")],
)
def test_a_network_with_a_way_out_needs_no_endpoints_but_must_be_private(
    world: World, way_out: str, status: str
) -> None:
    """https://docs.aws.amazon.com/mwaa/latest/userguide/networking-about.html"""
    ec2 = world.aws.client("ec2")
    open_network = network(world.aws, endpoints=())
    subnets = ec2.describe_subnets(SubnetIds=open_network["SubnetIds"])["Subnets"]
    table = ec2.create_route_table(VpcId=subnets[0]["VpcId"])["RouteTable"]["RouteTableId"]
    for subnet in subnets:
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet["SubnetId"])
    if way_out == "nat":
        gateway = ec2.create_nat_gateway(SubnetId=subnets[0]["SubnetId"])["NatGateway"]["NatGatewayId"]
        target = {"NatGatewayId": gateway}
    else:
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        target = {"GatewayId": gateway}
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", **target)
    world.mwaa.create_environment(Name=way_out, **world.settings | {"NetworkConfiguration": open_network})

    environment = world.settled(way_out)

    assert environment["Status"] == status
    error = environment.get("LastUpdate", {}).get("Error", {}).get("ErrorMessage", "")
    assert ("The subnets are public" in error) == (status == "CREATE_FAILED")


def test_no_airflow_is_pretended(world: World, airflow: str) -> None:
    with pytest.raises(ClientError, match="runs no Airflow"):
        world.mwaa.create_web_login_token(Name=airflow)


def test_a_template_makes_changes_and_removes_an_environment(world: World) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-mwaa-environment.html"""
    cloudformation = world.aws.client("cloudformation")
    properties = {"Name": "templated", "MaxWorkers": "2", "WorkerReplacementStrategy": "GRACEFUL", **world.settings}

    def template(**changed: Any) -> dict[str, Any]:
        airflow = {"Type": "AWS::MWAA::Environment", "Properties": properties | changed}
        outputs = {"Url": {"Value": {"Fn::GetAtt": ["Airflow", "WebserverUrl"]}}}
        return {
            "StackName": "mwaa",
            "TemplateBody": json.dumps({"Resources": {"Airflow": airflow}, "Outputs": outputs}),
        }

    cloudformation.create_stack(**template())
    often = {"Delay": 1, "MaxAttempts": 20}
    cloudformation.get_waiter("stack_create_complete").wait(StackName="mwaa", WaiterConfig=often)
    (stack,) = cloudformation.describe_stacks(StackName="mwaa")["Stacks"]
    made = world.mwaa.get_environment(Name="templated")["Environment"]
    assert (made["Status"], made["MaxWorkers"]) == ("AVAILABLE", 2)
    assert stack["Outputs"][0]["OutputValue"] == made["WebserverUrl"]

    cloudformation.update_stack(**template(PluginsS3ObjectVersion="v0"))
    with pytest.raises(Exception, match="UPDATE_ROLLBACK_COMPLETE"):
        cloudformation.get_waiter("stack_update_complete").wait(StackName="mwaa", WaiterConfig=often)
    events = cloudformation.describe_stack_events(StackName="mwaa")["StackEvents"]
    assert any("version v0 of plugins.zip" in event.get("ResourceStatusReason", "") for event in events)

    cloudformation.delete_stack(StackName="mwaa")
    cloudformation.get_waiter("stack_delete_complete").wait(StackName="mwaa", WaiterConfig=often)
    assert "templated" not in world.mwaa.list_environments()["Environments"]
