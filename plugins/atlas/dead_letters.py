"""Looking at malformed records, mending them and sending them again.

    python -m atlas.dead_letters list   --bucket B --prefix <scenario>/quarantine/ [--reason TEXT]
    python -m atlas.dead_letters export --bucket B --prefix <scenario>/quarantine/ --file letters.jsonl
    python -m atlas.dead_letters replay --bucket B --prefix <scenario>/quarantine/ --file letters.jsonl --stream S

``list`` counts the letters by reason. ``export`` writes them as JSON lines, their data as ``text`` or, where it is
not UTF-8, as ``base64``: mend it there. ``replay`` sends the lines of the file, or all letters as they are, to the
stream or queue they came from, and then deletes their objects; the bucket keeps the deleted versions.

A replay that was interrupted is started again as it was: it leaves out what is gone from the quarantine. What was sent
and not yet deleted is sent twice, and the consumers' deduplication absorbs the second. It remembers for its window
only, so letters older than ``--window`` minutes are sent only with ``--force``: be sure that nobody has sent them again
before.

The AWS account is that of the Airflow connection ``aws_default``.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from botocore.exceptions import ClientError

from atlas.loadgen.disturb import Event
from atlas.loadgen.sinks import KinesisSink, Sink, SqsSink

CHUNK = 500
"""Letters that are sent before their objects are deleted."""
READERS = 8


class DeadLetterError(Exception):
    """Something the user can put right; the text says what."""


@dataclass(frozen=True)
class Letter:
    """A quarantined record: the key of its object, why it is there, and what has to be sent."""

    key: str
    reason: str
    data: bytes
    partition_key: str | None
    arrived_at: datetime
    position: dict[str, Any]

    def line(self) -> str:
        """Return the letter as a line of an export."""
        try:
            data = {"text": self.data.decode()}
        except UnicodeDecodeError:
            data = {"base64": base64.b64encode(self.data).decode()}
        fields = {
            "key": self.key,
            "reason": self.reason,
            "partition_key": self.partition_key,
            "arrived_at": self.arrived_at.isoformat(),
            "position": self.position,
        }
        return json.dumps({**fields, **data})

    @classmethod
    def parse(cls, line: str) -> Letter:
        """Return the letter of an export's line, mended or not.

        Raises:
            DeadLetterError: the line is no letter; says why.
        """
        try:
            fields = json.loads(line)
            if ("text" in fields) == ("base64" in fields):
                raise DeadLetterError("give the data as either text or base64")
            text = fields.get("text")
            data = base64.b64decode(fields["base64"], validate=True) if text is None else text.encode()
            return cls(
                key=fields["key"],
                reason=fields["reason"],
                data=data,
                partition_key=fields["partition_key"],
                arrived_at=datetime.fromisoformat(fields["arrived_at"]),
                position=fields["position"],
            )
        except KeyError as error:
            raise DeadLetterError(f"the field {error} is missing") from error
        except (ValueError, TypeError, AttributeError, binascii.Error) as error:
            raise DeadLetterError(f"not a line of an export: {error}") from error


def read_letters(s3: S3Hook, bucket: str, keys: Sequence[str]) -> Iterator[Letter]:
    """Yield the letters of the quarantine's objects.

    Raises:
        DeadLetterError: an object is no quarantined record.
    """
    client: Any = s3.get_conn()

    def read(key: str) -> Letter:
        try:
            fields = json.load(client.get_object(Bucket=bucket, Key=key)["Body"])
            return Letter(
                key=key,
                reason=fields["reason"],
                data=base64.b64decode(fields["data"]),
                partition_key=fields["partition_key"],
                arrived_at=datetime.fromisoformat(fields["arrived_at"]),
                position=fields["position"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DeadLetterError(f"s3://{bucket}/{key} is no quarantined record: {error!r}") from error

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(read, keys)


def read_file(file: Path) -> list[Letter]:
    """Return the letters of an export.

    Raises:
        DeadLetterError: the file cannot be read, or a line is no letter; names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DeadLetterError(f"{file} cannot be read: {error}") from error
    letters = []
    for number, line in enumerate(lines, 1):
        try:
            letters.append(Letter.parse(line))
        except DeadLetterError as error:
            raise DeadLetterError(f"{file}, line {number}: {error}") from error
    return letters


