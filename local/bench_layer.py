"""Measures the Lambda layer ``exactly_once``: how fast the fold is, and what it and Powertools' idempotency cost.

`speed` gives records per second and core, `cost` DynamoDB's units and requests on the same load: batches of up to 500
records with 10 % duplicates. The units are those that DynamoDB reports (ReturnConsumedCapacity); what a refused
conditional write costs it does not report, and is counted as the one unit that items of up to 1 KB take. See
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/read-write-operations.html
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from atlas.costs import MILLION, READ_UNITS, WRITE_UNITS
from local.launcher import layout

sys.path.append(str(layout.REPOSITORY / "include" / "lambdas" / "layer" / "python"))

from exactly_once.fold import Fold
from exactly_once.quarantine import Quarantine
from exactly_once.records import read
from exactly_once.window import digest
from local.bench_stack.fold.payments import CONTRACT, Payment, accounts, step

BATCH = 500
DUPLICATES = 0.1
LOADS = ((1, 1), (2, 2), (5, 5), (10, 10), *((BATCH, keys) for keys in (10, 20, 60, 100, 200, 500)))
"""Records of a batch and distinct keys among them."""

Event = dict[str, Any]
"""An event as Lambda hands it over."""


class _NoTable:
    """A DynamoDB that does nothing at once: what remains is the fold's own work."""

    def get_item(self, **request: Any) -> dict[str, Any]:
        return {}

    def batch_get_item(self, **request: Any) -> dict[str, Any]:
        return {"Responses": {}}

    def transact_write_items(self, **request: Any) -> None:
        pass

    def query(self, **request: Any) -> dict[str, Any]:
        return {"Items": []}

    def list_shards(self, **request: Any) -> dict[str, Any]:
        return {"Shards": []}


def _batches(name: str, number: int, records: int, keys: int) -> Iterator[Event]:
    """Yield Kinesis events; one record in ten repeats one of the same batch."""
    choice, sequence = random.Random(7), itertools.count(10**55)  # noqa: S311  # a load, not a secret
    for batch in range(number):
        payments = [
            {"id": f"{name}-{batch}-{n}", "account": f"{name}-{n % keys}", "amount": "12.34", "at": "2026-01-05"}
            for n in range(records)
        ]
        for n in range(1, records):
            if choice.random() < DUPLICATES:
                payments[n] = payments[choice.randrange(n)]
        yield {
            "Records": [
                {
                    "eventID": f"shardId-000000000000:{position}",
                    "eventSourceARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/bench",
                    "kinesis": {
                        "data": base64.b64encode(msgspec.json.encode(payment)).decode(),
                        "sequenceNumber": str(position),
                        "partitionKey": payment["account"],
                        "approximateArrivalTimestamp": 1.79e9 + batch,
                    },
                }
                for payment, position in zip(payments, sequence, strict=False)
            ]
        }


def _fold(table: str, consumer: str, client: Any) -> Fold[Payment]:
    quarantine = Quarantine("none", "", "", client)
    return Fold(table, consumer, "bench", CONTRACT, accounts, step, quarantine, client=client, kinesis=_NoTable())


def speed(client: Any) -> dict[str, int]:
    """Return records per second and core: of decoding, of the fold's logic, of both, and with commits by ``client``.

    The load is 60 keys to a batch of 500. The last takes the time that the table needs to answer into account.
    """
    events = list(_batches("speed", 60, BATCH, 60))

    def seconds(work: Callable[[Event], Any], clock: Callable[[], float], events: list[Event]) -> float:
        start = clock()
        with contextlib.redirect_stdout(io.StringIO()):  # the functions' metrics
            for event in events:
                work(event)
        return (clock() - start) / (BATCH * len(events))

    def decode(event: Event) -> None:
        for record in read(event):
            payment = CONTRACT.decode(record.data)
            digest(payment.id)
            accounts(payment)

    decoding = seconds(decode, time.process_time, events)
    both = seconds(_fold("none", "speed", _NoTable()).handle, time.process_time, events)
    with _state_table(client) as table:
        everything = seconds(_fold(table, "speed", client).handle, time.perf_counter, events[:20])
    return {
        "decode_records_per_second": round(1 / decoding),
        "logic_records_per_second": round(1 / (both - decoding)),
        "decode_and_logic_records_per_second": round(1 / both),
        "with_commits_records_per_second": round(1 / everything),
    }


