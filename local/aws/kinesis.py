"""Kinesis Data Streams: resharding that loses nothing, iterators by sequence number, metrics, and stacks' streams.

The emulator drops a shard and its records when the shard is split or merged, forgets the records of all shards in
UpdateShardCount, and counts positions in a list that shrinks. Here a shard that is split or merged stays, closed,
until the retention period has passed
(https://docs.aws.amazon.com/streams/latest/dev/kinesis-using-sdk-java-after-resharding.html), and a position is a
sequence number.
"""

from __future__ import annotations

import base64
import bisect
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from local.aws import arrivals, emulator, metrics

_kinesis = emulator.module("services.kinesis")
_provisioners = emulator.module("services.cloudformation.provisioners")
_responses = emulator.module("core.responses")

Members = dict[str, Any]
Answer = Any
"""Status, headers and body, as the emulator's handlers return them."""

_DIGITS = 56
"""Length of a sequence number; all have it, so that they order as text, too."""
_ITERATOR_LIFE = 300.0
_GET_RECORDS_BYTES = 10 * 1024 * 1024
_GET_RECORDS_MOST = 10_000


# --- Sequence numbers and shards ---------------------------------------------------------------------------------

_era = int(time.time())
_counter = itertools.count(1)


def _next_sequence_number() -> str:
    """Return a sequence number above all before it, in any shard and of any earlier run."""
    return f"49{_era:020d}{next(_counter):034d}"


def _is_open(shard: Members) -> bool:
    return "closed_at" not in shard


def _open_shards(stream: Members) -> dict[str, Members]:
    """Return the shards that take records, by id, in the order of their hash keys."""
    shards = [(name, shard) for name, shard in stream["shards"].items() if _is_open(shard)]
    return dict(sorted(shards, key=lambda item: int(item[1]["starting_hash_key"])))


def _route_to_shard(hash_key: int, stream: Members) -> str:
    for name, shard in stream["shards"].items():
        if _is_open(shard) and int(shard["starting_hash_key"]) <= hash_key <= int(shard["ending_hash_key"]):
            return str(name)
    raise LookupError(f"No shard of {stream['StreamName']} takes the hash key {hash_key}.")


def _expire(stream: Members) -> None:
    """Drop the records, and the closed shards, that are older than the retention period."""
    cutoff = time.time() - stream["RetentionPeriodHours"] * 3600
    for name, shard in list(stream["shards"].items()):
        records = shard["records"]
        if records and records[0]["ApproximateArrivalTimestamp"] < cutoff:
            del records[: bisect.bisect_left(records, cutoff, key=lambda each: each["ApproximateArrivalTimestamp"])]
        if shard.get("closed_at", cutoff) < cutoff:
            del stream["shards"][name]


def _build_shards(original: Callable[..., dict[str, Members]]) -> Callable[..., dict[str, Members]]:
    def build(count: int, start_index: int = 0) -> dict[str, Members]:
        now = time.time()
        return {name: shard | {"opened_at": now} for name, shard in original(count, start_index).items()}

    return build


def _add_shard(stream: Members, first: int, last: int, parent: str, adjacent: str | None = None) -> None:
    name = f"shardId-{_kinesis._max_shard_index(stream) + 1:012d}"
    stream["shards"][name] = {
        "records": [],
        "starting_hash_key": str(first),
        "ending_hash_key": str(last),
        "starting_sequence_number": _next_sequence_number(),
        "parent_shard_id": parent,
        "adjacent_parent_shard_id": adjacent,
        "opened_at": time.time(),
    }


def _close(shard: Members) -> None:
    shard.update(ending_sequence_number=_next_sequence_number(), closed_at=time.time())


def _describe_shard(original: Callable[[str, Members], Members]) -> Callable[[str, Members], Members]:
    def describe(name: str, shard: Members) -> Members:
        described = original(name, shard)
        if not _is_open(shard):
            described["SequenceNumberRange"]["EndingSequenceNumber"] = shard["ending_sequence_number"]
        return described

    return describe


# --- Resharding --------------------------------------------------------------------------------------------------


def _split(stream: Members, name: str, boundary: int) -> None:
    shard = stream["shards"][name]
    first, last = int(shard["starting_hash_key"]), int(shard["ending_hash_key"])
    if not first < boundary <= last:
        raise emulator.AwsError(
            "InvalidArgumentException",
            f"NewStartingHashKey {boundary} used in SplitShard() on shard {name} in stream {stream['StreamName']} "
            f"is not both greater than one plus the shard's StartingHashKey {first} and less than the shard's "
            f"EndingHashKey {last - 1}.",
        )
    _close(shard)
    _add_shard(stream, first, boundary - 1, name)
    _add_shard(stream, boundary, last, name)


