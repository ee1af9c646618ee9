"""From stream to rows: what the function hands to Firehose, and what it keeps back."""

from __future__ import annotations

import base64
import importlib
import json
import re
from collections.abc import Iterator
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from local.launcher import layout
from tests.conftest import Aws
from tests.lambdas.functions import importable

BUCKET = "s05-functions"
PRODUCTS = {"20000": {"name": "RED LANTERN", "category": "light"}}
ENVIRONMENT = {
    "AWS_DEFAULT_REGION": layout.REGION,
    "AWS_LAMBDA_FUNCTION_NAME": "enrich",
    "POWERTOOLS_METRICS_DISABLED": "true",
    "STREAM": "transactions",
    "DELIVERY_STREAM": "rows",
    "REFERENCE_BUCKET": BUCKET,
    "PRODUCTS_KEY": "reference/products.json",
    "QUARANTINE_BUCKET": BUCKET,
    "QUARANTINE_PREFIX": "quarantine",
}
LINE = {"line_no": 1, "product_id": "20000", "quantity": 3, "unit_price": "2.555"}
GOOD = {
    "transaction_id": "536365",
    "occurred_at": "2010-12-01T09:26:00+01:00",
    "customer_id": "17850",
    "country": "United Kingdom",
    "lines": [LINE, {"line_no": 2, "product_id": "99999", "quantity": -1, "unit_price": "1"}],
}


class Firehose:
    """Takes records, and refuses some of the first calls' as a busy stream does."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.refusals: list[int] = []
        """For each call to come, how many of its records are refused, from the end."""

    def put_record_batch(self, DeliveryStreamName: str, Records: list[dict[str, bytes]]) -> dict[str, Any]:  # noqa: N803
        assert DeliveryStreamName == "rows"
        assert len(Records) <= 500
        assert sum(len(record["Data"]) for record in Records) <= 4 * 1024 * 1024
        assert all(len(record["Data"]) <= 1000 * 1024 for record in Records)
        taken = len(Records) - (self.refusals.pop(0) if self.refusals else 0)
        self.calls.append([record["Data"] for record in Records[:taken]])
        results = [{"RecordId": "1"} if n < taken else {"ErrorCode": "ServiceUnavailable"} for n in range(len(Records))]
        return {"FailedPutCount": len(Records) - taken, "RequestResponses": results}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What was taken, row by row."""
        return [json.loads(row) for call in self.calls for data in call for row in data.splitlines()]


@pytest.fixture(scope="module")
def functions(aws: Aws) -> Iterator[ModuleType]:
    aws.client("s3").create_bucket(Bucket=BUCKET)
    with pytest.MonkeyPatch.context() as patch, importable("lambdas/s05_ecommerce_redshift"):
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        module = importlib.import_module("enrich")
        s3 = aws.client("s3")
        patch.setattr(module._products, "s3", s3)
        object.__setattr__(module._quarantine, "client", s3)
        yield module


