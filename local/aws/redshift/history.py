"""SYS_LOAD_HISTORY and SYS_LOAD_ERROR_DETAIL: what loads did, whatever became of their transactions.

https://docs.aws.amazon.com/redshift/latest/dg/SYS_LOAD_HISTORY.html
https://docs.aws.amazon.com/redshift/latest/dg/SYS_LOAD_ERROR_DETAIL.html
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from local.aws.redshift.loading import Failure, Loaded
from local.aws.redshift.options import Copy

if TYPE_CHECKING:
    from local.aws.redshift.session import Session

MOST_ERRORS = 1000
"""Errors of one load that are kept."""

_TYPES = {
    **{"character varying": "varchar", "character": "char", "integer": "int4", "bigint": "int8", "smallint": "int2"},
    **{"double precision": "float8", "real": "float4", "boolean": "bool", "timestamp without time zone": "timestamp"},
    **{"timestamp with time zone": "timestamptz", "jsonb": "super", "time without time zone": "time"},
}
_HISTORY = (
    "INSERT INTO redshift_system.load_history (user_id, query_id, status, session_id, database_name, table_name, "
    "data_source, file_format, start_time, end_time, duration, loaded_rows, loaded_bytes, source_file_count, "
    "source_file_bytes, error_count, error_message) VALUES (%(user)s, %(query)s, %(status)s, %(session)s, "
    "%(database)s, %(table)s, %(source)s, %(format)s, %(began)s, %(ended)s, %(duration)s, %(rows)s, %(bytes)s, "
    "%(files)s, %(bytes)s, %(errors)s, %(error)s)"
)
_ERROR = (
    "INSERT INTO redshift_system.load_error (user_id, query_id, session_id, database_name, table_id, file_name, "
    "line_number, column_name, column_type, column_length, position, error_code, error_message) VALUES (%(user)s, "
    "%(query)s, %(session)s, %(database)s, %(oid)s, %(file)s, %(line)s, %(column)s, %(type)s, %(length)s, 0, "
    "%(code)s, %(reason)s)"
)


def now() -> datetime:
    """Return the time as the system tables keep it: UTC without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def record(session: Session, statement: Copy, loaded: Loaded, began: datetime, error: str) -> int:
    """Write down a load, in a transaction of its own, and return its query id; ``error`` is empty if it succeeded."""
    ended = now()
    table = session.connection.execute("SELECT to_regclass(%s)::oid::bigint", [statement.table]).fetchone()
    with session.namespace.running().connect(session.database) as connection, connection.transaction():
        numbers = connection.execute(
            "SELECT oid::bigint, nextval('redshift_system.query_id') FROM pg_roles WHERE rolname = %s", [session.user]
        ).fetchone()
        user, query = numbers or (0, 0)
        row: dict[str, Any] = {
            "user": user,
            "query": query,
            "status": "failed" if error else "completed",
            "session": session.pid,
            "database": session.database,
            "table": statement.table,
            "oid": table[0] if table else None,
            "source": statement.source[:1024],
            "format": loaded.format.lower(),
            "began": began,
            "ended": ended,
            "duration": round((ended - began).total_seconds() * 1_000_000),
            "rows": 0 if error else loaded.rows,
            "bytes": sum(source.size for source in loaded.sources),
            "files": len(loaded.sources),
            "errors": len(loaded.failures),
            "error": error[:512],
        }
        connection.execute(_HISTORY, row)
        for failure in loaded.failures[:MOST_ERRORS]:
            connection.execute(_ERROR, row | _described(failure))
    return int(query)


def _described(failure: Failure) -> dict[str, Any]:
    column = failure.column
    return {
        "file": failure.source[:256],
        "line": failure.line,
        "column": column.name if column else "",
        "type": _TYPES.get(column.type, column.type[:10]) if column else "",
        "length": str(column.size) if column else "",
        "code": failure.code,
        "reason": failure.reason[:512],
    }
