"""Kinesis streams and DynamoDB streams, read through their public APIs, in the one shape their readers use."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping as Members
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from local.aws import arrivals, emulator
from local.aws.event_sources.mapping import Event, Mapping

_dynamodb = emulator.module("services.dynamodb")
_kinesis = emulator.module("services.kinesis")


@dataclass(frozen=True)
class Record:
    """A stream's record: the event the function gets, its sequence number, its arrival in seconds since 1970, the
    key whose records stay in order, and its size in the payload."""

    event: Event
    sequence: str
    arrived: float
    key: str
    size: int


@dataclass(frozen=True)
class Position:
    """Where to read a shard from: a type of shard iterator and its sequence number or time."""

    kind: str
    value: Any = None


@dataclass(frozen=True)
class Shard:
    """A shard and those it came from by a split or a merge."""

    name: str
    parents: frozenset[str]


class Stream(Protocol):
    """A source with shards. Its calls raise ``ClientError`` and ``AwsError``."""

    bell: arrivals.Bell
    batch_info: str
    """The member of a discarded batch's record that describes the batch."""

    def start(self) -> Position:
        """Return where every shard is read from at first, by the mapping's settings and the present moment."""
        ...

    def shards(self) -> list[Shard]:
        """Return the stream's shards."""
        ...

    def iterator(self, shard: str, position: Position) -> str:
        """Return an iterator of ``shard``."""
        ...

    def read(self, shard: str, iterator: str) -> tuple[list[Record], str | None]:
        """Return the next records and the iterator after them, None at the end of a closed shard."""
        ...

    def tree(self, record: Record) -> Members[str, Any]:
        """Return ``record`` as filter patterns see it."""
        ...

    def newest(self, shard: str) -> str:
        """Return the sequence number of the newest record of ``shard``, and something else once it is closed.

        This looks into the emulator, so that a bell that rang for another stream costs no call.
        """
        ...


class KinesisStream:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-kinesis.html"""

    bell = arrivals.kinesis
    batch_info = "KinesisBatchInfo"
    actions = ("kinesis:GetRecords", "kinesis:GetShardIterator", "kinesis:DescribeStream", "kinesis:ListShards")

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._name = mapping.source.rpartition("/")[2]

    def start(self) -> Position:
        """Shards are read from one moment on: those that came later from splits have nothing before it."""
        chosen = self._mapping.record["StartingPosition"]
        if chosen == "TRIM_HORIZON":
            return Position("TRIM_HORIZON")
        if chosen == "AT_TIMESTAMP":
            return Position("AT_TIMESTAMP", float(self._mapping.record["StartingPositionTimestamp"]))
        return Position("AFTER_SEQUENCE_NUMBER", _kinesis._next_sequence_number())

    def shards(self) -> list[Shard]:
        """Follow the pages of ListShards."""
        pages = self._mapping.client("kinesis").get_paginator("list_shards").paginate(StreamARN=self._mapping.source)
        members = ("ParentShardId", "AdjacentParentShardId")
        return [
            Shard(each["ShardId"], frozenset(each[member] for member in members if member in each))
            for page in pages
            for each in page["Shards"]
        ]

    def iterator(self, shard: str, position: Position) -> str:
        """A time goes in another member than a sequence number."""
        member = "Timestamp" if position.kind == "AT_TIMESTAMP" else "StartingSequenceNumber"
        found: str = self._mapping.client("kinesis").get_shard_iterator(
            StreamARN=self._mapping.source,
            ShardId=shard,
            ShardIteratorType=position.kind,
            **({member: position.value} if position.value is not None else {}),
        )["ShardIterator"]
        return found

    def read(self, shard: str, iterator: str) -> tuple[list[Record], str | None]:
        """As many as the API gives."""
        answer = self._mapping.client("kinesis").get_records(ShardIterator=iterator)
        role = self._mapping.role
        return [self._record(shard, role, each) for each in answer["Records"]], answer.get("NextShardIterator")

    def _record(self, shard: str, role: str, record: Members[str, Any]) -> Record:
        sequence, arrived = record["SequenceNumber"], record["ApproximateArrivalTimestamp"].timestamp()
        data = base64.b64encode(record["Data"]).decode()
        event = {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": record["PartitionKey"],
                "sequenceNumber": sequence,
                "data": data,
                "approximateArrivalTimestamp": arrived,
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{shard}:{sequence}",
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": role,
            "awsRegion": self._mapping.region,
            "eventSourceARN": self._mapping.source,
        }
        return Record(event, sequence, arrived, record["PartitionKey"], len(data) + _KINESIS_FRAME)

    def tree(self, record: Record) -> Members[str, Any]:
        """The data is matched as the JSON it holds; data that is no JSON matches no pattern about data."""
        described = record.event["kinesis"]
        try:
            data = json.loads(base64.b64decode(described["data"]))
        except (ValueError, binascii.Error):
            return {name: value for name, value in described.items() if name != "data"}
        return {**described, "data": data}

    def newest(self, shard: str) -> str:
        """Of a closed shard, ask the API."""
        stream = _kinesis._streams.get_scoped(self._mapping.source.split(":")[4], self._mapping.region, self._name)
        found = stream["shards"].get(shard) if stream else None
        if found is None or "closed_at" in found:
            return "closed"
        records = found["records"]
        return str(records[-1]["SequenceNumber"]) if records else ""


_KINESIS_FRAME = 700
"""Bytes of an event's other members, about."""


