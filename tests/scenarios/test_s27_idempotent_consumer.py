"""s27 from end to end: what docs and design promise of it, each line a test.

The tests tell one story: a load with duplicates, forgeries, expired and damaged messages and crashing functions; what
was set aside is mended and sent again; a consumer that forgets its strategy is found out, and that run removes the
stack; a load beyond the budget does not bring it back.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from local.launcher import layout
from local.runner import Run, Scenarios
from tests.scenarios import isolation

STEM = "s27_idempotent_consumer"
STACK = "atlas-dev-s27-idempotent-consumer"
STRATEGIES = ("natural", "powertools", "inbox")
CONSUMERS = (*STRATEGIES, "control")
EVENTS = 2000 if os.environ.get("ATLAS_TEST_SIZE") == "full" else 100
LOAD = {
    "events": EVENTS,
    "seed": 7,
    "duplicates_percent": 30,
    "malformed_percent": 2,
    "expired_percent": 5,
    "forged_percent": 5,
    "crash_percent": 12,
    "visibility_seconds": 6,
}


@pytest.fixture(scope="module")
def first(scenarios: Scenarios) -> Run:
    return scenarios.run(STEM, **LOAD, keep_stack=True)


@pytest.fixture(scope="module")
def truth(scenarios: Scenarios, first: Run) -> dict[str, Any]:
    """What the feed knows to be true."""
    found: dict[str, Any] = json.loads(scenarios.read(f"{STEM}/runs/{first.run_id}/truth.json"))
    return found


def item(scenarios: Scenarios, strategy: str, pk: str, sk: str) -> dict[str, Any]:
    """Return an item of a strategy's ledger, as the low-level API gives it; nothing if there is none."""
    key = {"pk": {"S": pk}, "sk": {"S": sk}}
    found: dict[str, Any] = (
        scenarios.client("dynamodb").get_item(TableName=f"{STACK}-{strategy}-ledger", Key=key).get("Item", {})
    )
    return found


def log(scenarios: Scenarios, strategy: str) -> str:
    """Return what a function logged."""
    logs = scenarios.client("logs")
    group = f"/aws/lambda/{STACK}-{strategy}"
    pages = logs.get_paginator("filter_log_events").paginate(logGroupName=group)
    return "".join(event["message"] for page in pages for event in page["events"])


def letters(scenarios: Scenarios, strategy: str) -> list[dict[str, Any]]:
    """Return what lies in quarantine."""
    keys = scenarios.objects(f"{STEM}/quarantine/{strategy}/")
    found = [json.loads(scenarios.read(key)) for key in keys]
    return [{**letter, "data": base64.b64decode(letter["data"]).decode("utf-8", "replace")} for letter in found]


def rows(run: Run, title: str) -> list[dict[str, str]]:
    """Return a table of the report."""
    (table,) = [table for table in run.report["tables"] if table["title"].startswith(title)]
    found: list[dict[str, str]] = table["rows"]
    return found


def test_the_load_is_judged_and_reported(first: Run) -> None:
    assert first.state == "success"
    assert first.tasks["remove_stack"] == {"skipped"}
    assert (first.gate["passed"], first.gate["evaluated"]) == (True, 16)
    assert int(first.fact("Sent twice")) > 0.15 * EVENTS
    assert min(int(first.fact(name)) for name in ("Expired", "Forged", "Damaged")) > 0


def test_functions_have_crashed_after_their_effects(scenarios: Scenarios, first: Run) -> None:
    assert "Rehearsed crash" in "".join(log(scenarios, consumer) for consumer in CONSUMERS)


