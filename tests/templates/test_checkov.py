"""Checkov finds nothing in the templates but what they give a reason for.

An exception is the resource's own: ``Metadata: {checkov: {skip: [{id: CKV_AWS_000, comment: why}]}}``.
https://www.checkov.io/2.Basics/Suppressing%20and%20Skipping%20Policies.html
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from atlas.packaging import Template
from local.launcher import environments
from tests.templates import model
from tests.templates.test_templates import TEMPLATES

LONG_ENOUGH = 20
"""Characters of a comment that can be a reason."""

Findings = dict[str, list[dict[str, Any]]]


def plain(template: Template) -> Template:
    """Return a template as checkov reads templates: without loops, globals and computed references."""
    shared = template.get("Globals", {}).get("Function", {})
    for body in model.resources(template, "AWS::Serverless::Function").values():
        body["Properties"] = shared | model.properties(body)
    resolved: Template = _resolved({key: value for key, value in template.items() if key != "Globals"})
    return resolved


def _resolved(value: Any) -> Any:
    """Return ``value`` with each reference to a name that a loop has made, ``!Ref {Fn::Sub: name}``, as a plain one."""
    if isinstance(value, list):
        return [_resolved(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("Ref"), dict):
        return {"Ref": value["Ref"]["Fn::Sub"]}
    return {key: _resolved(inner) for key, inner in value.items()}


def scan(folder: Path) -> Findings:
    """Return what checkov says of a folder's templates: ``failed_checks``, ``skipped_checks``, ``passed_checks``.

    Raises:
        ValueError: it could not read one of them.
    """
    command = [environments.ensure_checkov(), "--directory", folder, "--framework", "cloudformation"]
    command += ["--output", "json", "--compact", "--skip-download", "--skip-results-upload"]
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    if report["summary"]["parsing_errors"]:
        raise ValueError(f"checkov cannot read {report['results']['parsing_errors']}")
    found: Findings = report["results"]
    return found


@pytest.fixture(name="findings", scope="module")
def _findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    """What checkov says of every template, and of one that is wrong."""
    folder = tmp_path_factory.mktemp("templates")
    for file in TEMPLATES:
        (folder / f"{file.stem}.json").write_text(json.dumps(plain(model.read(file)), indent=1))
    skipped = {"checkov": {"skip": [{"id": "CKV_AWS_26", "comment": "to see that an exception counts"}]}}
    topic = {"Type": "AWS::SNS::Topic"}
    wrong = {"Resources": {"Open": topic, "Excepted": {**topic, "Metadata": skipped}}}
    (folder / "wrong.json").write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", **wrong}, indent=1))
    return scan(folder)


def told(findings: Findings, kind: str, template: str) -> list[str]:
    """Return check and resource of a kind of findings in one template."""
    return [
        f"{finding['check_id']} {finding['resource']}: {finding['check_name']}"
        for finding in findings[kind]
        if finding["file_path"] == f"/{template}.json"
    ]


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in TEMPLATES])
def test_checkov_finds_nothing(file: Path, findings: Findings) -> None:
    assert told(findings, "passed_checks", file.stem)
    assert told(findings, "failed_checks", file.stem) == []


def test_checkov_finds_what_is_wrong_and_not_excepted(findings: Findings) -> None:
    assert "CKV_AWS_26 AWS::SNS::Topic.Open" in "\n".join(told(findings, "failed_checks", "wrong"))
    assert "CKV_AWS_26 AWS::SNS::Topic.Excepted" in "\n".join(told(findings, "skipped_checks", "wrong"))


@pytest.mark.parametrize("file", [pytest.param(file, id=file.stem) for file in TEMPLATES])
def test_every_exception_has_a_reason_and_applies(file: Path, findings: Findings) -> None:
    skipped = {(finding["check_id"], finding["resource"]) for finding in findings["skipped_checks"]}
    for name, body in model.read(file)["Resources"].items():
        for exception in body.get("Metadata", {}).get("checkov", {}).get("skip", []):
            assert len(exception["comment"]) >= LONG_ENOUGH
            assert (exception["id"], f"{body['Type']}.{name}") in skipped
