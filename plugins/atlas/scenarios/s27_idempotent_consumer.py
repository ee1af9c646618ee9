"""Idempotent consumers side by side: the same load for all of them, what came of it, what it cost."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowSkipException

from atlas.hooks.dynamodb import TableHook
from atlas.loadgen.captures import Load, generate, read_captures
from atlas.loadgen.disturb import Event, disturb
from atlas.loadgen.feed import Manifest
from atlas.loadgen.feed import feed as send
from atlas.loadgen.sinks import Sent, SqsSink
from atlas.scenarios import s27_idempotent_consumer_costs as costs

ROOT = "s27_idempotent_consumer"
STRATEGIES = ("natural", "powertools", "inbox")
CONTROL = "control"
REORDER = 20
"""How many places a message may fall back on its way; a standard queue adds to that."""
READS_AT_ONCE = 16
CLOCK_SLACK = timedelta(seconds=2)
"""S3 tells the time of an object in whole seconds."""

_logger = logging.getLogger(__name__)


class Queues:
    """Sends every event to each of several queues."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._sinks = [SqsSink(url) for url in urls]

    def send(self, events: Sequence[Event]) -> Sent:
        """Send ``events``; what is returned counts each once, and the retries of all queues."""
        return Sent(records=len(events), retried=sum(sink.send(events).retried for sink in self._sinks))


