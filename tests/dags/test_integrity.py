"""Every DAG keeps the house rules."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from airflow.sdk import DAG

from local.launcher import layout
from tests.dags import rules
from tests.dags.files import DAG_FILES, bag_of, dag_of, syntax_of

SCENARIO_MODULES = sorted((layout.PLUGINS / "atlas" / "scenarios").glob("s*.py"))

each_dag = pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in DAG_FILES])


def test_there_are_dags() -> None:
    assert DAG_FILES


@each_dag
def test_it_imports_without_errors_warnings_or_cycles(file: Path) -> None:
    bag = bag_of(file)
    assert not bag.import_errors
    assert not bag.captured_warnings
    dag_of(file).check_cycle()


@each_dag
def test_a_file_holds_one_dag_named_after_it(file: Path) -> None:
    assert list(bag_of(file).dags) == [file.stem]


@each_dag
def test_the_files_docstring_is_the_documentation(file: Path) -> None:
    docstring = ast.get_docstring(syntax_of(file))
    assert docstring
    assert inspect.cleandoc(dag_of(file).doc_md or "") == docstring


@each_dag
@pytest.mark.parametrize("rule", rules.DAG_RULES, ids=lambda rule: rule.__name__)
def test_the_dag_keeps_the_rule(file: Path, rule: Callable[[DAG], Iterator[str]]) -> None:
    assert list(rule(dag_of(file))) == []


@each_dag
def test_tags_name_the_kind_first(file: Path) -> None:
    assert list(rules.names_its_kind_first(syntax_of(file))) == []


@pytest.mark.parametrize(
    "file", [pytest.param(file, id=f"{file.parent.name}/{file.name}") for file in DAG_FILES + SCENARIO_MODULES]
)
def test_boto3_is_left_to_operators_and_hooks(file: Path) -> None:
    assert list(rules.leaves_boto3_to_operators_and_hooks(syntax_of(file))) == []
