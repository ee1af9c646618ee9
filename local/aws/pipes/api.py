"""Creates, changes, starts, stops and ends pipes, by the API and by stacks.

https://docs.aws.amazon.com/eventbridge/latest/pipes-reference/API_CreatePipe.html
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from local.aws import emulator, iam, targets
from local.aws.emulator import AwsError, Response
from local.aws.event_sources import queues
from local.aws.event_sources.queues import QueueReader
from local.aws.event_sources.shards import StreamReader
from local.aws.event_sources.streams import DynamoDbStream, KinesisStream
from local.aws.pipes import stages
from local.aws.pipes.pipe import Pipe, mapping_settings, service

_eventbridge = emulator.module("services.eventbridge")
_pipes = emulator.module("services.pipes")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")

Record = dict[str, Any]

_ACTIONS = {"sqs": queues.ACTIONS, "kinesis": KinesisStream.actions, "dynamodb": DynamoDbStream.actions}
_SETTINGS = (
    "Description",
    "SourceParameters",
    "Enrichment",
    "EnrichmentParameters",
    "Target",
    "TargetParameters",
    "RoleArn",
    "LogConfiguration",
    "KmsKeyIdentifier",
)
"""What an update may change; the source itself stays."""
_START = ("StartingPosition", "StartingPositionTimestamp")
_LONGEST_WAIT = 60.0

# --- Settings ----------------------------------------------------------------------------------------------------


def _check(pipe: Mapping[str, Any]) -> None:
    """Refuse what Pipes refuses, and what is not there.

    Raises:
        AwsError: the reason.
    """
    settings, source, target = mapping_settings(pipe), service(pipe["Source"]), service(pipe["Target"])
    if source not in _ACTIONS:
        raise AwsError("ValidationException", f"The embedded AWS has no pipe sources like {pipe['Source']}.")
    if target not in targets.SERVICES:
        raise AwsError("ValidationException", f"The embedded AWS has no pipe targets like {pipe['Target']}.")
    enrichment = pipe.get("Enrichment")
    if enrichment and service(enrichment) not in {"lambda", "states"}:
        raise AwsError("ValidationException", f"The embedded AWS has no pipe enrichments like {enrichment}.")
    try:
        _pipes.check_same_region(pipe["Source"], pipe["Target"])
        _pipes.check_target_supported(pipe["Target"])
    except ValueError as error:
        raise AwsError("ValidationException", str(error)) from error
    for each in settings["FilterCriteria"].get("Filters") or []:
        if reason := _eventbridge._parse_pattern_text(each.get("Pattern"))[1]:
            raise AwsError("ValidationException", f"Event pattern is not valid. Reason: {reason}")
    size, most = int(settings["BatchSize"]), stages.MOST.get(target, 10_000)
    if not 1 <= size <= most:
        raise AwsError("ValidationException", f"BatchSize {size} is larger than the target's maximum of {most}.")
    if source == "sqs" and size > 10 and not int(settings.get("MaximumBatchingWindowInSeconds") or 0):
        message = "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
        raise AwsError("ValidationException", message)
    if source != "sqs" and settings.get("StartingPosition") not in {"TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"}:
        raise AwsError("ValidationException", "StartingPosition is required for a stream.")
    if target == "kinesis" and not ((pipe.get("TargetParameters") or {}).get("KinesisStreamParameters") or {}).get(
        "PartitionKey"
    ):
        raise AwsError("ValidationException", "KinesisStreamParameters.PartitionKey is required for the target.")


def _check_role(pipe: Pipe) -> None:
    """Refuse to read a source that the role may not read.

    Raises:
        AwsError: the reason.
    """
    credentials = pipe.credentials()
    for action in _ACTIONS[service(pipe.source)]:
        if denied := iam.denial(credentials.access_key, iam.Check(action, pipe.source, {}), pipe.region):
            raise AwsError("AccessDeniedException", f"The pipe's role cannot read its source: {denied}")


# --- Pipes that run ----------------------------------------------------------------------------------------------


class _Running:
    """A pipe's reader, which follows the record's desired state."""

    def __init__(self, record: Record, account: str, region: str) -> None:
        self._record = record
        self._pipe = pipe = Pipe(record, account, region)
        kind = service(record["Source"])
        self._reader: QueueReader | StreamReader
        if kind == "sqs":
            self._reader = QueueReader(pipe)
        else:
            self._reader = StreamReader(pipe, (KinesisStream if kind == "kinesis" else DynamoDbStream)(pipe))
        self._reads = False
        self._lock = threading.Lock()

    def follow(self, failed: str) -> None:
        """Stop and, unless it is to be stopped or deleted, start with the present settings.

        The state becomes ``failed`` if the role may not read the source.
        """
        record = self._record
        with self._lock:
            if self._reads:
                self._reader.stop()
                self._reads = False
            if record["DesiredState"] == "DELETED":
                _pipes._pipes.pop(record["Name"], None)
                _running.pop(record["Arn"], None)
                return
            self._pipe.refresh()
            if record["DesiredState"] == "STOPPED":
                record.update(CurrentState="STOPPED", StateReason="USER_INITIATED")
                return
            try:
                _check_role(self._pipe)
            except AwsError as error:
                record.update(CurrentState=failed, StateReason=error.message)
                return
            self._reader.start()
            self._reads = True
            record.update(CurrentState="RUNNING", StateReason="")


_running: dict[str, _Running] = {}


def _follow(record: Record, state: str, failed: str) -> Record:
    """Bring the pipe to its desired state in the background; it is in ``state`` until then."""
    record.update(CurrentState=state, LastModifiedTime=int(time.time()))
    running = _running[record["Arn"]]
    answer: Record = _pipes._lifecycle_response(record)  # before the state changes again
    emulator.in_background(lambda: running.follow(failed), f"pipe-{record['Name']}")
    return answer


# --- The API -----------------------------------------------------------------------------------------------------


def _make(name: str, body: Record) -> Record:
    """Create the pipe ``name``.

    Raises:
        AwsError: refused.
    """
    if name in _pipes._pipes:
        raise AwsError("ConflictException", f"Pipe {name} already exists.", 409)
    account, region = _responses.get_account_id(), _responses.get_region()
    now = int(time.time())
    record: Record = {
        "Name": name,
        "Arn": f"arn:aws:pipes:{region}:{account}:pipe/{name}",
        "Source": body["Source"],
        **{member: body[member] for member in _SETTINGS if body.get(member)},
        "Tags": dict(body.get("Tags") or {}),
        "DesiredState": body.get("DesiredState") or "RUNNING",
        "CreationTime": now,
        "LastModifiedTime": now,
    }
    _check(record)
    _running[record["Arn"]] = _Running(record, account, region)
    _pipes._pipes[name] = record
    return _follow(record, "CREATING", "CREATE_FAILED")


def _change(name: str, body: Record) -> Record:
    """Update the pipe ``name``; what the request does not name stays.

    Raises:
        AwsError: refused.
    """
    record = _found(name)
    changed = {member: body[member] for member in _SETTINGS if member in body}
    if "SourceParameters" in changed:
        # An update cannot name the starting position, and keeps it.
        old, new = record.get("SourceParameters") or {}, changed["SourceParameters"] or {}
        begin = {
            group: {member: given[member] for member in _START if member in given}
            for group, given in old.items()
            if group != "FilterCriteria"
        }
        changed["SourceParameters"] = {
            **{group: given for group, given in begin.items() if given},
            **{group: {**begin.get(group, {}), **given} for group, given in new.items()},
        }
    _check({**record, **changed})
    record.update(changed)
    record["DesiredState"] = body.get("DesiredState") or record["DesiredState"]
    return _follow(record, "UPDATING", "UPDATE_FAILED")


def _end(name: str) -> Record:
    """Delete the pipe ``name``; batches under way are finished.

    Raises:
        AwsError: there is none.
    """
    record = _found(name)
    record["DesiredState"] = "DELETED"
    return _follow(record, "DELETING", "DELETE_FAILED")


def _switch(name: str, desired: str) -> Record:
    """Start or stop the pipe ``name``.

    Raises:
        AwsError: there is none.
    """
    record = _found(name)
    record["DesiredState"] = desired
    return _follow(record, "STARTING" if desired == "RUNNING" else "STOPPING", "START_FAILED")


def _found(name: str) -> Record:
    record: Record | None = _pipes._pipes.get(name)
    if record is None:
        raise AwsError("NotFoundException", f"Pipe {name} does not exist.", 404)
    return record


def _answering(function: Callable[..., Record]) -> Callable[..., Response]:
    """Return ``function`` as a handler of the emulator."""

    def handle(*arguments: Any) -> Response:
        try:
            answer: Response = _pipes._json_resp(200, function(*arguments))
        except AwsError as error:
            answer = _pipes._error(error.status, error.code, error.message)
        return answer

    return handle


def _describe(original: Callable[[Record], Record]) -> Callable[[Record], Record]:
    """Add the settings that the emulator does not know."""
    return lambda record: {**{name: record[name] for name in _SETTINGS if name in record}, **original(record)}


# --- Stacks ------------------------------------------------------------------------------------------------------


def _settled(name: str) -> Record:
    """Return the record of a pipe that is no longer changing.

    Raises:
        ValueError: what it failed of.
    """
    until = time.monotonic() + _LONGEST_WAIT
    record: Record = _pipes._pipes[name]
    while record["CurrentState"].endswith("ING") and record["CurrentState"] != "RUNNING":
        if time.monotonic() > until:
            raise ValueError(f"Pipe {name} is still {record['CurrentState']}.")
        time.sleep(0.02)
    if record["CurrentState"].endswith("_FAILED"):
        raise ValueError(f"Pipe {name} is {record['CurrentState']}: {record['StateReason']}")
    return record


def _create_in_stack(logical: str, properties: Record, stack: str) -> tuple[str, dict[str, str]]:
    name = properties.get("Name") or _provisioners._physical_name(stack, logical, max_len=64)
    try:
        _make(name, properties)
    except AwsError as error:
        raise ValueError(error.message) from error
    try:
        record = _settled(name)
    except ValueError:
        _end(name)
        raise
    return name, {"Arn": record["Arn"], "CurrentState": record["CurrentState"]}


def _update_in_stack(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(*arguments: Any, **names: Any) -> Any:
        name, attributes = original(*arguments, **names)
        return name, {**attributes, "CurrentState": _settled(name)["CurrentState"]}

    return update


def _fields(properties: Mapping[str, Any]) -> Record:
    """Return the update that makes a pipe what its template says, also where that says nothing any more."""
    empty = {"SourceParameters", "EnrichmentParameters", "TargetParameters", "LogConfiguration"}
    given = {name: properties.get(name, {} if name in empty else "") for name in _SETTINGS}
    return {**given, "DesiredState": properties.get("DesiredState") or "RUNNING"}


def _delete_in_stack(physical: str, properties: Mapping[str, Any]) -> None:
    record = _pipes._pipes.get(physical)
    if record:
        running = _running[record["Arn"]]
        record["DesiredState"] = "DELETED"
        running.follow("DELETE_FAILED")


emulator.replace(_pipes, "_create_pipe", _answering(_make))
emulator.replace(_pipes, "_update_pipe", _answering(_change))
emulator.replace(_pipes, "_delete_pipe_op", _answering(_end))
emulator.replace(_pipes, "_set_state", _answering(_switch))
emulator.patch(_pipes, "_describe_response", _describe)
emulator.replace(_provisioners, "_pipes_pipe_create", _create_in_stack)
emulator.replace(_provisioners, "_pipes_pipe_fields", _fields)
emulator.replace(_provisioners, "_pipes_pipe_delete", _delete_in_stack)
_update = _update_in_stack(_provisioners._RESOURCE_HANDLERS["AWS::Pipes::Pipe"]["update"])
emulator.resource_type("AWS::Pipes::Pipe", _create_in_stack, _delete_in_stack, _update)
_provisioners._RESOURCE_HANDLERS["AWS::Pipes::Pipe"]["update_with_logical_id"] = True
