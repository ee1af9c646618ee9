"""Statements that read or change the Glue Data Catalog.

https://docs.aws.amazon.com/athena/latest/ug/ddl-reference.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import quote, unquote

from sqlglot import exp

from local.aws.athena import hive, lake, translate
from local.aws.athena.catalog import Catalog, Members, Partition, Table, column_members, storage, view_input
from local.aws.athena.engine import Engine
from local.aws.athena.errors import DDL, NO_TABLE, SYNTAX, QueryError, aws_errors, position, unsupported
from local.aws.athena.hive import Column

Lines = list[str]
Names = tuple[str, str]

_NAME = r'(?P<name>[\w$`".-]+)'
_SPEC = r"\s*\((?P<spec>(?:[^()']|'[^']*')*)\)"


def names(text: str, database: str) -> Names:
    """Split ``db.table``, in quotes or not, into its database (or the default one) and its name, in lower case."""
    parts = [part.strip('`"').lower() for part in text.split(".")]
    return (parts[-2] if len(parts) > 1 else database), parts[-1]


def table_names(table: exp.Table, database: str) -> Names:
    """Return the database and name of a parsed table name."""
    return (table.db or database).lower(), table.name.lower()


def create(engine: Engine, tree: exp.Create, database: str) -> Lines:
    """CREATE EXTERNAL TABLE, CREATE DATABASE, CREATE VIEW."""
    kind = str(tree.args["kind"]).upper()
    if kind == "VIEW":
        return _create_view(engine, tree, database)
    if kind in ("DATABASE", "SCHEMA"):
        return _create_database(engine.catalog, tree)
    if kind == "TABLE":
        return _create_table(engine.catalog, tree, database)
    raise unsupported(f"CREATE {kind}")


def drop(engine: Engine, tree: exp.Drop, database: str) -> Lines:
    """DROP TABLE, DROP VIEW, DROP DATABASE; a table's objects stay, as those of every external table do."""
    catalog = engine.catalog
    kind, target = str(tree.args["kind"]).upper(), tree.args["tables"][0]
    if kind in ("DATABASE", "SCHEMA"):
        name = (target.name or target.db).lower()
        if not catalog.has_database(name):
            return _missing(tree, f"Database does not exist: {name}")
        if catalog.tables(name) and not tree.args.get("cascade"):
            raise _ddl_failure(f"Database {name} is not empty. One or more tables exist.")
        with aws_errors(f"dropping database {name}"):
            catalog.glue.delete_database(Name=name)
        return []
    schema, name = table_names(target, database)
    table = catalog.find(schema, name)
    if table is None:
        return _missing(tree, f"Table not found {name}")
    if table.is_view != (kind == "VIEW"):
        raise _ddl_failure(f"{schema}.{name} is a {'view' if table.is_view else 'table'}")
    with aws_errors(f"dropping {schema}.{name}"):
        catalog.glue.delete_table(DatabaseName=schema, Name=name)
    return []


def _missing(tree: exp.Drop, reason: str) -> Lines:
    if tree.args.get("exists"):
        return []
    raise _ddl_failure(reason)


def _ddl_failure(reason: str) -> QueryError:
    return QueryError(f"FAILED: SemanticException {reason}", DDL)


def _create_database(catalog: Catalog, tree: exp.Create) -> Lines:
    name = (tree.this.name or tree.this.db).lower()
    if catalog.has_database(name):
        if tree.args.get("exists"):
            return []
        raise _ddl_failure(f"Database {name} already exists")
    members: Members = {"Name": name}
    for item in _properties(tree):
        if isinstance(item, exp.LocationProperty):
            members["LocationUri"] = item.name
        elif isinstance(item, exp.SchemaCommentProperty):
            members["Description"] = item.name
    with aws_errors(f"creating database {name}"):
        catalog.glue.create_database(DatabaseInput=members)
    return []