class DynamoDbStream:
    """https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html"""

    bell = arrivals.dynamodb
    batch_info = "DDBStreamBatchInfo"
    actions = ("dynamodb:GetRecords", "dynamodb:GetShardIterator", "dynamodb:DescribeStream")

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._table = mapping.source.split("/")[1]

    def _live(self) -> list[Event]:
        found: list[Event] = _dynamodb.stream_live_records(
            self._table, account_id=self._mapping.account, region=self._mapping.region
        )
        return found

    def start(self) -> Position:
        """LATEST is after the newest record of the moment in which the mapping is made."""
        newest = self._live()[-1:] if self._mapping.record["StartingPosition"] == "LATEST" else []
        if newest:
            return Position("AFTER_SEQUENCE_NUMBER", newest[0]["dynamodb"]["SequenceNumber"])
        return Position("TRIM_HORIZON")

    def shards(self) -> list[Shard]:
        """Follow the pages of DescribeStream."""
        client, found, members = self._mapping.client("dynamodbstreams"), [], {"StreamArn": self._mapping.source}
        while True:
            page = client.describe_stream(**members)["StreamDescription"]
            found += [
                Shard(each["ShardId"], frozenset(filter(None, [each.get("ParentShardId")]))) for each in page["Shards"]
            ]
            if "LastEvaluatedShardId" not in page:
                return found
            members["ExclusiveStartShardId"] = page["LastEvaluatedShardId"]

    def iterator(self, shard: str, position: Position) -> str:
        """A position that has been trimmed, after 24 hours, is the oldest there is."""
        client = self._mapping.client("dynamodbstreams")
        members = {"SequenceNumber": position.value} if position.value is not None else {}
        try:
            answer = client.get_shard_iterator(
                StreamArn=self._mapping.source, ShardId=shard, ShardIteratorType=position.kind, **members
            )
        except client.exceptions.TrimmedDataAccessException:
            answer = client.get_shard_iterator(
                StreamArn=self._mapping.source, ShardId=shard, ShardIteratorType="TRIM_HORIZON"
            )
        return str(answer["ShardIterator"])

    def read(self, shard: str, iterator: str) -> tuple[list[Record], str | None]:
        """As many as the API gives."""
        answer = self._mapping.client("dynamodbstreams").get_records(ShardIterator=iterator)
        return [self._record(each) for each in answer["Records"]], answer.get("NextShardIterator")

    def _record(self, record: Members[str, Any]) -> Record:
        arrived = record["dynamodb"]["ApproximateCreationDateTime"].timestamp()
        event = {**_json_ready(record), "eventSourceARN": self._mapping.source}
        if identity := record.get("userIdentity"):
            event["userIdentity"] = {"type": identity["Type"], "principalId": identity["PrincipalId"]}
        change = event["dynamodb"]
        key = json.dumps(change["Keys"], sort_keys=True)
        return Record(event, change["SequenceNumber"], arrived, key, len(json.dumps(event)))

    def tree(self, record: Record) -> Members[str, Any]:
        """Patterns name the event's own members: eventName, dynamodb.NewImage.status.S and so on."""
        return record.event

    def newest(self, shard: str) -> str:
        """Of a stream that is not the table's, or no longer, ask the API."""
        table = _dynamodb._tables.get_scoped(self._mapping.account, self._mapping.region, self._table)
        if table is None or table.get("LatestStreamArn") != self._mapping.source:
            return "closed"
        return next((str(each["dynamodb"]["SequenceNumber"]) for each in self._live()[-1:]), "")


def _json_ready(value: Any) -> Any:
    """Return what the SDK parsed as it stands in an event: binary values in Base64, times in seconds since 1970."""
    if isinstance(value, dict):
        return {name: _json_ready(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_json_ready(each) for each in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return int(value.timestamp()) if isinstance(value, datetime) else value