def feed(stack: dict[str, str], run_prefix: str, run_id: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send the payments to all queues, with duplicates and damaged copies among them; write down what is true.

    Returns:
        The manifest's address and counts; how many ``payments`` are to have an effect, are ``expired``, are ``forged``;
        ``repeated``: messages that come, or are to come, after the first one of a payment that is to have an effect.

    Raises:
        AirflowSkipException: no load is asked for.
        ValueError: the user's own file has a line that is no payment.
    """
    now = datetime.now(UTC)
    load = _load(run_id, params, now)
    if not load.first:
        raise AirflowSkipException("No load is asked for")
    truth: dict[str, Any] = {
        "payments": {capture.payment_id: capture.content for capture in load.first if capture.expires_at > now},
        "expired": {capture.payment_id: capture.content for capture in load.first if capture.expires_at <= now},
        "forged": sorted({capture.payment_id for capture in load.forged if capture.expires_at > now}),
    }
    s3 = S3Hook()
    _write(s3, f"{run_prefix}/truth.json", json.dumps(truth))
    events = list(
        disturb(
            (capture.event() for capture in load.first),
            params["seed"],
            duplicates=params["duplicates_percent"] / 100,
            malformed=params["malformed_percent"] / 100,
            reorder=REORDER,
        )
    )
    events += [capture.event(duplicate=True) for capture in load.repeats]
    again = [event.id for event in events if event.duplicate] + truth["forged"]
    totals = {name: len(payments) for name, payments in truth.items()}
    totals["repeated"] = sum(payment_id in truth["payments"] for payment_id in again)
    manifest = send(events, _queues(stack, params), truth=totals, rate=params["rate"])
    return manifest.store(s3, f"{run_prefix}/feed.json") | totals


def forge(stack: dict[str, str], run_prefix: str, run_id: str, params: dict[str, Any]) -> dict[str, Any]:
    """Send messages of payments that have been taken, with other amounts; returns the manifest's address and counts."""
    forged = [capture.event() for capture in _load(run_id, params, datetime.now(UTC)).forged]
    manifest = send(forged, _queues(stack, params), truth={}, rate=params["rate"])
    return manifest.store(S3Hook(), f"{run_prefix}/forged.json")


def measure(lake: str, stack: dict[str, str], run_prefix: str, params: dict[str, Any]) -> dict[str, Any]:
    """Compare what each consumer did with what is true, and add up what it cost.

    Writes ``effects.csv``, ``costs.csv``, ``units.csv`` and ``times.csv`` below ``run_prefix``, for the report.

    Returns:
        ``measures`` (name to number) and ``violations`` (rows under the measure's name) for the gate;
        ``cost``: strategy to US dollars of DynamoDB per million messages.
    """
    s3 = S3Hook()
    manifest = Manifest.load(s3, f"{run_prefix}/feed.json")
    truth = json.loads(_read(s3, f"{run_prefix}/truth.json"))
    since = manifest.started_at - CLOCK_SLACK
    measures: dict[str, int] = {}
    violations: list[dict[str, str]] = []
    effects: list[dict[str, Any]] = []
    taken: dict[str, list[costs.Taken]] = {}
    for arm in _arms(params):
        ledger = Ledger(arm, TableHook(stack[f"{arm}Ledger"]), truth)
        share = round(ledger.effects / max(1, len(truth["payments"])), 4)
        effects.append({"strategy": costs.NAMES[arm], "effects": ledger.effects, "effects per payment": share})
        lines = [line for text in _objects(s3, lake, f"measures/{arm}", since) for line in text.splitlines()]
        taken[arm] = [costs.Taken(**json.loads(line)) for line in lines]
        if arm == CONTROL:
            measures["control_excess"] = ledger.effects - len(truth["payments"])
            continue
        letters = [json.loads(text) for text in _objects(s3, lake, f"quarantine/{arm}", since)]
        missing = not_quarantined(letters, truth, manifest.malformed)
        measures |= ledger.measures() | {f"{arm}_quarantine_difference": missing}
        violations += ledger.violations()
    table = costs.table(taken)
    content = {"effects": effects, "costs": table, "units": costs.units(table), "times": costs.times(taken)}
    for name, rows in content.items():
        _write(s3, f"{run_prefix}/{name}.csv", _csv(rows))
    _logger.info("What a message costs, by strategy:\n%s", costs.text(table))
    return {"measures": measures, "violations": violations, "cost": costs.totals(table)}


class Ledger:
    """What a consumer's table holds of a load, beside what it should hold."""

    def __init__(self, arm: str, table: TableHook, truth: Mapping[str, Any]) -> None:
        self._arm = arm
        self._payments: dict[str, list[str]] = truth["payments"]
        expected: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for account, amount, currency in self._payments.values():
            expected[account, currency] += Decimal(amount)
        for account, _, currency in truth["expired"].values():
            expected[account, currency] += 0
        ids = [*self._payments, *truth["expired"]]
        receipts = table.get_all([{"pk": f"receipt#{payment_id}", "sk": "receipt"} for payment_id in ids])
        self._receipts = {item["pk"].removeprefix("receipt#"): item for item in receipts}
        self._late = [payment_id for payment_id in truth["expired"] if payment_id in self._receipts]
        keys = [{"pk": f"account#{account}", "sk": f"balance#{currency}"} for account, currency in expected]
        balances = {(item["pk"], item["sk"]): item for item in table.get_all(keys)}
        self.effects = sum(int(item["captures"]) for item in balances.values())
        found = [balances.get((key["pk"], key["sk"]), {}).get("balance", Decimal(0)) for key in keys]
        self._balances = list(zip(expected, expected.values(), found, strict=True))

    def measures(self) -> dict[str, int]:
        """Return the gate's measures: all zero when every payment had its effect once and nothing else had any."""
        difference = sum((abs(found - expected) for _, expected, found in self._balances), Decimal(0))
        return {
            f"{self._arm}_effects_difference": abs(self.effects - len(self._payments)),
            f"{self._arm}_balance_difference": int(100 * difference),
            f"{self._arm}_wrong_receipts": len(self._wrong_receipts()),
            f"{self._arm}_expired_effects": len(self._late),
        }

    def violations(self) -> list[dict[str, str]]:
        """Return the accounts and payments that are wrong, each under the measure that counts it."""
        wrong = [
            ("balance_difference", " ".join(account), str(expected), str(found))
            for account, expected, found in self._balances
            if expected != found
        ]
        wrong += [
            ("wrong_receipts", name, " ".join(self._payments[name]), " ".join(self._receipt(name) or ["nothing"]))
            for name in self._wrong_receipts()
        ]
        wrong += [("expired_effects", name, "nothing", " ".join(self._receipt(name) or [])) for name in self._late]
        return [
            {"rule": f"{self._arm}_{rule}", "what": what, "expected": expected, "found": found}
            for rule, what, expected, found in wrong
        ]

    def _wrong_receipts(self) -> list[str]:
        return [name for name, content in self._payments.items() if self._receipt(name) != content]

    def _receipt(self, payment_id: str) -> list[str] | None:
        if payment_id not in self._receipts:
            return None
        receipt = self._receipts[payment_id]
        return [receipt["account"], f"{receipt['amount']:.2f}", receipt["currency"]]


def not_quarantined(letters: Sequence[Mapping[str, Any]], truth: Mapping[str, Any], malformed: int) -> int:
    """Return by how many messages the quarantine differs from what should be in it.

    Expired and forged payments are told by their ids, however often they came; damaged messages can only be counted,
    and there may be more of them than the manifest says if the feed had to be run again.
    """
    found: dict[str, set[str]] = {"expired": set(), "tampered": set()}
    others = 0
    for letter in letters:
        if letter["reason"] in found:
            found[letter["reason"]].add(json.loads(base64.b64decode(letter["data"]))["payment_id"])
        else:
            others += 1
    differences = found["expired"] ^ set(truth["expired"]), found["tampered"] ^ set(truth["forged"])
    return sum(map(len, differences)) + max(0, malformed - others)


def _load(run_id: str, params: Mapping[str, Any], now: datetime) -> Load:
    """Return the same payments each time a run asks for them, and never those of another run."""
    label = f"{params['seed']}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
    if params["source_uri"]:
        return read_captures(_read(S3Hook(), params["source_uri"]).encode().splitlines(), label, now)
    expired, forged = params["expired_percent"] / 100, params["forged_percent"] / 100
    return generate(params["seed"], params["events"], expired, forged, label, now)


def _arms(params: Mapping[str, Any]) -> tuple[str, ...]:
    return (*STRATEGIES, CONTROL) if params["control"] else STRATEGIES


def _queues(stack: Mapping[str, str], params: Mapping[str, Any]) -> Queues:
    return Queues([stack[f"{arm}Queue"] for arm in _arms(params)])


def _objects(s3: S3Hook, lake: str, prefix: str, since: datetime) -> list[str]:
    """Return the texts of the scenario's objects below ``prefix`` that were written after ``since``."""
    keys = s3.list_keys(lake, f"{ROOT}/{prefix}/", from_datetime=since)
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return list(pool.map(lambda key: s3.read_key(key, lake), keys))


def _read(s3: S3Hook, address: str) -> str:
    bucket, key = S3Hook.parse_s3_url(address)
    text: str = s3.read_key(key, bucket)
    return text


def _write(s3: S3Hook, address: str, text: str) -> None:
    bucket, key = S3Hook.parse_s3_url(address)
    s3.load_string(text, key, bucket, replace=True)


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
