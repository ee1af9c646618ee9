"""Whom topics, buckets and alarms may notify: whose own policy lets them, which the emulator asks queues only.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/grant-destinations-permissions-to-s3.html
https://docs.aws.amazon.com/lambda/latest/dg/with-sns.html
https://repost.aws/knowledge-center/cloudwatch-receive-sns-for-alarm-trigger
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError
from local.aws.targets import Sender

_cloudwatch = emulator.module("services.cloudwatch")
_responses = emulator.module("core.responses")
_s3 = emulator.module("services.s3")
_sns = emulator.module("services.sns")

_log = logging.getLogger(__name__)


def _may_invoke(principal: str, source: str, function: str) -> bool:
    """Return whether the function's policy lets ``principal`` invoke it on behalf of ``source``, an ARN."""
    try:
        Sender(principal, source).require("lambda:InvokeFunction", function)
    except AwsError as error:
        _log.warning("%s was not notified of %s: %s", function, source, error)
        return False
    return True


def _from_topic(original: Callable[..., None]) -> Callable[..., None]:
    def deliver(function: str, envelope: str, topic: str, *rest: Any) -> None:
        if _may_invoke("sns.amazonaws.com", topic, function):
            original(function, envelope, topic, *rest)

    return deliver


def _from_bucket(original: Callable[..., None]) -> Callable[..., None]:
    def deliver(function: str, event: dict[str, Any], region: str) -> None:
        if _may_invoke("s3.amazonaws.com", event["Records"][0]["s3"]["bucket"]["arn"], function):
            original(function, event, region)

    return deliver


def _checked(original: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a bucket's notifications to functions that it may not invoke, as those to queues and topics are."""

    def check(configs: list[dict[str, Any]], region: str, bucket: str, unchecked: bool) -> Any:
        refused = original(configs, region, bucket, unchecked)
        functions = [] if refused or unchecked else [each["arn"] for each in configs if each["type"] == "lambda"]
        closed = [arn for arn in functions if not _may_invoke("s3.amazonaws.com", f"arn:aws:s3:::{bucket}", arn)]
        if not closed:
            return refused
        listed = ", ".join(closed)
        return _s3._invalid_notification_config(
            f"Unable to validate the following destination configurations: {listed}"
        )

    return check


def _from_alarm(original: Callable[..., None]) -> Callable[..., None]:
    """Leave out the topics whose policy does not let the alarm publish; that of a new topic does."""

    def allowed(alarm: dict[str, Any], action: str) -> bool:
        account = _responses.get_account_id()
        if not _cloudwatch._is_sns_action_arn(action):
            return True
        if _sns.topic_policy_allows(action, "cloudwatch.amazonaws.com", alarm["AlarmArn"], account):
            return True
        _log.warning("Alarm %s is not authorized to perform: sns:Publish on resource: %s", alarm["AlarmArn"], action)
        return False

    def dispatch(alarm: dict[str, Any], *change: str) -> None:
        members = ("AlarmActions", "OKActions", "InsufficientDataActions")
        actions = {name: [each for each in alarm.get(name) or [] if allowed(alarm, each)] for name in members}
        original({**alarm, **actions}, *change)

    return dispatch


emulator.patch(_sns, "_deliver_to_lambda", _from_topic)
emulator.patch(_s3, "_deliver_event_to_lambda", _from_bucket)
emulator.patch(_s3, "_validate_notification_configs", _checked)
emulator.patch(_cloudwatch, "_dispatch_alarm_actions", _from_alarm)
