"""Stream to rows: validates transactions, adds product data, hands one row per line to Amazon Data Firehose.

Delivery is at least once: an invocation that dies after Firehose has accepted its rows is repeated. Every row carries
the transaction, its line and its place in the stream, and the warehouse merges on transaction and line. So nothing has
to be remembered here, and any number of invocations may overlap.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import boto3
import msgspec
from aws_lambda_powertools import Metrics
from aws_lambda_powertools.metrics import MetricUnit
from contract import TRANSACTION, Transaction
from products import Products

from exactly_once.contracts import Malformed
from exactly_once.faults import crash
from exactly_once.quarantine import Quarantine
from exactly_once.records import Record, read

CENT = Decimal("0.01")
# https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html
RECORD_BYTES = 1000 * 1024
BATCH_BYTES = 4 * 1024 * 1024
BATCH_RECORDS = 500
ATTEMPTS = 5

_s3 = boto3.client("s3")
_firehose = boto3.client("firehose")
_metrics = Metrics(namespace="Atlas", service="s05_ecommerce_redshift")
_encode = msgspec.json.Encoder().encode
_products = Products(_s3, os.environ["REFERENCE_BUCKET"], os.environ["PRODUCTS_KEY"])
_quarantine = Quarantine.from_environment(os.environ["STREAM"])


@_metrics.log_metrics
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Process one batch of a shard; any failure makes the mapping repeat the batch.

    Raises:
        DeliveryError: Firehose refused rows in every attempt.
    """
    _products.refresh()
    rows: list[bytes] = []
    malformed = 0
    for record in read(event):
        try:
            transaction = TRANSACTION.decode(record.data)
        except Malformed as problem:
            _set_aside(record, problem.reason)
            malformed += 1
        else:
            rows += _rows(record, transaction)
    crash("before the rows are handed over")
    _deliver(rows)
    crash("before the batch is acknowledged")
    _metrics.add_metric("Lines", MetricUnit.Count, len(rows))
    _metrics.add_metric("Malformed", MetricUnit.Count, malformed)
    return {"batchItemFailures": []}


def _set_aside(record: Record, reason: str) -> None:
    """Keep a record that the contract refuses, under a name that a repetition writes again."""
    _quarantine.put(
        f"{record.shard}/{record.sequence}",
        record.data,
        reason,
        arrived_at=record.arrived_at,
        partition_key=record.partition_key,
        shard=record.shard,
        sequence=record.sequence,
    )


class DeliveryError(Exception):
    """Firehose did not take all rows."""


def _rows(record: Record, transaction: Transaction) -> Iterator[bytes]:
    """Yield a transaction's lines as rows of the warehouse's staging table, in JSON, one to a text line."""
    shared = {
        "transaction_id": transaction.transaction_id,
        "occurred_at": _timestamp(transaction.occurred_at),
        "arrived_at": _timestamp(datetime.fromtimestamp(record.arrived_at, UTC)),
        "customer_id": transaction.customer_id,
        "country": transaction.country,
        "currency": transaction.currency,
        "exchange_rate": transaction.exchange_rate,
        "shard_id": record.shard,
        "sequence_number": record.sequence,
    }
    for line in transaction.lines:
        product = _products.describe(line.product_id)
        amount = line.quantity * line.unit_price * transaction.exchange_rate
        row = {
            "line_no": line.line_no,
            "product_id": line.product_id,
            "product_name": product["name"],
            "category": product["category"],
            "quantity": line.quantity,
            "unit_price": line.unit_price,
            "amount": amount.quantize(CENT, ROUND_HALF_UP),
        }
        yield _encode(shared | row) + b"\n"


def _timestamp(moment: datetime) -> str:
    """Return UTC in the form that COPY reads by ``TIMEFORMAT 'auto'``."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"


def _deliver(rows: list[bytes]) -> None:
    """Hand rows over; what is refused is sent again by itself.

    Rows travel together, because Firehose rounds the size of each record up to 5 KB when it bills:
    https://aws.amazon.com/firehose/pricing/
    """
    stream = os.environ["DELIVERY_STREAM"]
    records = [b"".join(together) for together in _packed(rows, RECORD_BYTES, len(rows))]
    for batch in _packed(records, BATCH_BYTES, BATCH_RECORDS):
        pending = [{"Data": record} for record in batch]
        for _ in range(ATTEMPTS):
            answer = _firehose.put_record_batch(DeliveryStreamName=stream, Records=pending)
            results = zip(pending, answer["RequestResponses"], strict=True)
            pending = [record for record, result in results if "ErrorCode" in result]
            if not pending:
                break
        else:
            raise DeliveryError(f"{stream} refused {len(pending)} of {len(batch)} records in {ATTEMPTS} attempts")


def _packed(items: list[bytes], max_bytes: int, max_items: int) -> Iterator[list[bytes]]:
    """Yield the items in their order, together up to ``max_bytes`` and ``max_items``."""
    pack: list[bytes] = []
    size = 0
    for item in items:
        if pack and (len(pack) == max_items or size + len(item) > max_bytes):
            yield pack
            pack, size = [], 0
        pack.append(item)
        size += len(item)
    if pack:
        yield pack
