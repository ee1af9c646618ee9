"""Redshift SQL to PostgreSQL SQL: what sqlglot leaves out or translates with another meaning.

https://docs.aws.amazon.com/redshift/latest/dg/cm_chap_SQLCommandRef.html

What Redshift does not have is refused here although PostgreSQL would run it, and what only Redshift has is refused by
name, so that a statement either means the same on both or fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError, UnsupportedError

from local.aws.redshift import catalog, lexer, tables
from local.aws.redshift.errors import SqlError, unsupported

# Functions of Redshift that sqlglot does not know: installed ones, and those PostgreSQL has with the same meaning.
_KNOWN = frozenset(re.findall(r"^CREATE FUNCTION pg_catalog\.(\w+)", catalog.FUNCTIONS, re.MULTILINE)) | {
    *("ascii", "btrim", "chr", "cos", "cot", "current_schema", "current_database", "current_setting", "date_part"),
    *("degrees", "has_schema_privilege", "has_table_privilege", "octet_length", "pg_backend_pid", "quote_ident"),
    *("quote_literal", "radians", "regexp_count", "regexp_instr", "set_config", "sin", "tan", "timeofday", "to_number"),
    *("translate", "trunc", "version", "cbrt", "width_bucket", "pi", "random", "strpos", "replace", "reverse"),
}

# Functions of PostgreSQL that Redshift lacks, or has on its leader node only.
# https://docs.aws.amazon.com/redshift/latest/dg/c_unsupported-postgresql-functions.html
_FOREIGN = frozenset(
    {
        *("string_agg", "array_agg", "json_agg", "jsonb_agg", "xmlagg", "generate_series", "generate_subscripts"),
        *("unnest", "array_length", "cardinality", "string_to_array", "gen_random_uuid", "row_to_json", "to_json"),
        *("to_jsonb", "json_build_object", "jsonb_build_object", "jsonb_set", "json_each", "jsonb_each", "age"),
        *("make_interval", "make_date", "make_timestamp", "clock_timestamp", "statement_timestamp", "num_nonnulls"),
        *("regexp_matches", "regexp_split_to_table", "regexp_split_to_array", "pg_sleep", "pg_read_file"),
    }
)

# Functions that the parser would replace by others, or whose formats it would rewrite.
_KEPT = frozenset({"add_months", "json_extract_path_text", "to_char", "to_date", "to_timestamp"})
_KEPT_PREFIX = "redshift_kept_"

# https://docs.aws.amazon.com/redshift/latest/dg/r_Dateparts_for_datetime_functions.html
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
    "microsecond": "microsecond microseconds us usec usecs usecond useconds microsec microsecs",
    "dow": "dow dayofweek weekday dw",
    "doy": "doy dayofyear dy yearday",
    "epoch": "epoch",
}
_PART = {name: part for part, names in _PARTS.items() for name in names.split()}


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
        raise unsupported(" ".join(lexer.words(sql, 3)))
    return tree


def to_postgres(sql: str) -> str:
    """Return the PostgreSQL SQL of a query, DML or DDL statement.

    Raises:
        SqlError: Redshift or this translation does not have what it uses.
    """
    for name in reversed(list(lexer.calls(sql))):
        if name.text.lower() in _FOREIGN:
            raise SqlError(f"function {name.text.lower()}() does not exist")
        if name.text.lower() in _KEPT:
            sql = f"{sql[: name.start]}{_KEPT_PREFIX}{name.text}{sql[name.end + 1 :]}"
    design = tables.Design()
    if lexer.words(sql, 1)[0] in ("CREATE", "ALTER"):
        sql, design = tables.without_design(sql)
    tree = parse(sql)
    if isinstance(tree, exp.Create):
        tables.check_design(tree, design)
    tree = _rewrite(tree)
    if not re.search(r"GENERATED\s+BY\s+DEFAULT", sql, re.IGNORECASE):
        for identity in tree.find_all(exp.GeneratedAsIdentityColumnConstraint):
            identity.set("this", True)  # ALWAYS: Redshift refuses values for an IDENTITY column
    try:
        result: str = tree.sql(dialect="postgres", unsupported_level=ErrorLevel.RAISE, comments=False)
    except UnsupportedError as error:
        raise unsupported(str(error).rstrip(".")) from error
    return result


Rewrite = Callable[[exp.Expr], exp.Expr]


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


def _call(name: str, *arguments: exp.Expr | str | None) -> exp.Expr:
    """Return a call of ``name``; arguments that are None are left out."""
    nodes = [
        exp.Literal.string(each) if isinstance(each, str) else each.copy() for each in arguments if each is not None
    ]
    return exp.Anonymous(this=name, expressions=nodes)


def _refused(what: str) -> Rewrite:
    """Return a rewrite that refuses what PostgreSQL has and Redshift has not."""

    def refuse(node: exp.Expr) -> exp.Expr:
        raise SqlError(f"{what} is not supported by Redshift")

    return refuse


def _left_out(what: str) -> Rewrite:
    """Return a rewrite that refuses what Redshift has and the embedded Redshift has not."""

    def refuse(node: exp.Expr) -> exp.Expr:
        raise unsupported(what)

    return refuse


def _identifier(node: exp.Expr) -> exp.Expr:
    """Fold to lower case: Redshift's names are, even in quotes.

    https://docs.aws.amazon.com/redshift/latest/dg/r_names.html
    """
    name = node.name.lower()
    node.set("this", name)
    if not re.fullmatch(r"[a-z_][a-z0-9_$]*", name):
        node.set("quoted", True)
    return node


# Date and time ----------------------------------------------------------------------------------------------------


def _part(node: exp.Expr | None) -> str:
    name = node.name.lower() if node is not None else "day"
    if name not in _PART:
        raise SqlError(f'interval units "{name}" not recognized')
    return _PART[name]


def _date_add(node: exp.Expr) -> exp.Expr:
    return _call("dateadd", _part(node.args.get("unit")), node.expression, node.this)


def _date_diff(node: exp.Expr) -> exp.Expr:
    return _call("datediff", _part(node.args.get("unit")), node.expression, node.this)


def _extract(node: exp.Expr) -> exp.Expr:
    """Make it a whole number: https://docs.aws.amazon.com/redshift/latest/dg/r_EXTRACT_function.html"""
    node.set("this", exp.Var(this=_part(node.this)))
    return exp.cast(_call("trunc", node), "bigint")


