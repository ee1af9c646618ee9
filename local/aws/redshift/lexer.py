"""The text of SQL statements: tokens, statements and named parameters."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import ClassVar

from sqlglot.dialects.redshift import Redshift
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

from local.aws.redshift.errors import SqlError


class _Tokenizer(Redshift.Tokenizer):  # type: ignore[misc]  # Airflow's environment, where types are checked, lacks it
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
    start, statements = 0, []
    for token in tokens(sql):
        if token.token_type == TokenType.SEMICOLON:
            statements.append(sql[start : token.start])
            start = token.end + 1
    statements.append(sql[start:])
    return [statement.strip() for statement in statements if tokens(statement)]


def words(sql: str, count: int) -> list[str]:
    """Return the first words of a statement in upper case."""
    return [token.text.upper() for token in tokens(sql)[:count]]


def calls(sql: str) -> Iterator[Token]:
    """Yield the words that a parenthesis follows: functions, but also types, column lists and the like."""
    for name, bracket in itertools.pairwise(tokens(sql)):
        if bracket.token_type == TokenType.L_PAREN:
            yield name


def parameters(sql: str) -> Iterator[tuple[str, int, int]]:
    """Yield name, start and end of the named parameters (``:name``) of a statement."""
    found = tokens(sql)
    for before, (colon, name) in zip([None, *found], itertools.pairwise(found), strict=False):
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