def _merge(stream: Members, left: str, right: str) -> None:
    low, high = sorted((stream["shards"][left], stream["shards"][right]), key=lambda each: int(each["ending_hash_key"]))
    if int(low["ending_hash_key"]) + 1 != int(high["starting_hash_key"]):
        raise emulator.AwsError(
            "InvalidArgumentException",
            f"Shards {left} and {right} in stream {stream['StreamName']} are not an adjacent pair of shards eligible "
            "for merging",
        )
    _close(low)
    _close(high)
    _add_shard(stream, int(low["starting_hash_key"]), int(high["ending_hash_key"]), left, right)


def _rescale(stream: Members, count: int) -> None:
    """Give ``stream`` ``count`` open shards of one size by splits, then merges."""
    present = len(_open_shards(stream))
    if not present / 2 <= count <= present * 2:
        raise emulator.AwsError(
            "InvalidArgumentException",
            "UpdateShardCount cannot scale up over double your current open shard count, or below half of it: "
            f"{stream['StreamName']} has {present}, {count} were asked for.",
        )
    starts = {int(first) for first, _ in _kinesis._compute_hash_ranges(count)}
    for start in starts:
        name = _route_to_shard(start, stream)
        if int(stream["shards"][name]["starting_hash_key"]) != start:
            _split(stream, name, start)
    previous = ""
    for name, shard in _open_shards(stream).items():
        if previous and int(shard["starting_hash_key"]) not in starts:
            _merge(stream, previous, name)
            previous = max(stream["shards"])
        else:
            previous = name


def _require(stream_members: Members) -> Members:
    name, stream = _kinesis._resolve_stream(stream_members)
    if not stream:
        account = _responses.get_account_id()
        raise emulator.AwsError("ResourceNotFoundException", f"Stream {name} under account {account} not found.")
    _expire(stream)
    found: Members = stream
    return found


def _require_shard(stream: Members, name: str, *, taking_records: bool = False) -> Members:
    shard = stream["shards"].get(name)
    if shard is None or (taking_records and not _is_open(shard)):
        raise emulator.AwsError(
            "ResourceNotFoundException",
            f"Could not find shard {name} in stream {stream['StreamName']} under account "
            f"{_responses.get_account_id()}.",
        )
    found: Members = shard
    return found


def _split_shard(members: Members) -> Members:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_SplitShard.html"""
    stream = _require(members)
    _require_shard(stream, members["ShardToSplit"], taking_records=True)
    _split(stream, members["ShardToSplit"], int(members["NewStartingHashKey"]))
    arrivals.kinesis.set()
    return {}


def _merge_shards(members: Members) -> Members:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_MergeShards.html"""
    stream = _require(members)
    for name in (members["ShardToMerge"], members["AdjacentShardToMerge"]):
        _require_shard(stream, name, taking_records=True)
    _merge(stream, members["ShardToMerge"], members["AdjacentShardToMerge"])
    arrivals.kinesis.set()
    return {}


def _update_shard_count(members: Members) -> Members:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_UpdateShardCount.html"""
    stream = _require(members)
    present, count = len(_open_shards(stream)), int(members["TargetShardCount"])
    _rescale(stream, count)
    arrivals.kinesis.set()
    return {
        "StreamName": stream["StreamName"],
        "StreamARN": stream["StreamARN"],
        "CurrentShardCount": present,
        "TargetShardCount": count,
    }


# --- Listing -----------------------------------------------------------------------------------------------------


def _token(**members: Any) -> str:
    """Return an opaque token; ``arn`` is the stream's, on which a call with only a token is authorized."""
    return base64.urlsafe_b64encode(json.dumps(members).encode()).decode()


def read_token(token: str) -> Members:
    try:
        members: Members = json.loads(base64.urlsafe_b64decode(token))
    except ValueError as error:
        raise emulator.AwsError("InvalidArgumentException", "The token is not valid.") from error
    return members


