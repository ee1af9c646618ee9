"""Sending a load at a given rate, and the manifest that says what was sent.

The manifest is what the rest of a run reconciles against::

    {"events": good events without their copies, "duplicates": n, "malformed": n, "records": all that was sent,
     "retried": entries sent again, "shards": {shard id: {"last": sequence number, "records": n}},
     "started_at": ISO, "finished_at": ISO, "truth": {totals of the scenario},
     "malformed_again": malformed ones that may have arrived once more, because a call was repeated}

A feed that is run again sends the same events again; they carry the same ids and change nothing within the consumers'
dedupe window.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import AirflowFailException

from atlas.loadgen.disturb import Event
from atlas.loadgen.sinks import Sent, Shard, Sink

CHUNK = 5000
"""Events handed to the sink at once at most."""

MOST_RECORDS = 1_000_000
"""What one feed sends at most, whatever was estimated: a gzip file may hold far more than its size says."""

TICK_SECONDS = 0.1
"""Between two looks whether the next event is due."""

BURST_EVERY_SECONDS = 10.0
BURST_SECONDS = 1.0


@dataclass(frozen=True)
class Manifest:
    """What a feed sent; see the module's text for the fields. Times are UTC."""

    events: int
    duplicates: int
    malformed: int
    records: int
    retried: int
    shards: Mapping[str, Shard]
    started_at: datetime
    finished_at: datetime
    truth: Mapping[str, Any]
    malformed_again: int = 0

    def store(self, s3: S3Hook, address: str) -> dict[str, Any]:
        """Write the manifest to ``s3://bucket/key``; returns what XCom carries of it: its address and the counts."""
        bucket, key = S3Hook.parse_s3_url(address)
        times = {"started_at": self.started_at.isoformat(), "finished_at": self.finished_at.isoformat()}
        s3.load_string(json.dumps({**asdict(self), **times}, default=str), key, bucket, replace=True)
        counts = ("events", "duplicates", "malformed", "records", "retried")
        return {"manifest": address, **{name: getattr(self, name) for name in counts}}

    @classmethod
    def load(cls, s3: S3Hook, address: str) -> Manifest:
        """Read the manifest that :meth:`store` wrote; decimals of its ``truth`` come back as text."""
        bucket, key = S3Hook.parse_s3_url(address)
        fields = json.loads(s3.read_key(key, bucket))
        fields["shards"] = {shard_id: Shard(**shard) for shard_id, shard in fields["shards"].items()}
        for name in ("started_at", "finished_at"):
            fields[name] = datetime.fromisoformat(fields[name])
        return cls(**fields)


def feed(
    events: Iterable[Event], sink: Sink, truth: Mapping[str, Any], rate: float | None = None, burst: float = 1.0
) -> Manifest:
    """Send ``events`` to ``sink`` and return what was sent.

    Args:
        events: drawn as they are sent, from :func:`atlas.loadgen.disturb.disturb`.
        sink: where they go.
        truth: the scenario's totals over the good events, as JSON can carry them (decimals as text). May be filled
            while the events are drawn.
        rate: events per second; None: as fast as the sink takes them.
        burst: how many times the rate in the first of every ten seconds.

    Raises:
        ValueError: the rate is not positive or the burst below 1; see also :class:`atlas.loadgen.sinks.Sink`.
        TimeoutError: the sink did not take an event.
        AirflowFailException: there are more than ``MOST_RECORDS`` events; the first of them are sent. Never retried.
    """
    if (rate is not None and rate <= 0) or burst < 1:
        raise ValueError(f"rate {rate} must be positive, burst {burst} at least 1")
    started_at = datetime.now(UTC)
    sent = Sent()
    good = duplicates = malformed = 0
    for chunk in _chunks(iter(events), rate, burst):
        if good + duplicates + malformed + len(chunk) > MOST_RECORDS:
            raise AirflowFailException(f"The load has more than {MOST_RECORDS:,} events, copies included: split it")
        sent.add(sink.send(chunk))
        duplicates += sum(event.duplicate for event in chunk)
        malformed += sum(event.malformed for event in chunk)
        good += sum(not (event.duplicate or event.malformed) for event in chunk)
    return Manifest(
        events=good,
        duplicates=duplicates,
        malformed=malformed,
        records=sent.records,
        retried=sent.retried,
        shards=sent.shards,
        started_at=started_at,
        finished_at=datetime.now(UTC),
        truth=truth,
        malformed_again=sent.malformed_again,
    )


def _chunks(events: Iterator[Event], rate: float | None, burst: float) -> Iterator[list[Event]]:
    """Yield the events as they fall due; a feed that fell behind catches up."""
    started = time.monotonic()
    yielded = 0
    chunk: list[Event] = []

    def early(event: Event) -> bool:
        seconds = time.monotonic() - started
        return event.due > seconds or (rate is not None and yielded + len(chunk) >= _due(seconds, rate, burst))

    for event in events:
        if chunk and (len(chunk) == CHUNK or early(event)):
            yield chunk
            yielded += len(chunk)
            chunk = []
        while early(event):
            time.sleep(TICK_SECONDS)
        chunk.append(event)
    if chunk:
        yield chunk


def _due(seconds: float, rate: float, burst: float) -> int:
    """Return how many events are to be sent within the first ``seconds``."""
    whole, rest = divmod(seconds, BURST_EVERY_SECONDS)
    bursting = whole * BURST_SECONDS + min(rest, BURST_SECONDS)
    return int(rate * (seconds + (burst - 1) * bursting))
