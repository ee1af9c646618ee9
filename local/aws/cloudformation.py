"""CloudFormation: stacks act with a role's permissions and fail where AWS fails.

The emulator runs stacks and rolls them back, but makes every resource with no permission check at all. Here each
resource operation needs its actions allowed for the stack's service role, or for the caller if the stack has none
(https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html). Added as well: code
that is missing, buckets that are not empty, states that refuse an update, and tags of stacks.
"""

from __future__ import annotations

import contextvars
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jmespath  # type: ignore[import-untyped]  # the library has no types

from local.aws import emulator, iam

_cloudformation = emulator.module("services.cloudformation")
_changesets = emulator.module("services.cloudformation.changesets")
_engine = emulator.module("services.cloudformation.engine")
_evaluator = emulator.module("core.iam_evaluator")
_helpers = emulator.module("services.cloudformation.helpers")
_iam = emulator.module("services.iam")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")
_s3 = emulator.module("services.s3")
_stacks = emulator.module("services.cloudformation.stacks")
_tagging = emulator.module("services.tagging")

Params = dict[str, Any]
Properties = Mapping[str, Any]

_operator: contextvars.ContextVar[str] = contextvars.ContextVar("operator", default="")
"""The access key id a stack operation acts with; its background task inherits it. Empty is the account root."""


def operator_key() -> str:
    """Return the access key id the present stack operation acts with, that of the account root if it is empty."""
    return _operator.get() or emulator.root_credentials().access_key


# --- What each resource type needs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Type:
    """The permissions of one resource type.

    ``resource`` is an ARN with fields ``{region}``, ``{account}``, ``{name}`` and properties, or a JMESPath that
    starts with ``@`` and finds the names it stands for; empty: as for the API call of the action. ``name`` is the
    property with the name, empty if AWS assigns an id. Actions are separated by spaces. ``options`` are needed on
    creation if the property is set and on update if it changes, ``undo`` on deletion. ``role`` finds the roles
    that are passed and ``principal`` is the service they are passed to.
    """

    resource: str
    name: str
    create: str
    update: str
    delete: str
    options: Mapping[str, str] = field(default_factory=dict)
    undo: Mapping[str, str] = field(default_factory=dict)
    role: str = ""
    principal: str = ""


def _ec2(kind: str, create: str, delete: str, update: str = "", **options: str) -> Type:
    resource = f"arn:aws:ec2:{{region}}:{{account}}:{kind}/{{name}}"
    return Type(resource, "", create, update, delete, {"Tags": "ec2:CreateTags", **options})


