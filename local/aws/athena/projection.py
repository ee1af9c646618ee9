"""Partition projection: partitions computed from table properties instead of registered ones.

The objects are listed once below the fixed part of the location template; the template then says which partition an
object is in, and the column's projection whether that partition exists.
https://docs.aws.amazon.com/athena/latest/ug/partition-projection-supported-types.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from dateutil.relativedelta import relativedelta  # type: ignore[import-untyped]  # the library has no types

from local.aws.athena import lake
from local.aws.athena.catalog import Table
from local.aws.athena.dates import strftime_pattern
from local.aws.athena.errors import QueryError
from local.aws.athena.lake import File

Test = Callable[[str], bool]


def enabled(table: Table) -> bool:
    """Return whether the table's partitions are projected."""
    return table.parameters.get("projection.enabled", "false").lower() == "true"


def files(table: Table, s3: Any, fixed: set[str]) -> list[File]:
    """Return the objects inside projected partitions.

    Args:
        table: a partitioned table with projection properties.
        s3: a client of the caller.
        fixed: names of the columns that the query compares with constants.

    Raises:
        QueryError: a property is missing or wrong, or an injected column is not in ``fixed``.
    """
    tests = {key.name: _test(table, key.name, fixed) for key in table.keys}
    hive_style = table.location + "".join(f"{key.name}=${{{key.name}}}/" for key in table.keys)
    template = lake.folder(table.parameters.get("storage.location.template", hive_style))
    pieces = re.split(r"\$\{(\w+)\}", template.key)
    pattern = "".join(f"(?P<{p}>[^/]+)" if n % 2 else re.escape(p) for n, p in enumerate(pieces))
    found = []
    for file in lake.list_files(s3, lake.Location(template.bucket, pieces[0])):
        match = re.match(pattern, file.location.key)
        if match and all(test(match[name]) for name, test in tests.items()):
            found.append(file._replace(partition=tuple(match[key.name] for key in table.keys)))
    return found


def _test(table: Table, column: str, fixed: set[str]) -> Test:
    """Return what tells whether a value of ``column`` is a projected partition."""

    def setting(name: str) -> str:
        value = table.parameters.get(f"projection.{column}.{name}")
        if value is None:
            reason = f"INVALID_TABLE_PROPERTY: Property projection.{column}.{name} is required"
            raise QueryError(reason)
        return value

    kind = setting("type")
    if kind == "enum":
        return {value.strip() for value in setting("values").split(",")}.__contains__
    if kind == "integer":
        low, high = (int(bound) for bound in setting("range").split(","))
        digits = int(table.parameters.get(f"projection.{column}.digits", 1))
        step = int(table.parameters.get(f"projection.{column}.interval", 1))
        return lambda value: (
            value.isdecimal() and int(value) in range(low, high + 1, step) and value == value.lstrip("0").zfill(digits)
        )
    if kind == "date":
        form = strftime_pattern(setting("format"))
        first, last = (_bound(bound.strip(), form) for bound in setting("range").split(","))
        if f"projection.{column}.interval" not in table.parameters:
            return lambda value: _is_date(value, form, first, last)
        step = relativedelta(**{f"{setting('interval.unit').lower().rstrip('s')}s": int(setting("interval"))})
        return set(_dates(form, first, last, step)).__contains__
    if kind == "injected":
        if column not in fixed:
            raise QueryError(
                f"CONSTRAINT_VIOLATION: For the injected projected partition column {column}, the WHERE clause must "
                "contain only static equality conditions, and at least one such condition must be present."
            )
        return bool
    raise QueryError(f"INVALID_TABLE_PROPERTY: projection.{column}.type is {kind}")


def _is_date(value: str, form: str, first: datetime, last: datetime) -> bool:
    try:
        return first <= datetime.strptime(value, form).replace(tzinfo=UTC) <= last
    except ValueError:  # a folder that is no date is no partition
        return False


def _dates(form: str, first: datetime, last: datetime, step: relativedelta) -> Iterator[str]:
    """Yield the dates from ``first`` to ``last`` that are whole steps apart, in the column's format."""
    moment, count = first, 0
    while moment <= last:
        yield moment.strftime(form)
        count += 1
        moment = first + step * count


def _bound(text: str, form: str) -> datetime:
    """Return a bound of a date range: a date in the column's format, or NOW with an offset such as NOW-3YEARS."""
    now = re.fullmatch(r"NOW(?:([+-]\d+)(YEAR|MONTH|WEEK|DAY|HOUR|MINUTE|SECOND)S?)?", text)
    if not now:
        return datetime.strptime(text, form).replace(tzinfo=UTC)
    offset = relativedelta(**{f"{now[2].lower()}s": int(now[1])}) if now[1] else timedelta()
    return datetime.now(UTC) + offset
