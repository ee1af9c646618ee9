"""Statements that only Redshift has, or that mean something else there than in PostgreSQL."""

# ruff: noqa: S608 - SQL is built here from parts of the statement that is run

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from local.aws.redshift import history, lexer, loading, options, roles, tables, translate, unloading
from local.aws.redshift.errors import SqlError, unsupported

if TYPE_CHECKING:
    from local.aws.redshift.session import Result, Session

Command = Callable[["Session", str, bool], "Result"]
"""Runs a statement in a session, alone or as one of several in a transaction."""


def find(sql: str) -> Command | None:
    """Return what runs a statement, None if its translation does."""
    words = lexer.words(sql, 3)
    names = (" ".join(words[:count]) for count in (3, 2, 1))
    return next((_COMMANDS[name] for name in names if name in _COMMANDS), None)


def _changed(rows: int) -> Result:
    from local.aws.redshift.session import Result

    return Result(changed=rows)


# Loading and unloading --------------------------------------------------------------------------------------------


def _copy(session: Session, sql: str, alone: bool) -> Result:
    statement = options.parse_copy(sql)
    s3 = roles.s3_client(session.namespace, statement.clauses, session.user, session.region)
    began = history.now()
    try:
        with session.connection.transaction():
            loaded = loading.copy(session.connection, s3, statement)
    except loading.LoadError as error:
        history.record(session, statement, error.loaded, began, error.message)
        raise
    query = history.record(session, statement, loaded, began, "")
    session.connection.execute(
        "SELECT set_config('redshift.last_copy_count', %s, false), set_config('redshift.last_copy_id', %s, false)",
        [str(loaded.rows), str(query)],
    )
    session.has_written |= loaded.rows > 0
    return _changed(loaded.rows)


def _unload(session: Session, sql: str, alone: bool) -> Result:
    statement = options.parse_unload(sql)
    s3 = roles.s3_client(session.namespace, statement.clauses, session.user, session.region)
    return _changed(unloading.unload(session.connection, s3, statement))


# Changing rows ----------------------------------------------------------------------------------------------------


def _locked(session: Session, sql: str, alone: bool) -> Result:
    """Change rows while nobody else changes the table: a second writer waits until the first one's transaction ends.

    https://docs.aws.amazon.com/redshift/latest/dg/c_write_readwrite.html
    """
    translated = translate.to_postgres(sql)
    target = translate.parse(sql).this.copy()
    target.set("alias", None)
    with session.connection.transaction():
        session.execute(f"LOCK TABLE {target.sql(dialect='postgres')} IN SHARE ROW EXCLUSIVE MODE")
        return session.execute(translated)


def _merge(session: Session, sql: str, alone: bool) -> Result:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html"""
    simple = re.fullmatch(
        r"\s*MERGE\s+INTO\s+(?P<target>\S+)\s+USING\s+(?P<source>\S+)\s+ON\s+(?P<match>.*?)\s+REMOVE\s+DUPLICATES\s*",
        sql,
        re.IGNORECASE | re.DOTALL,
    )
    if simple:
        # Rows of the target that match go, and every distinct row of the source comes.
        target, source = simple["target"], simple["source"]
        with session.connection.transaction():
            removed = _locked(session, f"DELETE FROM {target} USING {source} WHERE {simple['match']}", alone)
            added = session.translated(f"INSERT INTO {target} SELECT DISTINCT * FROM {source}")
        return _changed(removed.changed + added.changed)
    translate.to_postgres(sql)  # refuses what is no MERGE of Redshift before its tables are looked at
    merge = translate.parse(sql)
    for table in (merge.this, merge.args["using"]):
        name = f"{table.db}.{table.name}".strip(".").lower()
        kind = session.connection.execute("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)", [name])
        if kind.fetchone() in (("v",), ("m",)):
            raise SqlError(f"MERGE takes tables only, {name} is a view")
    return _locked(session, sql, alone)


def _truncate(session: Session, sql: str, alone: bool) -> Result:
    """Commit as well: https://docs.aws.amazon.com/redshift/latest/dg/r_TRUNCATE.html"""
    result = session.translated(sql)
    if not alone:
        session.connection.execute("COMMIT")
        session.connection.execute("BEGIN")
    session.has_written = True
    return result


# Tables and views -------------------------------------------------------------------------------------------------

_DESIGN = re.compile(r"\bALTER\s+(DISTSTYLE|DISTKEY|SORTKEY|COMPOUND|ENCODE|COLUMN\s+\S+\s+ENCODE)\b", re.IGNORECASE)
_KEY = re.compile(r"\bADD\s+(CONSTRAINT\s+\S+\s+)?(PRIMARY|UNIQUE|FOREIGN)\b", re.IGNORECASE)
_APPEND = re.compile(r"\s*ALTER\s+TABLE\s+(?P<target>\S+)\s+APPEND\s+FROM\s+(?P<source>\S+)\s*", re.IGNORECASE)
_REFRESH = re.compile(r"\s*REFRESH\s+MATERIALIZED\s+VIEW\s+([\w.\"]+)\s*(RESTRICT|CASCADE)?\s*", re.IGNORECASE)
_AUTO_REFRESH = re.compile(r"\bAUTO\s+REFRESH\s+(YES|NO)\b", re.IGNORECASE)


