"""Disturbed loads, the sinks that take them, and the manifest of what was sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any
from unittest.mock import MagicMock

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowFailException

from atlas.loadgen import feed as feed_module
from atlas.loadgen import sinks
from atlas.loadgen.disturb import DUPLICATE_DISTANCE, Event, disturb
from atlas.loadgen.feed import Manifest, feed
from atlas.loadgen.sinks import KinesisSink, S3Sink, Sent, Shard, SqsSink
from tests.conftest import Aws

ONCE = {"RetryAttempts": 0}
"""Of an answer to a call that was made once."""


def good(count: int) -> Iterator[Event]:
    for number in range(count):
        order = {"id": f"o-{number}", "customer": number % 7, "amount": "12.50"}
        yield Event(key=f"c-{number % 7}", data=json.dumps(order).encode(), id=f"o-{number}")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("time.sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Recorder:
    """A sink that remembers when it got what."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock
        self.chunks: list[tuple[float, int]] = []
        self.events: list[Event] = []

    def send(self, events: Sequence[Event]) -> Sent:
        self.chunks.append((self.clock.now if self.clock else 0, len(events)))
        self.events += events
        return Sent(records=len(events))

    def until(self, seconds: float) -> int:
        """Return how many events came within the first ``seconds``."""
        return sum(count for at, count in self.chunks if at <= seconds)


class TestDisturb:
    def test_nothing_asked_for_changes_nothing(self) -> None:
        assert list(disturb(good(100), seed=1)) == list(good(100))

    def test_the_same_seed_gives_the_same_sequence(self) -> None:
        def sequence(seed: int) -> list[Event]:
            return list(disturb(good(500), seed, duplicates=0.2, malformed=0.05, reorder=20))

        assert sequence(1) == sequence(1)
        assert sequence(1) != sequence(2)

    def test_every_good_event_comes_through_whole_and_once(self) -> None:
        events = list(disturb(good(3000), seed=3, duplicates=0.3, malformed=0.1, reorder=50))
        whole = [event for event in events if not (event.malformed or event.duplicate)]
        assert sorted(whole, key=lambda event: event.id) == sorted(good(3000), key=lambda event: event.id)
        counts = Counter((event.malformed, event.duplicate) for event in events)
        assert 700 <= counts[False, True] <= 1100
        assert 200 <= counts[True, False] <= 400
        assert counts[True, True] == 0

    def test_a_duplicate_is_an_exact_copy_that_comes_later(self) -> None:
        events = list(disturb(good(3000), seed=3, duplicates=0.3))
        places = {event.id: place for place, event in enumerate(events) if not event.duplicate}
        originals = {event.id: event.data for event in good(3000)}
        distances = [place - places[event.id] for place, event in enumerate(events) if event.duplicate]
        assert all(event.data == originals[event.id] for event in events if event.duplicate)
        assert min(distances) >= 1
        assert 100 < max(distances) < 2 * DUPLICATE_DISTANCE

    def test_no_reader_can_take_a_damaged_copy_for_the_event(self) -> None:
        originals = {event.id: json.loads(event.data) for event in good(400)}
        damaged = [event for event in disturb(good(400), seed=5, malformed=1.0) if event.malformed]
        assert len(damaged) == 400
        readable = []
        for event in damaged:
            try:
                readable.append((json.loads(event.data), originals[event.id]))
            except ValueError:
                continue
        assert len(readable) == 200, "half of them are no JSON at all"
        without_id = [copy for copy, _ in readable if "id" not in copy]
        assert len(without_id) == 100
        assert all(copy["id"] == [original["id"]] for copy, original in readable if "id" in copy)

    def test_an_id_of_several_fields_leaves_nothing(self) -> None:
        events = [Event("k", b'{"a": 1, "b": 2}', "1-2")] * 4
        damaged = [event.data for event in disturb(events, seed=1, malformed=1.0) if event.malformed]
        assert b"{}" in damaged

    def test_reordering_has_a_bound(self) -> None:
        order = [int(event.id[2:]) for event in disturb(good(2000), seed=2, reorder=30)]
        assert order != sorted(order)
        assert all(abs(place - number) <= 30 for place, number in enumerate(order))

    @pytest.mark.parametrize("asked", [{"duplicates": 10}, {"malformed": -0.1}, {"reorder": -1}], ids=str)
    def test_what_makes_no_sense_is_refused(self, asked: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="shares"):
            list(disturb(good(1), seed=1, **asked))


