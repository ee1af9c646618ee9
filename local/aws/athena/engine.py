"""One query's DuckDB: the caller's tables as views, the translated SQL, what was scanned."""

# ruff: noqa: S608 - SQL is built here from quoted names and parsed statements

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
from sqlglot import exp

from local.aws import emulator
from local.aws.athena import lake, tables, translate
from local.aws.athena.catalog import Catalog, Table
from local.aws.athena.errors import QueryCancelledError, from_duckdb, unsupported
from local.aws.athena.hive import Column
from local.aws.athena.tables import identifier, literal

MEMORY = "1GB"
THREADS = 2
_BATCH = 10_000


class Engine:
    """Runs the SQL of one query with its caller's permissions; closed when the query ends."""

    def __init__(self, query: str, credentials: emulator.Credentials, region: str, scan_limit: int | None) -> None:
        """Prepare a query whose text is ``query``; it is cancelled when it reads over ``scan_limit`` bytes."""
        self.query = query
        self.s3 = emulator.client("s3", credentials, region)
        self.catalog = Catalog(emulator.client("glue", credentials, region), query)
        self.scanned = 0
        self._scan_limit = scan_limit
        self._stopped = threading.Event()
        self._bound: set[tuple[str, str]] = set()
        self._scans: list[Table] = []
        self._lake = lake.Lake(self.s3, self._check)
        self.folder = Path(tempfile.mkdtemp(prefix="athena-", dir=emulator.state_folder()))
        self._connection = duckdb.connect(
            config={
                "threads": THREADS,
                "memory_limit": MEMORY,
                "temp_directory": str(self.folder),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                # It makes TRY_CAST of a CSV column fail instead of giving NULL.
                "disabled_optimizers": "type_pushdown",
            }
        )
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.register_filesystem(self._lake)
        self._connection.execute(translate.FUNCTIONS)

    def close(self) -> None:
        """Free memory and files."""
        self._connection.close()
        shutil.rmtree(self.folder)

    def stop(self) -> None:
        """Interrupt the query, from another thread."""
        self._stopped.set()
        self._connection.interrupt()

    def translated(self, tree: exp.Expr, database: str) -> str:
        """Return a query over the catalog as DuckDB SQL, with every table it names ready to be read.

        Raises:
            QueryError: a table does not exist, may not be read or has an unsupported format, or the SQL is wrong.
        """
        fixed = translate.fixed_columns(tree)
        for reference in list(translate.tables(tree)):
            if reference.catalog.lower() not in ("", "awsdatacatalog"):
                raise unsupported(f"Catalog {reference.catalog}")
            schema, name = (reference.db or database).lower(), reference.name.lower()
            self._bind(schema, name, fixed)
            reference.set("catalog", None)
            reference.set("db", exp.to_identifier(schema, quoted=True))
            reference.set("this", exp.to_identifier(name, quoted=True))
        return translate.to_duckdb(tree, self.query)

    def columns(self, sql: str) -> list[Column]:
        """Return the names and DuckDB types of a query's result columns."""
        return _named([Column(row[0], row[1]) for row in self.execute(f"DESCRIBE {sql}").fetchall()])

    def select(self, sql: str) -> tuple[list[Column], Iterator[tuple[Any, ...]]]:
        """Run a query; return its columns and, in batches from DuckDB, its rows."""
        self.plan(sql)
        result = self.execute(sql)
        columns = _named([Column(item[0], str(item[1])) for item in result.description])
        return columns, self._rows(result)

    def plan(self, sql: str) -> None:
        """Plan a query without reading data: its errors are found and the columns it scans are noted."""
        plan = str(self.execute(f"EXPLAIN (FORMAT JSON) {sql}").fetchall())
        self._scanned_columns = {(int(t), int(c)) for t, c in re.findall(r"\bc_(\d+)_(\d+)\b", plan)}

    def execute(self, sql: str) -> Any:
        """Run DuckDB SQL.

        Raises:
            QueryCancelledError: it was stopped, or read over the limit.
            QueryError: it failed.
        """
        if self._stopped.is_set():
            raise QueryCancelledError("Query cancelled by user", 1000)
        try:
            return self._connection.execute(sql)
        except duckdb.Error as error:
            raise self._failure(error) from error

    def count_scanned(self) -> None:
        """Set ``scanned`` to the bytes of the data that was read: of text whole objects, of Parquet the column
        chunks that the query needs.

        https://docs.aws.amazon.com/athena/latest/APIReference/API_QueryExecutionStatistics.html
        """
        fetched = {name: list(ranges) for name, ranges in self._lake.fetched.items()}
        parquet = {}
        for name, ranges in fetched.items():
            table = int(name.split("/")[2])
            needed = {self._scans[t].columns[c].name for t, c in self._scanned_columns if t == table}
            if not tables.is_parquet(self._scans[table]):
                self.scanned += self._lake.files[name].size
            elif needed:
                parquet[name] = needed, ranges
        if not parquet:
            return
        chunks = self.execute(
            "SELECT file_name, lower(split_part(path_in_schema, ', ', 1)), "
            "least(data_page_offset, coalesce(nullif(dictionary_page_offset, 0), data_page_offset)), "
            f"total_compressed_size FROM parquet_metadata([{', '.join(map(literal, parquet))}])"
        )
        for name, column, start, size in chunks.fetchall():
            needed, ranges = parquet[name]
            if column in needed and any(start < last and first < start + size for first, last in ranges):
                self.scanned += size

    def _rows(self, result: Any) -> Iterator[tuple[Any, ...]]:
        while True:
            try:
                batch = result.fetchmany(_BATCH)
            except duckdb.Error as error:
                raise self._failure(error) from error
            if not batch:
                return
            yield from batch

    def _failure(self, error: duckdb.Error) -> Exception:
        if self._stopped.is_set():
            return QueryCancelledError("Query cancelled by user", 1000)
        return self._lake.failure or from_duckdb(error, self.query)

    def _check(self, fetched: int) -> None:
        if self._scan_limit is not None and fetched > self._scan_limit:
            raise QueryCancelledError("Query cancelled! : Bytes scanned limit was exceeded", 1000)

    def _bind(self, database: str, name: str, fixed: set[str]) -> None:
        """Make a table or view of the catalog a view of DuckDB."""
        if (database, name) in self._bound:
            return
        self._bound.add((database, name))
        table = self.catalog.table(database, name)
        if table.is_view:
            definition = table.view()
            sql = self.translated(translate.parse(definition["originalSql"]), definition["schema"])
            columns = "(" + ", ".join(identifier(column["name"]) for column in definition["columns"]) + ")"
        else:
            files = tables.files(table, self.catalog, self.s3, fixed)
            number = len(self._scans)
            self._scans.append(table)
            keys = [key.name for key in table.keys]
            self._lake.files.update({lake.address(number, keys, file): file for file in files})
            spelling = self._spelling(lake.address(number, keys, files[0])) if files and tables.is_json(table) else {}
            sql, columns = tables.scan(table, number, files, spelling, "$path" in self.query), ""
        self.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(database)}")
        self.execute(f"CREATE VIEW {identifier(database)}.{identifier(name)}{columns} AS {sql}")

    def _spelling(self, address: str) -> dict[str, str]:
        """Return the keys of JSON objects by their lower case: the catalog has lower case only, DuckDB minds case.

        They are taken from the first objects of one file, which does not count as scanned.
        """
        objects = f"read_ndjson_objects({literal(address)}, ignore_errors = true)"
        sample = f"SELECT json FROM {objects} LIMIT 1000"
        found = self.execute(f"SELECT DISTINCT unnest(json_keys(json)) FROM ({sample})").fetchall()
        self._lake.fetched.clear()
        return {key.lower(): key for (key,) in found}


def _named(columns: list[Column]) -> list[Column]:
    """Name unnamed columns by their position, as Trino does."""
    return [
        Column(f"_col{n}", column.type) if column.name.startswith(translate.UNNAMED) else column
        for n, column in enumerate(columns)
    ]
