"""The Firehose API, and the CloudFormation resource type of Firehose streams.

https://docs.aws.amazon.com/firehose/latest/APIReference/API_Operations.html
"""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps

from local.aws import emulator
from local.aws.emulator import AwsError, Call, Payload, json_action
from local.aws.firehose import conversion, destination, source
from local.aws.firehose.access import PRINCIPAL, Identity, Roles
from local.aws.firehose.destination import MEBIBYTE, Destination, invalid
from local.aws.firehose.stages import DeliveryError
from local.aws.firehose.stream import Pipeline

CLOUDFORMATION_TYPE = "AWS::KinesisFirehose::DeliveryStream"

LARGEST_RECORD_BYTES = 1000 * 1024
LARGEST_BATCH_BYTES = 4 * MEBIBYTE
LARGEST_BATCH_RECORDS = 500
LARGEST_TAG_COUNT = 50
"""https://docs.aws.amazon.com/firehose/latest/dev/limits.html"""

_SLOW_DOWN = {"ErrorCode": "ServiceUnavailableException", "ErrorMessage": "Slow down."}
_S3_MEMBERS = ("ExtendedS3DestinationConfiguration", "S3DestinationConfiguration")
_DESTINATION_ID = "destinationId-000000000001"

_responses = emulator.module("core.responses")
_provisioners = emulator.module("services.cloudformation.provisioners")
_tagging = emulator.module("services.tagging")


@dataclass
class Stream:
    """A Firehose stream as the API shows it, and the pipeline that does its work."""

    identity: Identity
    kind: str
    configuration: Payload
    source: Payload | None
    tags: dict[str, str]
    encryption: Payload
    pipeline: Pipeline
    created_at: datetime
    updated_at: datetime = field(init=False)
    status: str = "ACTIVE"

    def __post_init__(self) -> None:
        self.updated_at = self.created_at


_streams: dict[tuple[str, str, str], Stream] = {}
"""Streams by account, region and name."""
_registering = threading.Lock()


# --- Streams ------------------------------------------------------------------------------------------------------


def _create(name: str, members: Payload, account: str, region: str) -> Stream:
    if not re.fullmatch(r"[a-zA-Z0-9_.-]{1,64}", name):
        raise invalid("DeliveryStreamName must have 1 to 64 letters, digits, underscores, hyphens and periods.")
    kind = members.get("DeliveryStreamType") or "DirectPut"
    if kind not in {"DirectPut", "KinesisStreamAsSource"}:
        raise invalid(f"DeliveryStreamType {kind} is not supported by the embedded AWS.")
    kinesis = members.get("KinesisStreamSourceConfiguration")
    if (kind == "KinesisStreamAsSource") != bool(kinesis):
        raise invalid(
            "KinesisStreamSourceConfiguration must be given if, and only if, the type is KinesisStreamAsSource."
        )
    configuration = destination.complete(_s3_configuration(members))
    settings = destination.parse(configuration)
    roles = [settings.bucket.role, settings.backup.role if settings.backup else None, (kinesis or {}).get("RoleARN")]
    _require_trust(filter(None, roles))
    identity = Identity(name, f"arn:aws:firehose:{region}:{account}:deliverystream/{name}", account, region)
    _require_schema(settings, identity)
    stream = Stream(
        identity=identity,
        kind=kind,
        configuration=configuration,
        source={**kinesis, "DeliveryStartTimestamp": source.now()} if kinesis else None,
        tags=_checked_tags({}, members.get("Tags") or []),
        encryption=_encryption(members.get("DeliveryStreamEncryptionConfigurationInput"), kind),
        pipeline=Pipeline(identity, settings),
        created_at=datetime.now(UTC),
    )
    with _registering:
        if (account, region, name) in _streams:
            raise AwsError("ResourceInUseException", f"Firehose {name} under accountId {account} already exists.")
        stream.pipeline.start()
        if stream.source:
            start = stream.source["DeliveryStartTimestamp"]
            stream.pipeline.read_from(stream.source["KinesisStreamARN"], stream.source["RoleARN"], start)
        _streams[account, region, name] = stream
    return stream


def _s3_configuration(members: Payload) -> Payload:
    named = [name for name in members if re.fullmatch(r"\w+Destination(Configuration|Update)", name)]
    if len(named) != 1:
        raise invalid("Exactly one destination configuration is supported for a Firehose.")
    if named[0].replace("Update", "Configuration") not in _S3_MEMBERS:
        raise invalid(f"{named[0]} is not supported by the embedded AWS.")
    configuration: Payload = members[named[0]]
    return configuration


