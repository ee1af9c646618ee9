"""The S3 destination of a Firehose stream: its configuration checked, with defaults filled in.

https://docs.aws.amazon.com/firehose/latest/APIReference/API_ExtendedS3DestinationConfiguration.html
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import jq

from local.aws.emulator import AwsError, Payload
from local.aws.firehose import objects

MEBIBYTE = 1024 * 1024
QUERY, LAMBDA = "partitionKeyFromQuery", "partitionKeyFromLambda"
"""The namespaces of prefix expressions for keys by a JQ query and for keys by the transformation."""

_LARGE = {
    "DynamicPartitioningConfiguration": "Dynamic Partitioning",
    "DataFormatConversionConfiguration": "data format conversion",
}
"""What needs buffers of at least 64 MiB."""
_SMALLEST_LARGE = 64
_PARTITION_KEY = re.compile(rf"!\{{((?:{QUERY}|{LAMBDA}):[^}}]*)\}}")


@dataclass(frozen=True)
class Limits:
    """When a buffer is delivered: as soon as it has ``size`` bytes or its oldest record is ``interval`` seconds old."""

    size: int
    interval: float


@dataclass(frozen=True)
class Bucket:
    """Where and how objects are written; ``log`` is the group and stream of the error log."""

    role: str
    arn: str
    name: str
    prefix: str
    error_prefix: str
    limits: Limits
    compression: str
    extension: str
    zone: ZoneInfo
    key: str | None
    log: tuple[str, str] | None


@dataclass(frozen=True)
class Transform:
    """The Lambda function that transforms batches up to ``limits``; ``retries`` are those after a failed invocation."""

    function: str
    retries: int
    limits: Limits


@dataclass(frozen=True)
class Deaggregation:
    """How records are taken apart: at ``delimiter``, or after each JSON document if that is None."""

    delimiter: bytes | None


@dataclass(frozen=True)
class Processing:
    """What the processors ask for; ``query`` finds partition keys."""

    deaggregation: Deaggregation | None = None
    transform: Transform | None = None
    query: str | None = None
    delimiter: bytes = b""


@dataclass(frozen=True)
class Conversion:
    """How JSON becomes Parquet: by the columns of a table in the Glue catalog, read with the role ``role``.

    ``hive`` says which deserializer reads timestamps, Hive's or OpenX's; ``renamed`` are keys of the JSON by column.
    """

    role: str
    catalog: str | None
    database: str
    table: str
    version: str
    hive: bool
    millis: bool
    case_sensitive: bool
    dots_to_underscores: bool
    renamed: Mapping[str, str]
    compression: str


@dataclass(frozen=True)
class Destination:
    """What happens to records, in this order: backed up raw, processed, given to partitions, and written to ``bucket``.

    ``expressions`` are those of the prefix that are partition keys, None without dynamic partitioning.
    """

    bucket: Bucket
    processing: Processing
    expressions: frozenset[str] | None
    conversion: Conversion | None
    backup: Bucket | None


def invalid(message: str) -> AwsError:
    """Return the error of an argument Firehose does not accept."""
    return AwsError("InvalidArgumentException", message)


def complete(configuration: Payload) -> Payload:
    """Return an S3 configuration with its defaults, and with numbers and booleans where templates may have text.

    Raises:
        AwsError: InvalidArgumentException, half of the buffering hints is missing.
    """
    completed = {"S3BackupMode": "Disabled", **configuration}
    for name, default in (("DynamicPartitioningConfiguration", False), ("DataFormatConversionConfiguration", True)):
        if name in completed:
            completed[name] = {**completed[name], "Enabled": _is_on({"Enabled": default, **completed[name]})}
    completed = _complete_bucket(completed)
    if backup := configuration.get("S3BackupConfiguration"):
        completed["S3BackupConfiguration"] = _complete_bucket(backup)
    return completed


def _complete_bucket(configuration: Payload) -> Payload:
    size = 128 if any(configuration.get(name, {}).get("Enabled") for name in _LARGE) else 5
    hints = configuration.get("BufferingHints") or {"SizeInMBs": size, "IntervalInSeconds": 300}
    if hints.keys() != {"SizeInMBs", "IntervalInSeconds"}:
        raise invalid("BufferingHints needs both SizeInMBs and IntervalInSeconds.")
    completed = {
        "CompressionFormat": "UNCOMPRESSED",
        "EncryptionConfiguration": {"NoEncryptionConfig": "NoEncryption"},
        "CloudWatchLoggingOptions": {"Enabled": False},
        **configuration,
        "BufferingHints": {name: int(value) for name, value in hints.items()},
    }
    for name in ("CloudWatchLoggingOptions", "ProcessingConfiguration"):
        if name in completed:
            completed[name] = {**completed[name], "Enabled": _is_on(completed[name])}
    return completed


def _is_on(options: Payload) -> bool:
    return str(options.get("Enabled", False)).lower() == "true"


def parse(configuration: Payload) -> Destination:
    """Return the destination a completed configuration describes.

    Raises:
        AwsError: InvalidArgumentException, it is wrong or asks for something that is not available here.
    """
    for member, feature in _LARGE.items():
        small = configuration["BufferingHints"]["SizeInMBs"] < _SMALLEST_LARGE
        if small and configuration.get(member, {}).get("Enabled"):
            raise invalid(f"BufferingHints.SizeInMBs must be at least {_SMALLEST_LARGE} when {feature} is enabled.")
    backup = None
    if configuration["S3BackupMode"] == "Enabled":
        if "S3BackupConfiguration" not in configuration:
            raise invalid("S3BackupConfiguration must be specified when S3BackupMode is Enabled.")
        backup = _bucket(configuration["S3BackupConfiguration"])
    expressions = _expressions(configuration)
    bucket = _bucket(configuration, expressions or frozenset())
    processing = _processing(configuration.get("ProcessingConfiguration") or {}, bucket.role)
    _check_partitioning(expressions, processing)
    return Destination(bucket, processing, expressions, _conversion(configuration, bucket.role), backup)


def _expressions(configuration: Payload) -> frozenset[str] | None:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-s3bucketprefix.html"""
    found = frozenset(_PARTITION_KEY.findall(configuration.get("Prefix") or ""))
    if configuration.get("DynamicPartitioningConfiguration", {}).get("Enabled"):
        if not found:
            raise invalid(
                "S3 Prefix should contain Dynamic Partitioning namespaces when Dynamic Partitioning is enabled."
            )
        return found
    if found:
        raise invalid(
            "Dynamic Partitioning namespaces can only be part of a prefix expression when Dynamic Partitioning is "
            f"enabled: {', '.join(sorted(found))}."
        )
    return None