def _now(node: exp.Expr) -> exp.Expr:
    return _call("redshift_sysdate") if node.args.get("sysdate") else _call("getdate")


def _convert_timezone(node: exp.Expr) -> exp.Expr:
    return _call("convert_timezone", node.args.get("source_tz"), node.args["target_tz"], node.args["timestamp"])


# Aggregates -------------------------------------------------------------------------------------------------------


def _list_agg(node: exp.Expr) -> exp.Expr:
    """Put the order inside, as PostgreSQL has it: STRING_AGG(value, separator ORDER BY key)."""
    inner = node.this if isinstance(node, exp.WithinGroup) else node
    if not isinstance(inner, exp.GroupConcat) or isinstance(node.parent, exp.WithinGroup):
        return node  # another aggregate, or rewritten with what is around it
    value, separators, distinct = inner.this, [inner.args.get("separator")], False
    if isinstance(value, exp.Distinct):
        (value, *separators), distinct = value.expressions, True
    separator = next((each for each in separators if each is not None), exp.Literal.string(""))
    as_text = exp.cast(value.copy(), "text")
    last: exp.Expr = separator.copy()
    if isinstance(node, exp.WithinGroup):
        order = node.expression.copy()
        for key in order.expressions if distinct else []:
            key.set("this", exp.cast(key.this.copy(), "text"))
        order.set("this", last)
        last = order
    return exp.Anonymous(
        this="string_agg", expressions=[exp.Distinct(expressions=[as_text]) if distinct else as_text, last]
    )


def _ratio_to_report(node: exp.Expr) -> exp.Expr:
    """Divide by the window's sum: https://docs.aws.amazon.com/redshift/latest/dg/r_WF_RATIO_TO_REPORT.html"""
    inner = node.this
    if not (isinstance(inner, exp.Anonymous) and inner.name.lower() == "ratio_to_report"):
        return node
    value = inner.expressions[0]
    total = node.copy()
    total.set("this", exp.Sum(this=value.copy()))
    part = exp.cast(value.copy(), "double precision")
    return exp.Paren(this=exp.Div(this=part, expression=exp.func("NULLIF", total, exp.Literal.number(0))))


def _approximate_percentile(node: exp.Expr) -> exp.Expr:
    ordered = exp.Order(expressions=[exp.Ordered(this=node.this.copy())])
    return exp.WithinGroup(this=_call("percentile_disc", node.args["quantile"]), expression=ordered)


# Text -------------------------------------------------------------------------------------------------------------


def _regexp_substr(node: exp.Expr) -> exp.Expr:
    further = [node.args.get(name) for name in ("position", "occurrence", "parameters")]
    return _call("regexp_substr", node.this, node.expression, *further)


def _regexp_replace(node: exp.Expr) -> exp.Expr:
    """Replace all matches: https://docs.aws.amazon.com/redshift/latest/dg/REGEXP_REPLACE.html"""
    replacement = node.args.get("replacement") or exp.Literal.string("")
    if isinstance(replacement, exp.Literal):
        replacement = exp.Literal.string(re.sub(r"\$(\d)", r"\\\1", replacement.name))
    return _call("regexp_replace", node.this, node.expression, replacement, "g")


