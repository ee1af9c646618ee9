"""Pages agree with what they are about: prices with the DAG files, runbooks with the alarms, links with files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from atlas import settings
from atlas.costs import dollars, total
from atlas.operators.budget import CheckBudgetOperator, with_copies
from atlas.packaging import Template
from local.launcher import layout
from tests.dags.files import DAG_FILES, dag_of
from tests.templates import model

DOCS = layout.REPOSITORY / "docs"
OPERATIONS = (DOCS / "operations.md").read_text(encoding="utf-8")
OWN_ACCOUNT = (DOCS / "own-account.md").read_text(encoding="utf-8")
PAGES = [layout.REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
TEMPLATES = sorted((layout.REPOSITORY / "include" / "templates").glob("*.yaml"))
RUNBOOK = """
### s00_example

| Alarm | What it means | What to do |
|---|---|---|
| `errors` | It fails | Mend it |
| `*-behind` | It is late | Wait |

### s01_other

| `other` | Something | Nothing |
"""


def price_row(dag: DAG) -> str:
    """Return what the table of costs has to say of a scenario."""
    guard = dag.get_task("check_budget")
    assert isinstance(guard, CheckBudgetOperator)
    price, params = guard.price, dag.params.dump()
    default = price.of_run(with_copies(params[guard.load], params))
    sums = [total(parts) for parts in (price.per_hour, price.per_run, price.per_million_events)]
    return f"| {' | '.join([dag.dag_id, *map(dollars, [*sums, default])])} |"


def disagreements(stem: str, template: Template, page: str) -> Iterator[str]:
    """Yield what the template's alarms and the runbook of scenario ``stem`` do not know of each other."""
    section = page.partition(f"\n### {stem}\n")[2].partition("\n### ")[0]
    rows = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    alarms = {
        str(properties["AlarmName"]["Fn::Sub"]).removeprefix("${AWS::StackName}-"): properties
        for properties in map(model.properties, model.resources(template, "AWS::CloudWatch::Alarm").values())
    }
    for name, properties in alarms.items():
        if not any(fnmatchcase(name, row) for row in rows):
            yield f"alarm {name} has no row"
        if f"docs/operations.md#{stem}" not in properties["AlarmDescription"].split():
            yield f"alarm {name} does not lead to its runbook"
    yield from (f"row {row} has no alarm" for row in rows if not any(fnmatchcase(name, row) for name in alarms))


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path) -> Iterator[str]:
    """Yield the links of a page that lead to no file of the repository, or to no heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if "://" not in target and (not file.exists() or (anchor and anchor not in anchors(file))):
            yield target


def example(**properties: Any) -> Template:
    """Return a template with two alarms that the runbook above knows, but for ``properties`` of the first."""
    described = {"AlarmDescription": "It fails. What to do: docs/operations.md#s00_example"}
    names = {"A": "${AWS::StackName}-errors", "B": "${AWS::StackName}-queue-behind"}
    alarms: dict[str, Any] = {
        key: {"Type": "AWS::CloudWatch::Alarm", "Properties": {"AlarmName": {"Fn::Sub": name}, **described}}
        for key, name in names.items()
    }
    alarms["A"]["Properties"] |= properties
    return {"Resources": alarms}


def test_the_table_of_costs_is_what_the_dag_files_declare() -> None:
    rows = [line for line in OWN_ACCOUNT.splitlines() if re.match(r"\| s\d\d_", line)]
    assert rows == [price_row(dag_of(file)) for file in DAG_FILES]


def test_the_page_tells_the_tags_that_stacks_carry() -> None:
    assert all(f"`{tag}`" in OWN_ACCOUNT for tag in settings.cost_tags("s00"))


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in TEMPLATES])
def test_each_alarm_has_its_runbook(file: Path) -> None:
    assert list(disagreements(file.stem, model.read(file), OPERATIONS)) == []


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in DAG_FILES])
def test_each_dag_has_its_runbook(file: Path) -> None:
    assert file.stem in anchors(DOCS / "operations.md")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        pytest.param(example(), [], id="sound"),
        pytest.param(
            example(AlarmName={"Fn::Sub": "${AWS::StackName}-other"}),
            ["alarm other has no row", "row errors has no alarm"],
            id="other alarm",
        ),
        pytest.param(
            example(AlarmDescription="See docs/operations.md#s00_example2"),
            ["alarm errors does not lead to its runbook"],
            id="other runbook",
        ),
        pytest.param({"Resources": {}}, ["row errors has no alarm", "row *-behind has no alarm"], id="no alarms"),
    ],
)
def test_disagreements_are_found(template: Template, found: list[str]) -> None:
    assert list(disagreements("s00_example", template, RUNBOOK)) == found


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    assert list(dead_links(page)) == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b` c\n\n[1](#a-b-c) [2](page.md) [3](page.md#no) [4](no.md) [5](https://a.example/no.md)\n")
    assert list(dead_links(page)) == ["page.md#no", "no.md"]
