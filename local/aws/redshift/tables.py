"""CREATE and ALTER TABLE: what PostgreSQL has no place for, what Redshift does not enforce, and column types.

https://docs.aws.amazon.com/redshift/latest/dg/r_CREATE_TABLE_NEW.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlglot import exp
from sqlglot.tokenizer_core import Token, TokenType

from local.aws.redshift import lexer
from local.aws.redshift.errors import BYTES_CHECK, SqlError, unsupported

MAX_VARCHAR = 65535
MAX_CHAR = 4096
"""Both in bytes: https://docs.aws.amazon.com/redshift/latest/dg/r_Character_types.html"""


# Physical design --------------------------------------------------------------------------------------------------


@dataclass
class Design:
    """The keys by which Redshift would store a table."""

    dist_key: str = ""
    sort_key: list[str] = field(default_factory=list)


def without_design(sql: str) -> tuple[str, Design]:
    """Return a statement without distribution, sort keys, encodings and backups, and the keys it names.

    They change how Redshift stores rows, never what a query returns.
    """
    design = Design()
    found = lexer.tokens(sql)
    cuts: list[tuple[int, int]] = []
    place = 0
    while place < len(found):
        length = _design(found[place:], design)
        if length:
            cuts.append((found[place].start, found[place + length - 1].end + 1))
        place += length or 1
    for start, end in reversed(cuts):
        sql = f"{sql[:start]} {sql[end:]}"
    return sql, design


_PAIRS = {
    "DISTSTYLE": ("AUTO", "EVEN", "KEY", "ALL"),
    "BACKUP": ("YES", "NO"),
    "SORTKEY": ("AUTO",),
}


def _design(found: Sequence[Token], design: Design) -> int:
    """Return how many tokens the property takes with which ``found`` begins, 0 if it begins with none."""
    first, second = ([token.text.upper() for token in found[:2]] + [""])[:2]
    if found[0].token_type in (TokenType.STRING, TokenType.IDENTIFIER):
        return 0
    if first == "ENCODE" or second in _PAIRS.get(first, ()):
        return 2
    if first in ("COMPOUND", "INTERLEAVED") and second == "SORTKEY":
        return 1
    if first not in ("DISTKEY", "SORTKEY"):
        return 0
    if second != "(":
        return 1  # of a column
    end = next(n for n, token in enumerate(found) if token.token_type == TokenType.R_PAREN)
    names = [token.text.lower() for token in found[2:end] if token.token_type != TokenType.COMMA]
    if first == "DISTKEY":
        design.dist_key = names[0]
    else:
        design.sort_key = names
    return end + 1


def check_design(tree: exp.Create, design: Design) -> None:
    """Refuse keys that are no columns.

    Raises:
        SqlError: a distribution or sort key names no column.
    """
    schema = tree.this
    columns = {column.name.lower() for column in schema.find_all(exp.ColumnDef)}
    if not columns:
        return  # those of another table, or of a query
    for kind, name in [("distkey", design.dist_key), *(("sortkey", name) for name in design.sort_key)]:
        if name and name not in columns:
            table = schema.this.name.lower()
            raise SqlError(f'column "{name}" specified as {kind} is not in the table "{table}"')


# Types ------------------------------------------------------------------------------------------------------------

_RENAMED = {"SUPER": "JSONB", "VARBINARY": "BYTEA", "NVARCHAR": "VARCHAR", "NCHAR": "CHAR", "DATETIME": "TIMESTAMP"}
_NONE = ("UUID", "JSON", "JSONB", "ARRAY", "SERIAL", "BIGSERIAL", "SMALLSERIAL", "MONEY", "INET", "XML", "ENUM")
_LEFT_OUT = ("GEOMETRY", "GEOGRAPHY", "HLLSKETCH")
_FIXED_TEXT = ("CHAR", "NCHAR", "BPCHAR")
_TEXT = ("VARCHAR", "NVARCHAR", "TEXT", *_FIXED_TEXT)


def _kind(node: exp.Expr) -> str:
    return node.this.name if isinstance(node.this, exp.DataType.Type) else str(node.this).upper()


