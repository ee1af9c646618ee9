"""Measures the ways of a stream through the stacks of s05 and s08, which have to be deployed.

`latency` is the time from putting a transaction until its decision can be read from the table, `delivery` how fast
Amazon Data Firehose writes records into S3, `copy` how fast the warehouse loads them.
"""

from __future__ import annotations

import gzip
import json
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

from atlas.loadgen.cards import generate
from local.bootstrap import outputs_of

LATENCY_EVENTS, LATENCY_RATE = 200, 20
DELIVERY_RECORDS, RECORDS_A_CALL = 50_000, 500
COPY_ROWS = 1_000_000
ROW = {
    "transaction_id": "T",
    "line_no": 1,
    "occurred_at": "2026-01-05 10:00:00.000000",
    "arrived_at": "2026-01-05 10:00:01.000000",
    "customer_id": "12345",
    "country": "United Kingdom",
    "product_id": "20000",
    "product_name": "RED LANTERN",
    "category": "light",
    "quantity": 3,
    "unit_price": "2.55",
    "currency": "GBP",
    "exchange_rate": "1",
    "amount": "7.65",
    "shard_id": "shardId-000000000000",
    "sequence_number": "49600000000000000000000000000000000000000000000000000000",
}

Client = Callable[[str], Any]


def latency(client: Client, stack: str) -> dict[str, float]:
    """Return milliseconds (p50, p99) from PutRecord to the decision in the table, at 20 transactions a second."""
    outputs = outputs_of(client, stack)
    kinesis, streams = client("kinesis"), client("dynamodbstreams")
    arn = client("dynamodb").describe_table(TableName=outputs["StateTable"])["Table"]["LatestStreamArn"]
    shards = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    cursors = [
        streams.get_shard_iterator(StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="LATEST")["ShardIterator"]
        for shard in shards
    ]
    put: dict[str, float] = {}
    seen: dict[str, float] = {}

    def watch() -> None:
        deadline = time.monotonic() + 60
        while len(seen) < LATENCY_EVENTS and time.monotonic() < deadline:
            for number, cursor in enumerate(cursors):
                page = streams.get_records(ShardIterator=cursor)
                cursors[number] = page["NextShardIterator"]
                for record in page["Records"]:
                    key = record["dynamodb"]["Keys"]["pk"]["S"]
                    if key.startswith("outcome#"):
                        seen.setdefault(key.removeprefix("outcome#"), time.monotonic())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for payment in generate(seed=404, payments=LATENCY_EVENTS, label="bench"):
        event = payment.event()
        put[event.id] = time.monotonic()
        kinesis.put_record(StreamName=outputs["Stream"], Data=event.data, PartitionKey=event.key)
        time.sleep(1 / LATENCY_RATE)
    watcher.join()
    times = sorted(1000 * (seen[event_id] - put[event_id]) for event_id in put)
    return {"p50_milliseconds": round(statistics.median(times), 1), "p99_milliseconds": round(times[-3], 1)}


def delivery(client: Client, stack: str, lake: str) -> dict[str, float]:
    """Return records a second from the first PutRecordBatch until all of them lie in S3, gzip-compressed."""
    firehose, s3 = client("firehose"), client("s3")
    row = json.dumps(ROW).encode() + b"\n"
    known = _keys(s3, lake)
    start = time.monotonic()
    for _ in range(DELIVERY_RECORDS // RECORDS_A_CALL):
        answer = firehose.put_record_batch(DeliveryStreamName=f"{stack}-rows", Records=[{"Data": row}] * RECORDS_A_CALL)
        if answer["FailedPutCount"]:
            raise RuntimeError(f"{answer['FailedPutCount']} records were refused")
    arrived = 0
    while arrived < DELIVERY_RECORDS:
        time.sleep(0.1)
        for key in _keys(s3, lake) - known:
            known.add(key)
            arrived += gzip.decompress(s3.get_object(Bucket=lake, Key=key)["Body"].read()).count(b"\n")
    seconds = time.monotonic() - start
    return {"records": arrived, "seconds": round(seconds, 1), "records_per_second": round(arrived / seconds)}


def copy(client: Client, stack: str, lake: str) -> dict[str, float]:
    """Return rows a second of a COPY of a million rows, gzip-compressed JSON in eight objects."""
    s3, data = client("s3"), client("redshift-data")
    body = gzip.compress((json.dumps(ROW).encode() + b"\n") * (COPY_ROWS // 8), compresslevel=1)
    for number in range(8):
        s3.put_object(Bucket=lake, Key=f"s05_ecommerce_redshift/runs/bench/{number}.json.gz", Body=body)
    secret = client("redshift-serverless").get_namespace(namespaceName=stack)["namespace"]["adminPasswordSecretArn"]
    sql = (
        f"COPY arrived_lines FROM 's3://{lake}/s05_ecommerce_redshift/runs/bench/' "
        "IAM_ROLE DEFAULT GZIP FORMAT JSON 'auto' TIMEFORMAT 'auto'"
    )
    start = time.monotonic()
    statement = data.execute_statement(WorkgroupName=stack, Database="commerce", SecretArn=secret, Sql=sql)["Id"]
    while (found := data.describe_statement(Id=statement))["Status"] in ("SUBMITTED", "PICKED", "STARTED"):
        time.sleep(0.05)
    if found["Status"] != "FINISHED":
        raise RuntimeError(found)
    seconds = time.monotonic() - start
    return {"rows": COPY_ROWS, "seconds": round(seconds, 1), "rows_per_second": round(COPY_ROWS / seconds)}


def _keys(s3: Any, lake: str) -> set[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=lake, Prefix="s05_ecommerce_redshift/rows/")
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}
