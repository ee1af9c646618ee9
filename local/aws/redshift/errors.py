"""What a statement fails with, in Redshift's words."""

from __future__ import annotations

import psycopg

BYTES_CHECK = "bytes_of_"
"""How the names start of the constraints that hold text to its length in bytes."""


class SqlError(Exception):
    """A statement failed; ``message`` is what Redshift says after ``ERROR:``."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def unsupported(what: str) -> SqlError:
    """Return the error of SQL that Redshift has and the embedded Redshift does not."""
    return SqlError(f"{what} is not supported by the embedded Redshift")


def from_postgres(error: psycopg.Error) -> SqlError:
    """Return PostgreSQL's error as Redshift words it."""
    diagnosis = error.diag
    if isinstance(error, psycopg.errors.CardinalityViolation) and "MERGE" in (diagnosis.message_primary or ""):
        return SqlError("Found multiple matches to update the same tuple.")
    if isinstance(error, psycopg.errors.CheckViolation) and (diagnosis.constraint_name or "").startswith(BYTES_CHECK):
        return SqlError("Value too long for character type")
    if isinstance(error, psycopg.errors.StringDataRightTruncation):
        return SqlError("Value too long for character type")
    lines = [diagnosis.message_primary or str(error).strip()]
    for name, text in (("Detail", diagnosis.message_detail), ("Hint", diagnosis.message_hint)):
        if text:
            lines.append(f"{name}: {text}")
    return SqlError("\n  ".join(lines))
