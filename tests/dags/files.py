"""The DAG files, each parsed once, without a database."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG

from local.launcher import layout

DAG_FILES = sorted(layout.DAGS.glob("*.py"))


@functools.cache
def bag_of(file: Path) -> DagBag:
    """Return what Airflow finds in a DAG file, import errors included."""
    return DagBag(file)


def dag_of(file: Path) -> DAG:
    """Return the DAG named after its file.

    Raises:
        KeyError: the file cannot be imported or holds no such DAG.
    """
    dag: DAG = bag_of(file).dags[file.stem]
    return dag


def syntax_of(file: Path) -> ast.Module:
    """Return a Python file's syntax tree."""
    return ast.parse(file.read_text(encoding="utf-8"), str(file))
