"""Java date patterns, as in Trino's format_datetime and in partition projection, for strftime."""

from __future__ import annotations

import re

from local.aws.athena.errors import unsupported

# https://www.joda.org/joda-time/apidocs/org/joda/time/format/DateTimeFormat.html
_FIELDS = {
    **{"yyyy": "%Y", "YYYY": "%Y", "y": "%Y", "yy": "%y", "xxxx": "%G"},
    **{"MMMM": "%B", "MMM": "%b", "MM": "%m", "M": "%-m", "ww": "%V"},
    **{"dd": "%d", "d": "%-d", "DDD": "%j", "e": "%u", "EEEE": "%A", "EEE": "%a", "E": "%a"},
    **{"HH": "%H", "H": "%-H", "hh": "%I", "h": "%-I", "mm": "%M", "m": "%-M", "ss": "%S", "s": "%-S"},
    **{"SSS": "%g", "SSSSSS": "%f", "a": "%p", "Z": "%z", "z": "%Z"},
}
_PART = re.compile(r"'(?P<quoted>(?:[^']|'')*)'|(?P<field>([a-zA-Z])\3*)|(?P<other>[^a-zA-Z'])")


def strftime_pattern(pattern: str) -> str:
    """Return the strftime pattern, as DuckDB knows it, that means the Java ``pattern``.

    Raises:
        QueryError: a field of the pattern has no equivalent.
    """
    parts = []
    for part in _PART.finditer(pattern):
        if part["field"]:
            if part["field"] not in _FIELDS:
                raise unsupported(f"Date pattern field '{part['field']}'")
            parts.append(_FIELDS[part["field"]])
        else:
            text = "'" if part.group() == "''" else part["quoted"] or part["other"]
            parts.append(text.replace("''", "'").replace("%", "%%"))
    return "".join(parts)
