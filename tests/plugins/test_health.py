"""The health check, against the embedded CloudWatch, SQS and S3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowException

from atlas.loadgen.feed import Manifest
from atlas.operators.health import CheckHealthOperator
from tests.conftest import Aws

BUCKET = "health-lake"
STACK = "atlas-test-s00"
HEALTHY = {"alarms": [], "dead_letters": 0, "failed": 0, "quarantined": 0, "malformed": 0}


class Bench:
    """A scenario's alarms, dead-letter queue and lake."""

    def __init__(self, aws: Aws) -> None:
        self.s3 = aws.client("s3")
        self.sqs = aws.client("sqs")
        self.cloudwatch = aws.client("cloudwatch")
        self.s3.create_bucket(Bucket=BUCKET)
        self.queue = self.sqs.create_queue(QueueName="health-dead")["QueueUrl"]
        self.ti = MagicMock()

    def alarm(self, name: str, state: str) -> None:
        self.cloudwatch.put_metric_alarm(
            AlarmName=name,
            Namespace="Atlas/Test",
            MetricName="Errors",
            Statistic="Sum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=0,
            ComparisonOperator="GreaterThanThreshold",
            TreatMissingData="ignore",  # so that the state stays as it is set
        )
        self.cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason=f"{name} says why")

    def quarantine(self, *names: str) -> None:
        for name in names:
            self.s3.put_object(Bucket=BUCKET, Key=f"s00/quarantine/{name}.json", Body=b"{}")

    def feed(self, malformed: int, started_at: datetime, malformed_again: int = 0) -> str:
        address = f"s3://{BUCKET}/s00/runs/r1/feed.json"
        Manifest(
            **dict.fromkeys(("events", "duplicates", "records", "retried"), 1),
            malformed=malformed,
            shards={},
            started_at=started_at,
            finished_at=started_at,
            truth={},
            malformed_again=malformed_again,
        ).store(S3Hook(), address)
        return address

    def check(self, **changes: Any) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "stack_name": STACK,
            "queues": [self.queue],
            "failed": [f"s3://{BUCKET}/s00/failed/", f"s3://{BUCKET}/s00/failed-too/"],
            "quarantine": f"s3://{BUCKET}/s00/quarantine/",
        }
        return CheckHealthOperator(task_id="check_health", **(arguments | changes)).execute({"ti": self.ti})


@pytest.fixture
def bench(connected: Aws) -> Iterator[Bench]:
    bench = Bench(connected)
    yield bench
    for entry in bench.s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        bench.s3.delete_object(Bucket=BUCKET, Key=entry["Key"])
    bench.s3.delete_bucket(Bucket=BUCKET)
    bench.sqs.delete_queue(QueueUrl=bench.queue)
    alarms = bench.cloudwatch.describe_alarms(AlarmNamePrefix=STACK)["MetricAlarms"]
    bench.cloudwatch.delete_alarms(AlarmNames=[alarm["AlarmName"] for alarm in alarms])


@pytest.mark.parametrize("field", CheckHealthOperator.template_fields)
def test_template_fields_are_attributes(field: str) -> None:
    assert hasattr(CheckHealthOperator(task_id="check_health", stack_name=STACK), field)


def test_a_healthy_stack_passes(bench: Bench) -> None:
    bench.alarm(f"{STACK}-errors", "OK")
    bench.alarm(f"{STACK}x-errors", "ALARM")
    assert bench.check() == HEALTHY


def test_the_name_of_the_stack_is_enough(bench: Bench) -> None:
    assert bench.check(queues=[], failed=[], quarantine=None) == HEALTHY


def test_a_ringing_alarm_is_named_with_its_reason(bench: Bench) -> None:
    bench.alarm(f"{STACK}-iterator-age", "ALARM")
    bench.alarm(f"{STACK}-errors", "ALARM")
    with pytest.raises(AirflowException) as raised:
        bench.check(expected_alarms=["errors"])
    assert f"Alarm {STACK}-iterator-age rings: {STACK}-iterator-age says why" in str(raised.value)
    assert f"{STACK}-errors" not in str(raised.value)
    bench.ti.xcom_push.assert_called_once_with(
        key="return_value", value=HEALTHY | {"alarms": [f"{STACK}-iterator-age"]}
    )


def test_dead_letters_are_counted_also_while_somebody_looks_at_them(bench: Bench) -> None:
    for _ in range(2):
        bench.sqs.send_message(QueueUrl=bench.queue, MessageBody="m")
    bench.sqs.receive_message(QueueUrl=bench.queue, MaxNumberOfMessages=1)
    with pytest.raises(AirflowException, match=r"queue health-dead holds 2 messages: .* redrive"):
        bench.check()


def test_a_batch_that_was_given_up_is_a_finding(bench: Bench) -> None:
    bench.s3.put_object(Bucket=BUCKET, Key="s00/failed/aws/lambda/1/shardId-0/2026/01/05/x", Body=b"{}")
    with pytest.raises(AirflowException, match=f"1 batches below s3://{BUCKET}/s00/failed/, .* were given up"):
        bench.check()


def test_what_the_feed_damaged_is_expected_in_the_quarantine(bench: Bench) -> None:
    bench.quarantine("shardId-0/1", "shardId-0/2")
    manifest = bench.feed(malformed=2, started_at=datetime.now(UTC) - timedelta(seconds=30))
    assert bench.check(manifest=manifest) == HEALTHY | {"quarantined": 2, "malformed": 2}


def test_damage_that_may_have_arrived_twice_is_expected_twice(bench: Bench) -> None:
    bench.quarantine("shardId-0/1", "shardId-0/2")
    manifest = bench.feed(malformed=1, malformed_again=1, started_at=datetime.now(UTC) - timedelta(seconds=30))
    assert bench.check(manifest=manifest) == HEALTHY | {"quarantined": 2, "malformed": 1}


def test_more_than_that_is_a_finding(bench: Bench) -> None:
    bench.quarantine("shardId-0/1", "shardId-0/2")
    manifest = bench.feed(malformed=1, started_at=datetime.now(UTC) - timedelta(seconds=30))
    with pytest.raises(AirflowException, match=f"2 records .* 1 were expected.*--bucket {BUCKET} --prefix s00/quar"):
        bench.check(manifest=manifest)
    assert bench.check(manifest=manifest, tolerated_malformed="1")["quarantined"] == 2


def test_what_was_quarantined_before_the_feed_does_not_count(bench: Bench) -> None:
    bench.quarantine("shardId-0/1")
    time.sleep(1.1)
    manifest = bench.feed(malformed=0, started_at=datetime.now(UTC))
    assert bench.check(manifest=manifest)["quarantined"] == 0


@pytest.mark.parametrize("manifest", [None, ""], ids=["none", "rendered from nothing"])
def test_without_a_feed_everything_recent_is_a_finding(bench: Bench, manifest: str | None) -> None:
    bench.quarantine("shardId-0/1")
    with pytest.raises(AirflowException, match="1 records are quarantined, 0 were expected"):
        bench.check(manifest=manifest)


def test_all_findings_are_named_at_once(bench: Bench) -> None:
    bench.alarm(f"{STACK}-errors", "ALARM")
    bench.quarantine("shardId-0/1")
    with pytest.raises(AirflowException, match=r"not healthy:\n- Alarm .*\n- 1 records"):
        bench.check()
