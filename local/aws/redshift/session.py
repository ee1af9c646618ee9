"""One database session: runs Redshift statements on PostgreSQL, COPY and UNLOAD with the roles they name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql as composed

from local.aws.redshift import loading, options, roles, translate, unloading
from local.aws.redshift.errors import SqlError, from_postgres, unsupported
from local.aws.redshift.records import Namespace

Row = tuple[bytes | None, ...]


@dataclass(frozen=True)
class Column:
    """A column of a result, as PostgreSQL describes it."""

    name: str
    type: int
    modifier: int
    table: int
    number: int


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
        self._written: set[str] = set()
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
        return self._guarded(lambda: self._run(statement, alone=True))

    def run_together(self, statements: list[str], done: Callable[[int, Result], None]) -> None:
        """Run statements in one transaction; ``done`` hears of each as it ends.

        Raises:
            SqlError: one failed, and nothing is left of any (but of those before a TRUNCATE, which commits).
        """
        self._guarded(lambda: self.connection.execute("BEGIN"))
        try:
            for number, statement in enumerate(statements):
                done(number, self._guarded(lambda text=statement: self._run(text, alone=False)))
        except BaseException:
            if not self.connection.closed:
                self.connection.execute("ROLLBACK")
            raise
        self._guarded(lambda: self.connection.execute("COMMIT"))

    def refresh_views(self) -> None:
        """Refresh the materialized views that refresh themselves, if something was written."""
        if not self._written:
            return
        with self.namespace.running().connect(self.database) as connection:
            views = connection.execute("SELECT schema_name, name FROM svv_mv_info WHERE autorefresh").fetchall()
            for view in views:
                connection.execute(composed.SQL("REFRESH MATERIALIZED VIEW {}").format(composed.Identifier(*view)))

    def _guarded(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except psycopg.Error as error:
            raise from_postgres(error) from error

    def _run(self, statement: str, alone: bool) -> Result:
        parts = translate.split(statement)
        if len(parts) != 1:
            raise SqlError("cannot insert multiple commands into a prepared statement")
        text = parts[0]
        words = translate.words(text, 5)
        run = next((_STATEMENTS[" ".join(words[:n])] for n in (3, 2, 1) if " ".join(words[:n]) in _STATEMENTS), None)
        if run is not None:
            return run(self, text, words, alone)
        return self._execute(translate.to_postgres(text))

    def _execute(self, text: str) -> Result:
        with self.connection.cursor() as cursor:
            cursor.execute(text.encode())
            result = cursor.pgresult
            if result is None or not result.nfields:
                changed = cursor.rowcount if _counted(cursor.statusmessage) else -1
                if changed > 0:
                    self._written.add(self.database)
                return Result(changed=changed)
            columns = [
                Column(
                    (result.fname(n) or b"").decode(), result.ftype(n), result.fmod(n), result.ftable(n), result.ftablecol(n)
                )
                for n in range(result.nfields)
            ]
            rows = [
                tuple(result.get_value(row, n) for n in range(result.nfields)) for row in range(result.ntuples)
            ]
            return Result(columns, rows, len(rows))

    # Statements that only Redshift has, or that mean something else there

    def _copy(self, text: str, words: list[str], alone: bool) -> Result:
        statement = options.parse_copy(text)
        s3 = roles.s3_client(self.namespace, statement.clauses, self.user, self.region)
        began = loading.now()
        try:
            with self.connection.transaction():
                loaded = loading.copy(self.connection, s3, statement)
        except loading.LoadError as error:
            self._record(statement, error.loaded, began, error.message)
            raise
        query = self._record(statement, loaded, began, "")
        self.connection.execute(
            "SELECT set_config('redshift.last_copy_count', %s, false), set_config('redshift.last_copy_id', %s, false)",
            [str(loaded.rows), str(query)],
        )
        self._written.add(self.database)
        return Result(changed=loaded.rows)

    def _record(self, statement: options.Copy, loaded: loading.Loaded, began: datetime, error: str) -> int:
        """Write the system tables in a transaction of their own, which the statement's end does not touch."""
        ended = loading.now()
        table = self.connection.execute("SELECT to_regclass(%s)::oid::bigint", [statement.table]).fetchone()
        with self.namespace.running().connect(self.database) as connection, connection.transaction():
            user = connection.execute("SELECT oid::bigint FROM pg_roles WHERE rolname = %s", [self.user]).fetchone()
            query = connection.execute("SELECT nextval('redshift_system.query_id')").fetchone()
            who = {"user": user[0] if user else 0, "query": query[0] if query else 0}
            connection.execute(
                "INSERT INTO redshift_system.load_history VALUES (%(user)s, %(query)s, %(status)s, %(pid)s, %(database)s, "
                "%(table)s, %(source)s, %(format)s, %(began)s, %(ended)s, %(duration)s, %(rows)s, %(bytes)s, %(files)s, "
                "%(bytes)s, %(errors)s, %(error)s)",
                who
                | {
                    "status": "failed" if error else "completed",
                    "pid": self.pid,
                    "database": self.database,
                    "table": statement.table,
                    "source": statement.source[:1024],
                    "format": loaded.format.lower(),
                    "began": began,
                    "ended": ended,
                    "duration": (ended - began).microseconds + (ended - began).seconds * 1_000_000,
                    "rows": 0 if error else loaded.rows,
                    "bytes": sum(source.size for source in loaded.sources),
                    "files": len(loaded.sources),
                    "errors": len(loaded.failures),
                    "error": error[:512],
                },
            )
            for failure in loaded.failures[:1000]:
                column = failure.column
                connection.execute(
                    "INSERT INTO redshift_system.load_error (user_id, query_id, session_id, database_name, table_id, "
                    "file_name, line_number, column_name, column_type, column_length, position, error_code, "
                    "error_message) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 0, %s, %s)",
                    [
                        who["user"],
                        who["query"],
                        self.pid,
                        self.database,
                        table[0] if table else None,
                        failure.source[:256],
                        failure.line,
                        column.name if column else "",
                        _SHORT_TYPES.get(column.type, column.type[:10]) if column else "",
                        str(column.size) if column else "",
                        failure.code,
                        failure.reason,
                    ],
                )
        return int(who["query"])

    def _unload(self, text: str, words: list[str], alone: bool) -> Result:
        statement = options.parse_unload(text)
        s3 = roles.s3_client(self.namespace, statement.clauses, self.user, self.region)
        return Result(changed=unloading.unload(self.connection, s3, statement))

    def _truncate(self, text: str, words: list[str], alone: bool) -> Result:
        """TRUNCATE commits: https://docs.aws.amazon.com/redshift/latest/dg/r_TRUNCATE.html"""
        result = self._execute(translate.to_postgres(text))
        if not alone:
            self.connection.execute("COMMIT")
            self.connection.execute("BEGIN")
        self._written.add(self.database)
        return result

    def _merge(self, text: str, words: list[str], alone: bool) -> Result:
        duplicates = re.fullmatch(
            r"\s*MERGE\s+INTO\s+(?P<target>[\w.\"#]+)\s+USING\s+(?P<source>[\w.\"#]+)\s+ON\s+(?P<match>.*?)\s+"
            r"REMOVE\s+DUPLICATES\s*",
            text,
            re.IGNORECASE | re.DOTALL,
        )
        if duplicates is None:
            self._refuse_views(text)
            return self._execute(translate.to_postgres(text))
        # https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html: rows of the target that match go, and every
        # distinct row of the source comes.
        target, source, match = duplicates["target"], duplicates["source"], duplicates["match"]
        removed = self._execute(translate.to_postgres(f"DELETE FROM {target} USING {source} WHERE {match}"))
        added = self._execute(translate.to_postgres(f"INSERT INTO {target} SELECT DISTINCT * FROM {source}"))
        return Result(changed=removed.changed + added.changed)

    def _refuse_views(self, text: str) -> None:
        """MERGE takes tables only."""
        merge = translate.parse(text)
        for table in (merge.this, merge.args["using"]):
            name = table.sql(dialect="redshift").split(" AS ")[0]
            row = self.connection.execute(
                "SELECT relkind FROM pg_class WHERE oid = to_regclass(%s)", [name.lower()]
            ).fetchone()
            if row and row[0] in ("v", "m", b"v", b"m"):
                raise SqlError(f"MERGE does not support views: {name}")

    def _alter_table(self, text: str, words: list[str], alone: bool) -> Result:
        after = [token.text.upper() for token in translate.tokens(text)]
        if "APPEND" in after[3:6]:
            return self._append(text, alone)
        if "OWNER" in after[3:6]:
            return self._execute(_passed(text))
        if _PHYSICAL.search(text) or _KEY.search(text):
            return Result()  # neither is enforced, or changes a result
        return self._execute(translate.to_postgres(text))

    def _append(self, text: str, alone: bool) -> Result:
        """Move the rows: https://docs.aws.amazon.com/redshift/latest/dg/r_ALTER_TABLE_APPEND.html"""
        moved = re.fullmatch(
            r"\s*ALTER\s+TABLE\s+(?P<target>\S+)\s+APPEND\s+FROM\s+(?P<source>\S+?)\s*", text, re.IGNORECASE
        )
        if moved is None:
            raise unsupported("ALTER TABLE APPEND with IGNOREEXTRA or FILLTARGET")
        if not alone:
            raise SqlError("ALTER TABLE APPEND cannot run inside a transaction block")
        with self.connection.transaction():
            result = self._execute(
                translate.to_postgres(f"INSERT INTO {moved['target']} SELECT * FROM {moved['source']}")
            )
            self._execute(translate.to_postgres(f"DELETE FROM {moved['source']}"))
        return result

    def _materialized_view(self, text: str, words: list[str], alone: bool) -> Result:
        """https://docs.aws.amazon.com/redshift/latest/dg/materialized-view-create-sql-command.html"""
        plain = translate.without_physical_design(text, translate.Table())
        automatic = re.search(r"\bAUTO\s+REFRESH\s+(YES|NO)\b", plain, re.IGNORECASE)
        if automatic:
            plain = plain[: automatic.start()] + plain[automatic.end() :]
        result = self._execute(translate.to_postgres(plain))
        if automatic and automatic[1].upper() == "YES":
            view = translate.parse(plain).this.sql(dialect="postgres")
            self._execute(f"COMMENT ON MATERIALIZED VIEW {view} IS 'AUTO REFRESH YES'")
        return result

    def _refresh(self, text: str, words: list[str], alone: bool) -> Result:
        name = re.fullmatch(r"\s*REFRESH\s+MATERIALIZED\s+VIEW\s+([\w.\"]+)\s*(?:RESTRICT|CASCADE)?\s*", text, re.IGNORECASE)
        if name is None:
            raise SqlError('syntax error at or near "REFRESH"')
        return self._execute(f"REFRESH MATERIALIZED VIEW {name[1].lower()}")

    def _vacuum(self, text: str, words: list[str], alone: bool) -> Result:
        """PostgreSQL looks after its files itself; the table must exist all the same."""
        if not alone:
            raise SqlError("VACUUM cannot run inside a transaction block")
        names = [word for word in translate.words(text, 9)[1:] if word not in _VACUUM_WORDS and not word.isdigit()]
        if names and not self.connection.execute("SELECT to_regclass(%s)", ["".join(names[:3]).lower()]).fetchone()[0]:  # type: ignore[index]
            raise SqlError(f'relation "{names[0].lower()}" does not exist')
        return Result()

    def _analyze(self, text: str, words: list[str], alone: bool) -> Result:
        plain = re.sub(r"\b(VERBOSE|PREDICATE\s+COLUMNS|ALL\s+COLUMNS)\b", "", text, flags=re.IGNORECASE)
        return self._execute(plain)

    def _explain(self, text: str, words: list[str], alone: bool) -> Result:
        query = re.sub(r"^\s*EXPLAIN\s+(VERBOSE\s+)?", "", text, flags=re.IGNORECASE)
        return self._execute(f"EXPLAIN {translate.to_postgres(query)}")

    def _transaction(self, text: str, words: list[str], alone: bool) -> Result:
        raise SqlError(f"{words[0]} is not supported by the Data API: it controls the transaction itself")

    def _as_it_is(self, text: str, words: list[str], alone: bool) -> Result:
        return self._execute(_passed(text))

    def _create_user(self, text: str, words: list[str], alone: bool) -> Result:
        return self._execute(
            re.sub(r"\bPASSWORD\s+DISABLE\b", "PASSWORD NULL", text, flags=re.IGNORECASE)
            .replace("CREATEUSER", "SUPERUSER")
            .replace("createuser", "SUPERUSER")
        )


