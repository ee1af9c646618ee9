"""# s27: idempotent message processing

*What is your strategy for making the processing of messages from SQS idempotent?*

    payments -> SQS -> Lambda: natural key    -> DynamoDB        expired, forged, malformed -> quarantine in S3
             -> SQS -> Lambda: Powertools     -> DynamoDB
             -> SQS -> Lambda: inbox          -> DynamoDB  -> gate, table of costs -> report, SNS
             -> SQS -> Lambda: none (control) -> DynamoDB

A standard queue delivers at least once, producers repeat themselves, and a function may die after it has done its
work. Three consumers get the same load, with duplicates, forgeries, expired and damaged messages, two batches at a
time. The effect is a balance that changes and a receipt, in one DynamoDB transaction of 4 write units; what idempotency
adds to that is the price of the strategy. A fourth consumer without it shows that the load is hard enough.

**Natural key.** The receipt is written only if there is none. Adds nothing; needs a fact that has a name of its own.

**Powertools Idempotency.** A record in a second table before and after the effect: a lock, a hash of the content, an
expiry. Adds two requests and 2 write units. Effect and record are two writes: after a crash between them the effect is
tried again, so by itself it is *at least once, rarely twice*. Here the effect carries a key that its receiver,
DynamoDB, remembers for ten minutes; whatever is called in its place has to offer the same.

**Inbox.** A marker in the transaction of the effect. Adds 2 write units; works for any effect that DynamoDB can write.

**Expired** messages (`expires_at`) and **forged** ones (same payment, other content than the first) have no effect.

**Alternatives.** A FIFO queue drops what a producer repeats within five minutes, not what a consumer does twice. A lock
without a transaction leaves the gap of Powertools and no hash. Exactly-once for streams with an order: s08.

**Scaling.** One queue and function do some thousand messages a second; `MaximumConcurrency` bounds them. An account
that many payments change at once makes transactions conflict: they are repeated with jitter; at hundreds a second per
account, sum receipts instead of keeping a balance.

**Failure.** A message that fails comes again alone (partial batch response); after ten times it is in the dead-letter
queue and an alarm rings: redrive it once the cause is mended. Messages in `quarantine/` are mended and sent again with
`make replay`. Markers and records live for 15 days, longer than any redelivery; a duplicate after that is new. Alarms,
and what to do: `docs/operations.md#s27_idempotent_consumer`.

**Security.** One role per consumer, for its queue, its table and its prefixes, below a permissions boundary; queues,
tables and lake encrypted with the environment's key. **PII.** Account numbers only; logs carry message ids.

**Cost.** 0.0025 USD an hour while the stack is up, kept by default, for polling empty queues and alarms; 17.13 USD per
million messages to four consumers each. A consumer's share: SQS 0.12 USD in batches of ten, Lambda 0.29 USD, S3 0.75
USD, and DynamoDB what the report says, 2.50 USD and more.
"""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, Param, TriggerRule, chain, task

from atlas import costs, lifecycle, params, settings
from atlas.costs import Price
from atlas.operators.health import CheckHealthOperator
from atlas.operators.quality import QualityGateOperator
from atlas.operators.report import RunReportOperator
from atlas.operators.verdict import VerdictOperator
from atlas.paths import include_folder
from atlas.reports.charts import Chart, Table
from atlas.scenarios import s27_idempotent_consumer as scenario
from atlas.sensors.drained import DrainedSensor
from atlas.settings import Tag

STEM = Path(__file__).stem
INCLUDE = include_folder(__file__)
STACK = settings.stack_name(STEM)
FROM_PLATFORM = ("LakeBucket", "KeyArn", "AlertTopicArn")
ARMS = (*scenario.STRATEGIES, scenario.CONTROL)
MAY_BE_SKIPPED = ("feed", "wait_until_taken", "forge", "measure", "quality_gate", "remove_stack")
"""Skipped when no load is asked for, or when the stack is kept."""
WATCHED = ("deploy_platform", "check_budget", "deploy_stack", "wait_until_drained", "check_health", *MAY_BE_SKIPPED)

PRICE = Price(
    per_hour={
        "8 alarms": 8 * costs.ALARM_HOUR,
        # Lambda keeps five requests of 20 seconds open at each queue.
        "SQS, 4 empty queues": 3600 * costs.QUEUE_REQUESTS / costs.MILLION,
    },
    # A message goes to four consumers.
    per_million_events={
        "SQS, 3 requests for ten": 4 * 3 * costs.QUEUE_REQUESTS / 10,
        "Lambda, ten in a batch": 4 * costs.INVOCATIONS / 10,
        "Lambda, 40 ms with 0.5 GB": 4 * costs.GB_SECONDS / 50,
        "DynamoDB, 4, 6, 6 and 4 write units": 20 * costs.WRITE_UNITS,
        "S3, an object for ten, and five in a hundred in quarantine": 4 * 15 * costs.S3_PUTS / 100,
    },
    bytes_per_event=80,
)