def _require_trust(roles: Iterable[str]) -> None:
    for role in roles:
        if not emulator.trusts(role, PRINCIPAL):
            raise invalid(f"Firehose is unable to assume role {role}. Please check the role provided.")


def _require_schema(settings: Destination, identity: Identity) -> None:
    """Refuse a conversion to a table that cannot be read."""
    if settings.conversion:
        _require_trust([settings.conversion.role])
        try:
            conversion.schema(settings.conversion, Roles(identity.region), identity)
        except DeliveryError as error:
            raise invalid(
                f"{error.code}: {error.message} Please ensure that the role specified in the data format conversion "
                "configuration has the necessary permissions."
            ) from None


def _encryption(wanted: Payload | None, kind: str) -> Payload:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_DeliveryStreamEncryptionConfigurationInput.html"""
    if wanted is None:
        return {"Status": "DISABLED"}
    if kind != "DirectPut":
        raise invalid("Server-side encryption is that of the source for a Firehose that reads a Kinesis stream.")
    if (wanted["KeyType"] == "CUSTOMER_MANAGED_CMK") != bool(wanted.get("KeyARN")):
        raise invalid("KeyARN must be given if, and only if, KeyType is CUSTOMER_MANAGED_CMK.")
    return {**wanted, "Status": "ENABLED"}


def _checked_tags(tags: dict[str, str], added: list[dict[str, str]]) -> dict[str, str]:
    together = tags | {tag["Key"]: tag.get("Value", "") for tag in added}
    if len(together) > LARGEST_TAG_COUNT:
        raise AwsError("LimitExceededException", f"A Firehose cannot have more than {LARGEST_TAG_COUNT} tags.")
    return together


def _change(stream: Stream, configuration: Payload) -> None:
    """Deliver by ``configuration``, which is complete, from now on."""
    settings = destination.parse(configuration)
    if stream.configuration["S3BackupMode"] == "Enabled" and not settings.backup:
        # https://docs.aws.amazon.com/firehose/latest/APIReference/API_ExtendedS3DestinationUpdate.html
        raise invalid("S3BackupMode cannot be disabled once it is enabled.")
    before = stream.configuration.get("DynamicPartitioningConfiguration", {}).get("Enabled", False)
    if before != (settings.expressions is not None):
        # https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-enable.html
        raise invalid("Dynamic Partitioning can only be enabled when a Firehose is created, and not be disabled.")
    _require_trust([settings.bucket.role, *([settings.backup.role] if settings.backup else [])])
    _require_schema(settings, stream.identity)
    stream.configuration = configuration
    stream.pipeline.update(settings)
    stream.updated_at = datetime.now(UTC)


def _remove(stream: Stream) -> None:
    """Deliver what is buffered as far as it can be, and forget the stream."""
    stream.status = "DELETING"
    stream.pipeline.close()
    identity = stream.identity
    with _registering:
        _streams.pop((identity.account, identity.region, identity.name), None)  # a stack may delete it, too


# --- API ----------------------------------------------------------------------------------------------------------


def _on_stream(function: Callable[[Stream, Payload], Payload]) -> Callable[[Call], Payload]:
    """Give an action the stream that a call names."""

    @wraps(function)
    def act(call: Call) -> Payload:
        name = call.payload["DeliveryStreamName"]
        stream = _streams.get((call.account, call.region, name))
        if stream is None:
            raise AwsError("ResourceNotFoundException", f"Firehose {name} under account {call.account} not found.")
        return function(stream, call.payload)

    return act


@json_action("firehose", "CreateDeliveryStream")
def create_delivery_stream(call: Call) -> Payload:
    """Make a stream, which takes records at once."""
    stream = _create(call.payload["DeliveryStreamName"], call.payload, call.account, call.region)
    return {"DeliveryStreamARN": stream.identity.arn}


@json_action("firehose", "DeleteDeliveryStream")
@_on_stream
def delete_delivery_stream(stream: Stream, members: Payload) -> Payload:
    """Delete a stream, in the background because its buffers are delivered first."""
    if stream.status == "DELETING":
        raise AwsError("ResourceInUseException", f"Firehose {stream.identity.name} is being deleted.")
    stream.status = "DELETING"
    emulator.in_background(lambda: _remove(stream), f"firehose-delete-{stream.identity.name}")
    return {}


@json_action("firehose", "DescribeDeliveryStream")
@_on_stream
def describe_delivery_stream(stream: Stream, members: Payload) -> Payload:
    """Return a stream's description."""
    extended = {
        name.replace("BackupConfiguration", "BackupDescription"): value for name, value in stream.configuration.items()
    }
    plain = {
        name: value
        for name, value in extended.items()
        if name
        not in {
            "S3BackupMode",
            "S3BackupDescription",
            "ProcessingConfiguration",
            "FileExtension",
            "CustomTimeZone",
            "DynamicPartitioningConfiguration",
            "DataFormatConversionConfiguration",
        }
    }
    described = {
        "DestinationId": _DESTINATION_ID,
        "S3DestinationDescription": plain,
        "ExtendedS3DestinationDescription": extended,
    }
    description: Payload = {
        "DeliveryStreamName": stream.identity.name,
        "DeliveryStreamARN": stream.identity.arn,
        "DeliveryStreamStatus": stream.status,
        "DeliveryStreamEncryptionConfiguration": stream.encryption,
        "DeliveryStreamType": stream.kind,
        "VersionId": str(stream.pipeline.version),
        "CreateTimestamp": stream.created_at,
        "LastUpdateTimestamp": stream.updated_at,
        "Destinations": [described],
        "HasMoreDestinations": False,
    }
    if stream.source:
        description["Source"] = {"KinesisStreamSourceDescription": stream.source}
    return {"DeliveryStreamDescription": description}


