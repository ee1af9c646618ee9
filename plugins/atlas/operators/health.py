"""The health of a streaming scenario: what AWS itself has to complain of after a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.hooks.sqs import SqsHook
from airflow.providers.common.compat.sdk import AirflowException
from airflow.sdk import BaseOperator, Context

from atlas.loadgen.feed import Manifest

MOST_COUNTED = 1000
"""Of the failed batches, where even one is too many."""


class CheckHealthOperator(BaseOperator):
    """Fail if an alarm rings, a dead-letter queue holds messages, a batch was given up or too much is quarantined.

    Alarms are the metric alarms named ``<stack name>-...``. What is quarantined may be as much as the feed damaged, as
    often as it may have arrived, plus what is tolerated; only what came since the feed began counts, or within
    ``look_back`` where nothing was fed.

    Args:
        stack_name: name of the scenario's stack (templated).
        queues: URLs of dead-letter queues (templated).
        failed: ``s3://bucket/aws/lambda/<mapping id>/``, where event source mappings leave the batches they gave up
            (https://docs.aws.amazon.com/lambda/latest/dg/kinesis-on-failure-destination.html) (templated).
        quarantine: ``s3://bucket/prefix/`` of malformed records (templated).
        manifest: ``s3://`` address of the feed's manifest (templated); None or empty if nothing was fed.
        tolerated_malformed: how many malformed records from elsewhere are no finding (templated).
        expected_alarms: names of alarms without the stack's, that may ring: for rehearsed faults (templated).
        look_back: how far back quarantined records count where nothing was fed.
        aws_conn_id: Airflow connection (templated).
        region_name: region, where the connection's is not meant (templated).

    Returns:
        ``{"alarms": [names], "dead_letters": n, "failed": n, "quarantined": n, "malformed": n the feed sent}``, as an
        XCom also if the task fails.

    Raises:
        AirflowException: names each finding and what to do. Retried, for an alarm rings on for some minutes after its
            cause is gone.
    """

    template_fields: Sequence[str] = (
        *("stack_name", "queues", "failed", "quarantine", "manifest"),
        *("tolerated_malformed", "expected_alarms", "aws_conn_id", "region_name"),
    )
    ui_color = "#f9d9d9"

    def __init__(
        self,
        *,
        stack_name: str,
        queues: Sequence[str] = (),
        failed: Sequence[str] = (),
        quarantine: str | None = None,
        manifest: str | None = None,
        tolerated_malformed: int | str = 0,
        expected_alarms: Sequence[str] = (),
        look_back: timedelta = timedelta(days=1),
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stack_name = stack_name
        self.queues = queues
        self.failed = failed
        self.quarantine = quarantine
        self.manifest = manifest
        self.tolerated_malformed = tolerated_malformed
        self.expected_alarms = expected_alarms
        self.look_back = look_back
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name

    def execute(self, context: Context) -> dict[str, Any]:
        """Look everywhere, then judge."""
        s3 = S3Hook(aws_conn_id=self.aws_conn_id, region_name=self.region_name)
        fed = Manifest.load(s3, self.manifest) if self.manifest else None
        since = fed.started_at if fed else datetime.now(UTC) - self.look_back
        alarms = dict(self._alarms())
        letters = dict(self._dead_letters())
        numbers = {
            "alarms": sorted(alarms),
            "dead_letters": sum(letters.values()),
            "failed": sum(_count(s3, prefix, max_items=MOST_COUNTED) for prefix in self.failed),
            # S3 keeps whole seconds.
            "quarantined": _count(s3, self.quarantine, from_datetime=since.replace(microsecond=0)),
            "malformed": fed.malformed if fed else 0,
        }
        findings = [
            *(f"Alarm {name} rings: {reason}" for name, reason in alarms.items()),
            *(
                f"Dead-letter queue {url.rsplit('/', 1)[-1]} holds {depth} messages: look at them, mend the cause, "
                "then start a redrive to the source queue"
                for url, depth in letters.items()
                if depth
            ),
            *self._findings_in_lake(numbers, again=fed.malformed_again if fed else 0),
        ]
        self.log.info("%s: %s", self.stack_name, numbers)
        if findings:
            context["ti"].xcom_push(key="return_value", value=numbers)
            raise AirflowException("\n- ".join([f"{self.stack_name} is not healthy:", *findings]))
        return numbers

    def _alarms(self) -> Iterator[tuple[str, str]]:
        """Yield name and reason of the stack's metric alarms that ring and are not expected to."""
        hook = AwsBaseHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name, client_type="cloudwatch")
        cloudwatch: Any = hook.get_conn()
        expected = {f"{self.stack_name}-{name}" for name in self.expected_alarms}
        pages = cloudwatch.get_paginator("describe_alarms").paginate(
            AlarmNamePrefix=f"{self.stack_name}-", StateValue="ALARM"
        )
        for page in pages:
            for alarm in page["MetricAlarms"]:
                if alarm["AlarmName"] not in expected:
                    yield alarm["AlarmName"], alarm["StateReason"]

    def _dead_letters(self) -> Iterator[tuple[str, int]]:
        """Yield the URL and depth of each queue, messages somebody is just looking at included."""
        sqs: Any = SqsHook(aws_conn_id=self.aws_conn_id, region_name=self.region_name).get_conn()
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        for url in self.queues:
            attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
            yield url, sum(int(attributes[name]) for name in names)

    def _findings_in_lake(self, numbers: dict[str, Any], again: int) -> Iterator[str]:
        if numbers["failed"]:
            yield (
                f"{numbers['failed']} batches below {', '.join(self.failed)} were given up: each object holds the "
                "error and the records; mend the cause, then send the records again"
            )
        allowed = numbers["malformed"] + again + int(self.tolerated_malformed)
        if numbers["quarantined"] > allowed:
            bucket, prefix = S3Hook.parse_s3_url(str(self.quarantine))
            yield (
                f"{numbers['quarantined']} records are quarantined, {allowed} were expected: see why with "
                f"`python -m atlas.dead_letters list --bucket {bucket} --prefix {prefix}`"
            )


def _count(s3: S3Hook, address: str | None, **options: Any) -> int:
    """Return how many objects are below an ``s3://`` prefix."""
    if not address:
        return 0
    bucket, prefix = S3Hook.parse_s3_url(address)
    return len(s3.list_keys(bucket, prefix, **options))
