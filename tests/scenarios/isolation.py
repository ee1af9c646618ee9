"""What the roles of a scenario reach, tried with their own credentials where IAM is enforced.

A scenario's test asks for :func:`breaches` while its stack is up. What roles have to write, they write in the runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import boto3
from botocore.exceptions import ClientError

from atlas import settings
from local.launcher import layout
from local.runner import Scenarios
from tests.templates.model import as_list

Client = Callable[[str], Any]
"""Makes the client of a service."""
Things = Mapping[str, str]
"""What a scenario keeps: a service, as actions name it, to an ARN."""

READS: dict[str, Callable[[Client, str], Any]] = {
    "dynamodb:GetItem": lambda client, arn: client("dynamodb").get_item(TableName=arn, Key={"pk": {"S": "1"}}),
    "s3:GetObject": lambda client, arn: client("s3").get_object(**_object(arn)),
    "secretsmanager:GetSecretValue": lambda client, arn: client("secretsmanager").get_secret_value(SecretId=arn),
    "sqs:ReceiveMessage": lambda client, arn: client("sqs").receive_message(QueueUrl=_url(arn), VisibilityTimeout=0),
}
CALLS = READS | {
    "dynamodb:PutItem": lambda client, arn: client("dynamodb").put_item(TableName=arn, Item={"pk": {"S": "2"}}),
    "s3:PutObject": lambda client, arn: client("s3").put_object(**_object(arn)),
    "secretsmanager:PutSecretValue": lambda client, arn: client("secretsmanager").put_secret_value(
        SecretId=arn, SecretString="forged"
    ),
    "sqs:SendMessage": lambda client, arn: client("sqs").send_message(QueueUrl=_url(arn), MessageBody="forged"),
}
DENIALS = {"AccessDenied", "AccessDeniedException"}
WIDER = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": [*CALLS, "kms:Decrypt", "kms:GenerateDataKey"], "Resource": "*"},
        ],
    }
)
"""A policy that allows the calls on everything."""


def breaches(scenarios: Scenarios, stem: str) -> Iterator[str]:
    """Yield, in words, where a role of a scenario reaches what another one keeps, or its twin in ``prod`` does.

    With a wider policy, the control, it reaches the other scenario, but for its boundary still not ``prod``; without
    the boundary, the second control, it reaches that too. What is its own it reads all along.
    """
    stack, read = settings.stack_name(stem), 0
    with (
        things(scenarios, "atlas-dev-s00-another", scenarios.lake, "s00_another") as theirs,
        twin(scenarios, stem) as prods,
    ):
        for role in roles(scenarios, stack):
            with session(scenarios, role) as client:
                yield from unexpected(role, client, theirs, expected=False)
                for action, arn in readable(scenarios, role):
                    read += 1
                    if not allowed(client, action, arn):
                        yield f"{role} cannot {action} on its own {arn}"
                with widened(scenarios, role):
                    yield from unexpected(f"{role}, widened,", client, theirs, expected=True)
                    yield from unexpected(f"{role}, widened,", client, prods, expected=False)
                    with unbounded(scenarios, role):
                        yield from unexpected(f"{role}, unbounded,", client, prods, expected=True)
    if not read:
        yield f"no role of {stem} reads anything"


def unexpected(who: str, client: Client, things: Things, expected: bool) -> Iterator[str]:
    """Yield which calls on ``things`` are allowed, or denied, against expectation."""
    for action in CALLS:
        arn = things[action.partition(":")[0]]
        if allowed(client, action, arn) != expected:
            yield f"{who} {'cannot' if expected else 'can'} {action} on {arn}"


def allowed(client: Client, action: str, arn: str) -> bool:
    """Return whether a call gets past IAM, also if there is nothing to get, or nothing by that key."""
    try:
        CALLS[action](client, arn)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code not in DENIALS | {"NoSuchKey", "ValidationException"}:
            raise
        return code not in DENIALS
    return True


def roles(scenarios: Scenarios, stack: str) -> list[str]:
    """Return the names of the roles that a stack has."""
    pages = scenarios.client("cloudformation").get_paginator("list_stack_resources").paginate(StackName=stack)
    resources = [resource for page in pages for resource in page["StackResourceSummaries"]]
    found = [one["PhysicalResourceId"] for one in resources if one["ResourceType"] == "AWS::IAM::Role"]
    assert found
    return found


def readable(scenarios: Scenarios, role: str) -> Iterator[tuple[str, str]]:
    """Yield what the role's own policies let it read: action and ARN."""
    iam = scenarios.client("iam")
    for name in iam.list_role_policies(RoleName=role)["PolicyNames"]:
        for statement in iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]["Statement"]:
            for action in READS.keys() & set(as_list(statement["Action"])):
                yield from ((action, arn.replace("*", "nothing")) for arn in as_list(statement["Resource"]))


