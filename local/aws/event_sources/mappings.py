"""Creates, changes and ends event source mappings, by the API and by stacks.

https://docs.aws.amazon.com/lambda/latest/api/API_CreateEventSourceMapping.html
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from collections.abc import Mapping as Members
from typing import Any

from local.aws import emulator, iam
from local.aws.event_sources import queues
from local.aws.event_sources.mapping import Mapping
from local.aws.event_sources.queues import QueueReader
from local.aws.event_sources.shards import StreamReader
from local.aws.event_sources.streams import DynamoDbStream, KinesisStream

_eventbridge = emulator.module("services.eventbridge")
_lambda = emulator.module("services.lambda_svc")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")
_sqs = emulator.module("services.sqs")

Settings = dict[str, Any]
Answer = Any
"""Status, headers and body, as the emulator's handlers return them."""

# --- Settings ----------------------------------------------------------------------------------------------------

_STREAM_DEFAULTS: Settings = {
    "BatchSize": 100,
    "MaximumBatchingWindowInSeconds": 0,
    "ParallelizationFactor": 1,
    "MaximumRetryAttempts": -1,
    "MaximumRecordAgeInSeconds": -1,
    "BisectBatchOnFunctionError": False,
    "TumblingWindowInSeconds": 0,
    "DestinationConfig": {"OnFailure": {}},
}
_QUEUE_DEFAULTS: Settings = {"BatchSize": 10, "MaximumBatchingWindowInSeconds": 0}
_TEMPLATE_DEFAULTS: Settings = {"Enabled": True, "FunctionResponseTypes": [], "FilterCriteria": {}}
"""What a property has that an update takes out of its template."""
_RANGES = {
    "BatchSize": (1, 10_000),
    "MaximumBatchingWindowInSeconds": (0, 300),
    "MaximumRecordAgeInSeconds": (-1, 604_800),
    "MaximumRetryAttempts": (-1, 10_000),
    "ParallelizationFactor": (1, 10),
    "TumblingWindowInSeconds": (0, 900),
}
_SHORTEST_AGE = 60


def _service(settings: Members[str, Any]) -> str:
    source = str(settings.get("EventSourceArn", ""))
    return source.split(":")[2] if source.count(":") >= 5 else ""


def _with_defaults(settings: Members[str, Any]) -> Settings:
    defaults = {"sqs": _QUEUE_DEFAULTS, "kinesis": _STREAM_DEFAULTS, "dynamodb": _STREAM_DEFAULTS}
    given = {name: value for name, value in settings.items() if value is not None}
    return {**defaults.get(_service(settings), {}), **given}


def _refuse(message: str) -> emulator.AwsError:
    return emulator.AwsError("InvalidParameterValueException", message)


def _check_settings(settings: Members[str, Any], service: str) -> None:
    """Refuse what AWS refuses, and what is not there.

    Raises:
        AwsError: the reason.
    """
    for name, (least, most) in _RANGES.items():
        if name in settings and not least <= int(settings[name]) <= most:
            raise _refuse(f"{name} must be between {least} and {most}.")
    if -1 < int(settings.get("MaximumRecordAgeInSeconds", -1)) < _SHORTEST_AGE:
        raise _refuse(f"MaximumRecordAgeInSeconds must be -1 or at least {_SHORTEST_AGE}.")
    if int(settings.get("TumblingWindowInSeconds") or 0) and int(settings.get("ParallelizationFactor") or 1) > 1:
        raise _refuse("TumblingWindowInSeconds needs a ParallelizationFactor of 1 in the embedded AWS.")
    for each in (settings.get("FilterCriteria") or {}).get("Filters") or []:
        if _eventbridge._parse_pattern_text(each["Pattern"])[1]:
            raise _refuse("Invalid filter pattern definition.")
    if service == "sqs":
        for name in _STREAM_DEFAULTS.keys() - _QUEUE_DEFAULTS.keys():
            if settings.get(name):
                raise _refuse(f"Unsupported {name} parameter for given event source mapping type.")
        if int(settings.get("BatchSize", 10)) > 10 and not int(settings.get("MaximumBatchingWindowInSeconds", 0)):
            raise _refuse(
                "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
            )


