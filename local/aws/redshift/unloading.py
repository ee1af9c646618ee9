"""UNLOAD: rows of a query become objects of S3.

https://docs.aws.amazon.com/redshift/latest/dg/r_UNLOAD.html
"""

# ruff: noqa: S608 - SQL is built here from quoted names and known types

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from sqlglot import exp

from local.aws import emulator
from local.aws.redshift import roles, translate
from local.aws.redshift.conversion import identifier, literal
from local.aws.redshift.errors import SqlError, unsupported
from local.aws.redshift.options import Unload

_SUFFIXES = {"GZIP": ".gz", "ZSTD": ".zst"}
_TYPES = {
    **{"int2": "SMALLINT", "int4": "INTEGER", "int8": "BIGINT", "float4": "FLOAT", "float8": "DOUBLE"},
    **{"bool": "BOOLEAN", "date": "DATE", "timestamp": "TIMESTAMP", "timestamptz": "TIMESTAMPTZ"},
}


@dataclass(frozen=True)
class _Column:
    name: str
    type: str


def unload(connection: psycopg.Connection[Any], s3: Any, statement: Unload) -> int:
    """Write the rows of a query below an address and return their number.

    Raises:
        SqlError: the query or a clause is wrong, the destination is not empty, or S3 refuses.
    """
    if not statement.target.startswith("s3://"):
        raise SqlError("UNLOAD destination is not an S3 address")
    tree = translate.parse(statement.query)
    if not isinstance(tree, exp.Query):
        raise SqlError("UNLOAD needs a SELECT statement")
    if tree.args.get("limit"):
        raise SqlError("Limit clause is not supported")
    bucket, _, prefix = statement.target.removeprefix("s3://").partition("/")
    with roles.s3_errors():
        _clear(s3, bucket, prefix, statement.clauses)
    folder = Path(tempfile.mkdtemp(prefix="redshift-unload-", dir=emulator.state_folder()))
    try:
        rows, files = _write(connection, translate.to_postgres(statement.query), statement, folder)
        with roles.s3_errors():
            _upload(s3, bucket, prefix, files, statement.clauses)
        return rows
    finally:
        shutil.rmtree(folder)


def _clear(s3: Any, bucket: str, prefix: str, clauses: dict[str, str]) -> None:
    if "ALLOWOVERWRITE" in clauses:
        return
    listed = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    present = [item["Key"] for page in listed for item in page.get("Contents", [])]
    if "CLEANPATH" in clauses:
        for key in present:
            s3.delete_object(Bucket=bucket, Key=key)
    elif present:
        raise SqlError(
            "Specified unload destination on S3 is not empty. Consider using a different bucket / prefix, manually "
            "removing the target files in S3, or using the ALLOWOVERWRITE option."
        )


def _write(
    connection: psycopg.Connection[Any], query: str, statement: Unload, folder: Path
) -> tuple[int, list[tuple[str, Path]]]:
    """Write local files; return the number of rows and the files with what follows the prefix in their keys."""
    clauses = statement.clauses
    described = connection.execute(f"SELECT * FROM ({query}) AS q LIMIT 0").description or []
    columns = [_Column(item.name, item.type_display.partition("(")[0]) for item in described]
    raw = folder / "rows.csv"
    with (
        raw.open("wb") as target,
        connection.cursor().copy(f"COPY ({query}) TO STDOUT (FORMAT csv, NULL '\\N', FORCE_QUOTE *)") as source,
    ):
        for block in source:
            target.write(block)
    engine = duckdb.connect(config={"threads": 2, "autoinstall_known_extensions": False})
    engine.execute("SET TimeZone = 'UTC'")
    fields = ", ".join(f"'c{n}': 'VARCHAR'" for n in range(len(columns)))
    engine.execute(
        f"CREATE TABLE rows AS SELECT * FROM read_csv('{raw}', header = false, columns = {{{fields}}}, delim = ',', "
        "quote = '\"', escape = '\"', nullstr = '\\N', allow_quoted_nulls = false, auto_detect = false)"
    )
    counted = engine.execute("SELECT count(*) FROM rows").fetchone()
    rows = int(counted[0]) if counted else 0
    form = next((name for name in ("PARQUET", "CSV", "JSON") if name in clauses), "TEXT")
    compression = next((name for name in _SUFFIXES if name in clauses), "")
    if form == "PARQUET" and compression:
        raise SqlError("Compression of PARQUET is SNAPPY and cannot be chosen")
    values = {
        column.name: f"{_value(engine, f'c{n}', column, form)} AS {identifier(column.name)}"
        for n, column in enumerate(columns)
    }
    unknown = [name for name in statement.partition if name not in values]
    if unknown:
        raise SqlError(f'column "{unknown[0]}" of PARTITION BY is not in the result')
    options = _options(form, compression, clauses)
    files = []
    for number, condition in enumerate(_partitions(engine, columns, statement.partition)):
        path = folder / f"part-{number}"
        kept = [text for name, text in values.items() if name not in statement.partition or "INCLUDE" in clauses]
        engine.execute(
            f"COPY (SELECT {', '.join(kept)} FROM rows{condition[1]} ORDER BY rowid) TO '{path}' ({options})"
        )
        files.append((condition[0] + _file_name(form, compression, clauses), path))
    engine.close()
    return rows, files if rows or form != "PARQUET" else []