class TestFeed:
    def test_the_manifest_counts_what_was_sent(self) -> None:
        sink, truth = Recorder(), {"orders": 0}

        def events() -> Iterator[Event]:
            for event in good(12_000):
                truth["orders"] += 1
                yield event

        manifest = feed(disturb(events(), 1, duplicates=0.1, malformed=0.01), sink, truth)
        assert manifest.events == 12_000
        assert manifest.duplicates == sum(event.duplicate for event in sink.events) > 1000
        assert manifest.malformed == sum(event.malformed for event in sink.events) > 60
        assert manifest.records == len(sink.events) == 12_000 + manifest.duplicates + manifest.malformed
        assert manifest.truth == {"orders": 12_000}
        assert manifest.started_at <= manifest.finished_at

    def test_a_rate_is_kept(self, clock: Clock) -> None:
        sink = Recorder(clock)
        feed(good(1000), sink, {}, rate=50)
        assert clock.now == pytest.approx(20, abs=0.2)
        assert all(sink.until(second) == pytest.approx(50 * second, abs=6) for second in range(1, 20))

    def test_a_low_rate_sends_one_at_a_time(self, clock: Clock) -> None:
        sink = Recorder(clock)
        feed(good(5), sink, {}, rate=0.5)
        assert [count for _, count in sink.chunks] == [1] * 5
        assert all(1.85 < later - earlier < 2.15 for (earlier, _), (later, _) in pairwise(sink.chunks))

    def test_a_burst_comes_in_the_first_second_of_every_ten(self, clock: Clock) -> None:
        sink = Recorder(clock)
        feed(good(5800), sink, {}, rate=100, burst=20)
        assert sink.until(1) == pytest.approx(2000, abs=210)
        assert sink.until(9.9) == pytest.approx(2890, abs=20)
        assert sink.until(11) == pytest.approx(4900, abs=210)

    def test_events_wait_until_they_are_due(self, clock: Clock) -> None:
        sink = Recorder(clock)
        events = [replace(event, due=due) for event, due in zip(good(4), (0, 0, 3, 3.05), strict=True)]
        feed(events, sink, {})
        assert [(round(at, 1), count) for at, count in sink.chunks] == [(0, 2), (3, 1), (3.1, 1)]

    def test_a_load_has_an_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(feed_module, "MOST_RECORDS", 12_000)
        assert feed(good(12_000), Recorder(), {}).records == 12_000
        sink = Recorder()
        with pytest.raises(AirflowFailException, match="more than 12,000 events"):
            feed(good(10**9), sink, {})
        assert len(sink.events) == 10_000

    @pytest.mark.parametrize("asked", [{"rate": 0}, {"rate": 10, "burst": 0.5}], ids=str)
    def test_what_makes_no_sense_is_refused(self, asked: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="must be"):
            feed(good(1), Recorder(), {}, **asked)


class TestManifest:
    def test_it_is_read_as_it_was_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        s3 = MagicMock()
        manifest = feed(good(3), Recorder(), {"revenue": "37.50"})
        manifest = Manifest(**{**vars(manifest), "shards": {"shardId-0": Shard(last="9" * 56, records=3)}})
        counts = manifest.store(s3, "s3://lake/s00/runs/r1/feed.json")
        assert counts == {
            "manifest": "s3://lake/s00/runs/r1/feed.json",
            **{"events": 3, "duplicates": 0, "malformed": 0, "records": 3, "retried": 0},
        }
        text, key, bucket = s3.load_string.call_args.args
        assert (bucket, key) == ("lake", "s00/runs/r1/feed.json")
        s3.read_key.return_value = text
        assert Manifest.load(s3, counts["manifest"]) == manifest


