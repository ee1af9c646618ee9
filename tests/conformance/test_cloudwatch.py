"""CloudWatch: what makes an alarm, and what it does then."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conformance.test_cloudformation import create, failures, resource, template
from tests.conformance.test_iam import allow, arn, denied, role, unique, user
from tests.conformance.test_stepfunctions import ended, machine, start, until
from tests.conftest import Aws


def alarm(aws: Aws, namespace: str, **settings: Any) -> str:
    """Return the name of a new alarm: more than 10 on average in the last minute, of dimension One=1."""
    name = unique("alarm")
    sound = {
        "Namespace": namespace,
        "MetricName": "Load",
        "Dimensions": [{"Name": "One", "Value": "1"}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 10,
        "ComparisonOperator": "GreaterThanThreshold",
    }
    aws.client("cloudwatch").put_metric_alarm(AlarmName=name, **{**sound, **settings})
    return name


def put(aws: Aws, namespace: str, value: float, age: float = 0, dimension: str = "1") -> None:
    """Publish a data point that is ``age`` seconds old."""
    datum = {
        "MetricName": "Load",
        "Dimensions": [{"Name": "One", "Value": dimension}],
        "Timestamp": datetime.now(UTC) - timedelta(seconds=age),
        "Value": value,
    }
    aws.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=[datum])


def state(aws: Aws, name: str) -> str:
    found: str = aws.client("cloudwatch").describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]
    return found


def becomes(aws: Aws, name: str, wanted: str) -> None:
    until(lambda: state(aws, name), lambda seen: seen == wanted)


def test_an_alarm_watches_its_own_dimensions(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html"""
    namespace = unique("Metrics")
    name = alarm(aws, namespace)
    put(aws, namespace, 5)
    becomes(aws, name, "OK")
    put(aws, namespace, 500, dimension="other")
    time.sleep(1)
    assert state(aws, name) == "OK"
    put(aws, namespace, 50)
    becomes(aws, name, "ALARM")


@pytest.mark.parametrize(
    ("values", "settings", "wanted"),
    [
        pytest.param([20, 20, 20], {}, "ALARM", id="all of three"),
        pytest.param([20, 5, 20], {}, "OK", id="not all of three"),
        pytest.param([20, 5, 20], {"DatapointsToAlarm": 2}, "ALARM", id="two of three"),
        pytest.param([20, None, None], {}, "ALARM", id="the rest is missing"),
        pytest.param([20, None, None], {"TreatMissingData": "notBreaching"}, "OK", id="missing is good"),
        pytest.param([20, 20, None], {"TreatMissingData": "breaching"}, "ALARM", id="missing is bad"),
        pytest.param([None, None, None], {"TreatMissingData": "breaching"}, "ALARM", id="all missing is bad"),
        pytest.param([None, None, None], {"TreatMissingData": "notBreaching"}, "OK", id="all missing is good"),
    ],
)
def test_an_alarm_counts_periods(aws: Aws, values: list[float | None], settings: dict[str, Any], wanted: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html"""
    namespace = unique("Metrics")
    for index, value in enumerate(values):
        if value is not None:
            put(aws, namespace, value, age=30 + 60 * index)
    becomes(aws, alarm(aws, namespace, EvaluationPeriods=3, **settings), wanted)


def test_without_data_a_state_is_unknown_or_kept(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/alarms-and-missing-data.html"""
    client, namespace = aws.client("cloudwatch"), unique("Metrics")
    missing, ignored = (alarm(aws, namespace, TreatMissingData=treat) for treat in ("missing", "ignore"))
    for name in (missing, ignored):
        client.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="rehearsal")
    put(aws, unique("Metrics"), 1)  # whatever is measured makes all alarms be judged
    becomes(aws, missing, "INSUFFICIENT_DATA")
    assert state(aws, ignored) == "ALARM"


def test_an_alarm_ends_by_time(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/AlarmThatSendsEmail.html"""
    namespace = unique("Metrics")
    name = alarm(aws, namespace, TreatMissingData="notBreaching")
    put(aws, namespace, 50, age=56)
    becomes(aws, name, "ALARM")
    becomes(aws, name, "OK")  # as soon as the data point is a minute old


def test_a_failed_execution_is_measured_and_alarms(aws: Aws) -> None:
    """https://docs.aws.amazon.com/step-functions/latest/dg/procedure-cw-metrics.html"""
    made = machine(aws, {"StartAt": "F", "States": {"F": {"Type": "Fail", "Error": "Wrong"}}})
    watched: dict[str, Any] = {
        "MetricName": "ExecutionsFailed",
        "Dimensions": [{"Name": "StateMachineArn", "Value": made}],
        "Statistic": "Sum",
        "Threshold": 0,
        "TreatMissingData": "notBreaching",
    }
    name = alarm(aws, "AWS/States", **watched)
    becomes(aws, name, "OK")
    assert ended(aws, start(aws, made))["status"] == "FAILED"
    becomes(aws, name, "ALARM")


def test_a_stack_makes_an_alarm_with_few_permissions(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatch.html"""
    client, name, namespace = aws.client("cloudformation"), unique("alarm"), unique("Metrics")
    body = template(
        A=resource(
            "AWS::CloudWatch::Alarm",
            AlarmName=name,
            Namespace=namespace,
            MetricName="Load",
            Dimensions=[{"Name": "One", "Value": "1"}],
            Statistic="Maximum",
            Period=60,
            EvaluationPeriods=1,
            Threshold=10,
            ComparisonOperator="GreaterThanThreshold",
        )
    )
    own = allow(["cloudwatch:PutMetricAlarm", "cloudwatch:DeleteAlarms"], arn("cloudwatch", f"alarm:{name}"))
    named = allow("cloudwatch:DescribeAlarms", arn("cloudwatch", f"alarm:{name}"))
    stack = create(client, body, RoleARN=role(aws, "cloudformation.amazonaws.com", own, named))
    assert "cloudwatch:DescribeAlarms" in failures(client, stack["StackId"])["A"]
    listing = allow("cloudwatch:DescribeAlarms", arn("cloudwatch", "alarm:*"))
    stack = create(client, body, RoleARN=role(aws, "cloudformation.amazonaws.com", own, listing))
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    put(aws, namespace, 50)
    becomes(aws, name, "ALARM")


def test_alarms_are_listed_by_who_may_list_them_all(aws: Aws) -> None:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazoncloudwatch.html"""
    name = alarm(aws, unique("Metrics"))
    owner = aws.client("cloudwatch", user(aws, allow("cloudwatch:DescribeAlarms", arn("cloudwatch", "alarm:*"))))
    assert [each["AlarmName"] for each in owner.describe_alarms(AlarmNamePrefix=name)["MetricAlarms"]] == [name]
    other = aws.client("cloudwatch", user(aws, allow("cloudwatch:DescribeAlarms", arn("cloudwatch", f"alarm:{name}"))))
    assert arn("cloudwatch", "alarm:*") in denied(lambda: other.describe_alarms(AlarmNames=[name]))
