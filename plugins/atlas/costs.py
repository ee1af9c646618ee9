"""What a scenario costs on AWS: list prices, and the sum of them that a scenario declares.

US dollars in N. Virginia, on demand, without taxes, discounts and free tiers; the page of each price stands above it.
Left out, because together it stays below a tenth of the rest: storage, logs, requests to AWS KMS, traffic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

MILLION = 1_000_000
MONTH_HOURS = 730

HOURS = 1
"""How long a run is taken to need its stack; who keeps the stack pays ``per_hour`` for each hour after that."""

# https://aws.amazon.com/kinesis/data-streams/pricing/
SHARD_HOUR = Decimal("0.015")
PUT_UNITS = Decimal("0.014")
"""A million records of up to 25 KB put to a provisioned stream."""

# https://aws.amazon.com/firehose/pricing/
FIREHOSE_GB = Decimal("0.029")
"""A record counts as a multiple of 5 KB."""

# https://aws.amazon.com/lambda/pricing/
INVOCATIONS = Decimal("0.20")
"""A million."""
GB_SECONDS = Decimal("13.3334")
"""A million of them, on arm64."""

# https://aws.amazon.com/dynamodb/pricing/on-demand/
WRITE_UNITS, READ_UNITS = Decimal("0.625"), Decimal("0.125")
"""A million request units on demand."""

# https://aws.amazon.com/step-functions/pricing/
TRANSITIONS = Decimal("25")
"""A million in standard workflows."""

# https://aws.amazon.com/sqs/pricing/
QUEUE_REQUESTS = Decimal("0.40")
"""A million to a standard queue; a batch is one."""

# https://aws.amazon.com/s3/pricing/
S3_PUTS = Decimal("5.00")
"""A million."""

# https://aws.amazon.com/redshift/pricing/
RPU_HOUR = Decimal("0.375")
"""Of Redshift Serverless; by the second while a statement runs, at least a minute."""

# https://aws.amazon.com/glue/pricing/
DPU_HOUR = Decimal("0.44")
"""By the second, at least a minute."""

# https://aws.amazon.com/rds/postgresql/pricing/
DB_T4G_MICRO_HOUR = Decimal("0.016")
DB_GP3_GB_HOUR = Decimal("0.115") / MONTH_HOURS

# https://aws.amazon.com/secrets-manager/pricing/
SECRET_HOUR = Decimal("0.40") / MONTH_HOURS

# https://aws.amazon.com/cloudwatch/pricing/
ALARM_HOUR = Decimal("0.10") / MONTH_HOURS
METRIC_HOUR = Decimal("0.30") / MONTH_HOURS
"""A metric of one's own."""


@dataclass(frozen=True)
class Price:
    """What a scenario costs, each part by its name, so that the sum can be read.

    Args:
        per_hour: while the stack stands, in use or not.
        per_million_events: of the load, copies included, with the DAG's default shares of everything else.
        bytes_per_event: how long an event of the user's own files is at least, uncompressed; what their size is
            divided by where nobody has counted the events.
        per_run: what a run takes however small its load, such as the least time that a service bills.
    """

    per_hour: Mapping[str, Decimal]
    per_million_events: Mapping[str, Decimal]
    bytes_per_event: int
    per_run: Mapping[str, Decimal] = field(default_factory=dict)

    def of_run(self, events: int) -> Decimal:
        """Return what a run with so many events costs, with ``HOURS`` of the stack."""
        load = total(self.per_million_events) * events / MILLION
        return total(self.per_hour) * HOURS + total(self.per_run) + load


def total(parts: Mapping[str, Decimal]) -> Decimal:
    """Return the sum of ``parts``."""
    return sum(parts.values(), Decimal(0))


def dollars(amount: Decimal) -> str:
    """Return an amount to the cent, or to two digits where it is less than a dime: ``2.88``, ``0.031``, ``0.0026``."""
    return f"{amount:.{max(2, 1 - amount.adjusted()) if amount else 2}f}"
