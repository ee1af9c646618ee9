"""Local sources become content-addressed objects, and templates keep their meaning on the way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from atlas.packaging import package, parse_template, zip_folder


def make_sources(root: Path) -> Path:
    """Lay out a template with one local source of each kind; return its path."""
    (root / "lambdas" / "plan").mkdir(parents=True)
    (root / "lambdas" / "plan" / "app.py").write_text("handler = None\n")
    (root / "layer" / "python").mkdir(parents=True)
    (root / "layer" / "python" / "shared.py").write_text("SHARED = 1\n")
    (root / "job.py").write_text("print('job')\n")
    (root / "flow.asl.json").write_text("{}")
    (root / "templates").mkdir()
    template = root / "templates" / "stack.yaml"
    template.write_text(
        """
Resources:
  Plan: {Type: AWS::Serverless::Function, Properties: {CodeUri: ../lambdas/plan, Handler: app.handler}}
  Layer: {Type: AWS::Serverless::LayerVersion, Properties: {ContentUri: ../layer}}
  Flow: {Type: AWS::Serverless::StateMachine, Properties: {DefinitionUri: ../flow.asl.json}}
  Job: {Type: AWS::Glue::Job, Properties: {Command: {Name: glueetl, ScriptLocation: ../job.py}}}
"""
    )
    return template


def test_every_kind_of_local_source_is_rewritten_to_its_object(tmp_path: Path) -> None:
    packaged = package(make_sources(tmp_path), "artifacts")

    properties = {name: resource["Properties"] for name, resource in packaged.template["Resources"].items()}
    script = b"print('job')\n"
    job_key = f"packages/{hashlib.sha256(script).hexdigest()}.py"
    assert properties["Job"]["Command"] == {"Name": "glueetl", "ScriptLocation": f"s3://artifacts/{job_key}"}
    assert packaged.objects[job_key] == script
    flow = properties["Flow"]["DefinitionUri"]
    assert flow["Bucket"] == "artifacts"
    assert packaged.objects[flow["Key"]] == b"{}"
    for location, file in (
        (properties["Plan"]["CodeUri"], "app.py"),
        (properties["Layer"]["ContentUri"], "python/shared.py"),
    ):
        assert location["Bucket"] == "artifacts"
        assert location["Key"].endswith(".zip")
        with zipfile.ZipFile(io.BytesIO(packaged.objects[location["Key"]])) as archive:
            assert archive.namelist() == [file]
    assert properties["Plan"]["Handler"] == "app.handler"
    assert json.loads(packaged.body) == packaged.template


def test_the_key_of_a_source_changes_with_its_content_only(tmp_path: Path) -> None:
    template = make_sources(tmp_path)
    before = package(template, "artifacts").template["Resources"]

    (tmp_path / "lambdas" / "plan" / "app.py").write_text("handler = 1\n")
    after = package(template, "artifacts").template["Resources"]

    assert after["Plan"]["Properties"]["CodeUri"] != before["Plan"]["Properties"]["CodeUri"]
    assert after["Layer"] == before["Layer"]
    assert after["Job"] == before["Job"]


@pytest.mark.parametrize(
    "location",
    [
        pytest.param("s3://elsewhere/code.zip", id="s3-uri"),
        pytest.param("https://example.com/code.zip", id="https"),
        pytest.param({"Bucket": {"Ref": "ArtifactBucket"}, "Key": "layers/1.zip"}, id="bucket-and-key"),
        pytest.param({"Fn::Sub": "s3://${B}/code.zip"}, id="intrinsic"),
    ],
)
def test_what_is_no_local_path_stays(tmp_path: Path, location: Any) -> None:
    resource = {"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": location}}
    template = tmp_path / "stack.yaml"
    template.write_text(json.dumps({"Resources": {"F": resource}}))

    packaged = package(template, None)

    assert packaged.template["Resources"]["F"] == resource
    assert packaged.objects == {}


def test_a_local_source_needs_a_bucket(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Plan has the local source '\.\./lambdas/plan'"):
        package(make_sources(tmp_path), None)


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    template = make_sources(tmp_path)
    (tmp_path / "job.py").unlink()

    with pytest.raises(FileNotFoundError, match=r"job\.py"):
        package(template, "artifacts")


def test_zips_of_equal_sources_are_equal_bytes(tmp_path: Path) -> None:
    for copy, names, mode, time in (("one", "abc", 0o600, 1), ("two", "cba", 0o755, 2_000_000_000)):
        for name in names:
            file = tmp_path / copy / "package" / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(name)
            file.chmod(mode)
            os.utime(file, (time, time))
    cache = tmp_path / "two" / "package" / "__pycache__"
    cache.mkdir()
    (cache / "a.cpython-312.pyc").write_bytes(b"compiled")

    one, two = zip_folder(tmp_path / "one"), zip_folder(tmp_path / "two")

    assert one == two
    with zipfile.ZipFile(io.BytesIO(one)) as archive:
        assert archive.namelist() == ["package/a.py", "package/b.py", "package/c.py"]
        assert archive.read("package/b.py") == b"b"
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100755}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("!Ref Bucket", {"Ref": "Bucket"}, id="ref"),
        pytest.param("!Condition IsProd", {"Condition": "IsProd"}, id="condition"),
        pytest.param("!Sub '${A}-b'", {"Fn::Sub": "${A}-b"}, id="sub"),
        pytest.param("!Sub ['${A}', {A: !Ref B}]", {"Fn::Sub": ["${A}", {"A": {"Ref": "B"}}]}, id="nested"),
        pytest.param("!GetAtt Role.Arn", {"Fn::GetAtt": ["Role", "Arn"]}, id="get-att"),
        pytest.param("!GetAtt Sub.Outputs.X", {"Fn::GetAtt": ["Sub", "Outputs.X"]}, id="get-att-output"),
        pytest.param("!GetAtt [Role, Arn]", {"Fn::GetAtt": ["Role", "Arn"]}, id="get-att-list"),
        pytest.param("!Transform {Name: M}", {"Fn::Transform": {"Name": "M"}}, id="mapping"),
        pytest.param("2012-10-17", "2012-10-17", id="date"),
        pytest.param("012345678901", "012345678901", id="account-id"),
        pytest.param("4.10", "4.10", id="version"),
        pytest.param("1_000", "1_000", id="underscores"),
        pytest.param("12:30", "12:30", id="sexagesimal"),
        pytest.param(".inf", ".inf", id="infinity"),
        pytest.param("60", 60, id="integer"),
        pytest.param("0.5", 0.5, id="float"),
        pytest.param("true", True, id="boolean"),
    ],
)
def test_templates_are_read_as_cloudformation_reads_them(text: str, expected: Any) -> None:
    value = parse_template(f"Value: {text}")["Value"]

    assert value == expected
    assert type(value) is type(expected)


def test_a_template_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match="mapping"):
        parse_template("- a\n- b\n")


def test_a_python_object_in_a_template_is_not_built() -> None:
    with pytest.raises(yaml.YAMLError):
        parse_template("Value: !!python/object/apply:os.getcwd []")
