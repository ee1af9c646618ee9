"""Exports of tables to S3, full and incremental, in DynamoDB JSON with their manifests.

https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.HowItWorks.html
https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import secrets
import time
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import emulator, iam
from local.aws.dynamodb import history
from local.aws.dynamodb.recovery import table_named
from local.aws.emulator import AwsError, Call, Payload, json_action

_dynamodb = emulator.module("services.dynamodb")

SHORTEST_SECONDS = float(os.environ.get("ATLAS_DYNAMODB_EXPORT_SECONDS", "900"))
"""Of an incremental export's period; the environment may shorten it, because nobody waits a quarter of an hour here."""
LONGEST_SECONDS = 24 * 3600.0
_PARTITIONS = 4
"""Data files of an export: AWS writes one for each partition, and a new table on demand has four."""
_TOKEN_SECONDS = 8 * 3600
_FAILURES = {"AccessDenied": "S3AccessDenied", "NoSuchBucket": "S3NoSuchBucket"}


@json_action("dynamodb", "ExportTableToPointInTime")
def export_table_to_point_in_time(call: Call) -> Payload:
    """Begin an export, which acts in S3 with the caller's permissions.

    Raises:
        AwsError: the table is not there, recovery is not enabled, or a moment is out of reach.
    """
    members = call.payload
    table = table_named(members["TableArn"])
    past, now = history.of(table), time.time()
    if repeated := _repeated(members, now):
        return {"ExportDescription": _shown(repeated)}
    if members.get("ExportFormat", "DYNAMODB_JSON") != "DYNAMODB_JSON":
        raise AwsError("ValidationException", "The embedded AWS exports in the format DYNAMODB_JSON only.")
    number = f"{int(now * 1000):014d}-{secrets.token_hex(4)}"
    export: Payload = {
        "ExportArn": f"{table['TableArn']}/export/{number}",
        "ExportStatus": "IN_PROGRESS",
        "StartTime": now,
        "TableArn": table["TableArn"],
        "TableId": table["TableId"],
        "ClientToken": secrets.token_hex(16),
        "S3SseAlgorithm": "AES256",
        "ExportFormat": "DYNAMODB_JSON",
        "ExportType": "FULL_EXPORT",
        **{name: value for name, value in members.items() if name not in {"ExportTime", "ExportFormat"}},
        "_request": members,
    }
    if export["ExportType"] == "INCREMENTAL_EXPORT":
        export["IncrementalExportSpecification"] = _period(members, past.earliest, now)
    else:
        export["ExportTime"] = _reachable(float(members.get("ExportTime") or now), past.earliest, now)
    _dynamodb._exports[export["ExportArn"]] = export
    s3, begun = emulator.client("s3", call.caller, call.region), _shown(export)
    emulator.in_background(lambda: _run(export, history.look_back(table), s3), f"dynamodb-export-{number}")
    return {"ExportDescription": begun}


def _repeated(members: Payload, now: float) -> Payload | None:
    """Return the export that an earlier request with the same token began."""
    token = members.get("ClientToken")
    for export in _dynamodb._exports.values():
        if token and export["ClientToken"] == token and now - export["StartTime"] < _TOKEN_SECONDS:
            if export["_request"] != members:
                raise AwsError("ExportConflictException", f"ClientToken {token} was used with other parameters.")
            found: Payload = export
            return found
    return None


def _period(members: Payload, earliest: float, now: float) -> Payload:
    """https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_IncrementalExportSpecification.html"""
    given = members.get("IncrementalExportSpecification") or {}
    if "ExportFromTime" not in given:
        raise AwsError("ValidationException", "An incremental export needs IncrementalExportSpecification.")
    start, end = float(given["ExportFromTime"]), float(given.get("ExportToTime") or now)
    if not SHORTEST_SECONDS <= end - start <= LONGEST_SECONDS:
        raise AwsError(
            "ValidationException",
            f"An incremental export covers from {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} seconds.",
        )
    return {
        "ExportFromTime": _reachable(start, earliest, now),
        "ExportToTime": _reachable(end, earliest, now),
        "ExportViewType": given.get("ExportViewType") or "NEW_AND_OLD_IMAGES",
    }


def _reachable(moment: float, earliest: float, now: float) -> float:
    # Requests carry whole seconds, so that the second in which recovery was enabled counts as reachable.
    if not int(earliest) <= moment <= now:
        raise AwsError(
            "InvalidExportTimeException",
            f"The export time must be from {earliest:.0f} to {now:.0f}, the recovery period of the table.",
        )
    return moment


def _shown(export: Payload) -> Payload:
    return {name: value for name, value in export.items() if not name.startswith("_")}


@json_action("dynamodb", "DescribeExport")
def describe_export(call: Call) -> Payload:
    """Return an export's description.

    Raises:
        AwsError: ExportNotFoundException.
    """
    export = _dynamodb._exports.get(call.payload["ExportArn"])
    if export is None:
        raise AwsError("ExportNotFoundException", f"Export not found: {call.payload['ExportArn']}")
    return {"ExportDescription": _shown(export)}


# --- What is written ---------------------------------------------------------------------------------------------


