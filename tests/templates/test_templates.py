"""Every template is valid, grants what is needed and no more, and leaves nothing open or behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cfnlint.api import lint_file  # type: ignore[import-untyped]
from cfnlint.config import ManualArgs  # type: ignore[import-untyped]
from cfnlint.data import AdditionalSpecs  # type: ignore[import-untyped]
from cfnlint.helpers import load_resource  # type: ignore[import-untyped]

from atlas.packaging import Template
from local.launcher import layout
from tests.templates import model, rules

PERMISSIONS = layout.REPOSITORY / "deploy" / "permissions.yaml"
SCENARIOS = sorted((layout.REPOSITORY / "include" / "templates").glob("*.yaml"))
TEMPLATES = [*SCENARIOS, *sorted((layout.REPOSITORY / "deploy").glob("*.yaml"))]
STATEFUL = "I3011"
"""cfn-lint's check for explicit DeletionPolicy and UpdateReplacePolicy; it also knows which resources keep data."""

Rule = Callable[[Template], Iterator[str]]

each_template = pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in TEMPLATES])
each_scenario = pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in SCENARIOS])


def lint(file: Path) -> list[str]:
    """Return what cfn-lint finds, with the checks of this project included."""
    matches = lint_file(file, ManualArgs(include_checks=[STATEFUL]))
    return [f"{match.rule.id} line {match.linenumber}: {match.message}" for match in matches]


def template(**resources: dict[str, Any]) -> Template:
    """Return a template of these resources, loops written out."""
    return model.expand({"Resources": resources})


def policy(**statement: Any) -> dict[str, Any]:
    """Return a policy of one statement, sound but for what ``statement`` says."""
    sound = {"Sid": "One", "Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::lake/raw/*"}
    return {"Statement": [sound | statement]}


def role(**statement: Any) -> dict[str, Any]:
    """Return a role within the boundary, with such a policy."""
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "PermissionsBoundary": {
                "Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:policy/atlas-${Environment}-boundary"
            },
            "AssumeRolePolicyDocument": {
                "Statement": [
                    {"Effect": "Allow", "Principal": {"Service": "glue.amazonaws.com"}, "Action": "sts:AssumeRole"}
                ]
            },
            "Policies": [{"PolicyName": "one", "PolicyDocument": policy(**statement)}],
        },
    }


def key(**statement: Any) -> dict[str, Any]:
    """Return a key with AWS's default policy, but for what ``statement`` says."""
    default = {"Principal": rules.ACCOUNT_ROOT, "Action": "kms:*", "Resource": "*"}
    return {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy(**default | statement)}}


def function(name: str = "load", **properties: Any) -> dict[str, Any]:
    """Return a function."""
    return {
        "Type": "AWS::Serverless::Function",
        "Properties": {
            "FunctionName": {"Fn::Sub": f"${{AWS::StackName}}-{name}"},
            "KmsKeyArn": "key",
            "Role": {"Fn::GetAtt": ["Reader", "Arn"]},
            **properties,
        },
    }


def log_group(name: str = "load", **properties: Any) -> dict[str, Any]:
    """Return the log group of such a function."""
    named = {"LogGroupName": {"Fn::Sub": f"/aws/lambda/${{AWS::StackName}}-{name}"}}
    return {
        "Type": "AWS::Logs::LogGroup",
        "Properties": {**named, "RetentionInDays": 30, "KmsKeyId": "key", **properties},
    }


def bucket(**properties: Any) -> dict[str, Any]:
    """Return a bucket that is closed, but for ``properties``."""
    closed = {
        "BucketEncryption": {"ServerSideEncryptionConfiguration": []},
        "PublicAccessBlockConfiguration": {
            "BlockPublicAcls": True,
            "BlockPublicPolicy": True,
            "IgnorePublicAcls": True,
            "RestrictPublicBuckets": True,
        },
        "VersioningConfiguration": {"Status": "Enabled"},
    }
    return {"Type": "AWS::S3::Bucket", "Properties": closed | properties}


