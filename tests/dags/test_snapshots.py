"""The graphs are what a review last saw: a changed edge shows in a changed snapshot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TriggerRule

from tests.dags.files import DAG_FILES, dag_of

SNAPSHOTS = Path(__file__).parent / "snapshots"
HOW = "If the change is meant: pytest tests/dags --update-snapshots"


def graph(dag: DAG) -> dict[str, Any]:
    """Return a DAG's tasks and edges, without anything that depends on the environment."""
    return {
        task.task_id: {
            "operator": task.operator_name,
            "trigger_rule": task.trigger_rule.value,
            "role": "setup" if task.is_setup else "teardown" if task.is_teardown else "work",
            "mapped": task.is_mapped,
            "downstream": sorted(task.downstream_task_ids),
        }
        for task in dag.tasks
    }


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in DAG_FILES])
def test_the_graph_is_the_one_reviewed(file: Path, request: pytest.FixtureRequest) -> None:
    snapshot = SNAPSHOTS / f"{file.stem}.json"
    current = graph(dag_of(file))
    if request.config.getoption("--update-snapshots", default=False):
        snapshot.write_text(json.dumps(current, indent=2) + "\n", encoding="utf-8")
    assert snapshot.exists(), f"{snapshot.name} does not exist. {HOW}"
    assert json.loads(snapshot.read_text(encoding="utf-8")) == current, HOW


def test_every_snapshot_has_a_dag() -> None:
    assert {snapshot.stem for snapshot in SNAPSHOTS.glob("*.json")} == {file.stem for file in DAG_FILES}


def small_dag() -> DAG:
    with DAG("s00_small", schedule=None) as dag:
        EmptyOperator(task_id="load") >> EmptyOperator(task_id="report")
    return dag


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda dag: dag.get_task("load").downstream_task_ids.clear(), id="edge"),
        pytest.param(lambda dag: setattr(dag.get_task("report"), "trigger_rule", TriggerRule.ALL_DONE), id="rule"),
        pytest.param(lambda dag: dag.get_task("load").as_setup(), id="setup"),
        pytest.param(lambda dag: EmptyOperator(task_id="more", dag=dag), id="task"),
    ],
)
def test_a_change_shows_in_the_snapshot(change: Any) -> None:
    changed = small_dag()
    change(changed)
    assert graph(changed) != graph(small_dag())