def _run(export: Payload, past: history.Past, s3: Any) -> None:
    """Write the files and end the export."""
    number = export["ExportArn"].rpartition("/")[2]
    folder = f"{export['S3Prefix']}/AWSDynamoDB" if export.get("S3Prefix") else "AWSDynamoDB"
    files = _Files(s3, export)
    full = export["ExportType"] == "FULL_EXPORT"
    try:
        files.put(f"{folder}/{number}/_started", b"")
        lines = list(_items(past, export["ExportTime"]) if full else _changes(past, export))
        written = [
            _data_file(files, f"{folder}/{number}/data" if full else f"{folder}/data", partition)
            for partition in _partitioned(lines)
        ]
        manifest = f"{folder}/{number}/manifest-files"
        _with_checksum(files, manifest, "\n".join(json.dumps(each, separators=(",", ":")) for each in written) + "\n")
        export["EndTime"] = time.time()
        export["ItemCount"] = len(lines)
        export["BilledSizeBytes"] = sum(map(_dynamodb._item_size_bytes, past.items.values()))
        export["ExportManifest"] = f"{folder}/{number}/manifest-summary.json"
        _with_checksum(files, f"{folder}/{number}/manifest-summary", json.dumps(_summary(export, f"{manifest}.json")))
        export["ExportStatus"] = "COMPLETED"
    except (ClientError, BotoCoreError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        export.update(
            EndTime=time.time(),
            FailureCode=_FAILURES.get(code, code),
            FailureMessage=str(error),
            ExportStatus="FAILED",
        )


class _Files:
    """Puts objects of one export, encrypted as it says."""

    def __init__(self, s3: Any, export: Payload) -> None:
        self._s3 = s3
        self._members = {"Bucket": export["S3Bucket"]}
        if owner := export.get("S3BucketOwner"):
            self._members["ExpectedBucketOwner"] = owner
        if export["S3SseAlgorithm"] == "KMS":
            self._members["ServerSideEncryption"] = "aws:kms"
        if key := export.get("S3SseKmsKeyId"):
            self._members["SSEKMSKeyId"] = key

    def put(self, key: str, body: bytes) -> str:
        """Put an object and return its ETag."""
        answer = self._s3.put_object(Key=key, Body=body, **self._members)
        return str(answer["ETag"]).strip('"')


def _data_file(files: _Files, folder: str, lines: list[bytes]) -> Payload:
    """Write one data file and return its entry in the manifest."""
    body = gzip.compress(b"".join(lines), mtime=0)
    key = f"{folder}/{secrets.token_hex(13)}.json.gz"
    etag = files.put(key, body)
    return {"itemCount": len(lines), "md5Checksum": _md5(body), "etag": etag, "dataFileS3Key": key}


def _with_checksum(files: _Files, name: str, text: str) -> None:
    files.put(f"{name}.json", text.encode())
    files.put(f"{name}.md5", _md5(text.encode()).encode())


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _partitioned(lines: Iterable[tuple[history.Key, Payload]]) -> list[list[bytes]]:
    partitions: list[list[bytes]] = [[] for _ in range(_PARTITIONS)]
    for (partition, _), line in lines:
        encoded = json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode()
        partitions[zlib.crc32(str(partition).encode()) % _PARTITIONS].append(encoded + b"\n")
    return partitions


def _items(past: history.Past, moment: float) -> Iterator[tuple[history.Key, Payload]]:
    for key, item in past.at(moment).items():
        yield key, {"Item": item}


def _changes(past: history.Past, export: Payload) -> Iterator[tuple[history.Key, Payload]]:
    """Yield one line for each item that changed, however often it did: what it was and what it is at the end.

    An item that is no more has keys only, and its old image if old images are asked for.
    """
    period = export["IncrementalExportSpecification"]
    before, after = past.at(period["ExportFromTime"]), past.at(period["ExportToTime"])
    types = {each["AttributeName"]: each["AttributeType"] for each in past.table["AttributeDefinitions"]}
    names = [past.table["pk_name"], past.table["sk_name"]]
    for key, at in past.changed(period["ExportFromTime"], period["ExportToTime"]).items():
        old, new = before.get(key), after.get(key)
        line: Payload = {
            "Metadata": {"WriteTimestampMicros": {"N": str(int(at * 1_000_000))}},
            "Keys": {name: {types[name]: value} for name, value in zip(names, key, strict=True) if name},
        }
        if old is not None and period["ExportViewType"] == "NEW_AND_OLD_IMAGES":
            line["OldImage"] = old
        if new is not None:
            line["NewImage"] = new
        yield key, line


def _summary(export: Payload, manifest: str) -> Payload:
    summary: Payload = {
        "version": "2023-08-01",
        "exportArn": export["ExportArn"],
        "startTime": _iso(export["StartTime"]),
        "endTime": _iso(export["EndTime"]),
        "tableArn": export["TableArn"],
        "tableId": export["TableId"],
        "s3Bucket": export["S3Bucket"],
        "s3Prefix": export.get("S3Prefix"),
        "s3SseAlgorithm": export["S3SseAlgorithm"],
        "s3SseKmsKeyId": export.get("S3SseKmsKeyId"),
        "manifestFilesS3Key": manifest,
        "billedSizeBytes": export["BilledSizeBytes"],
        "itemCount": export["ItemCount"],
        "outputFormat": "DYNAMODB_JSON",
        "exportType": export["ExportType"],
    }
    if "ExportTime" in export:
        return {**summary, "exportTime": _iso(export["ExportTime"])}
    period = export["IncrementalExportSpecification"]
    return {
        **summary,
        "exportFromTime": _iso(period["ExportFromTime"]),
        "exportToTime": _iso(period["ExportToTime"]),
        "outputView": period["ExportViewType"],
    }


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- Permissions -------------------------------------------------------------------------------------------------


def _resources(request: iam.Request) -> list[str]:
    """https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazondynamodb.html"""
    if request.operation == "RestoreTableToPointInTime":
        name = request.get("SourceTableName")
        return [request.get("SourceTableArn") or request.arn(f"table/{name}")]
    named = {"ExportTableToPointInTime": "TableArn", "DescribeExport": "ExportArn"}.get(request.operation)
    return [request.get(named)] if named else []


iam.name_resources("dynamodb", _resources)
