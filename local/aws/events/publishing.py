"""PutEvents: which entries become events, and which are refused.

https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from local.aws import emulator
from local.aws.emulator import AwsError

_eventbridge = emulator.module("services.eventbridge")
_responses = emulator.module("core.responses")

Entry = Mapping[str, Any]

_MOST_ENTRIES = 10
_LARGEST_REQUEST = 256 * 1024
_TIME_BYTES = 14
"""https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevent-size.html"""


def _put_events(request: Mapping[str, Any], allow_aws_source: bool = False) -> Any:
    """Publish what is right of a request; services themselves may use sources that begin with ``aws.``."""
    entries = request.get("Entries") or []
    if not 1 <= len(entries) <= _MOST_ENTRIES:
        message = f"Value at 'entries' failed to satisfy constraint: 1 to {_MOST_ENTRIES} entries"
        return _responses.error_response_json("ValidationException", message, 400)
    if sum(_size(entry) for entry in entries) > _LARGEST_REQUEST:
        message = "Total size of the entries in the request is over the limit."
        return _responses.error_response_json("ValidationException", message, 400)
    results = []
    for entry in entries:
        try:
            results.append({"EventId": _publish(entry, allow_aws_source=allow_aws_source)})
        except AwsError as error:
            results.append({"ErrorCode": error.code, "ErrorMessage": error.message})
    failed = sum("ErrorCode" in result for result in results)
    return _responses.json_response({"FailedEntryCount": failed, "Entries": results})


def _size(entry: Entry) -> int:
    texts = [entry.get(name) or "" for name in ("Source", "DetailType", "Detail")]
    time_bytes = _TIME_BYTES if entry.get("Time") else 0
    return time_bytes + sum(len(text.encode()) for text in [*texts, *(entry.get("Resources") or [])])


def _publish(entry: Entry, *, allow_aws_source: bool) -> str:
    """Make an event of an entry, dispatch and archive it; return its id.

    Raises:
        AwsError: the entry is refused.
    """
    for name in ("Source", "DetailType", "Detail"):
        if not entry.get(name):
            raise AwsError("InvalidArgument", f"Parameter {name} is not valid. Reason: {name} is a required argument.")
    if entry["Source"].startswith("aws.") and not allow_aws_source:
        raise AwsError("NotAuthorizedForSourceException", "Not authorized for the source.")
    try:
        detail = json.loads(entry["Detail"])
    except ValueError:
        detail = None
    if not isinstance(detail, dict):
        raise AwsError("MalformedDetail", "Detail is malformed.")
    bus, refused = _eventbridge._event_bus_name_from_ref(entry.get("EventBusName") or "default")
    if refused:
        raise AwsError(*refused)
    event = {
        "EventId": str(uuid.uuid4()),
        "Source": entry["Source"],
        "DetailType": entry["DetailType"],
        "Detail": entry["Detail"],
        "EventBusName": bus,
        "Time": int(_eventbridge._coerce_timestamp(entry.get("Time") or time.time())),
        "Resources": entry.get("Resources") or [],
        "Account": _responses.get_account_id(),
        "Region": _responses.get_region(),
    }
    view = _eventbridge._pattern_event_view(event)
    _eventbridge._dispatch_event(event, view)
    _eventbridge._archive_event(event, view)
    return str(event["EventId"])


emulator.replace(_eventbridge, "_put_events", _put_events)
