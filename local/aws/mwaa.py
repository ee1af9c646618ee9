"""Amazon MWAA up to Airflow itself: an environment is recorded, and refused where it would not start on AWS.

The emulator starts a container for each environment; here none runs. What AWS finds out at once is a
``ValidationException``, what it finds out while it builds is a failed creation or update with its reason.
https://docs.aws.amazon.com/mwaa/latest/API/API_CreateEnvironment.html
https://docs.aws.amazon.com/mwaa/latest/userguide/troubleshooting.html
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import ClientError

from local.aws import emulator, iam
from local.aws.emulator import AwsError, Payload, Response

Members = dict[str, Any]

SECONDS = float(os.environ.get("ATLAS_MWAA_SECONDS", "0.2"))
"""How long an environment is being built or updated; on AWS it is 20 to 30 minutes."""

PRINCIPALS = ("airflow.amazonaws.com", "airflow-env.amazonaws.com")
"""Who the execution role has to trust: https://docs.aws.amazon.com/mwaa/latest/userguide/mwaa-create-role.html"""

CLASSES = tuple(f"mw1.{size}" for size in ("micro", "small", "medium", "large", "xlarge", "2xlarge"))

NEEDED_ENDPOINTS = (
    *("airflow.api", "airflow.env", "airflow.ops", "ecr.api", "ecr.dkr", "kms", "logs", "monitoring", "s3", "sqs"),
)
"""In a network without a way out: https://docs.aws.amazon.com/mwaa/latest/userguide/vpc-vpe-create-access.html"""

DEFAULTS: Members = {
    "AirflowConfigurationOptions": {},
    "EndpointManagement": "SERVICE",
    "EnvironmentClass": "mw1.small",
    "LoggingConfiguration": {},
    "MaxWorkers": 10,
    "MinWorkers": 1,
    "Schedulers": 2,
    "Tags": {},
    "WebserverAccessMode": "PUBLIC_ONLY",
}
NUMBERS = ("MaxWebservers", "MaxWorkers", "MinWebservers", "MinWorkers", "Schedulers")

_mwaa = emulator.module("services.mwaa")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")


def create(members: Members) -> Members:
    """Begin to make an environment and return its record.

    Raises:
        AwsError: AWS would refuse the call.
    """
    name = members["Name"]
    if name in _mwaa._environments:
        raise AwsError("ValidationException", f"Environment {name} already exists")
    wanted = DEFAULTS | members
    _refuse(wanted)
    account, region = _responses.get_account_id(), _responses.get_region()
    record: Members = {
        **wanted,
        "Arn": f"arn:aws:airflow:{region}:{account}:environment/{name}",
        "Status": "CREATING",
        "CreatedAt": time.time(),
        "CeleryExecutorQueue": f"arn:aws:sqs:{region}:{account}:airflow-celery-{name}",
        "ServiceRoleArn": f"arn:aws:iam::{account}:role/aws-service-role/{PRINCIPALS[0]}/AWSServiceRoleForAmazonMWAA",
        "WebserverUrl": f"{name}.c1.{region}.airflow.amazonaws.com",
    }
    _mwaa._environments[name] = record
    _build(record, wanted, "CREATE_FAILED")
    return record


def update(members: Members) -> Members:
    """Begin to change an environment and return its record.

    Raises:
        AwsError: AWS would refuse the call.
    """
    record = _record(members["Name"])
    if record["Status"] not in ("AVAILABLE", "UPDATE_FAILED"):
        raise AwsError("ValidationException", f"Environment {record['Name']} is in {record['Status']} state")
    strategy = members.pop("WorkerReplacementStrategy", "FORCED")
    _refuse(record | members)
    record["Status"] = "UPDATING"
    record["LastUpdate"] = {"Status": "PENDING", "CreatedAt": time.time(), "WorkerReplacementStrategy": strategy}
    _build(record, members, "UPDATE_FAILED")
    return record


