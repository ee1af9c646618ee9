"""Faults reach a client as AWS's own do, and the account's root is spared.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    ResponseStreamingError,
)

from local.launcher import LauncherError, faults
from tests.conformance.test_iam import allow, unique, user
from tests.conftest import Aws

Client = Callable[..., Any]

THROTTLED = {
    "dynamodb": ("list_tables", "ProvisionedThroughputExceededException", 400),
    "kinesis": ("list_streams", "ProvisionedThroughputExceededException", 400),
    "lambda": ("list_functions", "TooManyRequestsException", 429),
    "s3": ("list_buckets", "SlowDown", 503),
    "sqs": ("list_queues", "RequestThrottled", 403),
    "firehose": ("list_delivery_streams", "ServiceUnavailableException", 503),
    "stepfunctions": ("list_state_machines", "ThrottlingException", 400),
    "sns": ("list_topics", "Throttling", 400),
    "cloudwatch": ("list_metrics", "ThrottlingException", 400),
}
FAILED = {
    "dynamodb": ("list_tables", "InternalServerError", 500),
    "s3": ("list_buckets", "InternalError", 500),
    "lambda": ("list_functions", "ServiceException", 500),
    "sns": ("list_topics", "InternalFailure", 500),
}


@pytest.fixture(scope="module")
def client(aws: Aws) -> Client:
    """Makes clients of a user who may do everything, without retries unless asked for."""
    keys = user(aws, allow("*", "*"))

    def make(service: str, attempts: int = 1) -> Any:
        return aws.client(service, keys, retries={"mode": "standard", "total_max_attempts": attempts})

    return make


@pytest.fixture
def queue(aws: Aws) -> Iterator[str]:
    url = aws.client("sqs").create_queue(QueueName=unique("faults"))["QueueUrl"]
    yield url
    aws.client("sqs").delete_queue(QueueUrl=url)


def depth(aws: Aws, queue: str) -> int:
    name = "ApproximateNumberOfMessages"
    return int(aws.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=[name])["Attributes"][name])


@pytest.mark.parametrize("service", THROTTLED)
def test_throttling(aws: Aws, client: Client, service: str) -> None:
    """https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html"""
    operation, code, status = THROTTLED[service]
    with faults.on(aws.endpoint, [{"actions": ["*"], "fault": "throttle"}]), pytest.raises(ClientError) as caught:
        getattr(client(service), operation)()
    answer = caught.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    with faults.on(aws.endpoint, [{"actions": ["*"], "fault": "throttle", "most": 1}]):
        assert getattr(client(service, attempts=2), operation)()["ResponseMetadata"]["RetryAttempts"] == 1


@pytest.mark.parametrize("service", FAILED)
def test_server_errors(aws: Aws, client: Client, service: str) -> None:
    """https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html"""
    operation, code, status = FAILED[service]
    with faults.on(aws.endpoint, [{"actions": ["*"], "fault": "error"}]), pytest.raises(ClientError) as caught:
        getattr(client(service), operation)()
    answer = caught.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)


def test_latency(aws: Aws, client: Client) -> None:
    sqs = client("sqs")
    sqs.list_queues()
    with faults.on(aws.endpoint, [{"actions": ["sqs:*"], "fault": "latency", "seconds": 0.2}]):
        started = time.monotonic()
        for _ in range(10):
            sqs.list_queues()
    assert time.monotonic() - started > 0.4


def test_a_reset_loses_the_answer_of_what_was_done(aws: Aws, client: Client, queue: str) -> None:
    """The client cannot know, so its SDK sends again: a duplicate."""
    rules = [{"actions": ["sqs:SendMessage"], "fault": "reset", "most": 1}]
    with faults.on(aws.endpoint, rules), pytest.raises((ConnectionClosedError, HTTPClientError)):
        client("sqs").send_message(QueueUrl=queue, MessageBody="once")
    assert depth(aws, queue) == 1
    with faults.on(aws.endpoint, rules):
        client("sqs", attempts=2).send_message(QueueUrl=queue, MessageBody="twice")
    assert depth(aws, queue) == 3


def test_a_truncated_answer(aws: Aws, client: Client, queue: str) -> None:
    """Half of it has come when the connection closes; the SDK sends again here, too."""
    rules = [{"actions": ["sqs:SendMessage"], "fault": "truncate", "most": 1}]
    with faults.on(aws.endpoint, rules), pytest.raises(ConnectionClosedError) as caught:
        client("sqs").send_message(QueueUrl=queue, MessageBody="once")
    assert "IncompleteRead" in repr(caught.value.kwargs["error"])
    assert depth(aws, queue) == 1
    with faults.on(aws.endpoint, rules):
        client("sqs", attempts=2).send_message(QueueUrl=queue, MessageBody="twice")
    assert depth(aws, queue) == 3


def test_a_truncated_object(aws: Aws, client: Client) -> None:
    """The answer's head is there; what is missing shows when the body is read, which no SDK repeats."""
    bucket = unique("faults")
    s3 = client("s3")
    aws.client("s3").create_bucket(Bucket=bucket)
    aws.client("s3").put_object(Bucket=bucket, Key="object", Body=b"x" * 100_000)
    with faults.on(aws.endpoint, [{"actions": ["s3:GetObject"], "fault": "truncate", "most": 1}]):
        body = s3.get_object(Bucket=bucket, Key="object")["Body"]
        with pytest.raises((ResponseStreamingError, IncompleteReadError)):
            body.read()
        assert s3.get_object(Bucket=bucket, Key="object")["Body"].read() == b"x" * 100_000


def test_a_rule_strikes_the_actions_it_names(aws: Aws, client: Client, queue: str) -> None:
    with faults.on(aws.endpoint, [{"actions": ["sqs:Send*"], "fault": "error"}]):
        client("sqs").receive_message(QueueUrl=queue)
        client("sns").list_topics()
        with pytest.raises(ClientError):
            client("sqs").send_message(QueueUrl=queue, MessageBody="refused")
        assert [rule["struck"] for rule in faults.struck(aws.endpoint)] == [1]
    client("sqs").send_message(QueueUrl=queue, MessageBody="accepted")
    assert depth(aws, queue) == 1


def test_a_rule_strikes_its_share(aws: Aws, client: Client) -> None:
    sqs, refused = client("sqs"), 0
    with faults.on(aws.endpoint, [{"actions": ["sqs:*"], "fault": "error", "share": 0.3}]):
        for _ in range(200):
            try:
                sqs.list_queues()
            except ClientError:
                refused += 1
    assert 20 < refused < 120


def test_the_root_is_spared(aws: Aws) -> None:
    with faults.on(aws.endpoint, [{"actions": ["*"], "fault": "error"}]):
        aws.client("sqs").list_queues()


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"actions": ["*"], "fault": "flood"}, "not 'flood'"),
        ({"actions": ["*"], "fault": "error", "share": 3}, "from 0 to 1"),
        ({"actions": "*", "fault": "error"}, "actions is a list"),
        ({"action": ["*"], "fault": "error"}, "action"),
    ],
)
def test_what_is_no_rule_is_refused(aws: Aws, rule: dict[str, Any], reason: str) -> None:
    with pytest.raises(LauncherError, match=reason):
        faults.switch(aws.endpoint, [rule])
    assert faults.struck(aws.endpoint) == []
