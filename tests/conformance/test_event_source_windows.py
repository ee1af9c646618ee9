"""Tumbling windows of event source mappings: states, ends, failures, streams of tables."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from typing import Any

import pytest

from tests.conformance.event_sources import READ_CHANGES, READ_STREAM, eventually
from tests.conformance.test_dynamodb import item, table
from tests.conformance.test_event_sources import Stream
from tests.conformance.test_iam import allow, arn, unique
from tests.conformance.test_lambda import pending_function
from tests.conftest import Aws

SOURCE = """
import base64, json, os

def payload(record):
    if "kinesis" in record:
        return json.loads(base64.b64decode(record["kinesis"]["data"]))
    return {"id": record["dynamodb"]["Keys"]["sk"]["S"]}

def handler(event, context):
    rows = [payload(record) for record in event["Records"]]
    told = {name: value for name, value in event.items() if name not in ("Records", "state")}
    ids = [row["id"] for row in rows]
    before = event["state"].get("ids", [])
    print("SEEN " + json.dumps({**told, "ids": ids, "state": before}), flush=True)
    for row in rows:
        if row.get("fails") and not os.path.exists(row["fails"]):
            open(row["fails"], "w").close()
            raise ValueError(row["id"])
    if event["isFinalInvokeForWindow"]:
        if "fail the end" in before:
            raise ValueError("end")
        return {"state": {}}
    if "forget" in ids:
        return {"batchItemFailures": []}
    large = {"blob": "x" * 1100000} if "large" in ids else {}
    return {"state": {"ids": before + ids, **large}, "batchItemFailures": []}
"""


class Probe:
    """A function that adds the ids of its records to the state, and tells each event but for its records."""

    def __init__(self, aws: Aws) -> None:
        self._name = unique("windows")
        self._lambda, self._logs = aws.client("lambda"), aws.client("logs")
        reading = allow(READ_STREAM, arn("kinesis", "stream/*"))
        pending_function(aws, self._name, SOURCE, reading, allow(READ_CHANGES, arn("dynamodb", "table/*/stream/*")))

    def map(self, source: str, seconds: int, **settings: Any) -> str:
        made = self._lambda.create_event_source_mapping(
            FunctionName=self._name,
            EventSourceArn=source,
            StartingPosition="TRIM_HORIZON",
            TumblingWindowInSeconds=seconds,
            **settings,
        )
        return str(made["UUID"])

    def seen(self, source: str) -> list[dict[str, Any]]:
        """Return what the function was told by the mapping of ``source``, in order."""
        group = f"/aws/lambda/{self._name}"
        try:
            found = self._logs.filter_log_events(logGroupName=group, filterPattern='"SEEN "')["events"]
        except self._logs.exceptions.ResourceNotFoundException:
            return []
        told = [json.loads(each["message"].partition("SEEN ")[2].splitlines()[0]) for each in found]
        return [each for each in told if each["eventSourceARN"] == source]

    def ended(self, source: str) -> list[dict[str, Any]]:
        """Return the events of windows' ends."""
        return [each for each in self.seen(source) if each["isFinalInvokeForWindow"]]


@pytest.fixture(scope="module")
def probe(aws: Aws) -> Probe:
    return Probe(aws)


@pytest.fixture
def stream(aws: Aws) -> Stream:
    return Stream(aws)


def at_the_start_of(seconds: int) -> None:
    """Wait for the start of a window, so that what follows is within it."""
    time.sleep(seconds - time.time() % seconds + 0.05)


