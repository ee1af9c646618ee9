"""Rows for the gate by Redshift's Data API."""

from __future__ import annotations

from atlas.hooks.redshift_data import WarehouseHook
from atlas.quality.rows import Row


class RedshiftRows:
    """Runs the gate's queries in Redshift; see :class:`atlas.quality.rows.Rows`.

    Args:
        hook: of the database.
        poll_interval: seconds between two looks at a running query.
    """

    def __init__(self, hook: WarehouseHook, poll_interval: int) -> None:
        self.name = f"Redshift, database {hook.database}, {hook.workgroup_name or hook.cluster_identifier}"
        self._hook = hook
        self._poll_interval = poll_interval

    def fetch(self, sql: str, limit: int) -> list[Row]:
        """Return the first ``limit`` rows of a query."""
        return self._hook.rows(sql, self._poll_interval, limit=limit)

    def cancel(self) -> None:
        """Cancel the statement under way."""
        self._hook.cancel()
