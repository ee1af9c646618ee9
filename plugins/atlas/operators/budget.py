"""The cost guard: a load that costs more than the run may is refused before anything is made for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import BaseOperator, Context

from atlas.costs import HOURS, Price, dollars
from atlas.loadgen.files import size_of

COPIES = ("duplicates_percent", "malformed_percent", "forged_percent")
"""Params that say how many events are sent once more."""


class CheckBudgetOperator(BaseOperator):
    """Estimate what the run costs, and refuse it if that is more than the param ``budget_usd``.

    The estimate is the scenario's price for :data:`atlas.costs.HOURS` of its stack, a run, and the events with their
    copies. How many events there are says the param ``load``, or, for the user's own files (``source_uri``), their
    size: divided by the least an event takes, gzip counted tenfold, which errs on the dear side. What the platform
    costs, which all scenarios share, is not in it.

    Args:
        price: what the scenario costs.
        load: name of the param that says how many events are generated.
        lake: bucket of the user's own files (templated).
        aws_conn_id: Airflow connection (templated).
        region_name: region, where the connection's is not meant (templated).

    Returns:
        The estimate in words, for the report; as an XCom also if the run is refused.

    Raises:
        AirflowFailException: the run would cost more; names estimate, budget and what to do. Never retried.
        ValueError: ``source_uri`` is outside of the lake.
    """

    template_fields: Sequence[str] = ("lake", "aws_conn_id", "region_name")
    ui_color = "#f9d9d9"

    def __init__(
        self,
        *,
        price: Price,
        load: str,
        lake: str,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.price = price
        self.load = load
        self.lake = lake
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def execute(self, context: Context) -> str:
        """Compare estimate and budget."""
        params = context["params"]
        source = params["source_uri"]
        number = self._events_at(source) if source else params[self.load]
        events = with_copies(number, params)
        estimate, budget = self.price.of_run(events), Decimal(str(params["budget_usd"]))
        text = (
            f"{dollars(estimate)} USD for {events} events{' by the size of the files' if source else ''} and "
            f"{HOURS} hour of the stack; the budget is {dollars(budget)} USD"
        )
        if estimate > budget:
            refusal = f"Refused: {text}. Ask for fewer events, or raise the param budget_usd"
            context["ti"].xcom_push(key="return_value", value=refusal)
            raise AirflowFailException(refusal)
        self.log.info("Estimated: %s", text)
        return text

    def _events_at(self, source_uri: str) -> int:
        s3 = S3Hook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)
        return -(-size_of(s3, self.lake, source_uri) // self.price.bytes_per_event)


def with_copies(events: int, params: Mapping[str, Any]) -> int:
    """Return how many events are sent, by the shares of copies in ``params``."""
    share: float = sum(params.get(name, 0) for name in COPIES) / 100
    return round(events * (1 + share))
