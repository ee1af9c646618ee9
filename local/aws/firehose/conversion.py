"""Conversion of JSON to Parquet by the columns of a table in the Glue catalog.

https://docs.aws.amazon.com/firehose/latest/dev/record-format-conversion.html
"""

# ruff: noqa: S608 - SQL is built here from quoted names

from __future__ import annotations

import base64
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import duckdb
from botocore.exceptions import BotoCoreError, ClientError
from sqlglot import exp

from local.aws import emulator
from local.aws.athena import hive
from local.aws.athena.tables import identifier, literal
from local.aws.emulator import AwsError
from local.aws.firehose.access import Identity, Roles
from local.aws.firehose.destination import Conversion
from local.aws.firehose.partitioning import documents
from local.aws.firehose.stages import DeliveryError, Record, failed

FAILED = "format-conversion-failed"
MALFORMED = "DataFormatConversion.MalformedData"

_ACTIONS = ("glue:GetTable", "glue:GetTableVersion", "glue:GetTableVersions")
"""https://docs.aws.amazon.com/firehose/latest/dev/controlling-access.html"""
_MILLISECONDS_FROM = 100_000_000_000
"""A timestamp from this number on counts milliseconds, below it seconds, since 1970."""
_TIMESTAMP = re.compile(r"(\d{4})-(\d\d?)-(\d\d?)(T| )(\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(Z?)")
_TEXTS = {"TEXT", "VARCHAR", "CHAR"}


@dataclass(frozen=True)
class Column:
    """A column with its type, as parsed and in DuckDB's notation."""

    name: str
    type: exp.DataType
    duckdb: str


@dataclass(frozen=True)
class Schema:
    """The columns, and where they are from as error documents describe it."""

    columns: list[Column]
    described: dict[str, str]


@dataclass
class Converted:
    """The Parquet file, empty if there is no row; the records in it, and the others as their error documents."""

    body: bytes = b""
    good: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)


# --- Schema ------------------------------------------------------------------------------------------------------


