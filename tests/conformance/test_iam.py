"""IAM: actions, resources and passed roles, with principals that may do little."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import Aws

ACCOUNT = "000000000000"
REGION = "us-east-1"


def allow(actions: str | list[str], resources: str | list[str], **condition: Any) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
    return {**statement, "Condition": condition} if condition else statement


def arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}"


def unique(prefix: str = "iam") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def user(aws: Aws, *statements: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a new user who may do what ``statements`` allow."""
    iam, name = aws.client("iam"), unique("user")
    iam.create_user(UserName=name)
    if statements:
        document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=document)
    keys: dict[str, Any] = iam.create_access_key(UserName=name)["AccessKey"]
    return keys


def role(aws: Aws, service: str, *statements: dict[str, Any], **condition: Any) -> str:
    """Return the ARN of a new role that ``service`` may assume and that may do what ``statements`` allow."""
    iam, name = aws.client("iam"), unique("role")
    trust: dict[str, Any] = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": "sts:AssumeRole",
    }
    if condition:
        trust["Condition"] = condition
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    made: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    if statements:
        policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
        iam.put_role_policy(RoleName=name, PolicyName="only", PolicyDocument=policy)
    return made


def denied(call: Callable[[], Any]) -> str:
    """Return the message of the denial ``call`` ends in."""
    with pytest.raises(ClientError) as failure:
        call()
    error = failure.value.response["Error"]
    assert error["Code"] in {"AccessDenied", "AccessDeniedException", "AuthorizationError"}, error
    return str(error["Message"])


def code() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("index.py", "def handler(event, context):\n    return event\n")
    return archive.getvalue()


def function(client: Any, name: str, role_arn: str) -> Any:
    return client.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Handler="index.handler",
        Role=role_arn,
        Code={"ZipFile": code()},
    )


@pytest.mark.parametrize(
    ("service", "operation", "members", "action", "resource"),
    [
        ("athena", "get_work_group", {"WorkGroup": "w"}, "athena:GetWorkGroup", arn("athena", "workgroup/w")),
        (
            "cloudformation",
            "delete_stack",
            {"StackName": "s"},
            "cloudformation:DeleteStack",
            arn("cloudformation", "stack/s/*"),
        ),
        ("glue", "start_job_run", {"JobName": "j"}, "glue:StartJobRun", arn("glue", "job/j")),
        ("kms", "list_keys", {}, "kms:ListKeys", "*"),
        (
            "lambda",
            "get_event_source_mapping",
            {"UUID": "0" * 36},
            "lambda:GetEventSourceMapping",
            arn("lambda", f"event-source-mapping:{'0' * 36}"),
        ),
        (
            "lambda",
            "delete_function_concurrency",
            {"FunctionName": "f"},
            "lambda:DeleteFunctionConcurrency",
            arn("lambda", "function:f"),
        ),
        (
            "logs",
            "filter_log_events",
            {"logGroupName": "/g"},
            "logs:FilterLogEvents",
            arn("logs", "log-group:/g:log-stream:"),
        ),
        ("rds", "describe_db_instances", {}, "rds:DescribeDBInstances", arn("rds", "db:*")),
        (
            "secretsmanager",
            "get_secret_value",
            {"SecretId": "s"},
            "secretsmanager:GetSecretValue",
            arn("secretsmanager", "secret:s"),
        ),
        ("sns", "publish", {"TopicArn": arn("sns", "t"), "Message": "m"}, "sns:Publish", arn("sns", "t")),
        (
            "stepfunctions",
            "start_execution",
            {"stateMachineArn": arn("states", "stateMachine:m")},
            "states:StartExecution",
            arn("states", "stateMachine:m"),
        ),
    ],
)
def test_a_denial_names_action_and_resource(
    aws: Aws, service: str, operation: str, members: dict[str, Any], action: str, resource: str
) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html"""
    client = aws.client(service, user(aws))
    message = denied(lambda: getattr(client, operation)(**members))
    assert f"is not authorized to perform: {action} on resource: {resource} because no identity-based" in message


def test_a_batch_is_authorized_as_its_single_action(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsns.html"""
    topic = aws.client("sns").create_topic(Name=unique())["TopicArn"]
    entries = [{"Id": "1", "Message": "m"}]
    publisher = aws.client("sns", user(aws, allow("sns:Publish", topic)))
    assert len(publisher.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries)["Successful"]) == 1
    reader = aws.client("sns", user(aws, allow("sns:GetTopicAttributes", topic)))
    assert "sns:Publish " in denied(lambda: reader.publish_batch(TopicArn=topic, PublishBatchRequestEntries=entries))


