"""Listing, mending and replaying quarantined records, against the embedded S3, Kinesis and SQS."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from atlas import dead_letters
from atlas.dead_letters import main
from tests.conftest import Aws

BUCKET = "letters-lake"
PREFIX = "s00/quarantine/"
STREAM = "letters-orders"


class Bench:
    """A quarantine, and the stream and queue its letters came from."""

    def __init__(self, aws: Aws) -> None:
        self.s3 = aws.client("s3")
        self.kinesis = aws.client("kinesis")
        self.sqs = aws.client("sqs")
        self.s3.create_bucket(Bucket=BUCKET)
        self.kinesis.create_stream(StreamName=STREAM, ShardCount=1)
        self.kinesis.get_waiter("stream_exists").wait(StreamName=STREAM, WaiterConfig={"Delay": 1})
        self.queue = self.sqs.create_queue(QueueName="letters-orders")["QueueUrl"]

    def quarantine(
        self, number: int, data: bytes, reason: str = "no id", age: int = 1, partition_key: str | None = "c-1"
    ) -> str:
        key = f"{PREFIX}shardId-000000000000/{number}.json"
        letter = {
            "reason": reason,
            "data": base64.b64encode(data).decode(),
            "source": STREAM,
            "position": {"shard": "shardId-000000000000", "sequence": str(number)},
            "partition_key": partition_key,
            "arrived_at": (datetime.now(UTC) - timedelta(minutes=age)).isoformat(),
        }
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(letter).encode())
        return key

    @property
    def left(self) -> list[str]:
        return [entry["Key"] for entry in self.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])]

    @property
    def on_stream(self) -> list[tuple[str, bytes]]:
        iterator = self.kinesis.get_shard_iterator(
            StreamName=STREAM, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        records = self.kinesis.get_records(ShardIterator=iterator)["Records"]
        return [(record["PartitionKey"], record["Data"]) for record in records]

    def close(self) -> None:
        for key in self.left:
            self.s3.delete_object(Bucket=BUCKET, Key=key)
        self.s3.delete_bucket(Bucket=BUCKET)
        self.kinesis.delete_stream(StreamName=STREAM)
        self.sqs.delete_queue(QueueUrl=self.queue)


@pytest.fixture
def bench(connected: Aws) -> Iterator[Bench]:
    bench = Bench(connected)
    yield bench
    bench.close()


def run(command: str, *options: str) -> int:
    return main([command, "--bucket", BUCKET, "--prefix", PREFIX, *options])


def test_reasons_are_counted(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        bench.quarantine(number, b"{}")
    bench.quarantine(3, b"\xff", reason="not UTF-8")
    assert run("list") == 0
    assert capsys.readouterr().out.endswith("       3  no id\n       1  not UTF-8\n       4  in all\n")
    assert run("list", "--reason", "UTF") == 0
    assert capsys.readouterr().out.endswith("       1  not UTF-8\n       1  in all\n")


def test_letters_are_mended_in_a_file_and_sent_where_they_belong(bench: Bench, tmp_path: Path) -> None:
    bench.quarantine(1, b'{"amount": 1}')
    bench.quarantine(2, b"\xff{}", reason="not UTF-8")
    kept = bench.quarantine(3, b"{}", reason="hopeless")
    file = tmp_path / "letters.jsonl"
    assert run("export", "--file", str(file)) == 0
    lines: list[dict[str, Any]] = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line.get("text", line.get("base64")) for line in lines] == ['{"amount": 1}', "/3t9", "{}"]
    assert lines[0]["position"] == {"shard": "shardId-000000000000", "sequence": "1"}
    lines[0]["text"] = '{"amount": 1, "id": "o-1"}'
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines[:2]))
    assert run("replay", "--file", str(file), "--stream", STREAM) == 0
    assert bench.on_stream == [("c-1", b'{"amount": 1, "id": "o-1"}'), ("c-1", b"\xff{}")]
    assert bench.left == [kept]


def test_letters_are_sent_as_they_are_to_a_queue(bench: Bench) -> None:
    bench.quarantine(1, b"a", partition_key=None)
    bench.quarantine(2, b"b", reason="other", partition_key=None)
    assert run("replay", "--queue", bench.queue, "--reason", "no id") == 0
    (message,) = bench.sqs.receive_message(QueueUrl=bench.queue, MaxNumberOfMessages=10)["Messages"]
    assert message["Body"] == "a"
    assert len(bench.left) == 1


def test_a_replay_can_be_started_again(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench.quarantine(1, b"a")
    file = tmp_path / "letters.jsonl"
    run("export", "--file", str(file))
    for _ in range(2):
        assert run("replay", "--file", str(file), "--stream", STREAM) == 0
    assert bench.on_stream == [("c-1", b"a")]
    assert "1 letters were left out: they are no longer in quarantine" in capsys.readouterr().out


def test_what_could_not_be_sent_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [bench.quarantine(number, b"a") for number in range(3)]
    sent = []

    class Broken:
        def send(self, events: Any) -> None:
            sent.append([event.id for event in events])
            if len(sent) == 2:
                raise TimeoutError("nothing accepted")

    monkeypatch.setattr(dead_letters, "CHUNK", 2)
    monkeypatch.setattr(dead_letters, "KinesisSink", lambda stream: Broken())
    assert run("replay", "--stream", STREAM) == 1
    assert sent == [keys[:2], keys[2:]]
    assert bench.left == keys[2:]


def test_old_letters_need_force(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.quarantine(1, b"a", age=20)
    bench.quarantine(2, b"b", age=10)
    assert run("replay", "--stream", STREAM) == 1
    assert "1 letters are older than 15 minutes" in capsys.readouterr().err
    assert bench.on_stream == []
    assert run("replay", "--stream", STREAM, "--window", "30") == 0
    bench.quarantine(3, b"c", age=20)
    assert run("replay", "--stream", STREAM, "--force") == 0
    assert [data for _, data in bench.on_stream] == [b"a", b"b", b"c"]


def test_a_letter_without_partition_key_is_not_for_a_stream(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.quarantine(1, b"a", partition_key=None)
    assert run("replay", "--stream", STREAM) == 1
    assert "have no partition_key" in capsys.readouterr().err
    assert len(bench.left) == 1


NOW = datetime.now(UTC).isoformat()
GOOD = {"key": "k", "reason": "r", "partition_key": "p", "arrived_at": NOW, "position": {}, "text": "t"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param("{", "line 2: not a line of an export", id="no JSON"),
        pytest.param("[]", "line 2: give the data as either text or base64", id="no object"),
        pytest.param(json.dumps({**GOOD, "base64": "/w=="}), "line 2: give the data as either", id="two data"),
        pytest.param(json.dumps({**GOOD, "text": 5}), "line 2: not a line of an export", id="text is a number"),
        pytest.param(
            json.dumps({name: value for name, value in GOOD.items() if name != "key"}),
            "line 2: the field 'key' is missing",
            id="no key",
        ),
        pytest.param(
            json.dumps({name: value for name, value in {**GOOD, "base64": "/w="}.items() if name != "text"}),
            "line 2: not a line of an export",
            id="bad base64",
        ),
    ],
)
def test_a_line_that_is_no_letter_is_named_and_nothing_is_sent(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    key = bench.quarantine(1, b"a")
    file = tmp_path / "letters.jsonl"
    file.write_text(json.dumps({**GOOD, "key": key}) + f"\n{line}\n")
    assert run("replay", "--file", str(file), "--stream", STREAM) == 1
    assert message in capsys.readouterr().err
    assert bench.on_stream == []
    assert bench.left == [key]


def test_a_stream_that_does_not_exist_is_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    key = bench.quarantine(1, b"a")
    assert run("replay", "--stream", "letters-absent") == 1
    assert "letters-absent" in capsys.readouterr().err
    assert bench.left == [key]


def test_it_runs_as_a_command(bench: Bench) -> None:
    bench.quarantine(1, b"a")
    command = [sys.executable, "-m", "atlas.dead_letters", "list", "--bucket", BUCKET, "--prefix", PREFIX]
    plugins = str(Path(dead_letters.__file__).parents[1])
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": plugins}
    )
    assert done.stdout.split("\n") == ["       1  no id", "       1  in all", ""]


def test_a_missing_file_is_named(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("replay", "--file", str(tmp_path / "absent.jsonl"), "--stream", STREAM) == 1
    assert "absent.jsonl cannot be read" in capsys.readouterr().err


def test_an_object_that_is_no_letter_is_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.s3.put_object(Bucket=BUCKET, Key=f"{PREFIX}stray.txt", Body=b"hello")
    assert run("list") == 1
    assert f"s3://{BUCKET}/{PREFIX}stray.txt is no quarantined record" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        pytest.param("export", (), "export needs --file", id="export nowhere"),
        pytest.param("replay", (), "replay needs --stream or --queue", id="replay nowhere"),
        pytest.param("replay", ("--stream", "s", "--queue", "q"), "not allowed with", id="replay to both"),
    ],
)
def test_a_command_that_lacks_something_is_refused(
    command: str, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(command, *options)
    assert message in capsys.readouterr().err
