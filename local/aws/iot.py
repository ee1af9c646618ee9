"""AWS IoT rules: actions with the permissions of the action's role, and what the error action is told.

https://docs.aws.amazon.com/iot/latest/developerguide/iot-rule-actions.html

The emulator brokers messages and evaluates a rule's SQL; here each action is a call of the public API. An action that
is not here is refused when its rule is made. A publish is answered once the actions of its rules have run.
"""

from __future__ import annotations

import base64
import contextvars
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

from boto3.dynamodb.types import TypeSerializer

from local.aws import emulator, iam, metrics, targets
from local.aws.emulator import AwsError
from local.aws.targets import Sender

_iot = emulator.module("services.iot")
_run_reentrant = emulator.module("core.concurrency").run_reentrant

Spec = Mapping[str, Any]

PRINCIPAL = "iot.amazonaws.com"

# --- What an action sends ----------------------------------------------------------------------------------------


def _text(event: Any) -> str:
    return event if isinstance(event, str) else json.dumps(event, separators=(",", ":"))


def _kinesis(sender: Sender, spec: Spec, event: Any) -> None:
    key = spec.get("partitionKey") or str(uuid.uuid4())
    client = sender.client("kinesis", spec["roleArn"])
    client.put_record(StreamName=spec["streamName"], Data=_text(event).encode(), PartitionKey=key)


def _firehose(sender: Sender, spec: Spec, event: Any) -> None:
    client, stream = sender.client("firehose", spec["roleArn"]), spec["deliveryStreamName"]
    separator = spec.get("separator") or ""
    if spec.get("batchMode") and isinstance(event, list):
        records = [{"Data": (_text(each) + separator).encode()} for each in event]
        answer = client.put_record_batch(DeliveryStreamName=stream, Records=records)
        if answer["FailedPutCount"]:
            raise AwsError("ServiceUnavailableException", f"{answer['FailedPutCount']} records were refused.", 503)
        return
    client.put_record(DeliveryStreamName=stream, Record={"Data": (_text(event) + separator).encode()})


def _s3(sender: Sender, spec: Spec, event: Any) -> None:
    acl = {"ACL": spec["cannedAcl"]} if spec.get("cannedAcl") else {}
    client = sender.client("s3", spec["roleArn"])
    client.put_object(Bucket=spec["bucketName"], Key=spec["key"], Body=_text(event).encode(), **acl)


def _metric(sender: Sender, spec: Spec, event: Any) -> None:
    datum = {"MetricName": spec["metricName"], "Value": float(spec["metricValue"]), "Unit": spec["metricUnit"]}
    if at := spec.get("metricTimestamp"):
        datum["Timestamp"] = float(at)
    client = sender.client("cloudwatch", spec["roleArn"])
    client.put_metric_data(Namespace=spec["metricNamespace"], MetricData=[datum])


def _logs(sender: Sender, spec: Spec, event: Any) -> None:
    batch = event if spec.get("batchMode") and isinstance(event, list) else [event]
    messages = [(time.time(), _text(each)) for each in batch]
    stream = uuid.uuid5(uuid.NAMESPACE_URL, sender.source).hex
    targets.log(sender.client("logs", spec["roleArn"]), spec["logGroupName"], stream, messages)


def _item(sender: Sender, spec: Spec, event: Any) -> None:
    if not isinstance(event, dict):
        raise AwsError("ValidationException", "The payload is no JSON object.")
    serialize = TypeSerializer().serialize
    members = json.loads(json.dumps(event), parse_float=Decimal)
    item = {name: serialize(value) for name, value in members.items()}
    sender.client("dynamodb", spec["roleArn"]).put_item(TableName=spec["putItem"]["tableName"], Item=item)


def _queue(sender: Sender, spec: Spec, event: Any) -> None:
    if spec["queueUrl"].endswith(".fifo"):
        raise AwsError("InvalidRequestException", "The SQS action does not support FIFO queues.")
    body = _text(event)
    if str(spec.get("useBase64")).lower() == "true":
        body = base64.b64encode(body.encode()).decode()
    sender.client("sqs", spec["roleArn"]).send_message(QueueUrl=spec["queueUrl"], MessageBody=body)


def _topic(sender: Sender, spec: Spec, event: Any) -> None:
    structure = {"MessageStructure": "json"} if spec.get("messageFormat") == "JSON" else {}
    sender.client("sns", spec["roleArn"]).publish(TopicArn=spec["targetArn"], Message=_text(event), **structure)


def _function(sender: Sender, spec: Spec, event: Any) -> None:
    """A function has no role: its own policy lets IoT invoke it."""
    client = sender.permitted("lambda", "lambda:InvokeFunction", spec["functionArn"])
    client.invoke(FunctionName=spec["functionArn"], InvocationType="Event", Payload=json.dumps(event).encode())


def _workflow(sender: Sender, spec: Spec, event: Any) -> None:
    machine = f"arn:aws:states:{sender.region}:{sender.account}:stateMachine:{spec['stateMachineName']}"
    name = f"{spec['executionNamePrefix']}{uuid.uuid4()}" if spec.get("executionNamePrefix") else str(uuid.uuid4())
    client = sender.client("stepfunctions", spec["roleArn"])
    client.start_execution(stateMachineArn=machine, name=name[:80], input=_text(event))


def _may_republish(sender: Sender, spec: Spec, event: Any) -> None:
    """Check the role; the broker itself publishes."""
    topic = spec["topic"].removeprefix("$") if spec["topic"].startswith("$$") else spec["topic"]
    resource = f"arn:aws:iot:{sender.region}:{sender.account}:topic/{topic}"
    credentials = sender.credentials(spec["roleArn"])
    if denied := iam.denial(credentials.access_key, iam.Check("iot:Publish", resource, {}), sender.region):
        raise AwsError("AccessDeniedException", denied, 403)


