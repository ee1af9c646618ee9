"""What a Firehose stream does with the sessions of its roles, and what it tells CloudWatch about it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import emulator, iam, metrics
from local.aws.emulator import AwsError, Credentials
from local.aws.firehose.destination import Bucket

PRINCIPAL = "firehose.amazonaws.com"

_SESSION_SECONDS = 3600.0
_CONFIG: Mapping[str, Mapping[str, Any]] = {
    # Firehose lets a function run for five minutes and repeats the invocation itself:
    # https://docs.aws.amazon.com/firehose/latest/dev/data-transformation.html
    "lambda": {"read_timeout": 300, "retries": {"total_max_attempts": 1}}
}
_logger = logging.getLogger("firehose")


class Roles:
    """Clients that act with the roles of a Firehose stream; used by one thread."""

    def __init__(self, region: str) -> None:
        self._region = region
        self._sessions: dict[str, Credentials] = {}
        self._clients: dict[tuple[str, str], Any] = {}
        self._expire_at = 0.0

    def client(self, role: str, service: str) -> Any:
        """Return a client of ``service`` with a session of ``role``.

        Raises:
            AwsError: Firehose may not assume the role.
        """
        session = self._session(role)
        if (role, service) not in self._clients:
            self._clients[role, service] = emulator.client(service, session, self._region, **_CONFIG.get(service, {}))
        return self._clients[role, service]

    def denial(self, role: str, action: str, resource: str) -> str | None:
        """Return why ``role`` may not do ``action`` with ``resource``, None if it may.

        Raises:
            AwsError: Firehose may not assume the role.
        """
        return iam.denial(self._session(role).access_key, iam.Check(action, resource, {}), self._region)

    def _session(self, role: str) -> Credentials:
        if time.monotonic() >= self._expire_at:
            self.forget()
        if role not in self._sessions:
            self._sessions[role] = emulator.service_role_credentials(role, PRINCIPAL, "firehose")
        return self._sessions[role]

    def forget(self) -> None:
        """Assume the roles anew, as after a failure that a new session may mend."""
        self._sessions.clear()
        self._clients.clear()
        self._expire_at = time.monotonic() + _SESSION_SECONDS


@dataclass(frozen=True)
class Identity:
    """Which Firehose stream acts."""

    name: str
    arn: str
    account: str
    region: str

    def count(self, metric: str, value: float, unit: str = "Count") -> None:
        """Publish a data point of one of the stream's metrics.

        https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-metrics.html
        """
        dimensions = {"DeliveryStreamName": self.name}
        metrics.record("AWS/Firehose", metric, dimensions, value, unit, self.account, self.region)

    def report(
        self, roles: Roles, bucket: Bucket, version: int, code: str, message: str, processor: str | None = None
    ) -> None:
        """Write an error to the log stream that ``bucket`` names, if any; its role must be allowed to.

        https://docs.aws.amazon.com/firehose/latest/dev/monitoring-with-cloudwatch-logs.html
        """
        _logger.warning("%s: %s: %s", self.arn, code, message)
        if bucket.log is None:
            return
        event = {
            "deliveryStreamARN": self.arn,
            "destination": bucket.arn,
            "deliveryStreamVersionId": version,
            "message": message,
            "errorCode": code,
        }
        if processor:
            event["processor"] = processor
        group, stream = bucket.log
        try:
            roles.client(bucket.role, "logs").put_log_events(
                logGroupName=group,
                logStreamName=stream,
                logEvents=[{"timestamp": int(time.time() * 1000), "message": json.dumps(event)}],
            )
        except (AwsError, BotoCoreError, ClientError) as error:
            _logger.warning("%s: the error log cannot be written: %s", self.arn, error)
