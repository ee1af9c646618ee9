"""The clauses of COPY and UNLOAD, which may stand in any order.

https://docs.aws.amazon.com/redshift/latest/dg/r_COPY.html
https://docs.aws.amazon.com/redshift/latest/dg/r_UNLOAD.html
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlglot.tokenizer_core import Token, TokenType

from local.aws.redshift import lexer
from local.aws.redshift.errors import SqlError, unsupported

# How each clause is written: a flag alone, an optional switch, a text or number.
_FLAGS = "FLAG"
_SWITCH = "SWITCH"
_VALUE = "VALUE"
_OPTIONAL = "OPTIONAL"

_COPY = {
    **dict.fromkeys(("PARQUET", "GZIP", "ZSTD", "BZIP2", "MANIFEST", "ACCEPTANYDATE", "BLANKSASNULL"), _FLAGS),
    **dict.fromkeys(("EMPTYASNULL", "FILLRECORD", "IGNOREBLANKLINES", "TRUNCATECOLUMNS", "NOLOAD", "CSV"), _FLAGS),
    **dict.fromkeys(("TRIMBLANKS", "REMOVEQUOTES"), _FLAGS),
    **dict.fromkeys(("COMPUPDATE", "STATUPDATE"), _SWITCH),
    **dict.fromkeys(("IAM_ROLE", "JSON", "DELIMITER", "QUOTE", "REGION", "DATEFORMAT", "TIMEFORMAT"), _VALUE),
    **dict.fromkeys(("NULL", "IGNOREHEADER", "MAXERROR", "ENCODING", "COMPROWS"), _VALUE),
    "ACCEPTINVCHARS": _OPTIONAL,
}
_UNLOAD = {
    **dict.fromkeys(("PARQUET", "CSV", "JSON", "GZIP", "ZSTD", "HEADER", "ALLOWOVERWRITE", "CLEANPATH"), _FLAGS),
    **dict.fromkeys(("ADDQUOTES", "ENCRYPTED", "VERBOSE", "MANIFEST", "INCLUDE"), _FLAGS),
    "PARALLEL": _SWITCH,
    **dict.fromkeys(("IAM_ROLE", "DELIMITER", "NULL", "REGION", "KMS_KEY_ID", "EXTENSION", "MAXFILESIZE"), _VALUE),
}
_SWITCHES = frozenset({"ON", "OFF", "TRUE", "FALSE", "PRESET"})


@dataclass(frozen=True)
class Copy:
    """A COPY statement: its table as written, the columns it loads, the address it reads and its clauses."""

    table: str
    columns: list[str]
    source: str
    clauses: dict[str, str]


@dataclass(frozen=True)
class Unload:
    """An UNLOAD statement: its query, the address it writes below and its clauses."""

    query: str
    target: str
    clauses: dict[str, str]
    partition: list[str] = field(default_factory=list)


def parse_copy(sql: str) -> Copy:
    """Parse COPY.

    Raises:
        SqlError: it is malformed, or uses what the embedded Redshift does not know.
    """
    tokens = lexer.tokens(sql)
    source = _find(tokens, "FROM")
    opening = next((n for n in range(1, source) if tokens[n].token_type == TokenType.L_PAREN), source)
    columns = [token.text.lower() for token in tokens[opening + 1 : source - 1] if token.token_type != TokenType.COMMA]
    table = sql[tokens[1].start : tokens[opening - 1].end + 1]
    if source + 1 >= len(tokens) or tokens[source + 1].token_type != TokenType.STRING:
        raise SqlError('syntax error at or near "FROM"')
    address = tokens[source + 1].text
    if not address.startswith("s3://"):
        raise unsupported(f"COPY from {address.partition('://')[0]}")
    return Copy(table, columns, address, _clauses("COPY", tokens[source + 2 :], _COPY)[0])


def parse_unload(sql: str) -> Unload:
    """Parse UNLOAD.

    Raises:
        SqlError: it is malformed, or uses what the embedded Redshift does not know.
    """
    tokens = lexer.tokens(sql)
    if len(tokens) < 3 or tokens[2].token_type not in (TokenType.STRING, TokenType.HEREDOC_STRING):
        raise SqlError('syntax error at or near "UNLOAD"')
    target = _find(tokens, "TO")
    if target + 1 >= len(tokens) or tokens[target + 1].token_type != TokenType.STRING:
        raise SqlError('syntax error at or near "TO"')
    clauses, partition = _clauses("UNLOAD", tokens[target + 2 :], _UNLOAD)
    return Unload(tokens[2].text, tokens[target + 1].text, clauses, partition)


def _find(tokens: list[Token], word: str) -> int:
    for place, token in enumerate(tokens):
        if token.token_type != TokenType.STRING and token.text.upper() == word:
            return place
    raise SqlError(f"syntax error: {word} is missing")


def _clauses(statement: str, tokens: list[Token], known: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    found: dict[str, str] = {}
    partition: list[str] = []
    place = 0

    def text(offset: int = 0) -> str:
        return tokens[place + offset].text if place + offset < len(tokens) else ""

    while place < len(tokens):
        name = text().upper()
        place += 1
        if name in ("FORMAT", "AS", ",", "WITH"):
            continue
        if name == "PARTITION BY":
            end = next(n for n in range(place, len(tokens)) if tokens[n].token_type == TokenType.R_PAREN)
            partition = [token.text.lower() for token in tokens[place + 1 : end] if token.token_type != TokenType.COMMA]
            place = end + 1
            continue
        kind = known.get(name)
        if kind is None:
            raise unsupported(f"{statement} {name}")
        if kind != _FLAGS and text().upper() == "AS":
            place += 1
        if kind == _FLAGS:
            found[name] = ""
        elif kind == _SWITCH:
            switched = text().upper() in _SWITCHES
            found[name] = text().upper() if switched else "ON"
            place += switched
        elif kind == _OPTIONAL:
            given = place < len(tokens) and tokens[place].token_type == TokenType.STRING
            found[name] = text() if given else "?"
            place += given
        else:
            if place >= len(tokens):
                raise SqlError(f'syntax error at or near "{name}"')
            found[name] = text()
            place += 1
            if name == "MAXFILESIZE" and text().upper() in ("MB", "GB"):
                place += 1
    return found, partition
