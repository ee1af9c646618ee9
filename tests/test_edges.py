"""The table of docs/embedded-aws.md on who reaches whom: a test denies each edge, and each service has its edges."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pytest

from local.capabilities import PAGE, SUITE
from local.launcher import layout

NAMES_ITSELF = {"dynamodb"}
"""Principals that stand in records and reach nothing."""


@dataclass(frozen=True)
class Edge:
    """A row: the principal as which is acted, whose permission that takes, and the test that denies it."""

    principal: str
    by: str
    module: str
    test: str


def section(page: str) -> str:
    """Return the section of ``page`` that the table is in."""
    return page.partition("\n## Who reaches whom\n")[2].partition("\n## ")[0]


def edges(page: str) -> list[Edge]:
    """Return the rows of the table in ``page``."""
    row = r"^\| [^|]+ \| [^|]+ \| `?([\w-]+)`? \| ([\w ]+) \| `(test_\w+)\.(test_\w+)` \|$"
    return [Edge(*found) for found in re.findall(row, section(page), re.MULTILINE)]


def missing(found: Iterable[Edge]) -> Iterator[str]:
    """Yield the tests that the suite does not have."""
    for edge in found:
        module = SUITE / f"{edge.module}.py"
        if not module.exists() or f"\ndef {edge.test}(" not in module.read_text():
            yield f"{edge.module}.{edge.test}"


def principals() -> set[str]:
    """Return the services as which the embedded AWS acts."""
    sources = (layout.REPOSITORY / "local" / "aws").rglob("*.py")
    return {name for file in sources for name in re.findall(r'"([a-z0-9-]+)\.amazonaws\.com"', file.read_text())}


EDGES = edges(PAGE.read_text())


def test_each_edge_is_denied_by_a_test() -> None:
    assert list(missing(EDGES)) == []


def test_each_service_that_acts_has_edges() -> None:
    assert {edge.principal for edge in EDGES} - {"caller"} == principals() - NAMES_ITSELF


def test_each_row_is_an_edge() -> None:
    assert len(EDGES) == section(PAGE.read_text()).count("\n| ") - 1 > 0
    assert {edge.by for edge in EDGES} == {"role", "policy", "caller"}


@pytest.mark.parametrize("test", ["test_iam.test_nothing", "test_nothing.test_iam"])
def test_a_test_that_is_not_there_is_found(test: str) -> None:
    row = f"| Nobody | nothing | `iam` | role | `{test}` |"
    assert list(missing(edges(f"\n## Who reaches whom\n\n{row}\n"))) == [test]
