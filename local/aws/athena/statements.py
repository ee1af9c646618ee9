"""What each kind of statement does."""

# ruff: noqa: S608 - SQL is built here from quoted names and parsed statements

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp

from local.aws.athena import ddl, hive, lake, results, translate, writing
from local.aws.athena.catalog import Partition, Table, column_members, storage
from local.aws.athena.engine import Engine
from local.aws.athena.errors import NO_PATH, SYNTAX, QueryError, position, unsupported
from local.aws.athena.hive import Column

_UNLOAD = re.compile(
    r"\s*UNLOAD\s*\((?P<query>.*)\)\s*TO\s*'(?P<to>[^']+)'\s*WITH\s*\((?P<with>.*)\)\s*;?\s*", re.I | re.S
)


@dataclass(frozen=True)
class Statement:
    """A statement: its text, its kinds as the API names them, and its tree unless it is a Hive command."""

    text: str
    type: str
    subtype: str
    tree: exp.Expr | None


@dataclass(frozen=True)
class Context:
    """What a statement needs to know of its query."""

    query_id: str
    database: str
    output: str
    enforced_output: bool
    put_settings: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """What a statement gives: columns (of DuckDB's types) and rows, or a number of rows written and their objects."""

    columns: list[Column] = field(default_factory=list)
    rows: Iterator[results.Row] = field(default_factory=lambda: iter(()))
    updated: int = 0
    objects: list[str] | None = None


_DDL = {exp.Create: "CREATE", exp.Drop: "DROP"}


def parse(text: str) -> Statement:
    """Tell what a statement is.

    Raises:
        QueryError: it cannot be parsed, or it is of a kind that is not supported.
    """
    if ddl.is_command(text):
        words = text.split()
        subtype = {"MSCK": "MSCK_REPAIR_TABLE", "ALTER": "ALTER_TABLE"}.get(
            words[0].upper(), "_".join(words[:2]).upper()
        )
        kind = "UTILITY" if words[0].upper() in ("SHOW", "DESC", "DESCRIBE") else "DDL"
        return Statement(text, kind, subtype if kind == "DDL" or words[0].upper() == "SHOW" else "DESCRIBE_TABLE", None)
    if unload := _UNLOAD.fullmatch(text):
        return Statement(text, "DML", "UNLOAD", translate.parse(unload["query"]))
    tree = translate.parse(text)
    if isinstance(tree, exp.Create) and tree.args["kind"] == "TABLE" and tree.expression:
        return Statement(text, "DDL", "CREATE_TABLE_AS_SELECT", tree)
    if isinstance(tree, (exp.Create, exp.Drop)):
        return Statement(text, "DDL", f"{_DDL[type(tree)]}_{tree.args['kind'].upper()}", tree)
    if isinstance(tree, exp.Insert):
        return Statement(text, "DML", "INSERT", tree)
    if isinstance(tree, exp.Query):
        return Statement(text, "DML", "SELECT", tree)
    raise unsupported(f"Statement {text.split(maxsplit=1)[0].upper()}")


def run(engine: Engine, statement: Statement, context: Context) -> Outcome:
    """Run a statement.

    Raises:
        QueryError: it failed.
    """
    tree = statement.tree
    if tree is None:
        outcome = _lines(ddl.command(engine, statement.text, context.database))
    elif statement.subtype == "UNLOAD":
        outcome = _unload(engine, tree, statement.text, context)
    elif isinstance(tree, exp.Insert):
        outcome = _insert(engine, tree, context)
    elif statement.subtype == "CREATE_TABLE_AS_SELECT":
        outcome = _create_table_as(engine, tree, context)
    elif isinstance(tree, exp.Create):
        outcome = _lines(ddl.create(engine, tree, context.database))
    elif isinstance(tree, exp.Drop):
        outcome = _lines(ddl.drop(engine, tree, context.database))
    else:
        sql = engine.translated(translate.name_columns(tree), context.database)
        columns, rows = engine.select(sql)
        outcome = Outcome(columns, ([results.text(value) for value in row] for row in rows))
    return outcome


def _lines(lines: list[str]) -> Outcome:
    return Outcome([Column("result", "VARCHAR")], ([line] for line in lines))


