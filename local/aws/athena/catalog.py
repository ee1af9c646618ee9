"""The Glue Data Catalog as the caller sees it: databases, tables, partitions, views."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from local.aws.athena import hive
from local.aws.athena.errors import DDL, NO_TABLE, SYNTAX, QueryError, aws_errors, position
from local.aws.athena.hive import Column

Members = dict[str, Any]

# How Presto and Athena keep a view in a Hive catalog.
_VIEW_PREFIX, _VIEW_SUFFIX = "/* Presto View: ", " */"


@dataclass(frozen=True)
class Table:
    """A table or view of the catalog; column types are Hive's."""

    database: str
    name: str
    kind: str
    columns: list[Column]
    keys: list[Column]
    storage: Members
    parameters: dict[str, str]
    view_text: str

    @property
    def location(self) -> str:
        """Return the address of the table's folder, which ends in a slash."""
        return str(self.storage["Location"]).rstrip("/") + "/"

    @property
    def is_view(self) -> bool:
        """Return whether it is a view."""
        return self.kind == "VIRTUAL_VIEW"

    def view(self) -> Members:
        """Return the view's definition: ``originalSql``, ``schema`` and ``columns``."""
        encoded = self.view_text.removeprefix(_VIEW_PREFIX).removesuffix(_VIEW_SUFFIX)
        definition: Members = json.loads(base64.b64decode(encoded))
        return definition


@dataclass(frozen=True)
class Partition:
    """A registered partition; its values are text, in the order of the table's partition keys."""

    values: tuple[str, ...]
    location: str


class Catalog:
    """AwsDataCatalog through Glue's API with the caller's permissions."""

    def __init__(self, glue: Any, query: str) -> None:
        """Read through client ``glue``; messages give positions in ``query``."""
        self.glue = glue
        self._query = query

    def table(self, database: str, name: str) -> Table:
        """Return a table or view.

        Raises:
            QueryError: it or its database does not exist, or the caller may not see it.
        """
        found = self.find(database, name)
        if found:
            return found
        at = position(self._query, name)
        if not self.has_database(database):
            raise QueryError(f"SCHEMA_NOT_FOUND: {at}: Schema '{database}' does not exist", SYNTAX)
        reason = f"TABLE_NOT_FOUND: {at}: Table 'awsdatacatalog.{database}.{name}' does not exist"
        raise QueryError(reason, NO_TABLE)

    def find(self, database: str, name: str) -> Table | None:
        """Return a table or view, or nothing where there is none."""
        answer = self._get("get_table", f"reading table {database}.{name}", DatabaseName=database, Name=name)
        if answer is None:
            return None
        item = answer["Table"]
        storage = item.get("StorageDescriptor", {})
        return Table(
            database=database,
            name=name,
            kind=item.get("TableType", "EXTERNAL_TABLE"),
            columns=_columns(storage.get("Columns", [])),
            keys=_columns(item.get("PartitionKeys", [])),
            storage=storage,
            parameters=item.get("Parameters") or {},
            view_text=item.get("ViewOriginalText") or "",
        )

    def has_database(self, name: str) -> bool:
        """Return whether the database exists."""
        return self._get("get_database", f"reading database {name}", Name=name) is not None

    def databases(self) -> list[str]:
        """Return the names of all databases."""
        return self._all("get_databases", "DatabaseList", "listing databases")

    def tables(self, database: str, views_only: bool = False) -> list[str]:
        """Return the names of the database's tables and views."""
        with aws_errors(f"listing tables of {database}"):
            pages = self.glue.get_paginator("get_tables").paginate(DatabaseName=database)
            tables = [item for page in pages for item in page["TableList"]]
        return sorted(t["Name"] for t in tables if not views_only or t.get("TableType") == "VIRTUAL_VIEW")

    def partitions(self, table: Table) -> list[Partition]:
        """Return the table's registered partitions."""
        with aws_errors(f"reading partitions of {table.database}.{table.name}"):
            paginator = self.glue.get_paginator("get_partitions")
            pages = paginator.paginate(DatabaseName=table.database, TableName=table.name)
            return [
                Partition(tuple(item["Values"]), item["StorageDescriptor"]["Location"].rstrip("/") + "/")
                for page in pages
                for item in page["Partitions"]
            ]

    def add_partitions(self, table: Table, partitions: list[Partition]) -> None:
        """Register partitions with the table's storage settings."""
        batches = [partitions[start : start + 100] for start in range(0, len(partitions), 100)]
        with aws_errors(f"adding partitions to {table.database}.{table.name}"):
            for batch in batches:
                inputs = [
                    {"Values": list(p.values), "StorageDescriptor": {**table.storage, "Location": p.location}}
                    for p in batch
                ]
                answer = self.glue.batch_create_partition(
                    DatabaseName=table.database, TableName=table.name, PartitionInputList=inputs
                )
                for failed in answer.get("Errors", []):
                    detail = failed["ErrorDetail"]
                    raise QueryError(f"{detail['ErrorCode']}: {detail['ErrorMessage']}", DDL)

    def create_table(self, database: str, table_input: Members, doing: str) -> None:
        """Create a table or view.

        Raises:
            QueryError: it exists, its database does not, or the caller may not create it.
        """
        with aws_errors(doing):
            self.glue.create_table(DatabaseName=database, TableInput=table_input)

    def _get(self, operation: str, doing: str, **members: str) -> Members | None:
        with aws_errors(doing):
            try:
                answer: Members = getattr(self.glue, operation)(**members)
            except ClientError as error:
                if error.response["Error"]["Code"] == "EntityNotFoundException":
                    return None
                raise
            return answer

    def _all(self, operation: str, member: str, doing: str) -> list[str]:
        with aws_errors(doing):
            pages = self.glue.get_paginator(operation).paginate()
            return sorted(item["Name"] for page in pages for item in page[member])


def _columns(members: list[Members]) -> list[Column]:
    return [Column(member["Name"].lower(), member.get("Type", "string").lower()) for member in members]


def column_members(columns: list[Column]) -> list[Members]:
    """Return columns as Glue's API takes them."""
    return [{"Name": column.name, "Type": column.type} for column in columns]


def storage(columns: list[Column], location: str, layout: hive.Format, serde_parameters: Members) -> Members:
    """Return a StorageDescriptor for files of ``layout`` under ``location``."""
    return {
        "Columns": column_members(columns),
        "Location": location,
        "InputFormat": layout.input,
        "OutputFormat": layout.output,
        "SerdeInfo": {"SerializationLibrary": layout.serde, "Parameters": serde_parameters},
    }


def view_input(name: str, sql: str, database: str, columns: list[Column]) -> Members:
    """Return the TableInput of a view over ``sql``; ``columns`` have DuckDB types."""
    definition = {
        "originalSql": sql,
        "catalog": "awsdatacatalog",
        "schema": database,
        "columns": [{"name": c.name, "type": hive.trino_type(c.type)} for c in columns],
    }
    encoded = base64.b64encode(json.dumps(definition).encode()).decode()
    typed = [Column(c.name, hive.hive_type(c.type)) for c in columns]
    return {
        "Name": name,
        "TableType": "VIRTUAL_VIEW",
        "Parameters": {"presto_view": "true", "comment": "Presto View"},
        "StorageDescriptor": {"Columns": column_members(typed), "Location": "", "SerdeInfo": {}},
        "ViewOriginalText": f"{_VIEW_PREFIX}{encoded}{_VIEW_SUFFIX}",
        "ViewExpandedText": "/* Presto View */",
    }