def cost(client: Any) -> dict[str, Any]:
    """Return write units, read units, requests and USD per 1,000 records, by load, and where the fold gets cheaper."""
    results: dict[str, Any] = {}
    with _state_table(client) as table, _metered(client) as meter:
        for records, keys in LOADS:
            name, number = f"{records}-{keys}", max(1, BATCH // records // 5)
            results[f"{records}_records_{keys}_keys"] = {
                arm: _measured(work, list(_batches(f"{arm}-{name}", number, records, keys)), meter)
                for arm, work in (
                    ("fold", _fold(table, name, client).handle),
                    ("powertools", _with_powertools(table, client)),
                )
            }
    cheaper = [load for load, arms in results.items() if arms["fold"]["usd"] < arms["powertools"]["usd"]]
    return results | {"fold_is_cheaper_at": ", ".join(cheaper) or "no load"}


def _measured(work: Callable[..., Any], events: list[Event], meter: Counter[str]) -> dict[str, Any]:
    meter.clear()
    with contextlib.redirect_stdout(io.StringIO()):
        for event in events:
            work(event)
    scale = 1000 / sum(len(event["Records"]) for event in events)
    used = {name: round(meter[name] * scale) for name in ("write_units", "read_units", "requests")}
    usd = float(used["write_units"] * WRITE_UNITS + used["read_units"] * READ_UNITS) / MILLION
    return used | {"usd": round(usd, 6)}


def _with_powertools(table: str, client: Any) -> Callable[[Event], None]:
    """Return a handler that guards one update per record by Powertools' idempotency."""
    from aws_lambda_powertools.utilities.idempotency import (
        DynamoDBPersistenceLayer,
        IdempotencyConfig,
        idempotent_function,
    )

    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 60_000

    config = IdempotencyConfig(event_key_jmespath="id")
    config.register_lambda_context(Context())  # type: ignore[arg-type]
    layer = DynamoDBPersistenceLayer(table, key_attr="pk", sort_key_attr="sk", boto3_client=client)

    @idempotent_function(data_keyword_argument="payment", persistence_store=layer, config=config)  # type: ignore[untyped-decorator]
    def apply(payment: dict[str, str]) -> None:
        client.update_item(
            TableName=table,
            Key={"pk": {"S": f"account#{payment['account']}"}, "sk": {"S": "balance"}},
            UpdateExpression="ADD #sum :amount",
            ExpressionAttributeNames={"#sum": "sum"},
            ExpressionAttributeValues={":amount": {"N": payment["amount"]}},
        )

    def handle(event: Event) -> None:
        for record in read(event):
            apply(payment=msgspec.json.decode(record.data))

    return handle


@contextlib.contextmanager
def _metered(client: Any) -> Iterator[Counter[str]]:
    """Ask for the capacity that each request consumes, and add it up."""
    meter: Counter[str] = Counter()

    def ask(params: dict[str, Any], **event: Any) -> None:
        params.setdefault("ReturnConsumedCapacity", "TOTAL")

    def take(parsed: dict[str, Any], model: Any, **event: Any) -> None:
        meter["requests"] += 1
        units = "read_units" if model.name in {"GetItem", "BatchGetItem", "Query"} else "write_units"
        if parsed.get("Error", {}).get("Code") == "ConditionalCheckFailedException":
            meter[units] += 1
        consumed = parsed.get("ConsumedCapacity", [])
        for capacity in consumed if isinstance(consumed, list) else [consumed]:
            meter[units] += capacity["CapacityUnits"]

    events = client.meta.events
    events.register("provide-client-params.dynamodb.*", ask)
    events.register("after-call.dynamodb.*", take)
    try:
        yield meter
    finally:
        events.unregister("provide-client-params.dynamodb.*", ask)
        events.unregister("after-call.dynamodb.*", take)


@contextlib.contextmanager
def _state_table(client: Any) -> Iterator[str]:
    name = "atlas-bench-layer"
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    try:
        yield name
    finally:
        client.delete_table(TableName=name)
