"""A pipe as the readers of its source see it: in the place of a mapping and its function."""

from __future__ import annotations

import time
from collections.abc import Mapping as Members
from typing import Any

from local.aws import emulator, metrics, targets
from local.aws.event_sources.mapping import Answer, Event, Mapping, failed_items
from local.aws.pipes import stages
from local.aws.pipes.payload import Item, StageError, flat, text
from local.aws.targets import Sender

PRINCIPAL = "pipes.amazonaws.com"

_GROUPS = {
    "sqs": "SqsQueueParameters",
    "kinesis": "KinesisStreamParameters",
    "dynamodb": "DynamoDBStreamParameters",
}
"""The services of the sources there are, and the member of SourceParameters that each has."""
_SLOW = {"lambda", "stepfunctions"}
_DEFAULT_BATCH = {"sqs": 10, "kinesis": 100, "dynamodb": 100}


def source_settings(pipe: Members[str, Any]) -> dict[str, Any]:
    """Return the settings of a pipe's source; an empty one if the source is none there is."""
    group = _GROUPS.get(service(pipe["Source"]), "")
    return dict((pipe.get("SourceParameters") or {}).get(group) or {})


def service(arn: str) -> str:
    """Return the service of an ARN, empty if it is none."""
    return arn.split(":")[2] if arn.count(":") >= 5 else ""


def mapping_settings(pipe: Members[str, Any]) -> dict[str, Any]:
    """Return what an event source mapping with the source of ``pipe`` would have."""
    given = source_settings(pipe)
    most = stages.MOST.get(service(pipe["Target"]), 10_000)
    return {
        "UUID": pipe["Name"],
        "EventSourceArn": pipe["Source"],
        "FunctionArn": pipe["Target"],
        "BatchSize": min(_DEFAULT_BATCH.get(service(pipe["Source"]), 1), most),
        **given,
        "FilterCriteria": (pipe.get("SourceParameters") or {}).get("FilterCriteria") or {},
        "FunctionResponseTypes": ["ReportBatchItemFailures"],
        "BisectBatchOnFunctionError": given.get("OnPartialBatchItemFailure") == "AUTOMATIC_BISECT",
        "DestinationConfig": {"OnFailure": {"Destination": (given.get("DeadLetterConfig") or {}).get("Arn")}},
    }


