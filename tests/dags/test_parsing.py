"""Parsing a DAG file is cheap and touches nothing outside of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from local.launcher import layout
from tests.dags.files import DAG_FILES

MAX_SECONDS = 0.05
BODIES = {
    "sound": "pass",
    "heavy": "sys.path.insert(0, str(Path(__file__).parent))\nimport duckdb",
    "network": "with contextlib.suppress(OSError):\n    socket.create_connection(('127.0.0.1', 9))",
    "lookup": "Variable.get('bucket', default=None)",
    "slow": "sum(range(5_000_000))",
}
"""What small DAG files do at the top."""

Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What the probe says of every DAG and of the small ones, by stem."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "duckdb.py").touch()
    for name, body in BODIES.items():
        (folder / f"{name}.py").write_text(
            "import contextlib, socket, sys\nfrom pathlib import Path\nfrom airflow.sdk import DAG, Variable\n"
            f"{body}\ndag = DAG('{name}', schedule=None)\n"
        )
    files = [*DAG_FILES, *(folder / f"{name}.py" for name in BODIES)]
    answer = folder / "answer.json"
    probe = [sys.executable, layout.REPOSITORY / "local" / "probe.py", answer, *files]
    subprocess.run([str(part) for part in probe], check=True, timeout=600, stdout=subprocess.DEVNULL)
    return {Path(file).stem: said for file, said in json.loads(answer.read_text(encoding="utf-8")).items()}


@pytest.mark.parametrize("stem", [*(file.stem for file in DAG_FILES), "sound"])
def test_parsing_is_cheap_and_alone(stem: str, answers: Answers) -> None:
    said = answers[stem]
    assert {name: said[name] for name in ("heavy", "connections", "lookups")} == {
        "heavy": [],
        "connections": [],
        "lookups": [],
    }
    assert said["seconds"] < MAX_SECONDS


@pytest.mark.parametrize(
    ("stem", "what", "named"),
    [
        pytest.param("heavy", "heavy", "duckdb", id="slow package"),
        pytest.param("network", "connections", "127.0.0.1", id="connection"),
        pytest.param("lookup", "lookups", "bucket", id="variable"),
    ],
)
def test_the_probe_finds_it(stem: str, what: str, named: str, answers: Answers) -> None:
    assert named in str(answers[stem][what])


def test_the_probe_finds_a_slow_file(answers: Answers) -> None:
    assert answers["slow"]["seconds"] > MAX_SECONDS