def _create_view(engine: Engine, tree: exp.Create, database: str) -> Lines:
    schema, name = table_names(tree.this if isinstance(tree.this, exp.Table) else tree.this.this, database)
    existing = engine.catalog.find(schema, name)
    if existing and not (tree.args.get("replace") and existing.is_view):
        at = position(engine.query, name)
        raise QueryError(f"TABLE_ALREADY_EXISTS: {at}: View already exists: 'awsdatacatalog.{schema}.{name}'", DDL)
    # The text as it was given: a view is read as Trino SQL whenever it is used.
    text = re.split(r"\bAS\b", engine.query, maxsplit=1, flags=re.IGNORECASE)[1].strip().rstrip(";")
    query = translate.name_columns(tree.expression.copy())
    sql = engine.translated(query, schema)
    columns = engine.columns(sql)
    for n, column in enumerate(columns, 1):
        if column.name == f"_col{n - 1}":
            raise QueryError(f"MISSING_COLUMN_NAME: line 1:1: Column name not specified at position {n}", SYNTAX)
    members = view_input(name, text, database, columns)
    with aws_errors(f"creating view {schema}.{name}"):
        if existing:
            engine.catalog.glue.update_table(DatabaseName=schema, TableInput=members)
        else:
            engine.catalog.glue.create_table(DatabaseName=schema, TableInput=members)
    return []


def _create_table(catalog: Catalog, tree: exp.Create, database: str) -> Lines:
    schema_tree = tree.this
    found = _properties(tree)
    settings = {item.name: str(item.args["value"].name) for item in found if type(item) is exp.Property}
    if settings.get("table_type", "").upper() == "ICEBERG":
        raise unsupported("CREATE TABLE of Iceberg")
    if not any(isinstance(item, exp.ExternalProperty) for item in found):
        raise QueryError("External keyword required for table type HIVE", SYNTAX)
    schema, name = table_names(schema_tree.this, database)
    if catalog.find(schema, name):
        if tree.args.get("exists"):
            return []
        raise QueryError(f"FAILED: AlreadyExistsException Table {name} already exists", DDL)
    table = _Declared()
    for item in found:
        table.add(item)
    if not table.location:
        raise QueryError("FAILED: SemanticException Table location is required", DDL)
    columns = _column_defs(schema_tree.expressions)
    members: Members = {
        "Name": name,
        "Description": table.comment,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", **settings},
        "PartitionKeys": column_members(table.keys),
        "StorageDescriptor": storage(columns, table.location, table.layout, table.serde_settings),
    }
    catalog.create_table(schema, members, f"creating table {schema}.{name}")
    return []


@dataclass
class _Declared:
    """What the clauses of CREATE EXTERNAL TABLE say."""

    layout: hive.Format = hive.FORMATS["TEXTFILE"]
    serde_settings: dict[str, str] = field(default_factory=dict)
    location: str = ""
    keys: list[Column] = field(default_factory=list)
    comment: str = ""

    def add(self, item: exp.Expr) -> None:
        """Take over a clause."""
        if isinstance(item, exp.LocationProperty):
            self.location = item.name
        elif isinstance(item, exp.PartitionedByProperty):
            self.keys = _column_defs(item.this.expressions)
        elif isinstance(item, exp.FileFormatProperty):
            self.layout = _file_format(item, self.layout)
        elif isinstance(item, exp.RowFormatSerdeProperty):
            self.layout = self.layout._replace(serde=item.name)
            self.serde_settings |= _serde_settings(item.args.get("serde_properties"))
        elif isinstance(item, exp.SerdeProperties):
            self.serde_settings |= _serde_settings(item)
        elif isinstance(item, exp.RowFormatDelimitedProperty):
            self.serde_settings |= _delimited(item)
        elif isinstance(item, exp.SchemaCommentProperty):
            self.comment = item.name
        elif type(item) not in (exp.ExternalProperty, exp.Property):
            raise unsupported(f"CREATE TABLE with {item.key}")


def _properties(tree: exp.Create) -> list[exp.Expr]:
    whole = tree.args.get("properties")
    return list(whole.expressions) if whole else []


def _column_defs(items: list[exp.Expr]) -> list[Column]:
    types = (re.sub(r"([<,:(]) ", r"\1", item.args["kind"].sql(dialect="hive").lower()) for item in items)
    return [Column(item.name.lower(), kind) for item, kind in zip(items, types, strict=True)]