def _check_partitioning(expressions: frozenset[str] | None, processing: Processing) -> None:
    if expressions is None and (processing.query or processing.deaggregation):
        raise invalid(
            "MetadataExtraction and RecordDeAggregation processors cannot be present when Dynamic Partitioning is "
            "disabled."
        )
    for expression in expressions or ():
        namespace = expression.partition(":")[0]
        if not (processing.query if namespace == QUERY else processing.transform):
            needed = "MetadataExtraction" if namespace == QUERY else "Lambda"
            raise invalid(f"Prefix expression {expression} needs a {needed} processor.")


def _conversion(configuration: Payload, role: str) -> Conversion | None:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_DataFormatConversionConfiguration.html"""
    wanted = configuration.get("DataFormatConversionConfiguration", {})
    if not wanted.get("Enabled"):
        return None
    if configuration["CompressionFormat"] != "UNCOMPRESSED":
        raise invalid("CompressionFormat must be UNCOMPRESSED when data format conversion is enabled.")
    try:
        schema = wanted["SchemaConfiguration"]
        reader = wanted["InputFormatConfiguration"]["Deserializer"]
        writer = wanted["OutputFormatConfiguration"]["Serializer"]
        database, table = schema["DatabaseName"], schema["TableName"]
    except KeyError as error:
        raise invalid(f"DataFormatConversionConfiguration needs {error.args[0]}.") from None
    if "ParquetSerDe" not in writer:
        raise invalid("Of the serializers, ParquetSerDe alone is supported by the embedded AWS.")
    compression = writer["ParquetSerDe"].get("Compression", "SNAPPY")
    if compression not in {"SNAPPY", "GZIP", "UNCOMPRESSED"}:
        raise invalid(f"Compression {compression} of ParquetSerDe is not valid.")
    hive, openx = reader.get("HiveJsonSerDe"), reader.get("OpenXJsonSerDe") or {}
    formats = set((hive or {}).get("TimestampFormats") or ())
    if formats - {"millis"}:
        raise invalid("Of TimestampFormats, millis alone is supported by the embedded AWS.")
    return Conversion(
        role=schema.get("RoleARN") or role,
        catalog=schema.get("CatalogId"),
        database=database,
        table=table,
        version=schema.get("VersionId") or "LATEST",
        hive=hive is not None,
        millis="millis" in formats,
        case_sensitive=not _is_on({"Enabled": openx.get("CaseInsensitive", True)}),
        dots_to_underscores=_is_on({"Enabled": openx.get("ConvertDotsInJsonKeysToUnderscores")}),
        renamed=openx.get("ColumnToJsonKeyMappings") or {},
        compression=compression,
    )


def _bucket(configuration: Payload, expressions: frozenset[str] = frozenset()) -> Bucket:
    role, arn = configuration.get("RoleARN"), str(configuration.get("BucketARN"))
    name = re.fullmatch(r"arn:[\w-]+:s3:::([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])", arn)
    if not role or not name:
        raise invalid("RoleARN and BucketARN must be the ARNs of a role and of an S3 bucket.")
    compression = configuration["CompressionFormat"]
    if compression not in objects.COMPRESSION_FORMATS:
        raise invalid(f"CompressionFormat {compression} is not supported by the embedded AWS.")
    extension = configuration.get("FileExtension") or objects.extension(compression)
    if not re.fullmatch(r"|\.[0-9a-z!\-_.*'()]{1,127}", extension):
        raise invalid(f"FileExtension {extension} is not valid.")
    zone = configuration.get("CustomTimeZone") or "UTC"
    if zone not in available_timezones():
        raise invalid(f"CustomTimeZone {zone} is not valid.")
    prefix, error_prefix = configuration.get("Prefix") or "", configuration.get("ErrorOutputPrefix") or ""
    _check_prefixes(prefix, error_prefix, expressions)
    logging = configuration["CloudWatchLoggingOptions"]
    encryption = configuration["EncryptionConfiguration"].get("KMSEncryptionConfig")
    return Bucket(
        role=role,
        arn=arn,
        name=name[1],
        prefix=prefix,
        error_prefix=error_prefix,
        limits=_hints(configuration["BufferingHints"]),
        compression=compression,
        extension=extension,
        zone=ZoneInfo(zone),
        key=encryption["AWSKMSKeyARN"] if encryption else None,
        log=(logging["LogGroupName"], logging["LogStreamName"]) if logging["Enabled"] else None,
    )


def _hints(hints: dict[str, int]) -> Limits:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_BufferingHints.html"""
    size, interval = hints["SizeInMBs"], hints["IntervalInSeconds"]
    if not 1 <= size <= 128 or not 0 <= interval <= 900:
        raise invalid("SizeInMBs must be from 1 to 128 and IntervalInSeconds from 0 to 900.")
    return Limits(size * MEBIBYTE, interval)


