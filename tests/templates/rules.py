"""The house rules for templates. Each takes a template and yields what is wrong with it, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from atlas.packaging import Template
from tests.templates.model import Statement, as_list, policy_sizes, properties, resources, statements

FUNCTIONS = ("AWS::Serverless::Function", "AWS::Lambda::Function")
MAKES_ITS_ROLE = ("AWS::Serverless::Function", "AWS::Serverless::StateMachine")
IDENTITY_POLICIES = ("AWS::IAM::Role", "AWS::IAM::RolePolicy", "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy")

# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
MANAGED_POLICY_CHARACTERS = 6_144
ROLE_POLICIES_CHARACTERS = 10_240

WITHOUT_RESOURCE = {
    "ec2:DescribeAvailabilityZones": "zones belong to the region",
    "ec2:DescribeNetworkInterfaces": "a listing",
    "ec2:DescribeRouteTables": "a listing",
    "ec2:DescribeSecurityGroupRules": "a listing",
    "ec2:DescribeSecurityGroups": "a listing",
    "ec2:DescribeSubnets": "a listing",
    "ec2:DescribeTags": "a listing",
    "ec2:DescribeVpcEndpoints": "a listing",
    "ec2:DescribeVpcs": "a listing",
    "kms:CreateKey": "a key has no name before it exists",
    "secretsmanager:GetRandomPassword": "makes text and touches no secret",
}
"""Actions that IAM matches with no resource but ``*``, and why that is so:
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html"""

ANYTHING = re.compile(r"(arn:[^:]*:[^:]*:[^:]*:[^:]*:)?\*")
ACCOUNT_ROOT = {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}}


def actions_have_no_wildcard(template: Template) -> Iterator[str]:
    for statement in _allowing(template):
        if "NotAction" in statement.body:
            yield f"{statement.label}: allows whatever is not named"
        for action in statement.actions:
            if re.search(r"[*?]", action) and not _is_default_key_policy(statement):
                yield f"{statement.label}: action {action}"


def resources_are_named(template: Template) -> Iterator[str]:
    for statement in _allowing(template):
        if "NotResource" in statement.body:
            yield f"{statement.label}: reaches whatever is not named"
        if statement.where == "KeyPolicy":  # its resource is the key itself and cannot be written otherwise
            continue
        if any(_is_anything(resource) for resource in statement.resources):
            named = [action for action in statement.actions if action not in WITHOUT_RESOURCE]
            yield from (f"{statement.label}: {action} on any resource" for action in named)


def principals_are_named(template: Template) -> Iterator[str]:
    for statement in _allowing(template):
        principal = statement.body.get("Principal", {})
        values = principal.values() if isinstance(principal, dict) and "Fn::Sub" not in principal else [principal]
        if "NotPrincipal" in statement.body or any("*" in as_list(value) for value in values):
            yield f"{statement.label}: open to everybody"


def roles_have_the_boundary(template: Template) -> Iterator[str]:
    boundary = {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:policy/atlas-${Environment}-boundary"}
    for name, role in resources(template, "AWS::IAM::Role").items():
        if properties(role).get("PermissionsBoundary") != boundary:
            yield f"{name}: not within the permissions boundary"
        if properties(role).get("ManagedPolicyArns"):
            yield f"{name}: takes permissions from policies that are not in this template"
    for name, body in resources(template, *MAKES_ITS_ROLE).items():
        if "Role" not in properties(body):
            yield f"{name}: has a role made for it, outside of the boundary"


def policies_fit(template: Template) -> Iterator[str]:
    for name, policy in resources(template, "AWS::IAM::ManagedPolicy").items():
        size = max(policy_sizes(properties(policy)["PolicyDocument"]))
        if size > MANAGED_POLICY_CHARACTERS:
            yield f"{name}: {size} characters, {MANAGED_POLICY_CHARACTERS} fit"
    for name, role in resources(template, "AWS::IAM::Role").items():
        policies = [policy["PolicyDocument"] for policy in properties(role).get("Policies", [])]
        size = max((sum(sizes) for sizes in zip(*map(policy_sizes, policies), strict=True)), default=0)
        if size > ROLE_POLICIES_CHARACTERS:
            yield f"{name}: {size} characters of policies, {ROLE_POLICIES_CHARACTERS} fit"


def functions_have_their_log_group(template: Template) -> Iterator[str]:
    """Lambda makes a missing group itself, kept for ever and left behind by the stack."""
    groups = [properties(group) for group in resources(template, "AWS::Logs::LogGroup").values()]
    kept = {_text(group.get("LogGroupName")) for group in groups if group.get("RetentionInDays")}
    for name, function in resources(template, *FUNCTIONS).items():
        function_name = _text(properties(function).get("FunctionName"))
        if not function_name:
            yield f"{name}: no FunctionName, so no log group can be made for it"
        elif f"/aws/lambda/{function_name}" not in kept:
            yield f"{name}: no log group /aws/lambda/{function_name} with a retention"


def buckets_are_closed(template: Template) -> Iterator[str]:
    blocked = dict.fromkeys(("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True)
    for name, bucket in resources(template, "AWS::S3::Bucket").items():
        settings = properties(bucket)
        if not settings.get("BucketEncryption"):
            yield f"{name}: no encryption declared"
        if settings.get("PublicAccessBlockConfiguration") != blocked:
            yield f"{name}: public access is not blocked"
        if settings.get("VersioningConfiguration") != {"Status": "Enabled"}:
            yield f"{name}: not versioned"
        if not any(_denies_plain_http(properties(policy), name) for policy in _bucket_policies(template)):
            yield f"{name}: answers without TLS"


def permissions_are_within(template: Template, boundary: Template) -> Iterator[str]:
    """Yield what the roles of ``template`` are given in vain, because the boundary holds it back."""
    allowed = {
        action for statement in _allowing(boundary) if statement.resource == "Boundary" for action in statement.actions
    }
    for statement in _allowing(template):
        if statement.type in IDENTITY_POLICIES and statement.where == "PolicyDocument":
            dead = [action for action in statement.actions if action not in allowed]
            yield from (f"{statement.label}: the boundary holds back {action}" for action in dead)


RULES = (
    actions_have_no_wildcard,
    resources_are_named,
    principals_are_named,
    policies_fit,
    functions_have_their_log_group,
    buckets_are_closed,
)


def _allowing(template: Template) -> list[Statement]:
    return [statement for statement in statements(template) if statement.allows]


def _is_anything(resource: Any) -> bool:
    """Whether it is ``*``, or an ARN of whatever a service has."""
    return ANYTHING.fullmatch(re.sub(r"\$\{[^}]*}", "x", _text(resource))) is not None


def _is_default_key_policy(statement: Statement) -> bool:
    """Whether it is the statement that hands a key's permissions over to IAM, without which nobody could manage it.

    https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
    """
    return (
        statement.where == "KeyPolicy"
        and statement.actions == ["kms:*"]
        and statement.body.get("Principal") == ACCOUNT_ROOT
    )


def _bucket_policies(template: Template) -> list[dict[str, Any]]:
    return list(resources(template, "AWS::S3::BucketPolicy").values())


def _denies_plain_http(policy: dict[str, Any], bucket: str) -> bool:
    arn = [{"Fn::GetAtt": [bucket, "Arn"]}, {"Fn::Sub": f"${{{bucket}.Arn}}/*"}]
    return policy.get("Bucket") == {"Ref": bucket} and any(
        statement.get("Effect") == "Deny"
        and statement.get("Principal") == "*"
        and statement.get("Action") == "s3:*"
        and statement.get("Resource") == arn
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        for statement in as_list(policy["PolicyDocument"]["Statement"])
    )


def _text(value: Any) -> str:
    """Return plain or ``Fn::Sub`` text as it is written; nothing for other intrinsic functions."""
    if isinstance(value, dict):
        value = value.get("Fn::Sub")
    return value if isinstance(value, str) else ""
