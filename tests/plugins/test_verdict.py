"""The verdict: which ends of which tasks fail the run."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import TriggerRule

from atlas.operators.verdict import VerdictOperator


def crumb(task_id: str, state: str, map_index: int = -1) -> dict[str, Any]:
    return {"task_id": task_id, "map_index": map_index, "state": state, "operator": "X", "duration": 1.5}


def decide(*crumbs: dict[str, Any], optional: tuple[str, ...] = ()) -> None:
    ti = MagicMock(dag_id="s00", run_id="run")
    ti.get_task_breadcrumbs.side_effect = lambda dag_id, run_id: iter(
        crumbs if (dag_id, run_id) == ("s00", "run") else ()
    )
    VerdictOperator(task_id="verdict", watched=["load", "gate"], optional=optional).execute({"ti": ti})


def test_it_runs_whatever_happened_before() -> None:
    assert VerdictOperator(task_id="verdict", watched=["load"]).trigger_rule == TriggerRule.ALL_DONE


@pytest.mark.parametrize(
    ("crumbs", "optional"),
    [
        pytest.param([crumb("load", "success"), crumb("gate", "success")], (), id="all succeeded"),
        pytest.param(
            [crumb("load", "success", 0), crumb("load", "success", 1), crumb("gate", "success")],
            (),
            id="mapped",
        ),
        pytest.param(
            [crumb("load", "success"), crumb("gate", "success"), crumb("extra", "failed")],
            (),
            id="not watched",
        ),
        pytest.param([crumb("load", "skipped"), crumb("gate", "success")], ("load",), id="optional skipped"),
        pytest.param(
            [crumb("load", "success", 0), crumb("load", "removed", 1), crumb("gate", "success")],
            (),
            id="removed",
        ),
    ],
)
def test_the_run_succeeds(crumbs: list[dict[str, Any]], optional: tuple[str, ...]) -> None:
    decide(*crumbs, optional=optional)


@pytest.mark.parametrize(
    ("crumbs", "optional", "named"),
    [
        pytest.param([crumb("load", "success"), crumb("gate", "failed")], (), "gate: failed", id="failed"),
        pytest.param(
            [crumb("load", "failed"), crumb("gate", "upstream_failed")],
            (),
            "load: failed, gate: upstream_failed",
            id="upstream failed",
        ),
        pytest.param([crumb("load", "skipped"), crumb("gate", "success")], (), "load: skipped", id="skipped"),
        pytest.param(
            [crumb("load", "failed"), crumb("gate", "success")],
            ("load",),
            "load: failed",
            id="optional failed",
        ),
        pytest.param(
            [crumb("load", "success", 0), crumb("load", "failed", 1), crumb("gate", "success")],
            (),
            r"load\[1\]: failed",
            id="one mapped instance",
        ),
        pytest.param([crumb("load", "success")], (), "gate: not finished", id="did not end"),
    ],
)
def test_the_run_fails_and_says_why(crumbs: list[dict[str, Any]], optional: tuple[str, ...], named: str) -> None:
    with pytest.raises(AirflowFailException, match=f"^The run did not succeed: {named}$"):
        decide(*crumbs, optional=optional)