# The actions a template cannot do without, of those in the ``handlers`` of each type's schema
# (https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html); a test holds the two
# against each other. A type that is not here is refused to everybody but the account root.
TYPES = {
    "AWS::Athena::WorkGroup": Type(
        "arn:aws:athena:{region}:{account}:workgroup/{name}",
        "Name",
        "athena:CreateWorkGroup",
        "athena:UpdateWorkGroup",
        "athena:DeleteWorkGroup athena:GetWorkGroup",
        {"Tags": "athena:TagResource"},
    ),
    "AWS::CloudWatch::Alarm": Type(
        "arn:aws:cloudwatch:{region}:{account}:alarm:{name}",
        "AlarmName",
        "cloudwatch:PutMetricAlarm cloudwatch:DescribeAlarms",
        "cloudwatch:PutMetricAlarm cloudwatch:DescribeAlarms",
        "cloudwatch:DeleteAlarms cloudwatch:DescribeAlarms",
        {"Tags": "cloudwatch:TagResource"},
    ),
    "AWS::DynamoDB::GlobalTable": Type(
        "arn:aws:dynamodb:{region}:{account}:table/{name}",
        "TableName",
        "dynamodb:CreateTable dynamodb:UpdateTable",
        "dynamodb:UpdateTable",
        "dynamodb:DeleteTable",
        {
            "Replicas": "dynamodb:CreateTableReplica dynamodb:UpdateContinuousBackups dynamodb:Query dynamodb:Scan "
            "dynamodb:GetItem dynamodb:PutItem dynamodb:UpdateItem dynamodb:DeleteItem dynamodb:BatchWriteItem",
            "TimeToLiveSpecification": "dynamodb:UpdateTimeToLive",
        },
    ),
    "AWS::DynamoDB::Table": Type(
        "arn:aws:dynamodb:{region}:{account}:table/{name}",
        "TableName",
        "dynamodb:CreateTable dynamodb:DescribeTable",
        "dynamodb:UpdateTable dynamodb:DescribeTable",
        "dynamodb:DeleteTable dynamodb:DescribeTable",
        {
            "PointInTimeRecoverySpecification": "dynamodb:UpdateContinuousBackups",
            "Tags": "dynamodb:TagResource",
            "TimeToLiveSpecification": "dynamodb:UpdateTimeToLive",
        },
    ),
    "AWS::EC2::InternetGateway": _ec2("internet-gateway", "ec2:CreateInternetGateway", "ec2:DeleteInternetGateway"),
    "AWS::EC2::Route": Type(
        "arn:aws:ec2:{region}:{account}:route-table/{RouteTableId}",
        "",
        "ec2:CreateRoute",
        "ec2:ReplaceRoute",
        "ec2:DeleteRoute",
    ),
    "AWS::EC2::RouteTable": _ec2("route-table", "ec2:CreateRouteTable", "ec2:DeleteRouteTable"),
    "AWS::EC2::SecurityGroup": _ec2(
        "security-group",
        "ec2:CreateSecurityGroup ec2:DescribeSecurityGroups",
        "ec2:DeleteSecurityGroup ec2:DescribeSecurityGroups",
        SecurityGroupIngress="ec2:AuthorizeSecurityGroupIngress",
        SecurityGroupEgress="ec2:AuthorizeSecurityGroupEgress",
    ),
    "AWS::EC2::SecurityGroupEgress": Type(
        "arn:aws:ec2:{region}:{account}:security-group/{GroupId}",
        "",
        "ec2:AuthorizeSecurityGroupEgress ec2:DescribeSecurityGroupRules",
        "ec2:UpdateSecurityGroupRuleDescriptionsEgress",
        "ec2:RevokeSecurityGroupEgress ec2:DescribeSecurityGroupRules",
    ),
    "AWS::EC2::SecurityGroupIngress": Type(
        "arn:aws:ec2:{region}:{account}:security-group/{GroupId}",
        "",
        "ec2:AuthorizeSecurityGroupIngress ec2:DescribeSecurityGroupRules",
        "ec2:UpdateSecurityGroupRuleDescriptionsIngress",
        "ec2:RevokeSecurityGroupIngress ec2:DescribeSecurityGroupRules",
    ),
    "AWS::EC2::Subnet": _ec2(
        "subnet",
        "ec2:CreateSubnet ec2:DescribeSubnets",
        "ec2:DeleteSubnet ec2:DescribeSubnets",
        MapPublicIpOnLaunch="ec2:ModifySubnetAttribute",
    ),
    "AWS::EC2::SubnetRouteTableAssociation": Type(
        "arn:aws:ec2:{region}:{account}:route-table/{RouteTableId}",
        "",
        "ec2:AssociateRouteTable",
        "",
        "ec2:DisassociateRouteTable",
    ),
    "AWS::EC2::VPC": _ec2(
        "vpc",
        "ec2:CreateVpc ec2:DescribeVpcs",
        "ec2:DeleteVpc ec2:DescribeVpcs",
        EnableDnsHostnames="ec2:ModifyVpcAttribute",
        EnableDnsSupport="ec2:ModifyVpcAttribute",
    ),
    "AWS::EC2::VPCEndpoint": _ec2(
        "vpc-endpoint",
        "ec2:CreateVpcEndpoint ec2:DescribeVpcEndpoints",
        "ec2:DeleteVpcEndpoints ec2:DescribeVpcEndpoints",
        "ec2:ModifyVpcEndpoint ec2:DescribeVpcEndpoints",
    ),
    "AWS::EC2::VPCGatewayAttachment": Type(
        "arn:aws:ec2:{region}:{account}:vpc/{VpcId}",
        "",
        "ec2:AttachInternetGateway",
        "",
        "ec2:DetachInternetGateway",
    ),
    "AWS::Events::Archive": Type(
        "arn:aws:events:{region}:{account}:archive/{name}",
        "ArchiveName",
        "events:CreateArchive events:DescribeArchive",
        "events:UpdateArchive events:DescribeArchive",
        "events:DeleteArchive events:DescribeArchive",
    ),
    "AWS::Events::EventBus": Type(
        "arn:aws:events:{region}:{account}:event-bus/{name}",
        "Name",
        "events:CreateEventBus events:DescribeEventBus",
        "events:UpdateEventBus events:DescribeEventBus",
        "events:DeleteEventBus events:DescribeEventBus",
        {"Policy": "events:PutPermission", "Tags": "events:TagResource"},
    ),
    "AWS::Events::Rule": Type(
        "",
        "Name",
        "events:PutRule events:DescribeRule",
        "events:PutRule events:DescribeRule",
        "events:DeleteRule events:DescribeRule",
        {"Tags": "events:TagResource", "Targets": "events:PutTargets"},
        {"Targets": "events:RemoveTargets"},
        "[RoleArn, Targets[].RoleArn][]",
        "events.amazonaws.com",
    ),
    "AWS::Glue::Connection": Type(
        "",
        "Name",
        "glue:CreateConnection glue:GetConnection",
        "glue:UpdateConnection glue:GetConnection",
        "glue:DeleteConnection",
    ),
    "AWS::Glue::Database": Type(
        "",
        "Name",
        "glue:CreateDatabase glue:GetDatabase",
        "glue:UpdateDatabase",
        "glue:DeleteDatabase glue:GetDatabase",
    ),
    "AWS::Glue::Job": Type(
        "",
        "Name",
        "glue:CreateJob glue:GetJob",
        "glue:UpdateJob",
        "glue:DeleteJob glue:GetJob",
        {"Tags": "glue:TagResource"},
        role="[Role]",
        principal="glue.amazonaws.com",
    ),
    "AWS::Glue::Table": Type(
        "",
        "Name",
        "glue:CreateTable glue:GetTable",
        "glue:UpdateTable glue:GetTable",
        "glue:DeleteTable glue:GetTable",
    ),
    "AWS::Glue::Trigger": Type(
        "",
        "Name",
        "glue:CreateTrigger glue:GetTrigger",
        "glue:UpdateTrigger",
        "glue:DeleteTrigger glue:GetTrigger",
        {"Tags": "glue:TagResource"},
    ),
    "AWS::Glue::Workflow": Type(
        "",
        "Name",
        "glue:CreateWorkflow glue:GetWorkflow",
        "glue:UpdateWorkflow glue:GetWorkflow",
        "glue:DeleteWorkflow glue:GetWorkflow",
        {"Tags": "glue:TagResource"},
    ),
    "AWS::IAM::ManagedPolicy": Type(
        "arn:aws:iam::{account}:policy{Path}{name}",
        "ManagedPolicyName",
        "iam:CreatePolicy",
        "iam:CreatePolicyVersion iam:ListPolicyVersions",
        "iam:DeletePolicy iam:ListPolicyVersions",
    ),
    "AWS::IAM::Policy": Type(
        "@Roles arn:aws:iam::{account}:role/{name}",
        "",
        "iam:PutRolePolicy",
        "iam:PutRolePolicy",
        "iam:DeleteRolePolicy",
    ),
    "AWS::IAM::Role": Type(
        "arn:aws:iam::{account}:role{Path}{name}",
        "RoleName",
        "iam:CreateRole iam:GetRole",
        "",
        "iam:DeleteRole iam:GetRole",
        {
            "AssumeRolePolicyDocument": "iam:UpdateAssumeRolePolicy",
            "Description": "iam:UpdateRole",
            "ManagedPolicyArns": "iam:AttachRolePolicy",
            "MaxSessionDuration": "iam:UpdateRole",
            "PermissionsBoundary": "iam:PutRolePermissionsBoundary",
            "Policies": "iam:PutRolePolicy",
            "Tags": "iam:TagRole",
        },
        {"ManagedPolicyArns": "iam:DetachRolePolicy", "Policies": "iam:DeleteRolePolicy"},
    ),
    "AWS::IAM::RolePolicy": Type(
        "@[RoleName] arn:aws:iam::{account}:role/{name}",
        "",
        "iam:PutRolePolicy iam:GetRolePolicy",
        "iam:PutRolePolicy iam:GetRolePolicy",
        "iam:DeleteRolePolicy iam:GetRolePolicy",
    ),
    "AWS::IoT::TopicRule": Type(
        "arn:aws:iot:{region}:{account}:rule/{name}",
        "RuleName",
        "iot:CreateTopicRule iot:GetTopicRule",
        "iot:ReplaceTopicRule iot:GetTopicRule",
        "iot:DeleteTopicRule iot:GetTopicRule",
        {"Tags": "iot:TagResource"},
        role="TopicRulePayload.[Actions[].values(@)[].RoleArn, values(ErrorAction || `{}`)[].RoleArn][]",
        principal="iot.amazonaws.com",
    ),
    "AWS::KMS::Alias": Type("", "AliasName", "kms:CreateAlias", "kms:UpdateAlias", "kms:DeleteAlias"),
    "AWS::KMS::Key": Type(
        "arn:aws:kms:{region}:{account}:key/{name}",
        "",
        "kms:CreateKey",
        "kms:DescribeKey",
        "kms:ScheduleKeyDeletion kms:DescribeKey",
        {
            "EnableKeyRotation": "kms:EnableKeyRotation",
            "KeyPolicy": "kms:PutKeyPolicy",
            "Tags": "kms:TagResource",
        },
    ),
    "AWS::Kinesis::Stream": Type(
        "arn:aws:kinesis:{region}:{account}:stream/{name}",
        "Name",
        "kinesis:CreateStream kinesis:DescribeStreamSummary",
        "kinesis:DescribeStreamSummary",
        "kinesis:DeleteStream kinesis:DescribeStreamSummary",
        {
            "RetentionPeriodHours": "kinesis:IncreaseStreamRetentionPeriod",
            "StreamEncryption": "kinesis:StartStreamEncryption",
            "Tags": "kinesis:AddTagsToStream",
        },
    ),
    "AWS::KinesisFirehose::DeliveryStream": Type(
        "arn:aws:firehose:{region}:{account}:deliverystream/{name}",
        "DeliveryStreamName",
        "firehose:CreateDeliveryStream firehose:DescribeDeliveryStream",
        "firehose:UpdateDestination firehose:DescribeDeliveryStream",
        "firehose:DeleteDeliveryStream firehose:DescribeDeliveryStream",
        {
            "DeliveryStreamEncryptionConfigurationInput": "firehose:StartDeliveryStreamEncryption",
            "Tags": "firehose:TagDeliveryStream",
        },
        role="values(@)[?type(@)=='object'].[RoleARN, S3BackupConfiguration.RoleARN][]",
        principal="firehose.amazonaws.com",
    ),
    "AWS::Lambda::EventSourceMapping": Type(
        "arn:aws:lambda:{region}:{account}:event-source-mapping:{name}",
        "",
        "lambda:CreateEventSourceMapping lambda:GetEventSourceMapping",
        "lambda:UpdateEventSourceMapping lambda:GetEventSourceMapping",
        "lambda:DeleteEventSourceMapping lambda:GetEventSourceMapping",
        {"Tags": "lambda:TagResource"},
    ),
    "AWS::Lambda::Function": Type(
        "arn:aws:lambda:{region}:{account}:function:{name}",
        "FunctionName",
        "lambda:CreateFunction lambda:GetFunction",
        "lambda:GetFunction lambda:UpdateFunctionCode lambda:UpdateFunctionConfiguration",
        "lambda:DeleteFunction lambda:GetFunction",
        {
            "ReservedConcurrentExecutions": "lambda:PutFunctionConcurrency",
            "Tags": "lambda:TagResource",
            "VpcConfig": "ec2:DescribeSecurityGroups ec2:DescribeSubnets ec2:DescribeVpcs",
        },
        role="[Role]",
        principal="lambda.amazonaws.com",
    ),
    "AWS::Lambda::LayerVersion": Type(
        "arn:aws:lambda:{region}:{account}:layer:{name}",
        "LayerName",
        "lambda:PublishLayerVersion",
        "",
        "lambda:DeleteLayerVersion lambda:GetLayerVersion",
    ),
    "AWS::Lambda::Permission": Type(
        "@[FunctionName] arn:aws:lambda:{region}:{account}:function:{name}",
        "",
        "lambda:AddPermission",
        "",
        "lambda:RemovePermission",
    ),
    "AWS::Logs::LogGroup": Type(
        "arn:aws:logs:{region}:{account}:log-group:{name}:log-stream:",
        "LogGroupName",
        "logs:CreateLogGroup logs:DescribeLogGroups",
        "logs:DescribeLogGroups",
        "logs:DeleteLogGroup logs:DescribeLogGroups",
        {
            "RetentionInDays": "logs:PutRetentionPolicy",
            "Tags": "logs:TagResource",
        },
    ),
    "AWS::Logs::LogStream": Type(
        "arn:aws:logs:{region}:{account}:log-group:{LogGroupName}:log-stream:{name}",
        "LogStreamName",
        "logs:CreateLogStream logs:DescribeLogStreams",
        "",
        "logs:DeleteLogStream",
    ),
    "AWS::MWAA::Environment": Type(
        "arn:aws:airflow:{region}:{account}:environment/{name}",
        "Name",
        "airflow:CreateEnvironment airflow:GetEnvironment",
        "airflow:UpdateEnvironment airflow:GetEnvironment",
        "airflow:DeleteEnvironment airflow:GetEnvironment",
        {"Tags": "airflow:TagResource"},
        role="[ExecutionRoleArn]",
        principal="airflow.amazonaws.com",
    ),
    "AWS::Pipes::Pipe": Type(
        "arn:aws:pipes:{region}:{account}:pipe/{name}",
        "Name",
        "pipes:CreatePipe pipes:DescribePipe",
        "pipes:UpdatePipe pipes:DescribePipe",
        "pipes:DeletePipe pipes:DescribePipe",
        {"Tags": "pipes:TagResource"},
        role="[RoleArn]",
        principal="pipes.amazonaws.com",
    ),
    "AWS::Logs::MetricFilter": Type(
        "arn:aws:logs:{region}:{account}:log-group:{LogGroupName}:log-stream:",
        "FilterName",
        "logs:PutMetricFilter logs:DescribeMetricFilters",
        "logs:PutMetricFilter logs:DescribeMetricFilters",
        "logs:DeleteMetricFilter",
    ),
    "AWS::RDS::DBInstance": Type(
        "",
        "DBInstanceIdentifier",
        "rds:CreateDBInstance rds:DescribeDBInstances",
        "rds:ModifyDBInstance rds:DescribeDBInstances",
        "rds:DeleteDBInstance rds:DescribeDBInstances",
        {"Tags": "rds:AddTagsToResource"},
    ),
    "AWS::RDS::DBParameterGroup": Type(
        "",
        "DBParameterGroupName",
        "rds:CreateDBParameterGroup rds:DescribeDBParameterGroups",
        "rds:ModifyDBParameterGroup rds:DescribeDBParameterGroups",
        "rds:DeleteDBParameterGroup",
        {"Parameters": "rds:ModifyDBParameterGroup", "Tags": "rds:AddTagsToResource"},
    ),
    "AWS::RDS::DBSubnetGroup": Type(
        "",
        "DBSubnetGroupName",
        "rds:CreateDBSubnetGroup rds:DescribeDBSubnetGroups",
        "rds:ModifyDBSubnetGroup rds:DescribeDBSubnetGroups",
        "rds:DeleteDBSubnetGroup rds:DescribeDBSubnetGroups",
        {"Tags": "rds:AddTagsToResource"},
    ),
    "AWS::RedshiftServerless::Namespace": Type(
        "",
        "NamespaceName",
        "redshift-serverless:CreateNamespace redshift-serverless:GetNamespace",
        "redshift-serverless:UpdateNamespace redshift-serverless:GetNamespace",
        "redshift-serverless:DeleteNamespace redshift-serverless:GetNamespace",
        {"Tags": "redshift-serverless:TagResource"},
        role="IamRoles",
        principal="redshift-serverless.amazonaws.com",
    ),
    "AWS::RedshiftServerless::Workgroup": Type(
        "",
        "WorkgroupName",
        "redshift-serverless:CreateWorkgroup redshift-serverless:GetWorkgroup redshift-serverless:GetNamespace",
        "redshift-serverless:UpdateWorkgroup redshift-serverless:GetWorkgroup",
        "redshift-serverless:DeleteWorkgroup redshift-serverless:GetWorkgroup",
        {
            "SubnetIds": "ec2:DescribeSubnets ec2:DescribeVpcAttribute ec2:DescribeAvailabilityZones",
            "SecurityGroupIds": "ec2:DescribeSecurityGroups",
            "Tags": "redshift-serverless:TagResource",
        },
    ),
    "AWS::S3::Bucket": Type(
        "arn:aws:s3:::{name}",
        "BucketName",
        "s3:CreateBucket",
        "",
        "s3:DeleteBucket",
        {
            "BucketEncryption": "s3:PutEncryptionConfiguration",
            "LifecycleConfiguration": "s3:PutLifecycleConfiguration",
            "LoggingConfiguration": "s3:PutBucketLogging",
            "NotificationConfiguration": "s3:PutBucketNotification",
            "OwnershipControls": "s3:PutBucketOwnershipControls",
            "PublicAccessBlockConfiguration": "s3:PutBucketPublicAccessBlock",
            "Tags": "s3:PutBucketTagging",
            "VersioningConfiguration": "s3:PutBucketVersioning",
        },
    ),
    "AWS::S3::BucketPolicy": Type(
        "arn:aws:s3:::{Bucket}",
        "",
        "s3:PutBucketPolicy s3:GetBucketPolicy",
        "s3:PutBucketPolicy s3:GetBucketPolicy",
        "s3:DeleteBucketPolicy s3:GetBucketPolicy",
    ),
    "AWS::SNS::Subscription": Type(
        "@[TopicArn] {name}", "", "sns:Subscribe", "sns:SetSubscriptionAttributes", "sns:Unsubscribe"
    ),
    "AWS::SNS::Topic": Type(
        "arn:aws:sns:{region}:{account}:{name}",
        "TopicName",
        "sns:CreateTopic sns:GetTopicAttributes",
        "sns:SetTopicAttributes sns:GetTopicAttributes",
        "sns:DeleteTopic sns:GetTopicAttributes",
        {"Subscription": "sns:Subscribe", "Tags": "sns:TagResource"},
    ),
    "AWS::SNS::TopicPolicy": Type(
        "@Topics {name}", "", "sns:SetTopicAttributes", "sns:SetTopicAttributes", "sns:SetTopicAttributes"
    ),
    "AWS::SQS::Queue": Type(
        "arn:aws:sqs:{region}:{account}:{name}",
        "QueueName",
        "sqs:CreateQueue sqs:GetQueueAttributes",
        "sqs:SetQueueAttributes sqs:GetQueueAttributes",
        "sqs:DeleteQueue sqs:GetQueueAttributes",
        {"Tags": "sqs:TagQueue"},
    ),
    "AWS::SQS::QueuePolicy": Type(
        "@Queues arn:aws:sqs:{region}:{account}:{name}",
        "",
        "sqs:SetQueueAttributes",
        "sqs:SetQueueAttributes",
        "sqs:SetQueueAttributes",
    ),
    "AWS::Scheduler::Schedule": Type(
        "arn:aws:scheduler:{region}:{account}:schedule/{GroupName}/{name}",
        "Name",
        "scheduler:CreateSchedule scheduler:GetSchedule",
        "scheduler:UpdateSchedule scheduler:GetSchedule",
        "scheduler:DeleteSchedule scheduler:GetSchedule",
        role="[Target.RoleArn]",
        principal="scheduler.amazonaws.com",
    ),
    "AWS::Scheduler::ScheduleGroup": Type(
        "arn:aws:scheduler:{region}:{account}:schedule-group/{name}",
        "Name",
        "scheduler:CreateScheduleGroup scheduler:GetScheduleGroup",
        "scheduler:GetScheduleGroup",
        "scheduler:DeleteScheduleGroup scheduler:GetScheduleGroup",
        {"Tags": "scheduler:TagResource"},
    ),
    "AWS::SecretsManager::Secret": Type(
        "arn:aws:secretsmanager:{region}:{account}:secret:{name}",
        "Name",
        "secretsmanager:CreateSecret secretsmanager:DescribeSecret",
        "secretsmanager:UpdateSecret",
        "secretsmanager:DeleteSecret secretsmanager:DescribeSecret",
        {"GenerateSecretString": "secretsmanager:GetRandomPassword", "Tags": "secretsmanager:TagResource"},
    ),
    "AWS::SecretsManager::RotationSchedule": Type(
        "@[SecretId] {name}",
        "",
        "secretsmanager:DescribeSecret secretsmanager:RotateSecret",
        "secretsmanager:RotateSecret",
        "secretsmanager:CancelRotateSecret",
    ),
    "AWS::SecretsManager::SecretTargetAttachment": Type(
        "@[SecretId] {name}",
        "",
        "secretsmanager:GetSecretValue secretsmanager:PutSecretValue",
        "secretsmanager:GetSecretValue secretsmanager:PutSecretValue",
        "secretsmanager:GetSecretValue secretsmanager:PutSecretValue",
    ),
    "AWS::StepFunctions::StateMachine": Type(
        "arn:aws:states:{region}:{account}:stateMachine:{name}",
        "StateMachineName",
        "states:CreateStateMachine states:DescribeStateMachine",
        "states:UpdateStateMachine",
        "states:DeleteStateMachine states:DescribeStateMachine",
        {"Tags": "states:TagResource"},
        role="[RoleArn]",
        principal="states.amazonaws.com",
    ),
}

