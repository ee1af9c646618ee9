"""The S3 destination of a Firehose stream: its configuration checked, with defaults filled in.

https://docs.aws.amazon.com/firehose/latest/APIReference/API_ExtendedS3DestinationConfiguration.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from local.aws.emulator import AwsError, Payload
from local.aws.firehose import objects

MEBIBYTE = 1024 * 1024


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
class Destination:
    """What happens to records: backed up raw, transformed, ended by ``delimiter`` and written to ``bucket``."""

    bucket: Bucket
    transform: Transform | None
    delimiter: bytes
    backup: Bucket | None


def invalid(message: str) -> AwsError:
    """Return the error of an argument Firehose does not accept."""
    return AwsError("InvalidArgumentException", message)


def complete(configuration: Payload) -> Payload:
    """Return an S3 configuration with its defaults, and with numbers and booleans where templates may have text.

    Raises:
        AwsError: InvalidArgumentException, half of the buffering hints is missing.
    """
    completed = {"S3BackupMode": "Disabled", **_complete_bucket(configuration)}
    if backup := configuration.get("S3BackupConfiguration"):
        completed["S3BackupConfiguration"] = _complete_bucket(backup)
    return completed


def _complete_bucket(configuration: Payload) -> Payload:
    hints = configuration.get("BufferingHints") or {"SizeInMBs": 5, "IntervalInSeconds": 300}
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
    for feature in ("DynamicPartitioningConfiguration", "DataFormatConversionConfiguration"):
        # Conversion is enabled by default where it is configured; partitioning is not.
        options = configuration.get(feature)
        if options and _is_on({"Enabled": feature.startswith("DataFormat"), **options}):
            raise invalid(f"{feature} is not supported by the embedded AWS.")
    backup = None
    if configuration["S3BackupMode"] == "Enabled":
        if "S3BackupConfiguration" not in configuration:
            raise invalid("S3BackupConfiguration must be specified when S3BackupMode is Enabled.")
        backup = _bucket(configuration["S3BackupConfiguration"])
    bucket = _bucket(configuration)
    transform, delimiter = _processing(configuration.get("ProcessingConfiguration") or {}, bucket.role)
    return Destination(bucket, transform, delimiter, backup)


def _bucket(configuration: Payload) -> Bucket:
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
    _check_prefixes(prefix, error_prefix)
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


def _check_prefixes(prefix: str, error_prefix: str) -> None:
    """https://docs.aws.amazon.com/firehose/latest/dev/s3-prefixes.html#prefix-rules"""
    if "!{" in prefix and not error_prefix:
        raise invalid("ErrorOutputPrefix cannot be null or empty when Prefix contains expressions.")
    if "!{" in error_prefix and "!{firehose:error-output-type}" not in error_prefix:
        raise invalid("ErrorOutputPrefix must contain !{firehose:error-output-type} if it contains expressions.")
    now = datetime.now(UTC)
    folders = objects.good_folder(prefix, now), objects.error_folder(prefix, error_prefix, "processing-failed", now)
    if any(len(folder) > 512 for folder in folders):
        raise invalid("Prefixes must not be longer than 512 characters after they are evaluated.")


def _processing(configuration: Payload, role: str) -> tuple[Transform | None, bytes]:
    """Return the transformation and the delimiter that the processors ask for."""
    transform, delimiter = None, b""
    for processor in configuration.get("Processors", []) if _is_on(configuration) else []:
        kind = processor["Type"]
        parameters = {each["ParameterName"]: each["ParameterValue"] for each in processor.get("Parameters") or []}
        if kind == "Lambda":
            if transform:
                raise invalid("Only one Lambda processor is allowed.")
            transform = _transform(parameters, role)
        elif kind == "AppendDelimiterToRecord":
            text = parameters.get("Delimiter", "\\n")
            delimiter = text.replace("\\n", "\n").replace("\\t", "\t").replace("\\r", "\r").encode()
        else:
            raise invalid(f"Processor {kind} is not supported by the embedded AWS.")
    return transform, delimiter


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
