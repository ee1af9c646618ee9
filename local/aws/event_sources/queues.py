"""Reads a queue for a mapping: messages that the function processed are deleted, the others come back by themselves.

https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html
"""

from __future__ import annotations

import base64
import json
import threading
import time
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from local.aws import arrivals, emulator
from local.aws.event_sources.mapping import PAYLOAD_BYTES, Event, Mapping, failed_items, pause

_sqs = emulator.module("services.sqs")

ACTIONS = ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes")
_FIRST_CONCURRENCY = 5
"""Batches that Lambda begins with; it scales up by 300 a minute, for which a laptop has no use."""
_PER_RECEIVE = 10
_SHORTEST_SLEEP, _LONGEST_SLEEP = 0.2, 60.0
_ERRORS = (ClientError, BotoCoreError, emulator.AwsError)


class QueueReader:
    """Delivers a queue's messages; it can be stopped and started again."""

    def __init__(self, mapping: Mapping) -> None:
        self._mapping = mapping
        self._name = mapping.source.rpartition(":")[2]
        self._url = _sqs._queue_url(self._name)
        self._stopped = threading.Event()
        self._news = threading.Event()
        self._slots = threading.Condition()
        self._busy = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to receive."""
        self._stopped.clear()
        arrivals.sqs.subscribe(self._news)
        self._thread = emulator.in_background(self._run, f"mapping-{self._mapping.uuid}")

    def stop(self) -> None:
        """Stop after the invocations under way."""
        self._stopped.set()
        self._news.set()
        arrivals.sqs.unsubscribe(self._news)
        with self._slots:
            self._slots.notify_all()
            self._slots.wait_for(lambda: not self._busy)
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        failures = 0
        while self._wait_for_slot():
            self._news.clear()
            try:
                messages = self._collect()
            except _ERRORS as error:
                self._mapping.report_error(error)
                self._stopped.wait(pause(failures))
                failures += 1
                continue
            failures = 0
            if messages:
                self._dispatch(messages)
            elif not self._stopped.is_set():  # it may have been cleared after it was set to stop
                self._news.wait(self._until_next())

    # --- Receiving -----------------------------------------------------------------------------------------------

    def _wait_for_slot(self) -> bool:
        """Wait until another batch may be invoked; return False once the mapping stops."""

        def free() -> bool:
            return self._stopped.is_set() or self._busy < self._mapping.concurrency(_FIRST_CONCURRENCY)

        with self._slots:
            self._slots.wait_for(free)
        return not self._stopped.is_set()

    def _collect(self) -> list[Event]:
        """Return a batch: what is there, or what comes within the window, of those that pass the filters.

        Messages that do not pass are deleted.
        """
        size = self._mapping.number("BatchSize", 10)
        until = time.monotonic() + self._mapping.number("MaximumBatchingWindowInSeconds", 0)
        batch: list[Event] = []
        while len(batch) < size and len(json.dumps(batch)) < PAYLOAD_BYTES:
            received = self._receive(min(_PER_RECEIVE, size - len(batch)))
            passing = self._mapping.passing(received, _tree)
            kept = {event["messageId"] for event in passing}
            self._delete([event for event in received if event["messageId"] not in kept])
            batch += passing
            # The window opens with the first message.
            if not batch or self._stopped.is_set() or time.monotonic() >= until:
                break
            if not received:
                self._news.wait(min(self._until_next(), max(0.0, until - time.monotonic())))
                self._news.clear()
        return batch

    def _receive(self, count: int) -> list[Event]:
        answer = self._mapping.client("sqs").receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=count,
            WaitTimeSeconds=0,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return [self._event(message) for message in answer.get("Messages", [])]

    def _event(self, message: dict[str, Any]) -> Event:
        return {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": message.get("Attributes", {}),
            "messageAttributes": {
                name: _attribute(value) for name, value in message.get("MessageAttributes", {}).items()
            },
            "md5OfBody": message["MD5OfBody"],
            "eventSource": "aws:sqs",
            "eventSourceARN": self._mapping.source,
            "awsRegion": self._mapping.region,
        }

    def _until_next(self) -> float:
        """Return the seconds until a message of the queue becomes visible, at most the longest sleep.

        This looks into the emulator, so that an empty queue costs no call.
        """
        queue = _sqs._queues.get(self._url)
        due = min((message["visible_at"] for message in queue["messages"]), default=None) if queue else None
        wait = _LONGEST_SLEEP if due is None else due - time.time()
        return min(_LONGEST_SLEEP, max(_SHORTEST_SLEEP, wait))

    # --- Delivering ----------------------------------------------------------------------------------------------

    def _dispatch(self, messages: list[Event]) -> None:
        with self._slots:
            self._busy += 1

        def deliver() -> None:
            try:
                self._deliver(messages)
            except _ERRORS as error:
                self._mapping.report_error(error)
            finally:
                with self._slots:
                    self._busy -= 1
                    self._slots.notify_all()
                self._news.set()  # a message group may be free again

        emulator.in_background(deliver, f"mapping-{self._mapping.uuid}-batch")

    def _deliver(self, messages: list[Event]) -> None:
        """Invoke the function, and delete what it processed.

        Lambda tries a throttled invocation again for as long as nobody else may receive the messages.
        """
        until = time.monotonic() + self._visibility() / 2
        attempt = 0
        answer = self._mapping.invoke(messages)
        while answer.refusal and time.monotonic() < until and not self._stopped.wait(pause(attempt)):
            attempt += 1
            answer = self._mapping.invoke(messages)
        if answer.refusal or answer.error:
            self._mapping.report(f"PROBLEM: {answer.refusal or 'Function call failed'}")
            return
        failed: set[str] = set()
        if self._mapping.reports_failures:
            failed = failed_items(answer.response, {message["messageId"] for message in messages})
        self._delete([message for message in messages if message["messageId"] not in failed])
        self._mapping.report("PROBLEM: Function call failed" if failed else "OK")

    def _visibility(self) -> float:
        queue = _sqs._queues.get(self._url)
        return float(queue["attributes"].get("VisibilityTimeout", 30)) if queue else 0.0

    def _delete(self, messages: list[Event]) -> None:
        for start in range(0, len(messages), _PER_RECEIVE):
            entries = [
                {"Id": str(index), "ReceiptHandle": message["receiptHandle"]}
                for index, message in enumerate(messages[start : start + _PER_RECEIVE])
            ]
            self._mapping.client("sqs").delete_message_batch(QueueUrl=self._url, Entries=entries)


def _attribute(value: dict[str, Any]) -> dict[str, Any]:
    """Return a message attribute under the names it has in an event."""
    return {
        **{
            name[0].lower() + name[1:]: base64.b64encode(each).decode() if isinstance(each, bytes) else each
            for name, each in value.items()
        },
        "stringListValues": [],
        "binaryListValues": [],
    }


def _tree(event: Event) -> Event:
    """A body that is JSON is matched as such."""
    try:
        return event | {"body": json.loads(event["body"])}
    except ValueError:
        return event
