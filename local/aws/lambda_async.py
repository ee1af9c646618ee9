"""Asynchronous invocations: what becomes of an event is recorded with the permissions of the function's role.

https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html

The emulator puts failures into queues and topics itself, whatever the role may do, and tells nobody of a success.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from local.aws import emulator, metrics, targets
from local.aws.targets import Options, Sender

_lambda = emulator.module("services.lambda_svc")

_log = logging.getLogger(__name__)

Record = dict[str, Any]

PRINCIPAL = "lambda.amazonaws.com"
RETRIES, LONGEST_SECONDS = 2, 21_600
"""What holds without an event invoke config: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-error-handling.html"""
_LONGEST_ERROR_TEXT = 1024


class _Invocation:
    """One event on its way through a function, to its destination and the dead-letter queue."""

    def __init__(self, function: Record, event: Any) -> None:
        self._function, self._event = function, event
        self._config: Record = function.get("config") or function
        configs = function.get("event_invoke_configs") or {}
        self._settings: Record = function.get("event_invoke_config") or configs.get("$LATEST") or {}
        self._sender = Sender(PRINCIPAL, self._config["FunctionArn"])
        self._request = str(uuid.uuid4())

    def run(self) -> None:
        """Invoke the function until it succeeds or may not be tried again, and tell what became of the event."""
        retries = int(self._settings.get("MaximumRetryAttempts", RETRIES))
        until = time.time() + int(self._settings.get("MaximumEventAgeInSeconds", LONGEST_SECONDS))
        attempts, condition = 0, ""
        while not condition:
            answer = _lambda._execute_function(self._function, self._event)
            attempts += 1
            wait = min(
                _lambda._LAMBDA_ASYNC_RETRY_BASE_SECONDS * 2 ** (attempts - 1), _lambda._LAMBDA_ASYNC_RETRY_MAX_SECONDS
            )
            if not answer.get("error"):
                condition = "Success"
            elif attempts > retries:
                condition = "RetriesExhausted"
            elif time.time() + wait > until:
                condition = "EventAgeExceeded"
            else:
                time.sleep(wait)
        self._record(answer, condition, attempts)
        if condition != "Success":
            self._bury(answer)

    def _record(self, answer: Record, condition: str, attempts: int) -> None:
        member = "OnSuccess" if condition == "Success" else "OnFailure"
        arn = ((self._settings.get("DestinationConfig") or {}).get(member) or {}).get("Destination")
        if not arn:
            return
        now, version = datetime.now(UTC), self._config.get("Version", "$LATEST")
        response = {"statusCode": 200, "executedVersion": version}
        if answer.get("error"):
            response["functionError"] = answer.get("function_error") or "Unhandled"
        record = {
            "version": "1.0",
            "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "requestContext": {
                "requestId": self._request,
                "functionArn": f"{self._sender.source}:{version}",
                "condition": condition,
                "approximateInvokeCount": attempts,
            },
            "requestPayload": self._event,
            "responseContext": response,
            "responsePayload": answer.get("body"),
        }
        try:
            self._send(arn, json.dumps(record), member.removeprefix("On"), now)
        except targets.ERRORS as error:
            self._lost("DestinationDeliveryFailures", arn, error)

    def _send(self, arn: str, record: str, outcome: str, now: datetime) -> None:
        role = self._config["Role"]
        if arn.split(":")[2] == "s3":
            key = f"aws/lambda/async/{self._config['FunctionName']}/{now:%Y/%m/%d/%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"
            client = self._sender.client("s3", role)
            client.put_object(Bucket=arn.rpartition(":")[2], Key=key, Body=record.encode())
            return
        options = Options(kind=f"Lambda Function Invocation Result - {outcome}", origin="lambda")
        targets.send(self._sender, arn, role, record, options)

    def _bury(self, answer: Record) -> None:
        """A dead letter is the event itself; its attributes say why it is one."""
        arn = (self._config.get("DeadLetterConfig") or {}).get("TargetArn")
        if not arn:
            return
        body = answer.get("body")
        text = str(body.get("errorMessage", "")) if isinstance(body, dict) else ""
        attributes = targets.attributes({"RequestID": self._request, "ErrorMessage": text[:_LONGEST_ERROR_TEXT]})
        attributes["ErrorCode"] = {"DataType": "Number", "StringValue": "200"}
        letter, role = json.dumps(self._event), self._config["Role"]
        try:
            if arn.split(":")[2] == "sqs":
                client, queue = self._sender.client("sqs", role), targets.queue_url(arn)
                client.send_message(QueueUrl=queue, MessageBody=letter, MessageAttributes=attributes)
            else:
                client = self._sender.client("sns", role)
                client.publish(TopicArn=arn, Message=letter, MessageAttributes=attributes)
        except targets.ERRORS as error:
            self._lost("DeadLetterErrors", arn, error)

    def _lost(self, metric: str, arn: str, error: Exception) -> None:
        """https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html"""
        _log.warning("An event of %s did not reach %s: %s", self._sender.source, arn, error)
        dimensions = {"FunctionName": self._config["FunctionName"]}
        metrics.record("AWS/Lambda", metric, dimensions, 1, "Count", self._sender.account, self._sender.region)


def _invoke(function: Record, event: Any) -> None:
    """Begin an asynchronous invocation of ``function``, a version with its configuration."""
    emulator.in_background(_Invocation(function, event).run, "asynchronous invocation")


emulator.replace(_lambda, "invoke_async_with_retry", _invoke)
