"""How the finished tasks of a run ended, and whether the run as a whole did what it was asked to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
    from airflow.sdk.types import RuntimeTaskInstanceProtocol


@dataclass(frozen=True)
class Outcome:
    """The end of one task instance.

    ``state`` is ``success``, ``failed``, ``skipped`` or ``upstream_failed``; ``seconds`` is ``None`` where
    the task never ran; ``map_index`` is -1 unless the task is mapped.
    """

    task_id: str
    map_index: int
    state: str
    seconds: float | None

    @property
    def label(self) -> str:
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


def finished_tasks(ti: RuntimeTaskInstanceProtocol) -> list[Outcome]:
    """Return how every task instance of ``ti``'s run that has ended did, each mapped one by itself."""
    runtime = cast("RuntimeTaskInstance", ti)  # the protocol contexts are typed with lacks breadcrumbs
    return [
        Outcome(crumb["task_id"], crumb["map_index"], str(crumb["state"]), crumb["duration"])
        for crumb in runtime.get_task_breadcrumbs(dag_id=ti.dag_id, run_id=ti.run_id)
        if crumb["state"] != "removed"
    ]


def shortfalls(outcomes: Sequence[Outcome], watched: Collection[str], optional: Collection[str] = ()) -> list[str]:
    """Return what keeps the run from being a success, as ``task: state``; nothing when all is well.

    Every watched task has to succeed. A task in ``optional`` may be skipped as well. A watched task that has
    not ended, because it does not exist or does not come before the task that asks, is a shortfall too.
    """
    ended = {outcome.task_id for outcome in outcomes}
    bad = [
        f"{outcome.label}: {outcome.state}"
        for outcome in outcomes
        if outcome.task_id in watched
        and outcome.state != "success"
        and not (outcome.state == "skipped" and outcome.task_id in optional)
    ]
    return bad + [f"{task_id}: not finished" for task_id in watched if task_id not in ended]