def _file_format(item: exp.FileFormatProperty, layout: hive.Format) -> hive.Format:
    given = item.this
    if isinstance(given, exp.InputOutputFormat):
        return layout._replace(input=given.args["input_format"].name, output=given.args["output_format"].name)
    if given.name.upper() not in hive.FORMATS:
        raise unsupported(f"STORED AS {given.name}")
    stored = hive.FORMATS[given.name.upper()]
    chosen = layout.serde != hive.LAZY_SIMPLE
    return stored._replace(serde=layout.serde) if chosen else stored


def _serde_settings(item: exp.Expr | None) -> dict[str, str]:
    return {pair.name: pair.args["value"].name for pair in item.expressions} if item else {}


def _delimited(item: exp.RowFormatDelimitedProperty) -> dict[str, str]:
    known = {"fields": "field.delim", "escaped": "escape.delim", "null": "serialization.null.format"}
    given = {key: item.args[key].name for key in known if item.args.get(key)}
    settings = {known[key]: value.encode().decode("unicode_escape") for key, value in given.items()}
    if "field.delim" in settings:
        settings["serialization.format"] = settings["field.delim"]
    return settings


def _show_tables(catalog: Catalog, found: re.Match[str], database: str) -> Lines:
    schema = (found["database"] or database).strip('`"').lower()
    pattern = re.sub(r"\.\*", "*", found["pattern"] or "*")
    listed = catalog.tables(schema, views_only=found["what"].upper() == "VIEWS")
    return [name for name in listed if any(fnmatchcase(name, choice) for choice in pattern.split("|"))]


def _show_databases(catalog: Catalog, found: re.Match[str], database: str) -> Lines:
    pattern = re.sub(r"\.\*", "*", found["pattern"] or "*")
    return [name for name in catalog.databases() if any(fnmatchcase(name, choice) for choice in pattern.split("|"))]


def _show_columns(catalog: Catalog, found: re.Match[str], database: str) -> Lines:
    table = _table(catalog, found, database)
    return [f"{column.name:<20}" for column in [*table.columns, *table.keys]]


def _show_partitions(catalog: Catalog, found: re.Match[str], database: str) -> Lines:
    table = _table(catalog, found, database)
    if not table.keys:
        raise _ddl_failure(f"Table {table.name} is not a partitioned table")
    return sorted(_partition_name(table, partition.values) for partition in catalog.partitions(table))


def _describe(catalog: Catalog, found: re.Match[str], database: str) -> Lines:
    """One line a column, its name and type padded to 20 characters as Hive pads them."""
    table = _table(catalog, found, database)
    rows = [f"{c.name:<20}\t{c.type:<20}\t{'':<20}" for c in [*table.columns, *table.keys]]
    if not table.keys:
        return rows
    keys = [f"{c.name:<20}\t{c.type:<20}\t{'':<20}" for c in table.keys]
    head = f"{'# col_name':<20}\t{'data_type':<20}\t{'comment':<20}"
    return [*rows, "", "# Partition Information", head, "", *keys]


def _repair(catalog: Catalog, found: re.Match[str], database: str, s3: object) -> Lines:
    """Register the Hive-style folders (key=value/...) under the table's location that are not registered."""
    table = _table(catalog, found, database)
    known = {partition.values for partition in catalog.partitions(table)}
    root = lake.folder(table.location)
    pattern = re.compile("/".join(f"{re.escape(key.name)}=([^/]+)" for key in table.keys) + "/")
    new = {}
    for file in lake.list_files(s3, root):
        folder = pattern.match(file.location.key[len(root.key) :])
        values = tuple(unquote(value) for value in folder.groups()) if folder else ()
        if folder and values not in known:
            new[values] = Partition(values, f"{table.location}{folder.group()}")
    catalog.add_partitions(table, list(new.values()))
    return [f"Repair: Added partition to metastore {table.name}:{_partition_name(table, values)}" for values in new]


def _add_partitions(catalog: Catalog, found: re.Match[str], database: str) -> Lines:
    table = _table(catalog, found, database)
    known = {partition.values for partition in catalog.partitions(table)}
    new = []
    pieces = re.finditer(rf"PARTITION{_SPEC}(?:\s*LOCATION\s*'(?P<location>[^']*)')?", found["rest"], re.IGNORECASE)
    for piece in pieces:
        values = _spec(table, piece["spec"])
        default = f"{table.location}{_partition_name(table, values)}/"
        if values not in known:
            new.append(Partition(values, piece["location"] or default))
        elif not found["exists"]:
            raise QueryError(f"FAILED: AlreadyExistsException Partition already exists: {list(values)}", DDL)
    catalog.add_partitions(table, new)
    return []


