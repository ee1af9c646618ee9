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
    "dynamodb:ListStreams": "a listing",
    "ec2:DescribeAccountAttributes": "a listing",
    "ec2:DescribeAddresses": "a listing",
    "ec2:DescribeAvailabilityZones": "zones belong to the region",
    "ec2:DescribeInternetGateways": "a listing",
    "ec2:DescribeNetworkInterfaces": "a listing",
    "ec2:DescribeRouteTables": "a listing",
    "ec2:DescribeSecurityGroupRules": "a listing",
    "ec2:DescribeSecurityGroups": "a listing",
    "ec2:DescribeSubnets": "a listing",
    "ec2:DescribeTags": "a listing",
    "ec2:DescribeVpcEndpoints": "a listing",
    "ec2:DescribeVpcs": "a listing",
    "kms:CreateKey": "a key has no name before it exists",
    "lambda:CreateEventSourceMapping": "a mapping has an id and no name; the condition lambda:FunctionArn limits it",
    "logs:CreateLogDelivery": "a delivery has an id and no name",
    "logs:DeleteLogDelivery": "a delivery has an id and no name",
    "logs:DescribeResourcePolicies": "a listing",
    "logs:GetLogDelivery": "a delivery has an id and no name",
    "logs:ListLogDeliveries": "a listing",
    "logs:PutResourcePolicy": "such a policy belongs to the region",
    "logs:UpdateLogDelivery": "a delivery has an id and no name",
    "redshift-data:CancelStatement": "a statement belongs to the principal that made it",
    "redshift-data:DescribeStatement": "a statement belongs to the principal that made it",
    "redshift-data:GetStatementResult": "a statement belongs to the principal that made it",
    "redshift-data:ListStatements": "a listing of the principal's own",
    "s3:GetAccountPublicAccessBlock": "a setting of the account",
    "secretsmanager:GetRandomPassword": "makes text and touches no secret",
    "states:SendTaskFailure": "the task token says which execution",
    "states:SendTaskSuccess": "the task token says which execution",
}
"""Actions that IAM matches with no resource but ``*``, and why that is so:
https://docs.aws.amazon.com/service-authorization/latest/reference/reference_policies_actions-resources-contextkeys.html"""

WITH_OPTIONAL_RESOURCE = {"cloudwatch:PutMetricData": "a metric has no ARN, only a data set has"}
"""Actions that can be limited to a resource their calls need not have; a policy that names it allows no other call."""

ENCRYPTED = {
    "AWS::DynamoDB::Table": "SSESpecification.KMSMasterKeyId",
    "AWS::Kinesis::Stream": "StreamEncryption.KeyId",
    "AWS::KinesisFirehose::DeliveryStream": (
        "ExtendedS3DestinationConfiguration.EncryptionConfiguration.KMSEncryptionConfig.AWSKMSKeyARN"
    ),
    "AWS::Logs::LogGroup": "KmsKeyId",
    "AWS::RDS::DBInstance": "KmsKeyId",
    "AWS::RedshiftServerless::Namespace": "KmsKeyId",
    "AWS::SNS::Topic": "KmsMasterKeyId",
    "AWS::SQS::Queue": "KmsMasterKeyId",
    "AWS::SecretsManager::Secret": "KmsKeyId",
}
"""Where a resource that keeps data names the key it is encrypted with."""

QUEUE_SECONDS = 1_209_600
"""The longest a queue can keep a message:
https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html"""

MANAGED_PASSWORD = {
    "AWS::RDS::DBInstance": "ManageMasterUserPassword",
    "AWS::RDS::DBCluster": "ManageMasterUserPassword",
    "AWS::Redshift::Cluster": "ManageMasterPassword",
    "AWS::RedshiftServerless::Namespace": "ManageAdminPassword",
}
"""The property by which a database's service makes, keeps and rotates the administrator's password."""

DEAD_LETTERS = {
    "AWS::SNS::Subscription": "RedrivePolicy.deadLetterTargetArn",
    "AWS::Scheduler::Schedule": "Target.DeadLetterConfig.Arn",
}
"""Where a resource that sends something on names the queue for what cannot be delivered."""

PRIVATE = ("AWS::RDS::DBInstance", "AWS::Redshift::Cluster", "AWS::RedshiftServerless::Workgroup")
"""What can have an address in the internet."""

POLLED = ("DynamoDB", "Kinesis", "SQS")
"""Events of a function for which SAM makes an event source mapping."""
ANSWERED = ("Api", "HttpApi")
"""Events of a function whose sender waits for the answer."""

