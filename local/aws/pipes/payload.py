"""Events of a pipe as templates and dynamic paths see them.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-input-transformation.html
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from local.aws.events import paths

Item = Any
"""An event of the source, or what the enrichment made of it: any JSON value."""


class StageError(Exception):
    """Enrichment or target did not do its work; ``again`` if this is not the customer's fault, so no attempt counts."""

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


def flat(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record or message as a pipe shows it: a Kinesis record's own members stand beside the others."""
    return {**event.get("kinesis", {}), **{name: value for name, value in event.items() if name != "kinesis"}}


def decoded(item: Item) -> Item:
    """Return ``item`` with the JSON in a message's body or a record's data as what it says.

    https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-input-transformation.html#input-transform-implicit
    """
    if not isinstance(item, dict):
        return item
    source = item.get("eventSource")
    try:
        if source == "aws:sqs":
            return {**item, "body": json.loads(item["body"])}
        if source == "aws:kinesis":
            text = base64.b64decode(item["data"]).decode()
            return {**item, "data": _value(text)}
    except (ValueError, binascii.Error):
        return item
    return item


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def dynamic(parameter: Any, item: Item) -> Any:
    """Return ``parameter``, or what it finds in ``item`` if it is a path.

    Raises:
        StageError: it finds nothing.
    """
    if isinstance(parameter, list):
        return [dynamic(each, item) for each in parameter]
    if not isinstance(parameter, str) or not parameter.startswith("$."):
        return parameter
    found = paths.find(decoded(item), parameter)
    if found is paths.MISSING:
        raise StageError(f"The path {parameter} finds nothing in the event.")
    return found if isinstance(found, str) else json.dumps(found)


def text(item: Item, template: str | None, reserved: Mapping[str, str]) -> str:
    """Return what is sent for ``item``: itself as JSON, or ``template`` filled in."""
    if not template:
        return json.dumps(item)
    tree = decoded(item)
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    variables = {
        **reserved,
        "aws.pipes.event": item,
        "aws.pipes.event.json": tree,
        "aws.pipes.event.ingestion-time": now,
    }
    return paths.render(
        template, lambda name: paths.find(tree, name) if name.startswith("$") else variables.get(name, paths.MISSING)
    )


def array(texts: Sequence[str]) -> bytes:
    """Return the JSON array of ``texts``, which is how functions and workflows get a batch.

    Raises:
        StageError: one of them is no JSON.
    """
    joined = f"[{','.join(texts)}]"
    try:
        json.loads(joined)
    except ValueError as error:
        raise StageError(f"The input template does not make JSON: {error}") from error
    return joined.encode()