def delete(name: str) -> None:
    """Forget an environment.

    Raises:
        AwsError: there is none of that name.
    """
    _record(name)
    del _mwaa._environments[name]


def _record(name: str) -> Members:
    if name not in _mwaa._environments:
        raise AwsError("ResourceNotFoundException", f"Environment {name} not found", 404)
    found: Members = _mwaa._environments[name]
    return found


def _build(record: Members, changes: Members, failed: str) -> None:
    """Make ``changes`` to an environment in the background; if they cannot work, it ends as ``failed``."""

    def build() -> None:
        time.sleep(SECONDS)
        problem = next(_obstacles(record | changes), None)
        if problem is None:
            record.update(changes)
        if "LastUpdate" in record or problem:
            error = {"Error": {"ErrorCode": "INCORRECT_CONFIGURATION", "ErrorMessage": problem}} if problem else {}
            last = record.get("LastUpdate", {"CreatedAt": time.time()})
            record["LastUpdate"] = {**last, "Status": "FAILED" if problem else "SUCCESS", **error}
        record["Status"] = failed if problem else "AVAILABLE"

    emulator.in_background(build, f"environment {record['Name']}")


# --- What is refused --------------------------------------------------------------------------------------------


def _client(service: str) -> Any:
    return emulator.client(service, emulator.root_credentials(), _responses.get_region())


def _refuse(wanted: Members) -> None:
    """Refuse what AWS refuses at once.

    Raises:
        AwsError: with the first reason.
    """
    if problem := next(_mistakes(wanted), None):
        raise AwsError("ValidationException", problem)


def _mistakes(wanted: Members) -> Iterator[str]:
    """Yield what is wrong with an environment's settings."""
    for name in ("ExecutionRoleArn", "SourceBucketArn", "DagS3Path", "NetworkConfiguration"):
        if not wanted.get(name):
            yield f"{name} is required"
    if wanted["EnvironmentClass"] not in CLASSES:
        yield f"EnvironmentClass {wanted['EnvironmentClass']} is not one of {', '.join(CLASSES)}"
    if not 1 <= wanted["MinWorkers"] <= wanted["MaxWorkers"]:
        yield f"MinWorkers {wanted['MinWorkers']} and MaxWorkers {wanted['MaxWorkers']} are no range"
    if wanted["EnvironmentClass"] == "mw1.micro" and wanted["MaxWorkers"] > 1:
        yield "mw1.micro has one worker"
    role = wanted["ExecutionRoleArn"]
    for principal in PRINCIPALS:
        if not emulator.trusts(role, principal):
            yield f"The execution role {role} does not exist or does not trust {principal}"
    yield from _bucket_mistakes(wanted)
    subnets = wanted["NetworkConfiguration"].get("SubnetIds", [])
    if len(subnets) != 2:
        yield f"{len(subnets)} subnets are given, 2 are needed"


def _bucket_mistakes(wanted: Members) -> Iterator[str]:
    """https://docs.aws.amazon.com/mwaa/latest/userguide/mwaa-s3-bucket.html"""
    s3, bucket = _client("s3"), wanted["SourceBucketArn"].rpartition(":")[2]
    try:
        if s3.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
            yield f"Bucket {bucket} is not versioned"
        blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    except ClientError as error:
        yield f"Bucket {bucket} cannot be used: {error}"
        return
    if not all(blocked.values()):
        yield f"Public access to bucket {bucket} is not blocked"
    prefix = wanted["DagS3Path"].rstrip("/") + "/"
    if not s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents"):
        yield f"There is no folder {prefix} in bucket {bucket}"
    for kind in ("Plugins", "Requirements", "StartupScript"):
        key, version = wanted.get(f"{kind}S3Path"), wanted.get(f"{kind}S3ObjectVersion")
        if not key:
            continue
        try:
            s3.head_object(Bucket=bucket, Key=key, **({"VersionId": version} if version else {}))
        except ClientError:
            yield f"Unable to access version {version} of {key} in bucket {bucket}"


