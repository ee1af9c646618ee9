"""CloudFormation: stacks with a role, failures, states and tags."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import cfnlint  # type: ignore[import-untyped]  # the library has no types
import pytest
from botocore.exceptions import ClientError

from local.launcher import layout
from tests.conformance.test_iam import ACCOUNT, allow, arn, denied, function, role, unique, user
from tests.conftest import Aws

CLOUDFORMATION = "cloudformation.amazonaws.com"


def template(**resources: Any) -> str:
    return json.dumps({"Resources": resources})


def resource(kind: str, policy: str = "Delete", **properties: Any) -> dict[str, Any]:
    return {"Type": kind, "DeletionPolicy": policy, "Properties": properties}


def settled(client: Any, name: str) -> dict[str, Any]:
    """Return the stack ``name`` once no operation is in progress."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        stack: dict[str, Any] = client.describe_stacks(StackName=name)["Stacks"][0]
        if not stack["StackStatus"].endswith("_IN_PROGRESS"):
            return stack
        time.sleep(0.05)
    raise AssertionError(f"{name} is still {stack['StackStatus']}")


def failures(client: Any, stack_id: str) -> dict[str, str]:
    """Return the reason of each failed resource by logical id."""
    events = client.describe_stack_events(StackName=stack_id)["StackEvents"]
    return {
        event["LogicalResourceId"]: event["ResourceStatusReason"]
        for event in events
        if event["ResourceStatus"].endswith("_FAILED") and event["PhysicalResourceId"] != stack_id
    }


def create(client: Any, body: str, **arguments: Any) -> dict[str, Any]:
    """Create a stack of a new name and return it when it is settled."""
    name = arguments.pop("StackName", None) or unique("stack")
    client.create_stack(StackName=name, TemplateBody=body, Capabilities=["CAPABILITY_NAMED_IAM"], **arguments)
    return settled(client, name)


