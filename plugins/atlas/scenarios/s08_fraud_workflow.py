"""Fraud decisions: the payments, their reviews by people, what the gate and the report are shown."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import ModuleType
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk import BaseSensorOperator, Context

from atlas.hooks.dynamodb import Item, TableHook
from atlas.hooks.step_functions import WorkflowHook
from atlas.loadgen.cards import Payment, generate, read_payments
from atlas.loadgen.disturb import disturb
from atlas.loadgen.feed import Manifest
from atlas.loadgen.feed import feed as send
from atlas.loadgen.files import list_files
from atlas.loadgen.sinks import KinesisSink
from atlas.scenarios.s08_fraud_workflow_audit import CLOCKS, VIOLATIONS, Books, suspicious, violations

ROOT = "s08_fraud_workflow"
APPROVE, BLOCK = "Approve", "Block the card"
ANSWERS = {APPROVE: "APPROVED", BLOCK: "BLOCKED", "approve": "APPROVED", "block": "BLOCKED"}
"""What a person chooses, or what the run answers itself, as the workflow takes it."""
MAX_QUESTIONS = 100
"""Reviews one run asks about; the others take the safe choice when their time is over."""
SAMPLES = 20


def feed(lake: str, stream: str, run_prefix: str, params: dict[str, Any], run_id: str) -> dict[str, Any]:
    """Send the payments, and some copies and damage with them.

    Returns:
        The manifest's address and counts.

    Raises:
        AirflowSkipException: no payments are asked for.
        ValueError: the user's own data has a line that is no payment.
    """
    s3 = S3Hook()
    payments = _payments(s3, lake, params, run_id)
    if not payments:
        raise AirflowSkipException("No payments are asked for")
    events = disturb(
        (payment.event() for payment in payments),
        params["seed"],
        duplicates=params["duplicates_percent"] / 100,
        malformed=params["malformed_percent"] / 100,
    )
    stolen = {payment.card for payment in payments if payment.planted != "nothing"}
    truth = {"payments": len(payments), "cards": len({one.card for one in payments}), "stolen_cards": len(stolen)}
    manifest = send(events, KinesisSink(stream), truth=truth, rate=params["rate"])
    return manifest.store(s3, f"{run_prefix}/feed.json")


def find_suspicious(
    lake: str, stack: Mapping[str, str], run_prefix: str, manifest: str, params: dict[str, Any], run_id: str
) -> dict[str, Any]:
    """Return how many payments wait for a workflow, and where: their ids may be too many for XCom.

    Returns:
        ``pending`` (how many), ``ids`` (s3 address of a JSON list), ``state`` and ``reviews`` (tables), ``workflow``
        (ARN) and ``since`` (ISO time before which none of the run's workflows started).
    """
    s3 = S3Hook()
    payments = _payments(s3, lake, params, run_id)
    outcomes = _outcomes(TableHook(stack["StateTable"]), [payment.event_id for payment in payments])
    pending = sorted(event_id for event_id, outcome in outcomes.items() if outcome["decision"] == "PENDING")
    address = f"{run_prefix}/suspicious.json"
    bucket, key = S3Hook.parse_s3_url(address)
    s3.load_string(json.dumps(pending), key, bucket, replace=True)
    return {
        "pending": len(pending),
        "ids": address,
        "state": stack["StateTable"],
        "reviews": stack["ReviewTable"],
        "workflow": stack["Workflow"],
        "since": _since(s3, manifest).isoformat(),
    }


class WorkflowsSensor(BaseSensorOperator):
    """Wait until every suspicious payment has its final outcome.

    Args:
        found: what :func:`find_suspicious` returned (templated).
        or_reviewed: be content when those without an outcome are in review by a person.

    Raises:
        AirflowFailException: workflows ended without an outcome; names them. Waiting longer would not help.
    """

    template_fields: Sequence[str] = ("found",)

    def __init__(self, *, found: Mapping[str, Any], or_reviewed: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.found = found
        self.or_reviewed = or_reviewed

    def poke(self, context: Context) -> bool:
        """Look once."""
        since = datetime.fromisoformat(self.found["since"])
        # Before the outcomes, so that a workflow that ends in between is not taken for one without an outcome.
        ended = {name for name, state in WorkflowHook().executions(self.found["workflow"], since) if state != "RUNNING"}
        outcomes = _outcomes(TableHook(self.found["state"]), _ids(self.found))
        pending = {event_id for event_id, outcome in outcomes.items() if outcome["decision"] == "PENDING"}
        if lost := sorted(pending & ended):
            raise AirflowFailException(
                f"{len(lost)} workflows ended without an outcome: {', '.join(lost[:SAMPLES])}. See why in the history "
                "of these executions, mend it, redrive them and clear this task."
            )
        if self.or_reviewed:
            pending -= _open_reviews(self.found).keys()
        self.log.info("%d payments wait for their workflows", len(pending))
        return not pending


def ask(found: dict[str, Any], params: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the questions to put to people, one for each open review; none if the run is not to ask."""
    if params["review"] != "airflow":
        return []
    reviews = sorted(_open_reviews(found).values(), key=lambda one: (-one["score"], one["event_id"]))
    return [
        {
            "event_id": review["event_id"],
            "subject": f"Payment of {review['amount']} with {review['card']}",
            "body": f"Score **{review['score']}** of 100: {review['reasons']}.\n\n"
            f"Payment {review['event_id']}, in review since {review['opened_at']}. Without an answer in time the card "
            "is blocked.",
        }
        for review in reviews[:MAX_QUESTIONS]
    ]


def question(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what a person is shown of a question of :func:`ask`."""
    return {name: asked[name] for name in ("subject", "body")}


def answer_reviews(
    found: dict[str, Any],
    asked: Sequence[Mapping[str, Any]],
    answers: Iterable[Mapping[str, Any]] | None,
    params: dict[str, Any],
) -> dict[str, int]:
    """Send answers to the workflows that wait: those people gave, or the run's own if it rehearses.

    Task tokens are read where they are used and go nowhere else. An answer that comes too late changes nothing: the
    safe choice has been taken.

    Returns:
        How many reviews were ``answered`` and how many answers came too ``late``.
    """
    reviews = _open_reviews(found)
    if params["review"] == "airflow":
        chosen = [answer["chosen_options"][0] for answer in answers or ()]
        decisions = {one["event_id"]: ANSWERS[option] for one, option in zip(asked, chosen, strict=True)}
    elif params["review"] in ANSWERS:
        decisions = dict.fromkeys(reviews, ANSWERS[params["review"]])
    else:
        decisions = {}
    workflows = WorkflowHook()
    answered = sum(
        workflows.answer(reviews[event_id]["task_token"], {"decision": decision})
        for event_id, decision in decisions.items()
        if event_id in reviews
    )
    return {"answered": answered, "late": len(decisions) - answered}


def audit(
    lake: str,
    stack: Mapping[str, str],
    run_prefix: str,
    manifest: str,
    rules_file: str,
    params: dict[str, Any],
    run_id: str,
) -> dict[str, Any]:
    """Audit every payment's outcome and write what the report shows; ``rules_file`` has the scoring rules.

    Returns:
        ``measures``: counts, and how often each of :data:`VIOLATIONS` was found; ``violations``: up to 20 of them;
        ``decisions``: counts in words; ``timeline``, ``scores`` and ``blocked``: addresses of CSV objects.
    """
    s3, rules = S3Hook(), _module(rules_file)
    payments = {payment.event_id: payment for payment in _payments(s3, lake, params, run_id)}
    books = _books(s3, stack, manifest, payments, _label(run_id))
    found = list(violations(payments, books, rules))
    counts = Counter(violation["rule"] for violation in found)
    decisions = Counter(f"{one['decision']} by {one['decided_by']}" for one in books.outcomes.values())
    return {
        "measures": {
            "payments": len(payments),
            "outcomes": len(books.outcomes),
            "suspicious": sum(suspicious(outcome, rules) for outcome in books.outcomes.values()),
            "executions": len(books.executions),
            "blocked_cards": len(books.blocks),
            "notices": len({block["notice_id"] for block in books.blocks.values() if "notice_id" in block}),
            **{rule: counts[rule] for rule in VIOLATIONS},
        },
        "violations": [{name: str(value) for name, value in violation.items()} for violation in found[:SAMPLES]],
        "decisions": ", ".join(f"{count} {decision}" for decision, count in decisions.most_common()),
        **{name: _store(s3, f"{run_prefix}/{name}.csv", rows) for name, rows in _pictures(books).items()},
    }


def _books(s3: S3Hook, stack: Mapping[str, str], manifest: str, payments: Mapping[str, Payment], label: str) -> Books:
    state = TableHook(stack["StateTable"])
    cards = sorted({payment.card for payment in payments.values()})
    items: dict[str, dict[str, Item]] = {"profile": {}, "block": {}}
    for item in state.get_all([{"pk": f"card#{card}", "sk": kind} for card in cards for kind in items]):
        items[item["sk"]][item["pk"].removeprefix("card#")] = item
    executions = WorkflowHook().executions(stack["Workflow"], _since(s3, manifest))
    reviews = TableHook(stack["ReviewTable"]).get_all([{"event_id": event_id} for event_id in payments])
    return Books(
        outcomes=_outcomes(state, payments),
        profiles=items["profile"],
        blocks=items["block"],
        executions={name: status for name, status in executions if name.startswith(f"{label}-")},
        open_reviews=[review["event_id"] for review in reviews],
    )


def _pictures(books: Books) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of what the report draws: payments by hour, by score, and the blocked cards."""
    hours: Counter[tuple[str, str]] = Counter()
    scores: Counter[tuple[int, str]] = Counter()
    for outcome in books.outcomes.values():
        hour = datetime.fromisoformat(outcome["occurred_at"]).replace(minute=0, second=0)
        hours[hour.isoformat(), outcome["decision"]] += 1
        if outcome["score"]:
            scores[int(outcome["score"]), outcome["decided_by"]] += 1
    blocked = sorted(books.blocks.items(), key=lambda one: (-one[1]["score"], one[0]))
    columns = ("score", "reasons", "blocked_by", "blocked_at", "event_id")
    return {
        "timeline": [
            {"hour": hour, "decision": one, "payments": count} for (hour, one), count in sorted(hours.items())
        ],
        "scores": [
            {"score": score, "decided_by": one, "payments": count} for (score, one), count in sorted(scores.items())
        ],
        "blocked": [{"card": card, **{name: block[name] for name in columns}} for card, block in blocked],
    }


def _store(s3: S3Hook, address: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV; returns the address."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else ["nothing"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    bucket, key = S3Hook.parse_s3_url(address)
    s3.load_string(text.getvalue(), key, bucket, replace=True)
    return address


def _payments(s3: S3Hook, lake: str, params: Mapping[str, Any], run_id: str) -> list[Payment]:
    """Return the run's payments: the same whenever it asks, on cards of its own."""
    label = _label(run_id)
    if not params["source_uri"]:
        return generate(params["seed"], params["events"], label)
    keys = list_files(s3, lake, params["source_uri"])
    contents = ((key, s3.get_key(key, lake).get()["Body"].read()) for key in keys)
    payments = [payment for key, content in contents for payment in read_payments(key, content, label)]
    twice = [event_id for event_id, n in Counter(payment.event_id for payment in payments).items() if n > 1]
    if twice:
        raise ValueError(f"{len(twice)} event ids stand for several payments, such as {twice[0]}; each needs its own")
    return payments


def _label(run_id: str) -> str:
    """Return what begins the names of a run's cards and payments: runs on one stack do not meet."""
    return hashlib.sha256(run_id.encode()).hexdigest()[:8]


def _since(s3: S3Hook, manifest: str) -> datetime:
    """Return a time before which none of the run's workflows can have started."""
    return Manifest.load(s3, manifest).started_at - CLOCKS


def _outcomes(state: TableHook, event_ids: Iterable[str]) -> dict[str, Item]:
    keys = [{"pk": f"outcome#{event_id}", "sk": "outcome"} for event_id in event_ids]
    return {item["pk"].removeprefix("outcome#"): item for item in state.get_all(keys)}


def _open_reviews(found: Mapping[str, Any]) -> dict[str, Item]:
    """Return the reviews of the suspicious payments that are open."""
    reviews = TableHook(found["reviews"]).get_all([{"event_id": event_id} for event_id in _ids(found)])
    return {review["event_id"]: review for review in reviews}


def _ids(found: Mapping[str, Any]) -> list[str]:
    """Return the ids that :func:`find_suspicious` has stored."""
    bucket, key = S3Hook.parse_s3_url(found["ids"])
    ids: list[str] = json.loads(S3Hook().read_key(key, bucket))
    return ids


def _module(file: str) -> ModuleType:
    """Import a module of the Lambda functions by its path."""
    spec = importlib.util.spec_from_file_location(f"{ROOT}_rules", file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