def _obstacles(wanted: Members) -> Iterator[str]:
    """Yield what keeps an environment from starting: its network and what its role may not do."""
    yield from _network_obstacles(wanted["NetworkConfiguration"])
    bucket, name, region = wanted["SourceBucketArn"], wanted["Name"], _responses.get_region()
    account = _responses.get_account_id()
    needed = {
        "airflow:PublishMetrics": f"arn:aws:airflow:{region}:{account}:environment/{name}",
        "s3:GetObject": f"{bucket}/{wanted['DagS3Path'].rstrip('/')}/dag.py",
        "s3:GetObjectVersion": f"{bucket}/{wanted.get('PluginsS3Path', 'plugins.zip')}",
        "s3:ListBucket": bucket,
        "s3:GetBucketPublicAccessBlock": bucket,
        "s3:GetAccountPublicAccessBlock": "*",
        "logs:CreateLogStream": f"arn:aws:logs:{region}:{account}:log-group:airflow-{name}-Task:log-stream:",
        "logs:PutLogEvents": f"arn:aws:logs:{region}:{account}:log-group:airflow-{name}-Task:log-stream:",
        "cloudwatch:PutMetricData": "*",
        "sqs:ReceiveMessage": f"arn:aws:sqs:{region}:{account}:airflow-celery-{name}",
        "sqs:SendMessage": f"arn:aws:sqs:{region}:{account}:airflow-celery-{name}",
    }
    session = emulator.service_role_credentials(wanted["ExecutionRoleArn"], PRINCIPALS[0], "AmazonMWAA-airflow")
    for action, resource in needed.items():
        if denied := iam.denial(session.access_key, iam.Check(action, resource, {}), region):
            yield denied


def _network_obstacles(network: Members) -> Iterator[str]:
    """https://docs.aws.amazon.com/mwaa/latest/userguide/networking-about.html"""
    ec2 = _client("ec2")
    try:
        subnets = ec2.describe_subnets(SubnetIds=network["SubnetIds"])["Subnets"]
        groups = ec2.describe_security_groups(GroupIds=network["SecurityGroupIds"])["SecurityGroups"]
    except ClientError as error:
        yield str(error)
        return
    if len({subnet["AvailabilityZone"] for subnet in subnets}) != 2:
        yield "The subnets are not in two Availability Zones"
    for group in groups:
        pairs = [pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]]
        if group["GroupId"] not in pairs:
            yield f"Security group {group['GroupId']} does not let in itself"
    vpc = subnets[0]["VpcId"]
    found = ec2.describe_vpc_endpoints()["VpcEndpoints"]
    endpoints = [endpoint["ServiceName"] for endpoint in found if endpoint["VpcId"] == vpc]
    ways_out = [_way_out(ec2, subnet) for subnet in network["SubnetIds"]]
    if any(way.startswith("igw-") for way in ways_out):
        yield "The subnets are public: they have a route to an internet gateway"
    if not all(ways_out):
        for service in NEEDED_ENDPOINTS:
            if f"com.amazonaws.{_responses.get_region()}.{service}" not in endpoints:
                yield f"The subnets have no way out and {vpc} has no endpoint of {service}"


def _way_out(ec2: Any, subnet: str) -> str:
    """Return what a subnet's default route leads to, nothing if it has none."""
    own = [{"Name": "association.subnet-id", "Values": [subnet]}]
    routes = [route for table in ec2.describe_route_tables(Filters=own)["RouteTables"] for route in table["Routes"]]
    default = [route for route in routes if route.get("DestinationCidrBlock") == "0.0.0.0/0"]
    return next((route.get("NatGatewayId") or route.get("GatewayId") or "other" for route in default), "")


# --- API --------------------------------------------------------------------------------------------------------


def _answer(record: Members) -> Response:
    answer: Response = _responses.json_response({"Arn": record["Arn"]})
    return answer