@pytest.fixture
def enrich(aws: Aws, functions: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    put_products(aws, PRODUCTS)
    monkeypatch.setattr(functions._products, "_looked_at", float("-inf"))
    monkeypatch.setattr(functions, "_firehose", Firehose())
    return functions


def put_products(aws: Aws, products: dict[str, dict[str, str]]) -> None:
    aws.client("s3").put_object(Bucket=BUCKET, Key="reference/products.json", Body=json.dumps(products))


def handle(enrich: ModuleType, *data: bytes) -> dict[str, Any]:
    """Give the function one batch."""

    class Context:
        function_name = "enrich"

    records = [
        {
            "eventID": f"shardId-000000000001:{number}",
            "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/transactions",
            "kinesis": {
                "data": base64.b64encode(one).decode(),
                "sequenceNumber": str(number),
                "partitionKey": "536365",
                "approximateArrivalTimestamp": 1291192000.25,
            },
        }
        for number, one in enumerate(data, start=1)
    ]
    answer: dict[str, Any] = enrich.handler({"Records": records}, Context())
    return answer


def event(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def test_a_transaction_becomes_a_row_per_line(enrich: ModuleType) -> None:
    assert handle(enrich, event()) == {"batchItemFailures": []}
    first, second = enrich._firehose.rows
    assert first == {
        "transaction_id": "536365",
        "occurred_at": "2010-12-01 08:26:00.000000",
        "arrived_at": "2010-12-01 08:26:40.250000",
        "customer_id": "17850",
        "country": "United Kingdom",
        "currency": "GBP",
        "exchange_rate": "1",
        "shard_id": "shardId-000000000001",
        "sequence_number": "1",
        "line_no": 1,
        "product_id": "20000",
        "product_name": "RED LANTERN",
        "category": "light",
        "quantity": 3,
        "unit_price": "2.555",
        "amount": "7.67",
    }
    assert (second["category"], second["product_name"], second["amount"]) == ("unknown", None, "-1.00")


def test_the_rate_counts_before_rounding(enrich: ModuleType) -> None:
    handle(enrich, event(currency="EUR", exchange_rate="0.845"))
    assert [Decimal(row["amount"]) for row in enrich._firehose.rows] == [Decimal("6.48"), Decimal("-0.85")]


def test_rows_travel_together(enrich: ModuleType) -> None:
    handle(enrich, *[event(transaction_id=str(number)) for number in range(300)])
    assert len(enrich._firehose.rows) == 600
    assert [len(call) for call in enrich._firehose.calls] == [1]


def test_much_is_cut_to_what_firehose_takes(enrich: ModuleType) -> None:
    large = event(lines=[LINE | {"line_no": number} for number in range(1, 8001)])
    handle(enrich, large, event(transaction_id="2"), large)
    assert len(enrich._firehose.rows) == 16002
    assert len(enrich._firehose.calls) > 1


def test_what_is_refused_is_sent_again_alone(enrich: ModuleType) -> None:
    large = event(lines=[LINE | {"line_no": number} for number in range(1, 8001)])
    enrich._firehose.refusals = [2, 1]
    handle(enrich, large)
    numbers = [row["line_no"] for row in enrich._firehose.rows]
    assert sorted(numbers) == list(range(1, 8001))


def test_a_stream_that_refuses_for_good_fails_the_batch(enrich: ModuleType) -> None:
    enrich._firehose.refusals = [1] * 5
    with pytest.raises(enrich.DeliveryError, match="rows refused 1 of 1 records in 5 attempts"):
        handle(enrich, event())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"transaction_id": "5363', "Input data was truncated"),
        (b"\xff\xfe{}", "invalid|malformed"),
        (event(transaction_id=None), "transaction_id"),
        (event(transaction_id=""), "transaction_id"),
        (event(occurred_at="2010-12-01T09:26:00"), "occurred_at"),
        (event(lines=[]), "lines"),
        (event(lines=[LINE | {"quantity": 1.5}]), r"lines\[0\]\.quantity"),
        (event(lines=[LINE | {"unit_price": "-1"}]), "unit_price"),
        (event(lines=[LINE | {"unit_price": "NaN"}]), "unit_price"),
        (event(exchange_rate="0"), "exchange_rate"),
        (event(currency="pounds"), "currency"),
    ],
    ids=[
        "cut off",
        "encoding",
        "no id",
        "empty id",
        "no zone",
        "no lines",
        "half",
        "negative",
        "not a number",
        "rate",
        "currency",
    ],
)
def test_a_malformed_record_is_quarantined_and_the_rest_goes_on(
    aws: Aws, enrich: ModuleType, data: bytes, reason: str
) -> None:
    handle(enrich, event(transaction_id="before"), data, event(transaction_id="after"))
    assert {row["transaction_id"] for row in enrich._firehose.rows} == {"before", "after"}
    key = "quarantine/shardId-000000000001/2.json"
    letter = json.load(aws.client("s3").get_object(Bucket=BUCKET, Key=key)["Body"])
    assert base64.b64decode(letter["data"]) == data
    assert re.search(reason, letter["reason"]), letter["reason"]
    assert (letter["source"], letter["partition_key"]) == ("transactions", "536365")
    assert letter["position"] == {"shard": "shardId-000000000001", "sequence": "2"}


def test_the_catalogue_is_read_again_when_it_has_changed(
    aws: Aws, enrich: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle(enrich, event())
    put_products(aws, PRODUCTS | {"99999": {"name": "IVORY MUG", "category": "kitchen"}})
    handle(enrich, event())
    monkeypatch.setattr(enrich._products, "_looked_at", float("-inf"))
    handle(enrich, event())
    assert [row["category"] for row in enrich._firehose.rows][1::2] == ["unknown", "unknown", "kitchen"]


def test_without_a_catalogue_nothing_is_processed(aws: Aws, enrich: ModuleType) -> None:
    aws.client("s3").delete_object(Bucket=BUCKET, Key="reference/products.json")
    with pytest.raises(Exception, match=r"NoSuchKey|does not exist"):
        handle(enrich, event())
    assert enrich._firehose.rows == []
