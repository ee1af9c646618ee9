"""One event source mapping as its readers see it: settings, the execution role's clients, and the function."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from collections.abc import Mapping as Members
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import emulator, metrics

_eventbridge = emulator.module("services.eventbridge")
_lambda = emulator.module("services.lambda_svc")

Event = dict[str, Any]
"""One record or message as the function receives it."""

Item = TypeVar("Item")

PAYLOAD_BYTES = 6 * 1024 * 1024
"""https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between attempts; AWS waits longer, a test does not."""


def pause(attempt: int) -> float:
    """Return the seconds to wait after failed attempt number ``attempt`` (from 0)."""
    return float(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 10)))


@dataclass(frozen=True)
class Answer:
    """What an invocation brought: the function's response, its error, or why it was not invoked at all."""

    response: Any = None
    error: str = ""
    refusal: str = ""
    version: str = "$LATEST"
    request_id: str = ""


class Mapping:
    """An event source mapping; its settings are read anew whenever they are needed, because updates change them."""

    def __init__(self, record: dict[str, Any], account: str, region: str) -> None:
        self.record = record
        self.account = account
        self.region = region
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def uuid(self) -> str:
        """The mapping's id."""
        return str(self.record["UUID"])

    @property
    def source(self) -> str:
        """The ARN of the stream or queue."""
        return str(self.record["EventSourceArn"])

    @property
    def function(self) -> str:
        """The ARN of the function, with the version or alias if the mapping has one."""
        return str(self.record["FunctionArn"])

    @property
    def enabled(self) -> bool:
        """Whether it reads at all."""
        return self.flag("Enabled", default=True)

    @property
    def destination(self) -> str:
        """The ARN to which discarded records go, empty if there is none."""
        return str(((self.record.get("DestinationConfig") or {}).get("OnFailure") or {}).get("Destination") or "")

    @property
    def reports_failures(self) -> bool:
        """Whether the function's response names the records that failed."""
        return "ReportBatchItemFailures" in (self.record.get("FunctionResponseTypes") or [])

    def number(self, setting: str, default: int) -> int:
        """Return a numeric setting; templates may hold it as text."""
        value = self.record.get(setting)
        return default if value is None else int(value)

    def flag(self, setting: str, *, default: bool = False) -> bool:
        """Return a boolean setting; templates may hold it as text."""
        return str(self.record.get(setting, default)).lower() == "true"

    def passing(self, records: list[Item], tree: Callable[[Item], Members[str, Any]]) -> list[Item]:
        """Return the records that the filters let through; ``tree`` gives a record as patterns see it.

        https://docs.aws.amazon.com/lambda/latest/dg/invocation-eventfiltering.html
        """
        filters = (self.record.get("FilterCriteria") or {}).get("Filters") or []
        if not filters:
            return records
        alternatives = [each for filter_ in filters for each in _eventbridge._compiled_pattern(filter_["Pattern"])]
        return [record for record in records if _matches(tree(record), alternatives)]

    def report(self, result: str) -> None:
        """Make ``result`` the LastProcessingResult."""
        self.record["LastProcessingResult"] = result

    def report_error(self, error: Exception) -> None:
        """Report a call that failed, and let the next one assume the role anew, in case that is why."""
        self.report(f"PROBLEM: {error}")
        self.forget_clients()

    def failure(self, condition: str, attempts: int, last: Answer | None) -> dict[str, Any]:
        """Return what a description of a discarded batch says of the function, beside the batch itself.

        https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html
        """
        request: dict[str, Any] = {
            "requestId": (last.request_id if last else "") or str(uuid.uuid4()),
            "functionArn": self.function,
            "condition": condition,
            "approximateInvokeCount": attempts,
        }
        if last is None:
            return {"requestContext": request}
        response: dict[str, Any] = {"statusCode": 200, "executedVersion": last.version}
        if last.error:
            response["functionError"] = last.error
        return {"requestContext": request, "responseContext": response}

    # --- The role and the function ------------------------------------------------------------------------------

    def concurrency(self, begin: int) -> int:
        """Return how many batches of a queue may be processed at once; ``begin`` if nothing limits them.

        https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
        """
        most = int((self.record.get("ScalingConfig") or {}).get("MaximumConcurrency") or begin)
        function, config, _ = _lambda._get_func_record_for_ref(self.function)
        reserved = _lambda._reserved_concurrency(function, config) if function else None
        return most if reserved is None else max(1, min(most, reserved))

    @property
    def role(self) -> str:
        """The ARN of the function's execution role.

        Raises:
            AwsError: the function does not exist.
        """
        function, _, _ = _lambda._get_func_record_for_ref(self.function)
        if function is None:
            raise emulator.AwsError("ResourceNotFoundException", f"Function not found: {self.function}", 404)
        return str(function["config"]["Role"])

    def credentials(self) -> emulator.Credentials:
        """Return a new session of the execution role.

        Raises:
            AwsError: there is no such function or Lambda may not assume its role.
        """
        name = self.function.split(":")[6]
        return emulator.service_role_credentials(self.role, "lambda.amazonaws.com", name)

    def client(self, service: str) -> Any:
        """Return a client that acts with the execution role.

        Raises:
            AwsError: as for ``credentials``.
        """
        with self._lock:
            if service not in self._clients:
                self._clients[service] = emulator.client(
                    service, self.credentials(), self.region, max_pool_connections=100
                )
            return self._clients[service]

    def forget_clients(self) -> None:
        """Let the next call assume the role anew: its session may have ended or the role may be another."""
        with self._lock:
            self._clients.clear()

    def invoke(self, events: list[Event]) -> Answer:
        """Invoke the function with ``events`` and wait for its response, as Lambda itself, which needs no permission.

        https://docs.aws.amazon.com/lambda/latest/dg/invocation-sync.html
        """
        return self._call({"Records": events})

    def invoke_window(self, events: list[Event], members: Event) -> Answer:
        """Invoke the function with ``events`` of a tumbling window that ``members`` describe.

        A response without a state is that of a function that failed.
        https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html
        """
        answer = self._call({"Records": events, **members})
        if answer.error or answer.refusal or (isinstance(answer.response, dict) and "state" in answer.response):
            return answer
        return replace(answer, response=None, error="The response has no state.")

    def _call(self, event: Event) -> Answer:
        payload = json.dumps(event, separators=(",", ":")).encode()
        try:
            answer = _invoker(self.region).invoke(FunctionName=self.function, Payload=payload)
            body = answer["Payload"].read()
        except (ClientError, BotoCoreError) as error:
            return Answer(refusal=str(error))
        version, request_id = answer.get("ExecutedVersion", "$LATEST"), answer["ResponseMetadata"]["RequestId"]
        if failure := answer.get("FunctionError"):
            return Answer(error=failure, version=version, request_id=request_id)
        return Answer(response=json.loads(body or b"null"), version=version, request_id=request_id)

    def measure(self, metric: str, value: float, unit: str) -> None:
        """Record a metric of the function.

        https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
        """
        dimensions = {"FunctionName": self.function.split(":")[6]}
        metrics.record("AWS/Lambda", metric, dimensions, value, unit, self.account, self.region)


