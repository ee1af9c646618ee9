"""AWS IoT rules: actions with their role, substitution templates, error actions, permissions, stacks."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conformance.event_sources import eventually
from tests.conformance.event_targets import Place, bodies, let_service_in, place, records, total
from tests.conformance.test_cloudformation import create, failures, resource, settled, template
from tests.conformance.test_firehose import bucket, may, objects
from tests.conformance.test_iam import allow, arn, denied, role, unique, user
from tests.conformance.test_stepfunctions import item, queue, queue_arn, table
from tests.conftest import Aws

IOT = "iot.amazonaws.com"


class Rule:
    """A rule on a topic of its own whose errors go to a queue."""

    def __init__(self, aws: Aws, *actions: dict[str, Any], select: str = "*", where: str = "") -> None:
        self.aws = aws
        self.name = unique("rule").replace("-", "_")
        self.arn = arn("iot", f"rule/{self.name}")
        self.topic = f"plant/{self.name}/press"
        self.errors = queue(aws)
        self.may = role(aws, IOT, allow("sqs:SendMessage", queue_arn(self.errors)))
        aws.client("iot").create_topic_rule(
            ruleName=self.name,
            topicRulePayload={
                "sql": f"SELECT {select} FROM 'plant/{self.name}/+'{where}",
                "awsIotSqlVersion": "2016-03-23",
                "actions": list(actions),
                "errorAction": {"sqs": {"roleArn": self.may, "queueUrl": self.errors}},
            },
        )

    def publish(self, payload: Any) -> None:
        """Publish a payload, bytes or JSON, to the topic."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.aws.client("iot-data").publish(topic=self.topic, payload=body)

    def error(self) -> dict[str, Any]:
        """Return what the error action was told, once it was."""
        (text,) = eventually(lambda: bodies(self.aws, self.errors))
        told: dict[str, Any] = json.loads(text)
        return told


def action(aws: Aws, kind: str) -> tuple[dict[str, Any], Place]:
    """Return an action without its role, and where it sends to."""
    if kind == "s3":
        name = bucket(aws)
        target = Place(
            "",
            allow("s3:PutObject", f"arn:aws:s3:::{name}/*"),
            lambda: [each.decode() for each in objects(aws, name).values()],
        )
        return {"bucketName": name, "key": "${topic()}/${timestamp()}.json"}, target
    if kind == "dynamoDBv2":
        name = table(aws)
        target = Place(
            "",
            allow("dynamodb:PutItem", arn("dynamodb", f"table/{name}")),
            lambda: [json.dumps(found) for found in [item(aws, name, "7")] if found],
        )
        return {"putItem": {"tableName": name}}, target
    if kind == "cloudwatchMetric":
        name = unique("Space")
        target = Place(
            "",
            allow("cloudwatch:PutMetricData", "*"),
            lambda: [str(value) for value in [total(aws, name, "heat")] if value],
        )
        spec = {"metricNamespace": name, "metricName": "heat", "metricValue": "${heat}", "metricUnit": "None"}
        return spec, target
    service = {"cloudwatchLogs": "logs", "stepFunctions": "states"}.get(kind, kind)
    target = place(aws, service)
    name = target.arn.partition(":log-group:")[2] or target.arn.replace("/", ":").rpartition(":")[2]
    specs: dict[str, dict[str, Any]] = {
        "cloudwatchLogs": {"logGroupName": name},
        "firehose": {"deliveryStreamName": name},
        "kinesis": {"streamName": name, "partitionKey": "${device}"},
        "sns": {"targetArn": target.arn, "messageFormat": "RAW"},
        "sqs": {"queueUrl": queue_url(aws, target)},
        "stepFunctions": {"stateMachineName": name},
    }
    return specs[kind], target


def queue_url(aws: Aws, target: Place) -> str:
    """Return the URL of the queue that ``target`` may be."""
    if ":sqs:" not in target.arn:
        return ""
    url: str = aws.client("sqs").get_queue_url(QueueName=target.arn.rpartition(":")[2])["QueueUrl"]
    return url


PAYLOAD = '{"id":"7","device":"press-7","heat":71.5,"tags":["a"]}'
ACTIONS = {
    "cloudwatchLogs": PAYLOAD,
    "cloudwatchMetric": "71.5",
    "dynamoDBv2": '{"id": {"S": "7"}, "device": {"S": "press-7"}, "heat": {"N": "71.5"}, "tags": {"L": [{"S": "a"}]}}',
    "firehose": PAYLOAD,
    "kinesis": f"press-7 {PAYLOAD}",
    "s3": PAYLOAD,
    "sns": PAYLOAD,
    "sqs": PAYLOAD,
    "stepFunctions": PAYLOAD,
}


