"""s08's reviews answered by people, with Airflow's real scheduler: a test run of a DAG never waits for them."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from local.launcher.runs import Api
from tests.scenarios.conftest import Command

STEM = "s08_fraud_workflow"
REVIEWS = f"dags/{STEM}/dagRuns/~/hitlDetails"
ANSWERS = ("Approve", "Approve", "Block the card")


def test_people_decide_on_open_reviews(command: Command) -> None:
    """Three reviews wait in Required actions; two are approved there, one card is blocked."""
    up = command("up")
    assert up.returncode == 0, up.stdout + up.stderr
    api = Api(int(up.stdout.split("Airflow UI: http://127.0.0.1:")[1].split()[0]))
    conf = {"events": 60, "rate": None, "review": "airflow", "review_seconds": 600}
    bodies = {}
    with ThreadPoolExecutor() as pool:
        running = pool.submit(command, "run", DAG=STEM, CONF=json.dumps(conf))
        while not running.done():
            for question in open_questions(api):
                index = question["task_instance"]["map_index"]
                bodies[index] = question["body"]
                api.call("PATCH", place(question), {"chosen_options": [ANSWERS[index]], "params_input": {}})
            time.sleep(1)
        finished = running.result()
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert len(bodies) == len(ANSWERS)
    assert all(body.startswith("Score **") for body in bodies.values())
    (run,) = api.pages(f"dags/{STEM}/dagRuns", "dag_runs")
    decisions = api.call("GET", f"dags/{STEM}/dagRuns/{run['dag_run_id']}/taskInstances/audit/xcomEntries/decisions")[
        "value"
    ]
    assert "2 APPROVED by review" in decisions
    assert "1 BLOCKED by review" in decisions


def open_questions(api: Api) -> list[dict[str, Any]]:
    """Return the questions that nobody has answered; one is asked again if its answer came before it was heard."""
    found = api.find(REVIEWS) or {"hitl_details": []}
    return [one for one in found["hitl_details"] if one["task_instance"]["state"] == "awaiting_input"]


def place(question: dict[str, Any]) -> str:
    """Return where a question is answered."""
    ti = question["task_instance"]
    return f"dags/{STEM}/dagRuns/{ti['dag_run_id']}/taskInstances/review/{ti['map_index']}/hitlDetails"