ANYWHERE = ("0.0.0.0/0", "::/0")
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
            named = [action for action in statement.actions if action not in WITHOUT_RESOURCE | WITH_OPTIONAL_RESOURCE]
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


def what_is_kept_is_encrypted(template: Template) -> Iterator[str]:
    """By a key of this project's own, so that its policy and its log say who can read what."""
    for kind, path in ENCRYPTED.items():
        for name, body in resources(template, kind).items():
            if not _inside(properties(body), path):
                yield f"{name}: not encrypted by {path}"


def log_groups_are_emptied(template: Template) -> Iterator[str]:
    for name, group in resources(template, "AWS::Logs::LogGroup").items():
        if not properties(group).get("RetentionInDays"):
            yield f"{name}: kept for ever"


def tables_can_be_restored(template: Template) -> Iterator[str]:
    for name, table in resources(template, "AWS::DynamoDB::Table").items():
        if not _inside(properties(table), "PointInTimeRecoverySpecification.PointInTimeRecoveryEnabled"):
            yield f"{name}: no point-in-time recovery"


def queues_have_dead_letters(template: Template) -> Iterator[str]:
    """A message that always fails must end somewhere, and stay there as long as SQS keeps it."""
    queues = {name: properties(queue) for name, queue in resources(template, "AWS::SQS::Queue").items()}
    dead = {_logical_id(_inside(queue, "RedrivePolicy.deadLetterTargetArn")) for queue in queues.values()}
    for name, queue in queues.items():
        if name in dead:
            if queue.get("MessageRetentionPeriod") != QUEUE_SECONDS:
                yield f"{name}: dead letters are kept shorter than they could be"
        elif not queue.get("RedrivePolicy"):
            yield f"{name}: no dead-letter queue"


def sources_are_read_to_the_end(template: Template) -> Iterator[str]:
    """A batch that fails is retried a limited time, part by part, and then set aside with its content.

    https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-parameters.html
    """
    for name, mapping in _mappings(template):
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name}: a failed record repeats its whole batch"
        source = template["Resources"].get(_logical_id(mapping["EventSourceArn"]), {})
        if source.get("Type") == "AWS::SQS::Queue":
            continue
        if mapping.get("StartingPosition") != "TRIM_HORIZON":
            yield f"{name}: records from before the mapping are skipped"
        if mapping.get("BisectBatchOnFunctionError") is not True:
            yield f"{name}: a batch that fails is not split"
        if mapping.get("ParallelizationFactor", 1) != 1:
            yield f"{name}: batches of one shard overtake each other"
        for limit in ("MaximumRetryAttempts", "MaximumRecordAgeInSeconds"):
            if mapping.get(limit) in (None, -1):
                yield f"{name}: a poison record blocks its shard, {limit} is not limited"
        if ":s3:" not in _text(_inside(mapping, "DestinationConfig.OnFailure.Destination")):
            yield f"{name}: what is given up is lost, no bucket takes it"


def what_is_not_delivered_is_kept(template: Template) -> Iterator[str]:
    """Nobody waits for the answer of an asynchronous delivery, so a failed one must leave a letter."""
    for kind, path in DEAD_LETTERS.items():
        for name, body in resources(template, kind).items():
            if not _inside(properties(body), path):
                yield f"{name}: what it cannot deliver is lost, no {path}"
    for name, rule in resources(template, "AWS::Events::Rule").items():
        for target in properties(rule).get("Targets", []):
            if not _inside(target, "DeadLetterConfig.Arn"):
                yield f"{name} {target['Id']}: what it cannot deliver is lost, no DeadLetterConfig.Arn"
    shared = template.get("Globals", {}).get("Function", {})
    for name, function in resources(template, "AWS::Serverless::Function").items():
        settings = shared | properties(function)
        pushed = [event for event, body in settings.get("Events", {}).items() if body["Type"] not in POLLED + ANSWERED]
        kept = settings.get("DeadLetterQueue") or _inside(settings, "EventInvokeConfig.DestinationConfig.OnFailure")
        yield from (f"{name} {event}: a call that fails is lost" for event in pushed if not kept)


def passwords_change(template: Template) -> Iterator[str]:
    """Of databases, by their service; other secrets by a rotation schedule.

    https://docs.aws.amazon.com/secretsmanager/latest/userguide/rotating-secrets.html
    """
    for kind, managed in MANAGED_PASSWORD.items():
        for name, database in resources(template, kind).items():
            if properties(database).get(managed) is not True:
                yield f"{name}: {managed} is not set, so its administrator's password stays the same"
    schedules = resources(template, "AWS::SecretsManager::RotationSchedule").values()
    rotated = {properties(schedule)["SecretId"].get("Ref") for schedule in schedules}
    for name in resources(template, "AWS::SecretsManager::Secret").keys() - rotated:
        yield f"{name}: nothing rotates it"


