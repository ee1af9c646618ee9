"""Two environments live in one account: what has a name has its environment in it, and nothing names an environment."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.packaging import Template
from local.launcher import layout
from tests.templates import model

TEMPLATES = [
    file for folder in ("include/templates", "deploy") for file in sorted((layout.REPOSITORY / folder).glob("*.yaml"))
]
SOURCES = [
    file
    for folder in ("dags", "include", "plugins")
    for file in sorted((layout.REPOSITORY / folder).rglob("*"))
    if file.suffix in {".json", ".py", ".sql", ".yaml"} and "layers" not in file.relative_to(layout.REPOSITORY).parts
]
INSIDE = {"DBName", "DbName", "MetricName", "ServiceName"}
"""Names of something within a resource, or of something of AWS."""
INPUTS = {"AWS::Glue::Database": "DatabaseInput", "AWS::Glue::Connection": "ConnectionInput"}
"""Where the name stands one level down. A Glue table's does too, and it is within a database."""
REFERENCES = {"Ref", "Fn::GetAtt"}
OF_THE_ENVIRONMENT = re.compile(r"\$\{(?:Environment|AWS::StackName)\}")
AN_ENVIRONMENT = re.compile(r"(?i)\batlas[-_/](?:dev|int|prod|stag(?:e|ing)|test)\b")


def shared_names(template: Template) -> Iterator[str]:
    """Yield the names that a second environment's stack would give to its own resource too."""
    for resource, body in template["Resources"].items():
        properties = model.properties(body)
        named = properties.get(INPUTS.get(body["Type"], ""), properties)
        for key, value in named.items():
            if key.endswith(("Name", "Identifier")) and key not in INSIDE and not _is_its_own(value):
                yield f"{resource}: {key} {value}"


def _is_its_own(value: Any) -> bool:
    """Whether a name holds the environment, or is that of another resource of the same stack."""
    if not isinstance(value, dict):
        return False
    if value.keys() & REFERENCES:
        return not str(value.get("Ref", "")).startswith("AWS::") or value["Ref"] == "AWS::StackName"
    return bool(OF_THE_ENVIRONMENT.search(str(value.get("Fn::Sub", ""))))


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in TEMPLATES])
def test_names_are_those_of_the_environment(file: Path) -> None:
    assert list(shared_names(model.read(file))) == []


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        pytest.param("atlas-orders", True, id="fixed"),
        pytest.param({"Fn::Sub": "orders-${AWS::AccountId}-${AWS::Region}"}, True, id="of the account"),
        pytest.param({"Ref": "AWS::Region"}, True, id="of the region"),
        pytest.param({"Fn::Sub": "atlas-${Environment}-orders"}, False, id="of the environment"),
        pytest.param({"Fn::Sub": "${AWS::StackName}-orders"}, False, id="of the stack"),
        pytest.param({"Ref": "AWS::StackName"}, False, id="the stack's"),
        pytest.param({"Ref": "Orders"}, False, id="another resource's"),
        pytest.param({"Fn::GetAtt": ["Orders", "QueueName"]}, False, id="another resource's attribute"),
    ],
)
def test_a_shared_name_is_found(name: Any, shared: bool) -> None:
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": name, "KmsMasterKeyId": "key"}}
    database = {"Type": "AWS::Glue::Database", "Properties": {"CatalogId": "1", "DatabaseInput": {"Name": name}}}
    found = [finding.partition(" ")[0] for finding in shared_names({"Resources": {"Q": queue, "D": database}})]
    assert found == (["Q:", "D:"] if shared else [])


def test_nothing_that_runs_names_an_environment() -> None:
    assert SOURCES
    assert [file.name for file in SOURCES if AN_ENVIRONMENT.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("text", ["atlas-prod-lake", "atlas_dev", "s3://atlas-dev-lake-${x}/", "ATLAS/TEST/key"])
def test_the_name_of_an_environment_is_found(text: str) -> None:
    assert AN_ENVIRONMENT.search(text)


@pytest.mark.parametrize("text", ["atlas-${Environment}-lake", "f'atlas-{ENVIRONMENT}-x'", "atlas_developers"])
def test_it_is_no_false_alarm(text: str) -> None:
    assert not AN_ENVIRONMENT.search(text)
