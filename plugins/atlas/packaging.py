"""Local sources of a template, turned into content-addressed S3 objects.

The semantics are those of ``aws cloudformation package``
(https://docs.aws.amazon.com/cli/latest/reference/cloudformation/package.html): a template names its sources
by paths relative to itself, a folder becomes a zip, a file is taken as it is, and the property is rewritten
to where the object will be. Keys are digests of the content: unchanged sources keep their key, so that an
unchanged template makes an empty change set.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

Template = dict[str, Any]


class _Source(NamedTuple):
    """Where a resource type names its source, and whether it wants one ``s3://`` URI or ``{Bucket, Key}``."""

    path: tuple[str, ...]
    as_uri: bool


_SOURCES = {
    "AWS::Serverless::Function": _Source(("CodeUri",), as_uri=False),
    "AWS::Serverless::LayerVersion": _Source(("ContentUri",), as_uri=False),
    "AWS::Serverless::StateMachine": _Source(("DefinitionUri",), as_uri=False),
    "AWS::Glue::Job": _Source(("Command", "ScriptLocation"), as_uri=True),
}

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Package:
    """A template ready for CloudFormation and the objects it refers to, by S3 key."""

    template: Template
    objects: dict[str, bytes]

    @property
    def body(self) -> str:
        """The template as JSON, which CloudFormation reads without any of YAML's ambiguities."""
        return json.dumps(self.template, separators=(",", ":"))


def package(template_file: Path, bucket: str | None) -> Package:
    """Read ``template_file`` and point its local sources to content-addressed keys in ``bucket``.

    Nothing is uploaded. Values that are no local path (``s3://`` and ``http(s)://`` addresses, intrinsic
    functions, ``{Bucket, Key}``) stay as they are.

    Raises:
        FileNotFoundError: the template or one of its local sources does not exist.
        ValueError: there are local sources but no bucket.
    """
    template = parse_template(template_file.read_text(encoding="utf-8"))
    objects: dict[str, bytes] = {}
    for name, resource in template.get("Resources", {}).items():
        if name.startswith("Fn::ForEach"):  # a list that stands for several resources; its sources stay as they are
            continue
        source = _SOURCES.get(resource.get("Type"))
        if source is None:
            continue
        *parents, leaf = source.path
        holder: Any = resource.get("Properties", {})
        for parent in parents:
            holder = holder.get(parent, {})
        location = holder.get(leaf)
        if not isinstance(location, str) or location.startswith(("s3://", "http://", "https://")):
            continue
        if not bucket:
            raise ValueError(f"{name} has the local source {location!r}: an artifact bucket is needed")
        key, content = _artifact(template_file.parent / location)
        objects[key] = content
        holder[leaf] = f"s3://{bucket}/{key}" if source.as_uri else {"Bucket": bucket, "Key": key}
    return Package(template, objects)


def zip_folder(folder: Path) -> bytes:
    """Zip the files below ``folder`` into bytes that depend on their names and contents only.

    Entries are sorted, carry one fixed time and mode 0755 (a copy through S3 loses modes, and a Lambda
    ``bootstrap`` must be executable), and are stored, not deflated: compressed bytes differ between zlib
    builds, and would give one source two keys. ``__pycache__`` is left out.
    """
    buffer = io.BytesIO()
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            if "__pycache__" in files[name].parts:
                continue
            entry = zipfile.ZipInfo(name, _ZIP_EPOCH)
            entry.create_system = 3  # Unix, whatever the machine: the byte is part of the content
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, files[name].read_bytes())
    return buffer.getvalue()


def digest(content: bytes) -> str:
    """SHA-256 of ``content`` in hexadecimal: the name of a content-addressed object."""
    return hashlib.sha256(content).hexdigest()


def _artifact(source: Path) -> tuple[str, bytes]:
    """Return the key and the content of a local source."""
    if source.is_dir():
        content, suffix = zip_folder(source), ".zip"
    else:
        content, suffix = source.read_bytes(), source.suffix
    return f"packages/{digest(content)}{suffix}", content


def parse_template(text: str) -> Template:
    """Parse a CloudFormation template, YAML or JSON, with its short tags in their long form.

    ``!Ref x`` becomes ``{"Ref": "x"}`` and ``!Sub``, ``!GetAtt``, ... become ``{"Fn::Sub": ...}``. Dates stay
    text (``Version: 2012-10-17``), and so does a number that would not be written back as it was read
    (``012``, ``4.10``, ``1_000``). Formats:
    https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-formats.html

    Raises:
        yaml.YAMLError: the text is not YAML.
        ValueError: the text is no mapping.
    """
    template = yaml.load(text, Loader=_TemplateLoader)  # noqa: S506 - a SafeLoader, extended below
    if not isinstance(template, dict):
        raise ValueError("A CloudFormation template is a mapping")
    return template


class _TemplateLoader(yaml.SafeLoader):
    """YAML as CloudFormation reads it."""


def _intrinsic(loader: _TemplateLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]
    if tag in ("Ref", "Condition"):
        return {tag: value}
    if tag == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)  # only the YAML form may name the attribute after a dot
    return {f"Fn::{tag}": value}


def _number(loader: _TemplateLoader, node: yaml.ScalarNode) -> int | float | str:
    text = str(loader.construct_scalar(node))
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if str(number) == text and text not in ("inf", "nan"):
            return number
    return text


def _text(loader: _TemplateLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_TemplateLoader.add_multi_constructor("!", _intrinsic)
_TemplateLoader.add_constructor("tag:yaml.org,2002:int", _number)
_TemplateLoader.add_constructor("tag:yaml.org,2002:float", _number)
_TemplateLoader.add_constructor("tag:yaml.org,2002:timestamp", _text)