def schema(conversion: Conversion, roles: Roles, identity: Identity) -> Schema:
    """Return the columns that the catalog has now.

    Raises:
        DeliveryError: the role may not read them, there is no such table, or a type cannot be read from JSON.
    """
    catalog = f"arn:aws:glue:{identity.region}:{identity.account}"
    database, table = conversion.database, conversion.table
    named = {"CatalogId": conversion.catalog} if conversion.catalog else {}
    try:
        for resource in ("catalog", f"database/{database}", f"table/{database}/{table}"):
            for action in _ACTIONS:
                if message := roles.denial(conversion.role, action, f"{catalog}:{resource}"):
                    raise DeliveryError("DataFormatConversion.AccessDenied", message)
        found = roles.client(conversion.role, "glue").get_table(DatabaseName=database, Name=table, **named)["Table"]
    except (AwsError, BotoCoreError, ClientError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else "AccessDenied"
        raise DeliveryError(f"DataFormatConversion.{code}", str(error)) from None
    described = {
        "catalogId": conversion.catalog or identity.account,
        "databaseName": database,
        "tableName": table,
        "region": identity.region,
        "versionId": conversion.version,
        "catalogArn": f"{catalog}:catalog",
    }
    return Schema([_column(each["Name"], each["Type"]) for each in found["StorageDescriptor"]["Columns"]], described)


def _column(name: str, type_: str) -> Column:
    if "binary" in type_.lower():
        raise DeliveryError("DataFormatConversion.InvalidSchema", f"Column {name} is of type {type_}.")
    return Column(name, exp.DataType.build(type_.lower(), dialect="hive"), hive.duckdb_type(type_))


# --- Records -----------------------------------------------------------------------------------------------------


def convert(batch: Sequence[Record], conversion: Conversion, schema: Schema) -> Converted:
    """Convert ``batch``, whose records may hold several JSON objects each; one that holds a wrong one fails whole.

    Raises:
        DeliveryError: the file could not be made.
    """
    converted, rows = Converted(), []
    for record in batch:
        try:
            rows += [_row(each, conversion, schema.columns) for each in documents(record.data)]
        except (ValueError, TypeError, InvalidOperation) as error:
            converted.failed.append(_failure(record, str(error) or type(error).__name__, schema))
        else:
            converted.good.append(record)
    if rows:
        try:
            converted.body = _parquet(rows, conversion, schema.columns)
        except duckdb.Error as error:
            raise DeliveryError("DataFormatConversion.InternalError", str(error)) from None
    return converted


def _row(document: Any, conversion: Conversion, columns: Sequence[Column]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise TypeError("The record is no JSON object.")
    members = {_member(name, conversion): value for name, value in document.items()}
    return {
        column.name: _value(
            members.get(_member(conversion.renamed.get(column.name, column.name), conversion)), column.type, conversion
        )
        for column in columns
    }


def _member(name: str, conversion: Conversion) -> str:
    plain = name.replace(".", "_") if conversion.dots_to_underscores else name
    return plain if conversion.case_sensitive else plain.lower()


def _value(value: Any, type_: exp.DataType, conversion: Conversion) -> Any:
    """Return ``value`` as DuckDB reads it from JSON as ``type_``.

    Raises:
        ValueError, TypeError, InvalidOperation: it is no value of the type.
    """
    kind = type_.this.name
    if value is None:
        return None
    if kind == "ARRAY":
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is no array.")
        return [_value(each, type_.expressions[0], conversion) for each in value]
    if kind in {"MAP", "STRUCT"}:
        if not isinstance(value, dict):
            raise TypeError(f"{value!r} is no object.")
        if kind == "MAP":
            return {name: _value(each, type_.expressions[1], conversion) for name, each in value.items()}
        members = {_member(name, conversion): each for name, each in value.items()}
        fields = [(each.name, each.args["kind"]) for each in type_.expressions]
        return {name: _value(members.get(_member(name, conversion)), of, conversion) for name, of in fields}
    return _scalar(value, type_, kind, conversion)


def _scalar(value: Any, type_: exp.DataType, kind: str, conversion: Conversion) -> Any:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if kind in _TEXTS:
        return text
    if kind == "TIMESTAMP":
        return _timestamp(value, text, conversion)
    if kind not in _SCALARS or isinstance(value, (dict, list)):
        raise TypeError(f"{text} cannot be read as {kind}.")
    return _SCALARS[kind](text, type_)


def _boolean(text: str, _: exp.DataType) -> bool:
    if text.lower() not in {"true", "false"}:
        raise ValueError(f"{text} is no boolean.")
    return text.lower() == "true"


def _integer(bits: int) -> Callable[[str, exp.DataType], int]:
    def read(text: str, _: exp.DataType) -> int:
        number = int(text)
        if not -(2**bits) <= number < 2**bits:
            raise ValueError(f"{text} has more than {bits} bits.")
        return number

    return read


def _decimal(text: str, type_: exp.DataType) -> str:
    precision, scale = [int(each.name) for each in type_.expressions] or (10, 0)
    number = round(Decimal(text), scale)
    if len(number.as_tuple().digits) > precision:
        raise ValueError(f"{text} has more than {precision} digits.")
    return str(number)


_SCALARS: dict[str, Callable[[str, exp.DataType], Any]] = {
    "BOOLEAN": _boolean,
    "TINYINT": _integer(7),
    "SMALLINT": _integer(15),
    "INT": _integer(31),
    "BIGINT": _integer(63),
    "FLOAT": lambda text, _: float(text),
    "DOUBLE": lambda text, _: float(text),
    "DECIMAL": _decimal,
    "DATE": lambda text, _: date.fromisoformat(text).isoformat(),
}
"""What reads the text of a value; it raises ValueError, TypeError or InvalidOperation."""


def _timestamp(value: Any, text: str, conversion: Conversion) -> str:
    """https://docs.aws.amazon.com/firehose/latest/dev/record-format-conversion-deserializer.html"""
    if match := _TIMESTAMP.fullmatch(text):
        if conversion.hive and match[4] == "T":
            raise ValueError(f"{text} is no timestamp of the Hive JSON SerDe.")
        year, month, day, hour, minute, second = (int(match[group]) for group in (1, 2, 3, 5, 6, 7))
        fraction = (match[8] or "").ljust(6, "0")[:6]
        moment = datetime(year, month, day, hour, minute, second, int(fraction), tzinfo=UTC)
    elif isinstance(value, bool) or (conversion.hive and not conversion.millis):
        raise ValueError(f"{text} is no timestamp.")
    else:
        number = Decimal(text)
        milliseconds = conversion.hive or number >= _MILLISECONDS_FROM
        moment = datetime.fromtimestamp(float(number / 1000 if milliseconds else number), UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def _failure(record: Record, message: str, schema: Schema) -> Record:
    """Return the error document of ``record``, as a line.

    https://docs.aws.amazon.com/firehose/latest/dev/record-format-conversion-error-handling.html
    """
    position = record.position or {}
    document = {
        "attemptsMade": 1,
        "arrivalTimestamp": int(record.arrived_at * 1000),
        "lastErrorCode": MALFORMED,
        "lastErrorMessage": message,
        "attemptEndingTimestamp": int(time.time() * 1000),
        "rawData": base64.b64encode(record.data).decode(),
        "sequenceNumber": position.get("sequenceNumber"),
        "subSequenceNumber": position.get("subsequenceNumber"),
        "dataCatalogTable": schema.described,
    }
    return failed(record, FAILED, document)


def _parquet(rows: Sequence[Mapping[str, Any]], conversion: Conversion, columns: Sequence[Column]) -> bytes:
    types = ", ".join(f"{literal(column.name)}: {literal(column.duckdb)}" for column in columns)
    names = ", ".join(identifier(column.name) for column in columns)
    with tempfile.TemporaryDirectory(dir=emulator.state_folder()) as folder:
        source, target = Path(folder) / "rows.json", Path(folder) / "rows.parquet"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with duckdb.connect() as database:
            database.execute(
                f"COPY (SELECT {names} FROM read_json({literal(str(source))}, format = 'newline_delimited', "
                f"columns = {{{types}}}, maximum_object_size = 67108864)) "
                f"TO {literal(str(target))} (FORMAT parquet, COMPRESSION {conversion.compression.lower()})"
            )
        return target.read_bytes()
