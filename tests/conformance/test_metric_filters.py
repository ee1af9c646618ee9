"""CloudWatch Logs: filter patterns, metrics of metric filters, and lines in the embedded metric format."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.test_cloudformation import create, resource, settled, template
from tests.conformance.test_iam import allow, role, unique
from tests.conformance.test_lambda import function
from tests.conformance.test_stepfunctions import until
from tests.conftest import Aws

LINES = [
    '127.0.0.1 - anna [10/Oct/2025:13:25:15 -0700] "GET /index.html HTTP/1.0" 200 1534',
    '127.0.0.1 - ben [10/Oct/2025:13:35:22 -0700] "GET /missing.gif HTTP/1.0" 404 58',
    '{"level": "ERROR", "ms": 250, "user": {"name": "anna"}, "tags": ["a", "b"], "ok": false, "none": null}',
    '{"level": "INFO", "ms": 5, "user": {"name": "ben"}, "ok": true}',
    "ERROR cannot open the file",
    "a warning: WARN, not an ERROR",
]


@pytest.fixture
def group(aws: Aws) -> str:
    name = unique("/filters")
    aws.client("logs").create_log_group(logGroupName=name)
    aws.client("logs").create_log_stream(logGroupName=name, logStreamName="one")
    return name


def write(aws: Aws, group: str, *lines: str) -> None:
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": line} for line in lines]
    aws.client("logs").put_log_events(logGroupName=group, logStreamName="one", logEvents=events)


def total(aws: Aws, namespace: str, name: str, statistic: str = "Sum", **dimensions: str) -> float | None:
    """Return a statistic of the last ten minutes, None if nothing was measured."""
    now = datetime.now(UTC)
    metric = {
        "Namespace": namespace,
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
    }
    [found] = aws.client("cloudwatch").get_metric_data(
        MetricDataQueries=[{"Id": "m", "MetricStat": {"Metric": metric, "Period": 3600, "Stat": statistic}}],
        StartTime=now - timedelta(minutes=10),
        EndTime=now + timedelta(minutes=1),
    )["MetricDataResults"]
    return sum(found["Values"]) if found["Values"] else None


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("ERROR", [2, 4, 5]),
        ("ERROR -WARN", [2, 4]),
        ("ERROR file", [4]),
        ('"the file"', [4]),
        ("?WARN ?file", [4, 5]),
        ("%ERR[A-Z]+ can%", [4]),
        ("error", []),
        ('{ $.level = "ERROR" }', [2]),
        ('{ $.level != "ERROR" }', [3]),
        ("{ $.ms >= 5 && $.ms < 100 }", [3]),
        ('{ $.ms > 100 || $.user.name = "b*" }', [2, 3]),
        ('{ ($.ms = 5 || $.ms = 250) && $.tags[1] = "b" }', [2]),
        ("{ $.ok IS TRUE }", [3]),
        ("{ $.none IS NULL }", [2]),
        ("{ $.tags NOT EXISTS }", [3]),
        ("{ $.user.name = %^an% }", [2]),
        ("[ip, id, user, time, request, status, bytes]", [0, 1]),
        ("[ip, id, user, time, request, status=4*, bytes]", [1]),
        ("[..., status=200, bytes>1000]", [0]),
        ("[ip, ..., status=404 || status=410, bytes]", [1]),
    ],
)
def test_a_pattern_selects_messages(aws: Aws, group: str, pattern: str, expected: list[int]) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntax.html"""
    write(aws, group, *LINES)
    events = aws.client("logs").filter_log_events(logGroupName=group, filterPattern=pattern)["events"]
    assert [LINES.index(event["message"]) for event in events] == expected


