"""CloudWatch: metric math in GetMetricData and in alarms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_cloudformation import create, resource, settled, template
from tests.conformance.test_cloudwatch import becomes
from tests.conformance.test_iam import unique
from tests.conftest import Aws

BEGIN = (datetime.now(UTC) - timedelta(hours=1)).replace(second=0, microsecond=0)
"""The start of the first of five minutes."""
GIVEN = {"Errors": {0: 1.0, 1: 2.0, 3: 4.0}, "Calls": {0: 10.0, 1: 20.0, 2: 0.0, 3: 8.0}}


def metric(namespace: str, name: str, **fields: Any) -> dict[str, Any]:
    """Return a query for the sums by minute of a metric."""
    stat = {"Metric": {"Namespace": namespace, "MetricName": name}, "Period": 60, "Stat": "Sum"}
    return {"Id": name.lower(), "MetricStat": stat, **fields}


@pytest.fixture(scope="module")
def namespace(aws: Aws) -> str:
    """A namespace with two metrics: errors in three of four minutes, calls in all four."""
    name = unique("Math")
    data = [
        {"MetricName": metric_name, "Timestamp": BEGIN + timedelta(minutes=minute, seconds=20), "Value": value}
        for metric_name, values in GIVEN.items()
        for minute, value in values.items()
    ]
    aws.client("cloudwatch").put_metric_data(Namespace=name, MetricData=data)
    return name


def results(aws: Aws, namespace: str, expression: str, **fields: Any) -> list[dict[str, Any]]:
    queries = [metric(namespace, name, ReturnData=False) for name in GIVEN]
    found: list[dict[str, Any]] = aws.client("cloudwatch").get_metric_data(
        MetricDataQueries=[*queries, {"Id": "e", "Expression": expression, **fields}],
        StartTime=BEGIN,
        EndTime=BEGIN + timedelta(minutes=5),
        ScanBy="TimestampAscending",
    )["MetricDataResults"]
    return found


def minutes(result: dict[str, Any]) -> dict[int, float]:
    """Return a result's values by minute."""
    moments = [(moment - BEGIN).total_seconds() / 60 for moment in result["Timestamps"]]
    return {int(minute): value for minute, value in zip(moments, result["Values"], strict=True)}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("errors / calls * 100", {0: 10, 1: 10, 3: 50}),
        ("errors + calls", {0: 11, 1: 22, 3: 12}),
        ("calls - 1", {0: 9, 1: 19, 2: -1, 3: 7}),
        ("2 ^ errors", {0: 2, 1: 4, 3: 16}),
        ("100 / calls", {0: 10, 1: 5, 3: 12.5}),
        ("errors / SUM(errors)", {0: 1 / 7, 1: 2 / 7, 3: 4 / 7}),
        ("SUM(METRICS())", {0: 11, 1: 22, 2: 0, 3: 12}),
        ("AVG([errors, calls])", {0: 5.5, 1: 11, 2: 0, 3: 6}),
        ("MAX(METRICS('call'))", {0: 10, 1: 20, 2: 0, 3: 8}),
        ("IF(errors > 1, errors, 0)", {0: 0, 1: 2, 3: 4}),
        ("IF(errors > 1, errors)", {1: 2, 3: 4}),
        ("IF(errors > 1 && calls < 10, 1, 0)", {0: 0, 1: 0, 3: 1}),
        ("errors >= 2 OR calls = 10".replace("= 10", "== 10"), {0: 1, 1: 1, 3: 1}),
        ("FILL(errors, 0)", {0: 1, 1: 2, 2: 0, 3: 4, 4: 0}),
        ("FILL(errors, REPEAT)", {0: 1, 1: 2, 2: 2, 3: 4, 4: 4}),
        ("FILL(errors, LINEAR)", {0: 1, 1: 2, 2: 3, 3: 4}),
        ("FILL(errors, calls)", {0: 1, 1: 2, 2: 0, 3: 4}),
        ("RATE(calls)", {1: 10 / 60, 2: -20 / 60, 3: 8 / 60}),
        ("DIFF(errors)", {1: 1, 3: 2}),
        ("DIFF_TIME(errors)", {1: 60, 3: 120}),
        ("RUNNING_SUM(errors)", {0: 1, 1: 3, 3: 7}),
        ("errors / PERIOD(errors)", {0: 1 / 60, 1: 2 / 60, 3: 4 / 60}),
        ("CEIL(errors / 3) + ABS(-1)", {0: 2, 1: 2, 3: 3}),
        ("TIME_SERIES(7)", dict.fromkeys(range(5), 7)),
        ("FIRST(METRICS()) * METRIC_COUNT(METRICS())", {0: 2, 1: 4, 3: 8}),
    ],
)
def test_an_expression_makes_a_time_series(
    aws: Aws, namespace: str, expression: str, expected: dict[int, float]
) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html"""
    [found] = results(aws, namespace, expression)
    assert minutes(found) == pytest.approx(expected)
    assert (found["Id"], found["StatusCode"]) == ("e", "Complete")


def test_an_array_makes_several_time_series(aws: Aws, namespace: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/using-metric-math.html"""
    found = results(aws, namespace, "METRICS() * 2", Label="twice")
    assert {each["Label"]: minutes(each)[0] for each in found} == {"twice Errors": 2, "twice Calls": 20}