@pytest.mark.parametrize("kind", ACTIONS)
def test_an_action_is_done_with_its_role(aws: Aws, kind: str) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/iot-rule-actions.html"""
    spec, target = action(aws, kind)
    rule = Rule(aws, {kind: {**spec, "roleArn": role(aws, IOT, target.statement)}})
    rule.publish(json.loads(PAYLOAD))
    (text,) = eventually(target.read)
    expected = ACTIONS[kind]
    assert text == expected or json.loads(text) == json.loads(expected)
    assert bodies(aws, rule.errors) == []
    dimensions = {"RuleName": rule.name, "ActionType": kind[0].upper() + kind[1:]}
    eventually(lambda: total(aws, "AWS/IoT", "Success", **dimensions) == 1)


@pytest.mark.parametrize("kind", ACTIONS)
def test_a_role_without_the_permission_runs_the_error_action(aws: Aws, kind: str) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html"""
    spec, target = action(aws, kind)
    rule = Rule(aws, {kind: {**spec, "roleArn": role(aws, IOT, allow("glue:GetJob", "*"))}})
    rule.publish(json.loads(PAYLOAD))
    told = rule.error()
    (failure,) = told.pop("failures")
    assert told.pop("cloudwatchTraceId")
    assert json.loads(base64.b64decode(told.pop("base64OriginalPayload"))) == json.loads(PAYLOAD)
    assert {name: told[name] for name in ("ruleName", "topic", "clientId")} == {
        "ruleName": rule.name,
        "topic": rule.topic,
        "clientId": "N/A",
    }
    assert failure["failedAction"] == f"{kind[0].upper()}{kind[1:]}Action"
    assert failure["failedResource"] in json.dumps(spec)
    assert failure["errorMessage"].startswith("Failed to ")
    assert "AccessDenied" in failure["errorMessage"] or "AuthorizationError" in failure["errorMessage"]
    assert f"Message arrived on: {rule.topic}, Action: {kind}" in failure["errorMessage"]
    assert target.read() == []


def test_an_error_action_needs_a_role_that_may_do_it(aws: Aws) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html"""
    spec, _ = action(aws, "sqs")
    rule = Rule(aws, {"sqs": {**spec, "roleArn": role(aws, IOT)}})
    may(aws, rule.may, allow("glue:GetJob", "*"))
    rule.publish({"n": 1})
    eventually(lambda: total(aws, "AWS/IoT", "Failure", RuleName=rule.name, ActionType="Sqs") == 2)
    assert bodies(aws, rule.errors) == []


def test_a_function_needs_a_policy_for_the_rule(aws: Aws) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/lambda-rule-action.html"""
    target = place(aws, "lambda")
    rule = Rule(aws, {"lambda": {"functionArn": target.arn}})
    let_service_in(aws, target.arn, IOT, f"{rule.arn}_of_another")
    rule.publish({"n": 1})
    assert rule.error()["failures"][0]["failedAction"] == "LambdaAction"
    let_service_in(aws, target.arn, IOT, rule.arn)
    rule.publish({"n": 2})
    assert eventually(target.read) == ['{"n": 2}']


def test_a_message_is_republished_with_the_role(aws: Aws) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/republish-rule-action.html"""
    target = place(aws, "sqs")
    name = unique("alarms")
    sink = {"sqs": {"roleArn": role(aws, IOT, target.statement), "queueUrl": queue_url(aws, target)}}
    aws.client("iot").create_topic_rule(
        ruleName=name.replace("-", "_"),
        topicRulePayload={"sql": f"SELECT *, topic(2) AS device FROM '{name}/+'", "actions": [sink]},
    )
    topic = f"{name}/${{device}}"
    able = role(aws, IOT, allow("iot:Publish", arn("iot", f"topic/{name}/*")))
    unable = role(aws, IOT, allow("iot:Publish", arn("iot", "topic/elsewhere/*")))
    denying = Rule(aws, {"republish": {"roleArn": unable, "topic": topic}})
    denying.publish({"device": "press-7"})
    assert f"topic/{name}/press-7" in denying.error()["failures"][0]["errorMessage"]
    Rule(aws, {"republish": {"roleArn": able, "topic": topic}}, where=" WHERE heat > 70").publish(
        {"device": "press-7", "heat": 71}
    )
    (text,) = eventually(target.read)
    assert json.loads(text) == {"device": "press-7", "heat": 71}


def test_one_failed_action_does_not_stop_the_others(aws: Aws) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html"""
    target = place(aws, "kinesis")
    may = role(aws, IOT, target.statement, allow("s3:PutObject", "*"))
    stream = target.arn.rpartition("/")[2]
    rule = Rule(
        aws,
        {"s3": {"roleArn": may, "bucketName": unique("gone"), "key": "k"}},
        {"kinesis": {"roleArn": may, "streamName": stream, "partitionKey": "${nowhere}"}},
        {"kinesis": {"roleArn": may, "streamName": stream, "partitionKey": "${topic(3)}-${device}"}},
        select="device, heat * 2 AS double",
    )
    rule.publish({"device": "a", "heat": 4})
    first, second = rule.error()["failures"]
    assert "NoSuchBucket" in first["errorMessage"]
    assert "${nowhere} is undefined" in second["errorMessage"]
    (record,) = eventually(lambda: records(aws, stream))
    assert (record["PartitionKey"], json.loads(record["Data"])) == ("press-a", {"device": "a", "double": 8})


