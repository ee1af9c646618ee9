"""Redshift SQL to PostgreSQL SQL: what sqlglot leaves out or translates with another meaning.

https://docs.aws.amazon.com/redshift/latest/dg/cm_chap_SQLCommandRef.html

What Redshift does not have is refused here although PostgreSQL would run it, and what only Redshift has is refused by
name, so that a statement either means the same on both or fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.redshift import Redshift
from sqlglot.errors import ErrorLevel, SqlglotError, UnsupportedError
from sqlglot.tokenizer_core import Token, TokenType

from local.aws.redshift import catalog
from local.aws.redshift.errors import SqlError, unsupported

MAX_VARCHAR = 65535

# Functions that PostgreSQL has under the same name and with the same meaning.
_SAME = frozenset(re.findall(r"^CREATE FUNCTION pg_catalog\.(\w+)", catalog.FUNCTIONS, re.MULTILINE)) | frozenset(
    "array_to_string ascii bpcharcmp btrim chr cos cot crc32 current_schema current_schemas current_database "
    "current_setting date_part dense_rank degrees exp format has_schema_privilege has_table_privilege initcap left "
    "lpad ltrim md5 mod now octet_length pg_backend_pid pg_get_viewdef pg_last_query_id position pi quote_ident "
    "quote_literal radians random regexp_count regexp_instr repeat replace reverse right rpad rtrim set_config "
    "sin split_part strpos substr tan timeofday to_char to_date to_number to_timestamp translate trunc version "
    "upper lower length char_length character_length concat version pg_typeof sha1 var_pop bit_and bit_or "
    "bool_and bool_or cbrt dlog1 dlog10 json_array_length regexp_substr grouping pg_table_size width_bucket".split()
)
_FOREIGN = frozenset(
    "string_agg array_agg generate_series generate_subscripts unnest gen_random_uuid jsonb_agg json_agg jsonb_build_object "
    "json_build_object row_to_json to_json to_jsonb jsonb_set jsonb_each json_each make_interval make_date make_timestamp "
    "regexp_matches regexp_split_to_table regexp_split_to_array string_to_array array_length cardinality age "
    "clock_timestamp statement_timestamp num_nonnulls xmlagg pg_sleep_for lo_import pg_read_file".split()
)
_ALIASES = {
    "charindex": "strpos_reversed",
    "textlen": "length",
    "len": "length",
    "isnull": "coalesce",
    "func_sha1": "sha1",
    "bttext_pattern_cmp": "bttextcmp",
}

_PARTS = {
    "millennium": "millennium millennia mil mils",
    "century": "century centuries c cent cents",
    "decade": "decade decades dec decs",
    "year": "year years y yr yrs",
    "quarter": "quarter quarters qtr qtrs",
    "month": "month months mon mons",
    "week": "week weeks w",
    "day": "day days d",
    "hour": "hour hours h hr hrs",
    "minute": "minute minutes m min mins",
    "second": "second seconds s sec secs",
    "millisecond": "millisecond milliseconds ms msec msecs msecond mseconds millisec millisecs millisecon",
    "microsecond": "microsecond microseconds us usec usecs usecond useconds microsec microsecs microsecond",
}
_PART = {name: part for part, names in _PARTS.items() for name in names.split()}


@dataclass
class Table:
    """What CREATE TABLE says that PostgreSQL has no place for."""

    dist_key: str = ""
    sort_key: list[str] = field(default_factory=list)


class _Tokenizer(Redshift.Tokenizer):
    """Splits every statement: the parser's own takes all behind REFRESH, UNLOAD, ... for one text."""

    COMMANDS: ClassVar[set[TokenType]] = set()


def tokens(sql: str) -> list[Token]:
    """Split SQL into tokens, comments left out.

    Raises:
        SqlError: a string or comment does not end.
    """
    try:
        return list(_Tokenizer(dialect="redshift").tokenize(sql))
    except SqlglotError as error:
        raise SqlError(f"syntax error: {str(error).splitlines()[0]}") from error


def split(sql: str) -> list[str]:
    """Return the statements of ``sql``, which semicolons separate."""
    starts, statements = 0, []
    for token in tokens(sql):
        if token.token_type == TokenType.SEMICOLON:
            statements.append(sql[starts : token.start])
            starts = token.end + 1
    statements.append(sql[starts:])
    return [statement.strip() for statement in statements if tokens(statement)]


def words(sql: str, count: int = 4) -> list[str]:
    """Return the first words of a statement in upper case."""
    return [token.text.upper() for token in tokens(sql)[:count]]


