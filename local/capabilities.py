"""Writes the table of docs/embedded-aws.md from the conformance tests: ``make capabilities``.

The suite runs twice, against the embedded AWS and against the emulator as it comes (``ATLAS_BARE=1``); each row is a
test with the page of the AWS documentation that it follows and what the bare emulator made of it.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local.launcher import layout

PAGE = layout.REPOSITORY / "docs" / "embedded-aws.md"
SUITE = layout.REPOSITORY / "tests" / "conformance"
BEGIN, END = "<!-- made by `make capabilities` from here -->\n", "<!-- to here -->\n"
BARE_TEST_SECONDS = 20
"""What the bare emulator does not do, tests may wait for in vain."""


@dataclass(frozen=True)
class Capability:
    """A conformance test: its module, its name in words, and the address of the page that it follows."""

    module: str
    name: str
    page: str

    @property
    def text(self) -> str:
        """Return the name in words."""
        return self.name.removeprefix("test_").replace("_", " ")


def capabilities() -> dict[str, list[Capability]]:
    """Return the conformance tests by the title of their module."""
    found: dict[str, list[Capability]] = {}
    for file in sorted(SUITE.glob("test_*.py")):
        tree = ast.parse(file.read_text())
        title = (ast.get_docstring(tree) or file.stem).splitlines()[0].rstrip(".")
        found[title] = [
            Capability(file.stem, function.name, _page(function, tree))
            for function in _functions(tree)
            if function.name.startswith("test_")
        ]
    return found


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node
        elif isinstance(node, ast.ClassDef):
            yield from (inner for inner in node.body if isinstance(inner, ast.FunctionDef))


def _page(function: ast.FunctionDef, tree: ast.Module) -> str:
    """Return the address that the test's docstring names, else the module's."""
    for text in (ast.get_docstring(function), ast.get_docstring(tree)):
        if address := re.search(r"https://\S+[^\s.,)]", text or ""):
            return address.group()
    return ""


def run(report: Path, bare: bool) -> None:
    """Run the suite; pytest writes ``report``.

    Raises:
        CalledProcessError: a test failed where all have to pass, against the embedded AWS.
    """
    command = [sys.executable, "-m", "pytest", str(SUITE), "-q", "--numprocesses", "2", "--dist", "loadfile"]
    limits = ["--timeout", str(BARE_TEST_SECONDS), "--timeout-method", "signal"] if bare else []
    environment = os.environ | ({"ATLAS_BARE": "1"} if bare else {})
    subprocess.run([*command, *limits, f"--junitxml={report}"], cwd=layout.REPOSITORY, env=environment, check=not bare)


def outcomes(report: Path) -> dict[tuple[str, str], bool]:
    """Return by module and test whether all its cases passed; a skipped case counts as passed."""
    passed: dict[tuple[str, str], bool] = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        module = next(part for part in case.attrib["classname"].split(".") if part.startswith("test_"))
        key = module, case.attrib["name"].partition("[")[0]
        good = case.find("failure") is None and case.find("error") is None
        passed[key] = passed.get(key, True) and good
    return passed


def table(bare: dict[tuple[str, str], bool]) -> str:
    """Return the capabilities as Markdown: a summary, then the tests of each service.

    Raises:
        LookupError: a test was not run.
    """
    found = capabilities()
    unknown = [test.name for tests in found.values() for test in tests if (test.module, test.name) not in bare]
    if unknown:
        raise LookupError(f"not run against the bare emulator: {', '.join(unknown)}")
    summary = ["| Service | Behaviours tested | Of these, the bare emulator fails |", "|---|---:|---:|"]
    parts = []
    for title, tests in found.items():
        failing = sum(not bare[test.module, test.name] for test in tests)
        summary.append(f"| {title} | {len(tests)} | {failing} |")
        rows = [
            f"| {f'[{test.text}]({test.page})' if test.page else test.text} "
            f"| {'passes' if bare[test.module, test.name] else 'fails'} |"
            for test in tests
        ]
        parts += [f"<details><summary>{title}</summary>\n", "| What holds here | Bare emulator |", "|---|---|", *rows]
        parts.append("\n</details>\n")
    return "\n".join([*summary, "", *parts])


def main() -> None:
    """Run the suite twice and write the page's table."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        run(report, bare=False)
        run(report, bare=True)
        write(outcomes(report))


def write(bare: dict[tuple[str, str], bool]) -> None:
    """Put the table into the page."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n" + table(bare) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
