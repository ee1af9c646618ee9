"""Names and contents of the objects Firehose writes.

https://docs.aws.amazon.com/firehose/latest/dev/s3-object-name.html
https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html
"""

from __future__ import annotations

import calendar
import gzip
import io
import re
import uuid
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime

from local.aws.emulator import AwsError

_EXPRESSION = re.compile(r"!\{([^:}]*):([^}]*)\}")
_TIME_TOKEN = re.compile(r"'(?P<quoted>[^']*)'|(?P<letters>([A-Za-z])\3*)|(?P<other>.)", re.DOTALL)


def _digits(read: Callable[[datetime], int]) -> Callable[[datetime, int], str]:
    return lambda at, width: str(read(at)).zfill(width)


def _year(at: datetime, width: int) -> str:
    return f"{at.year % 100:02d}" if width == 2 else str(at.year).zfill(width)


def _month(at: datetime, width: int) -> str:
    if width < 3:
        return str(at.month).zfill(width)
    return calendar.month_abbr[at.month] if width == 3 else calendar.month_name[at.month]


_TIME_LETTERS: dict[str, Callable[[datetime, int], str]] = {
    "y": _year,
    "u": _year,
    "M": _month,
    "d": _digits(lambda at: at.day),
    "D": _digits(lambda at: at.timetuple().tm_yday),
    "H": _digits(lambda at: at.hour),
    "h": _digits(lambda at: at.hour % 12 or 12),
    "m": _digits(lambda at: at.minute),
    "s": _digits(lambda at: at.second),
    "a": lambda at, _: "AM" if at.hour < 12 else "PM",
}
"""The letters of Java's DateTimeFormatter that make sense in a prefix:
https://docs.oracle.com/javase/8/docs/api/java/time/format/DateTimeFormatter.html"""


def _format_time(pattern: str, at: datetime) -> str:
    parts = []
    for token in _TIME_TOKEN.finditer(pattern):
        if letters := token["letters"]:
            if letters[0] not in _TIME_LETTERS:
                raise AwsError("InvalidArgumentException", f"Timestamp pattern letter {letters[0]} is not supported.")
            parts.append(_TIME_LETTERS[letters[0]](at, len(letters)))
        elif token["quoted"] is not None:
            parts.append(token["quoted"] or "'")
        else:
            parts.append(token["other"])
    return "".join(parts)


ERROR_TYPE = "firehose:error-output-type"
"""The expression whose value is the kind of failure."""


def expand(prefix: str, at: datetime, values: Mapping[str, str]) -> str:
    """Return ``prefix`` with its ``!{namespace:value}`` expressions evaluated for the instant ``at``.

    ``values`` are those of the expressions that depend on more than the time, as far as they may be used.

    Raises:
        AwsError: InvalidArgumentException, an expression is malformed, unknown or not allowed here.
    """

    def evaluate(expression: re.Match[str]) -> str:
        namespace, value = expression.groups()
        if namespace == "timestamp":
            return _format_time(value, at)
        if (namespace, value) == ("firehose", "random-string"):
            return str(uuid.uuid4())[:11]
        if (known := values.get(f"{namespace}:{value}")) is not None:
            return known
        raise AwsError("InvalidArgumentException", f"Expression {expression[0]} cannot be used in {prefix}.")

    if "!{" in _EXPRESSION.sub("", prefix):
        raise AwsError("InvalidArgumentException", f"Prefix {prefix} has an expression that is not complete.")
    return _EXPRESSION.sub(evaluate, prefix)


def good_folder(prefix: str, at: datetime, values: Mapping[str, str]) -> str:
    """Return the evaluated prefix of delivered data, with the hour added if it has no timestamp of its own."""
    return expand(prefix, at, values) + ("" if "!{timestamp:" in prefix else f"{at:%Y/%m/%d/%H/}")


def error_folder(prefix: str, error_prefix: str, at: datetime, values: Mapping[str, str]) -> str:
    """Return the evaluated prefix of records that failed as ``ERROR_TYPE`` of ``values`` says."""
    if error_prefix:
        return expand(error_prefix, at, values)
    return f"{expand(prefix, at, values)}{values[ERROR_TYPE]}/{at:%Y/%m/%d/%H/}"


def object_name(stream: str, version: int, at: datetime, extension: str) -> str:
    """Return the part of an object's key after its prefix."""
    return f"{stream}-{version}-{at:%Y-%m-%d-%H-%M-%S}-{uuid.uuid4()}{extension}"


def _zip(data: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("data", data)
    return archive.getvalue()


_COMPRESSION: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "UNCOMPRESSED": ("", lambda data: data),
    "GZIP": (".gz", lambda data: gzip.compress(data, compresslevel=6)),
    "ZIP": (".zip", _zip),
}
COMPRESSION_FORMATS = _COMPRESSION.keys()


def compress(data: bytes, compression: str) -> bytes:
    """Return ``data`` in one of ``COMPRESSION_FORMATS``."""
    return _COMPRESSION[compression][1](data)


def extension(compression: str) -> str:
    """Return the file extension of a compression format, with its dot."""
    return _COMPRESSION[compression][0]
