"""The glue code of s27: feeding all queues, telling what is wrong, adding up what it cost."""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowSkipException

from atlas.loadgen.disturb import Event
from atlas.loadgen.feed import Manifest
from atlas.loadgen.sinks import Sent
from atlas.scenarios import s27_idempotent_consumer as scenario
from atlas.scenarios import s27_idempotent_consumer_costs as costs

LAKE = "lake"
RUN = "s3://lake/s27_idempotent_consumer/runs/one"
PARAMS = {
    "events": 40,
    "seed": 7,
    "source_uri": None,
    "rate": None,
    "duplicates_percent": 50,
    "malformed_percent": 10,
    "expired_percent": 20,
    "forged_percent": 30,
    "control": True,
}
ARMS = ("natural", "powertools", "inbox", "control")
STACK = {f"{arm}{what}": f"{arm}-{what}" for arm in ARMS for what in ("Queue", "Ledger")}
CHEAP = {"outcome": "applied", "milliseconds": 1.0, "requests": 1, "read_units": 0.0, "write_units": 4.0}


class Hook:
    """Airflow's S3 hook over a bucket in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, str] = {}

    def load_string(self, text: str, key: str, bucket: str, replace: bool) -> None:
        assert (bucket, replace) == (LAKE, True)
        self.objects[key] = text

    def read_key(self, key: str, bucket: str) -> str:
        assert bucket == LAKE
        return self.objects[key]

    def list_keys(self, bucket: str, prefix: str, from_datetime: datetime) -> list[str]:
        assert bucket == LAKE
        assert from_datetime < datetime.now(UTC)
        return [key for key in self.objects if key.startswith(prefix)]

    def rows(self, name: str) -> list[dict[str, str]]:
        """Return a CSV object of the run."""
        key = RUN.removeprefix(f"s3://{LAKE}/")
        return list(csv.DictReader(io.StringIO(self.objects[f"{key}/{name}.csv"])))


class World:
    """The lake, the queues and the ledgers."""

    def __init__(self) -> None:
        self.lake = Hook()
        self.queues: dict[str, list[Event]] = {}
        self.ledgers: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}

    def capture(self, arm: str, payment_id: str, account: str, amount: str, currency: str) -> None:
        """Have the effect of a payment."""
        ledger = self.ledgers.setdefault(f"{arm}-Ledger", {})
        content = {"account": account, "amount": Decimal(amount), "currency": currency}
        ledger[f"receipt#{payment_id}", "receipt"] = content
        balance = ledger.setdefault(
            (f"account#{account}", f"balance#{currency}"), {"balance": Decimal(0), "captures": Decimal(0)}
        )
        balance["balance"] += Decimal(amount)
        balance["captures"] += 1

    @property
    def truth(self) -> dict[str, Any]:
        """What the feed wrote down."""
        found: dict[str, Any] = json.loads(self.lake.objects["s27_idempotent_consumer/runs/one/truth.json"])
        return found

    def work(self, *arms: str) -> None:
        """Do what the consumers should do, and write down measures and quarantine."""
        for arm in arms:
            for payment_id, content in self.truth["payments"].items():
                self.capture(arm, payment_id, *content)
            self.lake.objects[f"{scenario.ROOT}/measures/{arm}/one.jsonl"] = json.dumps(CHEAP)
            self.set_aside(arm, "expired", self.truth["expired"])
            self.set_aside(arm, "tampered", self.truth["forged"])
            self.set_aside(arm, "no JSON", range(4))

    def set_aside(self, arm: str, reason: str, payment_ids: Iterable[Any]) -> None:
        """Put letters into quarantine."""
        for number, payment_id in enumerate(payment_ids):
            data = base64.b64encode(json.dumps({"payment_id": payment_id}).encode()).decode()
            key = f"{scenario.ROOT}/quarantine/{arm}/{reason}-{number}.json"
            self.lake.objects[key] = json.dumps({"reason": reason, "data": data})

    def measure(self) -> dict[str, Any]:
        return scenario.measure(LAKE, STACK, RUN, PARAMS)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that the scenario sees."""
    found = World()

    class Sink:
        def __init__(self, url: str) -> None:
            self._queue = found.queues.setdefault(url, [])

        def send(self, events: Sequence[Event]) -> Sent:
            self._queue.extend(events)
            return Sent(records=len(events), retried=1)

    class Table:
        def __init__(self, name: str) -> None:
            self._items = found.ledgers.get(name, {})

        def get_all(self, keys: Sequence[Mapping[str, str]]) -> Iterator[dict[str, Any]]:
            for key in keys:
                if item := self._items.get((key["pk"], key["sk"])):
                    yield {**key, **item}

    class Lake:
        def __new__(cls) -> Hook:  # type: ignore[misc]
            return found.lake

        parse_s3_url = staticmethod(S3Hook.parse_s3_url)

    monkeypatch.setattr(scenario, "S3Hook", Lake)
    monkeypatch.setattr(scenario, "SqsSink", Sink)
    monkeypatch.setattr(scenario, "TableHook", Table)
    return found


