"""Targets that tell what they were sent, for the tests of event rules, schedules, topic rules and pipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.conformance.test_firehose import bucket, objects, to_s3, writer
from tests.conformance.test_iam import allow, arn, unique
from tests.conformance.test_lambda import pending_function
from tests.conformance.test_stepfunctions import let_in, machine, queue, queue_arn
from tests.conftest import Aws

PRINTS = """
import json

def handler(event, context):
    print("GOT " + json.dumps(event), flush=True)
    if isinstance(event, dict) and event.get("detail", {}) == {"fails": True}:
        raise ValueError("as asked")
"""
KINDS = ("events", "firehose", "kinesis", "lambda", "logs", "sns", "sqs", "states")
BY_POLICY = ("lambda", "logs", "sns", "sqs")


@dataclass(frozen=True)
class Place:
    """A target: its ARN, what a caller needs to be allowed, and what has arrived so far as texts."""

    arn: str
    statement: dict[str, Any]
    read: Callable[[], list[str]]


def place(aws: Aws, kind: str) -> Place:
    """Return a new target of ``kind``."""
    return _MAKERS[kind](aws)


def _queue(aws: Aws) -> Place:
    url = queue(aws)
    return Place(queue_arn(url), allow("sqs:SendMessage", queue_arn(url)), lambda: bodies(aws, url))


def bodies(aws: Aws, url: str) -> list[str]:
    """Return the bodies of a queue's messages, which stay in it."""
    return [each["Body"] for each in messages(aws, url)]


def messages(aws: Aws, url: str) -> list[dict[str, Any]]:
    """Return up to ten messages of a queue, which stay in it."""
    members = {"MaxNumberOfMessages": 10, "VisibilityTimeout": 0}
    names = {"MessageAttributeNames": ["All"], "MessageSystemAttributeNames": ["All"]}
    found: list[dict[str, Any]] = (
        aws.client("sqs").receive_message(QueueUrl=url, **members, **names).get("Messages", [])
    )
    return found


def _topic(aws: Aws) -> Place:
    """A topic that hands on to a queue."""
    sns, url = aws.client("sns"), queue(aws)
    topic = sns.create_topic(Name=unique("topic"))["TopicArn"]
    raw = {"RawMessageDelivery": "true"}
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn(url), Attributes=raw)
    let_in(aws, url, topic)
    return Place(topic, allow("sns:Publish", topic), lambda: bodies(aws, url))


def _stream(aws: Aws) -> Place:
    kinesis, name = aws.client("kinesis"), unique("stream")
    kinesis.create_stream(StreamName=name, ShardCount=1)
    made = arn("kinesis", f"stream/{name}")
    return Place(
        made,
        allow(["kinesis:PutRecord", "kinesis:PutRecords"], made),
        lambda: [f"{each['PartitionKey']} {each['Data'].decode()}" for each in records(aws, name)],
    )


def records(aws: Aws, stream: str) -> list[dict[str, Any]]:
    """Return the records of a stream of one shard."""
    kinesis = aws.client("kinesis")
    iterator = kinesis.get_shard_iterator(
        StreamName=stream, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )["ShardIterator"]
    found: list[dict[str, Any]] = kinesis.get_records(ShardIterator=iterator)["Records"]
    return found


def _firehose(aws: Aws) -> Place:
    name, into = unique("hose"), bucket(aws)
    aws.client("firehose").create_delivery_stream(
        DeliveryStreamName=name, ExtendedS3DestinationConfiguration=to_s3(writer(aws, into), into)
    )
    made = arn("firehose", f"deliverystream/{name}")
    return Place(
        made,
        allow(["firehose:PutRecord", "firehose:PutRecordBatch"], made),
        lambda: [body.decode() for body in objects(aws, into).values()],
    )


def _function(aws: Aws) -> Place:
    name = unique("prints")
    made = pending_function(aws, name, PRINTS)
    return Place(made, allow("lambda:InvokeFunction", made), lambda: printed(aws, name))