def _passed(text: str) -> str:
    """Return a statement that PostgreSQL understands, but for the word before a role."""
    return re.sub(r"\b(TO|FROM)\s+ROLE\b", r"\1", text, flags=re.IGNORECASE)


def _counted(status: str | None) -> bool:
    return bool(status) and str(status).split()[0] in ("INSERT", "UPDATE", "DELETE", "MERGE", "SELECT", "COPY")


_VACUUM_WORDS = frozenset({"FULL", "SORT", "ONLY", "DELETE", "REINDEX", "RECLUSTER", "TO", "PERCENT", "BOOST"})
_SHORT_TYPES = {
    **{"character varying": "varchar", "character": "char", "integer": "int4", "bigint": "int8", "smallint": "int2"},
    **{"double precision": "float8", "real": "float4", "boolean": "bool", "timestamp without time zone": "timestamp"},
    **{"timestamp with time zone": "timestamptz", "jsonb": "super", "time without time zone": "time"},
}

_PHYSICAL = re.compile(r"\bALTER\s+(DISTSTYLE|DISTKEY|SORTKEY|COMPOUND|ENCODE|COLUMN\s+\S+\s+ENCODE)\b", re.IGNORECASE)
_KEY = re.compile(r"\bADD\s+(CONSTRAINT\s+\S+\s+)?(PRIMARY|UNIQUE|FOREIGN)\b", re.IGNORECASE)

_Run = Callable[[Session, str, list[str], bool], Result]
_STATEMENTS: dict[str, _Run] = {
    "COPY": Session._copy,
    "UNLOAD": Session._unload,
    "TRUNCATE": Session._truncate,
    "MERGE": Session._merge,
    "CREATE MATERIALIZED VIEW": Session._materialized_view,
    "REFRESH MATERIALIZED VIEW": Session._refresh,
    "VACUUM": Session._vacuum,
    "ANALYZE": Session._analyze,
    "EXPLAIN": Session._explain,
    "CREATE USER": Session._create_user,
    "ALTER USER": Session._create_user,
    "ALTER TABLE": Session._alter_table,
    **dict.fromkeys(("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"), Session._transaction),
    **dict.fromkeys(("GRANT", "REVOKE", "LOCK", "SET", "RESET", "SHOW", "COMMENT"), Session._as_it_is),
    **dict.fromkeys(("CREATE GROUP", "DROP GROUP", "CREATE ROLE", "DROP ROLE", "DROP USER"), Session._as_it_is),
    "ALTER SCHEMA": Session._as_it_is,
    "DROP SCHEMA": Session._as_it_is,
}
