"""COPY: objects of S3 become rows.

DuckDB parses and converts the objects, PostgreSQL takes the rows. What cannot be converted is described in
SYS_LOAD_ERROR_DETAIL, which keeps it although the statement is rolled back.
https://docs.aws.amazon.com/redshift/latest/dg/r_COPY.html
"""

# ruff: noqa: S608 - SQL is built here from quoted names and known types

from __future__ import annotations

import bz2
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import psycopg

from local.aws import emulator
from local.aws.redshift import roles
from local.aws.redshift.conversion import (
    ERRORS,
    Column,
    checks,
    cleaned,
    converted,
    identifier,
    literal,
    null_text,
)
from local.aws.redshift.errors import SqlError, unsupported
from local.aws.redshift.options import Copy

THREADS = 2
MEMORY = "1GB"
MAX_ROW_BYTES = 4 << 20
"""https://docs.aws.amazon.com/redshift/latest/dg/r_COPY_from_S3.html"""
MAX_ERRORS = 100_000
_BLOCK = 1 << 20
_PROBLEMS = list(ERRORS)
_INTEGER_NAMES = {"smallint": "Short", "integer": "Integer", "bigint": "Long"}


@dataclass(frozen=True)
class Source:
    """An object to read."""

    bucket: str
    key: str
    size: int

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class Failure:
    """A row that was not loaded."""

    source: str
    line: int
    column: Column | None
    code: int
    reason: str


@dataclass(frozen=True)
class Loaded:
    """What a COPY did."""

    rows: int
    sources: list[Source]
    failures: list[Failure]
    format: str


class LoadError(SqlError):
    """A COPY failed because of its data."""

    def __init__(self, message: str, loaded: Loaded) -> None:
        super().__init__(message)
        self.loaded = loaded


def columns(connection: psycopg.Connection[Any], table: str) -> list[Column]:
    """Return the columns of a table, in their order.

    Raises:
        SqlError: there is no such table.
    """
    found = connection.execute("SELECT to_regclass(%s)::oid", [table]).fetchone()
    if found is None or found[0] is None:
        name = table.rsplit(".", maxsplit=1)[-1].strip('"')
        raise SqlError(f"Cannot COPY into nonexistent table {name}")
    rows = connection.execute(
        "SELECT attname, format_type(atttypid, NULL), atttypmod, attnotnull FROM pg_attribute "
        "WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped AND attidentity <> 'a' ORDER BY attnum",
        [found[0]],
    ).fetchall()
    return [_column(*row) for row in rows]


def _column(name: str, kind: str, modifier: int, required: bool) -> Column:
    if kind == "numeric":
        packed = modifier - 4
        return Column(
            name, kind, packed >> 16 if modifier > 0 else 38, packed & 0xFFFF if modifier > 0 else 0, required
        )
    return Column(name, kind, modifier - 4 if modifier > 0 else 65535, 0, required)


def copy(connection: psycopg.Connection[Any], s3: Any, statement: Copy) -> Loaded:
    """Load a table.

    Raises:
        SqlError: an option, an object or the table is wrong.
        LoadError: more rows than MAXERROR allows cannot be loaded.
    """
    clauses = statement.clauses
    table_columns = columns(connection, statement.table)
    if statement.columns:
        by_name = {column.name: column for column in table_columns}
        unknown = [name for name in statement.columns if name not in by_name]
        if unknown:
            raise SqlError(f'column "{unknown[0]}" of relation "{statement.table}" does not exist')
        table_columns = [by_name[name] for name in statement.columns]
    allowed = int(clauses.get("MAXERROR", 0))
    if not 0 <= allowed <= MAX_ERRORS:
        raise SqlError(f"MAXERROR must be from 0 to {MAX_ERRORS}")
    with roles.s3_errors():
        sources = list(_sources(s3, statement))
    folder = Path(tempfile.mkdtemp(prefix="redshift-copy-", dir=emulator.state_folder()))
    try:
        with roles.s3_errors():
            files = _download(s3, sources, folder, clauses)
        with closing(_Loader(table_columns, clauses, s3, sources, files)) as loader:
            failures = loader.read()
            loaded = Loaded(loader.count(), sources, failures, loader.format)
            if len(failures) > allowed:
                name = statement.table.split(".")[-1].strip('"').lower()
                text = f"Load into table '{name}' failed.  Check 'sys_load_error_detail' system table for details."
                raise LoadError(text, loaded)
            if "NOLOAD" not in clauses:
                loader.write(connection, statement.table, folder / "rows.csv")
            return loaded
    finally:
        shutil.rmtree(folder)