def printed(aws: Aws, name: str) -> list[str]:
    """Return the events that a function of ``PRINTS`` has got."""
    logs = aws.client("logs")
    try:
        lines = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern='"GOT "')["events"]
    except logs.exceptions.ResourceNotFoundException:
        return []
    return [line["message"].partition("GOT ")[2].splitlines()[0] for line in lines]


def _workflow(aws: Aws) -> Place:
    made = machine(aws, {"StartAt": "Only", "States": {"Only": {"Type": "Pass", "End": True}}})
    workflows = aws.client("stepfunctions")

    def read() -> list[str]:
        started = workflows.list_executions(stateMachineArn=made)["executions"]
        return [workflows.describe_execution(executionArn=each["executionArn"])["input"] for each in started]

    return Place(made, allow("states:StartExecution", made), read)


def _logs(aws: Aws) -> Place:
    name, logs = f"/aws/events/{unique('group')}", aws.client("logs")
    logs.create_log_group(logGroupName=name)
    made = arn("logs", f"log-group:{name}")
    return Place(
        made,
        allow(["logs:CreateLogStream", "logs:PutLogEvents"], f"{made}:*"),
        lambda: [each["message"] for each in logs.filter_log_events(logGroupName=name)["events"]],
    )


def _bus(aws: Aws) -> Place:
    """A bus with a rule that sends everything to a queue."""
    events, name, url = aws.client("events"), unique("bus"), queue(aws)
    made = events.create_event_bus(Name=name)["EventBusArn"]
    pattern = json.dumps({"source": [{"exists": True}]})
    rule = events.put_rule(Name="all", EventBusName=name, EventPattern=pattern)["RuleArn"]
    let_service_in(aws, queue_arn(url), "events.amazonaws.com", rule)
    events.put_targets(Rule="all", EventBusName=name, Targets=[{"Id": "queue", "Arn": queue_arn(url)}])
    return Place(made, allow("events:PutEvents", made), lambda: bodies(aws, url))


def _bucket(aws: Aws) -> Place:
    name = bucket(aws)
    return Place(
        f"arn:aws:s3:::{name}",
        allow("s3:PutObject", f"arn:aws:s3:::{name}/*"),
        lambda: [body.decode() for body in objects(aws, name).values()],
    )


_MAKERS = {
    "events": _bus,
    "firehose": _firehose,
    "kinesis": _stream,
    "lambda": _function,
    "logs": _logs,
    "s3": _bucket,
    "sns": _topic,
    "sqs": _queue,
    "states": _workflow,
}


def let_service_in(aws: Aws, target: str, service: str, source: str) -> None:
    """Let ``service`` send to the queue, topic, function or log group ``target`` on behalf of ``source`` only."""
    actions = {
        "lambda": "lambda:InvokeFunction",
        "logs": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "sns": "sns:Publish",
        "sqs": "sqs:SendMessage",
    }
    kind = target.split(":")[2]
    if kind == "lambda":
        aws.client("lambda").add_permission(
            FunctionName=target,
            StatementId=unique("let"),
            Action=actions[kind],
            Principal=service,
            SourceArn=source,
        )
        return
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": actions[kind],
        "Resource": f"{target}:*" if kind == "logs" else target,
        "Condition": {"ArnEquals": {"aws:SourceArn": source}},
    }
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    if kind == "sqs":
        url = aws.client("sqs").get_queue_url(QueueName=target.rpartition(":")[2])["QueueUrl"]
        aws.client("sqs").set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})
    elif kind == "sns":
        aws.client("sns").set_topic_attributes(TopicArn=target, AttributeName="Policy", AttributeValue=policy)
    else:
        aws.client("logs").put_resource_policy(policyName=unique("let"), policyDocument=policy)


def total(aws: Aws, namespace: str, metric: str, **dimensions: str) -> float:
    """Return the sum of a metric over the last hours."""
    now = datetime.now(UTC)
    points = aws.client("cloudwatch").get_metric_statistics(
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in dimensions.items()],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(hours=1),
        Period=86_400,
        Statistics=["Sum"],
    )["Datapoints"]
    return float(sum(point["Sum"] for point in points))