# Actions without resource-level permissions: they are authorized on everything.
_ON_EVERYTHING = re.compile(
    r"ec2:Describe(?!VpcAttribute).*|kms:CreateKey|lambda:CreateEventSourceMapping|secretsmanager:GetRandomPassword|sns:Unsubscribe"
)


_LISTED_AS = {"cloudwatch:DescribeAlarms": "*", "logs:DescribeLogGroups": ""}


def _checks(
    operation: str, kind: str, logical: str, physical: str, properties: Properties, old: Properties, stack: str
) -> Iterator[iam.Check]:
    """Yield the permissions for ``operation`` (create, update or delete) of a resource of type ``kind``.

    ``physical`` is the physical id, empty on creation; ``old`` are the properties before an update.
    """
    rule = TYPES[kind]
    changed = {
        name
        for name in rule.options
        if _own(properties.get(name)) and (operation == "create" or properties.get(name) != old.get(name))
    }
    if operation == "create" and kind == "AWS::IAM::Role":
        # CreateRole itself takes these.
        changed -= {"AssumeRolePolicyDocument", "Description", "MaxSessionDuration", "PermissionsBoundary"}
    actions = getattr(rule, operation).split()
    if operation == "delete":
        actions += [action for name, action in rule.undo.items() if properties.get(name)]
    else:
        actions += " ".join(rule.options[name] for name in sorted(changed)).split()
    name = physical or _new_name(rule, kind, logical, properties, stack)
    context = _context(kind, name, properties)
    for action in dict.fromkeys(actions):
        everything = _ON_EVERYTHING.fullmatch(action)
        for resource in ["*"] if everything else _resources(rule, action, name, properties):
            if action in {"iam:AttachRolePolicy", "iam:DetachRolePolicy"}:
                for policy in properties["ManagedPolicyArns"]:
                    yield iam.Check(action, resource, {**context, "iam:PolicyARN": policy})
            else:
                yield iam.Check(action, resource, context)
    if operation != "delete":
        for role in filter(None, jmespath.search(rule.role, properties) or [] if rule.role else []):
            yield iam.pass_role(iam.role_arn(role), rule.principal)
        for bucket, key, version in _code_objects(kind, properties):
            action = "s3:GetObjectVersion" if version else "s3:GetObject"
            yield iam.Check(action, f"arn:aws:s3:::{bucket}/{key}", {})
        for layer in properties.get("Layers", []) if kind == "AWS::Lambda::Function" else []:
            yield iam.Check("lambda:GetLayerVersion", layer, {})