def test_effects_are_as_many_as_payments(scenarios: Scenarios, first: Run, truth: dict[str, Any]) -> None:
    """Counted in the tables themselves, not by the DAG's own task."""
    expected: dict[tuple[str, str], list[Decimal]] = {}
    for account, amount, currency in truth["payments"].values():
        expected.setdefault((account, currency), []).append(Decimal(amount))
    assert sum(map(len, expected.values())) == int(first.fact("Payments")) > 0.8 * EVENTS
    for strategy in STRATEGIES:
        for (account, currency), amounts in expected.items():
            balance = item(scenarios, strategy, f"account#{account}", f"balance#{currency}")
            assert Decimal(balance["balance"]["N"]) == sum(amounts)
            assert int(balance["captures"]["N"]) == len(amounts)


def test_without_idempotency_the_same_load_has_too_many_effects(first: Run) -> None:
    too_many = int(first.fact("Effects too many without idempotency"))

    assert too_many >= int(first.fact("Sent twice")) * 0.8 + int(first.fact("Forged"))


def test_expired_and_forged_payments_have_no_effect(scenarios: Scenarios, truth: dict[str, Any]) -> None:
    for strategy in STRATEGIES:
        for payment_id in truth["expired"]:
            assert item(scenarios, strategy, f"receipt#{payment_id}", "receipt") == {}
        for payment_id in truth["forged"]:
            receipt = item(scenarios, strategy, f"receipt#{payment_id}", "receipt")
            assert Decimal(receipt["amount"]["N"]) == Decimal(truth["payments"][payment_id][1])


def test_what_had_no_effect_is_set_aside_with_its_reason(
    scenarios: Scenarios, first: Run, truth: dict[str, Any]
) -> None:
    for strategy in STRATEGIES:
        found: dict[str, set[str]] = {"expired": set(), "tampered": set()}
        damaged = [letter for letter in letters(scenarios, strategy) if letter["reason"] not in found]
        for letter in letters(scenarios, strategy):
            if letter["reason"] in found:
                found[letter["reason"]].add(json.loads(letter["data"])["payment_id"])
        assert found == {"expired": set(truth["expired"]), "tampered": set(truth["forged"])}
        assert len(damaged) == int(first.fact("Damaged"))
        assert all(letter["source"] == f"{STACK}-{strategy}" for letter in damaged)


def test_two_batches_are_consumed_at_once(scenarios: Scenarios, first: Run) -> None:
    mappings = scenarios.client("lambda").list_event_source_mappings()["EventSourceMappings"]

    settings = [(m["ScalingConfig"], m["FunctionResponseTypes"]) for m in mappings if STACK in m["FunctionArn"]]
    assert settings == [({"MaximumConcurrency": 2}, ["ReportBatchItemFailures"])] * 4


def test_the_table_of_costs(first: Run) -> None:
    """Requests and write units of a first delivery, and write units of a duplicate."""
    costs = {(row["Strategy"], row["Message"]): row for row in rows(first, "What a message costs")}

    def of(strategy: str, kind: str, unit: str) -> Decimal:
        return Decimal(costs[strategy, kind][unit])

    for strategy, requests, units in (("natural key", 1, 4), ("Powertools", 3, 6), ("inbox", 1, 6)):
        # A transaction that conflicts with another is tried again; one that is known by its token costs reads instead.
        assert requests <= of(strategy, "first delivery", "Requests") < requests + 1
        assert units - 1 < of(strategy, "first delivery", "Write units") < units + 1
        assert 0 < of(strategy, "all", "p50 (ms)") <= of(strategy, "all", "p99 (ms)")
    assert of("Powertools", "duplicate", "Write units") < of("natural key", "duplicate", "Write units")
    assert of("natural key", "all", "USD per million") < of("inbox", "all", "USD per million")
    assert of("none (control)", "all", "Write units") == 4


def test_every_chart_is_drawn(scenarios: Scenarios, first: Run) -> None:
    page = scenarios.read(f"{STEM}/runs/{first.run_id}/report.html")

    assert page.count("<svg") == 3
    assert "Not available" not in page