def _alter_table(session: Session, sql: str, alone: bool) -> Result:
    after = lexer.words(sql, 6)[3:]
    if "APPEND" in after:
        return _append(session, sql, alone)
    if "OWNER" in after:
        return _as_it_is(session, sql, alone)
    if _DESIGN.search(sql) or _KEY.search(sql):
        return _changed(-1)  # changes no result and is not enforced
    return session.translated(sql)


def _append(session: Session, sql: str, alone: bool) -> Result:
    """Move the rows: https://docs.aws.amazon.com/redshift/latest/dg/r_ALTER_TABLE_APPEND.html"""
    moved = _APPEND.fullmatch(sql)
    if moved is None:
        raise unsupported("ALTER TABLE APPEND with IGNOREEXTRA or FILLTARGET")
    if not alone:
        raise SqlError("ALTER TABLE APPEND cannot run inside a transaction block")
    with session.connection.transaction():
        result = session.translated(f"INSERT INTO {moved['target']} SELECT * FROM {moved['source']}")
        session.translated(f"DELETE FROM {moved['source']}")
    return result


def _materialized_view(session: Session, sql: str, alone: bool) -> Result:
    """https://docs.aws.amazon.com/redshift/latest/dg/materialized-view-create-sql-command.html"""
    plain, _ = tables.without_design(sql)
    automatic = _AUTO_REFRESH.search(plain)
    if automatic:
        plain = plain[: automatic.start()] + plain[automatic.end() :]
    result = session.translated(plain)
    if automatic and automatic[1].upper() == "YES":
        view = translate.parse(plain).this.sql(dialect="postgres")
        session.execute(f"COMMENT ON MATERIALIZED VIEW {view} IS 'AUTO REFRESH YES'")
    return result


def _refresh(session: Session, sql: str, alone: bool) -> Result:
    name = _REFRESH.fullmatch(sql)
    if name is None:
        raise SqlError('syntax error at or near "REFRESH"')
    return session.execute(f"REFRESH MATERIALIZED VIEW {name[1].lower()}")


# Maintenance ------------------------------------------------------------------------------------------------------

_VACUUM = re.compile(
    r"\s*VACUUM(\s+(FULL|SORT\s+ONLY|DELETE\s+ONLY|REINDEX|RECLUSTER))?(\s+(?P<table>[\w.\"]+))?"
    r"(\s+TO\s+\d+\s+PERCENT)?(\s+BOOST)?\s*",
    re.IGNORECASE,
)


def _vacuum(session: Session, sql: str, alone: bool) -> Result:
    """Do nothing, as PostgreSQL looks after its files itself; the table must exist all the same."""
    if not alone:
        raise SqlError("VACUUM cannot run inside a transaction block")
    found = _VACUUM.fullmatch(sql)
    if found is None:
        raise SqlError('syntax error at or near "VACUUM"')
    if found["table"]:
        session.connection.execute("SELECT %s::regclass", [found["table"].lower()])
    return _changed(-1)


def _analyze(session: Session, sql: str, alone: bool) -> Result:
    return session.execute(re.sub(r"\b(VERBOSE|(PREDICATE|ALL)\s+COLUMNS)\b", "", sql, flags=re.IGNORECASE))


def _explain(session: Session, sql: str, alone: bool) -> Result:
    query = re.sub(r"^\s*EXPLAIN\s+(VERBOSE\s+)?", "", sql, flags=re.IGNORECASE)
    return session.execute(f"EXPLAIN {translate.to_postgres(query)}")


# Users and transactions -------------------------------------------------------------------------------------------


def _as_it_is(session: Session, sql: str, alone: bool) -> Result:
    """Run what PostgreSQL understands, but for the word before a role."""
    return session.execute(re.sub(r"\b(TO|FROM)\s+ROLE\b", r"\1", sql, flags=re.IGNORECASE))


def _user(session: Session, sql: str, alone: bool) -> Result:
    """https://docs.aws.amazon.com/redshift/latest/dg/r_CREATE_USER.html"""
    sql = re.sub(r"\bPASSWORD\s+DISABLE\b", "PASSWORD NULL", sql, flags=re.IGNORECASE)
    return session.execute(re.sub(r"\b(NO)?CREATEUSER\b", r"\1SUPERUSER", sql, flags=re.IGNORECASE))


def _transaction(session: Session, sql: str, alone: bool) -> Result:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api.html"""
    raise SqlError(f"{lexer.words(sql, 1)[0]} is not supported by the Data API, which controls the transaction itself")


_COMMANDS: dict[str, Command] = {
    "COPY": _copy,
    "UNLOAD": _unload,
    "UPDATE": _locked,
    "DELETE": _locked,
    "MERGE": _merge,
    "TRUNCATE": _truncate,
    "ALTER TABLE": _alter_table,
    "CREATE MATERIALIZED VIEW": _materialized_view,
    "REFRESH MATERIALIZED VIEW": _refresh,
    "VACUUM": _vacuum,
    "ANALYZE": _analyze,
    "EXPLAIN": _explain,
    **dict.fromkeys(("CREATE USER", "ALTER USER"), _user),
    **dict.fromkeys(("GRANT", "REVOKE", "LOCK", "SET", "RESET", "SHOW", "COMMENT", "DROP SCHEMA"), _as_it_is),
    **dict.fromkeys(("CREATE GROUP", "DROP GROUP", "CREATE ROLE", "DROP ROLE", "DROP USER"), _as_it_is),
    **dict.fromkeys(("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"), _transaction),
}