def test_a_stack_acts_with_its_role_and_not_with_its_caller(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html"""
    name, topic = unique("stack"), resource("AWS::SNS::Topic", TopicName=unique())
    topic_arn = arn("sns", topic["Properties"]["TopicName"])
    able = role(aws, CLOUDFORMATION, allow(["sns:*"], topic_arn))
    root = aws.client("cloudformation")
    caller = aws.client(
        "cloudformation",
        user(aws, allow("cloudformation:*", "*"), allow("iam:PassRole", able)),
    )
    assert create(caller, template(T=topic), StackName=name, RoleARN=able)["StackStatus"] == "CREATE_COMPLETE"
    assert settled(root, name)["RoleARN"] == able
    # The stack keeps its role: nobody has to pass it again.
    caller.delete_stack(StackName=name)
    topics = [each["TopicArn"] for each in aws.client("sns").list_topics()["Topics"]]
    deadline = time.monotonic() + 10
    while topic_arn in topics and time.monotonic() < deadline:
        topics = [each["TopicArn"] for each in aws.client("sns").list_topics()["Topics"]]
    assert topic_arn not in topics

    # Root's own permissions do not help a role without any.
    stack = create(root, template(T=topic), RoleARN=role(aws, CLOUDFORMATION))
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    reason = failures(root, stack["StackId"])["T"]
    assert "assumed-role/" in reason
    assert f"not authorized to perform: sns:CreateTopic on resource: {topic_arn} " in reason
    assert "HandlerErrorCode: AccessDenied" in reason


def test_without_a_role_the_caller_makes_the_resources(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/control-access-with-iam.html"""
    bucket = unique("bucket")
    body = template(B=resource("AWS::S3::Bucket", BucketName=bucket, VersioningConfiguration={"Status": "Enabled"}))
    stacks = allow("cloudformation:*", "*")
    resource_arn = f"arn:aws:s3:::{bucket}"
    weak = aws.client("cloudformation", user(aws, stacks, allow("s3:CreateBucket", resource_arn)))
    stack = create(weak, body)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "s3:PutBucketVersioning" in failures(weak, stack["StackId"])["B"]
    actions = ["s3:CreateBucket", "s3:PutBucketVersioning"]
    strong = aws.client("cloudformation", user(aws, stacks, allow(actions, resource_arn)))
    stack = create(strong, body)
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    # What may make a bucket may not delete it.
    strong.delete_stack(StackName=stack["StackName"])
    assert settled(strong, stack["StackId"])["StackStatus"] == "DELETE_FAILED"
    assert "s3:DeleteBucket" in failures(strong, stack["StackId"])["B"]


def test_a_role_must_be_passed_and_must_trust_cloudformation(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-iam-servicerole.html"""
    body = template(T=resource("AWS::SNS::Topic"))
    passed = role(aws, CLOUDFORMATION)
    caller = aws.client("cloudformation", user(aws, allow("cloudformation:*", "*")))
    assert f"iam:PassRole on resource: {passed}" in denied(
        lambda: caller.create_change_set(
            StackName=unique(), ChangeSetName="c", ChangeSetType="CREATE", TemplateBody=body, RoleARN=passed
        )
    )
    root = aws.client("cloudformation")
    strangers = [
        role(aws, "lambda.amazonaws.com"),
        role(aws, CLOUDFORMATION, StringEquals={"aws:SourceAccount": "999999999999"}),
    ]
    for stranger in strangers:
        with pytest.raises(ClientError, match=f"Role {stranger} is invalid or cannot be assumed"):
            root.create_stack(StackName=unique(), TemplateBody=body, RoleARN=stranger)
    ours = role(aws, CLOUDFORMATION, allow("sns:*", "*"), StringEquals={"aws:SourceAccount": "000000000000"})
    assert create(root, body, RoleARN=ours)["StackStatus"] == "CREATE_COMPLETE"


def test_a_change_set_is_executed_with_the_role_it_was_made_with(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/API_CreateChangeSet.html"""
    client, name = aws.client("cloudformation"), unique("stack")
    client.create_change_set(
        StackName=name,
        ChangeSetName="first",
        ChangeSetType="CREATE",
        TemplateBody=template(T=resource("AWS::SNS::Topic")),
        RoleARN=role(aws, CLOUDFORMATION),
    )
    client.execute_change_set(StackName=name, ChangeSetName="first")
    stack = settled(client, name)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "sns:CreateTopic" in failures(client, stack["StackId"])["T"]


def test_a_serverless_template_needs_its_transform(aws: Aws) -> None:
    """https://docs.aws.amazon.com/serverless-application-model/latest/developerguide/sam-permissions-cloudformation.html"""
    body = json.dumps({"Transform": "AWS::Serverless-2016-10-31", "Resources": {"T": resource("AWS::SNS::Topic")}})
    stacks = allow("cloudformation:*", arn("cloudformation", "stack/*"))
    caller = aws.client("cloudformation", user(aws, stacks))
    message = denied(
        lambda: caller.create_change_set(
            StackName=unique(),
            ChangeSetName="c",
            ChangeSetType="CREATE",
            TemplateBody=body,
            Capabilities=["CAPABILITY_AUTO_EXPAND"],
        )
    )
    assert "arn:aws:cloudformation:us-east-1:aws:transform/Serverless-2016-10-31" in message


def test_a_stack_makes_bounded_roles_and_passes_only_allowed_ones(aws: Aws) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html"""
    client = aws.client("cloudformation")
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow("logs:*", "*")]})
    boundary = aws.client("iam").create_policy(PolicyName=unique(), PolicyDocument=document)["Policy"]["Arn"]
    bounded = {"StringEquals": {"iam:PermissionsBoundary": boundary}}
    deployer = role(
        aws,
        CLOUDFORMATION,
        allow(["iam:CreateRole", "iam:DeleteRole"], "*", **bounded),
        allow(["iam:GetRole"], "*"),
        allow(["lambda:*"], "*"),
    )
    trust = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "lambda.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ],
    }
    free = resource("AWS::IAM::Role", AssumeRolePolicyDocument=trust)
    stack = create(client, template(R=free), RoleARN=deployer)
    assert "iam:CreateRole" in failures(client, stack["StackId"])["R"]
    bound = resource("AWS::IAM::Role", AssumeRolePolicyDocument=trust, PermissionsBoundary=boundary)
    assert create(client, template(R=bound), RoleARN=deployer)["StackStatus"] == "CREATE_COMPLETE"
    function = resource(
        "AWS::Lambda::Function",
        Handler="index.handler",
        Runtime="python3.11",
        Role={"Fn::GetAtt": ["R", "Arn"]},
        Code={"ZipFile": "def handler(event, context):\n    return event\n"},
    )
    stack = create(client, template(R=bound, F=function), RoleARN=deployer)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "iam:PassRole" in failures(client, stack["StackId"])["F"]


def test_a_role_of_a_stack_is_within_its_boundary(aws: Aws) -> None:
    """Made with it, and given another one by an update."""
    client, iam = aws.client("cloudformation"), aws.client("iam")
    boundaries = []
    for action in ("iam:GetRole", "sqs:ListQueues"):
        document = json.dumps({"Version": "2012-10-17", "Statement": [allow(action, "*")]})
        boundaries.append(iam.create_policy(PolicyName=unique(), PolicyDocument=document)["Policy"]["Arn"])
    account = {"Effect": "Allow", "Principal": {"AWS": ACCOUNT}, "Action": "sts:AssumeRole"}
    everything = {"Version": "2012-10-17", "Statement": [allow("*", "*")]}
    stack, name = unique(), unique("role")

    def body(boundary: str) -> str:
        properties: dict[str, Any] = {
            "RoleName": name,
            "AssumeRolePolicyDocument": {"Version": "2012-10-17", "Statement": [account]},
            "Policies": [{"PolicyName": "everything", "PolicyDocument": everything}],
            "PermissionsBoundary": boundary,
        }
        return template(R=resource("AWS::IAM::Role", **properties))

    client.create_stack(StackName=stack, TemplateBody=body(boundaries[0]), Capabilities=["CAPABILITY_NAMED_IAM"])
    client.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    made = iam.get_role(RoleName=name)["Role"]
    assert made["PermissionsBoundary"]["PermissionsBoundaryArn"] == boundaries[0]
    keys = aws.client("sts").assume_role(RoleArn=made["Arn"], RoleSessionName="probe")["Credentials"]
    assert aws.client("iam", keys).get_role(RoleName=name)["Role"]["RoleName"] == name
    assert "sqs:ListQueues" in denied(aws.client("sqs", keys).list_queues)

    client.update_stack(StackName=stack, TemplateBody=body(boundaries[1]), Capabilities=["CAPABILITY_NAMED_IAM"])
    client.get_waiter("stack_update_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    aws.client("sqs", keys).list_queues()
    assert "iam:GetRole" in denied(lambda: aws.client("iam", keys).get_role(RoleName=name))


def test_a_mapping_is_made_for_an_allowed_function_only(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_awslambda.html"""
    client, name = aws.client("cloudformation"), unique("function")
    queue = aws.client("sqs").create_queue(QueueName=name)["QueueUrl"].rpartition("/")[2]
    reads = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    function(aws.client("lambda"), name, role(aws, "lambda.amazonaws.com", allow(reads, arn("sqs", queue))))
    body = template(
        M=resource("AWS::Lambda::EventSourceMapping", FunctionName=name, EventSourceArn=arn("sqs", queue)),
    )

    def deployer(allowed: str) -> str:
        ours = {"ArnLike": {"lambda:FunctionArn": arn("lambda", f"function:{allowed}")}}
        mappings = arn("lambda", "event-source-mapping:*")
        return role(
            aws,
            CLOUDFORMATION,
            allow("lambda:CreateEventSourceMapping", "*", **ours),
            allow("lambda:DeleteEventSourceMapping", mappings, **ours),
            allow("lambda:GetEventSourceMapping", mappings),
        )

    stack = create(client, body, RoleARN=deployer("other-*"))
    assert "lambda:CreateEventSourceMapping" in failures(client, stack["StackId"])["M"]
    stack = create(client, body, RoleARN=deployer("function-*"))
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"


def test_a_log_group_is_made_by_who_may_list_them_all(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatchlogs.html"""
    client, name = aws.client("cloudformation"), f"/{unique()}"
    body = template(G=resource("AWS::Logs::LogGroup", LogGroupName=name))
    ours = allow(["logs:CreateLogGroup", "logs:DescribeLogGroups"], arn("logs", f"log-group:{name}:*"))
    stack = create(client, body, RoleARN=role(aws, CLOUDFORMATION, ours))
    assert "logs:DescribeLogGroups" in failures(client, stack["StackId"])["G"]
    everywhere = allow("logs:DescribeLogGroups", arn("logs", "log-group:*"))
    stack = create(client, body, RoleARN=role(aws, CLOUDFORMATION, ours, everywhere))
    assert stack["StackStatus"] == "CREATE_COMPLETE"


def test_a_secret_is_resolved_with_the_permissions_of_the_role(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/dynamic-references-secretsmanager.html"""
    client, name = aws.client("cloudformation"), unique("secret")
    secret = aws.client("secretsmanager").create_secret(Name=name, SecretString='{"topic": "quiet"}')["ARN"]
    reference = f"{{{{resolve:secretsmanager:{name}:SecretString:topic}}}}"
    body = template(T=resource("AWS::SNS::Topic", DisplayName=reference))
    topics = allow("sns:*", "*")
    stack = create(client, body, RoleARN=role(aws, CLOUDFORMATION, topics))
    reason = failures(client, stack["StackId"])["T"]
    assert f"secretsmanager:GetSecretValue on resource: {secret}" in reason
    reader = role(aws, CLOUDFORMATION, topics, allow("secretsmanager:GetSecretValue", secret))
    stack = create(client, body, RoleARN=reader)
    topic = client.describe_stack_resource(StackName=stack["StackName"], LogicalResourceId="T")
    attributes = aws.client("sns").get_topic_attributes(TopicArn=topic["StackResourceDetail"]["PhysicalResourceId"])
    assert attributes["Attributes"]["DisplayName"] == "quiet"


def test_a_type_without_known_permissions_is_refused_to_a_role(aws: Aws) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html"""
    client = aws.client("cloudformation")
    everything = role(aws, CLOUDFORMATION, allow("*", "*"))
    body = template(P=resource("AWS::SSM::Parameter", Type="String", Value="v"))
    stack = create(client, body, RoleARN=everything)
    assert "AWS::SSM::Parameter" in failures(client, stack["StackId"])["P"]


def test_a_function_without_code_rolls_back_and_cannot_be_updated(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/troubleshooting.html"""
    client, bucket = aws.client("cloudformation"), unique("code")
    aws.client("s3").create_bucket(Bucket=bucket)
    lambda_role = role(aws, "lambda.amazonaws.com")
    function = resource(
        "AWS::Lambda::Function",
        Handler="index.handler",
        Runtime="python3.11",
        Role=lambda_role,
        Code={"S3Bucket": bucket, "S3Key": "missing.zip"},
    )
    body = template(F=function)
    stack = create(client, body)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "S3 Error Code: NoSuchKey" in failures(client, stack["StackId"])["F"]
    with pytest.raises(ClientError, match="is in ROLLBACK_COMPLETE state and can not be updated"):
        client.update_stack(StackName=stack["StackName"], TemplateBody=body)
    with pytest.raises(ClientError, match="is in ROLLBACK_COMPLETE state and can not be updated"):
        client.create_change_set(StackName=stack["StackName"], ChangeSetName="c", TemplateBody=body)
    with pytest.raises(client.exceptions.AlreadyExistsException):
        client.create_stack(StackName=stack["StackName"], TemplateBody=body)


def test_a_failed_update_restores_what_was(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-update-behaviors.html"""
    client, bucket = aws.client("cloudformation"), unique("code")
    aws.client("s3").create_bucket(Bucket=bucket)
    stack = create(client, template(T=resource("AWS::SNS::Topic", DisplayName="before")))
    broken = resource(
        "AWS::Lambda::LayerVersion", LayerName=unique(), Content={"S3Bucket": bucket, "S3Key": "missing.zip"}
    )
    client.update_stack(
        StackName=stack["StackName"],
        TemplateBody=template(T=resource("AWS::SNS::Topic", DisplayName="after"), L={**broken, "DependsOn": "T"}),
    )
    assert settled(client, stack["StackName"])["StackStatus"] == "UPDATE_ROLLBACK_COMPLETE"
    resources = client.list_stack_resources(StackName=stack["StackName"])["StackResourceSummaries"]
    assert [each["LogicalResourceId"] for each in resources] == ["T"]
    attributes = aws.client("sns").get_topic_attributes(TopicArn=resources[0]["PhysicalResourceId"])
    assert attributes["Attributes"]["DisplayName"] == "before"
    assert "NoSuchKey" in failures(client, stack["StackId"])["L"]


def test_a_change_set_leaves_out_what_a_condition_leaves_out(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/conditions-section-structure.html"""
    client = aws.client("cloudformation")
    template = {
        "Parameters": {"Wanted": {"Type": "String"}},
        "Conditions": {"IsWanted": {"Fn::Equals": [{"Ref": "Wanted"}, "yes"]}},
        "Resources": {
            "Always": {"Type": "AWS::SNS::Topic"},
            "Sometimes": {"Type": "AWS::SNS::Topic", "Condition": "IsWanted"},
        },
    }

    def change(kind: str, wanted: str) -> list[tuple[str, str]]:
        request: dict[str, Any] = {"StackName": "conditional", "ChangeSetName": f"wanted-{wanted}"}
        client.create_change_set(
            **request,
            ChangeSetType=kind,
            TemplateBody=json.dumps(template),
            Parameters=[{"ParameterKey": "Wanted", "ParameterValue": wanted}],
        )
        often = {"Delay": 1, "MaxAttempts": 20}
        client.get_waiter("change_set_create_complete").wait(**request, WaiterConfig=often)
        changes = client.describe_change_set(**request)["Changes"]
        client.execute_change_set(**request)
        client.get_waiter(f"stack_{kind.lower()}_complete").wait(StackName="conditional", WaiterConfig=often)
        return [(each["ResourceChange"]["Action"], each["ResourceChange"]["LogicalResourceId"]) for each in changes]

    assert change("CREATE", "no") == [("Add", "Always")]
    assert change("UPDATE", "yes") == [("Add", "Sometimes")]


def test_a_rule_of_a_security_group_is_a_resource(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-ec2-securitygroupingress.html"""
    client, ec2 = aws.client("cloudformation"), aws.client("ec2")
    port: dict[str, Any] = {"IpProtocol": "tcp", "FromPort": 5432, "ToPort": 5432}
    group = resource("AWS::EC2::SecurityGroup", GroupDescription="databases")
    rule = resource("AWS::EC2::SecurityGroupIngress", GroupId={"Ref": "G"}, SourceSecurityGroupId={"Ref": "G"}, **port)
    stack = create(client, template(G=group, R=rule))
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    found = client.describe_stack_resource(StackName=stack["StackName"], LogicalResourceId="G")
    identifier = found["StackResourceDetail"]["PhysicalResourceId"]

    def ingress() -> list[Any]:
        described = ec2.describe_security_groups(GroupIds=[identifier])["SecurityGroups"][0]
        rules: list[Any] = described["IpPermissions"]
        return rules

    assert [each["UserIdGroupPairs"][0]["GroupId"] for each in ingress()] == [identifier]
    client.update_stack(StackName=stack["StackName"], TemplateBody=template(G=group))
    assert settled(client, stack["StackName"])["StackStatus"] == "UPDATE_COMPLETE"
    assert ingress() == []
    missing = resource("AWS::EC2::SecurityGroupIngress", GroupId="sg-0", CidrIp="10.0.0.0/8", **port)
    stack = create(client, template(R=missing))
    assert "sg-0" in failures(client, stack["StackId"])["R"]


@pytest.mark.parametrize("versioned", [False, True])
def test_a_bucket_with_objects_is_not_deleted(aws: Aws, versioned: bool) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/troubleshooting.html"""
    client, s3, bucket = aws.client("cloudformation"), aws.client("s3"), unique("bucket")
    properties: dict[str, Any] = {"BucketName": bucket}
    if versioned:
        properties["VersioningConfiguration"] = {"Status": "Enabled"}
    stack = create(client, template(B=resource("AWS::S3::Bucket", **properties)))
    version = s3.put_object(Bucket=bucket, Key="k", Body=b"x").get("VersionId")
    marker = s3.delete_object(Bucket=bucket, Key="k").get("VersionId") if versioned else None
    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_FAILED"
    assert "The bucket you tried to delete is not empty" in failures(client, stack["StackId"])["B"]
    for each in (version, marker):
        s3.delete_object(Bucket=bucket, Key="k", **({"VersionId": each} if each else {}))
    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    with pytest.raises(ClientError):
        s3.head_bucket(Bucket=bucket)


def test_stack_tags_are_on_what_the_stack_made(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-properties-resource-tags.html"""
    client, tagging = aws.client("cloudformation"), aws.client("resourcegroupstaggingapi")
    name, value = unique("tagged"), unique()
    stack = create(
        client,
        template(
            Bucket=resource("AWS::S3::Bucket", BucketName=name),
            Group=resource("AWS::Logs::LogGroup", LogGroupName=f"/{name}"),
            Job=resource(
                "AWS::Glue::Job",
                Name=name,
                Role=role(aws, "glue.amazonaws.com"),
                Command={"Name": "glueetl", "ScriptLocation": "s3://scripts/job.py"},
            ),
            Topic=resource("AWS::SNS::Topic", TopicName=name),
            Network=resource("AWS::EC2::VPC", CidrBlock="10.0.0.0/16"),
            Work=resource("AWS::Athena::WorkGroup", Name=name),
            Stream=resource("AWS::Kinesis::Stream", Name=name, ShardCount=1),
            Table=resource(
                "AWS::DynamoDB::Table",
                TableName=name,
                BillingMode="PAY_PER_REQUEST",
                KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": "pk", "AttributeType": "S"}],
            ),
            Flow=resource(
                "AWS::StepFunctions::StateMachine",
                StateMachineName=name,
                DefinitionString='{"StartAt": "S", "States": {"S": {"Type": "Succeed"}}}',
                RoleArn=role(aws, "states.amazonaws.com"),
            ),
            Alarm=resource(
                "AWS::CloudWatch::Alarm",
                AlarmName=name,
                Namespace="AWS/SQS",
                MetricName="NumberOfMessagesSent",
                Statistic="Sum",
                Period=60,
                EvaluationPeriods=1,
                Threshold=1,
                ComparisonOperator="GreaterThanThreshold",
            ),
        ),
        Tags=[{"Key": "atlas:test", "Value": value}],
    )
    assert stack["StackStatus"] == "CREATE_COMPLETE"

    def tagged() -> set[str]:
        pages = tagging.get_resources(TagFilters=[{"Key": "atlas:test", "Values": [value]}])
        return {each["ResourceARN"] for each in pages["ResourceTagMappingList"]}

    network = client.describe_stack_resource(StackName=stack["StackName"], LogicalResourceId="Network")
    assert tagged() == {
        f"arn:aws:s3:::{name}",
        arn("logs", f"log-group:/{name}"),
        arn("glue", f"job/{name}"),
        arn("sns", name),
        arn("ec2", f"vpc/{network['StackResourceDetail']['PhysicalResourceId']}"),
        arn("athena", f"workgroup/{name}"),
        arn("kinesis", f"stream/{name}"),
        arn("dynamodb", f"table/{name}"),
        arn("states", f"stateMachine:{name}"),
        arn("cloudwatch", f"alarm:{name}"),
    }
    client.delete_stack(StackName=stack["StackName"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    assert tagged() == set()


def test_the_permissions_are_those_of_the_resource_schemas() -> None:
    """https://docs.aws.amazon.com/cloudformation-cli/latest/userguide/resource-type-schema.html"""
    types = _types()
    schemas = {}
    for path in (Path(cfnlint.__file__).parent / "data" / "schemas" / "resources").glob("*.json"):
        schema = json.loads(path.read_text())
        if schema.get("typeName") in types:
            schemas[schema["typeName"]] = schema["handlers"]
    assert schemas.keys() == types.keys()
    for name, actions in types.items():
        known = {each for handler in schemas[name].values() for each in handler.get("permissions", [])}
        assert set(actions) <= known, f"{name}: {sorted(set(actions) - known)}"


def _types() -> dict[str, list[str]]:
    """Return the actions of every known resource type, from the interpreter that has the emulator."""
    script = (
        "import json; from local.aws.cloudformation import TYPES; print(json.dumps({name: ' '.join("
        "[t.create, t.update, t.delete, *t.options.values(), *t.undo.values()]).split()"
        " for name, t in TYPES.items()}))"
    )
    python = layout.python(layout.AWS_VENV)
    output = subprocess.run(
        [python, "-c", script], cwd=layout.REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    types: dict[str, list[str]] = json.loads(output.splitlines()[-1])
    return types
