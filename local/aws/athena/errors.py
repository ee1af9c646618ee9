"""Failures of a query, worded and numbered as Athena does, and how DuckDB's errors become them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
from botocore.exceptions import ClientError

# https://docs.aws.amazon.com/athena/latest/ug/error-reference.html
USER, DATA, DDL, SYNTAX, NO_PATH, NO_TABLE, UNSUPPORTED, NO_FUNCTION, PERMISSION, S3_PERMISSION = (
    *(1000, 1001, 1003, 1006, 1108, 1109, 1200, 1303, 1500, 1501),
)


class QueryError(Exception):
    """The query fails; ``reason`` becomes its StateChangeReason, ``kind`` its AthenaError.ErrorType."""

    def __init__(self, reason: str, kind: int = USER) -> None:
        super().__init__(reason)
        self.reason = reason
        self.kind = kind


class QueryCancelledError(QueryError):
    """The query ends CANCELLED: stopped by its user, or over the workgroup's scan limit."""


def unsupported(what: str) -> QueryError:
    """Return the failure of a query that uses ``what``, which the embedded Athena does not run."""
    return QueryError(f"NOT_SUPPORTED: {what} is not supported", UNSUPPORTED)


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn refusals of S3 or Glue, met with the caller's permissions while ``doing``, into query failures."""
    try:
        yield
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in ("AccessDenied", "403"):
            raise QueryError(f"PERMISSION_DENIED: Access denied when {doing}. {message}", S3_PERMISSION) from error
        if code == "AccessDeniedException":
            reason = f"Insufficient permissions to execute the query: {doing}. {message}"
            raise QueryError(reason, PERMISSION) from error
        raise QueryError(f"GENERIC_USER_ERROR: {code} when {doing}. {message}") from error


def position(query: str, name: str) -> str:
    """Return where ``name`` stands in the query, as Trino writes it: ``line 1:8``."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query, re.IGNORECASE)
    offset = found.start() if found else 0
    before = query[:offset]
    return f"line {before.count(chr(10)) + 1}:{offset - before.rfind(chr(10))}"


def from_duckdb(error: duckdb.Error, query: str) -> QueryError:
    """Return the failure Athena reports for what DuckDB found wrong with the translated ``query``."""
    text = str(error).split("\n\nLINE ")[0]
    if column := re.search(r'(?:Referenced column|does not have a column named) "([^"]+)"', text):
        reason = (
            f"COLUMN_NOT_FOUND: {position(query, column[1])}: Column '{column[1]}' cannot be resolved or "
            "requester is not authorized to access requested resources"
        )
        return QueryError(reason, SYNTAX)
    if function := re.search(r"Function with name (\S+) does not exist", text):
        reason = f"FUNCTION_NOT_FOUND: {position(query, function[1])}: Function '{function[1]}' not registered"
        return QueryError(reason, NO_FUNCTION)
    if column := re.search(r'column "([^"]+)" must appear in the GROUP BY', text):
        reason = (
            f"EXPRESSION_NOT_AGGREGATE: {position(query, column[1])}: '{column[1]}' must be an aggregate "
            "expression or appear in GROUP BY clause"
        )
        return QueryError(reason, SYNTAX)
    if "Division by zero" in text:
        return QueryError("DIVISION_BY_ZERO: Division by zero", USER)
    for kind, code, number in (
        (duckdb.ConversionException, "INVALID_CAST_ARGUMENT", DATA),
        (duckdb.OutOfRangeException, "NUMERIC_VALUE_OUT_OF_RANGE", DATA),
        (duckdb.OutOfMemoryException, "EXCEEDED_LOCAL_MEMORY_LIMIT", 0),
        (duckdb.InvalidInputException, "GENERIC_USER_ERROR", USER),
    ):
        if isinstance(error, kind):
            return QueryError(f"{code}: {text}", number)
    return QueryError(f"SYNTAX_ERROR: {text}", SYNTAX)
