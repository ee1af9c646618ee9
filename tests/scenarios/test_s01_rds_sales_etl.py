"""s01 from end to end: what docs and design promise of it, each line a test.

The tests tell one story in one lake, in this order: first load, nothing new, a late change, the same interval again,
a missing permission, bad data, which ends with the stack removed; then, on a new stack, the user's own data and damaged
files.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from atlas.loadgen.retail import Retail, generate
from local.launcher import layout
from local.runner import Run, Scenarios
from tests.scenarios import isolation

STEM = "s01_rds_sales_etl"
STACK = "atlas-dev-s01-rds-sales-etl"
RETAIL = layout.REPOSITORY.parent / "shared" / "data" / "retail"
FULL = os.environ.get("ATLAS_TEST_SIZE") == "full"
ORDERS, SEED = (20_000 if FULL else 400), 7
RETAIL_DAYS = 20 if FULL else 4


@pytest.fixture(scope="module")
def truth() -> Retail:
    return generate(SEED, ORDERS)


@pytest.fixture(scope="module")
def first(scenarios: Scenarios) -> Run:
    return scenarios.run(STEM, orders=ORDERS, seed=SEED, keep_stack=True, rows_per_range=1200)


@contextmanager
def source(scenarios: Scenarios) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the sales source, as its owner."""
    (instance,) = scenarios.client("rds").describe_db_instances(DBInstanceIdentifier=f"{STACK}-source")["DBInstances"]
    secret = scenarios.client("secretsmanager").get_secret_value(SecretId=instance["MasterUserSecret"]["SecretArn"])
    endpoint, owner = instance["Endpoint"], json.loads(secret["SecretString"])
    with psycopg.connect(
        host=endpoint["Address"],
        port=endpoint["Port"],
        dbname="sales",
        user=owner["username"],
        password=owner["password"],
        sslmode="require",
        autocommit=True,
    ) as connection:
        yield connection


@pytest.fixture(scope="module")
def notices(scenarios: Scenarios, first: Run) -> str:
    """The address of a queue that gets what is announced."""
    sqs, sns = scenarios.client("sqs"), scenarios.client("sns")
    queue: str = sqs.create_queue(QueueName="s01-notices")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allow = {"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": arn}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": policy})
    (topic,) = [topic["TopicArn"] for topic in sns.list_topics()["Topics"] if "atlas-dev" in topic["TopicArn"]]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return queue


def subjects(scenarios: Scenarios, queue: str) -> list[str]:
    """Take the notices out of ``queue`` and return their subjects."""
    sqs = scenarios.client("sqs")
    messages = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
    for message in messages:
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return [json.loads(message["Body"])["Subject"] for message in messages]


def published_lines(scenarios: Scenarios) -> list[tuple[str, ...]]:
    """All published lines with all their columns, in an order of their own."""
    return sorted(tuple(row.values()) for row in scenarios.query("SELECT * FROM s01_published_sales_lines"))


def test_the_first_load_is_published_to_the_cent(scenarios: Scenarios, first: Run, truth: Retail) -> None:
    assert first.state == "success"
    assert first.gate["passed"]
    (row,) = scenarios.query(
        "SELECT count(*) AS lines, count(DISTINCT invoice_no) AS orders, sum(amount) AS net_sales "
        "FROM s01_published_sales_lines"
    )
    assert (int(row["lines"]), int(row["orders"])) == (truth.lines, truth.orders)
    assert Decimal(row["net_sales"]) == truth.net_sales
    for table in ("daily_sales", "weekly_sales"):
        (total,) = scenarios.query(f"SELECT sum(net_sales) AS net_sales FROM s01_published_{table}")
        assert Decimal(total["net_sales"]) == truth.net_sales