def _check_prefixes(prefix: str, error_prefix: str, expressions: frozenset[str]) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html#prefix-rules"""
    if "!{" in prefix and not error_prefix:
        raise invalid("ErrorOutputPrefix cannot be null or empty when Prefix contains expressions.")
    if "!{" in error_prefix and "!{firehose:error-output-type}" not in error_prefix:
        raise invalid("ErrorOutputPrefix must contain !{firehose:error-output-type} if it contains expressions.")
    now = datetime.now(UTC)
    good, failed = dict.fromkeys(expressions, "x"), {objects.ERROR_TYPE: "processing-failed"}
    folders = objects.good_folder(prefix, now, good), objects.error_folder(prefix, error_prefix, now, failed)
    if any(len(folder) > 512 for folder in folders):
        raise invalid("Prefixes must not be longer than 512 characters after they are evaluated.")


def _processing(configuration: Payload, role: str) -> Processing:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_Processor.html"""
    processing = Processing()
    for processor in configuration.get("Processors", []) if _is_on(configuration) else []:
        kind = processor["Type"]
        parameters = {each["ParameterName"]: each["ParameterValue"] for each in processor.get("Parameters") or []}
        if kind == "Lambda":
            if processing.transform:
                raise invalid("Only one Lambda processor is allowed.")
            processing = replace(processing, transform=_transform(parameters, role))
        elif kind == "AppendDelimiterToRecord":
            text = parameters.get("Delimiter", "\\n")
            delimiter = text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r").encode()
            processing = replace(processing, delimiter=delimiter)
        elif kind == "RecordDeAggregation":
            processing = replace(processing, deaggregation=_deaggregation(parameters))
        elif kind == "MetadataExtraction":
            processing = replace(processing, query=_query(parameters))
        else:
            raise invalid(f"Processor {kind} is not supported by the embedded AWS.")
    return processing


def _deaggregation(parameters: dict[str, Any]) -> Deaggregation:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-multirecord-deaggergation.html"""
    kind = parameters.get("SubRecordType")
    if kind == "JSON":
        return Deaggregation(None)
    if kind != "DELIMITED":
        raise invalid("SubRecordType of a RecordDeAggregation processor must be JSON or DELIMITED.")
    try:
        delimiter = base64.b64decode(parameters.get("Delimiter", ""), validate=True)
    except binascii.Error:
        delimiter = b""
    if not delimiter:
        raise invalid("Delimiter of a RecordDeAggregation processor must be given in base64.")
    return Deaggregation(delimiter)


