"""Secrets, looked for in all that Airflow keeps in its database and writes into logs."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

TEMPORARY = re.compile(r"\bASIA[A-Z0-9]{16}\b")
"""The id that begins temporary credentials, which nobody keeps a list of."""


def secrets(client: Callable[[str], Any]) -> dict[str, str]:
    """Return the secret values of all versions in Secrets Manager: value to what it is called."""
    manager = client("secretsmanager")
    found = {}
    pages = manager.get_paginator("list_secrets").paginate()
    for name in [entry["Name"] for page in pages for entry in page["SecretList"]]:
        for version in manager.list_secret_version_ids(SecretId=name)["Versions"]:
            value = manager.get_secret_value(SecretId=name, VersionId=version["VersionId"])
            found[password(value["SecretString"])] = f"secret {name}"
    return found


def password(text: str) -> str:
    """Return the password among a secret's fields, all of the text if it has no fields."""
    try:
        found: str = json.loads(text)["password"]
    except ValueError:
        return text
    return found


def kept(database: Path) -> Iterator[tuple[str, str]]:
    """Yield every row of Airflow's database, XComs among them: table and text."""
    with closing(sqlite3.connect(database)) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                texts = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in row)
                yield f"table {table}", " ".join(texts)


def leaks(secrets: Mapping[str, str], texts: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield, in words that do not repeat them, which secrets are in which of ``texts`` (place and text)."""
    for place, text in texts:
        yield from (
            f"{name} is in {place}"
            for value, name in secrets.items()
            if value in text or json.dumps(value)[1:-1] in text
        )
        if TEMPORARY.search(text):
            yield f"temporary credentials are in {place}"