@json_action("firehose", "ListDeliveryStreams")
def list_delivery_streams(call: Call) -> Payload:
    """Return the names of the streams, a page at a time."""
    kind, after = call.payload.get("DeliveryStreamType"), call.payload.get("ExclusiveStartDeliveryStreamName", "")
    names = sorted(
        name
        for (account, region, name), stream in _streams.items()
        if (account, region) == (call.account, call.region) and kind in {None, stream.kind} and name > after
    )
    limit = call.payload.get("Limit", 10)
    return {"DeliveryStreamNames": names[:limit], "HasMoreDeliveryStreams": len(names) > limit}


@json_action("firehose", "UpdateDestination")
@_on_stream
def update_destination(stream: Stream, members: Payload) -> Payload:
    """Change what is given of a destination and keep the rest."""
    if members["CurrentDeliveryStreamVersionId"] != str(stream.pipeline.version):
        raise AwsError(
            "ConcurrentModificationException",
            f"Cannot update firehose: {stream.identity.name} since the current version id: {stream.pipeline.version} "
            f"and specified version id: {members['CurrentDeliveryStreamVersionId']} do not match.",
        )
    if members["DestinationId"] != _DESTINATION_ID:
        raise invalid(f"Destination Id {members['DestinationId']} not found.")
    update = dict(_s3_configuration(members))
    if "S3BackupUpdate" in update:
        backup = stream.configuration.get("S3BackupConfiguration", {})
        update["S3BackupConfiguration"] = backup | update.pop("S3BackupUpdate")
    _change(stream, destination.complete(stream.configuration | update))
    return {}


def _data(record: Payload) -> bytes:
    try:
        data = base64.b64decode(record["Data"], validate=True)
    except binascii.Error:
        raise AwsError("SerializationException", "Data is not base64.") from None
    if len(data) > LARGEST_RECORD_BYTES:
        raise AwsError(
            "ValidationException",
            "1 validation error detected: Value at 'data' failed to satisfy constraint: "
            f"Member must have length less than or equal to {LARGEST_RECORD_BYTES}",
        )
    return data


def _put(stream: Stream, data: list[bytes]) -> tuple[list[str | None], bool]:
    """Return the ids of the records, None for those above the quota, and whether they are encrypted at rest."""
    if stream.kind != "DirectPut":
        raise invalid(f"This operation is not permitted on {stream.kind} delivery stream type.")
    if stream.status != "ACTIVE":
        raise AwsError("ResourceNotFoundException", f"Firehose {stream.identity.name} is not active.")
    return stream.pipeline.put(data), stream.encryption["Status"] == "ENABLED"


@json_action("firehose", "PutRecord")
@_on_stream
def put_record(stream: Stream, members: Payload) -> Payload:
    """Take one record."""
    [identifier], encrypted = _put(stream, [_data(members["Record"])])
    if identifier is None:
        raise AwsError(_SLOW_DOWN["ErrorCode"], _SLOW_DOWN["ErrorMessage"], 503)
    return {"RecordId": identifier, "Encrypted": encrypted}


@json_action("firehose", "PutRecordBatch")
@_on_stream
def put_record_batch(stream: Stream, members: Payload) -> Payload:
    """Take up to 500 records and 4 MiB, as far as they are within the quota."""
    records = members["Records"]
    if not 1 <= len(records) <= LARGEST_BATCH_RECORDS:
        raise AwsError(
            "ValidationException",
            "1 validation error detected: Value at 'records' failed to satisfy constraint: "
            f"Member must have length between 1 and {LARGEST_BATCH_RECORDS}",
        )
    data = [_data(record) for record in records]
    if sum(map(len, data)) > LARGEST_BATCH_BYTES:
        raise invalid("Records size exceeds 4 MB limit")
    identifiers, encrypted = _put(stream, data)
    responses = [{"RecordId": identifier} if identifier else _SLOW_DOWN for identifier in identifiers]
    return {"FailedPutCount": identifiers.count(None), "Encrypted": encrypted, "RequestResponses": responses}