@contextmanager
def things(scenarios: Scenarios, name: str, bucket: str, folder: str) -> Iterator[Things]:
    """Keep a table, a queue, a secret and an object, named as a scenario names them."""
    dynamodb, s3 = scenarios.client("dynamodb"), scenarios.client("s3")
    sqs, secrets = scenarios.client("sqs"), scenarios.client("secretsmanager")
    key = {"AttributeName": "pk"}
    with ExitStack() as removals:
        table = dynamodb.create_table(
            TableName=name,
            KeySchema=[key | {"KeyType": "HASH"}],
            AttributeDefinitions=[key | {"AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )["TableDescription"]["TableArn"]
        removals.callback(dynamodb.delete_table, TableName=name)
        queue = sqs.create_queue(QueueName=name)["QueueUrl"]
        removals.callback(sqs.delete_queue, QueueUrl=queue)
        secret = secrets.create_secret(Name=name, SecretString="private")["ARN"]
        removals.callback(secrets.delete_secret, SecretId=secret, ForceDeleteWithoutRecovery=True)
        s3.put_object(Bucket=bucket, Key=f"{folder}/private")
        removals.callback(s3.delete_object, Bucket=bucket, Key=f"{folder}/private")
        yield {
            "dynamodb": table,
            "s3": f"arn:aws:s3:::{bucket}/{folder}/private",
            "secretsmanager": secret,
            "sqs": sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"],
        }


@contextmanager
def twin(scenarios: Scenarios, stem: str) -> Iterator[Things]:
    """Keep what the scenario would have in ``prod``, in a lake of that name."""
    s3, lake = scenarios.client("s3"), "atlas-prod-lake"
    s3.create_bucket(Bucket=lake)
    try:
        with things(scenarios, settings.stack_name(stem).replace("-dev-", "-prod-"), lake, stem) as prods:
            yield prods
    finally:
        s3.delete_bucket(Bucket=lake)


@contextmanager
def session(scenarios: Scenarios, role: str) -> Iterator[Client]:
    """Act as a role, which for that time trusts the account itself beside its service."""
    iam, sts = scenarios.client("iam"), scenarios.client("sts")
    found = iam.get_role(RoleName=role)["Role"]
    trust = found["AssumeRolePolicyDocument"]
    account = {"Effect": "Allow", "Principal": {"AWS": found["Arn"].split(":")[4]}, "Action": "sts:AssumeRole"}
    wider = {**trust, "Statement": [*trust["Statement"], account]}
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(wider))
    try:
        keys = sts.assume_role(RoleArn=found["Arn"], RoleSessionName="isolation")["Credentials"]
        yield clients(scenarios, keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
    finally:
        iam.update_assume_role_policy(RoleName=role, PolicyDocument=json.dumps(trust))


def clients(scenarios: Scenarios, access_key: str, secret_key: str, token: str | None = None) -> Client:
    """Return what makes clients that act with these credentials, each once."""
    session: Any = boto3.Session(access_key, secret_key, token, layout.REGION)
    return cache(lambda service: session.client(service, endpoint_url=scenarios.endpoint))


@contextmanager
def widened(scenarios: Scenarios, role: str) -> Iterator[None]:
    """Let a role make the calls on everything."""
    iam, name = scenarios.client("iam"), {"RoleName": role, "PolicyName": "wider"}
    iam.put_role_policy(**name, PolicyDocument=WIDER)
    try:
        yield
    finally:
        iam.delete_role_policy(**name)


@contextmanager
def unbounded(scenarios: Scenarios, role: str) -> Iterator[None]:
    """Take the permissions boundary off a role."""
    iam = scenarios.client("iam")
    boundary = iam.get_role(RoleName=role)["Role"]["PermissionsBoundary"]["PermissionsBoundaryArn"]
    iam.delete_role_permissions_boundary(RoleName=role)
    try:
        yield
    finally:
        iam.put_role_permissions_boundary(RoleName=role, PermissionsBoundary=boundary)


def _object(arn: str) -> dict[str, str]:
    bucket, _, key = arn.rpartition(":")[2].partition("/")
    return {"Bucket": bucket, "Key": key}


def _url(arn: str) -> str:
    return "/".join(("http://queue", *arn.split(":")[4:]))
