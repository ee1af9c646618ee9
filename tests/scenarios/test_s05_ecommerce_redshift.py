"""s05 from end to end: the warehouse equals what was sent, whatever happens on the way.

The tests share one stack, in this order: a load with duplicates, damage and crashes; another one, whose first load of
the warehouse is cancelled half-way, together with the damaged transactions, mended and sent again; the user's own data,
after which the stack is removed.
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
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas.loadgen.retail import generate
from atlas.loadgen.transactions import Shop, read_shop
from local import bootstrap
from local.launcher import layout
from local.runner import Run, Scenarios
from tests.scenarios import isolation

STEM = "s05_ecommerce_redshift"
STACK = "atlas-dev-s05-ecommerce-redshift"
RETAIL = layout.REPOSITORY.parent / "shared" / "data" / "retail"
FULL = os.environ.get("ATLAS_TEST_SIZE") == "full"
EVENTS, SEED = (50_000 if FULL else 1_000), 7
CRASH_PERCENT = 5 if FULL else 20
RATE = None if FULL else 130
"""A small load takes a handful of invocations, more if it takes its time: with fewer crashes there might be none. With
more, bisected halves fail faster than they succeed, down to single records."""


@pytest.fixture(scope="module")
def truth() -> Shop:
    return read_shop(generate(SEED, EVENTS).files)


@pytest.fixture(scope="module")
def first(scenarios: Scenarios) -> Run:
    disturbed = {"duplicates_percent": 10, "malformed_percent": 1, "crash_percent": CRASH_PERCENT}
    return scenarios.run(STEM, events=EVENTS, seed=SEED, rate=RATE, **disturbed)


def admin_secret(scenarios: Scenarios) -> str:
    """The secret that Redshift keeps the administrator's password in."""
    namespace = scenarios.client("redshift-serverless").get_namespace(namespaceName=STACK)["namespace"]
    return str(namespace["adminPasswordSecretArn"])


def query(scenarios: Scenarios, sql: str) -> list[dict[str, Any]]:
    """Rows of the warehouse, as its administrator."""
    client = scenarios.client("redshift-data")
    login = {"WorkgroupName": STACK, "Database": "commerce", "SecretArn": admin_secret(scenarios)}
    started = client.execute_statement(**login, Sql=sql)["Id"]
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


def test_the_archive_holds_every_byte_that_arrived(scenarios: Scenarios, first: Run, truth: Shop) -> None:
    raw = b"".join(gzip.decompress(scenarios.read_bytes(key)) for key in scenarios.objects(f"{STEM}/raw/"))
    assert all(transaction.event() in raw for transaction in truth.transactions)
    assert all(base64.b64decode(letter["data"]) in raw for letter in quarantined(scenarios).values())


def test_every_malformed_record_is_kept_with_its_reason(scenarios: Scenarios, first: Run) -> None:
    manifest = json.loads(scenarios.read(f"{STEM}/runs/{first.run_id}/feed.json"))
    letters = quarantined(scenarios)
    assert len(letters) == manifest["malformed"] > 0
    assert all(letter["reason"] and letter["data"] for letter in letters.values())


def test_mended_records_and_a_cancelled_load_leave_the_warehouse_exact(
    scenarios: Scenarios, first: Run, truth: Shop, tmp_path: Path
) -> None:
    """Mended into sales of their own, so that it can be seen that they arrive; and a retry loads what was cancelled."""
    wait_for_retries(scenarios)
    before = totals(scenarios)
    more = read_shop(generate(SEED + 1, 200).files)
    letters = tmp_path / "letters.jsonl"
    dead_letters(scenarios, "export", "--file", str(letters))
    mended = mend(letters, truth)
    dead_letters(scenarios, "replay", "--file", str(letters), "--force")
    assert quarantined(scenarios) == {}
    with first_load_cancelled(scenarios) as cancelled:
        run = scenarios.run(STEM, events=200, seed=SEED + 1, malformed_percent=0)
    assert len(cancelled) == 1
    assert run.state == "success"
    after = totals(scenarios)
    assert after[1] - before[1] == mended + len(more.transactions)
    copies = sum((line.amount for one in truth.transactions[:mended] for line in one.lines), Decimal(0))
    assert after[2] - before[2] == copies + more.net_sales