@json_action("firehose", "StartDeliveryStreamEncryption")
@_on_stream
def start_delivery_stream_encryption(stream: Stream, members: Payload) -> Payload:
    """Encrypt records at rest from now on."""
    wanted = members.get("DeliveryStreamEncryptionConfigurationInput") or {"KeyType": "AWS_OWNED_CMK"}
    stream.encryption = _encryption(wanted, stream.kind)
    return {}


@json_action("firehose", "StopDeliveryStreamEncryption")
@_on_stream
def stop_delivery_stream_encryption(stream: Stream, members: Payload) -> Payload:
    """Stop encrypting records at rest."""
    stream.encryption = _encryption(None, stream.kind)
    return {}


@json_action("firehose", "TagDeliveryStream")
@_on_stream
def tag_delivery_stream(stream: Stream, members: Payload) -> Payload:
    """Add tags, or replace their values."""
    stream.tags = _checked_tags(stream.tags, members["Tags"])
    return {}


@json_action("firehose", "UntagDeliveryStream")
@_on_stream
def untag_delivery_stream(stream: Stream, members: Payload) -> Payload:
    """Remove tags."""
    stream.tags = {key: value for key, value in stream.tags.items() if key not in members["TagKeys"]}
    return {}


@json_action("firehose", "ListTagsForDeliveryStream")
@_on_stream
def list_tags_for_delivery_stream(stream: Stream, members: Payload) -> Payload:
    """Return the tags, a page at a time."""
    after, limit = members.get("ExclusiveStartTagKey", ""), members.get("Limit", LARGEST_TAG_COUNT)
    tags = [tag for tag in _listed_tags(stream) if tag["Key"] > after]
    return {"Tags": tags[:limit], "HasMoreTags": len(tags) > limit}


def _listed_tags(stream: Stream) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(stream.tags.items())]


# --- CloudFormation -----------------------------------------------------------------------------------------------
# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-kinesisfirehose-deliverystream.html


def _provision(logical: str, properties: Payload, stack: str) -> tuple[str, dict[str, str]]:
    name = properties.get("DeliveryStreamName") or _provisioners._physical_name(stack, logical, max_len=64)
    stream = _create(name, _own_tags(properties), _responses.get_account_id(), _responses.get_region())
    return name, {"Arn": stream.identity.arn}


def _own_tags(properties: Payload) -> Payload:
    """Leave out the tags that CloudFormation puts on resources, of which this type has none."""
    tags = [tag for tag in properties.get("Tags") or [] if not tag["Key"].startswith("aws:")]
    return {**properties, "Tags": tags}


def _update(name: str, old: Payload, new: Payload, stack: str) -> tuple[str, dict[str, str]]:
    stream = _streams[_responses.get_account_id(), _responses.get_region(), name]
    configuration = destination.complete(_s3_configuration(new))
    if configuration != stream.configuration:
        _change(stream, configuration)
    stream.tags = _checked_tags({}, _own_tags(new)["Tags"])
    stream.encryption = _encryption(new.get("DeliveryStreamEncryptionConfigurationInput"), stream.kind)
    return name, {"Arn": stream.identity.arn}


def _delete(name: str, properties: Payload) -> None:
    if stream := _streams.get((_responses.get_account_id(), _responses.get_region(), name)):
        _remove(stream)


def _collect_tags() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Yield what the Resource Groups Tagging API shows."""
    for (account, region, _), stream in list(_streams.items()):
        if (account, region) == (_responses.get_account_id(), _responses.get_region()):
            yield stream.identity.arn, _listed_tags(stream)


emulator.resource_type(CLOUDFORMATION_TYPE, _provision, _delete, _update)
_provisioners._REPLACING_PROPERTIES[CLOUDFORMATION_TYPE] = (
    "DeliveryStreamName",
    "DeliveryStreamType",
    "KinesisStreamSourceConfiguration",
)
_provisioners._CUSTOM_NAME_REPLACEMENT[CLOUDFORMATION_TYPE] = {"name": "DeliveryStreamName"}
_provisioners._STACK_TAG_PROPERTY[CLOUDFORMATION_TYPE] = ("Tags", "list")
_tagging._COLLECTORS["firehose"] = _collect_tags
