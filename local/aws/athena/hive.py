"""Types and storage formats of Hive tables, and what they are called in Glue, Trino and DuckDB.

https://docs.aws.amazon.com/athena/latest/ug/data-types.html
https://docs.aws.amazon.com/athena/latest/ug/supported-serdes.html
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sqlglot import exp


class Column(NamedTuple):
    """A column and its type, in the notation the context says."""

    name: str
    type: str


class Format(NamedTuple):
    """How files of a table are read and written, as the Glue catalog names it."""

    input: str
    output: str
    serde: str


_TEXT = (
    "org.apache.hadoop.mapred.TextInputFormat",
    "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat",
)
LAZY_SIMPLE = "org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe"
OPEN_CSV = "org.apache.hadoop.hive.serde2.OpenCSVSerde"
PARQUET_SERDE = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe"
JSON_SERDES = ("org.openx.data.jsonserde.JsonSerDe", "org.apache.hive.hcatalog.data.JsonSerDe")

FORMATS = {
    "PARQUET": Format(
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetInputFormat",
        "org.apache.hadoop.hive.ql.io.parquet.MapredParquetOutputFormat",
        PARQUET_SERDE,
    ),
    "TEXTFILE": Format(*_TEXT, LAZY_SIMPLE),
    "JSON": Format(*_TEXT, JSON_SERDES[0]),
}


def duckdb_type(hive_type: str) -> str:
    """Return DuckDB's name of a Hive type: ``array<struct<a:int>>`` is ``STRUCT(a INT)[]``."""
    bare = re.sub(r"\b(?:var)?char\(\d+\)", "string", hive_type.lower())
    bare = re.sub(r"\bdecimal\b(?!\()", "decimal(10,0)", bare)
    name: str = exp.DataType.build(bare, dialect="hive").sql(dialect="duckdb")
    return name


def trino_type(duckdb: str) -> str:
    """Return Trino's name, as results and DDL show it, of a DuckDB type: ``DECIMAL(10,2)``, ``array(bigint)``."""
    return _named(duckdb, "trino")


def hive_type(duckdb: str) -> str:
    """Return the Glue catalog's name of a DuckDB type: ``array<struct<a:int>>``."""
    return re.sub(r"([<,:]) ", r"\1", _named(duckdb, "hive"))


_PLAIN = {"HUGEINT": "BIGINT", "UBIGINT": "BIGINT", '"NULL"': "VARCHAR", "UUID": "VARCHAR", "JSON": "VARCHAR"}


def _named(duckdb: str, dialect: str) -> str:
    plain = re.sub(r"TIMESTAMP_(?:S|MS|NS)\b", "TIMESTAMP", duckdb)
    plain = re.sub("|".join(rf"(?<!\w){name}(?!\w)" for name in _PLAIN), lambda found: _PLAIN[found[0]], plain)
    name: str = exp.DataType.build(plain, dialect="duckdb").sql(dialect=dialect)
    return name.lower()


def serde(storage: dict[str, Any]) -> str:
    """Return the serializer class of a Glue StorageDescriptor, or an empty string."""
    return str(storage.get("SerdeInfo", {}).get("SerializationLibrary", ""))