def fed(world: World, **params: Any) -> dict[str, Any]:
    """Feed the world."""
    return scenario.feed(STACK, RUN, "run", {**PARAMS, **params})


def test_all_queues_get_the_same_load(world: World) -> None:
    fed(world)

    assert set(world.queues) == {f"{arm}-Queue" for arm in ARMS}
    first, *others = world.queues.values()
    assert len(first) > 40
    assert all(other == first for other in others)


def test_the_control_is_fed_only_if_asked_for(world: World) -> None:
    fed(world, control=False)

    assert "control-Queue" not in world.queues


def test_the_feed_says_what_it_sent_and_what_is_true(world: World) -> None:
    answer = fed(world)

    sent = world.queues["natural-Queue"]
    assert answer["records"] == len(sent) == 40 + answer["duplicates"] + answer["malformed"]
    assert answer["retried"] == len(ARMS)
    assert answer["payments"] + answer["expired"] == 40
    assert 0 < answer["expired"] == len(world.truth["expired"])
    assert 0 < answer["forged"] == len(world.truth["forged"])
    again = [event for event in sent if event.duplicate and event.id in world.truth["payments"]]
    assert answer["repeated"] == len(again) + answer["forged"]
    assert Manifest.load(world.lake, answer["manifest"]).records == len(sent)  # type: ignore[arg-type]


def test_a_run_that_feeds_again_sends_the_same_payments_and_another_run_others(world: World) -> None:
    def ids() -> set[str]:
        found = {event.id for event in world.queues["natural-Queue"]}
        world.queues["natural-Queue"].clear()
        return found

    fed(world)
    first = ids()
    fed(world)
    again = ids()
    scenario.feed(STACK, RUN, "another run", PARAMS)

    assert first == again
    assert not first & ids()


def test_forgeries_are_sent_later(world: World) -> None:
    fed(world)
    before = {event.data for event in world.queues["inbox-Queue"]}
    world.queues.clear()

    answer = scenario.forge(STACK, RUN, "run", PARAMS)

    for arm in ARMS:
        forged = world.queues[f"{arm}-Queue"]
        assert sorted(event.id for event in forged) == world.truth["forged"]
        assert not before & {event.data for event in forged}
    assert answer["records"] == len(world.truth["forged"])


def test_no_load_skips_the_rest(world: World) -> None:
    with pytest.raises(AirflowSkipException, match="No load is asked for"):
        fed(world, events=0)
    assert world.lake.objects == {}


def test_own_payments_take_the_place_of_generated_ones(world: World) -> None:
    own = {"payment_id": "mine", "account": "A", "amount": "5", "currency": "EUR"}
    world.lake.objects["uploads/mine.jsonl"] = "\n".join(map(json.dumps, (own, own, own | {"amount": "6"})))

    answer = fed(world, source_uri="s3://lake/uploads/mine.jsonl", duplicates_percent=0, malformed_percent=0)

    assert (answer["events"], answer["duplicates"], answer["forged"]) == (1, 1, 1)
    ((payment_id, content),) = world.truth["payments"].items()
    assert payment_id.endswith("-mine")
    assert content[1:] == ["5.00", "EUR"]


def test_what_is_right_measures_zero(world: World) -> None:
    fed(world)
    world.work(*ARMS)
    world.capture("control", "again", *next(iter(world.truth["payments"].values())))

    found = world.measure()

    assert len(found["measures"]) == 16
    assert found["measures"].pop("control_excess") == 1
    assert set(found["measures"].values()) == {0}
    assert found["violations"] == []


def test_every_wrong_is_measured_and_named(world: World) -> None:
    fed(world)
    world.work(*ARMS)
    truth = world.truth
    once, missing, forged = list(truth["payments"])[:3]
    account, amount, currency = truth["payments"][once]
    world.capture("natural", once, account, amount, currency)
    del world.ledgers["inbox-Ledger"][f"receipt#{missing}", "receipt"]
    world.ledgers["inbox-Ledger"][f"receipt#{forged}", "receipt"]["amount"] = Decimal("0.01")
    late, content = next(iter(truth["expired"].items()))
    world.capture("powertools", late, *content)

    found = world.measure()

    wrong = {name: value for name, value in found["measures"].items() if value}
    assert wrong == {
        "natural_effects_difference": 1,
        "natural_balance_difference": 100 * Decimal(amount),
        "inbox_wrong_receipts": 2,
        "powertools_effects_difference": 1,
        "powertools_balance_difference": 100 * Decimal(content[1]),
        "powertools_expired_effects": 1,
    }
    named = {(row["rule"], row["what"]) for row in found["violations"]}
    assert named == {
        ("natural_balance_difference", f"{account} {currency}"),
        ("inbox_wrong_receipts", missing),
        ("inbox_wrong_receipts", forged),
        ("powertools_balance_difference", f"{content[0]} {content[2]}"),
        ("powertools_expired_effects", late),
    }


