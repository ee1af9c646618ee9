"""PREPARE and DEALLOCATE PREPARE: statements that are kept in a workgroup.

https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html
"""

from __future__ import annotations

import re

from local.aws import emulator
from local.aws.athena.errors import aws_errors

_PREPARE = re.compile(r"\s*PREPARE\s+(?P<name>\w+)\s+FROM\s+(?P<query>.+?)\s*;?\s*", re.IGNORECASE | re.DOTALL)
_DEALLOCATE = re.compile(r"\s*DEALLOCATE\s+PREPARE\s+(?P<name>\w+)\s*;?\s*", re.IGNORECASE)


def kind(text: str) -> str | None:
    """Return which of the two a statement is, None if it is another."""
    if _PREPARE.fullmatch(text):
        return "PREPARE"
    return "DEALLOCATE" if _DEALLOCATE.fullmatch(text) else None


def run(text: str, workgroup: str, credentials: emulator.Credentials, region: str) -> None:
    """Keep a statement in a workgroup, or delete it, with the caller's permissions.

    Raises:
        QueryError: the caller may not, there is one of this name already, or there is none.
    """
    athena = emulator.client("athena", credentials, region)
    with aws_errors("changing a prepared statement"):
        if found := _PREPARE.fullmatch(text):
            athena.create_prepared_statement(
                StatementName=found["name"], WorkGroup=workgroup, QueryStatement=found["query"]
            )
        elif found := _DEALLOCATE.fullmatch(text):
            athena.delete_prepared_statement(StatementName=found["name"], WorkGroup=workgroup)
