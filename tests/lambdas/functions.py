"""Importing a scenario's functions as Lambda does: their folder and their layers come first on the path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from local.launcher import layout


@contextmanager
def importable(*folders: str) -> Iterator[None]:
    """Put folders below ``include/`` in front of the path; at the end forget the modules that came from them.

    Functions of other scenarios have modules of the same names, and Airflow other versions of what layers hold.
    """
    paths = tuple(str(layout.REPOSITORY / "include" / folder) for folder in folders)
    before = list(sys.path)
    sys.path[:0] = paths
    try:
        yield
    finally:
        sys.path[:] = before
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(paths):
                del sys.modules[name]