def _drop_partitions(catalog: Catalog, found: re.Match[str], database: str) -> Lines:
    table = _table(catalog, found, database)
    known = {partition.values for partition in catalog.partitions(table)}
    for piece in re.finditer(rf"PARTITION{_SPEC}", found["rest"], re.IGNORECASE):
        values = _spec(table, piece["spec"])
        if values in known:
            with aws_errors(f"dropping a partition of {table.name}"):
                catalog.glue.delete_partition(
                    DatabaseName=table.database, TableName=table.name, PartitionValues=list(values)
                )
        elif not found["exists"]:
            raise _ddl_failure(f"Partition not found {_partition_name(table, values)}")
    return []


def _spec(table: Table, text: str) -> tuple[str, ...]:
    pairs = re.findall(r"[`\"]?(\w+)[`\"]?\s*=\s*('[^']*'|\"[^\"]*\"|[^,\s]+)", text)
    given = {name.lower(): value.strip("'\"") for name, value in pairs}
    keys = [key.name for key in table.keys]
    if set(given) != set(keys):
        raise _ddl_failure(f"Partition spec {given} does not match the partition columns {keys}")
    return tuple(given[key] for key in keys)


def _partition_name(table: Table, values: tuple[str, ...]) -> str:
    pairs = zip(table.keys, values, strict=True)
    return "/".join(f"{key.name}={quote(value, safe=' -_.!~()')}" for key, value in pairs)


def _table(catalog: Catalog, found: re.Match[str], database: str) -> Table:
    schema, name = names(found["name"], found.groupdict().get("database") or database)
    table = catalog.find(schema, name)
    if table is None:
        raise QueryError(f"FAILED: SemanticException [Error 10001]: Table not found {schema}.{name}", NO_TABLE)
    return table


_IN = r"(?:\s+(?:IN|FROM)\s+(?P<database>[\w`\"-]+))?"
_LIKE = r"(?:\s+(?:LIKE\s+)?'(?P<pattern>[^']*)')?"
_COMMANDS: tuple[tuple[str, Callable[[Catalog, re.Match[str], str], Lines]], ...] = (
    (rf"SHOW\s+(?P<what>TABLES|VIEWS){_IN}{_LIKE}", _show_tables),
    (rf"SHOW\s+(?:DATABASES|SCHEMAS){_LIKE}", _show_databases),
    (rf"SHOW\s+COLUMNS\s+(?:IN|FROM)\s+{_NAME}{_IN}", _show_columns),
    (rf"SHOW\s+PARTITIONS\s+{_NAME}", _show_partitions),
    (rf"DESC(?:RIBE)?\s+{_NAME}", _describe),
    (rf"ALTER\s+TABLE\s+{_NAME}\s+ADD(?P<exists>\s+IF\s+NOT\s+EXISTS)?(?P<rest>\s+PARTITION\s*\(.*)", _add_partitions),
    (rf"ALTER\s+TABLE\s+{_NAME}\s+DROP(?P<exists>\s+IF\s+EXISTS)?(?P<rest>\s+PARTITION\s*\(.*)", _drop_partitions),
)
_REPAIR = rf"MSCK\s+REPAIR\s+TABLE\s+{_NAME}"


def is_command(text: str) -> bool:
    """Return whether ``text`` is a Hive-style statement that ``command`` runs."""
    return any(_match(pattern, text) for pattern in (_REPAIR, *(pattern for pattern, _ in _COMMANDS)))


def command(engine: Engine, text: str, database: str) -> Lines:
    """Run SHOW, DESCRIBE, MSCK REPAIR TABLE or ALTER TABLE ... PARTITION; return its output."""
    if repair := _match(_REPAIR, text):
        return _repair(engine.catalog, repair, database, engine.s3)
    found, run = next((found, run) for pattern, run in _COMMANDS if (found := _match(pattern, text)))
    return run(engine.catalog, found, database)


def _match(pattern: str, text: str) -> re.Match[str] | None:
    return re.fullmatch(rf"\s*{pattern}\s*;?\s*", text, re.IGNORECASE | re.DOTALL)
