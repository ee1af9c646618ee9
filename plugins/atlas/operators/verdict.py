"""The verdict: a run whose gate failed must not end SUCCESS because its last tasks ran anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import BaseOperator, Context, TriggerRule

from atlas.reports.outcomes import finished_tasks, shortfalls


class VerdictOperator(BaseOperator):
    """Fail the run unless every watched task succeeded.

    Airflow takes a run's state from its last tasks, and report and notice run whatever happened before them;
    this operator, set last, gives the run the state its work deserves. It runs whatever happened
    (``all_done``).

    Args:
        watched: ids of the tasks that have to succeed, each mapped instance of them; all must be upstream.
        optional: those of them that may be skipped.

    Raises:
        AirflowFailException: a watched task did not succeed; names each with its state. Never retried.
    """

    def __init__(
        self,
        *,
        watched: Sequence[str],
        optional: Sequence[str] = (),
        trigger_rule: str = TriggerRule.ALL_DONE,
        **kwargs: Any,
    ) -> None:
        super().__init__(trigger_rule=trigger_rule, **kwargs)
        self.watched = watched
        self.optional = optional

    def execute(self, context: Context) -> None:
        """Compare the watched tasks' states with what is asked of them."""
        bad = shortfalls(finished_tasks(context["ti"]), self.watched, self.optional)
        if bad:
            raise AirflowFailException(f"The run did not succeed: {', '.join(bad)}")
        self.log.info("All %d watched tasks succeeded", len(self.watched))