def _anonymous(node: exp.Expr) -> exp.Expr:
    """Let through the functions that are there, renamed where the parser or PostgreSQL would mistake them."""
    kept = node.name.lower()
    name = kept.removeprefix(_KEPT_PREFIX)
    if name == "json_extract_path_text":
        document, *path = node.expressions
        # https://docs.aws.amazon.com/redshift/latest/dg/JSON_EXTRACT_PATH_TEXT.html: null_if_invalid comes last
        forgiving = path.pop() if path and isinstance(path[-1], exp.Boolean) else exp.false()
        return _call("redshift_json_text", document, forgiving, *path)
    if name == "isnull":
        return _call("coalesce", *node.expressions)
    if name != kept:
        return _call(name, *node.expressions)
    values = name == "values" and node.find_ancestor(exp.Merge)
    if name in _KNOWN or name == "ratio_to_report" or values:
        return node
    raise SqlError(f"function {name}() does not exist, or the embedded Redshift lacks it")


# Statements -------------------------------------------------------------------------------------------------------


def _create(node: exp.Expr) -> exp.Expr:
    kind = str(node.args.get("kind", "")).upper()
    if kind in ("INDEX", "SEQUENCE", "TRIGGER", "TYPE", "DOMAIN", "EXTENSION", "RULE"):
        raise SqlError(f"CREATE {kind} is not supported by Redshift")
    if kind not in ("TABLE", "VIEW", "SCHEMA", "DATABASE"):
        raise unsupported(f"CREATE {kind}")
    if node.args.get("no_schema_binding"):
        raise unsupported("A view WITH NO SCHEMA BINDING")
    table = node.this.this if isinstance(node.this, exp.Schema) else node.this
    if table.name.startswith("#") and not node.find(exp.TemporaryProperty):
        node.set("properties", exp.Properties(expressions=[exp.TemporaryProperty()]))
    return node


def _merge(node: exp.Expr) -> exp.Expr:
    """Check what Redshift demands of MERGE; sqlglot takes VALUES without columns before it for a function.

    https://docs.aws.amazon.com/redshift/latest/dg/r_MERGE.html
    """
    if not isinstance(node.args["using"], exp.Table):
        raise SqlError("MERGE source must be a table, not a subquery")
    whens = node.args["whens"].expressions
    if sorted(bool(when.args.get("matched")) for when in whens) != [False, True]:
        raise SqlError("MERGE requires one WHEN MATCHED and one WHEN NOT MATCHED clause")
    for when in whens:
        if when.args.get("condition"):
            raise SqlError("MERGE WHEN clauses take no condition on Redshift")
        then = when.args["then"]
        row = then.this.expressions[0] if isinstance(then, exp.Insert) and then.this else None
        if isinstance(row, exp.Anonymous) and row.name.upper() == "VALUES":
            then.set("this", None)
            then.set("expression", exp.Tuple(expressions=[value.copy() for value in row.expressions]))
    return node


def _distinct(node: exp.Expr) -> exp.Expr:
    if node.args.get("on"):
        raise SqlError("SELECT DISTINCT ON is not supported by Redshift")
    return node


_REWRITES: dict[type[exp.Expr], Rewrite] = {
    exp.Identifier: _identifier,
    exp.Anonymous: _anonymous,
    exp.Create: _create,
    exp.Schema: tables.schema,
    exp.ColumnDef: tables.column,
    exp.DataType: tables.data_type,
    exp.Merge: _merge,
    exp.TsOrDsAdd: _date_add,
    exp.DateAdd: _date_add,
    exp.TsOrDsDiff: _date_diff,
    exp.DateDiff: _date_diff,
    exp.Extract: _extract,
    exp.CurrentTimestamp: _now,
    exp.ConvertTimezone: _convert_timezone,
    exp.LastDay: lambda node: _call("last_day", node.this),
    exp.MonthsBetween: lambda node: _call("months_between", node.this, node.expression),
    exp.Avg: lambda node: exp.Anonymous(this="redshift_avg", expressions=[node.this.copy()]),
    exp.GroupConcat: _list_agg,
    exp.WithinGroup: _list_agg,
    exp.Window: _ratio_to_report,
    exp.ApproxDistinct: lambda node: exp.Count(this=exp.Distinct(expressions=[node.this.copy()])),
    exp.ApproxQuantile: _approximate_percentile,
    exp.FromBase: lambda node: _call("strtol", node.this, node.expression),
    exp.SHA2: lambda node: _call("sha2", node.this, node.args.get("length") or exp.Literal.number(256)),
    exp.RegexpExtract: _regexp_substr,
    exp.RegexpReplace: _regexp_replace,
    exp.Distinct: _distinct,
    exp.OnConflict: _refused("ON CONFLICT"),
    exp.Returning: _refused("RETURNING"),
    exp.Filter: _refused("FILTER (WHERE ...)"),
    exp.Array: _refused("ARRAY[...]"),
    exp.Lateral: _refused("LATERAL"),
    exp.IgnoreNulls: _left_out("IGNORE NULLS"),
    exp.Pivot: _left_out("PIVOT"),
    exp.Bracket: _left_out("Navigation into a SUPER value"),
    exp.Unnest: _left_out("Unnesting of a SUPER value"),
}