def only_tls(**statement: Any) -> dict[str, Any]:
    """Return the policy that makes the bucket ``Lake`` refuse plain HTTP, but for what ``statement`` says."""
    denial = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [{"Fn::GetAtt": ["Lake", "Arn"]}, {"Fn::Sub": "${Lake.Arn}/*"}],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {"Bucket": {"Ref": "Lake"}, "PolicyDocument": policy(**denial | statement)},
    }


def table(**properties: Any) -> dict[str, Any]:
    """Return a table with all it needs, but for ``properties``."""
    sound = {
        "SSESpecification": {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": "key"},
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
    }
    return {"Type": "AWS::DynamoDB::Table", "Properties": sound | properties}


def queue(**properties: Any) -> dict[str, Any]:
    """Return a queue whose dead letters go to the queue ``Dead``, but for ``properties``."""
    redrive = {"deadLetterTargetArn": {"Fn::GetAtt": ["Dead", "Arn"]}, "maxReceiveCount": 3}
    return {"Type": "AWS::SQS::Queue", "Properties": {"KmsMasterKeyId": "key", "RedrivePolicy": redrive, **properties}}


def dead_letters(**properties: Any) -> dict[str, Any]:
    """Return a queue for dead letters, but for ``properties``."""
    sound = {"KmsMasterKeyId": "key", "MessageRetentionPeriod": 1209600}
    return {"Type": "AWS::SQS::Queue", "Properties": sound | properties}


def mapping(**properties: Any) -> dict[str, Any]:
    """Return a mapping of the table's stream that gives nothing up for lost, but for ``properties``."""
    sound = {
        "EventSourceArn": {"Fn::GetAtt": ["Table", "StreamArn"]},
        "StartingPosition": "TRIM_HORIZON",
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "BisectBatchOnFunctionError": True,
        "MaximumRetryAttempts": 5,
        "MaximumRecordAgeInSeconds": 3600,
        "DestinationConfig": {"OnFailure": {"Destination": {"Fn::Sub": "arn:${AWS::Partition}:s3:::${Lake}"}}},
    }
    return {"Type": "AWS::Lambda::EventSourceMapping", "Properties": sound | properties}


def workflow(**logging: Any) -> dict[str, Any]:
    """Return a state machine with a log, but for ``logging``."""
    sound = {"Level": "ERROR", "IncludeExecutionData": False, "Destinations": [{}]}
    return {"Type": "AWS::Serverless::StateMachine", "Properties": {"Role": "arn", "Logging": sound | logging}}


def alarm(**properties: Any) -> dict[str, Any]:
    """Return an alarm that is heard, but for ``properties``."""
    sound = {"AlarmActions": ["topic"], "TreatMissingData": "notBreaching"}
    return {"Type": "AWS::CloudWatch::Alarm", "Properties": sound | properties}


def database(**properties: Any) -> dict[str, Any]:
    """Return a database nobody reaches and nobody knows the password of, but for ``properties``."""
    sound = {"KmsKeyId": "key", "ManageMasterUserPassword": True, "PubliclyAccessible": False}
    return {"Type": "AWS::RDS::DBInstance", "Properties": sound | properties}


def secret() -> dict[str, Any]:
    """Return a secret."""
    return {"Type": "AWS::SecretsManager::Secret", "Properties": {"KmsKeyId": "key"}}


def rule_with(**target: Any) -> dict[str, Any]:
    """Return an event rule with a target whose undelivered events are kept, but for ``target``."""
    sound = {"Id": "one", "Arn": "arn", "DeadLetterConfig": {"Arn": "dead"}}
    return {"Type": "AWS::Events::Rule", "Properties": {"Targets": [sound | target]}}


def permission() -> dict[str, Any]:
    """Return the permission of one secret's rotation to call a function."""
    sound = {"Principal": "secretsmanager.amazonaws.com", "SourceArn": {"Ref": "Login"}}
    return {"Type": "AWS::Lambda::Permission", "Properties": sound}


def ingress(**properties: Any) -> dict[str, Any]:
    """Return a security group that lets this in."""
    return {"Type": "AWS::EC2::SecurityGroup", "Properties": {"SecurityGroupIngress": [properties]}}


def boundary(*actions: str) -> Template:
    """Return a boundary of these actions."""
    body = {"PolicyDocument": policy(Action=list(actions))}
    return template(Boundary={"Type": "AWS::IAM::ManagedPolicy", "Properties": body})


SOUND = template(
    Key=key(),
    Role=role(),
    Load=function(),
    LoadLogs=log_group(),
    Lake=bucket(),
    LakePolicy=only_tls(),
    Table=table(),
    Queue=queue(),
    Dead=dead_letters(),
    Changes=mapping(),
    Messages=mapping(EventSourceArn={"Fn::GetAtt": ["Queue", "Arn"]}, StartingPosition=None),
    Workflow=workflow(),
    Alarm=alarm(),
    Reader=role(Action="kms:Decrypt", Resource="key"),
    Database=database(),
    Login=secret(),
    Rotation={"Type": "AWS::SecretsManager::RotationSchedule", "Properties": {"SecretId": {"Ref": "Login"}}},
    Rotates=permission(),
    Rule=rule_with(),
    Inside=ingress(CidrIp="10.0.0.0/8"),
)


def test_there_are_templates() -> None:
    assert SCENARIOS
    assert PERMISSIONS in TEMPLATES


@each_template
def test_cfn_lint_finds_nothing(file: Path) -> None:
    assert lint(file) == []


@each_template
def test_no_check_is_switched_off(file: Path) -> None:
    assert "cfn-lint" not in file.read_text(encoding="utf-8")
    assert not list(layout.REPOSITORY.glob(".cfnlintrc*"))


@pytest.mark.parametrize(
    ("resource", "named"),
    [
        pytest.param({"Type": "AWS::SQS::Queue"}, STATEFUL, id="no deletion policy"),
        pytest.param({"Type": "AWS::Logs::LogGroup", "DeletionPolicy": "Delete"}, STATEFUL, id="no replace policy"),
        pytest.param({"Type": "AWS::Kinesis::Stream"}, STATEFUL, id="a stream's policy"),
        pytest.param(
            {"Type": "AWS::DynamoDB::Table", "Properties": {"KeySchema": []}}, STATEFUL, id="a table's policy"
        ),
        pytest.param({"Type": "AWS::SNS::Topic", "Properties": {"TopicNam": "x"}}, "TopicNam", id="unknown property"),
    ],
)
def test_cfn_lint_finds(resource: dict[str, Any], named: str, tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text(yaml.safe_dump({"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"One": resource}}))
    assert named in "\n".join(lint(file))


@each_template
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_the_template_keeps_the_rule(file: Path, rule: Rule) -> None:
    assert list(rule(model.read(file))) == []


@each_scenario
def test_its_roles_have_the_boundary(file: Path) -> None:
    assert list(rules.roles_have_the_boundary(model.read(file))) == []


@each_scenario
def test_its_permissions_are_within_the_boundary(file: Path) -> None:
    assert list(rules.permissions_are_within(model.read(file), model.read(PERMISSIONS))) == []


@each_template
def test_sizes_are_taken_with_the_longest_environment(file: Path) -> None:
    parameters = model.read(file)["Parameters"]
    allowed = re.compile(parameters["Environment"]["AllowedPattern"])
    assert allowed.fullmatch(model.ENVIRONMENT)
    assert not allowed.fullmatch(model.ENVIRONMENT + "e")


@pytest.mark.parametrize("action", rules.WITHOUT_RESOURCE)
def test_the_action_knows_no_resource(action: str) -> None:
    """cfn-lint carries the list of AWS's policy editor."""
    service, _, name = action.partition(":")
    known = load_resource(AdditionalSpecs, "Policies.json")[service]["Actions"][name.lower()]
    assert "Resources" not in known


@pytest.mark.parametrize("action", rules.WITH_OPTIONAL_RESOURCE)
def test_the_action_knows_a_resource_but_needs_none(action: str) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatch.html"""
    service, _, name = action.partition(":")
    assert load_resource(AdditionalSpecs, "Policies.json")[service]["Actions"][name.lower()]["Resources"] == ["dataset"]


@pytest.mark.parametrize("rule", [*rules.RULES, rules.roles_have_the_boundary], ids=lambda rule: rule.__name__)
def test_a_sound_template_keeps_the_rule(rule: Rule) -> None:
    assert list(rule(SOUND)) == []


@pytest.mark.parametrize(
    ("rule", "resources", "named"),
    [
        pytest.param(rules.actions_have_no_wildcard, {"R": role(Action="s3:*")}, "s3:*", id="all actions"),
        pytest.param(rules.actions_have_no_wildcard, {"R": role(Action=["s3:Get*"])}, "s3:Get*", id="some actions"),
        pytest.param(rules.actions_have_no_wildcard, {"R": role(NotAction="iam:*")}, "not named", id="NotAction"),
        pytest.param(
            rules.actions_have_no_wildcard,
            {"K": key(Principal={"AWS": {"Fn::GetAtt": ["R", "Arn"]}})},
            "kms:*",
            id="whole key to a role",
        ),
        pytest.param(rules.actions_have_no_wildcard, {"R": role(Action="kms:*")}, "kms:*", id="all keys to a role"),
        pytest.param(
            rules.actions_have_no_wildcard,
            {"Fn::ForEach::Roles": ["Name", ["A", "B"], {"${Name}Role": role(Action="s3:*")}]},
            "BRole One: action s3:*",
            id="inside a loop",
        ),
        pytest.param(rules.resources_are_named, {"R": role(Resource="*")}, "s3:GetObject", id="any resource"),
        pytest.param(
            rules.resources_are_named,
            {"R": role(Resource=[{"Fn::Sub": "arn:${AWS::Partition}:s3:::*"}])},
            "s3:GetObject",
            id="any bucket",
        ),
        pytest.param(
            rules.resources_are_named,
            {"R": role(Action=["ec2:DescribeVpcs", "ec2:DeleteVpc"], Resource="*")},
            "ec2:DeleteVpc",
            id="hidden among listings",
        ),
        pytest.param(rules.resources_are_named, {"R": role(NotResource="x")}, "not named", id="NotResource"),
        pytest.param(
            rules.principals_are_named, {"P": only_tls(Effect="Allow", Action="s3:GetObject")}, "everybody", id="public"
        ),
        pytest.param(rules.principals_are_named, {"K": key(Principal={"AWS": "*"})}, "everybody", id="any account"),
        pytest.param(rules.principals_are_named, {"K": key(NotPrincipal="x")}, "everybody", id="NotPrincipal"),
        pytest.param(
            rules.roles_have_the_boundary,
            {"R": {"Type": "AWS::IAM::Role", "Properties": {}}},
            "R: not within",
            id="no boundary",
        ),
        pytest.param(
            rules.roles_have_the_boundary,
            {"R": {**role(), "Properties": {**role()["Properties"], "PermissionsBoundary": "other"}}},
            "R: not within",
            id="other boundary",
        ),
        pytest.param(
            rules.roles_have_the_boundary,
            {"R": {**role(), "Properties": {**role()["Properties"], "ManagedPolicyArns": ["x"]}}},
            "not in this template",
            id="policies from elsewhere",
        ),
        pytest.param(
            rules.roles_have_the_boundary,
            {"F": {"Type": "AWS::Serverless::Function", "Properties": {"FunctionName": "x"}}},
            "made for it",
            id="generated role",
        ),
        pytest.param(
            rules.policies_fit,
            {
                "P": {
                    "Type": "AWS::IAM::ManagedPolicy",
                    "Properties": {"PolicyDocument": policy(Action=["s3:GetObject"] * 500)},
                }
            },
            "6144 fit",
            id="long managed policy",
        ),
        pytest.param(
            rules.policies_fit, {"R": role(Action=["s3:GetObject"] * 700)}, "10240 fit", id="long role policies"
        ),
        pytest.param(rules.functions_have_their_log_group, {"F": function()}, "no log group", id="no log group"),
        pytest.param(
            rules.functions_have_their_log_group,
            {"F": function(), "L": log_group("other")},
            "no log group",
            id="another's log group",
        ),
        pytest.param(
            rules.functions_have_their_log_group,
            {"F": function(), "L": log_group(RetentionInDays=None)},
            "no log group",
            id="kept for ever",
        ),
        pytest.param(
            rules.functions_have_their_log_group, {"F": function(FunctionName=None)}, "FunctionName", id="no name"
        ),
        pytest.param(
            rules.buckets_are_closed,
            {"Lake": bucket(BucketEncryption=None), "P": only_tls()},
            "encryption",
            id="not encrypted",
        ),
        pytest.param(
            rules.buckets_are_closed,
            {"Lake": bucket(PublicAccessBlockConfiguration={"BlockPublicAcls": True}), "P": only_tls()},
            "public",
            id="half blocked",
        ),
        pytest.param(
            rules.buckets_are_closed,
            {"Lake": bucket(VersioningConfiguration={"Status": "Suspended"}), "P": only_tls()},
            "versioned",
            id="not versioned",
        ),
        pytest.param(rules.buckets_are_closed, {"Lake": bucket()}, "TLS", id="no policy"),
        pytest.param(
            rules.buckets_are_closed,
            {"Lake": bucket(), "P": only_tls(Resource={"Fn::Sub": "${Lake.Arn}/*"})},
            "TLS",
            id="objects only",
        ),
        pytest.param(
            rules.buckets_are_closed, {"Other": bucket(), "P": only_tls()}, "Other: answers", id="another's policy"
        ),
        *(
            pytest.param(
                rules.what_is_kept_is_encrypted, {"X": {"Type": kind}}, "X: not encrypted", id=f"{kind} in the clear"
            )
            for kind in rules.ENCRYPTED
        ),
        pytest.param(
            rules.log_groups_are_emptied, {"L": log_group(RetentionInDays=None)}, "for ever", id="any log for ever"
        ),
        pytest.param(
            rules.tables_can_be_restored,
            {"T": table(PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False})},
            "no point-in-time",
            id="no recovery",
        ),
        pytest.param(
            rules.queues_have_dead_letters, {"Q": queue(RedrivePolicy=None)}, "Q: no dead", id="no dead letters"
        ),
        pytest.param(
            rules.queues_have_dead_letters,
            {"Q": queue(), "Dead": dead_letters(MessageRetentionPeriod=345600)},
            "Dead: dead letters",
            id="dead letters of four days",
        ),
        *(
            pytest.param(rules.sources_are_read_to_the_end, {"M": wrong}, named, id=f"mapping, {named}")
            for wrong, named in [
                (mapping(FunctionResponseTypes=None), "whole batch"),
                (mapping(StartingPosition="LATEST"), "skipped"),
                (mapping(BisectBatchOnFunctionError=False), "not split"),
                (mapping(ParallelizationFactor=2), "overtake"),
                (mapping(MaximumRetryAttempts=-1), "MaximumRetryAttempts"),
                (mapping(MaximumRecordAgeInSeconds=None), "MaximumRecordAgeInSeconds"),
                (mapping(DestinationConfig={"OnFailure": {"Destination": {"Fn::GetAtt": ["Q", "Arn"]}}}), "is lost"),
            ]
        ),
        pytest.param(
            rules.sources_are_read_to_the_end,
            {"F": function(Events={"Q": {"Type": "SQS", "Properties": {"Queue": {"Fn::GetAtt": ["Q", "Arn"]}}}})},
            "F Q: a failed record",
            id="mapping made by SAM",
        ),
        pytest.param(
            rules.what_is_not_delivered_is_kept, {"R": rule_with(DeadLetterConfig=None)}, "R one: what", id="event rule"
        ),
        *(
            pytest.param(rules.what_is_not_delivered_is_kept, {"X": {"Type": kind}}, "X: what it", id=f"{kind} loses")
            for kind in rules.DEAD_LETTERS
        ),
        pytest.param(
            rules.what_is_not_delivered_is_kept,
            {"F": function(Events={"Files": {"Type": "S3", "Properties": {}}})},
            "F Files: a call that fails is lost",
            id="event of a function",
        ),
        pytest.param(rules.passwords_change, {"S": secret()}, "S: nothing rotates", id="secret for ever"),
        pytest.param(
            rules.passwords_change,
            {
                "S": secret(),
                "R": {"Type": "AWS::SecretsManager::RotationSchedule", "Properties": {"SecretId": {"Ref": "Other"}}},
            },
            "S: nothing rotates",
            id="another secret's rotation",
        ),
        *(
            pytest.param(rules.passwords_change, {"D": {"Type": kind}}, "D: Manage", id=f"{kind}, own password")
            for kind in rules.MANAGED_PASSWORD
        ),
        *(
            pytest.param(rules.nothing_is_public, {"D": {"Type": kind}}, "D: does not say", id=f"{kind} may be public")
            for kind in rules.PRIVATE
        ),
        pytest.param(
            rules.nothing_is_public, {"D": database(PubliclyAccessible=True)}, "D: does not say", id="public database"
        ),
        pytest.param(
            rules.nothing_is_public, {"G": ingress(CidrIp="0.0.0.0/0")}, "G: lets anybody in", id="open group"
        ),
        pytest.param(rules.nothing_is_public, {"G": ingress(CidrIpv6="::/0")}, "G: lets anybody in", id="open by IPv6"),
        pytest.param(
            rules.nothing_is_public,
            {"I": {"Type": "AWS::EC2::SecurityGroupIngress", "Properties": {"CidrIp": "0.0.0.0/0"}}},
            "I: lets anybody in",
            id="rule of an open group",
        ),
        pytest.param(
            rules.nothing_is_public,
            {"P": {"Type": "AWS::Lambda::Permission"}},
            "any account",
            id="permission for any account",
        ),
        pytest.param(
            rules.nothing_is_public,
            {"F": function(FunctionUrlConfig={"AuthType": "NONE"})},
            "F: has an address",
            id="open function",
        ),
        pytest.param(
            rules.functions_can_read_their_settings,
            {"F": {"Type": "AWS::Serverless::Function", "Properties": {}}},
            "not encrypted",
            id="settings in the clear",
        ),
        pytest.param(
            rules.functions_can_read_their_settings,
            {"F": function(), "Reader": role()},
            "F: its role may not decrypt",
            id="role without the key",
        ),
        pytest.param(rules.workflows_keep_a_log, {"W": workflow(Level="OFF")}, "no log", id="workflow without a log"),
        pytest.param(
            rules.workflows_keep_a_log, {"W": workflow(IncludeExecutionData=True)}, "tokens", id="tokens in a log"
        ),
        pytest.param(rules.alarms_tell_somebody, {"A": alarm(AlarmActions=None)}, "nobody", id="silent alarm"),
        pytest.param(rules.alarms_tell_somebody, {"A": alarm(TreatMissingData=None)}, "no data", id="vague alarm"),
    ],
)
def test_the_rule_names_what_is_wrong(rule: Rule, resources: dict[str, Any], named: str) -> None:
    assert named in "\n".join(rule(template(**resources)))


def test_a_permission_the_boundary_holds_back_is_found() -> None:
    asked = template(R=role(Action=["s3:GetObject", "s3:PutObject"]))
    assert list(rules.permissions_are_within(asked, boundary("s3:GetObject"))) == [
        "R One: the boundary holds back s3:PutObject"
    ]
    assert list(rules.permissions_are_within(asked, boundary("s3:GetObject", "s3:PutObject"))) == []


def test_a_policy_is_measured_without_white_space_and_with_names_at_their_longest() -> None:
    statement = {"Resource": {"Fn::Sub": "arn:${AWS::Partition}:s3:::atlas-${Environment}-*"}, "Sid": "a b"}
    written = [
        {"Resource": f"arn:{partition}:s3:::atlas-{model.ENVIRONMENT}-*", "Sid": "ab"} for partition, _ in model.PLACES
    ]
    assert model.policy_sizes(statement) == [len(json.dumps(text, separators=(",", ":"))) for text in written]


def test_a_loop_over_what_only_the_stack_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="Fn::ForEach::Roles runs over"):
        template(**{"Fn::ForEach::Roles": ["Name", {"Ref": "Names"}, {"${Name}Role": role()}]})  # type: ignore[arg-type]