def test_a_table_call_needs_catalog_database_and_table(aws: Aws) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/glue-specifying-resource-arns.html"""
    root, database = aws.client("glue"), unique().replace("-", "_")
    root.create_database(DatabaseInput={"Name": database})
    for name in ("mine", "other"):
        root.create_table(DatabaseName=database, TableInput={"Name": name})
    needed = [
        arn("glue", "catalog"),
        arn("glue", f"database/{database}"),
        arn("glue", f"table/{database}/mine"),
    ]
    reader = aws.client("glue", user(aws, allow("glue:GetTable", needed)))
    assert reader.get_table(DatabaseName=database, Name="mine")["Table"]["Name"] == "mine"
    assert f"table/{database}/other" in denied(lambda: reader.get_table(DatabaseName=database, Name="other"))
    for missing in needed:
        rest = [resource for resource in needed if resource != missing]
        client = aws.client("glue", user(aws, allow("glue:GetTable", rest)))
        message = denied(partial(client.get_table, DatabaseName=database, Name="mine"))
        assert f"on resource: {missing} " in message


def test_a_query_is_read_through_its_workgroup(aws: Aws) -> None:
    """https://docs.aws.amazon.com/athena/latest/ug/example-policies-workgroup.html"""
    bucket, names = unique(), [unique(), unique()]
    aws.client("s3").create_bucket(Bucket=bucket)
    root = aws.client("athena")
    location = {"ResultConfiguration": {"OutputLocation": f"s3://{bucket}/"}}
    queries = []
    for name in names:
        root.create_work_group(Name=name, Configuration=location)
        queries.append(root.start_query_execution(QueryString="SELECT 1", WorkGroup=name)["QueryExecutionId"])
    reader = aws.client("athena", user(aws, allow("athena:GetQueryExecution", arn("athena", f"workgroup/{names[0]}"))))
    assert reader.get_query_execution(QueryExecutionId=queries[0])["QueryExecution"]["WorkGroup"] == names[0]
    assert f"workgroup/{names[1]}" in denied(lambda: reader.get_query_execution(QueryExecutionId=queries[1]))


def test_an_alias_is_authorized_as_its_key(aws: Aws) -> None:
    """https://docs.aws.amazon.com/kms/latest/developerguide/alias-authorization.html"""
    kms, alias = aws.client("kms"), f"alias/{unique()}"
    keys = [kms.create_key()["KeyMetadata"] for _ in range(2)]
    kms.create_alias(AliasName=alias, TargetKeyId=keys[0]["KeyId"])
    owner = aws.client("kms", user(aws, allow("kms:Encrypt", keys[0]["Arn"])))
    assert owner.encrypt(KeyId=alias, Plaintext=b"x")["KeyId"] == keys[0]["Arn"]
    stranger = aws.client("kms", user(aws, allow("kms:Encrypt", [keys[1]["Arn"], arn("kms", alias)])))
    assert keys[0]["Arn"] in denied(lambda: stranger.encrypt(KeyId=alias, Plaintext=b"x"))