def nothing_is_public(template: Template) -> Iterator[str]:
    for name, body in resources(template, *PRIVATE).items():
        if properties(body).get("PubliclyAccessible") is not False:
            yield f"{name}: does not say that it is not public"
    for name, group in resources(template, "AWS::EC2::SecurityGroup").items():
        if any(_is_anywhere(rule) for rule in properties(group).get("SecurityGroupIngress", [])):
            yield f"{name}: lets anybody in"
    for name, rule in resources(template, "AWS::EC2::SecurityGroupIngress").items():
        if _is_anywhere(properties(rule)):
            yield f"{name}: lets anybody in"
    for name, permission in resources(template, "AWS::Lambda::Permission").items():
        if not properties(permission).keys() & {"SourceArn", "SourceAccount"}:
            yield f"{name}: lets the service call on behalf of any account"
    for name, function in resources(template, "AWS::Serverless::Function", "AWS::Lambda::Url").items():
        address = properties(function).get("FunctionUrlConfig", properties(function))
        if address.get("AuthType") == "NONE":
            yield f"{name}: has an address that anybody can call"


def functions_can_read_their_settings(template: Template) -> Iterator[str]:
    """They are encrypted with the project's key, so a function whose role may not use it does not start.

    https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars-encryption.html
    """
    shared = template.get("Globals", {}).get("Function", {})
    readers = {statement.resource for statement in _allowing(template) if "kms:Decrypt" in statement.actions}
    for name, function in resources(template, *FUNCTIONS).items():
        settings = shared | properties(function)
        if "KmsKeyArn" not in settings:
            yield f"{name}: its settings are not encrypted by KmsKeyArn"
        if _logical_id(settings.get("Role")) not in readers:
            yield f"{name}: its role may not decrypt its settings"


def workflows_keep_a_log(template: Template) -> Iterator[str]:
    for name, machine in resources(template, "AWS::Serverless::StateMachine").items():
        logging = properties(machine).get("Logging", {})
        if logging.get("Level", "OFF") == "OFF" or not logging.get("Destinations"):
            yield f"{name}: no log"
        if logging.get("IncludeExecutionData"):
            yield f"{name}: task tokens in the log"


def alarms_tell_somebody(template: Template) -> Iterator[str]:
    for name, alarm in resources(template, "AWS::CloudWatch::Alarm").items():
        if not properties(alarm).get("AlarmActions"):
            yield f"{name}: nobody hears of it"
        if not properties(alarm).get("TreatMissingData"):
            yield f"{name}: does not say what no data means"


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
    what_is_kept_is_encrypted,
    log_groups_are_emptied,
    tables_can_be_restored,
    queues_have_dead_letters,
    what_is_not_delivered_is_kept,
    passwords_change,
    nothing_is_public,
    functions_can_read_their_settings,
    sources_are_read_to_the_end,
    workflows_keep_a_log,
    alarms_tell_somebody,
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


def _is_anywhere(rule: dict[str, Any]) -> bool:
    return rule.get("CidrIp") in ANYWHERE or rule.get("CidrIpv6") in ANYWHERE


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


def _mappings(template: Template) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the settings of each event source mapping, also of those SAM makes of a function's events."""
    for name, mapping in resources(template, "AWS::Lambda::EventSourceMapping").items():
        yield name, properties(mapping)
    for name, function in resources(template, "AWS::Serverless::Function").items():
        for event, body in properties(function).get("Events", {}).items():
            source = body["Properties"].get("Stream") or body["Properties"].get("Queue")
            if body["Type"] in POLLED:
                yield f"{name} {event}", {"EventSourceArn": source, **body["Properties"]}


def _logical_id(value: Any) -> str:
    """Return the logical id of the resource that ``value`` takes an attribute of; nothing for other values."""
    attribute = value.get("Fn::GetAtt", [""]) if isinstance(value, dict) else [""]
    return _text(attribute[0])


def _inside(value: Any, path: str) -> Any:
    """Return what lies at the dotted ``path``, None if it leads nowhere."""
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    """Return plain or ``Fn::Sub`` text as it is written; nothing for other intrinsic functions."""
    if isinstance(value, dict):
        value = value.get("Fn::Sub")
    return value if isinstance(value, str) else ""
