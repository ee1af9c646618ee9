"""The option that writes the snapshots of the graphs anew."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-snapshots", action="store_true", help="write the DAGs' graphs as they are now")