PARAMS = {
    "events": Param(300, type="integer", minimum=0, maximum=20_000, title="Payments", description="0 only watches"),
    "seed": params.seed("payments"),
    "source_uri": params.source("JSON lines with payment_id, account, amount, currency and, if known, expires_at"),
    "rate": params.rate("messages"),
    "duplicates_percent": params.percent("Sent twice", 30),
    "malformed_percent": params.percent("Damaged copies", 1),
    "expired_percent": params.percent("Expired", 3, maximum=50),
    "forged_percent": params.percent("Forged later with another amount", 3),
    "crash_percent": params.crashes(
        "Share of batches: after the effect, before the acknowledgement or Powertools' record"
    ),
    "faults": Param(
        "none",
        type="string",
        enum=["none", "forgetful_consumer"],
        title="Fault to rehearse",
        description="forgetful_consumer: the one with the natural key loses its condition, and the gate says so",
    ),
    "visibility_seconds": Param(
        36, type="integer", minimum=6, maximum=900, title="Redelivery (seconds)", description="After a crash or failure"
    ),
    "control": Param(True, type="boolean", title="Control", description="Feed the consumer without idempotency too"),
    "budget_usd": params.budget(),
    "keep_stack": params.keep_stack(True, "Idle it costs next to nothing"),
}

with DAG(
    dag_id=STEM,
    description="Three idempotent consumers of SQS under the same load: effects judged, costs compared",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    default_args=settings.DEFAULT_ARGS,
    params=PARAMS,
    tags=[Tag.MESSAGING, Tag.SQS, Tag.LAMBDA, Tag.DYNAMODB, Tag.S3, Tag.SNS],
) as dag:
    deploy_platform = lifecycle.deploy_platform()
    platform = deploy_platform.output
    check_budget = lifecycle.check_budget(PRICE, platform)
    deploy_stack = lifecycle.deploy_stack(
        STEM,
        platform,
        FROM_PLATFORM,
        {
            "CrashShare": "{{ params.crash_percent / 100 }}",
            "Fault": "{{ params.faults }}",
            "VisibilitySeconds": "{{ params.visibility_seconds }}",
        },
    )
    stack = deploy_stack.output
    run_prefix = f"{lifecycle.LAKE}/{STEM}/runs/{{{{ run_id }}}}"
    # As templates, which make no edge: what follows a setup task directly may not run after skipped tasks.
    output = "{{{{ ti.xcom_pull('deploy_stack')['{}'] }}}}"
    queues = {"queues": [output.format(f"{arm}Queue") for arm in ARMS], "poll_interval": settings.POLL_SECONDS}

    feed = task(scenario.feed)(stack, run_prefix)
    wait_until_taken = DrainedSensor(task_id="wait_until_taken", **queues)
    # Forgeries come after their originals: which of two messages is the true one, no consumer can tell.
    forge = task(scenario.forge)(stack, run_prefix)
    wait_until_drained = DrainedSensor(task_id="wait_until_drained", trigger_rule=TriggerRule.NONE_FAILED, **queues)
    measure = task(scenario.measure)(platform["LakeBucket"], stack, run_prefix)
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        dataset="Effects of idempotent consumers",
        suite=INCLUDE / "expectations" / f"{STEM}.py",
        suite_function="effects",
        parameters={"control": "{{ params.control }}", "repeated": "{{ ti.xcom_pull('feed')['repeated'] }}"},
        measures=measure["measures"],
        violations=measure["violations"],
        output_prefix=run_prefix,
    )
    check_health = CheckHealthOperator(
        task_id="check_health",
        stack_name=STACK,
        queues=[output.format(f"{arm}DeadLetters") for arm in ARMS],
        trigger_rule=TriggerRule.NONE_FAILED,
    )
    remove_stack = lifecycle.remove_stack(STEM, deploy_stack)
    report = RunReportOperator(
        task_id="report",
        title="Idempotent message processing",
        output_prefix=run_prefix,
        watched=WATCHED,
        optional=MAY_BE_SKIPPED,
        facts={
            "Messages sent": "{{ ti.xcom_pull('feed')['records'] }}",
            "Payments": "{{ ti.xcom_pull('feed')['payments'] }}",
            "Sent twice": "{{ ti.xcom_pull('feed')['duplicates'] }}",
            "Expired": "{{ ti.xcom_pull('feed')['expired'] }}",
            "Forged": "{{ ti.xcom_pull('feed')['forged'] }}",
            "Damaged": "{{ ti.xcom_pull('feed')['malformed'] }}",
            "Effects too many without idempotency": "{{ ti.xcom_pull('measure')['measures']['control_excess'] }}",
            "Estimated cost": lifecycle.ESTIMATE,
        },
        gates=["quality_gate"],
        charts=[
            Chart(
                "Effects per payment: one is right",
                f"{run_prefix}/effects.csv",
                "strategy:N",
                "effects per payment:Q",
                "Strategy",
                "Effects per payment",
                mark="bar",
            ),
            Chart(
                "DynamoDB request units per message",
                f"{run_prefix}/units.csv",
                "case:N",
                "units:Q",
                "Strategy and kind of message",
                "Request units",
                color="kind:N",
                mark="bar",
            ),
            Chart(
                "Time per message",
                f"{run_prefix}/times.csv",
                "percentile:Q",
                "milliseconds:Q",
                "Percentile (%)",
                "Time (ms)",
                color="strategy:N",
            ),
        ],
        tables=[Table("What a message costs (means; DynamoDB on demand, N. Virginia)", f"{run_prefix}/costs.csv")],
    )
    notify = lifecycle.notify(platform)
    verdict = VerdictOperator(task_id="verdict", watched=(*WATCHED, "report", "notify"), optional=MAY_BE_SKIPPED)
    chain(
        # SETUP
        deploy_platform,
        check_budget,
        deploy_stack,
        # BODY
        feed,
        wait_until_taken,
        forge,
        wait_until_drained,
        check_health,
        # TEARDOWN
        remove_stack,
        # WHATEVER HAPPENED: after the teardown, because a failed setup task stops all before it
        report,
        notify,
        verdict,
    )
    chain(forge, measure)
    chain(wait_until_drained, measure, quality_gate, remove_stack)