def _on_api(operation: Any) -> Any:
    """Return a handler of the emulator's that does ``operation`` on the members of a request."""

    def handle(_method: str, path: str, _headers: Any, body: bytes, _query: Any) -> Any:
        members: Payload = (json.loads(body) if body else {}) | {"Name": path.rstrip("/").rpartition("/")[2]}
        try:
            return operation(members)
        except AwsError as error:
            return _responses.error_response_json(error.code, error.message, error.status)

    return handle


def _delete_environment(members: Members) -> Any:
    delete(members["Name"])
    return _responses.json_response({})


def _no_airflow(_members: Members) -> Any:
    raise AwsError("ValidationException", "The embedded AWS runs no Airflow behind an environment.")


async def _invoke_rest_api(*request: Any) -> Any:
    return _on_api(_no_airflow)(*request)


emulator.replace(_mwaa, "_create_environment", _on_api(lambda members: _answer(create(members))))
emulator.replace(_mwaa, "_update_environment", _on_api(lambda members: _answer(update(members))))
emulator.replace(_mwaa, "_delete_environment", _on_api(_delete_environment))
emulator.replace(_mwaa, "_create_web_login_token", _on_api(_no_airflow))
emulator.replace(_mwaa, "_create_cli_token", _on_api(_no_airflow))
emulator.replace(_mwaa, "_invoke_rest_api", _invoke_rest_api)


def _resources(request: iam.Request) -> list[str]:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonmanagedworkflowsforapacheairflow.html"""
    kind, _, name = request.path.strip("/").partition("/")
    return [request.arn(f"environment/{name}")] if kind == "environments" and name else []


iam.name_resources("airflow", _resources)


# --- CloudFormation ---------------------------------------------------------------------------------------------


def _members(properties: Members) -> Members:
    """Return a template's properties as the API types them."""
    members: Members = {name: int(value) if name in NUMBERS else value for name, value in properties.items()}
    logging = members.get("LoggingConfiguration", {})
    members["LoggingConfiguration"] = {
        kind: {**settings, "Enabled": str(settings["Enabled"]).lower() == "true"} for kind, settings in logging.items()
    }
    return members


def _settled(record: Members) -> tuple[str, dict[str, str]]:
    """Wait until an environment is built; return its name and attributes.

    Raises:
        ValueError: the reason for which it could not be built.
    """
    while record["Status"] in ("CREATING", "UPDATING"):
        time.sleep(0.05)
    if record["Status"] != "AVAILABLE":
        raise ValueError(record["LastUpdate"]["Error"]["ErrorMessage"])
    return _described(record)


def _described(record: Members) -> tuple[str, dict[str, str]]:
    return record["Name"], {name: record[name] for name in ("Arn", "CeleryExecutorQueue", "WebserverUrl")}


def _make(_logical_id: str, properties: Members, _stack: str) -> tuple[str, dict[str, str]]:
    members = _members(properties)
    members.pop("WorkerReplacementStrategy", None)
    record = create(members)
    try:
        return _settled(record)
    except ValueError:
        delete(record["Name"])
        raise


def _change(name: str, old: Members, new: Members, _stack: str) -> tuple[str, dict[str, str]]:
    changed = {key: value for key, value in _members(new).items() if value != _members(old).get(key)}
    if not changed:
        return _described(_record(name))
    strategy = {key: new[key] for key in ("WorkerReplacementStrategy",) if key in new}
    return _settled(update({**changed, **strategy, "Name": name}))


def _remove(name: str, _properties: Members) -> None:
    if name in _mwaa._environments:
        delete(name)


emulator.resource_type("AWS::MWAA::Environment", _make, _remove, _change)
_provisioners._STACK_TAG_PROPERTY["AWS::MWAA::Environment"] = ("Tags", "map")
_provisioners._REPLACING_PROPERTIES["AWS::MWAA::Environment"] = frozenset({"EndpointManagement", "KmsKey", "Name"})