@pytest.mark.parametrize("pattern", ["{ $.a = }", "{ a = 1 }", "{ ($.a = 1 }", "{ $.a ~ 1 }"])
def test_a_wrong_pattern_is_refused(aws: Aws, group: str, pattern: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutMetricFilter.html"""
    with pytest.raises(ClientError, match="InvalidParameterException"):
        filtered(aws, group, "Any", pattern=pattern)


def filtered(aws: Aws, group: str, namespace: str, pattern: str = "", **rule: Any) -> None:
    transformation = {"metricNamespace": namespace, "metricName": "Seen", "metricValue": "1", **rule}
    aws.client("logs").put_metric_filter(
        logGroupName=group,
        filterName=unique("filter"),
        filterPattern=pattern,
        metricTransformations=[transformation],
    )


def test_a_metric_filter_counts_what_matches(aws: Aws, group: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/MonitoringLogData.html"""
    namespace = unique("Filters")
    filtered(aws, group, namespace, "ERROR")
    write(aws, group, LINES[0])
    assert total(aws, namespace, "Seen") is None
    write(aws, group, *LINES)
    assert total(aws, namespace, "Seen") == 3


def test_a_metric_filter_takes_values_and_dimensions_from_fields(aws: Aws, group: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/FilterAndPatternSyntaxForMetricFilters.html"""
    namespace = unique("Filters")
    by_user = {"metricName": "Milliseconds", "metricValue": "$.ms", "dimensions": {"User": "$.user.name"}}
    filtered(aws, group, namespace, "{ $.ms > 0 }", **by_user, unit="Milliseconds")
    by_status = {"metricName": "Bytes", "metricValue": "$bytes", "dimensions": {"Status": "$status"}}
    filtered(aws, group, namespace, "[ip, id, user, time, request, status, bytes]", **by_status)
    write(aws, group, *LINES, '{"ms": 1}', '{"ms": "slow", "user": {"name": "anna"}}')
    assert total(aws, namespace, "Milliseconds", User="anna") == 250
    assert total(aws, namespace, "Milliseconds", User="ben") == 5
    assert total(aws, namespace, "Milliseconds") is None
    assert total(aws, namespace, "Bytes", Status="404") == 58


def test_a_default_is_measured_when_nothing_matches(aws: Aws, group: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_MetricTransformation.html"""
    namespace = unique("Filters")
    filtered(aws, group, namespace, "ERROR", defaultValue=0.0)
    write(aws, group, "fine")
    assert total(aws, namespace, "Seen", "SampleCount") == 1
    assert total(aws, namespace, "Seen") == 0


def test_a_template_makes_a_metric_filter_with_its_permissions(aws: Aws, group: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-logs-metricfilter.html"""
    namespace, client = unique("Filters"), aws.client("cloudformation")
    rule = {"MetricNamespace": namespace, "MetricName": "Seen", "MetricValue": "1"}
    errors = resource(
        "AWS::Logs::MetricFilter", LogGroupName=group, FilterPattern="ERROR", MetricTransformations=[rule]
    )
    actions = ["logs:PutMetricFilter", "logs:DescribeMetricFilters", "logs:DeleteMetricFilter"]
    deployer = role(aws, "cloudformation.amazonaws.com", allow(actions, "*"))
    stack = create(client, template(Errors=errors), RoleARN=deployer)
    write(aws, group, "ERROR")
    assert total(aws, namespace, "Seen") == 1
    client.delete_stack(StackName=stack["StackId"])
    assert settled(client, stack["StackId"])["StackStatus"] == "DELETE_COMPLETE"
    write(aws, group, "ERROR")
    assert total(aws, namespace, "Seen") == 1
    powerless = role(aws, "cloudformation.amazonaws.com", allow(actions[1:], "*"))
    stack_id = client.create_stack(StackName=unique("stack"), TemplateBody=template(Errors=errors), RoleARN=powerless)
    assert settled(client, stack_id["StackId"])["StackStatus"] == "ROLLBACK_COMPLETE"


EMBEDDED = {
    "_aws": {
        "CloudWatchMetrics": [
            {
                "Namespace": "",
                "Dimensions": [["Service"], ["Service", "Stage"]],
                "Metrics": [{"Name": "Rows", "Unit": "Count"}, {"Name": "Times"}],
            }
        ],
    },
    "Service": "load",
    "Stage": "test",
    "Rows": 7,
    "Times": [1, 2, 3],
}


def embedded(namespace: str, **changes: Any) -> str:
    line = json.loads(json.dumps({**EMBEDDED, **changes}))
    line["_aws"]["Timestamp"] = int(time.time() * 1000)
    line["_aws"]["CloudWatchMetrics"][0]["Namespace"] = namespace
    return json.dumps(line)


def test_a_line_in_the_embedded_format_is_measured(aws: Aws, group: str) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html"""
    namespace = unique("Embedded")
    write(aws, group, embedded(namespace), embedded(namespace, Rows="many"), '{"_aws": 1}')
    assert total(aws, namespace, "Rows", Service="load") == 7
    assert total(aws, namespace, "Rows", Service="load", Stage="test") == 7
    assert total(aws, namespace, "Times", "SampleCount", Service="load") == 3
    assert total(aws, namespace, "Rows") is None


def test_a_function_measures_by_what_it_prints(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Generation.html"""
    namespace, name = unique("Embedded"), unique("prints")
    function(aws, name, f"def handler(event, context):\n    print({embedded(namespace)!r})\n")
    filtered(aws, _log_group(aws, name), namespace, "REPORT")
    aws.client("lambda").invoke(FunctionName=name)
    until(lambda: total(aws, namespace, "Rows", Service="load"), lambda seen: seen == 7)
    assert total(aws, namespace, "Seen") == 1


def _log_group(aws: Aws, name: str) -> str:
    group = f"/aws/lambda/{name}"
    aws.client("logs").create_log_group(logGroupName=group)
    return group