# Objects ----------------------------------------------------------------------------------------------------------


def _split(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, key


def _sources(s3: Any, statement: Copy) -> Iterator[Source]:
    """Yield the objects of a manifest, or those whose keys start as the address does.

    https://docs.aws.amazon.com/redshift/latest/dg/loading-data-files-using-manifest.html
    """
    bucket, prefix = _split(statement.source)
    found = False
    if "MANIFEST" in statement.clauses:
        text = s3.get_object(Bucket=bucket, Key=prefix)["Body"].read()
        try:
            entries = [(str(each["url"]), each) for each in json.loads(text)["entries"]]
        except (ValueError, KeyError, TypeError) as error:
            raise SqlError(f"The manifest file {statement.source} is not a valid manifest") from error
        for url, entry in entries:
            source = _entry(s3, url, bool(entry.get("mandatory")))
            size = entry.get("meta", {}).get("content_length")
            if "PARQUET" in statement.clauses and size is None:
                raise SqlError(f"The meta key with content_length is required for {url}")
            if source is None:
                continue
            if size is not None and int(size) != source.size:
                raise SqlError(f"File {url} has an unexpected size: {source.size} instead of {size} bytes")
            found = True
            yield source
    else:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                if item["Size"]:
                    found = True
                    yield Source(bucket, item["Key"], item["Size"])
    if not found:
        raise SqlError(f"The specified S3 prefix '{prefix}' does not exist")


def _entry(s3: Any, url: str, mandatory: bool) -> Source | None:
    bucket, key = _split(url)
    try:
        return Source(bucket, key, s3.head_object(Bucket=bucket, Key=key)["ContentLength"])
    except s3.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchKey"):
            raise
        if mandatory:
            raise SqlError(f"The specified S3 prefix '{key}' does not exist") from error
        return None


def _download(s3: Any, sources: list[Source], folder: Path, clauses: dict[str, str]) -> list[Path]:
    def fetch(place: int) -> Path:
        path = folder / f"{place:06d}"
        source = sources[place]
        with path.open("wb") as target:
            shutil.copyfileobj(s3.get_object(Bucket=source.bucket, Key=source.key)["Body"], target, _BLOCK)
        if "BZIP2" in clauses:
            with bz2.open(path) as packed, (folder / f"{place:06d}.plain").open("wb") as plain:
                shutil.copyfileobj(packed, plain, _BLOCK)
            return folder / f"{place:06d}.plain"
        return path

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(fetch, range(len(sources))))


# Rows -------------------------------------------------------------------------------------------------------------