def test_it_was_extracted_in_several_ranges(scenarios: Scenarios, first: Run, truth: Retail) -> None:
    ranges = {key.split("/range=")[1][0] for key in scenarios.objects(f"{STEM}/raw/order_items/")}
    assert len(ranges) == min(4, -(-truth.lines // 1200)) > 1


def test_segments_cover_each_known_customer_once(scenarios: Scenarios, first: Run) -> None:
    (row,) = scenarios.query(
        "SELECT count(*) AS n, count(DISTINCT customer_id) AS customers, count(DISTINCT segment) AS segments "
        "FROM s01_published_customer_segments"
    )
    (lines,) = scenarios.query(
        "SELECT count(DISTINCT customer_id) AS customers FROM s01_published_sales_lines WHERE NOT is_return"
    )
    assert row["n"] == row["customers"] == lines["customers"]
    assert int(row["segments"]) >= 4


def test_a_second_run_has_nothing_to_do(scenarios: Scenarios, first: Run, notices: str) -> None:
    before = scenarios.objects(f"{STEM}/published/")
    again = scenarios.run(STEM, orders=ORDERS, seed=SEED, keep_stack=True)
    assert again.state == "success"
    assert again.fact("Rows changed in the source") == "0"
    assert again.fact("Orders extracted") == "0"
    assert again.tasks["transform"] == {"skipped"}
    assert scenarios.objects(f"{STEM}/published/") == before
    assert [subject for subject in subjects(scenarios, notices) if "SUCCESS" in subject.upper()]


def test_the_readers_password_is_rotated(scenarios: Scenarios, first: Run) -> None:
    """Runs that follow read with the new one."""
    secrets = scenarios.client("secretsmanager")
    before = secrets.get_secret_value(SecretId=f"{STACK}-reader")["VersionId"]
    version = secrets.rotate_secret(SecretId=f"{STACK}-reader")["VersionId"]
    deadline = time.monotonic() + 30
    while secrets.get_secret_value(SecretId=f"{STACK}-reader")["VersionId"] == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert secrets.get_secret_value(SecretId=f"{STACK}-reader")["VersionId"] == version


@pytest.fixture(scope="module")
def late_change(scenarios: Scenarios, notices: str) -> tuple[Run, str, dict[str, str], dict[str, str]]:
    """One line of an old order gets one more piece: the run that notices, the day, the objects before and after."""
    with source(scenarios) as database:
        row = database.execute(
            "UPDATE order_items SET quantity = quantity + 1 WHERE (invoice_no, line_no) = "
            "(SELECT invoice_no, line_no FROM order_items WHERE quantity > 0 ORDER BY invoice_no, line_no LIMIT 1) "
            "RETURNING (SELECT ordered_at::date::text FROM orders o WHERE o.invoice_no = order_items.invoice_no)"
        ).fetchone()
    assert row is not None
    before = scenarios.objects(f"{STEM}/published/sales_lines/")
    run = scenarios.run(STEM, orders=0, keep_stack=True)
    return run, row[0], before, scenarios.objects(f"{STEM}/published/sales_lines/")


def test_a_late_change_rebuilds_its_day_and_no_other(
    scenarios: Scenarios, late_change: tuple[Run, str, dict[str, str], dict[str, str]], truth: Retail
) -> None:
    run, day, before, after = late_change
    assert run.state == "success"
    assert run.fact("Orders extracted") == "1"
    assert before.keys() == after.keys()
    assert {key for key in after if before[key] != after[key]} == {
        f"{STEM}/published/sales_lines/order_date={day}/part-00000.parquet"
    }
    (row,) = scenarios.query("SELECT count(*) AS lines, sum(amount) AS net_sales FROM s01_published_sales_lines")
    assert int(row["lines"]) == truth.lines
    assert Decimal(row["net_sales"]) > truth.net_sales


def test_running_an_interval_again_leaves_the_same(
    scenarios: Scenarios, late_change: tuple[Run, str, dict[str, str], dict[str, str]]
) -> None:
    start, end = late_change[0].report["interval"].split(" to ")
    before, objects = published_lines(scenarios), scenarios.objects(f"{STEM}/published/").keys()
    schema = scenarios.query("SHOW COLUMNS IN s01_published_sales_lines")
    again = scenarios.run(STEM, orders=0, keep_stack=True, interval_start=start, interval_end=end)
    assert again.state == "success"
    assert again.fact("Orders extracted") == "1"
    assert published_lines(scenarios) == before
    assert scenarios.objects(f"{STEM}/published/").keys() == objects
    assert scenarios.query("SHOW COLUMNS IN s01_published_sales_lines") == schema


def test_a_missing_permission_fails_the_run(scenarios: Scenarios, first: Run, notices: str) -> None:
    iam = scenarios.client("iam")
    name = {"RoleName": f"{STACK}-plan-extraction", "PolicyName": "plan-extraction"}
    policy = iam.get_role_policy(**name)["PolicyDocument"]
    narrower = {**policy, "Statement": [s for s in policy["Statement"] if s["Sid"] != "Secret"]}
    assert len(narrower["Statement"]) == len(policy["Statement"]) - 1
    iam.put_role_policy(**name, PolicyDocument=json.dumps(narrower))
    subjects(scenarios, notices)
    run = scenarios.run(STEM, orders=0, keep_stack=True)
    assert run.state == "failed"
    assert run.tasks["plan_extraction"] == {"failed"}
    assert run.tasks["extract"] == {"upstream_failed"}
    assert [subject for subject in subjects(scenarios, notices) if "FAILED" in subject.upper()]
    iam.put_role_policy(**name, PolicyDocument=json.dumps(policy))


def test_its_roles_reach_nothing_of_others(scenarios: Scenarios, first: Run) -> None:
    assert list(isolation.breaches(scenarios, STEM)) == []


def test_bad_rows_block_publication_and_are_named(scenarios: Scenarios, first: Run, notices: str) -> None:
    subjects(scenarios, notices)
    before = scenarios.objects(f"{STEM}/published/")
    state = scenarios.objects(f"{STEM}/state/")
    run = scenarios.run(STEM, orders=20, seed=8, faults="bad_rows", keep_stack=False)
    assert run.state == "failed"
    assert run.tasks["quality_gate"] == {"failed"}
    assert run.tasks["publish"] == {"upstream_failed"}
    assert run.tasks["remove_stack"] == run.tasks["report"] == run.tasks["notify"] == {"success"}
    assert not run.gate["passed"]
    samples = {(row["rule"], row["invoice_no"]) for row in run.gate["samples"]}
    assert samples == {
        ("negative_prices", "BAD0081"),
        ("lines_without_customer", "BAD0082"),
        ("future_lines", "BAD0083"),
    }
    assert scenarios.objects(f"{STEM}/published/") == before
    assert scenarios.objects(f"{STEM}/state/") == state
    assert [subject for subject in subjects(scenarios, notices) if "FAILED" in subject.upper()]


def test_the_failed_run_has_removed_the_stack(scenarios: Scenarios, first: Run) -> None:
    """Follows the bad rows, whose run was not to keep the stack."""
    tagged = scenarios.client("resourcegroupstaggingapi").get_resources(
        TagFilters=[{"Key": "atlas:scenario", "Values": [STEM]}]
    )["ResourceTagMappingList"]
    assert [resource["ResourceARN"] for resource in tagged] == []
    assert scenarios.client("rds").describe_db_instances()["DBInstances"] == []


@pytest.fixture(scope="module")
def own_files(scenarios: Scenarios, first: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The user's own files, real and damaged, loaded on a new stack, whose tables find what was published before."""
    folder = tmp_path_factory.mktemp("own-files")
    header = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
    good = "".join(f"T{n:04d},21000,GREEN MUG,1,2010-11-30 09:00:00,1.25,,United Kingdom\n" for n in range(5000))
    packed = gzip.compress((header + good).encode())
    (folder / "truncated.csv.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "header.csv").write_text("Invoice;Stock;Price\n1;2;3\n")
    (folder / "junk.csv").write_bytes(bytes(range(256)) * 40)
    (folder / "prices.csv").write_text(
        header
        + "P1,21000,GREEN MUG,1,2010-11-30 09:00:00,1.25,,United Kingdom\n"
        + "P2,21000,GREEN MUG,1,2010-11-30 09:00:00,-1.25,,United Kingdom\n"
    )
    for file in (*folder.iterdir(), *retail_days()):
        scenarios.client("s3").put_object(Bucket=scenarios.lake, Key=f"uploads/s01/{file.name}", Body=file.read_bytes())
    source_uri = f"s3://{scenarios.lake}/uploads/s01/"
    return scenarios.run(STEM, source_uri=source_uri, max_rejected_percent=0, keep_stack=True)


def retail_days() -> list[Path]:
    """Return the files of real trading days, none where there are none."""
    return sorted(RETAIL.glob("*.csv.gz"))[:RETAIL_DAYS]


def test_damaged_files_are_set_aside_with_line_and_reason(scenarios: Scenarios, own_files: Run) -> None:
    assert own_files.state == "failed"
    assert own_files.tasks["check_load"] == {"failed"}
    assert own_files.tasks["publish"] == {"success"}
    quarantine = {
        key.rsplit("/", 1)[-1]: list(csv.DictReader(scenarios.read(key).splitlines()))
        for key in scenarios.objects(f"{STEM}/quarantine/")
    }
    assert len(quarantine) == 4
    (cut,) = quarantine["truncated.csv.gz.rejected.csv"]
    kept = int(cut["line"]) - 2
    assert 0 < kept < 5000
    assert "damaged" in cut["reason"]
    assert "unknown header" in quarantine["header.csv.rejected.csv"][0]["reason"]
    assert "unknown header" in quarantine["junk.csv.rejected.csv"][0]["reason"]
    (price,) = quarantine["prices.csv.rejected.csv"]
    assert (price["line"], price["reason"]) == ("3", "UnitPrice is negative: -1.25")
    (row,) = scenarios.query(
        "SELECT count_if(source_file = 'truncated.csv.gz') AS kept, count_if(source_file = 'prices.csv') AS priced "
        "FROM s01_published_sales_lines"
    )
    assert (int(row["kept"]), row["priced"]) == (kept, "1")


@pytest.mark.skipif(not RETAIL.is_dir(), reason=f"the UCI retail days are not at {RETAIL}")
def test_real_retail_days_equal_independent_sums(scenarios: Scenarios, own_files: Run) -> None:
    """Whatever is wrong with the files beside them."""
    assert own_files.gate["passed"]
    files = retail_days()
    lines, total, without_customer, returns = 0, Decimal(0), 0, Decimal(0)
    for file in files:
        with gzip.open(file, "rt") as text:
            for row in csv.DictReader(text):
                amount = int(row["Quantity"]) * Decimal(row["UnitPrice"])
                lines, total = lines + 1, total + amount
                without_customer += not row["CustomerID"]
                returns += min(amount, Decimal(0))
    assert len(files) == RETAIL_DAYS
    (lake,) = scenarios.query(
        "SELECT count(*) AS lines, sum(amount) AS total, count_if(customer_id IS NULL) AS without_customer, "
        "sum(IF(is_return, amount, 0)) AS returns FROM s01_published_sales_lines WHERE source_file LIKE '2010-12-%'"
    )
    assert (int(lake["lines"]), Decimal(lake["total"])) == (lines, total)
    assert (int(lake["without_customer"]), Decimal(lake["returns"])) == (without_customer, returns)
    with source(scenarios) as database:
        in_database = database.execute(
            "SELECT count(*), sum(quantity * unit_price) FROM order_items JOIN orders USING (invoice_no) "
            "WHERE source_file LIKE '2010-12-%'"
        ).fetchone()
    assert in_database == (lines, total)
