"""Which faults a command asks for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from local.launcher import LauncherError, faults
from tests.conftest import Aws


def test_no_faults_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FAULTS", raising=False)
    assert faults.wanted() == []


def test_faults_by_name_and_by_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAULTS", "storm")
    assert {rule["fault"] for rule in faults.wanted()} == {"throttle", "error", "latency", "reset", "truncate"}
    own = [{"actions": ["s3:*"], "fault": "error", "share": 0.5}]
    file = tmp_path / "own.json"
    file.write_text(json.dumps(own))
    monkeypatch.setenv("FAULTS", str(file))
    assert faults.wanted() == own


@pytest.mark.parametrize(("content", "reason"), [(None, "one of: .*storm"), ("{", "is not JSON")])
def test_faults_that_are_none_are_named(tmp_path: Path, content: str | None, reason: str) -> None:
    file = tmp_path / "own.json"
    if content:
        file.write_text(content)
    with pytest.raises(LauncherError, match=reason):
        faults.read(str(file))


@pytest.mark.parametrize("mix", [path.stem for path in faults.MIXES.glob("*.json")])
def test_the_embedded_aws_takes_every_mix(aws: Aws, mix: str) -> None:
    with faults.on(aws.endpoint, faults.read(mix)):
        assert [rule["struck"] for rule in faults.struck(aws.endpoint)] == [0] * len(faults.read(mix))
    assert faults.struck(aws.endpoint) == []
