"""The commands a user types, with Airflow's real scheduler, triggerer and REST API: a run of each streaming kind.

The tests share one laptop, in this order: up, runs, a review that people answer, down.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from local import bootstrap
from local.launcher.runs import Api
from tests.scenarios import secrecy
from tests.scenarios.conftest import Command

FRAUD = "s08_fraud_workflow"
REVIEWS = f"dags/{FRAUD}/dagRuns/~/hitlDetails"
ANSWERS = ("Approve", "Approve", "Block the card")
READING_SECONDS = 4
"""Nobody answers what is just being asked. Airflow fails a task that goes on before its executor has told that it
paused, which may take a moment on a busy machine."""


@pytest.fixture(scope="module")
def api(command: Command) -> Api:
    """Airflow's API; the laptop is up."""
    up = command("up")
    assert up.returncode == 0, up.stdout + up.stderr
    return Api(int(up.stdout.split("Airflow UI: http://127.0.0.1:")[1].split()[0]))


@pytest.mark.parametrize(
    ("stem", "conf", "title"),
    [
        ("s05_ecommerce_redshift", {"events": 100}, "Transactions in the warehouse"),
        ("s27_idempotent_consumer", {"events": 50}, "Idempotent message processing"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("s") else "",
)
def test_a_run_ends_well_and_its_page_is_on_disk(
    api: Api, laptop: Path, command: Command, stem: str, conf: dict[str, Any], title: str
) -> None:
    run = command("run", DAG=stem, CONF=json.dumps(conf))
    assert run.returncode == 0, run.stdout + run.stderr
    assert "success after" in run.stdout
    (page,) = (laptop / "reports" / stem).glob("*.html")
    assert title in page.read_text()


def test_a_run_that_cannot_be_ends_with_an_error(api: Api, command: Command) -> None:
    unknown = command("run", DAG="s99_nothing")
    assert (unknown.returncode, unknown.stderr) == (
        1,
        "atlas: There is no dags/s99_nothing.py: name a scenario by its stem.\n",
    )


def test_people_decide_on_open_reviews(api: Api, command: Command) -> None:
    """Three reviews wait in Required actions; two are approved there, one card is blocked."""
    conf = {"events": 60, "rate": None, "review": "airflow", "review_seconds": 600}
    bodies, seen = dict[int, str](), dict[int, float]()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(command, "run", DAG=FRAUD, CONF=json.dumps(conf))
        while not running.done():
            for question in open_questions(api):
                index = question["task_instance"]["map_index"]
                if time.monotonic() < seen.setdefault(index, time.monotonic()) + READING_SECONDS:
                    continue
                bodies[index] = question["body"]
                api.call("PATCH", place(question), {"chosen_options": [ANSWERS[index]], "params_input": {}})
                del seen[index]
            time.sleep(1)
        finished = running.result()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert len(bodies) == len(ANSWERS)
    assert all(body.startswith("Score **") for body in bodies.values())
    (run,) = api.pages(f"dags/{FRAUD}/dagRuns", "dag_runs")
    audit = f"dags/{FRAUD}/dagRuns/{run['dag_run_id']}/taskInstances/audit/xcomEntries/decisions"
    decisions = api.call("GET", audit)["value"]
    assert "2 APPROVED by review" in decisions
    assert "1 BLOCKED by review" in decisions


def open_questions(api: Api) -> list[dict[str, Any]]:
    """Return the questions that nobody has answered; one is asked again if its answer came before it was heard."""
    found = api.find(REVIEWS) or {"hitl_details": []}
    return [one for one in found["hitl_details"] if one["task_instance"]["state"] == "awaiting_input"]


def place(question: dict[str, Any]) -> str:
    """Return where a question is answered."""
    ti = question["task_instance"]
    return f"dags/{FRAUD}/dagRuns/{ti['dag_run_id']}/taskInstances/review/{ti['map_index']}/hitlDetails"


def test_quarantined_records_are_counted_by_the_replay_command(api: Api, command: Command) -> None:
    listed = command("replay", ARGS="list --prefix s05_ecommerce_redshift/quarantine/")
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "1 " in listed.stdout


def test_no_secret_is_in_a_log_or_in_the_database(api: Api, laptop: Path) -> None:
    """Of those runs, as the processes of Airflow themselves have kept them; one stack with a secret is still there."""
    home = laptop / "airflow"
    connection = json.loads((home / "aws_default.json").read_text())
    known = secrecy.secrets(bootstrap.root(connection["extra"]["endpoint_url"]))
    assert known
    known[connection["password"]] = "Airflow's access key"
    logs = [(str(file), file.read_text()) for file in laptop.rglob("*.log")]
    assert any("task_id=load_warehouse" in name for name, _ in logs)
    assert list(secrecy.leaks(known, [*logs, *secrecy.kept(home / "airflow.db")])) == []


def test_nothing_is_left_after_down(api: Api, laptop: Path, command: Command) -> None:
    down = command("down")
    assert down.returncode == 0, down.stdout + down.stderr
    left = [process for process in psutil.process_iter(["environ"]) if _belongs(process, laptop)]
    assert left == []


def _belongs(process: psutil.Process, laptop: Path) -> bool:
    environment = process.info["environ"] or {}
    return process.pid != os.getpid() and environment.get("ATLAS_RUN") == str(laptop)
