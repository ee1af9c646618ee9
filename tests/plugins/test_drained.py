"""Waiting until a load is processed, against the embedded DynamoDB, SQS and S3."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Timer
from typing import Any

import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowException, TaskDeferred

from atlas.loadgen.feed import Manifest
from atlas.loadgen.sinks import Shard
from atlas.sensors.drained import DrainedSensor
from atlas.triggers.drained import DrainedTrigger
from tests.conftest import Aws

LAST = {"shardId-000000000000": "9" + "0" * 55, "shardId-000000000001": "1" + "0" * 56}
"""As text the first is the larger one, as a number the second."""
MANIFEST = "s3://drained-lake/s00/runs/r1/feed.json"
CHECKPOINTS = {"table": "drained-state", "consumer": "totals", "incarnation": "stack-1"}


class Bench:
    """The state table, the manifest and a queue of a scenario."""

    def __init__(self, aws: Aws) -> None:
        self.dynamodb = aws.client("dynamodb")
        self.sqs = aws.client("sqs")
        self.dynamodb.create_table(
            TableName="drained-state",
            KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
            BillingMode="PAY_PER_REQUEST",
        )
        aws.client("s3").create_bucket(Bucket="drained-lake")
        self.queue = self.sqs.create_queue(QueueName="drained-queue")["QueueUrl"]

    def feed(self, shards: dict[str, str]) -> str:
        now = datetime.now(UTC)
        manifest = Manifest(
            **dict.fromkeys(("events", "duplicates", "malformed", "records", "retried"), 1),
            shards={shard_id: Shard(last=last, records=1) for shard_id, last in shards.items()},
            started_at=now,
            finished_at=now,
            truth={},
        )
        manifest.store(S3Hook(), MANIFEST)
        return MANIFEST

    def reach(self, shard_id: str, sequence: int, consumer: str = "totals", part: int = 0) -> None:
        item = {"pk": f"checkpoint#stack-1#{consumer}", "sk": shard_id, "sequence": f"{sequence:0129}"}
        values = {name: {"S": value} for name, value in item.items()} | {"part": {"N": str(part)}}
        self.dynamodb.put_item(TableName="drained-state", Item=values)


@pytest.fixture
def bench(connected: Aws) -> Iterator[Bench]:
    bench = Bench(connected)
    yield bench
    bench.dynamodb.delete_table(TableName="drained-state")
    bench.sqs.delete_queue(QueueUrl=bench.queue)


def sensor(**changes: Any) -> DrainedSensor:
    arguments: dict[str, Any] = {"checkpoints": CHECKPOINTS, "poll_interval": 0.05, "timeout": 0, "deferrable": False}
    return DrainedSensor(task_id="wait_until_drained", **(arguments | changes))


def look(**changes: Any) -> dict[str, float]:
    return sensor(**changes).execute({})


@pytest.mark.parametrize("field", DrainedSensor.template_fields)
def test_template_fields_are_attributes(field: str) -> None:
    assert hasattr(sensor(), field)


def test_addresses_from_earlier_tasks_are_rendered() -> None:
    assert {"manifest", "checkpoints", "queues"} <= set(DrainedSensor.template_fields)


def test_nothing_to_look_at_is_refused() -> None:
    with pytest.raises(ValueError, match="give checkpoints or queues"):
        sensor(checkpoints=None)


def test_a_stream_is_drained_when_all_checkpoints_are_there(bench: Bench) -> None:
    for shard_id, last in LAST.items():
        bench.reach(shard_id, int(last))
    drained = look(manifest=bench.feed(LAST))
    assert (drained["shards"], drained["queues"]) == (2, 0)


def test_a_record_that_is_applied_in_part_is_not_drained(bench: Bench) -> None:
    shard_id = next(iter(LAST))
    bench.reach(shard_id, int(LAST[shard_id]), part=97)
    with pytest.raises(AirflowException, match=f"shard {shard_id} is at "):
        look(manifest=bench.feed({shard_id: LAST[shard_id]}))


def test_what_is_behind_is_named_and_numbers_are_compared_as_numbers(bench: Bench) -> None:
    first, second = LAST
    bench.reach(first, int(LAST[first]) + 1)
    bench.reach(second, int(LAST[first]))
    with pytest.raises(AirflowException) as raised:
        look(manifest=bench.feed(LAST))
    assert str(raised.value) == (
        f"Not drained after 0 seconds: shard {second} is at {LAST[first]}, wanted {LAST[second]}"
    )


def test_another_consumers_checkpoint_does_not_count(bench: Bench) -> None:
    (shard_id, last), *_ = LAST.items()
    bench.reach(shard_id, int(last), consumer="archive")
    with pytest.raises(AirflowException, match=f"shard {shard_id} is at its beginning"):
        look(manifest=bench.feed({shard_id: last}))


def test_shards_without_records_are_drained(bench: Bench) -> None:
    assert look(manifest=bench.feed({}))["shards"] == 0


@pytest.mark.parametrize("manifest", [None, ""], ids=["none", "rendered from nothing"])
def test_without_a_feed_only_queues_count(bench: Bench, manifest: str | None) -> None:
    assert look(manifest=manifest, queues=[bench.queue], settle_seconds=0)["queues"] == 1


def test_a_queue_counts_messages_in_flight_and_delayed(bench: Bench) -> None:
    for delay in (0, 0, 60):
        bench.sqs.send_message(QueueUrl=bench.queue, MessageBody="m", DelaySeconds=delay)
    bench.sqs.receive_message(QueueUrl=bench.queue, MaxNumberOfMessages=1)
    with pytest.raises(AirflowException, match="queue drained-queue has 1 visible, 1 in flight, 1 delayed"):
        look(checkpoints=None, queues=[bench.queue])


def test_a_queue_has_to_stay_empty(bench: Bench) -> None:
    """A message that comes back while the queue settles begins the wait anew."""
    emptied = []

    def disturb() -> None:
        bench.sqs.send_message(QueueUrl=bench.queue, MessageBody="m")
        time.sleep(0.4)
        emptied.append(time.monotonic())
        bench.sqs.purge_queue(QueueUrl=bench.queue)

    Timer(0.3, disturb).start()
    look(checkpoints=None, queues=[bench.queue], settle_seconds=1.5, timeout=20)
    assert time.monotonic() - emptied[0] >= 1.5


def test_a_queue_that_has_not_settled_is_not_drained(bench: Bench) -> None:
    with pytest.raises(AirflowException, match="only just become empty"):
        look(checkpoints=None, queues=[bench.queue], timeout=0.2)


def test_it_waits_until_the_checkpoint_moves(bench: Bench) -> None:
    (shard_id, last), *_ = LAST.items()
    manifest = bench.feed({shard_id: last})
    reached = []

    def reach() -> None:
        reached.append(shard_id)
        bench.reach(shard_id, int(last))

    Timer(0.5, reach).start()
    look(manifest=manifest, timeout=10)
    assert reached


def test_deferred_it_hands_everything_to_the_trigger(bench: Bench) -> None:
    operator = sensor(manifest=bench.feed(LAST), queues=[bench.queue], deferrable=True, timeout=600, settle_seconds=0)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({})
    assert deferred.value.method_name == "resume"
    path, arguments = deferred.value.trigger.serialize()
    assert path == "atlas.triggers.drained.DrainedTrigger"
    assert arguments["wanted"] == LAST
    assert arguments["deadline"] == pytest.approx(time.time() + 600, abs=5)
    for shard_id, last in LAST.items():
        bench.reach(shard_id, int(last))

    async def fire() -> list[dict[str, Any]]:
        return [event.payload async for event in DrainedTrigger(**arguments).run()]

    (event,) = asyncio.run(fire())
    drained = operator.resume({}, event)
    assert (drained["shards"], drained["queues"]) == (2, 1)


def test_a_deadline_outlives_the_triggerer(bench: Bench) -> None:
    """The trigger starts again when a triggerer does; its time does not."""
    _, arguments = _trigger(deadline=time.time() - 1, wanted=LAST).serialize()

    async def fire() -> list[dict[str, Any]]:
        return [event.payload async for event in DrainedTrigger(**arguments).run()]

    (event,) = asyncio.run(fire())
    assert event["status"] == "timeout"


def _trigger(deadline: float, wanted: dict[str, str]) -> DrainedTrigger:
    return DrainedTrigger(
        wanted=wanted,
        checkpoints=CHECKPOINTS,
        queues=[],
        deadline=deadline,
        settle_seconds=0,
        poll_interval=1,
        aws_conn_id="aws_default",
        region_name=None,
    )