def _check_source(settings: Members[str, Any], service: str) -> None:
    """Refuse a mapping whose function may not read the source, or which cannot work.

    Raises:
        AwsError: the reason.
    """
    source, (function, config, name) = (
        settings["EventSourceArn"],
        _lambda._get_func_record_for_ref(settings["FunctionName"]),
    )
    if function is None:
        raise emulator.AwsError("ResourceNotFoundException", f"Function not found: {settings['FunctionName']}", 404)
    for other in _lambda._esms.values():
        if other["EventSourceArn"] == source and other["FunctionName"] == name:
            raise emulator.AwsError(
                "ResourceConflictException",
                f"The event source arn ({source}) and function ({name}) provided mapping already exists. "
                f"Please update or delete the existing mapping with UUID {other['UUID']}",
                409,
            )
    actions = {"sqs": queues.ACTIONS, "kinesis": KinesisStream.actions, "dynamodb": DynamoDbStream.actions}[service]
    credentials = emulator.service_role_credentials(config["Role"], "lambda.amazonaws.com", name)
    for action in actions:
        check = iam.Check(action, source, {})
        if iam.denial(credentials.access_key, check, _responses.get_region()):
            verbs = [each.partition(":")[2] for each in actions]
            raise _refuse(
                f"The provided execution role does not have permissions to call {action.partition(':')[2]} on SQS"
                if service == "sqs"
                else f"Cannot access stream {source}. Please ensure the role can perform the {', '.join(verbs[:-1])}, "
                f"and {verbs[-1]} Actions on your stream in IAM."
            )
    queue = _sqs._queue_by_arn(source) if service == "sqs" else None
    if queue and int(queue["attributes"].get("VisibilityTimeout", 30)) < int(config.get("Timeout", 3)):
        raise _refuse(
            f"Queue visibility timeout: {queue['attributes'].get('VisibilityTimeout', 30)} seconds is less than "
            f"Function timeout: {config['Timeout']} seconds"
        )
    if service != "sqs" and settings.get("StartingPosition") not in {"TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"}:
        raise _refuse("1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint")
    if settings.get("StartingPosition") == "AT_TIMESTAMP":
        if service != "kinesis":
            raise _refuse("Unsupported starting position for event source type.")
        if "StartingPositionTimestamp" not in settings:
            raise _refuse("Timestamp must not be null for starting position AT_TIMESTAMP.")


# --- Readers -----------------------------------------------------------------------------------------------------


class _Reading:
    """The reader of one mapping and whether it runs."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        service = _service(mapping.record)
        self._reader: QueueReader | StreamReader
        if service == "sqs":
            self._reader = QueueReader(mapping)
        else:
            self._reader = StreamReader(mapping, (KinesisStream if service == "kinesis" else DynamoDbStream)(mapping))
        self._shape: tuple[int, int] | None = None
        """Parts of a shard and seconds of a window, None while it does not run."""
        self._lock = threading.Lock()

    def adjust(self) -> None:
        """Start, stop or begin anew, as the mapping's settings, or its end, demand."""
        mapping = self._mapping
        with self._lock:
            exists = _lambda._esms.get_scoped(mapping.account, mapping.region, mapping.uuid) is mapping.record
            shape = mapping.number("ParallelizationFactor", 1), mapping.number("TumblingWindowInSeconds", 0)
            wanted = shape if exists and mapping.enabled else None
            if self._shape not in {None, wanted}:
                self._reader.stop()
                self._shape = None
            mapping.forget_clients()
            if wanted and not self._shape:
                self._reader.start()
                self._shape = wanted


_readings: dict[str, _Reading] = {}


def _adjust(uuid: str) -> None:
    """Bring the mapping's reader into line with its record, in the background."""
    record = _lambda._esms.get(uuid)
    if record and uuid not in _readings:
        _readings[uuid] = _Reading(Mapping(record, _responses.get_account_id(), _responses.get_region()))
    reading = _readings[uuid] if record else _readings.pop(uuid, None)
    if reading:
        emulator.in_background(reading.adjust, f"mapping-{uuid}-adjust")