def test_mended_letters_are_replayed(scenarios: Scenarios, truth: dict[str, Any], tmp_path: Path) -> None:
    """Expired payments get more time; their effect is there once, however often they are sent again."""
    file = tmp_path / "letters.jsonl"
    prefix = f"{STEM}/quarantine/inbox/"
    dead_letters("export", scenarios, "--prefix", prefix, "--reason", "expired", "--file", str(file))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    exported = [json.loads(line) for line in file.read_text().splitlines()]
    for letter in exported:
        letter["text"] = json.dumps(json.loads(letter["text"]) | {"expires_at": tomorrow})
    file.write_text("".join(f"{json.dumps(letter)}\n" for letter in exported))
    queue = scenarios.client("sqs").get_queue_url(QueueName=f"{STACK}-inbox")["QueueUrl"]

    dead_letters("replay", scenarios, "--prefix", prefix, "--file", str(file), "--queue", queue)

    def receipts() -> list[str]:
        return [name for name in truth["expired"] if item(scenarios, "inbox", f"receipt#{name}", "receipt")]

    wait_for(lambda: receipts() == list(truth["expired"]))
    assert not [letter for letter in letters(scenarios, "inbox") if letter["reason"] == "expired"]


def test_its_roles_reach_nothing_of_others(scenarios: Scenarios, first: Run) -> None:
    assert list(isolation.breaches(scenarios, STEM)) == []


def test_a_consumer_without_its_strategy_is_found_out(scenarios: Scenarios, first: Run) -> None:
    run = scenarios.run(STEM, events=30, seed=8, duplicates_percent=50, faults="forgetful_consumer", keep_stack=False)

    assert run.state == "failed"
    assert run.tasks["quality_gate"] == {"failed"}
    assert run.tasks["remove_stack"] == run.tasks["report"] == run.tasks["notify"] == {"success"}
    assert {name.partition("_")[0] for name in run.gate["failed"]} == {"natural"}
    assert {"natural_effects_difference", "natural_balance_difference"} <= set(run.gate["failed"])
    assert {sample["rule"] for sample in run.gate["samples"]} <= set(run.gate["failed"])
    assert run.gate["samples"]


def test_the_failed_run_has_removed_the_stack(scenarios: Scenarios, first: Run) -> None:
    """Follows the run before, which was not to keep the stack."""
    tagged = scenarios.client("resourcegroupstaggingapi").get_resources(
        TagFilters=[{"Key": "atlas:scenario", "Values": [STEM]}]
    )["ResourceTagMappingList"]
    assert [resource["ResourceARN"] for resource in tagged] == []
    assert not [name for name in scenarios.client("dynamodb").list_tables()["TableNames"] if STACK in name]
    assert not scenarios.client("sqs").list_queues(QueueNamePrefix=STACK).get("QueueUrls")


def test_a_load_beyond_the_budget_is_refused_before_there_is_a_stack(scenarios: Scenarios, first: Run) -> None:
    """Follows the run that has removed the stack."""
    run = scenarios.run(STEM, events=20_000, budget_usd=0.25)

    assert run.state == "failed"
    assert (run.tasks["check_budget"], run.tasks["deploy_stack"]) == ({"failed"}, {"upstream_failed"})
    assert run.tasks["report"] == run.tasks["notify"] == {"success"}
    assert run.fact("Estimated cost").startswith("Refused: 0.46 USD for 26800 events ")
    assert "check_budget: failed" in run.report["shortfalls"]
    stacks = scenarios.client("cloudformation").describe_stacks()["Stacks"]
    assert [stack["StackName"] for stack in stacks if stack["StackName"] == STACK] == []


def dead_letters(command: str, scenarios: Scenarios, *arguments: str) -> None:
    """Run the command line as a person would."""
    environment = {**os.environ, "PYTHONPATH": str(layout.REPOSITORY / "plugins")}
    call = [sys.executable, "-m", "atlas.dead_letters", command, "--bucket", scenarios.lake, *arguments]
    subprocess.run(call, check=True, env=environment, cwd=layout.REPOSITORY, timeout=60)


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.2)