def test_a_batch_becomes_single_records(aws: Aws) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/kinesis-firehose-rule-action.html"""
    target = place(aws, "firehose")
    spec = {
        "roleArn": role(aws, IOT, target.statement),
        "deliveryStreamName": target.arn.rpartition("/")[2],
        "separator": "\n",
        "batchMode": True,
    }
    rule = Rule(aws, {"firehose": spec})
    rule.publish([{"n": 1}, {"n": 2}])
    assert "".join(eventually(target.read)) == '{"n":1}\n{"n":2}\n'


@pytest.mark.parametrize(
    ("kind", "spec", "service", "reason"),
    [
        ("cloudwatchAlarm", {"alarmName": "a", "stateReason": "r", "stateValue": "OK"}, IOT, "no rule action"),
        ("kinesis", {"streamName": "s"}, "events.amazonaws.com", "Unable to assume role"),
    ],
    ids=["action", "role"],
)
def test_a_wrong_action_is_refused(aws: Aws, kind: str, spec: dict[str, Any], service: str, reason: str) -> None:
    """https://docs.aws.amazon.com/iot/latest/apireference/API_CreateTopicRule.html"""
    with pytest.raises(ClientError, match=reason):
        Rule(aws, {kind: {"roleArn": role(aws, service), **spec}})


def test_a_role_must_be_passed(aws: Aws) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/pass-role.html"""
    name, mine = unique("rule").replace("-", "_"), role(aws, IOT)
    caller = aws.client("iot", user(aws, allow("iot:CreateTopicRule", arn("iot", f"rule/{name}"))))
    payload = {"sql": "SELECT * FROM 'a'", "actions": [{"kinesis": {"roleArn": mine, "streamName": "s"}}]}
    message = denied(lambda: caller.create_topic_rule(ruleName=name, topicRulePayload=payload))
    assert f"iam:PassRole on resource: {mine}" in message


def test_a_stack_makes_changes_and_deletes_a_rule(aws: Aws) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-iot-topicrule.html"""
    stack_name, name, target = unique("stack"), unique("rule").replace("-", "_"), place(aws, "kinesis")
    may = role(aws, IOT, target.statement)

    def body(key: str) -> str:
        kinesis = {"RoleArn": may, "StreamName": target.arn.rpartition("/")[2], "PartitionKey": key}
        payload = {"Sql": f"SELECT * FROM '{name}'", "Actions": [{"Kinesis": kinesis}]}
        return template(Rule=resource("AWS::IoT::TopicRule", RuleName=name, TopicRulePayload=payload))

    makers = allow("iot:*", arn("iot", f"rule/{name}")), allow("iam:PassRole", may)
    client, data = aws.client("cloudformation"), aws.client("iot-data")
    stack = create(
        client, body("first"), StackName=stack_name, RoleARN=role(aws, "cloudformation.amazonaws.com", *makers)
    )
    assert stack["StackStatus"] == "CREATE_COMPLETE", failures(client, stack["StackId"])
    data.publish(topic=name, payload=b'{"n":1}')
    client.update_stack(StackName=stack_name, TemplateBody=body("${n}"))
    assert settled(client, stack_name)["StackStatus"] == "UPDATE_COMPLETE"
    data.publish(topic=name, payload=b'{"n":2}')
    assert eventually(target.read, lambda texts: len(texts) == 2) == ['first {"n":1}', '2 {"n":2}']
    client.delete_stack(StackName=stack_name)
    iot = aws.client("iot")
    eventually(lambda: name not in [each["ruleName"] for each in iot.list_topic_rules()["rules"]])
    data.publish(topic=name, payload=b'{"n":3}')
    time.sleep(0.2)
    assert len(target.read()) == 2


def test_a_stack_is_refused_a_role_that_may_not_be_passed(aws: Aws) -> None:
    """https://docs.aws.amazon.com/iot/latest/developerguide/pass-role.html"""
    mine, name = role(aws, IOT), unique("rule").replace("-", "_")
    kinesis = {"RoleArn": mine, "StreamName": "s", "PartitionKey": "k"}
    payload = {"Sql": "SELECT * FROM 'a'", "Actions": [{"Kinesis": kinesis}]}
    client = aws.client("cloudformation")
    maker = role(aws, "cloudformation.amazonaws.com", allow("iot:*", arn("iot", f"rule/{name}")))
    body = template(Rule=resource("AWS::IoT::TopicRule", RuleName=name, TopicRulePayload=payload))
    stack = create(client, body, RoleARN=maker)
    assert stack["StackStatus"] == "ROLLBACK_COMPLETE"
    assert "iam:PassRole" in failures(client, stack["StackId"])["Rule"]
