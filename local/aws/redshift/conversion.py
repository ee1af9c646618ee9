"""COPY's conversion of texts into the types of columns, as expressions of DuckDB.

https://docs.aws.amazon.com/redshift/latest/dg/copy-parameters-data-conversion.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from local.aws.redshift.errors import unsupported

# https://docs.aws.amazon.com/redshift/latest/dg/r_Load_Error_Reference.html
ERRORS = {
    "columns": (1202, "Extra column(s) found"),
    "delimiter": (1201, "Delimiter not found"),
    "length": (1204, "String length exceeds DDL length"),
    "overflow": (1204, "Value out of range for the column type"),
    "date": (1205, "Invalid Date Format - length must be 10 or more"),
    "timestamp": (1206, "Invalid timestamp format or value [YYYY-MM-DD HH24:MI:SS]"),
    "digit": (1207, "Invalid digit"),
    "float": (1208, "Invalid FLOAT value"),
    "numeric": (1209, "Invalid DECIMAL value"),
    "boolean": (1210, "Unknown boolean format"),
    "null": (1213, "Missing data for not-null field"),
    "line": (1216, "Invalid input line"),
    "multibyte": (1220, "Multibyte character not supported for CHAR (Hint: Try using VARCHAR)"),
}
"""Code and text of a load error by what is wrong."""

INTEGERS = {"smallint": "SMALLINT", "integer": "INTEGER", "bigint": "BIGINT"}

Clauses = dict[str, str]


@dataclass(frozen=True)
class Column:
    """A column of the table that is loaded; ``size`` is its length in bytes or its precision."""

    name: str
    type: str
    size: int
    scale: int
    required: bool

    @property
    def is_text(self) -> bool:
        """Whether it holds text."""
        return self.type in ("character varying", "character", "text")


def literal(value: str) -> str:
    """Quote a text."""
    return "'" + value.replace("'", "''") + "'"


def identifier(value: str) -> str:
    """Quote a name."""
    return '"' + value.replace('"', '""') + '"'


def null_text(clauses: Clauses) -> str:
    """Return the text that means NULL."""
    return clauses.get("NULL", "\\N")


def cleaned(value: str, column: Column, clauses: Clauses) -> str:
    """Return the text ``value`` with the conversions applied that make it NULL or shorter."""
    if not column.is_text:
        return f"nullif(trim({value}), '')"
    if "TRIMBLANKS" in clauses:
        value = f"rtrim({value})"
    if "BLANKSASNULL" in clauses:
        value = f"CASE WHEN {value} <> '' AND trim({value}) = '' THEN NULL ELSE {value} END"
    if "EMPTYASNULL" in clauses:
        value = f"nullif({value}, '')"
    if "NULL" in clauses and "JSON" in clauses:
        value = f"nullif({value}, {literal(null_text(clauses))})"
    if "TRUNCATECOLUMNS" in clauses:
        fits = f"strlen(a) + strlen(b) <= {column.size}"
        shorter = f"list_reduce(string_split({value}, ''), lambda a, b: CASE WHEN {fits} THEN a || b ELSE a END)"
        value = f"CASE WHEN strlen({value}) > {column.size} THEN {shorter} ELSE {value} END"
    return value


def converted(text: str, column: Column, clauses: Clauses) -> str:
    """Return the cleaned ``text`` as a value of the column's type, NULL if it is none.

    Raises:
        SqlError: COPY cannot fill a column of this type here.
    """
    if column.is_text:
        return text
    if column.type in INTEGERS:
        return f"CASE WHEN {_is_whole(text)} THEN TRY_CAST({text} AS {INTEGERS[column.type]}) END"
    if column.type == "numeric":
        return f"TRY_CAST({text} AS DECIMAL({column.size}, {column.scale}))"
    if column.type not in _CONVERTERS:
        raise unsupported(f"COPY into a column of type {column.type}")
    return _CONVERTERS[column.type][0](text, clauses)


def checks(text: str, value: str, column: Column) -> Iterator[tuple[str, str]]:
    """Yield conditions under which a row cannot be loaded, and what is wrong then (see ``ERRORS``)."""
    if column.required:
        yield f"{text} IS NULL", "null"
    failed = f"{text} IS NOT NULL AND {value} IS NULL"
    if column.is_text:
        if column.type == "character":
            yield f"regexp_matches({text}, '[^\\x00-\\x7f]')", "multibyte"
        yield f"strlen(rtrim({text})) > {column.size}", "length"
    elif column.type in INTEGERS:
        yield f"{failed} AND {_is_whole(text)}", "overflow"
        yield failed, "digit"
    else:
        yield failed, "numeric" if column.type == "numeric" else _CONVERTERS[column.type][1]


def _is_whole(text: str) -> str:
    return f"regexp_full_match({text}, '[+-]?[0-9]+')"


def _boolean(text: str, clauses: Clauses) -> str:
    return (
        f"CASE WHEN lower({text}) IN ('1', 't', 'true', 'y', 'yes') THEN true "
        f"WHEN lower({text}) IN ('0', 'f', 'false', 'n', 'no') THEN false END"
    )


def _json(text: str, clauses: Clauses) -> str:
    return f"CASE WHEN json_valid({text}) THEN {text} ELSE to_json({text})::VARCHAR END"


def _date(text: str, clauses: Clauses) -> str:
    pattern = clauses.get("DATEFORMAT", "YYYY-MM-DD")
    if pattern.lower() == "auto":
        return f"coalesce(TRY_CAST({text} AS DATE), try_strptime({text}, {_AUTO_DATES})::DATE)"
    if pattern == "YYYY-MM-DD":
        return f"CASE WHEN strlen({text}) >= 10 THEN TRY_CAST({text} AS DATE) END"
    return f"try_strptime({text}, {literal(_strptime(pattern))})::DATE"


def _moment(kind: str) -> Callable[[str, Clauses], str]:
    def convert(text: str, clauses: Clauses) -> str:
        pattern = clauses.get("TIMEFORMAT", "")
        if pattern.lower() == "auto":
            return f"coalesce(TRY_CAST({text} AS {kind}), try_strptime({text}, {_AUTO_TIMES})::{kind})"
        if pattern.lower() in ("epochsecs", "epochmillisecs"):
            factor = 1_000_000 if pattern.lower() == "epochsecs" else 1000
            return f"make_timestamp(CAST(TRY_CAST({text} AS DECIMAL(38, 6)) * {factor} AS BIGINT))"
        if pattern:
            return f"try_strptime({text}, {literal(_strptime(pattern))})::{kind}"
        # The default format has a space between date and time.
        return f"CASE WHEN NOT contains({text}, 'T') THEN TRY_CAST({text} AS {kind}) END"

    return convert


_CONVERTERS: dict[str, tuple[Callable[[str, Clauses], str], str]] = {
    "real": (lambda text, _: f"TRY_CAST({text} AS FLOAT)", "float"),
    "double precision": (lambda text, _: f"TRY_CAST({text} AS DOUBLE)", "float"),
    "boolean": (_boolean, "boolean"),
    "date": (_date, "date"),
    "timestamp without time zone": (_moment("TIMESTAMP"), "timestamp"),
    "timestamp with time zone": (_moment("TIMESTAMPTZ"), "timestamp"),
    "time without time zone": (lambda text, _: f"TRY_CAST({text} AS TIME)", "timestamp"),
    "jsonb": (_json, "line"),
}
"""What converts a text, and what is wrong if it cannot."""

# Some of what 'auto' recognizes beside ISO 8601: https://docs.aws.amazon.com/redshift/latest/dg/automatic-recognition.html
_AUTO_DATES = "['%Y/%m/%d', '%m/%d/%Y', '%d.%m.%Y', '%Y%m%d', '%d-%b-%Y', '%b-%d-%Y', '%Y %b %d']"
_AUTO_TIMES = "['%Y/%m/%d %H:%M:%S', '%m/%d/%Y %H:%M:%S', '%m/%d/%Y %H:%M', '%Y%m%d %H%M%S', '%d.%m.%Y %H:%M:%S']"

_STRPTIME = {
    **{"YYYY": "%Y", "YY": "%y", "MM": "%m", "MON": "%b", "MONTH": "%B", "DD": "%d", "HH24": "%H", "HH12": "%I"},
    **{"HH": "%H", "MI": "%M", "SS": "%S", "AM": "%p", "PM": "%p", "US": "%f", "MS": "%g", "OF": "%z", "TZ": "%Z"},
}


def _strptime(pattern: str) -> str:
    """Translate a format: https://docs.aws.amazon.com/redshift/latest/dg/r_DATEFORMAT_and_TIMEFORMAT_strings.html"""
    names = "|".join(sorted(_STRPTIME, key=len, reverse=True))
    return re.sub(names, lambda found: _STRPTIME[found[0].upper()], pattern.replace("%", "%%"), flags=re.IGNORECASE)
