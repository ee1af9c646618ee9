"""Notifications: topics, buckets and alarms reach those whose own policy lets them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.event_sources import eventually
from tests.conformance.event_targets import let_service_in, place
from tests.conformance.test_cloudwatch import alarm
from tests.conformance.test_firehose import bucket
from tests.conformance.test_iam import arn, unique
from tests.conftest import Aws

S3 = "s3.amazonaws.com"
CONFIGURATIONS = {"lambda": "LambdaFunctionArn", "sns": "TopicArn", "sqs": "QueueArn"}


def test_a_topic_invokes_a_function_whose_policy_lets_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html"""
    sns, target = aws.client("sns"), place(aws, "lambda")
    closed, opened = (sns.create_topic(Name=unique("topic"))["TopicArn"] for _ in range(2))
    for topic in (closed, opened):
        sns.subscribe(TopicArn=topic, Protocol="lambda", Endpoint=target.arn)
    let_service_in(aws, target.arn, "sns.amazonaws.com", opened)

    def told() -> list[str]:
        return [json.loads(text)["Records"][0]["Sns"]["Message"] for text in target.read()]

    sns.publish(TopicArn=closed, Message="not allowed")
    sns.publish(TopicArn=opened, Message="first")
    eventually(told)
    sns.publish(TopicArn=opened, Message="second")  # by now the one that is not allowed would be there
    assert sorted(eventually(told, lambda found: "second" in found)) == ["first", "second"]


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_bucket_notifies_whose_policy_lets_it(aws: Aws, kind: str) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/userguide/grant-destinations-permissions-to-s3.html"""
    s3, target, closed, opened = aws.client("s3"), place(aws, kind), bucket(aws), bucket(aws)
    let_service_in(aws, target.arn, S3, f"arn:aws:s3:::{opened}")
    member = CONFIGURATIONS[kind]
    configuration = {
        f"{member.removesuffix('Arn')}Configurations": [{member: target.arn, "Events": ["s3:ObjectCreated:*"]}]
    }

    def notify(name: str, **members: Any) -> None:
        s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration=configuration, **members)

    def told() -> list[str]:
        events = [json.loads(text) for text in target.read()]
        objects = [event["Records"][0]["s3"] for event in events if "Records" in event]
        return [f"{each['bucket']['name']}/{each['object']['key']}" for each in objects]

    with pytest.raises(ClientError, match=f"following destination configurations: {target.arn}"):
        notify(closed)
    notify(opened)
    notify(closed, SkipDestinationValidation=True)
    s3.put_object(Bucket=closed, Key="not allowed")
    s3.put_object(Bucket=opened, Key="first")
    eventually(told)
    s3.put_object(Bucket=opened, Key="second")  # by now the one that is not allowed would be there
    found = eventually(told, lambda found: f"{opened}/second" in found)
    assert sorted(found) == [f"{opened}/first", f"{opened}/second"]


def test_an_alarm_notifies_a_topic_whose_policy_lets_it(aws: Aws) -> None:
    """https://repost.aws/knowledge-center/cloudwatch-receive-sns-for-alarm-trigger"""
    client, target = aws.client("cloudwatch"), place(aws, "sns")
    unchanged, closed, opened = (alarm(aws, unique("Metrics"), AlarmActions=[target.arn]) for _ in range(3))

    def rings(name: str) -> None:
        client.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="tried")

    rings(unchanged)  # the policy of a new topic lets in its own account's alarms
    let_service_in(aws, target.arn, "cloudwatch.amazonaws.com", arn("cloudwatch", f"alarm:{opened}"))
    rings(closed)
    rings(opened)
    assert sorted(json.loads(text)["AlarmName"] for text in target.read()) == sorted([unchanged, opened])
