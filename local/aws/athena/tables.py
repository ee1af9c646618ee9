"""A table of the catalog as a SELECT that DuckDB can run over the table's files."""

# ruff: noqa: S608 - SQL is built here from quoted names and parsed statements

from __future__ import annotations

from typing import Any

from local.aws.athena import hive, lake, projection
from local.aws.athena.catalog import Catalog, Table
from local.aws.athena.errors import unsupported
from local.aws.athena.hive import Column
from local.aws.athena.lake import File

_ADDRESS = "atlas_address"
"""The column in which DuckDB gives each row's file name."""


def identifier(name: str) -> str:
    """Quote a name for DuckDB."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Quote text for DuckDB."""
    return "'" + text.replace("'", "''") + "'"


def files(table: Table, catalog: Catalog, s3: Any, fixed: set[str]) -> list[File]:
    """Return the table's objects with their partition values; ``fixed`` columns are compared with constants."""
    root = lake.folder(table.location)
    if not table.keys:
        return list(lake.list_files(s3, root))
    if projection.enabled(table):
        return projection.files(table, s3, fixed)
    found = []
    listed: list[File] | None = None
    for partition in catalog.partitions(table):
        place = lake.folder(partition.location)
        values = tuple(None if v == "__HIVE_DEFAULT_PARTITION__" else v for v in partition.values)
        if place.bucket == root.bucket and place.key.startswith(root.key):
            # One listing of the table's folder serves all partitions inside it.
            listed = list(lake.list_files(s3, root)) if listed is None else listed
            inside = [file for file in listed if file.location.key.startswith(place.key)]
        else:
            inside = list(lake.list_files(s3, place))
        found += [file._replace(partition=values) for file in inside]
    return found


def scan(table: Table, number: int, scanned: list[File], spelling: dict[str, str], with_path: bool) -> str:
    """Return a SELECT of the table's columns and partition keys, typed as the catalog says.

    Columns are called ``c_<number>_<position>`` where the format allows, so that a query plan tells which ones of
    which table it reads. ``spelling`` says how JSON keys are written, ``with_path`` adds the hidden "$path".
    """
    names = [identifier(c.name) for c in [*table.columns, *table.keys]]
    if not scanned:
        empty = [f"CAST(NULL AS {hive.duckdb_type(c.type)})" for c in [*table.columns, *table.keys]]
        path = ', CAST(NULL AS VARCHAR) AS "$path"' if with_path else ""
        columns = ", ".join(f"{value} AS {name}" for value, name in zip(empty, names, strict=True))
        return f"SELECT {columns}{path} WHERE false"
    keys = [key.name for key in table.keys]
    addresses = ", ".join(literal(lake.address(number, keys, file)) for file in scanned)
    relation, values = _reader(table, number, f"[{addresses}]", spelling)
    depth = 4  # atlas: / / table / first folder
    values += [
        f"CAST(partition_value({_ADDRESS}, {depth + n}) AS {hive.duckdb_type(key.type)})"
        for n, key in enumerate(table.keys)
    ]
    if with_path:
        names.append('"$path"')
        values.append(f"object_address({_ADDRESS}, {depth + len(keys)})")
    columns = ", ".join(f"{value} AS {name}" for value, name in zip(values, names, strict=True))
    return f"SELECT {columns} FROM {relation}"


