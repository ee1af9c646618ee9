"""SQS: the metrics of queues, and who may send to them."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.conformance.test_iam import unique
from tests.conformance.test_stepfunctions import let_in, queue, queue_arn, received, until
from tests.conftest import Aws


def statistic(aws: Aws, url: str, metric: str, name: str) -> list[float]:
    """Return a statistic of a queue's metric by minute, the oldest first."""
    now = datetime.now(UTC)
    points = aws.client("cloudwatch").get_metric_statistics(
        Namespace="AWS/SQS",
        MetricName=metric,
        Dimensions=[{"Name": "QueueName", "Value": url.rpartition("/")[2]}],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
        Period=60,
        Statistics=[name],
    )["Datapoints"]
    return [point[name] for point in sorted(points, key=lambda each: each["Timestamp"])]


def total(aws: Aws, url: str, metric: str) -> float:
    return sum(statistic(aws, url, metric, "Sum"))


def test_a_queue_tells_how_full_it_is(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html"""
    url, client = queue(aws), aws.client("sqs")
    sent = time.monotonic()
    client.send_message_batch(
        QueueUrl=url, Entries=[{"Id": str(number), "MessageBody": str(number)} for number in range(3)]
    )
    client.send_message(QueueUrl=url, MessageBody="later", DelaySeconds=60)
    until(
        lambda: statistic(aws, url, "ApproximateNumberOfMessagesVisible", "Maximum"),
        lambda seen: max(seen, default=0) == 3,
    )
    assert max(statistic(aws, url, "ApproximateNumberOfMessagesDelayed", "Maximum")) == 1
    assert 0 < max(statistic(aws, url, "ApproximateAgeOfOldestMessage", "Maximum")) <= time.monotonic() - sent

    messages = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert len(messages) == 3
    until(
        lambda: statistic(aws, url, "ApproximateNumberOfMessagesNotVisible", "Maximum"),
        lambda seen: max(seen, default=0) == 3,
    )
    for message in messages:
        client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    assert until(lambda: total(aws, url, "NumberOfMessagesDeleted"), lambda seen: seen >= 3) == 3
    assert total(aws, url, "NumberOfMessagesSent") == 4
    assert total(aws, url, "NumberOfMessagesReceived") == 3


def test_a_queue_without_traffic_has_no_metrics(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html"""
    idle, busy = queue(aws), queue(aws)
    aws.client("sqs").send_message(QueueUrl=busy, MessageBody="m")
    until(lambda: statistic(aws, busy, "ApproximateNumberOfMessagesVisible", "Maximum"), bool)
    assert statistic(aws, idle, "ApproximateNumberOfMessagesVisible", "Maximum") == []


def test_dead_letters_raise_an_alarm(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/dead-letter-queues-alarms-cloudwatch.html"""
    client, dead, notices = aws.client("sqs"), queue(aws), queue(aws)
    redrive = json.dumps({"deadLetterTargetArn": queue_arn(dead), "maxReceiveCount": 1})
    source = client.create_queue(
        QueueName=unique("queue"), Attributes={"RedrivePolicy": redrive, "VisibilityTimeout": "0"}
    )["QueueUrl"]
    topic = aws.client("sns").create_topic(Name=unique())["TopicArn"]
    raw = {"RawMessageDelivery": "true"}
    aws.client("sns").subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn(notices), Attributes=raw)
    let_in(aws, notices, topic)
    alarms, name = aws.client("cloudwatch"), unique("dead-letters")
    alarms.put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/SQS",
        MetricName="ApproximateNumberOfMessagesVisible",
        Dimensions=[{"Name": "QueueName", "Value": dead.rpartition("/")[2]}],
        Statistic="Maximum",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
        AlarmActions=[topic],
    )
    client.send_message(QueueUrl=source, MessageBody="poison")
    for _ in range(2):  # received once, it is moved the next time
        client.receive_message(QueueUrl=source)
    notice: dict[str, Any] = json.loads(received(aws, notices))
    assert (notice["AlarmName"], notice["NewStateValue"]) == (name, "ALARM")
    assert alarms.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] == "ALARM"


def test_a_topic_needs_the_queues_leave(aws: Aws) -> None:
    """https://docs.aws.amazon.com/sns/latest/dg/subscribe-sqs-queue-to-sns-topic.html"""
    closed, opened = queue(aws), queue(aws)
    topic = aws.client("sns").create_topic(Name=unique())["TopicArn"]
    for url in (closed, opened):
        aws.client("sns").subscribe(
            TopicArn=topic, Protocol="sqs", Endpoint=queue_arn(url), Attributes={"RawMessageDelivery": "true"}
        )
    let_in(aws, opened, topic)
    aws.client("sns").publish(TopicArn=topic, Message="m")
    assert received(aws, opened) == "m"
    assert "Messages" not in aws.client("sqs").receive_message(QueueUrl=closed)