def test_a_window_gathers_a_state_and_ends(probe: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html"""
    probe.map(stream.arn, 2, BatchSize=2)
    at_the_start_of(2)
    stream.put("a", "b", "c")
    eventually(lambda: probe.ended(stream.arn))
    stream.put("d")
    first, second = eventually(lambda: probe.ended(stream.arn), lambda found: len(found) == 2)
    assert (first["ids"], first["state"]) == ([], ["a", "b", "c"])
    assert (second["ids"], second["state"]) == ([], ["d"])
    events = probe.seen(stream.arn)
    assert [(each["ids"], each["state"], each["isFinalInvokeForWindow"]) for each in events] == [
        (["a", "b"], [], False),
        (["c"], ["a", "b"], False),
        ([], ["a", "b", "c"], True),
        (["d"], [], False),
        ([], ["d"], True),
    ]
    for each in events:
        assert (each["shardId"], each["isWindowTerminatedEarly"]) == ("shardId-000000000000", False)
        start, end = (time.strptime(each["window"][name], "%Y-%m-%dT%H:%M:%SZ") for name in ("start", "end"))
        assert (end.tm_sec - start.tm_sec) % 60 == 2
        assert start.tm_sec % 2 == 0


def test_records_of_different_windows_are_never_in_one_batch(probe: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html"""
    at_the_start_of(1)
    stream.put("a", "b")
    at_the_start_of(1)
    stream.put("c")
    probe.map(stream.arn, 1)
    eventually(lambda: probe.ended(stream.arn), lambda found: len(found) == 2)
    windows: dict[str, list[str]] = defaultdict(list)
    for each in probe.seen(stream.arn):
        windows[each["window"]["start"]] += each["ids"]
    assert list(windows.values()) == [["a", "b"], ["c"]]


def test_a_failed_batch_leaves_the_state_as_it_was(probe: Probe, stream: Stream, tmp_path: Any) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html"""
    probe.map(stream.arn, 2, BatchSize=1)
    at_the_start_of(2)
    stream.put("a", {"id": "b", "fails": str(tmp_path / "failed")}, "c")
    [end] = eventually(lambda: probe.ended(stream.arn))
    assert end["state"] == ["a", "b", "c"]
    assert [each["ids"] for each in probe.seen(stream.arn)] == [["a"], ["b"], ["b"], ["c"], []]


def test_a_response_without_a_state_has_failed(probe: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html"""
    probe.map(stream.arn, 1, BatchSize=1, MaximumRetryAttempts=1)
    stream.put("forget", "next")
    ends = eventually(lambda: probe.ended(stream.arn), lambda found: any("next" in each["state"] for each in found))
    assert "forget" not in ends[-1]["state"]
    assert [each["ids"] for each in probe.seen(stream.arn)].count(["forget"]) == 2


def test_a_state_that_is_too_large_ends_its_window_early(probe: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html"""
    probe.map(stream.arn, 2, BatchSize=1)
    at_the_start_of(2)
    stream.put("large", "rest")
    early, last = eventually(lambda: probe.ended(stream.arn), lambda found: len(found) == 2)
    assert (early["state"], early["isWindowTerminatedEarly"]) == (["large"], True)
    assert (last["state"], last["isWindowTerminatedEarly"]) == (["rest"], False)
    assert early["window"] == last["window"]


def test_the_end_of_a_window_is_tried_as_often_as_a_batch(probe: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-kinesis-windows.html"""
    probe.map(stream.arn, 1, MaximumRetryAttempts=1)
    stream.put("fail the end")
    eventually(lambda: probe.ended(stream.arn), lambda found: len(found) == 2)
    stream.put("next")
    ends = eventually(lambda: probe.ended(stream.arn), lambda found: len(found) == 3)
    assert [each["state"] for each in ends] == [["fail the end"], ["fail the end"], ["next"]]


def test_a_disabled_mapping_keeps_the_state_of_its_window(aws: Aws, probe: Probe, stream: Stream) -> None:
    """https://docs.aws.amazon.com/lambda/latest/api/API_UpdateEventSourceMapping.html"""
    mapping, client = probe.map(stream.arn, 4), aws.client("lambda")
    at_the_start_of(4)
    stream.put("before")
    eventually(lambda: probe.seen(stream.arn))
    client.update_event_source_mapping(UUID=mapping, Enabled=False)
    stream.put("after")
    client.update_event_source_mapping(UUID=mapping, Enabled=True)
    [end] = eventually(lambda: probe.ended(stream.arn))
    assert end["state"] == ["before", "after"]


def test_changes_of_a_table_have_windows_too(aws: Aws, probe: Probe) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-windows.html"""
    name = table(aws, StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"})
    client = aws.client("dynamodb")
    source = client.describe_table(TableName=name)["Table"]["LatestStreamArn"]
    probe.map(source, 2)
    at_the_start_of(2)
    for sk in ("a", "b"):
        client.put_item(TableName=name, Item=item(sk))
    [end] = eventually(lambda: probe.ended(source))
    assert end["state"] == ["a", "b"]
