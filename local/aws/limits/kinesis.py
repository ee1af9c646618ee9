"""What a shard takes and gives: 1,000 records and 1 MB a second to write, 5 calls and 2 MB a second to read.

https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from local.aws import emulator, kinesis, metrics
from local.aws.limits.allowance import Allowance

_kinesis = emulator.module("services.kinesis")
_responses = emulator.module("core.responses")

MEGABYTE = 2**20
_EXCEEDED = "ProvisionedThroughputExceededException"

Members = dict[str, Any]
Answer = Any
Handler = Callable[[Members], Answer]


@dataclass
class _Allowances:
    """Of one shard."""

    records: Allowance = field(default_factory=lambda: Allowance(1000, 1000))
    written: Allowance = field(default_factory=lambda: Allowance(MEGABYTE, MEGABYTE))
    calls: Allowance = field(default_factory=lambda: Allowance(5, 5))
    read: Allowance = field(default_factory=lambda: Allowance(2 * MEGABYTE, 2 * MEGABYTE))


def _of(stream: Members, shard: str) -> _Allowances:
    found: _Allowances = stream["shards"][shard].setdefault("allowances", _Allowances())
    return found


def _refusing_shard(stream: Members, record: Members) -> str | None:
    """Count a record on its shard; return the shard if it does not take it any more."""
    explicit = record.get("ExplicitHashKey")
    key = int(explicit) if explicit else _kinesis._partition_key_to_hash(record["PartitionKey"])
    shard = str(_kinesis._route_to_shard(key, stream))
    allowances, size = _of(stream, shard), kinesis.record_bytes(record)
    if allowances.records.left() < 1 or allowances.written.left() < size:
        return shard
    allowances.records.use(1)
    allowances.written.use(size)
    return None


def _reason(stream: Members, shard: str) -> str:
    account = _responses.get_account_id()
    return f"Rate exceeded for shard {shard} in stream {stream['StreamName']} under account {account}."


def _count(stream: Members, metric: str, number: int) -> None:
    account, region = _responses.get_account_id(), _responses.get_region()
    metrics.count("AWS/Kinesis", metric, {"StreamName": stream["StreamName"]}, number, "Count", account, region)


def _put_record(original: Handler) -> Handler:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecord.html"""

    def put(members: Members) -> Answer:
        _, stream = _kinesis._resolve_stream(members)
        shard = _refusing_shard(stream, members) if stream else None
        if shard is None:
            return original(members)
        _count(stream, "WriteProvisionedThroughputExceeded", 1)
        return _responses.error_response_json(_EXCEEDED, _reason(stream, shard), 400)

    return put


def _put_records(original: Handler) -> Handler:
    """Refuse single records of a call: https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html"""

    def put(members: Members) -> Answer:
        _, stream = _kinesis._resolve_stream(members)
        if not stream:
            return original(members)
        shards = [_refusing_shard(stream, record) for record in members["Records"]]
        taken = [record for record, refusing in zip(members["Records"], shards, strict=True) if refusing is None]
        refused = len(shards) - len(taken)
        if not refused:
            return original(members)
        answer = {"Records": [], "EncryptionType": stream.get("EncryptionType", "NONE")}
        if taken:
            status, headers, body = original(members | {"Records": taken})
            if status != 200:
                return status, headers, body
            answer = json.loads(body)
        _count(stream, "WriteProvisionedThroughputExceeded", refused)
        accepted = iter(answer["Records"])
        answer["Records"] = [
            next(accepted) if shard is None else {"ErrorCode": _EXCEEDED, "ErrorMessage": _reason(stream, shard)}
            for shard in shards
        ]
        return _responses.json_response(answer | {"FailedRecordCount": refused})

    return put


def _get_records(original: Handler) -> Handler:
    """Refuse a sixth call, and calls until what was read has been made up for at 2 MB a second.

    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html
    """

    def get(members: Members) -> Answer:
        position = kinesis.read_token(members["ShardIterator"])
        _, stream = _kinesis._resolve_stream({"StreamARN": position["arn"]})
        if not stream or position["shard"] not in stream["shards"]:
            return original(members)
        allowances = _of(stream, position["shard"])
        if allowances.calls.left() < 1 or allowances.read.left() <= 0:
            _count(stream, "ReadProvisionedThroughputExceeded", 1)
            return _responses.error_response_json(_EXCEEDED, _reason(stream, position["shard"]), 400)
        allowances.calls.use(1)
        answer = original(members)
        if answer[0] == 200:
            allowances.read.use(sum(map(kinesis.record_bytes, json.loads(answer[2])["Records"])))
        return answer

    return get


emulator.patch(_kinesis, "_put_record", _put_record)
emulator.patch(_kinesis, "_put_records", _put_records)
emulator.patch(_kinesis, "_get_records", _get_records)
