"""Query results as files of a table: for CREATE TABLE AS, INSERT INTO and UNLOAD.

https://docs.aws.amazon.com/athena/latest/ug/create-table-as.html
"""

# ruff: noqa: S608 - SQL is built here from quoted names and parsed statements

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from local.aws.athena import hive, lake
from local.aws.athena.engine import Engine
from local.aws.athena.errors import QueryError, aws_errors, unsupported
from local.aws.athena.hive import Column
from local.aws.athena.tables import identifier, literal

MAX_PARTITIONS = 100
"""Partitions one statement may write: https://docs.aws.amazon.com/athena/latest/ug/ctas-insert-into.html"""

_COMPRESSIONS = {
    "PARQUET": {"GZIP", "SNAPPY", "ZSTD", "LZ4", "NONE"},
    "JSON": {"GZIP", "ZSTD", "NONE"},
    "TEXTFILE": {"GZIP", "ZSTD", "NONE"},
}
_SUFFIXES = {"GZIP": ".gz", "ZSTD": ".zst", "NONE": ""}


@dataclass(frozen=True)
class Target:
    """Where and how rows are written; column types are Hive's, partition keys come last in the query."""

    location: str
    format: str
    compression: str
    columns: list[Column]
    keys: list[Column]
    delimiter: str = "\x01"


@dataclass(frozen=True)
class Written:
    """What was written: the number of rows, the objects' addresses and their partitions' values."""

    rows: int
    objects: list[str]
    partitions: list[tuple[str, ...]]


def check_format(name: str, compression: str) -> None:
    """Refuse what cannot be written.

    Raises:
        QueryError: the format, or its compression, is not available.
    """
    if name not in _COMPRESSIONS:
        raise unsupported(f"Writing format {name}")
    if compression not in _COMPRESSIONS[name]:
        raise unsupported(f"Compression {compression} of {name}")


def write(engine: Engine, sql: str, target: Target, prefix: str, settings: dict[str, Any]) -> Written:
    """Run ``sql`` and put its rows under the target's location, in objects whose names start with ``prefix``.

    Args:
        engine: runs the query.
        sql: DuckDB SQL whose columns are the target's columns, then its keys.
        target: what to write.
        prefix: unique to the query, so that nothing is replaced.
        settings: arguments of every PutObject, such as its encryption.
    """
    engine.plan(sql)
    whole = [*target.columns, *target.keys]
    aliases = ", ".join(f"c{n}" for n in range(len(whole)))
    values = ", ".join(
        f"CAST(c{n} AS {hive.duckdb_type(column.type)}) AS {identifier(column.name)}" for n, column in enumerate(whole)
    )
    local = engine.folder / "written"
    if target.keys:
        split = f", PARTITION_BY ({', '.join(identifier(key.name) for key in target.keys)})"
        place = local
    else:
        local.mkdir()
        split, place = "", local / "part"
    options = _options(target) + split
    rows = engine.execute(
        f"COPY (SELECT {values} FROM ({sql}) AS q({aliases})) TO {literal(str(place))} ({options})"
    ).fetchone()[0]
    files = sorted(path for path in local.rglob("*") if path.is_file()) if rows else []
    folders = sorted({path.parent.relative_to(local).parts for path in files})
    if target.keys and len(folders) > MAX_PARTITIONS:
        raise QueryError(
            f"HIVE_TOO_MANY_OPEN_PARTITIONS: Exceeded limit of {MAX_PARTITIONS} open writers for partitions/buckets"
        )
    suffix = "" if target.format == "PARQUET" else _SUFFIXES[target.compression]
    root = lake.folder(target.location)
    objects = []
    for number, path in enumerate(files):
        folder = "".join(f"{part}/" for part in path.parent.relative_to(local).parts)
        key = f"{root.key}{folder}{prefix}_{number:05d}{suffix}"
        with path.open("rb") as body, aws_errors(f"writing s3://{root.bucket}/{key}"):
            engine.s3.put_object(Bucket=root.bucket, Key=key, Body=body, **settings)
        objects.append(f"s3://{root.bucket}/{key}")
    partitions = [tuple(unquote(part.split("=", 1)[1]) for part in folder) for folder in folders if target.keys]
    return Written(rows, objects, partitions)


def _options(target: Target) -> str:
    compression = {"NONE": "uncompressed", "LZ4": "lz4_raw"}.get(target.compression, target.compression.lower())
    if target.format == "PARQUET":
        return f"FORMAT parquet, COMPRESSION {literal(compression)}"
    if target.format == "JSON":
        return f"FORMAT json, COMPRESSION {literal(compression)}"
    return (
        f"FORMAT csv, HEADER false, DELIMITER {literal(target.delimiter)}, QUOTE '', ESCAPE '', "
        f"NULLSTR '\\N', COMPRESSION {literal(compression)}"
    )