def _context(kind: str, name: str, properties: Properties) -> dict[str, str]:
    """Return the condition keys of the calls about a resource."""
    if kind == "AWS::IAM::Role":
        return iam.iam_context({"RoleName": name, **properties})
    if kind == "AWS::IAM::RolePolicy":
        return iam.iam_context(properties)
    if kind == "AWS::Lambda::EventSourceMapping":
        return iam.mapping_context(properties.get("FunctionName", ""))
    return {}


def _own(value: Any) -> Any:
    """Return a property without the ``aws:`` tags CloudFormation itself puts on resources, which need no permission."""
    if isinstance(value, list):
        return [tag for tag in value if not (isinstance(tag, dict) and str(tag.get("Key", "")).startswith("aws:"))]
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if not key.startswith("aws:")}
    return value


def _new_name(rule: Type, kind: str, logical: str, properties: Properties, stack: str) -> str:
    """Return the name a resource is to get: ``*`` for an id AWS assigns, else one like those it generates."""
    if not rule.name:
        return "*"
    # Glue's names are one level down: DatabaseInput.Name.
    inputs = [value for value in properties.values() if isinstance(value, dict)] if not rule.resource else []
    named = [holder[rule.name] for holder in (properties, *inputs) if holder.get(rule.name)]
    name = str(named[0]) if named else f"{stack}-{logical}-XXXXXXXXXXXX"
    return name.lower() if kind.startswith(("AWS::S3::", "AWS::RDS::")) else name


