"""Archives of event buses as resources of a stack.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/aws-resource-events-archive.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from local.aws import emulator

_eventbridge = emulator.module("services.eventbridge")
_provisioners = emulator.module("services.cloudformation.provisioners")

Properties = Mapping[str, Any]


def _request(name: str, properties: Properties) -> dict[str, Any]:
    """Return the API's request for a template's properties; only there is the pattern an object."""
    pattern = properties.get("EventPattern")
    return {
        "ArchiveName": name,
        "EventSourceArn": properties["SourceArn"],
        "Description": properties.get("Description") or "",
        "RetentionDays": int(properties.get("RetentionDays") or 0),
        **({"EventPattern": json.dumps(pattern)} if pattern else {}),
    }


def _answered(name: str, answer: Any) -> tuple[str, dict[str, str]]:
    body = json.loads(answer[2])
    if answer[0] >= 400:
        raise ValueError(body["message"])
    return name, {"Arn": body["ArchiveArn"], "ArchiveName": name}


def _create(logical: str, properties: Properties, stack: str) -> tuple[str, dict[str, str]]:
    name = properties.get("ArchiveName") or _provisioners._physical_name(stack, logical, max_len=48)
    return _answered(name, _eventbridge._create_archive(_request(name, properties)))


def _update(physical: str, old: Properties, new: Properties, stack: str) -> tuple[str, dict[str, str]]:
    """An archive with another name or of another bus is another archive."""
    if any(old.get(name) != new.get(name) for name in ("ArchiveName", "SourceArn")):
        _delete(physical, old)
        return _create(physical, new, stack)
    return _answered(physical, _eventbridge._update_archive(_request(physical, new)))


def _delete(physical: str, properties: Properties) -> None:
    _eventbridge._delete_archive({"ArchiveName": physical})


emulator.resource_type("AWS::Events::Archive", _create, _delete, _update)
