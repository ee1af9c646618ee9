"""What holds for the files of the repository as a whole."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from local.launcher import layout

AWS_SIDE = ("dags/", "plugins/", "include/", "deploy/")
"""What runs on AWS and on Amazon MWAA; it never knows which AWS it is on."""

STEM = re.compile(r"s\d\d_[a-z0-9_]+")

# A host has two labels before the domain, or a scheme; lambda.amazonaws.com alone is the name of a principal.
PORTABLE = {
    "emulator": r"(?i)localhost|127\.0\.0\.1|\b4566\b|ministack|(?<!\.)endpoint_url",
    "account": r"\b\d{12}\b",
    "region": r"\b(?:af|ap|ca|cn|eu|eusc|il|me|mx|sa|us)(?:-[a-z]+){1,3}-\d[a-z]?\b",
    "partition": r"\barn:aws[a-z-]*:",
    "endpoint": r"[\w:${}-]+\.[\w:${}-]+\.amazonaws\.com|://[^/\s]*\.amazonaws\.com",
}
REGISTRY = r"\bpypi\.org|pythonhosted\.org|registry\.npmjs\.org|\brepo1?\.maven\b|conda\.anaconda\.org|\bcrates\.io"
UNFINISHED = r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b"


def files(*arguments: str) -> list[str]:
    """Return the repository's files, those not committed yet included, by their paths in it."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate", "-z", "--", *arguments]
    found = subprocess.run(listing, check=True, cwd=layout.REPOSITORY, capture_output=True, text=True).stdout
    return [name for name in found.split("\0") if name and (layout.REPOSITORY / name).is_file()]


def hits(pattern: str, names: list[str]) -> list[str]:
    """Return where in these files ``pattern`` occurs: ``path:line: what``."""
    expression = re.compile(pattern)
    return [
        f"{name}:{number}: {match[0]}"
        for name in names
        for number, line in enumerate(text_of(layout.REPOSITORY / name).splitlines(), 1)
        for match in expression.finditer(line)
    ]


def text_of(file: Path) -> str:
    """Return a file's text; a binary file has none."""
    content = file.read_bytes()
    return "" if b"\0" in content else content.decode("utf-8", "replace")


def stem_of(name: str) -> str | None:
    """Return the scenario a file is named after, by its own name or its folder's."""
    for part in reversed(Path(name).parts):
        if match := STEM.match(part.removeprefix("test_").partition(".")[0]):
            return match[0]
    return None


@pytest.mark.parametrize("what", PORTABLE)
def test_what_runs_on_aws_names_no(what: str) -> None:
    names = files(*AWS_SIDE)
    assert names
    assert hits(PORTABLE[what], names) == []


@pytest.mark.parametrize(
    ("what", "text"),
    [
        pytest.param("emulator", "http://localhost:80", id="localhost"),
        pytest.param("emulator", "S3Hook(endpoint_url=url)", id="endpoint of a client"),
        pytest.param("emulator", "port = 4566", id="port"),
        pytest.param("account", "arn:${p}:iam::123456789012:role", id="account"),
        pytest.param("region", "us-east-1", id="region"),
        pytest.param("region", "us-gov-west-1a", id="zone"),
        pytest.param("partition", "arn:aws:s3:::lake", id="partition"),
        pytest.param("partition", "arn:aws-cn:s3:::lake", id="other partition"),
        pytest.param("endpoint", "https://s3.amazonaws.com/lake", id="global endpoint"),
        pytest.param("endpoint", "kinesis.${AWS::Region}.amazonaws.com", id="regional endpoint"),
    ],
)
def test_it_is_found(what: str, text: str) -> None:
    assert re.search(PORTABLE[what], text)


@pytest.mark.parametrize(
    ("what", "text"),
    [
        pytest.param("emulator", "client.meta.endpoint_url", id="address the client itself has chosen"),
        pytest.param("endpoint", "Service: lambda.amazonaws.com", id="principal"),
        pytest.param("endpoint", "com.amazonaws.${AWS::Region}.s3", id="name of an endpoint service"),
        pytest.param("partition", "arn:${AWS::Partition}:s3:::lake", id="pseudo parameter"),
        pytest.param("account", "1234567890123", id="thirteen digits"),
    ],
)
def test_it_is_no_false_alarm(what: str, text: str) -> None:
    assert not re.search(PORTABLE[what], text)


def test_no_file_names_a_package_registry() -> None:
    assert hits(REGISTRY, files()) == []


def test_nothing_is_left_unfinished() -> None:
    assert hits(UNFINISHED, files()) == []


def test_registries_and_unfinished_work_are_found() -> None:
    assert re.search(REGISTRY, "--index-url https://" + "pypi" + ".org/simple")
    assert re.search(UNFINISHED, "# " + "TO" + "DO: later")


def test_every_scenario_has_its_files_and_no_other() -> None:
    """``git ls-files '*s05_*'`` is the whole of scenario 5."""
    dags = {Path(name).stem for name in files("dags/*.py")}
    assert dags
    assert all(STEM.fullmatch(stem) for stem in dags)
    assert len({stem[:3] for stem in dags}) == len(dags), "two scenarios with one number"
    for stem in dags:
        found = set(files(f"*{stem}*"))
        needed = {
            f"dags/{stem}.py",
            f"include/templates/{stem}.yaml",
            f"include/expectations/{stem}.py",
            f"plugins/atlas/scenarios/{stem}.py",
            f"tests/scenarios/test_{stem}.py",
            f"tests/dags/snapshots/{stem}.json",
        }
        assert needed - found == set()


def test_every_scenario_tries_what_its_roles_reach() -> None:
    for name in files("dags/*.py"):
        test = layout.REPOSITORY / "tests" / "scenarios" / f"test_{Path(name).stem}.py"
        assert "assert list(isolation.breaches(scenarios, STEM)) == []" in test.read_text(), test.name


def test_every_file_of_a_scenario_belongs_to_a_dag() -> None:
    dags = {Path(name).stem for name in files("dags/*.py")}
    named = {name: stem_of(name) for name in files()}
    strays = [
        name for name, stem in named.items() if stem and not any(stem == d or stem.startswith(f"{d}_") for d in dags)
    ]
    assert strays == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("include/lambdas/s07_orders/load.py", "s07_orders"),
        ("include/glue_scripts/s07_orders_extract.py", "s07_orders_extract"),
        ("tests/scenarios/test_s07_orders.py", "s07_orders"),
        ("plugins/atlas/settings.py", None),
    ],
)
def test_a_file_is_told_by_its_name(name: str, stem: str | None) -> None:
    assert stem_of(name) == stem