def letter(reason: str, payment_id: str = "") -> dict[str, str]:
    """Return what lies in quarantine."""
    return {"reason": reason, "data": base64.b64encode(json.dumps({"payment_id": payment_id}).encode()).decode()}


@pytest.mark.parametrize(
    ("letters", "difference"),
    [
        pytest.param([letter("expired", "E"), letter("tampered", "F"), letter("no JSON")], 0, id="all of it"),
        pytest.param([letter("expired", "E")] * 2 + [letter("tampered", "F"), letter("no JSON")], 0, id="twice"),
        pytest.param([letter("tampered", "F"), letter("no JSON")], 1, id="expired missing"),
        pytest.param([letter("expired", "E"), letter("no JSON")], 1, id="forged missing"),
        pytest.param([letter("expired", "E"), letter("tampered", "F")], 1, id="damaged missing"),
        pytest.param(
            [letter("expired", "E"), letter("tampered", "F"), letter("tampered", "P"), letter("no JSON")],
            1,
            id="a good one",
        ),
    ],
)
def test_the_quarantine_is_compared_with_the_truth(letters: list[dict[str, str]], difference: int) -> None:
    truth = {"payments": {"P": []}, "expired": {"E": []}, "forged": ["F"]}

    assert scenario.not_quarantined(letters, truth, malformed=1) == difference


def taken(outcome: str, milliseconds: float, requests: int, reads: float, writes: float) -> costs.Taken:
    return costs.Taken(outcome, milliseconds, requests, reads, writes)


def test_costs_are_means_and_percentiles_by_kind_of_message() -> None:
    inbox = [taken("applied", float(n), 1, 0, 6) for n in range(1, 101)]
    inbox += [taken("duplicate", 50.0, 2, 1, 6)] * 100
    inbox += [taken("expired", 999.0, 0, 0, 0), taken("failed", 999.0, 9, 9, 9)]

    rows = costs.table({"inbox": inbox, "control": [taken("applied", 2.0, 1, 0, 4)]})

    first, duplicate, both, control = rows
    assert first == {
        "Strategy": "inbox",
        "Message": "first delivery",
        "Messages": 100,
        "Requests": 1,
        "Write units": 6,
        "Read units": 0,
        "p50 (ms)": 50.0,
        "p99 (ms)": 99.0,
        "USD per million": "3.75",
    }
    assert (duplicate["Messages"], duplicate["Read units"], duplicate["USD per million"]) == (100, 1, "3.88")
    assert (both["Message"], both["Messages"], both["Requests"]) == ("all", 200, 1.5)
    assert (control["Strategy"], control["Message"]) == ("none (control)", "all")
    assert costs.totals(rows) == {"inbox": "3.81", "none (control)": "2.50"}


def test_a_load_of_nothing_but_expired_payments_can_be_measured(world: World) -> None:
    fed(world, expired_percent=100)
    world.work(*ARMS)
    for arm in ARMS:
        world.lake.objects[f"{scenario.ROOT}/measures/{arm}/one.jsonl"] = json.dumps({**CHEAP, "outcome": "expired"})

    found = world.measure()

    assert set(found["measures"].values()) == {0}
    assert found["cost"] == {}


def test_the_report_gets_its_tables(world: World) -> None:
    fed(world)
    world.work(*ARMS)

    world.measure()

    payments = str(len(world.truth["payments"]))
    assert world.lake.rows("effects")[0] == {
        "strategy": "natural key",
        "effects": payments,
        "effects per payment": "1.0",
    }
    assert {row["Strategy"] for row in world.lake.rows("costs")} == set(costs.NAMES.values())
    assert {row["kind"] for row in world.lake.rows("units")} == {"Write units", "Read units"}
    assert {row["percentile"] for row in world.lake.rows("times")} == {str(percent) for percent in range(1, 100)}


def test_a_log_shows_the_costs_in_columns() -> None:
    text = costs.text(costs.table({"inbox": [taken("applied", 2.0, 1, 0, 6)]}))

    header, row = text.splitlines()
    assert header.index("Write units") == row.index("6")
    assert costs.text([]) == "nothing was taken"
