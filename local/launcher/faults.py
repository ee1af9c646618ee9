"""Switches faults of a running embedded AWS on and off; ``local/aws/faults.py`` says what rules are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from local.launcher import LauncherError, control, layout

MIXES = layout.REPOSITORY / "local" / "faults"
Rules = list[dict[str, Any]]


def wanted() -> Rules:
    """Return the rules that the user asked for by the environment variable ``FAULTS``, none without it.

    Raises:
        LauncherError: see :func:`read`.
    """
    name = os.environ.get("FAULTS")
    return read(name) if name else []


def read(name: str) -> Rules:
    """Return the rules of a mix in ``local/faults`` by its name, or of a JSON file by its path.

    Raises:
        LauncherError: there is no such mix and no such file, or it is not JSON.
    """
    file = MIXES / f"{name}.json" if (MIXES / f"{name}.json").is_file() else Path(name).expanduser()
    if not file.is_file():
        mixes = ", ".join(sorted(path.stem for path in MIXES.glob("*.json")))
        raise LauncherError(f"FAULTS={name} is neither a file nor one of: {mixes}")
    try:
        rules: Rules = json.loads(file.read_text())
    except ValueError as error:
        raise LauncherError(f"{file} is not JSON: {error}") from error
    return rules


def switch(endpoint: str, rules: Rules) -> Rules:
    """Let ``rules`` hold from now on, none if empty; return them with how often each has struck (never, so far).

    Raises:
        LauncherError: one of them is no rule.
    """
    answer: Rules = control.exchange(endpoint, "faults", rules)
    return answer


def struck(endpoint: str) -> Rules:
    """Return the rules that hold, each with how often it has ``struck``."""
    answer: Rules = control.exchange(endpoint, "faults")
    return answer


@contextmanager
def on(endpoint: str, rules: Rules) -> Iterator[None]:
    """Let ``rules`` hold inside the block."""
    switch(endpoint, rules)
    try:
        yield
    finally:
        switch(endpoint, [])