def _complete(uuid: str, settings: Members[str, Any]) -> None:
    """Add to the mapping's record the settings that the emulator drops."""
    record = _lambda._esms[uuid]
    kept = _STREAM_DEFAULTS.keys() | {"StartingPositionTimestamp"}
    record.update({name: settings[name] for name in kept if name in settings})
    if _service(record) == "sqs":
        record.pop("StartingPosition", None)
    record["State"] = "Enabled" if Mapping(record, "", "").enabled else "Disabled"


# --- The API -----------------------------------------------------------------------------------------------------


def _create(original: Callable[[Settings], Answer]) -> Callable[[Settings], Answer]:
    def create(given: Settings) -> Answer:
        service = _service(given)
        settings = _with_defaults(given)
        if service not in {"sqs", "kinesis", "dynamodb"}:
            return original(given)
        try:
            _check_settings(settings, service)
            _check_source(settings, service)
        except emulator.AwsError as error:
            return _responses.error_response_json(error.code, error.message, error.status)
        answer = original(settings)
        if answer[0] != 202:
            return answer
        uuid = json.loads(answer[2])["UUID"]
        _complete(uuid, settings)
        _adjust(uuid)
        return _responses.json_response(_lambda._esm_response(_lambda._esms[uuid]), 202)

    return create


def _change(original: Callable[[str, Settings], Answer]) -> Callable[[str, Settings], Answer]:
    def update(uuid: str, settings: Settings) -> Answer:
        record = _lambda._esms.get(uuid)
        if record:
            try:
                _check_settings({**record, **settings}, _service(record))
            except emulator.AwsError as error:
                return _responses.error_response_json(error.code, error.message, error.status)
        answer = original(uuid, settings)
        _adjust(uuid)
        return answer

    return update


def _end(original: Callable[[str], Answer]) -> Callable[[str], Answer]:
    def delete(uuid: str) -> Answer:
        answer = original(uuid)
        _adjust(uuid)
        return answer

    return delete


# --- Stacks ------------------------------------------------------------------------------------------------------


def _provision(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(logical: str, properties: Settings, stack: str) -> Any:
        service = _service(properties)
        settings = _with_defaults(properties)
        if service not in {"sqs", "kinesis", "dynamodb"}:
            return original(logical, properties, stack)
        try:
            _check_settings(settings, service)
            _check_source(settings, service)
        except emulator.AwsError as error:
            raise ValueError(error.message) from error
        uuid, attributes = original(logical, settings, stack)
        _complete(uuid, settings)
        _adjust(uuid)
        return uuid, attributes

    return create


def _update(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(physical: str, old: Settings, new: Settings, stack: str) -> Any:
        settings = {**_TEMPLATE_DEFAULTS, **_with_defaults(new)}
        try:
            _check_settings(settings, _service(new))
        except emulator.AwsError as error:
            raise ValueError(error.message) from error
        uuid, attributes = original(physical, _with_defaults(old), settings, stack)
        _complete(uuid, settings)
        _adjust(uuid)
        if uuid != physical:
            _adjust(physical)
        return uuid, attributes

    return update


def _remove(original: Callable[..., None]) -> Callable[..., None]:
    def delete(physical: str, properties: Settings) -> None:
        original(physical, properties)
        _adjust(physical)

    return delete


def _nothing() -> None:
    """Stands for the start of the emulator's own reader."""


emulator.replace(_lambda, "_ensure_poller", _nothing)
emulator.patch(_lambda, "_create_esm", _create)
emulator.patch(_lambda, "_update_esm", _change)
emulator.patch(_lambda, "_delete_esm", _end)
_handlers = _provisioners._RESOURCE_HANDLERS["AWS::Lambda::EventSourceMapping"]
_handlers["create"] = _provision(_handlers["create"])
_handlers["update"] = _update(_handlers["update"])
_handlers["delete"] = _remove(_handlers["delete"])
