"""Templates as the rules read them: loops written out, policies gathered, names as long as they get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atlas.packaging import Template, parse_template

ENVIRONMENT = "e" * 10
"""As long as the parameter Environment lets it be; a test compares this with the templates."""

PLACES = (("aws-us-gov", "us-gov-west-1"), ("aws-iso-f", "us-isof-south-1"))
"""The longest partition with its longest region, and the longest region with its partition."""

LOOP = "Fn::ForEach"


@dataclass(frozen=True)
class Statement:
    """One statement of a policy: the resource it is in, its type, the property that holds the policy, what it says."""

    resource: str
    type: str
    where: str
    body: dict[str, Any]

    @property
    def allows(self) -> bool:
        return bool(self.body.get("Effect") == "Allow")

    @property
    def actions(self) -> list[str]:
        return as_list(self.body.get("Action"))

    @property
    def resources(self) -> list[Any]:
        return as_list(self.body.get("Resource"))

    @property
    def label(self) -> str:
        return f"{self.resource} {self.body.get('Sid', 'without Sid')}"


def read(file: Path) -> Template:
    """Return a template with its loops written out."""
    return expand(parse_template(file.read_text(encoding="utf-8")))


def expand(template: Template) -> Template:
    """Return ``template`` with each ``Fn::ForEach`` among its resources written out.

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference-foreach.html

    Raises:
        ValueError: a loop runs over something that is only known when the stack is made.
    """
    return template | {"Resources": dict(_resources(template.get("Resources", {})))}


def resources(template: Template, *types: str) -> dict[str, dict[str, Any]]:
    """Return the resources of ``types`` by logical name."""
    found: dict[str, dict[str, Any]] = template["Resources"]
    return {name: body for name, body in found.items() if body["Type"] in types}


def properties(body: dict[str, Any]) -> dict[str, Any]:
    """Return a resource's properties; it may have none."""
    found: dict[str, Any] = body.get("Properties", {})
    return found


def statements(template: Template) -> list[Statement]:
    """Return every policy statement of a template, in whatever property of whatever resource it stands."""
    return [
        Statement(name, body["Type"], where, statement)
        for name, body in template["Resources"].items()
        for where, statement in _statements(properties(body), "Properties")
    ]


def policy_sizes(policy: Any) -> list[int]:
    """Return the characters of a policy without white space, at each of the places where names are longest.

    References to other resources count as the longest ARN this project gives them.
    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
    """
    return [len(re.sub(r"\s", "", json.dumps(_resolved(policy, place), separators=(",", ":")))) for place in PLACES]


def as_list(value: Any) -> list[Any]:
    """Return what a policy may write as one value or as a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _resources(declared: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, body in declared.items():
        if not name.startswith(LOOP):
            yield name, body
            continue
        variable, values, repeated = body
        if not isinstance(values, list):
            raise ValueError(f"{name} runs over {values}, which the template does not list")
        text = json.dumps(repeated)
        for value in values:
            alphanumeric = re.sub(r"[^0-9A-Za-z]", "", value)
            written = text.replace(f"${{{variable}}}", value).replace(f"&{{{variable}}}", alphanumeric)
            yield from _resources(json.loads(written))


def _statements(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if "Statement" in value:
            yield from ((where, statement) for statement in as_list(value["Statement"]))
        for key, inner in value.items():
            yield from _statements(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from _statements(inner, where)


def _resolved(value: Any, place: tuple[str, str]) -> Any:
    """Return ``value`` with its references replaced by text of the length they can have."""
    partition, region = place
    account = "0" * 12
    arn = f"arn:{partition}:iam::{account}:policy/atlas-{ENVIRONMENT}-cloudformation-network"
    if isinstance(value, list):
        return [_resolved(inner, place) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.keys() & {"Ref", "Fn::GetAtt"}:
        return arn
    if "Fn::Sub" not in value:
        return {key: _resolved(inner, place) for key, inner in value.items()}
    known = {
        "AWS::Partition": partition,
        "AWS::Region": region,
        "AWS::AccountId": account,
        "Environment": ENVIRONMENT,
    }
    return re.sub(r"\$\{([^!}]+)}", lambda match: known.get(match[1], arn), value["Fn::Sub"])