def _query(parameters: dict[str, Any]) -> str:
    """https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-partitioning-keys.html"""
    if parameters.get("JsonParsingEngine") != "JQ-1.6":
        raise invalid("JsonParsingEngine of a MetadataExtraction processor must be JQ-1.6.")
    query: str = parameters.get("MetadataExtractionQuery", "")
    try:
        jq.compile(query)
    except ValueError as error:
        raise invalid(f"MetadataExtractionQuery is not valid: {error}") from None
    return query


def _transform(parameters: dict[str, Any], role: str) -> Transform:
    """https://docs.aws.amazon.com/firehose/latest/APIReference/API_ProcessorParameter.html"""
    if not parameters.get("LambdaArn"):
        raise invalid("LambdaArn must be specified for a Lambda processor.")
    if parameters.get("RoleArn", role) != role:
        raise invalid("A Lambda processor's RoleArn other than the destination's is not supported by the embedded AWS.")
    size, interval = float(parameters.get("BufferSizeInMBs", 1)), int(parameters.get("BufferIntervalInSeconds", 60))
    retries = int(parameters.get("NumberOfRetries", 3))
    if not 0.2 <= size <= 3 or not 0 <= interval <= 900 or not 0 <= retries <= 300:
        raise invalid(
            "BufferSizeInMBs must be from 0.2 to 3, BufferIntervalInSeconds from 0 to 900 "
            "and NumberOfRetries from 0 to 300."
        )
    return Transform(parameters["LambdaArn"], retries, Limits(int(size * MEBIBYTE), interval))