def _reader(table: Table, number: int, addresses: str, spelling: dict[str, str]) -> tuple[str, list[str]]:
    """Return DuckDB's table function over the files and the expression of each column."""
    serde = hive.serde(table.storage)
    aliases = [f"c_{number}_{n}" for n in range(len(table.columns))]
    if table.parameters.get("table_type", "").upper() == "ICEBERG":
        raise unsupported("Reading an Iceberg table")
    if is_parquet(table):
        schema = ", ".join(
            f"{literal(c.name)}: {{name: {literal(alias)}, type: {literal(hive.duckdb_type(c.type))}, "
            "default_value: NULL}"
            for c, alias in zip(table.columns, aliases, strict=True)
        )
        return f"read_parquet({addresses}, schema = MAP {{{schema}}}, filename = '{_ADDRESS}')", aliases
    if is_json(table):
        keys = [spelling.get(column.name, column.name) for column in table.columns]
        return _json(table, keys, addresses), [identifier(key) for key in keys]
    if serde in (hive.LAZY_SIMPLE, hive.OPEN_CSV):
        casts = _csv_cast if serde == hive.OPEN_CSV else _text_cast
        values = [casts(column, alias) for column, alias in zip(table.columns, aliases, strict=True)]
        return _csv(table, aliases, addresses, serde == hive.OPEN_CSV), values
    raise unsupported(f"SerDe {serde or '(none)'} of table {table.database}.{table.name}")


def _json(table: Table, keys: list[str], addresses: str) -> str:
    types = (hive.duckdb_type(column.type) for column in table.columns)
    columns = ", ".join(f"{literal(key)}: {literal(kind)}" for key, kind in zip(keys, types, strict=True))
    settings = table.storage["SerdeInfo"].get("Parameters", {})
    lenient = settings.get("ignore.malformed.json", "false").lower()
    return (
        f"read_json({addresses}, columns = {{{columns}}}, format = 'newline_delimited', "
        f"ignore_errors = {lenient}, filename = '{_ADDRESS}', hive_partitioning = false)"
    )


def _csv(table: Table, aliases: list[str], addresses: str, quoted: bool) -> str:
    settings = table.storage["SerdeInfo"].get("Parameters", {})
    columns = ", ".join(f"{literal(alias)}: 'VARCHAR'" for alias in aliases)
    if quoted:
        delimiter = settings.get("separatorChar", ",")
        quote = settings.get("quoteChar", '"')
        # Unless told otherwise a quote inside quotes is doubled, as every CSV writer does.
        escape = settings.get("escapeChar", quote)
        null = ""
    else:
        delimiter = settings.get("field.delim", settings.get("serialization.format", "\x01"))
        quote, escape = "", settings.get("escape.delim", "")
        null = f", nullstr = {literal(settings.get('serialization.null.format', chr(92) + 'N'))}"
    skip = int(table.parameters.get("skip.header.line.count", 0))
    return (
        f"read_csv({addresses}, columns = {{{columns}}}, auto_detect = false, header = false, skip = {skip}, "
        f"delim = {literal(delimiter)}, quote = {literal(quote)}, escape = {literal(escape)}{null}, "
        f"null_padding = true, strict_mode = false, filename = '{_ADDRESS}', hive_partitioning = false)"
    )


def _text_cast(column: Column, value: str) -> str:
    """LazySimpleSerDe gives NULL for what is not of the column's type."""
    target = hive.duckdb_type(column.type)
    return value if target == "TEXT" else f"TRY_CAST({value} AS {target})"


def _csv_cast(column: Column, value: str) -> str:
    """OpenCSVSerDe fails on what is not of the column's type; dates are days, timestamps milliseconds since 1970.

    https://docs.aws.amazon.com/athena/latest/ug/csv-serde.html
    """
    target = hive.duckdb_type(column.type)
    if target == "TEXT":
        return f"coalesce({value}, '')"
    present = f"nullif(trim({value}), '')"
    if target == "DATE":
        return f"CAST(DATE '1970-01-01' + CAST({present} AS INTEGER) AS DATE)"
    if target == "TIMESTAMP":
        return f"epoch_ms(CAST({present} AS BIGINT))"
    return f"CAST({present} AS {target})"


def is_parquet(table: Table) -> bool:
    """Return whether the table's files are Parquet, of which only the needed columns are read."""
    return hive.serde(table.storage) == hive.PARQUET_SERDE


def is_json(table: Table) -> bool:
    """Return whether the table's files are JSON lines."""
    return hive.serde(table.storage) in hive.JSON_SERDES