def replay(s3: S3Hook, bucket: str, letters: Sequence[Letter], sink: Sink) -> None:
    """Send ``letters`` and delete their objects, chunk by chunk and in this order: nothing is lost on the way."""
    for start in range(0, len(letters), CHUNK):
        chunk = letters[start : start + CHUNK]
        sink.send([Event(letter.partition_key or letter.key, letter.data, letter.key) for letter in chunk])
        s3.delete_objects(bucket, [letter.key for letter in chunk])


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; returns the exit code."""
    options = _options(arguments)
    try:
        for line in _carry_out(options):
            sys.stdout.write(f"{line}\n")
    except (DeadLetterError, ClientError, TimeoutError) as error:
        sys.stderr.write(f"dead_letters: {error}\n")
        return 1
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m atlas.dead_letters", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("list", "export", "replay"))
    parser.add_argument("--bucket", required=True, help="of the quarantine: the lake bucket")
    parser.add_argument("--prefix", required=True, help="of the quarantine, as in s05_ecommerce_redshift/quarantine/")
    parser.add_argument("--reason", default="", help="only letters whose reason contains this text")
    parser.add_argument("--file", type=Path, help="JSON lines to write (export) or to send (replay)")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--stream", help="name of the Kinesis stream to send to")
    target.add_argument("--queue", help="URL of the SQS queue to send to")
    parser.add_argument("--window", type=int, default=15, help="minutes the consumers recognise a duplicate for")
    parser.add_argument("--force", action="store_true", help="send also what is older than that")
    options = parser.parse_args(arguments)
    if options.command == "export" and not options.file:
        parser.error("export needs --file")
    if options.command == "replay" and not (options.stream or options.queue):
        parser.error("replay needs --stream or --queue")
    return options


def _carry_out(options: argparse.Namespace) -> Iterator[str]:
    """Yield what there is to say about one command."""
    s3 = S3Hook()
    keys = s3.list_keys(options.bucket, options.prefix)
    from_file = options.command == "replay" and options.file
    found = read_file(options.file) if from_file else read_letters(s3, options.bucket, keys)
    letters = [letter for letter in found if options.reason in letter.reason]
    if options.command == "list":
        for reason, count in Counter(letter.reason for letter in letters).most_common():
            yield f"{count:8}  {reason}"
        yield f"{len(letters):8}  in all"
    elif options.command == "export":
        options.file.write_text("".join(f"{letter.line()}\n" for letter in letters), encoding="utf-8")
        yield f"{len(letters)} letters are in {options.file}"
    else:
        present = set(keys)
        left = [letter for letter in letters if letter.key in present]
        _check(options, left)
        sink = (
            KinesisSink(options.stream) if options.stream else SqsSink(options.queue, options.queue.endswith(".fifo"))
        )
        replay(s3, options.bucket, left, sink)
        yield f"{len(left)} letters were sent and are out of quarantine"
        if len(left) < len(letters):
            yield f"{len(letters) - len(left)} letters were left out: they are no longer in quarantine"


def _check(options: argparse.Namespace, letters: Sequence[Letter]) -> None:
    """Refuse what must not be sent, before anything is."""
    if options.stream and (homeless := [letter.key for letter in letters if not letter.partition_key]):
        raise DeadLetterError(
            f"{len(homeless)} letters have no partition_key, {homeless[0]} among them: they came from a queue, send "
            "them there, or add the key in the file"
        )
    oldest = datetime.now(UTC) - timedelta(minutes=options.window)
    old = sum(letter.arrived_at < oldest for letter in letters)
    if old and not options.force:
        raise DeadLetterError(
            f"{old} letters are older than {options.window} minutes, longer than the consumers recognise a duplicate "
            "for. If nobody has sent them again before, send them with --force"
        )


if __name__ == "__main__":
    # Airflow says on standard output what its hooks do.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    logging.disable(logging.WARNING)
    sys.exit(main())