def data_type(node: exp.Expr) -> exp.Expr:
    """Return a type as PostgreSQL has it.

    https://docs.aws.amazon.com/redshift/latest/dg/c_Supported_data_types.html

    Raises:
        SqlError: Redshift, or the embedded one, does not have it.
    """
    kind = _kind(node)
    if kind in _NONE:
        raise SqlError(f"unsupported type: {kind.lower()}")
    if kind in _LEFT_OUT:
        raise unsupported(f"Type {kind}")
    if kind == "DECIMAL":
        if not node.expressions:
            node.set("expressions", _numbers(18, 0))
        if int(node.expressions[0].name) > 38:
            raise SqlError("DECIMAL precision must be between 1 and 38")
    if kind in _TEXT and node.expressions and node.expressions[0].name.upper() == "MAX":
        node.set("expressions", _numbers(MAX_VARCHAR))
    if kind in _RENAMED:
        node.set("this", exp.DataType.build(_RENAMED[kind], dialect="postgres").this)
    return node


def _numbers(*values: int) -> list[exp.Expr]:
    return [exp.DataTypeParam(this=exp.Literal.number(value)) for value in values]


def _text_length(kind: exp.Expr) -> int:
    """Return the length in bytes of a column's type, 0 for a type that is no text.

    Raises:
        SqlError: it is too long.
    """
    name = _kind(kind)
    if name not in _TEXT:
        return 0
    length = int(kind.expressions[0].name) if kind.expressions else 1 if name in ("CHAR", "NCHAR") else 256
    limit = MAX_CHAR if name in _FIXED_TEXT else MAX_VARCHAR
    if not 1 <= length <= limit:
        raise SqlError(f"length for type {name.lower()} must be from 1 to {limit}")
    return length


# Columns and keys -------------------------------------------------------------------------------------------------


def column(node: exp.Expr) -> exp.Expr:
    """Give a text column its length in bytes, as PostgreSQL counts characters, and no key."""
    kind = node.args.get("kind")
    if kind is None:
        return node
    constraints = []
    for constraint in node.args.get("constraints", []):
        if isinstance(constraint.kind, exp.PrimaryKeyColumnConstraint):
            constraints.append(_not_null())
        elif not isinstance(constraint.kind, (exp.UniqueColumnConstraint, exp.Reference)):
            constraints.append(constraint)
    if length := _text_length(kind):
        base = "CHAR" if _kind(kind) in _FIXED_TEXT else "VARCHAR"
        node.set("kind", exp.DataType.build(f"{base}({length})", dialect="redshift"))
        constraints.append(_bytes_check(node.name, length))
    node.set("constraints", constraints)
    return node


def _not_null() -> exp.Expr:
    return exp.ColumnConstraint(kind=exp.NotNullColumnConstraint())


def _bytes_check(name: str, length: int) -> exp.Expr:
    measured = exp.Anonymous(this="octet_length", expressions=[exp.column(name)])
    test = exp.LTE(this=measured, expression=exp.Literal.number(length))
    return exp.ColumnConstraint(
        this=exp.to_identifier(f"{BYTES_CHECK}{name}"[:63], quoted=True), kind=exp.CheckColumnConstraint(this=test)
    )


def schema(node: exp.Expr) -> exp.Expr:
    """Leave out keys, which Redshift does not enforce; the columns of a primary key stay NOT NULL.

    https://docs.aws.amazon.com/redshift/latest/dg/t_Defining_constraints.html

    Raises:
        SqlError: there is a CHECK constraint.
    """
    kept = []
    required: set[str] = set()
    for item in node.expressions:
        inner = item.expressions[0] if isinstance(item, exp.Constraint) and item.expressions else item
        if isinstance(inner, exp.PrimaryKey):
            required |= {key.name for each in inner.expressions for key in each.find_all(exp.Identifier)}
        elif isinstance(inner, exp.CheckColumnConstraint):
            raise SqlError("CHECK constraints are not supported by Redshift")
        elif isinstance(inner, exp.LikeProperty):
            constraints = exp.Property(this=exp.Literal.string("INCLUDING"), value=exp.Var(this="CONSTRAINTS"))
            inner.append("expressions", constraints)
            kept.append(item)
        elif not isinstance(inner, (exp.ForeignKey, exp.UniqueColumnConstraint)):
            kept.append(item)
    for item in kept:
        if isinstance(item, exp.ColumnDef) and item.name in required:
            item.append("constraints", _not_null())
    node.set("expressions", kept)
    return node