class Pipe(Mapping):
    """The pipe with the record ``pipe``, which updates change; ``refresh`` follows after that."""

    def __init__(self, pipe: dict[str, Any], account: str, region: str) -> None:
        super().__init__(mapping_settings(pipe), account, region)
        self.pipe = pipe
        self._sender = Sender(PRINCIPAL, pipe["Arn"])

    def refresh(self) -> None:
        """Take over changed settings."""
        self.record.clear()
        self.record.update(mapping_settings(self.pipe))
        self.forget_clients()

    # --- In the place of a mapping's ---------------------------------------------------------------------------

    @property
    def role(self) -> str:
        """The ARN of the pipe's role."""
        return str(self.pipe["RoleArn"])

    def credentials(self) -> emulator.Credentials:
        """Return a session of the pipe's role.

        Raises:
            AwsError: Pipes may not assume it.
        """
        return self._sender.credentials(self.role)

    def client(self, service: str) -> Any:
        """Return a client that acts with the pipe's role; one that may wait for long calls once only.

        Raises:
            AwsError: as for ``credentials``.
        """
        return self._sender.client(service, self.role) if service in _SLOW else super().client(service)

    def concurrency(self, begin: int) -> int:
        """A pipe has no limit of its own."""
        return begin

    def failure(self, condition: str, attempts: int, last: Answer | None) -> dict[str, Any]:
        """Return what a dead letter says of the pipe, beside the batch."""
        return {"context": {"partnerResourceArn": self.pipe["Arn"], "condition": condition}}

    def measure(self, metric: str, value: float, unit: str) -> None:
        """Publish nothing: these are metrics of functions."""

    def invoke(self, events: list[Event]) -> Answer:
        """Take a batch through enrichment and target; the answer is one of a function that reports failed items."""
        began = time.monotonic()
        self._count("Invocations", 1)
        self._count("EventCount", len(events))
        try:
            failed = self._run(events)
        except StageError as error:
            self._count("ExecutionFailed", 1)
            return Answer(refusal=str(error)) if error.again else Answer(error=str(error))
        finally:
            self._count("Duration", (time.monotonic() - began) * 1000, "Milliseconds")
        if failed:
            self._count("ExecutionPartiallyFailed", 1)
        return Answer(response={stages.FAILURES: [{"itemIdentifier": each} for each in failed]})

    # --- The stages ----------------------------------------------------------------------------------------------

    def _run(self, events: list[Event]) -> list[str]:
        """Return the ids, as the reader knows them, of the events that failed."""
        items = [flat(event) for event in events]
        if enrichment := self.pipe.get("Enrichment"):
            given = (self.pipe.get("EnrichmentParameters") or {}).get("InputTemplate")
            answer = self._stage("Enrichment", lambda: self._enrich(enrichment, self._texts(items, given)))
            if isinstance(answer, dict) and stages.FAILURES in answer:
                return self._named(answer, events)
            items = stages.enriched(answer)
        if not items:
            self._count("TargetStageSkipped", 1)
            return []
        refused = self._stage("Target", lambda: self._deliver(items))
        if isinstance(refused, dict) and stages.FAILURES in refused:
            failed = self._named(refused, events)
        elif not isinstance(refused, set) or not refused:
            return []
        elif len(items) == len(events):
            failed = [_id(events[index]) for index in sorted(refused)]
        else:
            failed = [_id(event) for event in events]
        if failed:
            self._count("TargetStagePartiallyFailed", 1)
        return failed

    def _enrich(self, arn: str, texts: list[str]) -> Any:
        return stages.call(self.client, arn, texts, wait=True)

    def _deliver(self, items: list[Item]) -> Any:
        target, parameters = self.pipe["Target"], self.pipe.get("TargetParameters") or {}
        most = stages.MOST.get(service(target), 10_000)
        if len(items) > most:
            raise StageError(f"The enrichment made {len(items)} events of a batch; {target} takes {most}.")
        texts = self._texts(items, parameters.get("InputTemplate"))
        return stages.deliver(self.client, self.pipe["Name"], target, parameters, items, texts)

    def _texts(self, items: list[Item], template: str | None) -> list[str]:
        reserved = {
            "aws.pipes.pipe-arn": self.pipe["Arn"],
            "aws.pipes.pipe-name": self.pipe["Name"],
            "aws.pipes.source-arn": self.pipe["Source"],
            "aws.pipes.enrichment-arn": self.pipe.get("Enrichment") or "",
            "aws.pipes.target-arn": self.pipe["Target"],
        }
        return [text(item, template, reserved) for item in items]

    def _stage(self, name: str, work: Any) -> Any:
        """Return what ``work`` does.

        Raises:
            StageError: it failed, or its call did.
        """
        try:
            return work()
        except StageError:
            self._count(f"{name}StageFailed", 1)
            raise
        except targets.ERRORS as error:
            self._count(f"{name}StageFailed", 1)
            self.forget_clients()
            problem = targets.problem(error)
            raise StageError(f"{problem.code}: {problem.message}", again=problem.again) from error

    @staticmethod
    def _named(answer: Any, events: list[Event]) -> list[str]:
        """Return the failed ones of a partial batch response, which calls records by their eventID.

        https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-batching-concurrency.html
        """
        known = {event.get("messageId") or event["eventID"]: _id(event) for event in events}
        failed = failed_items(answer, set(known))
        return [id_ for name, id_ in known.items() if name in failed]

    def _count(self, metric: str, value: float, unit: str = "Count") -> None:
        """https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-pipes-monitoring.html"""
        dimensions = {"PipeName": self.pipe["Name"]}
        metrics.count("AWS/EventBridge/Pipes", metric, dimensions, value, unit, self.account, self.region)


def _id(event: Event) -> str:
    """Return how a reader calls the event: by a message's id or a record's sequence number."""
    if "messageId" in event:
        return str(event["messageId"])
    return str(event["kinesis"]["sequenceNumber"] if "kinesis" in event else event["dynamodb"]["SequenceNumber"])
