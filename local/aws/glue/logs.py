"""Sends what a job run writes to CloudWatch Logs, line by line and while it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

_BATCH_BYTES = 1_048_576
_BATCH_EVENTS = 10_000
_EVENT_OVERHEAD_BYTES = 26
_LINE_CHARACTERS = 60_000
"""Below the 256 KB of an event whatever the characters; longer lines are divided. The other limits are of a batch:
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html"""

_logger = logging.getLogger("glue")


class LogStream:
    """A file that grows, and the log stream its lines go to."""

    def __init__(self, file: Path, client: Any, group: str, stream: str) -> None:
        self._file = file
        self._client = client
        self._names = {"logGroupName": group, "logStreamName": stream}
        self._sent_bytes = 0
        self._open = False
        self._lost = False

    def send(self, *, everything: bool = False) -> None:
        """Send the lines completed since the last call, or ``everything`` that was written.

        A role without permission to write logs loses them, and the run goes on, as on AWS.
        """
        if self._lost:
            return
        try:
            if not self._open:
                self._create()
            self._put(self._new_text(everything))
        except ClientError as error:
            self._lost = True
            _logger.warning("The output of a Glue run is lost: %s", error)

    def _create(self) -> None:
        for create, names in (
            (self._client.create_log_group, {"logGroupName": self._names["logGroupName"]}),
            (self._client.create_log_stream, self._names),
        ):
            try:
                create(**names)
            except self._client.exceptions.ResourceAlreadyExistsException:
                continue
        self._open = True

    def _new_text(self, everything: bool) -> str:
        with self._file.open("rb") as content:
            content.seek(self._sent_bytes)
            data = content.read()
        if not everything:
            data = data[: data.rfind(b"\n") + 1]
        self._sent_bytes += len(data)
        return data.decode(errors="replace")

    def _put(self, text: str) -> None:
        now = int(time.time() * 1000)
        for batch in _batches(text):
            self._client.put_log_events(
                **self._names, logEvents=[{"timestamp": now, "message": message} for message in batch]
            )


def _batches(text: str) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for line in text.splitlines():
        for start in range(0, len(line), _LINE_CHARACTERS):
            message = line[start : start + _LINE_CHARACTERS]
            cost = len(message.encode()) + _EVENT_OVERHEAD_BYTES
            if batch and (size + cost > _BATCH_BYTES or len(batch) == _BATCH_EVENTS):
                yield batch
                batch, size = [], 0
            batch.append(message)
            size += cost
    if batch:
        yield batch