def _written(written: writing.Written) -> Outcome:
    return Outcome([Column("rows", "BIGINT")], iter(()), written.rows, written.objects)


def _properties(items: list[exp.Expr]) -> dict[str, Any]:
    """Return the WITH (...) of CREATE TABLE AS: texts, and lists of texts."""
    found: dict[str, Any] = {}
    for item in items:
        if isinstance(item, exp.FileFormatProperty):
            found["format"] = item.this.name
        elif isinstance(item, exp.PartitionedByProperty):
            found["partitioned_by"] = [column.name for column in item.this.expressions]
        else:
            found[item.name.lower()] = item.args["value"].name
    return found


_CTAS_PROPERTIES = {"format", "partitioned_by", "external_location", "write_compression", "parquet_compression"} | {
    "field_delimiter",
    "is_external",
}


def _create_table_as(engine: Engine, tree: exp.Expr, context: Context) -> Outcome:
    schema, name = ddl.table_names(tree.this, context.database)
    if engine.catalog.find(schema, name):
        if tree.args.get("exists"):
            return _written(writing.Written(0, [], []))
        at = position(engine.query, name)
        reason = f"TABLE_ALREADY_EXISTS: {at}: Destination table 'awsdatacatalog.{schema}.{name}' already exists"
        raise QueryError(reason, SYNTAX)
    given = tree.args.get("properties")
    properties = _properties(given.expressions if given else [])
    if unknown := set(properties) - _CTAS_PROPERTIES:
        raise unsupported(f"CREATE TABLE AS property {', '.join(sorted(unknown))}")
    target = _target(engine, tree.expression, properties, context, _ctas_location(properties, context))
    _require_empty(engine, target.location, f"{schema}.{name}")
    sql = engine.translated(tree.expression.copy(), context.database)
    if tree.args.get("no_data"):
        sql = f"SELECT * FROM ({sql}) LIMIT 0"
    written = writing.write(engine, sql, target, context.query_id, context.put_settings)
    settings = {"field.delim": target.delimiter} if target.format == "TEXTFILE" else {}
    table_input = {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "classification": target.format.lower()},
        "PartitionKeys": column_members(target.keys),
        "StorageDescriptor": storage(target.columns, target.location, hive.FORMATS[target.format], settings),
    }
    engine.catalog.create_table(schema, table_input, f"creating table {schema}.{name}")
    _register(engine, engine.catalog.table(schema, name), written)
    return _written(written)


def _ctas_location(properties: dict[str, Any], context: Context) -> str:
    if "external_location" not in properties:
        return f"{context.output}tables/{context.query_id}/"
    if context.enforced_output:
        raise QueryError(
            "The Create Table As Select query failed because it was submitted with an 'external_location' property to "
            "an Athena Workgroup that enforces a centralized output location for all queries. Please remove the "
            "'external_location' property and resubmit the query."
        )
    return str(properties["external_location"])


def _target(
    engine: Engine, query: exp.Expr, properties: dict[str, Any], context: Context, location: str
) -> writing.Target:
    """Return what CREATE TABLE AS and UNLOAD write: the columns of ``query``, the last ones as partition keys."""
    form = str(properties.get("format", "PARQUET")).upper()
    compression = str(
        properties.get("write_compression")
        or properties.get("parquet_compression")
        or properties.get("compression", "GZIP")
    ).upper()
    writing.check_format(form, compression)
    sql = engine.translated(translate.name_columns(query.copy()), context.database)
    columns = [Column(column.name.lower(), hive.hive_type(column.type)) for column in engine.columns(sql)]
    for n, column in enumerate(columns):
        if column.name == f"_col{n}":
            raise QueryError(f"MISSING_COLUMN_NAME: line 1:1: Column name not specified at position {n + 1}", SYNTAX)
    keys = [str(key).lower() for key in properties.get("partitioned_by", [])]
    rest = len(columns) - len(keys)
    if [column.name for column in columns[rest:]] != keys:
        raise QueryError(
            "HIVE_COLUMN_ORDER_MISMATCH: Partition keys must be the last columns in the table and in the same order "
            f"as the table properties: [{', '.join(keys)}]"
        )
    delimiter = properties.get("field_delimiter", "\x01")
    return writing.Target(location, form, compression, columns[:rest], columns[rest:], delimiter)