def _resources(rule: Type, action: str, name: str, properties: Properties) -> list[str]:
    """Return the ARNs ``action`` on the resource ``name`` is authorized on."""
    region, account = _responses.get_region(), _responses.get_account_id()
    if action == "ec2:DescribeVpcAttribute":  # of the network that the resource's subnets are in
        return [f"arn:aws:ec2:{region}:{account}:vpc/*"]
    if not rule.resource:
        members = {**properties, rule.name: name}
        # A tag is put on what the type's own call makes, which is the first of its resources.
        tagging = "Tag" in action
        asked = rule.create.split()[0] if tagging else action
        request = iam.Request(asked.partition(":")[0], asked, "", members, region, account)
        found = iam.resources(request) or ["*"]
        return found[:1] if tagging else found
    # What is listed is listed as a whole, even with a prefix: such an action knows no single group or alarm.
    names, pattern = [_LISTED_AS.get(action, name)], rule.resource
    if pattern.startswith("@"):
        expression, _, pattern = pattern[1:].rpartition(" ")
        names = jmespath.search(expression, properties) or []
    fields = {"Path": "/", "GroupName": "default", **properties, "region": region, "account": account}
    return [
        each if each.startswith("arn:") else pattern.format(**{**fields, "name": _last_part(each)}) for each in names
    ]