def test_a_key_is_reached_by_its_alias_as_a_condition(aws: Aws) -> None:
    """https://docs.aws.amazon.com/kms/latest/developerguide/conditions-kms.html"""
    kms, alias = aws.client("kms"), f"alias/{unique()}"
    named, other = (kms.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    kms.create_alias(AliasName=alias, TargetKeyId=named)
    condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": alias}}
    client = aws.client("kms", user(aws, allow("kms:GenerateDataKey", "*", **condition)))
    assert len(client.generate_data_key(KeyId=named, KeySpec="AES_256")["Plaintext"]) == 32
    denied(lambda: client.generate_data_key(KeyId=other, KeySpec="AES_256"))


def test_loopback_counts_as_tls(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/example-bucket-policies.html"""
    root, bucket = aws.client("s3"), unique()
    root.create_bucket(Bucket=bucket)
    objects = f"arn:aws:s3:::{bucket}/*"
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": objects}
    only_tls = {**statement, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    root.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [only_tls]}))
    writer = aws.client("s3", user(aws, allow("s3:PutObject", objects)))
    writer.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert root.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    denied(lambda: writer.get_object(Bucket=bucket, Key="k"))


def test_a_log_group_needs_the_star_of_its_arn(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/iam-access-control-overview-cwl.html"""
    group = f"/{unique()}"
    aws.client("logs").create_log_group(logGroupName=group)
    resource = arn("logs", f"log-group:{group}")
    writer = aws.client("logs", user(aws, allow("logs:CreateLogStream", f"{resource}:*")))
    writer.create_log_stream(logGroupName=group, logStreamName="s")
    streams = aws.client("logs").describe_log_streams(logGroupName=group)["logStreams"]
    assert [stream["logStreamName"] for stream in streams] == ["s"]
    bare = aws.client("logs", user(aws, allow("logs:CreateLogStream", resource)))
    assert f"{resource}:log-stream:t" in denied(lambda: bare.create_log_stream(logGroupName=group, logStreamName="t"))


def test_a_database_is_created_in_an_allowed_subnet_group_only(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonrds.html"""
    name = unique()
    client = aws.client("rds", user(aws, allow("rds:CreateDBInstance", arn("rds", f"db:{name}"))))
    message = denied(
        lambda: client.create_db_instance(
            DBInstanceIdentifier=name,
            DBInstanceClass="db.t4g.micro",
            Engine="postgres",
            DBSubnetGroupName="private",
        )
    )
    assert arn("rds", "subgrp:private") in message


def test_a_secret_tag_is_a_condition(aws: Aws) -> None:
    """https://docs.aws.amazon.com/secretsmanager/latest/userguide/auth-and-access_examples.html"""
    root, names = aws.client("secretsmanager"), {team: unique() for team in ("sales", "other")}
    for team, name in names.items():
        root.create_secret(Name=name, SecretString=team, Tags=[{"Key": "team", "Value": team}])
    tagged = {"StringEquals": {"secretsmanager:ResourceTag/team": "sales"}}
    reader = aws.client("secretsmanager", user(aws, allow("secretsmanager:GetSecretValue", "*", **tagged)))
    assert reader.get_secret_value(SecretId=names["sales"])["SecretString"] == "sales"
    denied(lambda: reader.get_secret_value(SecretId=names["other"]))


def test_a_role_is_created_with_its_boundary_only(aws: Aws) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/access_policies_boundaries.html"""
    document = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:*", "*")]})
    boundary = aws.client("iam").create_policy(PolicyName=unique(), PolicyDocument=document)["Policy"]["Arn"]
    bounded = {"StringEquals": {"iam:PermissionsBoundary": boundary}}
    client = aws.client("iam", user(aws, allow("iam:CreateRole", "*", **bounded)))
    name, trust = unique(), json.dumps({"Version": "2012-10-17", "Statement": []})
    assert "iam:CreateRole" in denied(lambda: client.create_role(RoleName=name, AssumeRolePolicyDocument=trust))
    made = client.create_role(RoleName=name, AssumeRolePolicyDocument=trust, PermissionsBoundary=boundary)
    assert made["Role"]["RoleName"] == name


def test_a_function_needs_its_name_and_the_right_to_pass_its_role(aws: Aws) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html"""
    name, passed = unique(), role(aws, "lambda.amazonaws.com")
    create = allow("lambda:CreateFunction", arn("lambda", f"function:{name}"))
    without = aws.client("lambda", user(aws, create))
    assert f"iam:PassRole on resource: {passed}" in denied(lambda: function(without, name, passed))
    elsewhere = allow("iam:PassRole", passed, StringEquals={"iam:PassedToService": "glue.amazonaws.com"})
    assert "iam:PassRole" in denied(lambda: function(aws.client("lambda", user(aws, create, elsewhere)), name, passed))
    right = allow("iam:PassRole", passed, StringEquals={"iam:PassedToService": "lambda.amazonaws.com"})
    owner = aws.client("lambda", user(aws, create, right))
    assert "lambda:CreateFunction" in denied(lambda: function(owner, unique("other"), passed))
    assert function(owner, name, passed)["Role"] == passed


def test_a_job_and_a_state_machine_need_the_right_to_pass_their_role(aws: Aws) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/glue-identity-based-policies.html"""
    name, passed = unique(), role(aws, "glue.amazonaws.com")
    glue = aws.client("glue", user(aws, allow("glue:*", "*")))
    command = {"Name": "glueetl", "ScriptLocation": "s3://scripts/job.py"}
    assert f"iam:PassRole on resource: {passed}" in denied(
        lambda: glue.create_job(Name=name, Role=passed, Command=command)
    )
    # A role may be given by name.
    assert f"iam:PassRole on resource: {passed}" in denied(
        lambda: glue.create_job(Name=name, Role=passed.rpartition("/")[2], Command=command)
    )
    states = aws.client("stepfunctions", user(aws, allow("states:*", "*")))
    definition = json.dumps({"StartAt": "Done", "States": {"Done": {"Type": "Succeed"}}})
    assert f"iam:PassRole on resource: {passed}" in denied(
        lambda: states.create_state_machine(name=name, definition=definition, roleArn=passed)
    )


PASSED = "arn:aws:iam::000000000000:role/another"
FLEXIBLE = {"FlexibleTimeWindow": {"Mode": "OFF"}, "ScheduleExpression": "rate(1 day)"}


@pytest.mark.parametrize(
    ("service", "operation", "members"),
    [
        ("cloudformation", "update_stack", {"StackName": "s", "TemplateBody": "{}", "RoleARN": PASSED}),
        ("cloudformation", "delete_stack", {"StackName": "s", "RoleARN": PASSED}),
        ("events", "put_rule", {"Name": "r", "ScheduleExpression": "rate(1 day)", "RoleArn": PASSED}),
        (
            "firehose",
            "update_destination",
            {
                "DeliveryStreamName": "h",
                "CurrentDeliveryStreamVersionId": "1",
                "DestinationId": "d",
                "ExtendedS3DestinationUpdate": {"RoleARN": PASSED},
            },
        ),
        ("glue", "update_job", {"JobName": "j", "JobUpdate": {"Role": PASSED}}),
        (
            "iot",
            "replace_topic_rule",
            {
                "ruleName": "r",
                "topicRulePayload": {"sql": "SELECT 1", "actions": [{"sqs": {"roleArn": PASSED, "queueUrl": "q"}}]},
            },
        ),
        ("lambda", "update_function_configuration", {"FunctionName": "f", "Role": PASSED}),
        ("mwaa", "update_environment", {"Name": "e", "ExecutionRoleArn": PASSED}),
        ("pipes", "update_pipe", {"Name": "p", "RoleArn": PASSED}),
        ("redshift-serverless", "update_namespace", {"namespaceName": "name", "iamRoles": [PASSED]}),
        (
            "scheduler",
            "update_schedule",
            {"Name": "s", "Target": {"Arn": arn("sqs", "q"), "RoleArn": PASSED}, **FLEXIBLE},
        ),
        (
            "stepfunctions",
            "update_state_machine",
            {"stateMachineArn": arn("states", "stateMachine:m"), "roleArn": PASSED},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_role_must_be_passed_too(aws: Aws, service: str, operation: str, members: dict[str, Any]) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_use_passrole.html"""
    everything_else = {"Effect": "Allow", "NotAction": "iam:PassRole", "Resource": "*"}
    client = aws.client(service, user(aws, everything_else), inject_host_prefix=False)
    assert f"iam:PassRole on resource: {PASSED}" in denied(lambda: getattr(client, operation)(**members))
    able = aws.client(service, user(aws, allow("*", "*")), inject_host_prefix=False)
    with pytest.raises(ClientError) as failure:  # there is no such role, and nothing to change
        getattr(able, operation)(**members)
    assert "iam:PassRole" not in str(failure.value)


def test_a_service_refuses_a_role_that_does_not_trust_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/lambda-intro-execution-role.html"""
    with pytest.raises(ClientError, match="The role defined for the function cannot be assumed by Lambda") as failure:
        function(aws.client("lambda"), unique(), role(aws, "glue.amazonaws.com"))
    assert failure.value.response["Error"]["Code"] == "InvalidParameterValueException"
    assert failure.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_mapping_is_known_by_its_function(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_awslambda.html"""
    root, names = aws.client("lambda"), [unique("function") for _ in range(2)]
    queue = aws.client("sqs").create_queue(QueueName=names[0])["QueueUrl"].rpartition("/")[2]
    reads = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"]
    for name in names:
        function(root, name, role(aws, "lambda.amazonaws.com", allow(reads, arn("sqs", queue))))
    ours = {"ArnLike": {"lambda:FunctionArn": arn("lambda", f"function:{names[0]}")}}
    actions = ["lambda:CreateEventSourceMapping", "lambda:UpdateEventSourceMapping", "lambda:DeleteEventSourceMapping"]
    client = aws.client("lambda", user(aws, allow(actions, "*", **ours)))
    assert "lambda:CreateEventSourceMapping" in denied(
        lambda: client.create_event_source_mapping(FunctionName=names[1], EventSourceArn=arn("sqs", queue))
    )
    made = client.create_event_source_mapping(FunctionName=names[0], EventSourceArn=arn("sqs", queue))["UUID"]
    assert client.update_event_source_mapping(UUID=made, BatchSize=5)["BatchSize"] == 5
    client.delete_event_source_mapping(UUID=made)
    foreign = root.create_event_source_mapping(FunctionName=names[1], EventSourceArn=arn("sqs", queue))["UUID"]
    message = denied(lambda: client.delete_event_source_mapping(UUID=foreign))
    assert arn("lambda", f"event-source-mapping:{foreign}") in message
    root.delete_event_source_mapping(UUID=foreign)


def test_a_tag_of_the_resource_is_a_condition(aws: Aws) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/access_tags.html"""
    root, names = aws.client("kinesis"), {team: unique("stream") for team in ("sales", "other")}
    for team, name in names.items():
        root.create_stream(StreamName=name, ShardCount=1)
        root.add_tags_to_stream(StreamName=name, Tags={"team": team})
    tagged = {"StringEquals": {"aws:ResourceTag/team": "sales"}}
    reader = aws.client("kinesis", user(aws, allow("kinesis:DescribeStreamSummary", "*", **tagged)))
    summary = reader.describe_stream_summary(StreamName=names["sales"])["StreamDescriptionSummary"]
    assert summary["StreamName"] == names["sales"]
    denied(lambda: reader.describe_stream_summary(StreamName=names["other"]))


def test_a_wrong_signature_is_refused_before_any_policy(aws: Aws) -> None:
    """https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html

    The further checks of a call must not consume the one check of its signature.
    """
    keys = user(aws, allow("glue:*", "*"))
    client = aws.client("glue", {**keys, "SecretAccessKey": "wrong"})
    with pytest.raises(ClientError) as failure:
        client.get_table(DatabaseName="d", Name="t")
    assert failure.value.response["Error"]["Code"] == "InvalidSignatureException"