_ACTIONS: Mapping[str, tuple[Callable[[Sender, Spec, Any], None], str, str]] = {
    "cloudwatchLogs": (_logs, "put CloudWatch Logs", "logGroupName"),
    "cloudwatchMetric": (_metric, "put CloudWatch metric", "metricName"),
    "dynamoDBv2": (_item, "insert record in dynamo table", "putItem.tableName"),
    "firehose": (_firehose, "publish message to Firehose stream", "deliveryStreamName"),
    "kinesis": (_kinesis, "publish message to Kinesis stream", "streamName"),
    "lambda": (_function, "invoke lambda function", "functionArn"),
    "republish": (_may_republish, "republish to topic", "topic"),
    "s3": (_s3, "put S3 object", "bucketName"),
    "sns": (_topic, "publish message to SNS topic", "targetArn"),
    "sqs": (_queue, "send message to SQS queue", "queueUrl"),
    "stepFunctions": (_workflow, "start Step Functions execution", "stateMachineName"),
}
"""The actions there are: what they do, how an error message calls it, and the member that names the resource."""

# --- Substitution templates --------------------------------------------------------------------------------------

_message: contextvars.ContextVar[tuple[str, bytes, str | None]] = contextvars.ContextVar("message")
"""Topic, payload and client id of the message whose rules are evaluated."""


def _substituted(value: Any) -> Any:
    """Return a member of an action with each ``${expression}`` replaced by what it is for the message.

    https://docs.aws.amazon.com/iot/latest/developerguide/iot-substitution-templates.html

    Raises:
        AwsError: an expression has no value.
    """
    if isinstance(value, dict):
        return {name: each if name == "roleArn" else _substituted(each) for name, each in value.items()}
    if not isinstance(value, str):
        return value
    topic, payload, client_id = _message.get()

    def replace(found: re.Match[str]) -> str:
        result = _iot._eval_select_expr(found[1], topic, payload, _iot._rule_message(payload), client_id)
        if result is _iot._MISSING:
            raise AwsError("InvalidRequestException", f"The substitution template {found[0]} is undefined.")
        return _text(result)

    return re.sub(r"\$\{([^{}]*)\}", replace, value)


def _remember(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def run(
        account: str, region: str, rule: Any, payload: bytes, topic: str = "", client_id: str | None = None
    ) -> None:
        token = _message.set((topic, payload or b"", client_id))
        try:
            await original(account, region, rule, payload, topic, client_id)
        finally:
            _message.reset(token)

    return run


# --- Actions -----------------------------------------------------------------------------------------------------


class ActionError(Exception):
    """An action could not be done; the error action is told the message."""


def _dispatch(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    async def dispatch(account: str, region: str, rule: str, action: Mapping[str, Spec], event: Any) -> None:
        (kind, given), *_ = action.items()
        act, words, member = _ACTIONS[kind]
        sender = Sender(PRINCIPAL, f"arn:aws:iot:{region}:{account}:rule/{rule}")
        dimensions = {"RuleName": rule, "ActionType": kind[0].upper() + kind[1:]}

        def run() -> Spec:
            spec: Spec = _substituted(given)
            targets.persist(lambda: act(sender, spec, event))
            return spec

        try:
            spec = await _run_reentrant(run)
        except targets.ERRORS as error:
            metrics.count("AWS/IoT", "Failure", dimensions, 1, "Count", account, region)
            problem, (topic, _, _) = targets.problem(error), _message.get()
            raise ActionError(
                f"Failed to {words}. The error received was {problem.message} (Error Code: {problem.code}). "
                f"Message arrived on: {topic}, Action: {kind}, {member}: {_resource(action, kind)}"
            ) from error
        metrics.count("AWS/IoT", "Success", dimensions, 1, "Count", account, region)
        if kind == "republish":
            await original(account, region, rule, {kind: spec}, event)

    return dispatch


def _resource(action: Mapping[str, Spec], kind: str) -> str:
    """Return the name of the resource an action is about."""
    value: Any = action[kind]
    for name in _ACTIONS[kind][2].split("."):
        value = value[name]
    return str(value)


def _report(original: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Let the error messages be AWS's, without the emulator's mention of a Python exception.

    https://docs.aws.amazon.com/iot/latest/developerguide/rule-error-handling.html
    """
    prefix = f"{ActionError.__name__}: "

    async def report(*arguments: Any) -> None:
        *rest, failures = arguments
        told = [{**each, "errorMessage": each["errorMessage"].removeprefix(prefix)} for each in failures]
        await original(*rest, told)

    return report


def _put(original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a rule with an action that is not here, or with a role that IoT may not assume."""

    def put(name: str, payload: dict[str, Any], **options: Any) -> Any:
        error = payload.get("errorAction")
        for action in [*(payload.get("actions") or []), *([error] if error else [])]:
            (kind, spec), *_ = action.items()
            if kind not in _ACTIONS:
                raise _iot.RuleRepublishError(f"The embedded AWS has no rule action {kind}.")
            role = spec.get("roleArn")
            if kind != "lambda" and not (role and emulator.trusts(role, PRINCIPAL)):
                raise _iot.RuleRoleError(f"Unable to assume role: {role}")
        return original(name, payload, **options)

    return put


emulator.patch(_iot, "put_topic_rule", _put)
emulator.patch(_iot, "_run_rule_actions", _remember)
emulator.patch(_iot, "_dispatch_rule_action", _dispatch)
emulator.patch(_iot, "_dispatch_rule_error_action", _report)
emulator.replace(_iot, "_rule_action_resource", _resource)