def _require_empty(engine: Engine, location: str, name: str) -> None:
    if next(lake.list_files(engine.s3, lake.folder(location)), None):
        raise QueryError(
            f"HIVE_PATH_ALREADY_EXISTS: Target directory for table '{name}' already exists: {location}. "
            "You may need to manually clean the data at this location before retrying.",
            NO_PATH,
        )


def _register(engine: Engine, table: Table, written: writing.Written) -> None:
    known = {partition.values for partition in engine.catalog.partitions(table)} if table.keys else set()
    new = [values for values in written.partitions if values not in known]
    root = lake.folder(table.location)
    folders = {tuple(address.removeprefix(str(root)).split("/")[:-1]) for address in written.objects}
    places = dict(zip(written.partitions, sorted(folders), strict=True)) if table.keys else {}
    engine.catalog.add_partitions(
        table, [Partition(values, f"{table.location}{'/'.join(places[values])}/") for values in new]
    )


def _insert(engine: Engine, tree: exp.Insert, context: Context) -> Outcome:
    reference = tree.this.this if isinstance(tree.this, exp.Schema) else tree.this
    table = engine.catalog.table(*ddl.table_names(reference, context.database))
    if table.is_view:
        raise QueryError("NOT_SUPPORTED: Inserting into views is not supported", SYNTAX)
    query = tree.expression
    if tree.args.get("with_"):
        query.set("with_", tree.args["with_"])
    columns = [*table.columns, *table.keys]
    sql = engine.translated(query, context.database)
    given = engine.columns(sql)
    named = [item.name.lower() for item in tree.this.expressions] if isinstance(tree.this, exp.Schema) else None
    expected = len(named) if named else len(columns)
    if len(given) != expected:
        raise QueryError(
            "TYPE_MISMATCH: line 1:1: Insert query has mismatched column types: Table: "
            f"[{', '.join(c.type for c in columns)}], Query: [{', '.join(hive.hive_type(c.type) for c in given)}]",
            SYNTAX,
        )
    if named:
        values = ", ".join(f"c{named.index(c.name)}" if c.name in named else "NULL" for c in columns)
        sql = f"SELECT {values} FROM ({sql}) AS q({', '.join(f'c{n}' for n in range(len(named)))})"
    target = writing.Target(table.location, *_format_of(table), table.columns, table.keys, _delimiter(table))
    written = writing.write(engine, sql, target, context.query_id, context.put_settings)
    _register(engine, table, written)
    return _written(written)


def _format_of(table: Table) -> tuple[str, str]:
    """Return the format and compression in which rows are added to a table."""
    serde = hive.serde(table.storage)
    if serde == hive.PARQUET_SERDE:
        given = table.parameters.get("parquet.compression") or table.parameters.get("write.compression") or "GZIP"
        return "PARQUET", given.upper()
    if serde in hive.JSON_SERDES:
        return "JSON", "GZIP"
    if serde == hive.LAZY_SIMPLE and not int(table.parameters.get("skip.header.line.count", 0)):
        return "TEXTFILE", "GZIP"
    raise unsupported(f"INSERT INTO a table with SerDe {serde}")


def _delimiter(table: Table) -> str:
    settings = table.storage["SerdeInfo"].get("Parameters", {})
    return str(settings.get("field.delim", settings.get("serialization.format", "\x01")))


def _unload(engine: Engine, tree: exp.Expr, text: str, context: Context) -> Outcome:
    found = _UNLOAD.fullmatch(text)
    if found is None:
        raise AssertionError(text)
    properties: dict[str, Any] = {}
    for name, value, array in re.findall(r"(\w+)\s*=\s*(?:'([^']*)'|ARRAY\s*\[([^\]]*)\])", found["with"], re.I):
        properties[name.lower()] = re.findall(r"'([^']*)'", array) if array else value
    if unknown := set(properties) - {"format", "compression", "partitioned_by", "field_delimiter"}:
        raise unsupported(f"UNLOAD property {', '.join(sorted(unknown))}")
    target = _target(engine, tree, properties, context, found["to"])
    _require_empty(engine, target.location, "UNLOAD")
    sql = engine.translated(tree.copy(), context.database)
    return _written(writing.write(engine, sql, target, context.query_id, context.put_settings))
