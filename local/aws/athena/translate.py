"""Trino SQL to DuckDB SQL: what sqlglot leaves out or translates with another meaning.

https://trino.io/docs/current/functions.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError, UnsupportedError
from sqlglot.tokenizer_core import TokenType

from local.aws.athena.dates import strftime_pattern
from local.aws.athena.errors import NO_FUNCTION, SYNTAX, QueryError, position, unsupported

FUNCTIONS = (Path(__file__).parent / "functions.sql").read_text()
"""Macros that every DuckDB connection needs before it runs translated SQL."""

UNNAMED = "atlas_unnamed"
"""Alias of result columns that Trino calls _col0, _col1, ... by their position."""

# Trino functions that sqlglot does not know and that DuckDB or a macro computes as Trino does.
_SAME = frozenset(re.findall(r"^CREATE MACRO (\w+)", FUNCTIONS, re.MULTILINE)) | {
    *("acos", "asin", "atan", "atan2", "bit_count", "cbrt", "ceiling", "cos", "cosh", "cot", "degrees", "e", "exp"),
    *("floor", "ln", "log2", "log10", "mod", "nan", "pi", "radians", "sin", "sinh", "tan", "tanh", "translate"),
    *("histogram", "map_concat", "map_entries", "map_from_entries", "map_keys", "map_values", "json_array_length"),
    *("covar_pop", "covar_samp", "kurtosis", "regr_intercept", "regr_slope", "skewness", "geometric_mean"),
    *("jaccard_similarity", "hamming_distance", "url_decode", "url_encode", "millisecond", "timezone_hour"),
    *("array_intersect", "grouping", "regexp_split", "normalize", "last_day_of_month", "concat_ws", "chr"),
}
_RENAMED = {
    "codepoint": "unicode",
    "hamming_distance": "hamming",
    "jaccard_similarity": "jaccard",
    "regexp_split": "str_split_regex",
    "geometric_mean": "geomean",
    "arrays_overlap": "list_has_any",
    "array_except": "list_except",
}


def parse(sql: str) -> exp.Expr:
    """Parse one statement of Athena's SQL.

    Raises:
        QueryError: it is not one, as far as the parser can tell.
    """
    try:
        trees = [tree for tree in sqlglot.parse(sql, dialect="athena") if tree]
    except SqlglotError as error:
        found = re.search(r"Line (\d+), Col: (\d+)", str(error))
        at = f"line {found[1]}:{found[2]}" if found else "line 1:1"
        raise QueryError(f"{at}: mismatched input. {str(error).splitlines()[0]}", SYNTAX) from error
    if len(trees) != 1:
        raise QueryError("Only one sql statement is allowed. Got: " + sql, SYNTAX)
    return trees[0]


def to_duckdb(tree: exp.Expr, query: str) -> str:
    """Return the DuckDB SQL of a query; ``query`` is its text, for positions in messages.

    Raises:
        QueryError: it uses a function that Athena or this translation does not have.
    """
    try:
        sql: str = _rewrite(tree.copy(), query).sql(dialect="duckdb", unsupported_level=ErrorLevel.RAISE)
        return sql
    except UnsupportedError as error:
        raise unsupported(str(error).rstrip(".")) from error


def name_columns(tree: exp.Expr) -> exp.Expr:
    """Give result columns without a name the alias ``UNNAMED``."""
    select = tree
    while isinstance(select, (exp.SetOperation, exp.Subquery)):
        select = select.this
    if isinstance(select, exp.Select):
        named = [item if _has_name(item) else exp.alias_(item, UNNAMED) for item in select.expressions]
        select.set("expressions", named)
    return tree


def tables(tree: exp.Expr) -> Iterator[exp.Table]:
    """Yield the references to tables and views of the catalog, not those to common table expressions."""
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            raise unsupported(f"Table function {table.name or table.this.sql()}")
        if table.db or table.name.lower() not in _visible_ctes(table):
            yield table


def fixed_columns(tree: exp.Expr) -> set[str]:
    """Return the names of columns compared with constants by = or IN."""
    fixed = set()
    for test in tree.find_all(exp.EQ, exp.In):
        sides = [test.this, *([test.expression] if isinstance(test, exp.EQ) else test.expressions)]
        columns = [side for side in sides if isinstance(side, exp.Column)]
        if len(columns) == 1 and all(isinstance(side, (exp.Column, exp.Literal)) for side in sides):
            fixed.add(columns[0].name.lower())
    return fixed


def bind(sql: str, parameters: list[str]) -> str:
    """Replace each ``?`` of a statement by the SQL literal in its place.

    Raises:
        QueryError: the numbers differ, or a parameter is no literal.
    """
    marks = [token for token in sqlglot.tokenize(sql, dialect="trino") if token.token_type == TokenType.PLACEHOLDER]
    if len(marks) != len(parameters):
        reason = f"Incorrect number of parameters: expected {len(marks)} but found {len(parameters)}"
        raise QueryError(f"INVALID_PARAMETER_USAGE: line 1:1: {reason}", SYNTAX)
    for mark, parameter in reversed(list(zip(marks, parameters, strict=True))):
        values = parse(f"SELECT {parameter}").expressions
        if len(values) != 1 or values[0].find(exp.Column, exp.Query):
            raise QueryError(f"INVALID_PARAMETER_USAGE: line 1:1: {parameter} is not a literal", SYNTAX)
        sql = f"{sql[: mark.start]}{parameter}{sql[mark.end + 1 :]}"
    return sql


def _has_name(item: exp.Expr) -> bool:
    return isinstance(item, (exp.Alias, exp.Column, exp.Dot)) or item.is_star


def _visible_ctes(node: exp.Expr) -> set[str]:
    """Return the names of the common table expressions that ``node`` may refer to."""
    names: set[str] = set()
    inside: exp.Expr = node
    parent = node.parent
    while parent:
        if isinstance(parent, exp.With):
            before = parent.expressions if parent.args.get("recursive") else _before(parent.expressions, inside)
            names |= {cte.alias.lower() for cte in before}
        elif isinstance(parent, exp.Query) and inside.arg_key != "with_":
            names |= {cte.alias.lower() for cte in parent.ctes}
        inside, parent = parent, parent.parent
    return names


def _before(items: list[exp.Expr], item: exp.Expr) -> list[exp.Expr]:
    return items[: next(n for n, other in enumerate(items) if other is item)]


Rewrite = Callable[[exp.Expr, str], exp.Expr]


def _rewrite(tree: exp.Expr, query: str) -> exp.Expr:
    """Rewrite bottom-up, so that what a rewrite copies has been rewritten."""
    for node in reversed(list(tree.walk(bfs=True))):
        rewrite = next((_REWRITES[kind] for kind in type(node).__mro__ if kind in _REWRITES), None)
        if rewrite is None:
            continue
        new = rewrite(node, query)
        if new is not node:
            if node is tree:
                tree = new
            else:
                node.replace(new)
    return tree


def _call(name: str, *arguments: exp.Expr | str) -> exp.Expr:
    nodes = [exp.Literal.string(a) if isinstance(a, str) else a.copy() for a in arguments]
    return exp.Anonymous(this=name, expressions=nodes)


def _like(value: exp.Expr, model: exp.Expr) -> exp.Expr:
    """Cast ``value`` to the type of ``model``: DuckDB widens dates to timestamps and narrows rounded decimals."""
    return _call("cast_to_type", value, model)


def _add(node: exp.Expr, query: str) -> exp.Expr:
    left, right = node.this, node.expression
    if isinstance(left, exp.Interval) != isinstance(right, exp.Interval):
        return _like(node, right if isinstance(left, exp.Interval) else left)
    return node


def _date_add(node: exp.Expr, query: str) -> exp.Expr:
    interval = exp.Interval(this=node.expression.copy(), unit=node.args.get("unit"))
    amount = exp.Mul(this=exp.Paren(this=node.expression.copy()), expression=_unit_interval(node))
    added = exp.Add(this=node.this.copy(), expression=interval if _is_number(node.expression) else amount)
    return _like(added, node.this)


def _is_number(node: exp.Expr) -> bool:
    return isinstance(node, exp.Literal)


def _unit_interval(node: exp.Expr) -> exp.Expr:
    return exp.Interval(this=exp.Literal.number(1), unit=node.args.get("unit"))


def _avg(node: exp.Expr, query: str) -> exp.Expr:
    """Rewrite with FILTER and OVER around it, which each of the four aggregates needs."""
    top = node
    while isinstance(top.parent, (exp.Filter, exp.Window)) and top.arg_key == "this":
        top = top.parent
    if top is not node:
        return node  # rewritten when the walk reaches the outermost of them
    return _trino_avg(node)


def _wrapped(node: exp.Expr, query: str) -> exp.Expr:
    inner = node.this
    while isinstance(inner, exp.Filter):
        inner = inner.this
    outermost = not (isinstance(node.parent, exp.Window) and node.arg_key == "this")
    return _trino_avg(node) if outermost and isinstance(inner, exp.Avg) else node


def _trino_avg(top: exp.Expr) -> exp.Expr:
    def with_aggregate(kind: type[exp.Func]) -> exp.Expr:
        whole = top.copy()
        average = whole if isinstance(whole, exp.Avg) else whole.find(exp.Avg)
        if average is None:
            raise AssertionError(top)
        aggregate = kind(this=average.this.copy())
        if average is whole:
            return aggregate
        average.replace(aggregate)
        return whole

    return _call("trino_avg", *map(with_aggregate, (exp.Sum, exp.Count, exp.Avg, exp.Median)))


def _cast(node: exp.Expr, query: str) -> exp.Expr:
    target = node.args["to"]
    if target.is_type("decimal") and not target.expressions:
        if isinstance(node.this, exp.Literal) and node.this.is_string:
            return exp.Literal.number(node.this.name)  # DECIMAL '1.50' has the digits that are written
        target.set("expressions", [exp.DataTypeParam(this=exp.Literal.number(n)) for n in (38, 0)])
        return node
    if not target.is_type(*exp.DataType.TEXT_TYPES) or isinstance(node, exp.TryCast):
        return node
    text = _call("trino_text", node.this)
    if target.expressions:
        return _call("left", text, exp.Literal.number(target.expressions[0].name))
    return text


def _constant(node: exp.Expr, what: str) -> str:
    if not isinstance(node, exp.Literal):
        raise unsupported(f"A {what} that is not a constant")
    return str(node.name)


def _parse_datetime(node: exp.Expr, query: str) -> exp.Expr:
    pattern = strftime_pattern(_constant(node.args["format"], "date pattern"))
    return exp.cast(_call("strptime", node.this, pattern), "TIMESTAMPTZ")


def _regexp_replace(node: exp.Expr, query: str) -> exp.Expr:
    replacement = node.args.get("replacement") or exp.Literal.string("")
    if isinstance(replacement, exp.Lambda):
        raise unsupported("regexp_replace with a function")
    if isinstance(replacement, exp.Literal):
        # Java writes a group as $1, RE2 as \1.
        replacement = exp.Literal.string(re.sub(r"\$(\d)", r"\\\1", replacement.name))
    return _call("regexp_replace", node.this, node.expression, replacement, "g")


def _regexp_extract(node: exp.Expr, query: str) -> exp.Expr:
    group = node.args.get("group") or exp.Literal.number(0)
    return _call("trino_regexp_extract", node.this, node.expression, group)


def _anonymous(node: exp.Expr, query: str) -> exp.Expr:
    name = node.name.lower()
    if name == "format_datetime":
        moment, pattern = node.expressions
        return _call("strftime", moment, strftime_pattern(_constant(pattern, "date pattern")))
    if name in _RENAMED:
        return _call(_RENAMED[name], *node.expressions)
    if name not in _SAME:
        at = position(query, node.name)
        raise QueryError(f"FUNCTION_NOT_FOUND: {at}: Function '{name}' not registered", NO_FUNCTION)
    return node


def _unnest(node: exp.Expr, query: str) -> exp.Expr:
    """Rewrite UNNEST of a map, of several arrays or WITH ORDINALITY; DuckDB's takes one list.

    With one argument and two columns it is a map: Trino tells it from an array of two-field rows by type, which is not
    known here.
    """
    alias = node.args.get("alias")
    columns = list(alias.columns) if alias else []
    arguments = node.expressions
    ordinality = node.args.get("offset")
    values = len(columns) - (1 if ordinality is True else 0)
    if len(arguments) == 1 and values <= 1 and not ordinality:
        return node
    if alias is None or not columns:
        raise unsupported("UNNEST without column names")
    first = arguments[0]
    if len(arguments) == 1 and values == 2:
        lists = [_call("map_keys", first), _call("map_values", first)]
    elif len(arguments) == values or ordinality:
        lists = [argument.copy() for argument in arguments]
    else:
        raise unsupported("UNNEST of rows")
    parts = [exp.alias_(_call("unnest", item), column.name) for item, column in zip(lists, columns, strict=False)]
    if ordinality:
        name = columns[-1].name if ordinality is True else ordinality.name
        subscripts = _call("generate_subscripts", lists[0], exp.Literal.number(1))
        parts.append(exp.alias_(subscripts, name))
    rows = exp.Select(expressions=parts).subquery()
    return exp.Lateral(this=rows, alias=exp.TableAlias(this=alias.this.copy()))


def _star(node: exp.Expr, query: str) -> exp.Expr:
    """Leave "$path", a hidden column that views have here when a query names it, out of SELECT *."""
    if "$path" not in query or not isinstance(node.parent, exp.Select):
        return node
    return _call("columns", exp.Lambda(this=_path_test(), expressions=[exp.to_identifier("c")]))


def _path_test() -> exp.Expr:
    return exp.NEQ(this=exp.column("c"), expression=exp.Literal.string("$path"))


def _divide(node: exp.Expr, query: str) -> exp.Expr:
    name = "trino_try_divide" if node.find_ancestor(exp.Try) else "trino_divide"
    return _call(name, node.this, node.expression)


def _reduce(node: exp.Expr, query: str) -> exp.Expr:
    finish = node.args.get("finish")
    if isinstance(finish, exp.Lambda) and finish.this.name == finish.expressions[0].name:
        node.set("finish", None)  # the identity: DuckDB's has no last step
    return node


def _approx_distinct(node: exp.Expr, query: str) -> exp.Expr:
    node.set("accuracy", None)  # DuckDB's error is below Trino's default whatever was asked
    return node


def _round(node: exp.Expr, query: str) -> exp.Expr:
    return _like(node, node.this) if node.args.get("decimals") else node


def _date_trunc(node: exp.Expr, query: str) -> exp.Expr:
    return _like(node, node.this)


def _date_diff(node: exp.Expr, query: str) -> exp.Expr:
    """Trino counts whole units, as DuckDB's date_sub does; DuckDB's date_diff counts boundaries."""
    return _call("date_sub", node.args["unit"].name.lower(), node.expression, node.this)


def _split_part(node: exp.Expr, query: str) -> exp.Expr:
    return _call("trino_split_part", node.this, node.args["delimiter"], node.args["part_index"])


def _format(node: exp.Expr, query: str) -> exp.Expr:
    return _call("printf", node.this, *node.expressions)


_REWRITES: dict[type, Rewrite] = {
    exp.Add: _add,
    exp.Sub: _add,
    exp.Anonymous: _anonymous,
    exp.ApproxDistinct: _approx_distinct,
    exp.Avg: _avg,
    exp.Filter: _wrapped,
    exp.Window: _wrapped,
    exp.Cast: _cast,
    exp.DateAdd: _date_add,
    exp.DateDiff: _date_diff,
    exp.DateTrunc: _date_trunc,
    exp.TimestampTrunc: _date_trunc,
    exp.Div: _divide,
    exp.Format: _format,
    exp.ParseDatetime: _parse_datetime,
    exp.Reduce: _reduce,
    exp.RegexpExtract: _regexp_extract,
    exp.RegexpReplace: _regexp_replace,
    exp.Round: _round,
    exp.SplitPart: _split_part,
    exp.Star: _star,
    exp.Unnest: _unnest,
}
