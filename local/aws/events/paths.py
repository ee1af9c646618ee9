"""JSON paths in the subset of EventBridge, and input templates with them.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-transform-target-input.html
https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-input-transformation.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from local.aws import emulator

_eventbridge = emulator.module("services.eventbridge")

MISSING = object()
"""Stands for what a path does not find."""

_STEP = re.compile(r"\.([\w-]+|\*)|\[(\d+|\*)\]|\['([^']*)'\]")
_PATH = re.compile(rf"\$(?:{_STEP.pattern})*")


def valid(path: str) -> bool:
    """Return whether ``path`` is one that EventBridge understands."""
    return _PATH.fullmatch(path) is not None


def find(tree: Any, path: str) -> Any:
    """Return what ``path`` (such as ``$.detail.items[0].id``) finds in ``tree``, else ``MISSING``.

    A wildcard finds a list of all there is.
    """
    if not valid(path):
        return MISSING
    found, many = [tree], False
    for name, index, quoted in _STEP.findall(path):
        if "*" in (name, index):
            many = True
            found = [each for value in found for each in _members(value)]
        else:
            found = [each for value in found if (each := _member(value, name or quoted, index)) is not MISSING]
    if many:
        return found
    return found[0] if found else MISSING


def _members(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _member(value: Any, name: str, index: str) -> Any:
    if index:
        return value[int(index)] if isinstance(value, list) and int(index) < len(value) else MISSING
    return value.get(name, MISSING) if isinstance(value, dict) else MISSING


def render(template: str, value: Callable[[str], Any]) -> str:
    """Return ``template`` with each ``<variable>`` replaced; ``value`` gives a variable's value, or ``MISSING``.

    What is missing is replaced by nothing in a text and by an empty string in JSON.
    """
    names = set(_eventbridge._PLACEHOLDER_RE.findall(template))
    values = {name: "" if (found := value(name)) is MISSING else found for name in names}
    rendered: str = _eventbridge._render_input_template(template, values)
    return rendered
