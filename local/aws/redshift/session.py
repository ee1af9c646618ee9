"""One database session: runs Redshift statements, alone or together in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import sql as composed

from local.aws.redshift import commands, lexer, translate
from local.aws.redshift.errors import SqlError, from_postgres
from local.aws.redshift.records import Namespace

Row = tuple[bytes | None, ...]
Outcome = TypeVar("Outcome")

_COUNTED = ("INSERT", "UPDATE", "DELETE", "MERGE", "SELECT", "COPY")


@dataclass(frozen=True)
class Column:
    """A column of a result, as PostgreSQL describes it; ``type`` and ``table`` are object ids."""

    name: str
    type: int
    modifier: int
    table: int


@dataclass(frozen=True)
class Result:
    """What a statement gave: rows as PostgreSQL prints them, or the number of rows it changed (-1: none to count)."""

    columns: list[Column] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    changed: int = -1


class Session:
    """A connection of one database user."""

    def __init__(self, namespace: Namespace, database: str, user: str, password: str, region: str) -> None:
        """Log in.

        Raises:
            SqlError: the password is wrong, or there is no such database.
        """
        self.namespace = namespace
        self.user = user
        self.region = region
        self.database = database
        self.has_written = False
        try:
            self.connection: psycopg.Connection[Any] = psycopg.connect(
                host="127.0.0.1",
                port=namespace.running().port,
                user=user,
                password=password,
                dbname=database,
                sslmode="require",
                connect_timeout=10,
                autocommit=True,
                application_name="Amazon Redshift Data API",
            )
        except psycopg.OperationalError as error:
            text = str(error).strip()
            raise SqlError(text.partition("FATAL:  ")[2] or text) from error

    @property
    def pid(self) -> int:
        """The process that serves the session."""
        return self.connection.info.backend_pid

    def close(self) -> None:
        """Log out; an open transaction is rolled back."""
        self.connection.close()

    def cancel(self) -> None:
        """Cancel what runs now, from another thread."""
        self.connection.cancel_safe(timeout=5)

    def run(self, statement: str) -> Result:
        """Run one statement in a transaction of its own.

        Raises:
            SqlError: it failed.
        """
        return _in_redshifts_words(partial(self._run, statement, alone=True))

    def run_together(self, statements: list[str], done: Callable[[int, Result], None]) -> None:
        """Run statements in one transaction; ``done`` hears of each as it ends.

        Raises:
            SqlError: one failed, and nothing is left of any (but of those before a TRUNCATE, which commits).
        """
        self.connection.execute("BEGIN")
        try:
            for number, statement in enumerate(statements):
                done(number, _in_redshifts_words(partial(self._run, statement, alone=False)))
        except BaseException:
            if not self.connection.closed:
                self.connection.execute("ROLLBACK")
            raise
        _in_redshifts_words(partial(self.connection.execute, "COMMIT"))

    def refresh_views(self) -> None:
        """Refresh the materialized views that refresh themselves, if something was written."""
        if not self.has_written:
            return
        with self.namespace.running().connect(self.database) as connection:
            views = connection.execute("SELECT schema_name, name FROM svv_mv_info WHERE autorefresh").fetchall()
            for view in views:
                connection.execute(composed.SQL("REFRESH MATERIALIZED VIEW {}").format(composed.Identifier(*view)))

    def translated(self, statement: str) -> Result:
        """Translate a statement and run it."""
        return self.execute(translate.to_postgres(statement))

    def execute(self, statement: str) -> Result:
        """Run a statement of PostgreSQL."""
        with self.connection.cursor() as cursor:
            cursor.execute(statement.encode())
            result = cursor.pgresult
            if result is None or not result.nfields:
                counted = (cursor.statusmessage or "").startswith(_COUNTED)
                self.has_written |= counted and cursor.rowcount > 0
                return Result(changed=cursor.rowcount if counted else -1)
            places = range(result.nfields)
            columns = [
                Column((result.fname(n) or b"").decode(), result.ftype(n), result.fmod(n), result.ftable(n))
                for n in places
            ]
            rows = [tuple(result.get_value(row, n) for n in places) for row in range(result.ntuples)]
            return Result(columns, rows, len(rows))

    def _run(self, statement: str, alone: bool) -> Result:
        parts = lexer.split(statement)
        if len(parts) != 1:
            raise SqlError("cannot insert multiple commands into a prepared statement")
        command = commands.find(parts[0])
        return command(self, parts[0], alone) if command else self.translated(parts[0])


def _in_redshifts_words(action: Callable[[], Outcome]) -> Outcome:
    try:
        return action()
    except psycopg.Error as error:
        raise from_postgres(error) from error