def _value(engine: duckdb.DuckDBPyConnection, name: str, column: _Column, form: str) -> str:
    if form in ("CSV", "TEXT"):
        return name
    if column.type == "numeric":
        # A sum has no declared scale: the longest fraction is its scale.
        found = engine.execute(f"SELECT max(strlen(split_part({name}, '.', 2))) FROM rows").fetchone()
        return f"CAST({name} AS DECIMAL(38, {min(int(found[0] or 0) if found else 0, 37)}))"
    if column.type == "jsonb" and form == "JSON":
        return f"CAST({name} AS JSON)"
    return f"CAST({name} AS {_TYPES.get(column.type, 'VARCHAR')})"


def _partitions(engine: duckdb.DuckDBPyConnection, columns: list[_Column], keys: list[str]) -> list[tuple[str, str]]:
    """Return folder and condition of every partition, one without either if there are none."""
    if not keys:
        return [("", "")]
    names = {column.name: f"c{n}" for n, column in enumerate(columns)}
    selected = [names[key] for key in keys]
    found = engine.execute(f"SELECT DISTINCT {', '.join(selected)} FROM rows ORDER BY ALL").fetchall()
    partitions = []
    for values in found:
        folder = "".join(
            f"{key}={'__HIVE_DEFAULT_PARTITION__' if value is None else value}/"
            for key, value in zip(keys, values, strict=True)
        )
        tests = [
            f"{name} IS NULL" if value is None else f"{name} = {literal(value)}"
            for name, value in zip(selected, values, strict=True)
        ]
        partitions.append((folder, " WHERE " + " AND ".join(tests)))
    return partitions


def _options(form: str, compression: str, clauses: dict[str, str]) -> str:
    packed = {"GZIP": "gzip", "ZSTD": "zstd"}.get(compression, "uncompressed")
    if form == "PARQUET":
        return "FORMAT parquet, COMPRESSION snappy"
    if form == "JSON":
        return f"FORMAT json, COMPRESSION {packed if compression else 'uncompressed'}"
    header = "HEADER" in clauses
    delimiter = clauses.get("DELIMITER", "," if form == "CSV" else "|")
    shared = f"FORMAT csv, HEADER {header}, DELIMITER {literal(delimiter)}, COMPRESSION {packed}"
    null = literal(clauses.get("NULL", ""))
    if form == "CSV":
        return f"{shared}, NULLSTR {null}"
    if "ADDQUOTES" in clauses:
        return f"{shared}, NULLSTR {null}, FORCE_QUOTE *"
    return f"{shared}, NULLSTR {null}, QUOTE '', ESCAPE ''"


def _file_name(form: str, compression: str, clauses: dict[str, str]) -> str:
    """Return the name of the only file: 000, or 0000_part_00 of the first slice."""
    number = "000" if clauses.get("PARALLEL") in ("OFF", "FALSE") else "0000_part_00"
    if "EXTENSION" in clauses:
        return f"{number}.{clauses['EXTENSION']}"
    return number + (".parquet" if form == "PARQUET" else _SUFFIXES.get(compression, ""))


def _upload(s3: Any, bucket: str, prefix: str, files: list[tuple[str, Path]], clauses: dict[str, str]) -> None:
    settings: dict[str, str] = {}
    if "ENCRYPTED" in clauses:
        if "KMS_KEY_ID" not in clauses:
            raise unsupported("UNLOAD ENCRYPTED without KMS_KEY_ID")
        settings = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": clauses["KMS_KEY_ID"]}
    entries = []
    for name, path in files:
        with path.open("rb") as body:
            s3.put_object(Bucket=bucket, Key=prefix + name, Body=body, **settings)
        meta = {"meta": {"content_length": path.stat().st_size}}
        entries.append({"url": f"s3://{bucket}/{prefix}{name}"} | meta)
    if "MANIFEST" in clauses:
        text = json.dumps({"entries": entries}, indent=2)
        s3.put_object(Bucket=bucket, Key=f"{prefix}manifest", Body=text.encode(), **settings)