def _matches(tree: Members[str, Any], alternatives: list[Any]) -> bool:
    return any(_eventbridge._matches_detail(tree, each) for each in alternatives)


_invokers: dict[str, Any] = {}
_invokers_lock = threading.Lock()
_LONGEST_INVOCATION = 900 + 60


def _invoker(region: str) -> Any:
    """Return the Lambda client of ``region``, which waits for the slowest function and never invokes it twice."""
    with _invokers_lock:
        if region not in _invokers:
            _invokers[region] = emulator.client(
                "lambda",
                emulator.root_credentials(),
                region,
                read_timeout=_LONGEST_INVOCATION,
                retries={"total_max_attempts": 1},
                max_pool_connections=1000,
            )
        return _invokers[region]


def failed_items(response: Any, known: set[str]) -> set[str]:
    """Return which of the ids ``known`` a partial batch response names; all of them if it is malformed.

    https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-batchfailurereporting.html
    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html#services-sqs-batchfailurereporting
    """
    if response is None or response == {}:
        return set()
    failures = (response.get("batchItemFailures") or []) if isinstance(response, dict) else None
    if not isinstance(failures, list) or not all(isinstance(each, dict) for each in failures):
        return known
    named = {each.get("itemIdentifier") for each in failures}
    return cast("set[str]", named) if named <= known else known
