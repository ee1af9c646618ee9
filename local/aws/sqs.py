"""SQS: queues tell CloudWatch how full they are and what is done with them.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-available-cloudwatch-metrics.html

A queue's depth is measured a second after something was done with any queue, and every few seconds while it holds
messages. AWS measures every minute; an alarm that waits a minute would make every test wait one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from local.aws import arrivals, emulator, metrics

_sqs = emulator.module("services.sqs")
_responses = emulator.module("core.responses")

Data = dict[str, Any]

SETTLE_SECONDS = 1.0
FULL_QUEUE_SECONDS = 20.0

_news = threading.Event()
_depths: dict[str, tuple[int, int, int]] = {}
"""Visible, in flight and delayed messages of each queue (by ARN) that holds any."""


def _watch() -> None:
    arrivals.sqs.subscribe(_news)
    while True:
        _news.wait(FULL_QUEUE_SECONDS if _depths else None)
        time.sleep(SETTLE_SECONDS)
        _news.clear()
        queues = list(_sqs._queues.all_items())
        for gone in _depths.keys() - {queue["attributes"]["QueueArn"] for _, queue in queues}:
            del _depths[gone]
        for (account, region, _), queue in queues:
            _measure(queue, account, region)


def _measure(queue: Data, account: str, region: str) -> None:
    """Publish a queue's depth, once more than it holds messages."""
    attributes = queue["attributes"]
    messages = list(queue["messages"])
    now = time.time()
    waiting = [message for message in messages if message["visible_at"] > now]
    delayed = sum(message["receive_count"] == 0 for message in waiting)
    depth = (len(messages) - len(waiting), len(waiting) - delayed, delayed)
    arn = attributes["QueueArn"]
    if not messages and _depths.pop(arn, None) is None:
        return
    if messages:
        _depths[arn] = depth
    oldest = max((now - message["sent_at"] for message in messages), default=0.0)
    names = ("Visible", "NotVisible", "Delayed")
    values = {f"ApproximateNumberOfMessages{name}": number for name, number in zip(names, depth, strict=True)}
    dimensions = {"QueueName": arn.rpartition(":")[2]}
    for metric, value in values.items():
        metrics.record("AWS/SQS", metric, dimensions, value, "Count", account, region)
    metrics.record("AWS/SQS", "ApproximateAgeOfOldestMessage", dimensions, oldest, "Seconds", account, region)


def _count(original: Callable[..., Any]) -> Callable[..., Any]:
    """Count what an action did with messages."""

    async def dispatch(action: str, data: Data, url: str) -> Any:
        answer = await original(action, data, url)
        name = (data.get("QueueUrl") or url).rpartition("/")[2]
        for metric, number in _done(action, answer).items():
            scope = _responses.get_account_id(), _responses.get_region()
            metrics.count("AWS/SQS", metric, {"QueueName": name}, number, "Count", *scope)
            _news.set()
        return answer

    return dispatch


def _done(action: str, answer: Data) -> dict[str, int]:
    """Return the numbers of messages an action moved, by metric."""
    if action == "ReceiveMessage":
        received = len(answer.get("Messages", []))
        return {"NumberOfMessagesReceived": received} if received else {"NumberOfEmptyReceives": 1}
    metric = {"SendMessage": "NumberOfMessagesSent", "DeleteMessage": "NumberOfMessagesDeleted"}
    done = {metric[action.removesuffix("Batch")]: 1} if action.removesuffix("Batch") in metric else {}
    return dict.fromkeys(done, len(answer.get("Successful", []))) if action.endswith("Batch") else done


def _start() -> None:
    threading.Thread(target=_watch, name="queue-depths", daemon=True).start()


emulator.patch(_sqs, "_dispatch", _count)
emulator.on_startup(_start)