def parameters(sql: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of the named parameters (``:name``) of a statement."""
    found = tokens(sql)
    for before, colon, name in zip([None, *found], found, found[1:], strict=False):
        adjacent = colon.token_type == TokenType.COLON and name.start == colon.end + 1
        # The upper bound of a slice, as in items[1:last], is no parameter.
        slices = before and before.end + 1 == colon.start and re.search(r"[\w\])]$", before.text)
        if adjacent and re.fullmatch(r"\w+", name.text) and not slices:
            yield name.text, colon.start, name.end + 1


def bind(sql: str, values: dict[str, str]) -> str:
    """Put values in the place of the named parameters of a statement.

    Raises:
        KeyError: a parameter has no value.
    """
    for name, start, end in reversed(list(parameters(sql))):
        literal = "'" + values[name].replace("\\", "\\\\").replace("'", "''") + "'"
        sql = f"{sql[:start]}{literal}{sql[end:]}"
    return sql


def parse(sql: str) -> exp.Expr:
    """Parse one statement.

    Raises:
        SqlError: it is none that the parser knows.
    """
    try:
        trees = sqlglot.parse(sql, dialect="redshift", error_level=ErrorLevel.IMMEDIATE)
    except (SqlglotError, ValueError) as error:
        found = re.search(r"Line (\d+), Col: (\d+)", str(error))
        at = f" at line {found[1]}, column {found[2]}" if found else ""
        raise SqlError(f"syntax error{at}: {str(error).splitlines()[0].split('. Line')[0]}") from error
    tree = trees[0] if trees else None
    if tree is None or isinstance(tree, exp.Command):
        raise unsupported(" ".join(words(sql, 3)))
    return tree


def to_postgres(sql: str) -> str:
    """Return the PostgreSQL SQL of a query, DML or DDL statement.

    Raises:
        SqlError: Redshift or this translation does not have what it uses.
    """
    _refuse_foreign_functions(sql)
    physical = Table()
    first = words(sql, 1)
    if first in (["CREATE"], ["ALTER"]):
        sql = without_physical_design(sql, physical)
    tree = parse(sql)
    if isinstance(tree, exp.Create):
        _check_keys(tree, physical)
    generated_by_default = bool(re.search(r"GENERATED\s+BY\s+DEFAULT", sql, re.IGNORECASE))
    tree = _rewrite(tree)
    if not generated_by_default:
        for identity in tree.find_all(exp.GeneratedAsIdentityColumnConstraint):
            identity.set("this", True)  # ALWAYS: Redshift refuses values for an IDENTITY column
    try:
        result: str = tree.sql(dialect="postgres", unsupported_level=ErrorLevel.RAISE, comments=False)
    except UnsupportedError as error:
        raise unsupported(str(error).rstrip(".")) from error
    return result


# Words that are no functions although a parenthesis may follow them.
_NO_CALLS = frozenset({"in", "values", "as", "on", "and", "or", "not", "over", "using", "from", "exists", "by"})


def _refuse_foreign_functions(sql: str) -> None:
    found = tokens(sql)
    for name, bracket in zip(found, found[1:], strict=False):
        if bracket.token_type == TokenType.L_PAREN and name.text.lower() in _FOREIGN:
            raise SqlError(f"function {name.text.lower()}() does not exist")


# Physical design --------------------------------------------------------------------------------------------------


def without_physical_design(sql: str, table: Table) -> str:
    """Return a CREATE or ALTER statement without distribution, sort keys and encodings, which go to ``table``.

    They change how Redshift stores rows, never what a query returns.
    https://docs.aws.amazon.com/redshift/latest/dg/r_CREATE_TABLE_NEW.html
    """
    found = tokens(sql)
    cuts: list[tuple[int, int]] = []
    place = 0
    while place < len(found):
        end = _physical(found, place, table)
        if end > place:
            cuts.append((found[place].start, found[end - 1].end + 1))
            place = end
        else:
            place += 1
    for start, end in reversed(cuts):
        sql = sql[:start] + " " + sql[end:]
    return sql


def _physical(found: Sequence[Token], place: int, table: Table) -> int:
    """Return where the physical property that starts at ``place`` ends; ``place`` itself if none starts there."""

    def word(offset: int) -> str:
        return found[place + offset].text.upper() if place + offset < len(found) else ""

    first, second = word(0), word(1)
    if found[place].token_type in (TokenType.STRING, TokenType.IDENTIFIER):
        return place
    if first == "DISTSTYLE" and second in ("AUTO", "EVEN", "KEY", "ALL"):
        return place + 2
    if first == "ENCODE":
        return place + 2
    if first == "BACKUP" and second in ("YES", "NO"):
        return place + 2
    if first in ("COMPOUND", "INTERLEAVED") and second == "SORTKEY":
        return place + 1
    if first in ("DISTKEY", "SORTKEY"):
        if second == "AUTO":
            return place + 2
        if second != "(":
            return place + 1
        end = next(n for n in range(place, len(found)) if found[n].token_type == TokenType.R_PAREN)
        names = [token.text.lower() for token in found[place + 2 : end] if token.token_type != TokenType.COMMA]
        if first == "DISTKEY":
            table.dist_key = names[0]
        else:
            table.sort_key = names
        return end + 1
    return place


def _check_keys(tree: exp.Create, physical: Table) -> None:
    schema = tree.this
    if not isinstance(schema, exp.Schema):
        return
    columns = {column.name.lower() for column in schema.find_all(exp.ColumnDef)}
    if not columns:
        return  # LIKE
    table = schema.this.name.lower()
    for kind, name in [("distkey", physical.dist_key), *(("sortkey", name) for name in physical.sort_key)]:
        if name and name not in columns:
            raise SqlError(f'column "{name}" specified as {kind} is not in the table "{table}"')


# Rewriting --------------------------------------------------------------------------------------------------------


def _rewrite(tree: exp.Expr) -> exp.Expr:
    """Rewrite bottom-up, so that what a rewrite copies has been rewritten."""
    for node in reversed(list(tree.walk(bfs=True))):
        rewrite = next((_REWRITES[kind] for kind in type(node).__mro__ if kind in _REWRITES), None)
        if rewrite is None:
            continue
        new = rewrite(node)
        if new is not node:
            if node is tree:
                tree = new
            else:
                node.replace(new)
    return tree


def _call(name: str, *arguments: exp.Expr | str) -> exp.Expr:
    nodes = [exp.Literal.string(each) if isinstance(each, str) else each.copy() for each in arguments]
    return exp.Anonymous(this=name, expressions=nodes)


def _identifier(node: exp.Expr) -> exp.Expr:
    """Fold to lower case: Redshift's names are, even in quotes.

    https://docs.aws.amazon.com/redshift/latest/dg/r_names.html
    """
    name = node.name.lower()
    node.set("this", name)
    if not re.fullmatch(r"[a-z_][a-z0-9_$]*", name):
        node.set("quoted", True)
    return node


def _refused(what: str) -> Callable[[exp.Expr], exp.Expr]:
    def refuse(node: exp.Expr) -> exp.Expr:
        raise SqlError(f"{what} is not supported by Redshift")

    return refuse


def _part(node: exp.Expr | None) -> str:
    name = (node.name if node is not None else "day").lower()
    if name not in _PART:
        raise SqlError(f'interval units "{name}" not recognized')
    return _PART[name]


def _date_add(node: exp.Expr) -> exp.Expr:
    return _call("dateadd", _part(node.args.get("unit")), node.expression, node.this)


def _date_diff(node: exp.Expr) -> exp.Expr:
    return _call("datediff", _part(node.args.get("unit")), node.expression, node.this)


def _extract(node: exp.Expr) -> exp.Expr:
    """EXTRACT and DATE_PART give whole numbers: https://docs.aws.amazon.com/redshift/latest/dg/r_EXTRACT_function.html"""
    part = node.name.lower()
    if node.this.name:
        part = {"dayofweek": "dow", "weekday": "dow", "dw": "dow", "dayofyear": "doy", "dy": "doy"}.get(part, part)
        node.set("this", exp.Var(this=_PART.get(part, part)))
    return exp.cast(_call("trunc", node), "bigint")


def _now(node: exp.Expr) -> exp.Expr:
    return _call("redshift_sysdate") if node.args.get("sysdate") else _call("getdate")


def _convert_timezone(node: exp.Expr) -> exp.Expr:
    zones = [node.args[name] for name in ("source_tz", "target_tz") if node.args.get(name) is not None]
    return _call("convert_timezone", *zones, node.args["timestamp"])


def _avg(node: exp.Expr) -> exp.Expr:
    if isinstance(node.this, exp.Distinct):
        return exp.Anonymous(this="redshift_avg", expressions=[node.this.copy()])
    return _call("redshift_avg", node.this)


def _list_agg(node: exp.Expr) -> exp.Expr:
    """PostgreSQL takes the order inside: STRING_AGG(value, separator ORDER BY key)."""
    inner = node.this if isinstance(node, exp.WithinGroup) else node
    if not isinstance(inner, exp.GroupConcat):
        return node
    if isinstance(node, exp.GroupConcat) and isinstance(node.parent, exp.WithinGroup):
        return node  # rewritten with what is around it
    value, distinct = inner.this, False
    if isinstance(value, exp.Distinct):
        value, distinct = value.expressions[0], True
    separator = inner.args.get("separator") or exp.Literal.string("")
    text = exp.cast(value.copy(), "text")
    first: exp.Expr = exp.Distinct(expressions=[text]) if distinct else text
    last: exp.Expr = separator.copy()
    if isinstance(node, exp.WithinGroup):
        order = node.expression.copy()
        if distinct:
            for key in order.expressions:
                key.set("this", exp.cast(key.this.copy(), "text"))
        order.set("this", last)
        last = order
    return exp.Anonymous(this="string_agg", expressions=[first, last])


def _ratio_to_report(node: exp.Expr) -> exp.Expr:
    """Rewrite RATIO_TO_REPORT(x) OVER (...): https://docs.aws.amazon.com/redshift/latest/dg/r_WF_RATIO_TO_REPORT.html"""
    inner = node.this
    if not (isinstance(inner, exp.Anonymous) and inner.name.lower() == "ratio_to_report"):
        return node
    value = inner.expressions[0]
    total = node.copy()
    total.set("this", exp.Sum(this=value.copy()))
    part = exp.cast(value.copy(), "double precision")
    return exp.Paren(this=exp.Div(this=part, expression=exp.func("NULLIF", total, exp.Literal.number(0))))


def _approximate(node: exp.Expr) -> exp.Expr:
    return exp.Count(this=exp.Distinct(expressions=[node.this.copy()]))


def _json_extract(node: exp.Expr) -> exp.Expr:
    return node


def _from_base(node: exp.Expr) -> exp.Expr:
    return _call("strtol", node.this, node.expression)


def _sha2(node: exp.Expr) -> exp.Expr:
    return _call("sha2", node.this, node.args.get("length") or exp.Literal.number(256))


def _regexp_extract(node: exp.Expr) -> exp.Expr:
    given = [node.args.get(name) for name in ("position", "occurrence", "parameters")]
    return _call("regexp_substr", node.this, node.expression, *(each for each in given if each is not None))


def _regexp_replace(node: exp.Expr) -> exp.Expr:
    """Redshift replaces all matches: https://docs.aws.amazon.com/redshift/latest/dg/REGEXP_REPLACE.html"""
    replacement = node.args.get("replacement") or exp.Literal.string("")
    if isinstance(replacement, exp.Literal):
        replacement = exp.Literal.string(re.sub(r"\$(\d)", r"\\\1", replacement.name))
    return _call("regexp_replace", node.this, node.expression, replacement, "g")


def _cast(node: exp.Expr) -> exp.Expr:
    target = node.args["to"]
    target.replace(_data_type(target))
    return node


_TYPES = {
    "SUPER": "JSONB",
    "VARBINARY": "BYTEA",
    "NVARCHAR": "VARCHAR",
    "NCHAR": "CHAR",
    "DATETIME": "TIMESTAMP",
}
_NO_TYPES = ("UUID", "JSON", "JSONB", "ARRAY", "SERIAL", "BIGSERIAL", "SMALLSERIAL", "MONEY", "INET", "XML", "ENUM")
_LATER_TYPES = ("GEOMETRY", "GEOGRAPHY", "HLLSKETCH")


def _data_type(node: exp.Expr) -> exp.Expr:
    """https://docs.aws.amazon.com/redshift/latest/dg/c_Supported_data_types.html"""
    kind = node.this.name if isinstance(node.this, exp.DataType.Type) else str(node.this).upper()
    if kind in _NO_TYPES:
        raise SqlError(f"unsupported type: {kind.lower()}")
    if kind in _LATER_TYPES:
        raise unsupported(f"Type {kind}")
    if kind == "DECIMAL" and not node.expressions:
        node.set("expressions", [exp.DataTypeParam(this=exp.Literal.number(n)) for n in (18, 0)])
    if kind == "DECIMAL" and int(node.expressions[0].name) > 38:
        raise SqlError("DECIMAL precision must be between 1 and 38")
    if kind in ("VARCHAR", "NVARCHAR") and node.expressions and node.expressions[0].name.upper() == "MAX":
        node.set("expressions", [exp.DataTypeParam(this=exp.Literal.number(MAX_VARCHAR))])
    if kind in _TYPES:
        node.set("this", exp.DataType.Type[_TYPES[kind]] if _TYPES[kind] in exp.DataType.Type.__members__ else _TYPES[kind])
    return node


def _column_type(kind: exp.Expr) -> tuple[exp.Expr, int]:
    """Return a column's type with its default length, and that length in bytes, 0 for a type that is no text."""
    name = kind.this.name if isinstance(kind.this, exp.DataType.Type) else ""
    if name not in ("VARCHAR", "CHAR", "TEXT", "NVARCHAR", "NCHAR", "BPCHAR"):
        return kind, 0
    # https://docs.aws.amazon.com/redshift/latest/dg/r_Character_types.html
    length = 1 if name in ("CHAR", "NCHAR") else 256
    if kind.expressions:
        length = MAX_VARCHAR if kind.expressions[0].name.upper() == "MAX" else int(kind.expressions[0].name)
    base = "CHAR" if name in ("CHAR", "NCHAR", "BPCHAR") else "VARCHAR"
    if not 1 <= length <= (MAX_VARCHAR if base == "VARCHAR" else 4096):
        raise SqlError(f"length for type {base.lower()} cannot exceed {MAX_VARCHAR if base == 'VARCHAR' else 4096}")
    return exp.DataType.build(f"{base}({length})", dialect="redshift"), length


def _column(node: exp.Expr) -> exp.Expr:
    """Give a text column its limit in bytes: PostgreSQL counts characters."""
    if node.args.get("kind") is None:
        return node
    kind, length = _column_type(node.args["kind"])
    node.set("kind", kind)
    keys = [each for each in node.args.get("constraints", []) if isinstance(each.kind, _KEYS)]
    for key in keys:
        if isinstance(key.kind, exp.PrimaryKeyColumnConstraint):
            key.replace(exp.ColumnConstraint(kind=exp.NotNullColumnConstraint()))
        else:
            key.pop()
    if length:
        node.append("constraints", bytes_check(node.name, length))
    return node


def bytes_check(column: str, length: int) -> exp.Expr:
    """Return the constraint that holds a text column to its length in bytes."""
    test = exp.LTE(this=_call("octet_length", exp.column(column.lower())), expression=exp.Literal.number(length))
    return exp.ColumnConstraint(
        this=exp.to_identifier(f"bytes_of_{column.lower()}"[:63], quoted=True), kind=exp.CheckColumnConstraint(this=test)
    )


_KEYS = (exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint, exp.Reference)


def _schema(node: exp.Expr) -> exp.Expr:
    """Leave out keys, which Redshift does not enforce; those of a primary key stay NOT NULL.

    https://docs.aws.amazon.com/redshift/latest/dg/t_Defining_constraints.html
    """
    kept = []
    required: set[str] = set()
    for item in node.expressions:
        inner = item.expressions[0] if isinstance(item, exp.Constraint) and item.expressions else item
        if isinstance(inner, exp.PrimaryKey):
            required |= {each.find(exp.Identifier).name.lower() for each in inner.expressions}
        elif isinstance(inner, (exp.ForeignKey, exp.UniqueColumnConstraint)):
            continue
        elif isinstance(inner, exp.CheckColumnConstraint):
            raise SqlError("CHECK constraints are not supported by Redshift")
        elif isinstance(inner, exp.LikeProperty):
            inner.set("expressions", [*inner.expressions, _including("CONSTRAINTS")])
            kept.append(item)
        else:
            kept.append(item)
    for item in kept:
        if isinstance(item, exp.ColumnDef) and item.name.lower() in required:
            if not any(isinstance(each.kind, exp.NotNullColumnConstraint) for each in item.constraints):
                item.append("constraints", exp.ColumnConstraint(kind=exp.NotNullColumnConstraint()))
    node.set("expressions", kept)
    return node


def _including(what: str) -> exp.Expr:
    return exp.Property(this=exp.Literal.string("INCLUDING"), value=exp.Var(this=what))


def _merge(node: exp.Expr) -> exp.Expr:
    """Check what Redshift demands of MERGE; its INSERT VALUES is a tuple where sqlglot makes a subquery.

    https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html
    """
    if not isinstance(node.args["using"], exp.Table):
        raise SqlError("MERGE source must be a table")
    whens = node.args["whens"].expressions
    if sorted(bool(when.args.get("matched")) for when in whens) != [False, True]:
        raise SqlError("MERGE requires one WHEN MATCHED and one WHEN NOT MATCHED clause")
    if any(when.args.get("condition") for when in whens):
        raise SqlError("MERGE WHEN clauses take no condition on Redshift")
    for when in whens:
        then = when.args["then"]
        if isinstance(then, exp.Insert):
            row = then.this.expressions[0] if then.this else None
            if isinstance(row, exp.Anonymous) and row.name.upper() == "VALUES":
                then.set("this", None)
                then.set("expression", exp.Tuple(expressions=[value.copy() for value in row.expressions]))
    return node


def _anonymous(node: exp.Expr) -> exp.Expr:
    name = node.name.lower()
    if name == "json_extract_path_text":
        document, *path = node.expressions
        forgiving: exp.Expr = exp.false()
        if path and isinstance(path[-1], exp.Boolean):
            forgiving = path.pop()
        return _call("redshift_json_text", document, forgiving, *path)
    if name == "values" and node.find_ancestor(exp.Merge):
        return node
    if name in _ALIASES:
        return exp.func(_ALIASES[name].upper(), *(each.copy() for each in node.expressions))
    if name == "ratio_to_report" or name in _SAME or name in ("string_agg", "redshift_avg"):
        return node
    raise SqlError(f"function {name}() does not exist, or the embedded Redshift lacks it")


def _create(node: exp.Expr) -> exp.Expr:
    kind = str(node.args.get("kind", "")).upper()
    if kind in ("INDEX", "SEQUENCE", "TRIGGER", "TYPE", "DOMAIN", "EXTENSION", "RULE"):
        raise SqlError(f"CREATE {kind} is not supported by Redshift")
    if kind not in ("TABLE", "VIEW", "SCHEMA", "DATABASE"):
        raise unsupported(f"CREATE {kind}")
    table = node.this.this if isinstance(node.this, exp.Schema) else node.this
    if isinstance(table, exp.Table) and table.name.startswith("#") and not node.find(exp.TemporaryProperty):
        node.set("properties", exp.Properties(expressions=[exp.TemporaryProperty()]))
    if node.args.get("no_schema_binding"):
        raise unsupported("A view WITH NO SCHEMA BINDING")
    return node


def _distinct(node: exp.Expr) -> exp.Expr:
    if node.args.get("on"):
        raise SqlError("SELECT DISTINCT ON is not supported by Redshift")
    return node


def _pass(node: exp.Expr) -> exp.Expr:
    return node


_REWRITES: dict[type[exp.Expr], Callable[[exp.Expr], exp.Expr]] = {
    exp.Identifier: _identifier,
    exp.Anonymous: _anonymous,
    exp.Create: _create,
    exp.Schema: _schema,
    exp.ColumnDef: _column,
    exp.DataType: _data_type,
    exp.Merge: _merge,
    exp.TsOrDsAdd: _date_add,
    exp.DateAdd: _date_add,
    exp.TsOrDsDiff: _date_diff,
    exp.DateDiff: _date_diff,
    exp.Extract: _extract,
    exp.CurrentTimestamp: _now,
    exp.ConvertTimezone: _convert_timezone,
    exp.AddMonths: lambda node: _call("add_months", node.this, node.expression),
    exp.LastDay: lambda node: _call("last_day", node.this),
    exp.MonthsBetween: lambda node: _call("months_between", node.this, node.expression),
    exp.Avg: _avg,
    exp.GroupConcat: _list_agg,
    exp.WithinGroup: _list_agg,
    exp.Window: _ratio_to_report,
    exp.ApproxDistinct: _approximate,
    exp.FromBase: _from_base,
    exp.SHA2: _sha2,
    exp.RegexpExtract: _regexp_extract,
    exp.RegexpReplace: _regexp_replace,
    exp.Distinct: _distinct,
    exp.OnConflict: _refused("ON CONFLICT"),
    exp.Returning: _refused("RETURNING"),
    exp.Filter: _refused("FILTER (WHERE ...)"),
    exp.Array: _refused("ARRAY[...]"),
    exp.Lateral: _refused("LATERAL"),
    exp.IgnoreNulls: lambda node: (_ for _ in ()).throw(unsupported("IGNORE NULLS")),
    exp.Pivot: lambda node: (_ for _ in ()).throw(unsupported("PIVOT")),
}
