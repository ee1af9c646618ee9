"""Where the gate's rows come from."""

from __future__ import annotations

from typing import Any, Protocol

Row = dict[str, Any]
"""Column name to value: numbers as ``int``, ``float`` or ``Decimal``, times aware, NULL as None."""


class Rows(Protocol):
    """An engine that the data of a gate is judged in."""

    name: str
    """The engine and the place, for the gate's page."""

    def fetch(self, sql: str, limit: int) -> list[Row]:
        """Return the first ``limit`` rows of a query.

        Raises:
            AirflowException: the query failed; says why.
        """

    def cancel(self) -> None:
        """Stop the query under way, if there is one."""
