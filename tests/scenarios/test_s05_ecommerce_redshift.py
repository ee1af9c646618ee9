"""s05 from end to end: the warehouse equals what was sent, whatever happens on the way.

The tests share one stack, in this order: a load with duplicates, damage and crashes; the damaged transactions mended
and sent again; a load that is cancelled half-way; watching only; the user's own data on a stack that is removed.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from atlas.loadgen.retail import generate
from atlas.loadgen.transactions import Shop, read_shop
from local import bootstrap
from local.launcher import layout
from local.runner import Run, Scenarios

STEM = "s05_ecommerce_redshift"
STACK = "atlas-dev-s05-ecommerce-redshift"
RETAIL = layout.REPOSITORY.parent / "shared" / "data" / "retail"
EVENTS, SEED = (50_000 if os.environ.get("ATLAS_TEST_SIZE") == "full" else 1_000), 7


@pytest.fixture(scope="module")
def truth() -> Shop:
    return read_shop(generate(SEED, EVENTS).files)


@pytest.fixture(scope="module")
def first(scenarios: Scenarios) -> Run:
    return scenarios.run(STEM, events=EVENTS, seed=SEED, duplicates_percent=10, malformed_percent=1, crash_percent=5)


def query(scenarios: Scenarios, sql: str) -> list[dict[str, Any]]:
    """Rows of the warehouse, as its administrator."""
    namespace = scenarios.client("redshift-serverless").get_namespace(namespaceName=STACK)["namespace"]
    secret = namespace["adminPasswordSecretArn"]
    client = scenarios.client("redshift-data")
    started = client.execute_statement(WorkgroupName=STACK, Database="commerce", SecretArn=secret, Sql=sql)["Id"]
    while True:
        statement = client.describe_statement(Id=started)
        if statement["Status"] in ("FINISHED", "FAILED", "ABORTED"):
            break
        time.sleep(0.05)
    assert statement["Status"] == "FINISHED", statement
    pages = client.get_paginator("get_statement_result").paginate(Id=started)
    return [
        {
            column["name"]: None if value.get("isNull") else next(iter(value.values()))
            for column, value in zip(page["ColumnMetadata"], record, strict=True)
        }
        for page in pages
        for record in page["Records"]
    ]


def totals(scenarios: Scenarios) -> tuple[int, int, Decimal]:
    """Lines, transactions and net sales in the warehouse."""
    (row,) = query(
        scenarios,
        "SELECT COUNT(*) AS lines, COUNT(DISTINCT transaction_id) AS transactions, SUM(amount) AS net FROM sale_lines",
    )
    return row["lines"], row["transactions"], Decimal(row["net"])


def quarantined(scenarios: Scenarios) -> dict[str, dict[str, Any]]:
    """The malformed records: key to letter."""
    keys = scenarios.objects(f"{STEM}/quarantine/")
    return {key: json.loads(scenarios.read(key)) for key in keys}


def test_the_warehouse_equals_what_was_sent(scenarios: Scenarios, first: Run, truth: Shop) -> None:
    assert first.state == "success"
    assert first.gate["passed"]
    assert totals(scenarios) == (truth.lines, len(truth.transactions), truth.net_sales)


def test_minutes_and_baskets_add_up_to_the_cent(scenarios: Scenarios, first: Run, truth: Shop) -> None:
    expected: dict[str, Decimal] = defaultdict(Decimal)
    for transaction in truth.transactions:
        expected[f"{transaction.occurred_at:%Y-%m-%d %H:%M:00}"] += sum(line.amount for line in transaction.lines)
    minutes = query(scenarios, "SELECT minute, net_sales FROM sales_by_minute")
    assert {row["minute"]: Decimal(row["net_sales"]) for row in minutes} == expected
    (baskets,) = query(scenarios, "SELECT COUNT(*) AS n, SUM(net_sales) AS net_sales FROM baskets")
    assert (baskets["n"], Decimal(baskets["net_sales"])) == (len(truth.transactions), truth.net_sales)


def test_duplicates_crashes_and_damage_really_happened(scenarios: Scenarios, first: Run) -> None:
    manifest = json.loads(scenarios.read(f"{STEM}/runs/{first.run_id}/feed.json"))
    assert manifest["duplicates"] > 0.05 * EVENTS
    (row,) = query(scenarios, "SELECT COUNT(*) AS n FROM sale_lines WHERE deliveries > 1")
    assert row["n"] > 0
    logs = scenarios.client("logs").filter_log_events(
        logGroupName=f"/aws/lambda/{STACK}-enrich", filterPattern='"Rehearsed crash"'
    )
    assert logs["events"]


def test_rows_counted_as_they_are_delivered_would_be_wrong(scenarios: Scenarios, first: Run, truth: Shop) -> None:
    """The control arm: the same objects, loaded by COPY alone."""
    rows = [
        json.loads(line)
        for key in scenarios.objects(f"{STEM}/rows/")
        for line in gzip.decompress(scenarios.read_bytes(key)).splitlines()
    ]
    assert len(rows) > truth.lines
    assert sum(Decimal(row["amount"]) for row in rows) != truth.net_sales


def test_the_archive_holds_every_byte_that_arrived(scenarios: Scenarios, first: Run) -> None:
    manifest = json.loads(scenarios.read(f"{STEM}/runs/{first.run_id}/feed.json"))
    raw = b"".join(gzip.decompress(scenarios.read_bytes(key)) for key in scenarios.objects(f"{STEM}/raw/"))
    assert raw.count(b'"lines"') + raw.count(b"transaction_id") > manifest["events"]
    for letter in quarantined(scenarios).values():
        assert base64.b64decode(letter["data"]) in raw


def test_every_malformed_record_is_kept_with_its_reason(scenarios: Scenarios, first: Run) -> None:
    manifest = json.loads(scenarios.read(f"{STEM}/runs/{first.run_id}/feed.json"))
    letters = quarantined(scenarios)
    assert len(letters) == manifest["malformed"] > 0
    assert all(letter["reason"] and letter["data"] for letter in letters.values())


def test_mended_records_are_replayed_by_the_documented_command(
    scenarios: Scenarios, first: Run, truth: Shop, tmp_path: Path
) -> None:
    """Mended into a sale of their own, so that it can be seen that they arrive."""
    before = totals(scenarios)
    letters = tmp_path / "letters.jsonl"
    replay(scenarios, "export", "--file", str(letters))
    exported = [json.loads(line) for line in letters.read_text().splitlines()]
    assert len(exported) == len(quarantined(scenarios))
    for number, letter in enumerate(exported):
        mended = json.loads(truth.transactions[number].event())
        letter.pop("base64", None)
        letter["text"] = json.dumps(mended | {"transaction_id": f"MENDED-{number}"})
    letters.write_text("".join(json.dumps(letter) + "\n" for letter in exported))
    replay(scenarios, "replay", "--file", str(letters), "--force")
    assert quarantined(scenarios) == {}
    run = scenarios.run(STEM, events=0)
    assert run.state == "success"
    assert totals(scenarios)[1] == before[1] + len(exported)


def replay(scenarios: Scenarios, *arguments: str) -> None:
    """Run ``python -m atlas.dead_letters`` as a user does."""
    stream = bootstrap.outputs_of(scenarios.client, STACK)["Stream"]
    where = ["--bucket", scenarios.lake, "--prefix", f"{STEM}/quarantine/"]
    to = ["--stream", stream] if arguments[0] == "replay" else []
    subprocess.run(
        [sys.executable, "-m", "atlas.dead_letters", arguments[0], *where, *to, *arguments[1:]],
        env={**os.environ, "PYTHONPATH": str(layout.REPOSITORY / "plugins")},
        check=True,
    )


def test_a_load_that_is_cancelled_is_repeated_without_a_trace(scenarios: Scenarios, first: Run, truth: Shop) -> None:
    """The table is locked, so that the load hangs; then its statement is cancelled."""
    stopped = threading.Event()
    cancelled: list[str] = []

    def cancel_the_first_load() -> None:
        client = scenarios.client("redshift-data")
        while not stopped.wait(0.02):
            for statement in client.list_statements(Status="ALL", RoleLevel=False)["Statements"]:
                if statement.get("StatementName", "").startswith("load") and not cancelled:
                    try:
                        client.cancel_statement(Id=statement["Id"])
                    except client.exceptions.ValidationException:
                        continue  # it had finished
                    cancelled.append(statement["Id"])

    thread = threading.Thread(target=cancel_the_first_load)
    thread.start()
    try:
        run = scenarios.run(STEM, events=200, seed=SEED + 1, malformed_percent=0)
    finally:
        stopped.set()
        thread.join()
    assert run.state == "success"
    again = read_shop(generate(SEED + 1, 200).files)
    assert sum_of(scenarios, again) == again.net_sales


def sum_of(scenarios: Scenarios, shop: Shop) -> Decimal:
    """Net sales of a shop's transactions in the warehouse."""
    ids = "', '".join(transaction.transaction_id for transaction in shop.transactions)
    (row,) = query(scenarios, f"SELECT SUM(amount) AS net FROM sale_lines WHERE transaction_id IN ('{ids}')")
    return Decimal(row["net"])


