"""One event on its way to one target: tried again while that may help, then kept in a dead-letter queue or lost.

https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-rule-retry-policy.html
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from local.aws import targets
from local.aws.event_sources.mapping import pause
from local.aws.targets import Problem

_log = logging.getLogger(__name__)

MOST_ATTEMPTS, LONGEST_SECONDS = 185, 86_400
"""What a retry policy has if it does not say otherwise; these are also the largest values."""


class Delivery(ABC):
    """The attempts to bring one event to the target ``target``, a member of PutTargets or of a schedule."""

    def __init__(self, target: Mapping[str, Any]) -> None:
        policy = target.get("RetryPolicy") or {}
        self.target = target
        self.retries = 0
        self._most = int(policy.get("MaximumRetryAttempts", MOST_ATTEMPTS))
        self._until = time.time() + int(policy.get("MaximumEventAgeInSeconds", LONGEST_SECONDS))

    @property
    def arn(self) -> str:
        """The target's ARN."""
        return str(self.target["Arn"])

    @property
    def role(self) -> str:
        """The ARN of the role that the target is called with, empty if it has none."""
        return str(self.target.get("RoleArn") or "")

    @abstractmethod
    def send(self) -> None:
        """Call the target once; raises one of ``targets.ERRORS``."""

    @abstractmethod
    def bury(self, queue: str, problem: Problem, exhausted: str) -> None:
        """Send the event to the dead-letter queue ``queue`` (an ARN); raises one of ``targets.ERRORS``.

        ``exhausted`` is the member of the retry policy that ended it, empty for an error that is not tried again.
        """

    @abstractmethod
    def count(self, outcome: str) -> None:
        """Publish what happened: attempted, retried, throttled, delivered, failed, buried or lost."""

    def start(self) -> None:
        """Begin, in the background."""
        targets.soon(self._attempt)

    def _attempt(self) -> None:
        self.count("attempted")
        try:
            self.send()
        except targets.ERRORS as error:
            self._failed(targets.problem(error))
        else:
            self.count("delivered")

    def _failed(self, problem: Problem) -> None:
        exhausted = ""
        if problem.kind == "THROTTLING":
            self.count("throttled")
        if problem.again:
            wait = pause(self.retries)
            if self.retries < self._most and time.time() + wait <= self._until:
                self.retries += 1
                self.count("retried")
                targets.later(wait, self._attempt)
                return
            exhausted = "MaximumRetryAttempts" if self.retries >= self._most else "MaximumEventAgeInSeconds"
        _log.warning("%s was not called: %s: %s", self.arn, problem.code, problem.message)
        queue = (self.target.get("DeadLetterConfig") or {}).get("Arn")
        if not queue:
            self.count("failed")
            return
        try:
            targets.persist(lambda: self.bury(queue, problem, exhausted))
        except targets.ERRORS as error:
            _log.warning("The dead-letter queue %s was not reached: %s", queue, error)
            self.count("lost")
        else:
            self.count("buried")