class TestPartialFailures:
    """What a batch answer refuses is sent again, and only that."""

    @pytest.fixture
    def kinesis(self, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> MagicMock:
        client = MagicMock()
        monkeypatch.setattr(sinks, "KinesisHook", MagicMock(return_value=MagicMock(get_conn=lambda: client)))
        return client

    @pytest.fixture
    def sqs(self, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> MagicMock:
        client = MagicMock()
        monkeypatch.setattr(sinks, "SqsHook", MagicMock(return_value=MagicMock(get_conn=lambda: client)))
        return client

    def test_refused_records_go_again_in_their_order(self, kinesis: MagicMock) -> None:
        refusals = [{1, 3}, {0}, set[int]()]
        asked: list[list[bytes]] = []
        sequence = iter(range(100, 200))

        def put_records(StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
            asked.append([record["Data"] for record in Records])
            refused = refusals.pop(0)
            code = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "Rate exceeded"}
            return {
                "ResponseMetadata": ONCE,
                "FailedRecordCount": len(refused),
                "Records": [
                    code if index in refused else {"ShardId": "shardId-0", "SequenceNumber": str(next(sequence))}
                    for index in range(len(Records))
                ],
            }

        kinesis.put_records.side_effect = put_records
        data = [event.data for event in good(5)]
        sent = KinesisSink("orders").send(list(good(5)))
        assert asked == [data, [data[1], data[3]], [data[1]]]
        assert sent == Sent(records=5, retried=3, shards={"shardId-0": Shard(last="104", records=5)})

    def test_a_stream_that_takes_nothing_is_given_up_by_its_reason(self, kinesis: MagicMock, clock: Clock) -> None:
        refusal = {"ErrorCode": "InternalFailure", "ErrorMessage": "Internal Service Failure"}
        kinesis.put_records.return_value = {"ResponseMetadata": ONCE, "Records": [refusal] * 5}
        with pytest.raises(TimeoutError, match=r"5 entries .* 300 seconds: InternalFailure"):
            KinesisSink("orders").send(list(good(5)))
        assert clock.now > 300

    def test_what_a_repeated_call_damaged_may_have_arrived_twice(self, kinesis: MagicMock) -> None:
        record = {"ShardId": "shardId-0", "SequenceNumber": "7"}
        answer = {"ResponseMetadata": {"RetryAttempts": 1}, "Records": [record] * 3}
        kinesis.put_records.return_value = answer
        events = [Event("k", b"good", "a"), Event("k", b"damaged", "a", malformed=True), Event("k", b"good", "b")]
        assert KinesisSink("orders").send(events).malformed_again == 1
        answer["ResponseMetadata"] = ONCE
        assert KinesisSink("orders").send(events).malformed_again == 0

    def test_sequence_numbers_compare_as_numbers(self) -> None:
        shard = Shard()
        for sequence in ("999", "1000", "998"):
            shard.add(sequence)
        assert shard == Shard(last="1000", records=3)

    def test_calls_stay_below_the_limits_of_kinesis(self, kinesis: MagicMock) -> None:
        calls: list[list[dict[str, Any]]] = []

        def put_records(StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N803
            calls.append(Records)
            records = [{"ShardId": "shardId-0", "SequenceNumber": "1"}] * len(Records)
            return {"ResponseMetadata": ONCE, "Records": records}

        kinesis.put_records.side_effect = put_records
        small = [Event("k", b"x", "i")] * 1200
        large = [Event("key", b"x" * (4 * 2**20), "i")] * 3
        assert KinesisSink("orders").send([*small, *large]).records == 1203
        sizes = [sum(len(record["Data"]) + len(record["PartitionKey"]) for record in call) for call in calls]
        assert [len(call) for call in calls] == [500, 500, 202, 1]
        assert max(sizes) <= 10 * 2**20
        with pytest.raises(ValueError, match="larger than a call may be"):
            KinesisSink("orders").send([Event("k", b"x" * (10 * 2**20), "i")])

    def test_refused_messages_go_again(self, sqs: MagicMock) -> None:
        failed = {"Id": "2", "SenderFault": False, "Code": "ServiceUnavailable"}
        sqs.send_message_batch.side_effect = [{"Failed": [failed]}, {}]
        sent = SqsSink("https://queue").send(list(good(4)))
        assert sent == Sent(records=4, retried=1)
        again = sqs.send_message_batch.call_args.kwargs["Entries"]
        assert [json.loads(entry["MessageBody"])["id"] for entry in again] == ["o-2"]

    def test_a_message_that_cannot_be_accepted_is_not_tried_again(self, sqs: MagicMock) -> None:
        failed = {"Id": "0", "SenderFault": True, "Code": "InvalidMessageContents", "Message": "no such character"}
        sqs.send_message_batch.return_value = {"Failed": [failed]}
        with pytest.raises(ValueError, match="InvalidMessageContents: no such character"):
            SqsSink("https://queue").send(list(good(1)))
        assert sqs.send_message_batch.call_count == 1


class TestServices:
    """Against the embedded AWS."""

    def test_a_stream_gets_every_record_and_the_manifest_their_positions(self, connected: Aws) -> None:
        kinesis = connected.client("kinesis")
        kinesis.create_stream(StreamName="feed-orders", ShardCount=2)
        kinesis.get_waiter("stream_exists").wait(StreamName="feed-orders", WaiterConfig={"Delay": 1})
        manifest = feed(disturb(good(2000), 1, duplicates=0.1, malformed=0.02), KinesisSink("feed-orders"), {})
        stored: dict[str, list[str]] = {}
        for shard_id in manifest.shards:
            iterator = kinesis.get_shard_iterator(
                StreamName="feed-orders", ShardId=shard_id, ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while records := (page := kinesis.get_records(ShardIterator=iterator, Limit=10_000))["Records"]:
                stored.setdefault(shard_id, []).extend(record["SequenceNumber"] for record in records)
                iterator = page["NextShardIterator"]
        assert {shard_id: (shard.last, shard.records) for shard_id, shard in manifest.shards.items()} == {
            shard_id: (max(numbers, key=int), len(numbers)) for shard_id, numbers in stored.items()
        }
        assert len(stored) == 2
        assert manifest.records == sum(map(len, stored.values())) > 2200

    @pytest.mark.parametrize(
        ("fifo", "attributes", "arrived"),
        [
            pytest.param(False, {}, 25, id="standard"),
            pytest.param(True, {"FifoQueue": "true"}, 23, id="fifo drops equal messages"),
        ],
    )
    def test_a_queue_gets_every_message(
        self, connected: Aws, fifo: bool, attributes: dict[str, str], arrived: int
    ) -> None:
        sqs = connected.client("sqs")
        url = sqs.create_queue(QueueName=f"feed-orders{'.fifo' if fifo else ''}", Attributes=attributes)["QueueUrl"]
        events = [*good(20), *list(good(2)), *(event for event in disturb(good(3), 1, malformed=1) if event.malformed)]
        assert SqsSink(url, fifo=fifo).send(events).records == 25
        depth = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])["Attributes"]
        assert int(depth["ApproximateNumberOfMessages"]) == arrived

    def test_a_bucket_gets_the_same_objects_again(self, connected: Aws) -> None:
        s3 = connected.client("s3")
        s3.create_bucket(Bucket="feed-lake")
        for _ in range(2):
            sink = S3Sink("feed-lake", "s00/raw")
            sink.send(list(good(3)))
            sink.send(list(good(2)))
        hook = S3Hook()
        keys = hook.list_keys("feed-lake", "s00/raw")
        assert keys == ["s00/raw/part-00000.jsonl", "s00/raw/part-00001.jsonl"]
        assert hook.read_key(keys[1], "feed-lake").encode() == b"".join(event.data + b"\n" for event in good(2))


def test_a_feed_without_rate_hands_over_large_chunks() -> None:
    sink = Recorder()
    feed(good(2 * feed_module.CHUNK + 1), sink, {})
    assert [count for _, count in sink.chunks] == [feed_module.CHUNK, feed_module.CHUNK, 1]