@pytest.fixture(scope="module")
def retail(scenarios: Scenarios, first: Run) -> str:
    """The 20 trading days in the lake."""
    if not RETAIL.is_dir():
        pytest.skip(f"the UCI Online Retail days are not at {RETAIL}")
    s3 = scenarios.client("s3")
    for file in sorted(RETAIL.glob("*.csv.gz")):
        s3.upload_file(str(file), scenarios.lake, f"uploads/retail-s05/{file.name}")
    return f"s3://{scenarios.lake}/uploads/retail-s05/"


def independent_lines() -> Iterator[tuple[str, Decimal]]:
    """Invoice and amount of every row of the CSV files."""
    for file in sorted(RETAIL.glob("*.csv.gz")):
        with gzip.open(file, "rt", encoding="utf-8", newline="") as text:
            for row in csv.DictReader(io.StringIO(text.read())):
                amount = int(row["Quantity"]) * Decimal(row["UnitPrice"])
                yield row["InvoiceNo"], amount.quantize(Decimal("0.01"), ROUND_HALF_UP)


def test_the_retail_days_equal_independent_sums(scenarios: Scenarios, retail: str) -> None:
    before = totals(scenarios)
    run = scenarios.run(STEM, source_uri=retail, malformed_percent=0)
    assert run.state == "success"
    lines = list(independent_lines())
    after = totals(scenarios)
    assert after[0] - before[0] == len(lines)
    assert after[1] - before[1] == len({invoice for invoice, _ in lines})
    assert after[2] - before[2] == sum(amount for _, amount in lines)


def test_nothing_is_left_when_the_stack_is_removed(scenarios: Scenarios, first: Run) -> None:
    run = scenarios.run(STEM, events=0, keep_stack=False)
    assert run.state == "success"
    tagged = scenarios.client("resourcegroupstaggingapi").get_resources(
        TagFilters=[{"Key": "atlas:scenario", "Values": [STEM]}]
    )
    assert tagged["ResourceTagMappingList"] == []
    with pytest.raises(scenarios.client("cloudformation").exceptions.ClientError, match="does not exist"):
        scenarios.client("cloudformation").describe_stacks(StackName=STACK)
