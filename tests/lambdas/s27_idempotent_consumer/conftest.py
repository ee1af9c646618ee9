"""The consumers of s27 with tables and a bucket of the embedded AWS."""

from __future__ import annotations

import base64
import importlib
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any

import boto3
import pytest

from local.launcher import layout
from tests.conftest import Aws
from tests.lambdas.functions import importable

MODULES = {
    "natural": "natural_key",
    "powertools": "powertools_idempotency",
    "inbox": "inbox_transaction",
    "control": "no_idempotency",
}
BUCKET = "s27-functions"
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).isoformat()


class Crash(BaseException):
    """The end of the process; no handler of exceptions sees it, as none sees a process end."""


class Context:
    """What Lambda tells a function about the invocation, which has ``milliseconds`` left."""

    function_name = "s27-functions"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn"

    def __init__(self, milliseconds: int) -> None:
        self.aws_request_id = str(uuid.uuid4())
        self._milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self._milliseconds


def payment(number: int = 1, **changes: Any) -> str:
    """Return the body of a message: 12.34 EUR for account A."""
    fields = {
        "payment_id": f"P{number}",
        "account": "A",
        "amount": "12.34",
        "currency": "EUR",
        "captured_at": "2026-01-05T10:00:00+00:00",
        "expires_at": TOMORROW,
    }
    return json.dumps(fields | changes)


class Consumer:
    """One consumer as its queue and its table see it."""

    def __init__(self, strategy: str, aws: Aws, ledger: str) -> None:
        self.strategy = strategy
        self.module: ModuleType = importlib.import_module(MODULES[strategy])
        self.consumer: ModuleType = importlib.import_module("consumer")
        self.ledger: ModuleType = importlib.import_module("ledger")
        self.table = boto3.resource(
            "dynamodb",
            endpoint_url=aws.endpoint,
            region_name=layout.REGION,
            aws_access_key_id=layout.ROOT_KEYS[0],
            aws_secret_access_key=layout.ROOT_KEYS[1],
        ).Table(ledger)
        self.s3 = aws.client("s3")
        self._contexts: list[Context] = []

    def deliver(self, *bodies: str, milliseconds: int = 5000) -> list[str]:
        """Deliver messages as one batch and return those that are to come again, as ``m0``, ``m1``, ..."""
        records = [
            {
                "messageId": f"m{index}",
                "receiptHandle": "r",
                "body": body,
                "attributes": {"SentTimestamp": "1767607200000", "ApproximateReceiveCount": "1"},
                "messageAttributes": {},
                "md5OfBody": "",
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:eu-west-1:000000000000:payments",
                "awsRegion": "eu-west-1",
            }
            for index, body in enumerate(bodies)
        ]
        self._contexts.append(Context(milliseconds))
        answer = self.module.handler({"Records": records}, self._contexts[-1])
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    @property
    def measures(self) -> list[dict[str, Any]]:
        """What the last invocation wrote down, a row for each message."""
        key = f"measures/{self.strategy}/{self._contexts[-1].aws_request_id}.jsonl"
        text = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return [json.loads(line) for line in text.splitlines()]

    @property
    def outcomes(self) -> list[str]:
        """What became of the messages of the last invocation."""
        return [row["outcome"] for row in self.measures]

    @property
    def balance(self) -> tuple[int, Decimal]:
        """How often the balance of account A was changed, and what it is."""
        item: dict[str, Any] = self.table.get_item(Key={"pk": "account#A", "sk": "balance#EUR"}).get("Item", {})
        return int(item.get("captures", 0)), item.get("balance", Decimal(0))

    @property
    def quarantine(self) -> list[tuple[str, str]]:
        """Reason and content of what was set aside."""
        listed = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"quarantine/{self.table.name}/{self.strategy}/")
        letters = [
            json.loads(self.s3.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read())
            for entry in listed.get("Contents", [])
        ]
        return sorted((letter["reason"], base64.b64decode(letter["data"]).decode()) for letter in letters)


@pytest.fixture(scope="package")
def bucket(aws: Aws) -> str:
    """The bucket that stands in for the lake."""
    aws.client("s3").create_bucket(Bucket=BUCKET)
    return BUCKET


@pytest.fixture
def start(aws: Aws, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Consumer]]:
    """Return what starts a consumer with tables of its own, in the environment that the template gives it."""
    dynamodb = aws.client("dynamodb")
    ledger = f"s27-ledger-{uuid.uuid4().hex[:12]}"
    records = f"{ledger}-records"
    for table, keys in {ledger: {"pk": "HASH", "sk": "RANGE"}, records: {"pk": "HASH"}}.items():
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in keys],
            KeySchema=[{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
        )
    for name, value in {
        "AWS_ENDPOINT_URL": aws.endpoint,
        "AWS_DEFAULT_REGION": layout.REGION,
        "AWS_ACCESS_KEY_ID": layout.ROOT_KEYS[0],
        "AWS_SECRET_ACCESS_KEY": layout.ROOT_KEYS[1],
        "LEDGER_TABLE": ledger,
        "IDEMPOTENCY_TABLE": records,
        "QUARANTINE_BUCKET": bucket,
        "QUARANTINE_PREFIX": f"quarantine/{ledger}",
        "MEASURES_PREFIX": "measures",
        "RETENTION_SECONDS": "1296000",
    }.items():
        monkeypatch.setenv(name, value)

    def started(strategy: str) -> Consumer:
        monkeypatch.setenv("STRATEGY", strategy)
        return Consumer(strategy, aws, ledger)

    with importable("lambdas/s27_idempotent_consumer", "lambdas/layer/python"):
        yield started