def _last_part(physical: str) -> str:
    """Return the name in a physical id that is a URL, as a queue's is, and any other id as it is."""
    return physical.rpartition("/")[2] if "://" in physical else physical


def _code_objects(kind: str, properties: Properties) -> list[tuple[str, str, str | None]]:
    """Return bucket, key and version of what a function, layer or state machine is made from, if it lies in S3."""
    if kind == "AWS::StepFunctions::StateMachine" and (place := properties.get("DefinitionS3Location")):
        return [(place["Bucket"], place["Key"], place.get("Version"))]
    member = {"AWS::Lambda::Function": "Code", "AWS::Lambda::LayerVersion": "Content"}.get(kind)
    code = properties.get(member, {}) if member else {}
    return [(code["S3Bucket"], code["S3Key"], code.get("S3ObjectVersion"))] if "S3Bucket" in code else []


# --- Resource operations ----------------------------------------------------------------------------------------


def _authorize(
    operation: str, kind: str, logical: str, physical: str, properties: Properties, old: Properties, stack: str
) -> None:
    """Refuse an operation the stack's operator may not do.

    Raises:
        ValueError: the reason, as it stands in the resource's failure event.
    """
    key = _operator.get()
    if _evaluator.is_root_access_key(key):
        return
    if kind not in TYPES:
        raise ValueError(f"The permissions {kind} needs are not known, so only the account root may use it.")
    for check in _checks(operation, kind, logical, physical, properties, old, stack):
        if message := iam.denial(key, check, _responses.get_region()):
            raise ValueError(_handler_message(message, kind, 403, "AccessDenied"))


def _handler_message(message: str, kind: str, status: int, code: str) -> str:
    """Word a resource handler's failure as stack events do."""
    service = kind.split("::")[1]
    return (
        f'Resource handler returned message: "{message} (Service: {service}, Status Code: {status}, '
        f'Request ID: {uuid.uuid4()})" (RequestToken: {uuid.uuid4()}, HandlerErrorCode: {code})'
    )


def _require_code(kind: str, properties: Properties) -> None:
    """Refuse a function or layer whose code is not in S3.

    https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html
    """
    for bucket, key, version in _code_objects(kind, properties):
        missing = None
        if bucket not in _s3._buckets:
            missing = ("NoSuchBucket", "The specified bucket does not exist")
        elif _s3._get_object_data(bucket, key, version_id=version) is None:
            missing = ("NoSuchKey", "The specified key does not exist.")
        if missing:
            message = f"Error occurred while GetObject. S3 Error Code: {missing[0]}. S3 Error Message: {missing[1]}"
            raise ValueError(_handler_message(message, kind, 400, "InvalidRequest"))


def _provision(original: Callable[..., Any]) -> Callable[..., Any]:
    def provision(kind: str, logical: str, properties: Properties, stack: str) -> Any:
        _authorize("create", kind, logical, "", properties, {}, stack)
        _require_code(kind, properties)
        return original(kind, logical, properties, stack)

    return provision