class _Loader:
    """Reads files into DuckDB: table ``texts`` has the values as written, ``rows`` as the columns' types."""

    def __init__(
        self,
        targets: list[Column],
        clauses: dict[str, str],
        s3: Any,
        sources: list[Source],
        files: list[Path],
    ) -> None:
        self.columns = targets
        self.clauses = clauses
        self.sources = sources
        self.files = files
        self.format = next((name for name in ("JSON", "PARQUET", "CSV") if name in clauses), "TEXT")
        self._paths = _json_paths(s3, clauses["JSON"], targets) if self.format == "JSON" else []
        self._duckdb = duckdb.connect(
            config={
                "threads": THREADS,
                "memory_limit": MEMORY,
                "temp_directory": str(files[0].parent),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            }
        )
        self._duckdb.execute("SET TimeZone = 'UTC'")

    def close(self) -> None:
        """Free memory."""
        self._duckdb.close()

    def read(self) -> list[Failure]:
        """Read all files and return the rows that cannot be loaded."""
        readers = {"JSON": self._read_json, "PARQUET": self._read_parquet}
        try:
            failures = readers.get(self.format, self._read_delimited)()
        except duckdb.Error as error:
            raise SqlError(f"Invalid {self.format} input: {str(error).splitlines()[0]}") from error
        if self.format != "PARQUET":
            failures += self._convert()
        return sorted(failures, key=lambda failure: (failure.source, failure.line))

    def count(self) -> int:
        """Return how many rows can be loaded."""
        return int(self._one("SELECT count(*) FROM rows WHERE error IS NULL"))

    def write(self, connection: psycopg.Connection[Any], table: str, path: Path) -> None:
        """Give the rows to PostgreSQL."""
        names = [f"c{n}" for n in range(len(self.columns))]
        quoted = [name for name, column in zip(names, self.columns, strict=True) if column.is_text]
        quote = f", FORCE_QUOTE ({', '.join(quoted)})" if quoted else ""
        self._duckdb.execute(
            f"COPY (SELECT {', '.join(names)} FROM rows WHERE error IS NULL) "
            f"TO {literal(str(path))} (FORMAT csv, HEADER false, NULLSTR '\\N'{quote})"
        )
        listed = ", ".join(identifier(column.name) for column in self.columns)
        statement = f"COPY {table} ({listed}) FROM STDIN (FORMAT csv, NULL '\\N')"
        with path.open("rb") as data, connection.cursor().copy(statement) as target:
            for block in iter(partial(data.read, _BLOCK), b""):
                target.write(block)

    def _one(self, query: str) -> Any:
        row = self._duckdb.execute(query).fetchone()
        return row[0] if row else None

    def _compression(self) -> str:
        if "GZIP" in self.clauses:
            return "gzip"
        return "zstd" if "ZSTD" in self.clauses else "none"

    # JSON

    def _read_json(self) -> list[Failure]:
        """Read objects, one a line or however they follow each other."""
        self._duckdb.execute("CREATE TABLE objects (file INTEGER, line BIGINT, object VARCHAR)")
        for number, path in enumerate(self.files):
            lines = (
                f"read_csv({literal(str(path))}, header = false, columns = {{'object': 'VARCHAR'}}, delim = '\\x01', "
                f"quote = '', escape = '', auto_detect = false, max_line_size = {2 * MAX_ROW_BYTES}, "
                f"compression = '{self._compression()}')"
            )
            self._duckdb.execute(f"INSERT INTO objects SELECT {number}, row_number() OVER (), object FROM {lines}")
        # Its first character says what valid JSON is, in a quarter of the time that json_type takes.
        is_object = "coalesce(json_valid(object) AND ltrim(object, ' \t\r')[1] IN ('{', '['), false)"
        wrong = self._duckdb.execute(
            f"SELECT DISTINCT file FROM objects WHERE NOT {is_object} ORDER BY file"
        ).fetchall()
        failures = [failure for (number,) in wrong for failure in self._scan_json(number)]
        self._duckdb.execute("CREATE TABLE texts AS SELECT file, line, " + self._extraction() + " AS v FROM objects")
        return failures

    def _scan_json(self, number: int) -> list[Failure]:
        """Read a file whose objects do not stand one a line, and find the ones that are damaged."""
        found = self._duckdb.execute("SELECT object FROM objects WHERE file = ? ORDER BY line", [number]).fetchall()
        lines = [row[0] or "" for row in found]
        self._duckdb.execute("DELETE FROM objects WHERE file = ?", [number])
        decoder = json.JSONDecoder()
        text = "\n".join(lines)
        place, failures, rows = 0, [], []
        space = re.compile(r"\s*")
        while (place := space.match(text, place).end()) < len(text):  # type: ignore[union-attr]
            line = text.count("\n", 0, place) + 1
            try:
                value, end = decoder.raw_decode(text, place)
            except ValueError:
                value, end = None, place
            if isinstance(value, (dict, list)):
                rows.append((number, line, text[place:end]))
                place = end
            else:
                code, reason = ERRORS["line"]
                failures.append(Failure(str(self.sources[number]), line, None, code, reason))
                place = following if (following := text.find("\n", place)) >= 0 else len(text)
        if rows:
            self._duckdb.executemany("INSERT INTO objects VALUES (?, ?, ?)", rows)
        return failures

    def _extraction(self) -> str:
        """Return the expression for a list of the columns' values in an object.

        https://docs.aws.amazon.com/redshift/latest/dg/copy-usage_notes-copy-from-json.html
        """
        paths = self._paths
        if not paths:
            names = [column.name for column in self.columns]
            if self.clauses["JSON"].lower() == "auto ignorecase":
                names = self._spelled(names)
            paths = ['$."' + name.replace('"', '\\"') + '"' for name in names]
        return f"json_extract_string(object, [{', '.join(literal(path) for path in paths)}])"

    def _spelled(self, names: list[str]) -> list[str]:
        """Return the keys as the objects write them; DuckDB minds case."""
        keys = self._duckdb.execute("SELECT DISTINCT unnest(json_keys(object)) FROM objects").fetchall()
        spelled: dict[str, str] = {}
        for (key,) in keys:
            if spelled.setdefault(key.lower(), key) != key:
                raise unsupported(f"JSON 'auto ignorecase' with both {spelled[key.lower()]} and {key}")
        return [spelled.get(name, name) for name in names]

    # CSV and delimited text

    def _read_delimited(self) -> list[Failure]:
        """Read delimited text: https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-data-format.html"""
        is_csv = self.format == "CSV"
        quote = self.clauses.get("QUOTE", '"') if is_csv else '"' if "REMOVEQUOTES" in self.clauses else ""
        delimiter = self.clauses.get("DELIMITER", "," if is_csv else "|")
        delimiter = {"\\t": "\t"}.get(delimiter, delimiter)
        fields = ", ".join(f"'v{n}': 'VARCHAR'" for n in range(len(self.columns)))
        skip = int(self.clauses.get("IGNOREHEADER", 0))
        values = ", ".join(f"v{n}" for n in range(len(self.columns)))
        self._duckdb.execute("CREATE TABLE texts (file INTEGER, line BIGINT, v VARCHAR[])")
        failures = []
        for number, path in enumerate(self.files):
            rejected = f"rejected_{number}"
            rows = (
                f"read_csv({literal(str(path))}, header = false, columns = {{{fields}}}, auto_detect = false, "
                f"delim = {literal(delimiter)}, quote = {literal(quote)}, escape = {literal(quote)}, nullstr = "
                f"{literal(null_text(self.clauses))}, allow_quoted_nulls = false, skip = {skip}, "
                f"null_padding = {'FILLRECORD' in self.clauses}, store_rejects = true, rejects_limit = 0, "
                f"rejects_table = '{rejected}', rejects_scan = '{rejected}_scan', "
                f"max_line_size = {2 * MAX_ROW_BYTES}, compression = '{self._compression()}')"
            )
            self._duckdb.execute("CREATE OR REPLACE TEMP TABLE lines AS SELECT * FROM " + rows)
            bad = self._duckdb.execute(
                f"SELECT line, any_value(error_type), any_value(csv_line) FROM {rejected} GROUP BY line ORDER BY line"
            ).fetchall()
            for line, kind, _ in bad:
                code, reason = ERRORS[{"TOO MANY COLUMNS": "columns", "MISSING COLUMNS": "delimiter"}.get(kind, "line")]
                failures.append(Failure(str(self.sources[number]), int(line), None, code, reason))
            # The rows that were read have the numbers that those which were not have left.
            numbers = (
                f"SELECT n FROM range({skip + 1}, {skip + 1 + len(bad)} + (SELECT count(*) FROM lines)) AS r(n) "
                f"WHERE n NOT IN (SELECT line FROM {rejected}) ORDER BY n"
            )
            self._duckdb.execute(
                f"INSERT INTO texts SELECT {number}, n, [{values}] FROM lines POSITIONAL JOIN ({numbers})"
            )
        return failures

    # Parquet

    def _read_parquet(self) -> list[Failure]:
        """Read Parquet by position: https://docs.aws.amazon.com/redshift/latest/dg/copy-usage_notes-copy-from-columnar.html"""
        for number, path in enumerate(self.files):
            described = self._duckdb.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(str(path))})").fetchall()
            if len(described) != len(self.columns):
                raise SqlError(
                    f"Spectrum Scan Error: file {self.sources[number]} has {len(described)} columns, "
                    f"the table or column list {len(self.columns)}"
                )
            values = []
            for place, ((name, kind, *_), column) in enumerate(zip(described, self.columns, strict=True)):
                if not _compatible(str(kind), column):
                    raise SqlError(
                        f"Spectrum Scan Error: column '{name}' of file {self.sources[number]} has an incompatible "
                        f"Parquet schema: {kind} for {column.type}"
                    )
                values.append(f"{_parquet_value(identifier(name), str(kind), column)} AS c{place}")
            rows = f"read_parquet({literal(str(path))}, hive_partitioning = false, file_row_number = true)"
            query = (
                f"SELECT {number} AS file, file_row_number + 1 AS line, NULL AS error, {', '.join(values)} FROM {rows}"
            )
            self._duckdb.execute(f"{'INSERT INTO rows' if number else 'CREATE TABLE rows AS'} {query}")
        return []

    # Conversion

    def _convert(self) -> list[Failure]:
        """Convert the texts; a row's first value that cannot be converted is its error."""
        numbered = list(enumerate(self.columns))
        texts = ", ".join(f"{cleaned(f'v[{n + 1}]', column, self.clauses)} AS t{n}" for n, column in numbered)
        values = ", ".join(f"{converted(f't{n}', column, self.clauses)} AS c{n}" for n, column in numbered)
        tests = " ".join(
            f"WHEN {test} THEN {n * 100 + _PROBLEMS.index(problem)}"
            for n, column in numbered
            for test, problem in checks(f"t{n}", f"c{n}", column)
        )
        error = f"CASE {tests} END" if tests else "NULL"
        self._duckdb.execute(
            f"CREATE TABLE rows AS SELECT *, {error} AS error FROM "
            f"(SELECT *, {values} FROM (SELECT file, line, {texts} FROM texts))"
        )
        wrong = self._duckdb.execute(
            "SELECT file, line, error FROM rows WHERE error IS NOT NULL ORDER BY file, line"
        ).fetchall()
        return [self._failure(*row) for row in wrong]

    def _failure(self, file: int, line: int, error: int) -> Failure:
        column = self.columns[error // 100]
        kind = _PROBLEMS[error % 100]
        code, reason = ERRORS[kind]
        if kind == "digit":
            value = str(self._one(f"SELECT t{error // 100} FROM rows WHERE file = {file} AND line = {line}"))
            wrong = re.search(r"[^0-9]", value.lstrip("+-"))
            sign = len(value) - len(value.lstrip("+-"))
            at = sign + wrong.start() if wrong else 0
            reason = f"Invalid digit, Value '{value[at : at + 1]}', Pos {at}, Type: {_INTEGER_NAMES[column.type]}"
        return Failure(str(self.sources[file]), line, column, code, reason)


def _json_paths(s3: Any, option: str, targets: list[Column]) -> list[str]:
    """Return the expressions of a JSONPaths file, none for 'auto'.

    https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-data-format.html#copy-json-jsonpaths
    """
    if option.lower() in ("auto", "auto ignorecase"):
        return []
    if not option.startswith("s3://"):
        raise unsupported(f"JSON '{option}'")
    bucket, key = _split(option)
    with roles.s3_errors():
        text = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    try:
        paths = [str(path) for path in json.loads(text)["jsonpaths"]]
    except (ValueError, KeyError, TypeError) as error:
        raise SqlError(f"Invalid JSONPath format: {option}") from error
    if len(paths) != len(targets):
        raise SqlError(
            f"Number of jsonpaths and the number of columns should match. JSONPath size: {len(paths)}, "
            f"Number of columns in table or column list: {len(targets)}"
        )
    return [re.sub(r"\[\s*['\"](.*?)['\"]\s*\]", r'."\1"', path) for path in paths]


_PARQUET_KINDS: dict[str, Callable[[str], bool]] = {
    "smallint": lambda kind: kind in ("TINYINT", "SMALLINT"),
    "integer": lambda kind: kind in ("TINYINT", "SMALLINT", "INTEGER"),
    "bigint": lambda kind: kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT"),
    "numeric": lambda kind: kind.startswith("DECIMAL"),
    "real": lambda kind: kind == "FLOAT",
    "double precision": lambda kind: kind == "DOUBLE",
    "boolean": lambda kind: kind == "BOOLEAN",
    "date": lambda kind: kind == "DATE",
    "character varying": lambda kind: kind == "VARCHAR",
    "character": lambda kind: kind == "VARCHAR",
    "jsonb": lambda kind: True,
}


def _compatible(kind: str, column: Column) -> bool:
    test = _PARQUET_KINDS.get(column.type)
    return test(kind) if test else kind.startswith("TIMESTAMP") and column.type.startswith("timestamp")


def _parquet_value(name: str, kind: str, column: Column) -> str:
    if column.type == "numeric":
        return f"CAST({name} AS DECIMAL({column.size}, {column.scale}))"
    if column.type == "jsonb":
        return f"to_json({name})::VARCHAR"
    if column.type == "timestamp without time zone" and kind != "TIMESTAMP":
        return f"CAST({name} AS TIMESTAMP)"
    return name