def test_expressions_may_use_expressions_and_the_latest_comes_first(aws: Aws, namespace: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html"""
    queries = [
        metric(namespace, "Errors"),
        {"Id": "filled", "Expression": "FILL(errors, 0)", "ReturnData": False},
        {"Id": "e", "Expression": "filled + 1"},
    ]
    found = aws.client("cloudwatch").get_metric_data(
        MetricDataQueries=queries, StartTime=BEGIN + timedelta(seconds=30), EndTime=BEGIN + timedelta(minutes=4)
    )["MetricDataResults"]
    assert [(each["Id"], each["Values"]) for each in found] == [("errors", [4, 2, 1]), ("e", [5, 1, 3, 2])]
    assert found[0]["Timestamps"][-1] == BEGIN


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("errors +", "cannot be parsed"),
        ("absent + 1", "undefined variable absent"),
        ("e + 1", "refers to itself"),
        ("SUM(errors)", "scalar"),
        ("SEARCH('x', 'Sum', 60)", "SEARCH"),
        ("__import__('os')", "__IMPORT__"),
    ],
)
def test_a_wrong_expression_is_refused(aws: Aws, namespace: str, expression: str, named: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_GetMetricData.html"""
    with pytest.raises(ClientError, match=f"ValidationError.*{named}"):
        results(aws, namespace, expression)


def put(aws: Aws, namespace: str, **values: float) -> None:
    data = [{"MetricName": name, "Value": value} for name, value in values.items()]
    aws.client("cloudwatch").put_metric_data(Namespace=namespace, MetricData=data)


def share(namespace: str) -> list[dict[str, Any]]:
    """Return an alarm's queries: the share of calls that are errors, 0 without any errors."""
    queries = [metric(namespace, name, ReturnData=False) for name in GIVEN]
    return [*queries, {"Id": "e", "Expression": "FILL(errors, 0) / calls * 100", "ReturnData": True}]


def test_an_alarm_watches_an_expression(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Create-alarm-on-metric-math-expression.html"""
    namespace, name, client = unique("Math"), unique("alarm"), aws.client("cloudwatch")
    sound = {"EvaluationPeriods": 1, "Threshold": 20, "ComparisonOperator": "GreaterThanThreshold"}
    client.put_metric_alarm(AlarmName=name, Metrics=share(namespace), **sound)
    put(aws, namespace, Calls=10)
    becomes(aws, name, "OK")
    put(aws, namespace, Errors=5)
    becomes(aws, name, "ALARM")
    [found] = client.describe_alarms(AlarmNames=[name])["MetricAlarms"]
    assert "MetricName" not in found
    assert found["Metrics"][-1]["Expression"] == "FILL(errors, 0) / calls * 100"
    both = [{**query, "ReturnData": True} for query in share(namespace)]
    with pytest.raises(ClientError, match="Exactly one element of the metrics list should return data"):
        client.put_metric_alarm(AlarmName=name, Metrics=both, **sound)


def test_a_template_makes_an_alarm_on_an_expression(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-cloudwatch-alarm.html"""
    namespace, name = unique("Math"), unique("alarm")
    alarm = resource(
        "AWS::CloudWatch::Alarm",
        AlarmName=name,
        Metrics=share(namespace),
        EvaluationPeriods=1,
        Threshold=20,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )
    client = aws.client("cloudformation")
    stack = create(client, template(Alarm=alarm))
    put(aws, namespace, Calls=10, Errors=3)
    becomes(aws, name, "ALARM")
    client.delete_stack(StackName=stack["StackId"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