def wait_for_retries(scenarios: Scenarios) -> None:
    """Wait until no batch is repeated any more: a crash leaves one that the warehouse already has.

    Its malformed records would come back to the quarantine after they were replayed.
    """
    function = {"Name": "FunctionName", "Value": f"{STACK}-enrich"}
    before, now = -1.0, 0.0
    while before != now:
        time.sleep(3)
        end = datetime.now(UTC)
        points = scenarios.client("cloudwatch").get_metric_statistics(
            Namespace="AWS/Lambda",
            MetricName="Invocations",
            Dimensions=[function],
            StartTime=end - timedelta(hours=1),
            EndTime=end,
            Period=3600,
            Statistics=["Sum"],
        )["Datapoints"]
        before, now = now, sum(point["Sum"] for point in points)
    assert now > 0


def mend(letters: Path, truth: Shop) -> int:
    """Mend exported letters into copies of sales under names of their own; return how many."""
    exported = [json.loads(line) for line in letters.read_text().splitlines()]
    for number, letter in enumerate(exported):
        letter.pop("base64", None)
        letter["text"] = json.dumps(json.loads(truth.transactions[number].event()) | {"transaction_id": f"M-{number}"})
    letters.write_text("".join(json.dumps(letter) + "\n" for letter in exported))
    return len(exported)


def dead_letters(scenarios: Scenarios, command: str, *arguments: str) -> None:
    """Run ``python -m atlas.dead_letters`` as a user does."""
    where = ["--bucket", scenarios.lake, "--prefix", f"{STEM}/quarantine/"]
    if command == "replay":
        where += ["--stream", bootstrap.outputs_of(scenarios.client, STACK)["Stream"]]
    subprocess.run(
        [sys.executable, "-m", "atlas.dead_letters", command, *where, *arguments],
        env={**os.environ, "PYTHONPATH": str(layout.REPOSITORY / "plugins")},
        check=True,
    )


@contextmanager
def first_load_cancelled(scenarios: Scenarios) -> Iterator[list[str]]:
    """Hold the next load up, cancel it while it runs, let the following ones through; yields its statement's id."""
    from airflow.providers.amazon.aws.hooks.redshift_data import RedshiftDataHook

    client = RedshiftDataHook().conn  # a statement is its owner's, here Airflow's user
    endpoint = scenarios.client("redshift-serverless").get_workgroup(workgroupName=STACK)["workgroup"]["endpoint"]
    secret = scenarios.client("secretsmanager").get_secret_value(SecretId=admin_secret(scenarios))["SecretString"]
    admin = json.loads(secret)
    stopped, cancelled = threading.Event(), list[str]()

    def cancel() -> None:
        while not stopped.wait(0.1) and not cancelled:
            for statement in client.list_statements(Status="STARTED")["Statements"]:
                if statement.get("StatementName", "").startswith(f"{STEM}.load_warehouse."):
                    client.cancel_statement(Id=statement["Id"])
                    cancelled.append(statement["Id"])
        lock.rollback()

    with psycopg.connect(
        host=endpoint["address"],
        port=endpoint["port"],
        dbname="commerce",
        user=admin["username"],
        password=admin["password"],
        sslmode="require",
    ) as lock:
        lock.execute("LOCK TABLE arrived_lines IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=cancel)
        thread.start()
        try:
            yield cancelled
        finally:
            stopped.set()
            thread.join()


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


def test_its_roles_reach_nothing_of_others(scenarios: Scenarios, first: Run) -> None:
    assert list(isolation.breaches(scenarios, STEM)) == []


def test_nothing_is_left_when_the_stack_is_removed(scenarios: Scenarios, first: Run) -> None:
    run = scenarios.run(STEM, events=0, keep_stack=False)
    assert run.state == "success"
    tagged = scenarios.client("resourcegroupstaggingapi").get_resources(
        TagFilters=[{"Key": "atlas:scenario", "Values": [STEM]}]
    )
    assert tagged["ResourceTagMappingList"] == []
    with pytest.raises(scenarios.client("cloudformation").exceptions.ClientError, match="does not exist"):
        scenarios.client("cloudformation").describe_stacks(StackName=STACK)