def _update(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(
        kind: str,
        physical: str,
        old: Properties,
        new: Properties,
        stack: str,
        logical: str | None = None,
        attributes: Properties | None = None,
    ) -> Any:
        if old != new:
            if _provisioners._replacing_change(kind, old, new):
                _authorize("create", kind, logical or physical, "", new, {}, stack)
            else:
                _authorize("update", kind, logical or physical, physical, new, old, stack)
            if _code_objects(kind, new) != _code_objects(kind, old):
                _require_code(kind, new)
        return original(kind, physical, old, new, stack, logical, attributes)

    return update


def _delete(original: Callable[..., Any]) -> Callable[..., Any]:
    def delete(
        kind: str,
        physical: str,
        properties: Properties,
        stack: str | None = None,
        logical: str | None = None,
    ) -> Any:
        _authorize("delete", kind, logical or physical, physical, properties, {}, stack or "")
        if kind == "AWS::S3::Bucket":
            _require_empty(physical)
        return original(kind, physical, properties, stack, logical)

    return delete


def _require_empty(bucket: str) -> None:
    """Refuse to delete a bucket that holds objects, versions or delete markers.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/troubleshooting.html
    """
    record = _s3._buckets.get(bucket)
    message = "The bucket you tried to delete is not empty"
    if record and _s3._bucket_has_versions(bucket):
        message += ". You must delete all versions in the bucket."
    elif not record or not record["objects"]:
        return
    raise ValueError(_handler_message(message, "AWS::S3::Bucket", 409, "GeneralServiceException"))


def _snapshot(original: Callable[..., Any]) -> Callable[..., Any]:
    def snapshot(kind: str, physical: str, properties: Properties) -> Any:
        if kind == "AWS::RDS::DBInstance" and not _evaluator.is_root_access_key(_operator.get()):
            members = {"DBInstanceIdentifier": physical, "DBSnapshotIdentifier": _provisioners._snapshot_id(physical)}
            region, account = _responses.get_region(), _responses.get_account_id()
            request = iam.Request("rds", "rds:CreateDBSnapshot", "", members, region, account)
            for resource in iam.resources(request):
                check = iam.Check(request.action, resource, {})
                if message := iam.denial(_operator.get(), check, region):
                    raise ValueError(_handler_message(message, kind, 403, "AccessDenied"))
        return original(kind, physical, properties)

    return snapshot


def _resolve_secret(original: Callable[[str], Any]) -> Callable[[str], Any]:
    """A ``{{resolve:secretsmanager:...}}`` reads the secret with the operator's permissions.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references-secretsmanager.html
    """

    def resolve(literal: str) -> Any:
        reference = re.fullmatch(r"\{\{resolve:secretsmanager:(arn(?::[^:]*){6}|[^:]+).*\}\}", literal)
        if reference and not _evaluator.is_root_access_key(_operator.get()):
            _, secret = emulator.module("services.secretsmanager")._resolve(reference[1])
            check = iam.Check("secretsmanager:GetSecretValue", secret["ARN"] if secret else reference[1], {})
            if message := iam.denial(_operator.get(), check, _responses.get_region()):
                raise ValueError(message)
        return original(literal)

    return resolve


# --- Stack operations -------------------------------------------------------------------------------------------

_ROLE_OPERATIONS = (
    "CreateStack",
    "UpdateStack",
    "DeleteStack",
    "RollbackStack",
    "ContinueUpdateRollback",
    "CreateChangeSet",
    "ExecuteChangeSet",
)


def _with_role(operation: str, original: Callable[[Params], Any]) -> Callable[[Params], Any]:
    """Let a stack operation act as the role it names, the one the stack has, or the caller."""

    def handle(params: Params) -> Any:
        stack, change_set = _subjects(operation, params)
        if refusal := _state_refusal(operation, params, stack):
            return _helpers._error(*refusal)
        known = (change_set or {}).get("_role") or (stack or {}).get("_role")
        role = _helpers._p(params, "RoleARN") or known
        key = iam.caller_key.get()
        if role:
            try:
                session = emulator.service_role_credentials(role, "cloudformation.amazonaws.com", "AWSCloudFormation")
            except emulator.AwsError:
                return _helpers._error("ValidationError", f"Role {role} is invalid or cannot be assumed")
            key = session.access_key
        token = _operator.set(key)
        try:
            answer = original(params)
        finally:
            _operator.reset(token)
        if answer[0] == 200 and role:
            stack, change_set = _subjects(operation, params)
            # A change set's role becomes the stack's when it is executed.
            record = change_set if operation == "CreateChangeSet" else stack
            if record is not None:
                record["_role"] = role
        return answer

    return handle


def _subjects(operation: str, params: Params) -> tuple[Params | None, Params | None]:
    """Return the stack and the change set an operation is about, None where there is none."""
    handlers = emulator.module("services.cloudformation.handlers")
    name = _helpers._p(params, "StackName")
    change_set = None
    if operation.endswith("ChangeSet"):
        _, change_set = _changesets._find_change_set(_helpers._p(params, "ChangeSetName"), name)
        name = name or (change_set or {}).get("StackName", "")
    return handlers._resolve_stack(name) if name else None, change_set


def _state_refusal(operation: str, params: Params, stack: Params | None) -> tuple[str, str] | None:
    """Return the error of a stack whose state forbids ``operation``.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/view-stack-events.html
    """
    if stack is None:
        return None
    status = stack["StackStatus"]
    if operation == "CreateStack" and status == "ROLLBACK_COMPLETE":
        return "AlreadyExistsException", f"Stack [{stack['StackName']}] already exists"
    update = operation == "UpdateStack" or (
        operation == "CreateChangeSet" and _helpers._p(params, "ChangeSetType", "UPDATE") == "UPDATE"
    )
    final = {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED", "UPDATE_ROLLBACK_FAILED"}
    if update and (status in final or status.endswith("_IN_PROGRESS")):
        return "ValidationError", f"Stack:{stack['StackId']} is in {status} state and can not be updated."
    return None


def _show_role(original: Callable[[Params], Any]) -> Callable[[Params], Any]:
    """Add the service role to a stack's description."""

    def describe(params: Params) -> Any:
        status, headers, body = original(params)
        for stack in _cloudformation._stacks.values():
            if role := stack.get("_role"):
                mark = f"<StackId>{stack['StackId']}</StackId>".encode()
                body = body.replace(mark, mark + f"<RoleARN>{role}</RoleARN>".encode())
        return status, headers, body

    return describe


def _name_the_failure(original: Callable[..., Any]) -> Callable[..., Any]:
    """Say in a create's rollback event which resource failed, as an update's event does."""

    def roll_back(name: str, stack_id: str, stack: Params, failed: Params, reason_override: str = "") -> Any:
        resource = failed.get("failed_logical_id")
        if resource and not failed.get("is_update") and not reason_override:
            reason_override = f"The following resource(s) failed to create: [{resource}]. Rollback requested by user."
        return original(name, stack_id, stack, failed, reason_override)

    return roll_back


def _drop_absent(original: Callable[..., Params]) -> Callable[..., Params]:
    """Leave resources whose condition does not hold out of what a change set compares.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/conditions-section-structure.html
    """

    def resolve(template: Params, parameters: Params, *stack: str) -> Params:
        resolved = original(template, parameters, *stack)
        holds = _engine._evaluate_conditions(template, parameters) if resolved else {}
        resources = resolved.get("Resources", {}).items()
        return {"Resources": {name: body for name, body in resources if holds.get(body.get("Condition"), True)}}

    return resolve


# --- Tags -------------------------------------------------------------------------------------------------------


def _collect(module: str) -> Callable[[], Iterator[tuple[str, list[dict[str, str]]]]]:
    """Return a reader of a service's tags by ARN, whichever of the two shapes it keeps them in."""

    def collect() -> Iterator[tuple[str, list[dict[str, str]]]]:
        for arn, tags in emulator.module(f"services.{module}")._tags.items():
            yield arn, _tagging._normalise_flat(tags) if isinstance(tags, dict) else tags

    return collect


def _collect_states() -> Iterator[tuple[str, list[dict[str, str]]]]:
    for arn, tags in emulator.module("services.stepfunctions")._tags.items():
        yield arn, [{"Key": tag["key"], "Value": tag["value"]} for tag in tags]


def _collect_alarms() -> Iterator[tuple[str, list[dict[str, str]]]]:
    for arn, tags in emulator.module("services.cloudwatch")._resource_tags.items():
        yield arn, _tagging._normalise_flat(tags)


def _collect_streams() -> Iterator[tuple[str, list[dict[str, str]]]]:
    for stream in emulator.module("services.kinesis")._streams.values():
        yield stream["StreamARN"], _tagging._normalise_flat(stream["tags"])


def _find_tags(original: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let a condition on ``aws:ResourceTag`` see the tags of every service that has any."""

    def tags(arn: str) -> Any:
        collect = _tagging._COLLECTORS.get(arn.split(":")[2]) if arn.count(":") >= 5 else None
        found = dict(collect()).get(arn) if collect else None
        return {tag["Key"]: tag["Value"] for tag in found} if found else original(arn)

    return tags


def _collect_rds() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A stack's instances keep their tags themselves."""
    for instance in emulator.module("services.rds")._instances.values():
        yield instance["DBInstanceArn"], instance.get("TagList") or []
    for arn, tags in _collect("rds")():
        if ":db:" not in arn:
            yield arn, tags


def _collect_log_groups() -> Iterator[tuple[str, list[dict[str, str]]]]:
    for name, group in emulator.module("services.cloudwatch_logs")._log_groups.items():
        arn = f"arn:aws:logs:{_responses.get_region()}:{_responses.get_account_id()}:log-group:{name}"
        yield arn, _tagging._normalise_flat(group.get("tags", {}))


_EC2_KINDS = {
    "vpc": "vpc",
    "subnet": "subnet",
    "sg": "security-group",
    "rtb": "route-table",
    "igw": "internet-gateway",
    "vpce": "vpc-endpoint",
}


def _collect_ec2() -> Iterator[tuple[str, list[dict[str, str]]]]:
    for name, tags in emulator.module("services.ec2")._tags.items():
        if kind := _EC2_KINDS.get(name.partition("-")[0]):
            yield f"arn:aws:ec2:{_responses.get_region()}:{_responses.get_account_id()}:{kind}/{name}", tags


def _bound(original: Callable[..., Any], properties_at: int) -> Callable[..., Any]:
    """Give a role of a template its permissions boundary, which the emulator's handler leaves out.

    ``properties_at`` is where among the handler's arguments the properties are.
    """

    def handle(*arguments: Any) -> Any:
        name, *rest = original(*arguments)
        _iam._roles[name]["PermissionsBoundary"] = arguments[properties_at].get("PermissionsBoundary")
        return name, *rest

    return handle


def _tag_bucket(original: Callable[..., Any]) -> Callable[..., Any]:
    """Keep a bucket's tags, which the emulator drops."""

    def apply(name: str, properties: Properties, *old: Properties) -> Any:
        _provisioners._reconcile_tag_map(
            _s3._bucket_tags.setdefault(name, {}), dict(old[0]) if old else {}, dict(properties)
        )
        return original(name, properties, *old)

    return apply


_provisioners._STACK_TAG_PROPERTY.update(
    {
        "AWS::Athena::WorkGroup": ("Tags", "list"),
        "AWS::Glue::Job": ("Tags", "map"),
        "AWS::S3::Bucket": ("Tags", "list"),
    }
)
_tagging._COLLECTORS.update(
    {
        "athena": _collect("athena"),
        "cloudwatch": _collect_alarms,
        "ec2": _collect_ec2,
        "kinesis": _collect_streams,
        "logs": _collect_log_groups,
        "rds": _collect_rds,
        "secretsmanager": _tagging._collect_secretsmanager,
        "states": _collect_states,
    }
)
emulator.patch(_tagging, "resource_tags", _find_tags)
emulator.patch(_provisioners, "_s3_apply_configurations", _tag_bucket)
_roles = _provisioners._RESOURCE_HANDLERS["AWS::IAM::Role"]
_roles["create"] = _bound(_roles["create"], 1)
_roles["update"] = _bound(_roles["update"], 2)
emulator.patch(_stacks, "_provision_resource", _provision)
emulator.patch(_stacks, "_update_resource", _update)
emulator.patch(_stacks, "_delete_resource", _delete)
emulator.patch(_stacks, "_snapshot_resource", _snapshot)
emulator.patch(_stacks, "_roll_back_operation", _name_the_failure)
emulator.patch(_changesets, "_resolve_props_for_diff", _drop_absent)
emulator.patch(_engine, "_resolve_dynamic_reference", _resolve_secret)
for _operation in _ROLE_OPERATIONS:
    _handler = _cloudformation._ACTION_HANDLERS[_operation]
    _cloudformation._ACTION_HANDLERS[_operation] = _with_role(_operation, _handler)
_cloudformation._ACTION_HANDLERS["DescribeStacks"] = _show_role(_cloudformation._ACTION_HANDLERS["DescribeStacks"])