def _selected(stream: Members, chosen: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids of the shards a ShardFilter selects, which is all of them without one.

    https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ShardFilter.html
    """
    kind, moment = chosen.get("Type", "FROM_TRIM_HORIZON"), float(chosen.get("Timestamp", 0))
    oldest = time.time() - stream["RetentionPeriodHours"] * 3600
    horizon = max(oldest, min(shard["opened_at"] for shard in stream["shards"].values()))
    for name, shard in sorted(stream["shards"].items()):
        opened, closed = shard["opened_at"], shard.get("closed_at", float("inf"))
        selected = {
            "AFTER_SHARD_ID": name > chosen.get("ShardId", ""),
            "AT_LATEST": _is_open(shard),
            "AT_TRIM_HORIZON": opened <= horizon <= closed,
            "FROM_TRIM_HORIZON": True,
            "AT_TIMESTAMP": opened <= moment <= closed,
            "FROM_TIMESTAMP": closed >= moment,
        }
        if kind not in selected:
            raise emulator.AwsError("InvalidArgumentException", f"{kind} is not a type of a shard filter.")
        if selected[kind]:
            yield name


def _list_shards(members: Members) -> Members:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_ListShards.html"""
    if token := members.get("NextToken"):
        request = read_token(token)
        if time.time() - request["issued"] > _ITERATOR_LIFE:
            raise emulator.AwsError("ExpiredNextTokenException", "The pagination token has expired.")
    else:
        request = {"filter": members.get("ShardFilter") or {}, "after": members.get("ExclusiveStartShardId", "")}
    stream = _require({"StreamARN": request["arn"]} if token else members)
    names = [name for name in _selected(stream, request["filter"]) if name > request["after"]]
    page = names[: members.get("MaxResults", 1000)]
    answer: Members = {"Shards": [_kinesis._shard_out(name, stream["shards"][name]) for name in page]}
    if len(page) < len(names):
        answer["NextToken"] = _token(
            arn=stream["StreamARN"], filter=request["filter"], after=page[-1], issued=time.time()
        )
    return answer


def _count_open_shards(original: Callable[[Members], Answer]) -> Callable[[Members], Answer]:
    def describe(members: Members) -> Answer:
        answer = original(members)
        if answer[0] != 200:
            return answer
        body = json.loads(answer[2])
        body["StreamDescriptionSummary"]["OpenShardCount"] = len(_open_shards(_require(members)))
        return _responses.json_response(body)

    return describe


# --- Reading -----------------------------------------------------------------------------------------------------


def _start(members: Members, records: list[Members]) -> str:
    """Return the sequence number after which an iterator of the asked type reads."""
    kind, number = members.get("ShardIteratorType"), members.get("StartingSequenceNumber")
    if kind == "TRIM_HORIZON":
        return ""
    if kind == "LATEST":
        return _next_sequence_number()
    if kind == "AT_TIMESTAMP" and "Timestamp" in members:
        moment = float(members["Timestamp"])
        index = bisect.bisect_left(records, moment, key=lambda each: each["ApproximateArrivalTimestamp"])
        if index == len(records):
            return _next_sequence_number()
        kind, number = "AT_SEQUENCE_NUMBER", records[index]["SequenceNumber"]
    if kind not in {"AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"} or not (number and number.isdigit()):
        raise emulator.AwsError("InvalidArgumentException", f"{kind} needs a valid position to start from.")
    return str(max(0, int(number) - (kind == "AT_SEQUENCE_NUMBER"))).zfill(_DIGITS)


def _get_shard_iterator(members: Members) -> Members:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetShardIterator.html"""
    stream = _require(members)
    shard = _require_shard(stream, members["ShardId"])
    after = _start(members, shard["records"])
    return {"ShardIterator": _iterator(stream, members["ShardId"], after)}


def _iterator(stream: Members, shard: str, after: str) -> str:
    return _token(arn=stream["StreamARN"], shard=shard, after=after, issued=time.time())


def _get_records(members: Members) -> Members:
    """https://docs.aws.amazon.com/kinesis/latest/APIReference/API_GetRecords.html"""
    position = read_token(members["ShardIterator"])
    if time.time() - position["issued"] > _ITERATOR_LIFE:
        raise emulator.AwsError(
            "ExpiredIteratorException", "Iterator expired. The iterator was created more than 5 minutes ago."
        )
    stream = _require({"StreamARN": position["arn"]})
    shard = _require_shard(stream, position["shard"])
    records, encryption = shard["records"], stream.get("EncryptionType", "NONE")
    first = bisect.bisect_right(records, position["after"], key=lambda each: each["SequenceNumber"])
    page = list(_page(records[first : first + min(members.get("Limit", _GET_RECORDS_MOST), _GET_RECORDS_MOST)]))
    rest = records[first + len(page) :][:1]
    behind = max(0, int((time.time() - rest[0]["ApproximateArrivalTimestamp"]) * 1000)) if rest else 0
    answer: Members = {
        "Records": [each | {"EncryptionType": encryption} for each in page],
        "MillisBehindLatest": behind,
    }
    if rest or _is_open(shard):
        after = page[-1]["SequenceNumber"] if page else position["after"]
        answer["NextShardIterator"] = _iterator(stream, position["shard"], after)
    else:
        answer["ChildShards"] = _children(stream, position["shard"])
    name = stream["StreamName"]
    if page:
        age = (time.time() - page[-1]["ApproximateArrivalTimestamp"]) * 1000
        _record_metric(name, "GetRecords.IteratorAgeMilliseconds", max(0.0, age), "Milliseconds")
        _record_metric(name, "GetRecords.Records", len(page), "Count")
        _record_metric(name, "ReadProvisionedThroughputExceeded", 0, "Count")
    return answer


def _page(records: list[Members]) -> Iterator[Members]:
    """Yield records up to the bytes one answer may have."""
    size = 0
    for record in records:
        size += record_bytes(record)
        if size > _GET_RECORDS_BYTES:
            return
        yield record


def _children(stream: Members, parent: str) -> list[Members]:
    return [
        {
            "ShardId": name,
            "ParentShards": [each for each in _parents(shard) if each],
            "HashKeyRange": {
                "StartingHashKey": shard["starting_hash_key"],
                "EndingHashKey": shard["ending_hash_key"],
            },
        }
        for name, shard in sorted(stream["shards"].items())
        if parent in _parents(shard)
    ]


def _parents(shard: Members) -> tuple[str | None, str | None]:
    return shard["parent_shard_id"], shard["adjacent_parent_shard_id"]


# --- Writing and metrics -----------------------------------------------------------------------------------------


def record_bytes(record: Members) -> int:
    """Return the size of a record's data, which is held as Base64, and key."""
    data: str = record.get("Data", "")
    return len(data) * 3 // 4 - data[-2:].count("=") + len(str(record.get("PartitionKey", "")).encode())


def _record_metric(stream: str, metric: str, value: float, unit: str) -> None:
    """https://docs.aws.amazon.com/streams/latest/dev/monitoring-with-cloudwatch.html"""
    account, region = _responses.get_account_id(), _responses.get_region()
    metrics.record("AWS/Kinesis", metric, {"StreamName": stream}, value, unit, account, region)


def _measure(original: Callable[[Members], Answer]) -> Callable[[Members], Answer]:
    def put(members: Members) -> Answer:
        answer = original(members)
        if answer[0] == 200:
            records = members.get("Records", [members])
            name, _ = _kinesis._resolve_stream(members)
            _record_metric(name, "IncomingRecords", len(records), "Count")
            _record_metric(name, "IncomingBytes", sum(map(record_bytes, records)), "Bytes")
        return answer

    return put


# --- Stacks ------------------------------------------------------------------------------------------------------


def _provision(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(logical: str, properties: Members, stack: str) -> Any:
        name, attributes = original(logical, properties, stack)
        _encrypt(name, properties)
        return name, attributes

    return create


def _update(original: Callable[..., Any]) -> Callable[..., Any]:
    def update(physical: str, old: Members, new: Members, stack: str) -> Any:
        name, attributes = original(physical, old, new, stack)
        stream = _kinesis._streams[name]
        _encrypt(name, new)
        if name == physical and "ShardCount" in new and new["ShardCount"] != old.get("ShardCount"):
            try:
                _rescale(stream, int(new["ShardCount"]))
            except emulator.AwsError as error:
                raise ValueError(error.message) from error
            arrivals.kinesis.set()
        return name, attributes

    return update


def _encrypt(name: str, properties: Members) -> None:
    """Apply StreamEncryption, which the emulator drops."""
    wanted, stream = properties.get("StreamEncryption") or {}, _kinesis._streams[name]
    stream["EncryptionType"] = wanted.get("EncryptionType", "NONE")
    stream.pop("KeyId", None)
    if wanted.get("KeyId"):
        stream["KeyId"] = wanted["KeyId"]


# --- In place of the emulator's ----------------------------------------------------------------------------------


def _handler(function: Callable[[Members], Members]) -> Callable[[Members], Answer]:
    """Return ``function`` as a handler of the emulator's."""

    def handle(members: Members) -> Answer:
        try:
            return _responses.json_response(function(members))
        except emulator.AwsError as error:
            return _responses.error_response_json(error.code, error.message, error.status)

    return handle


for _name, _function in {
    "_get_records": _get_records,
    "_get_shard_iterator": _get_shard_iterator,
    "_list_shards": _list_shards,
    "_merge_shards": _merge_shards,
    "_split_shard": _split_shard,
    "_update_shard_count": _update_shard_count,
}.items():
    emulator.replace(_kinesis, _name, _handler(_function))
emulator.replace(_kinesis, "_next_sequence_number", _next_sequence_number)
emulator.replace(_kinesis, "_route_to_shard", _route_to_shard)
emulator.replace(_kinesis, "_expire_records", _expire)
emulator.patch(_kinesis, "_build_shards", _build_shards)
emulator.patch(_kinesis, "_shard_out", _describe_shard)
emulator.patch(_kinesis, "_describe_stream_summary", _count_open_shards)
emulator.patch(_kinesis, "_put_record", _measure)
emulator.patch(_kinesis, "_put_records", _measure)
_handlers = _provisioners._RESOURCE_HANDLERS["AWS::Kinesis::Stream"]
_handlers["create"] = _provision(_handlers["create"])
_handlers["update"] = _update(_handlers["update"])
