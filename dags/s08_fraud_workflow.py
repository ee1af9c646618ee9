"""# s08: fraud decisions with a workflow

*How do you detect fraud with Kinesis, Lambda and Step Functions, from the first check to blocking the card and telling
people?*

    payments -> Kinesis -> Lambda scores -> APPROVED / REFUSED at once     malformed -> quarantine
          suspicious -> outbox -> DynamoDB stream -> Lambda -> Step Functions -> block list, outcome, SNS
                                                                      \\-> review by a person, or block after a while

**Scoring.** Rules that a person understands, in `rules.py`: uses within ten minutes, amount against the card's usual
one, speed of travel between countries, risky trade. From 40 points a person decides, from 70 the card is blocked
without asking; a payment with a blocked card is refused before anything is scored.

**Exactly once.** The scoring function is a fold: card, outcome, outgoing message and position in the stream are written
in one DynamoDB transaction, so redelivery, crashes and duplicates change nothing. The workflow is named after the
payment, so it starts once however often the message is relayed. Block list and outcome are written under conditions.
The guarantee ends at SNS: a notice is published once, rarely twice if its confirmation is lost.

**Review.** The workflow waits with a task token, kept in an encrypted table that logs and XComs do not repeat. `review`
says who answers: people, in Airflow's *Required actions*; this run itself, to rehearse; or nobody. No answer in time
blocks the card: the choice that can be undone.

**Alternatives.** Deciding all in one function is faster (s22) and has nowhere to wait for a person. A model scores
better than rules and explains worse; it would replace `judge`. Express workflows cost less and neither wait for long
nor refuse a name they have seen.

**Scaling.** A shard takes 1,000 payments or 1 MB a second, in order per card; add shards. Workflows start at 150 to 300
a second, by region, unless the quota is raised; only suspicious payments need one.

**Failure.** A lost workflow start is repeated by the table's stream; what is given up after retries stands in the lake
below `aws/lambda/`. A failed workflow raises an alarm and is redriven. Malformed records wait in `quarantine/` with
their reason and are replayed once mended. A person's late answer changes nothing. Alarms, and what to do:
`docs/operations.md#s08_fraud_workflow`.

**Security.** Cards are tokens, never numbers. Every role reaches its own tables and topics and, in the shared table,
its own keys; all data is encrypted with the platform's key; logs hold no payment data.

**Cost.** 0.032 USD an hour while the stack is up, kept by default, for two shards; 10.25 USD per million payments: two
thirds of it workflows for the suspicious ones, 0.0002 USD each, one third some 5 write units for every payment.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import DAG, Param, TriggerRule, chain, task

from atlas import costs, lifecycle, params, settings
from atlas.costs import Price
from atlas.operators.health import CheckHealthOperator
from atlas.operators.quality import QualityGateOperator
from atlas.operators.report import RunReportOperator
from atlas.operators.verdict import VerdictOperator
from atlas.paths import include_folder
from atlas.reports.charts import Chart, Table
from atlas.scenarios import s08_fraud_workflow as scenario
from atlas.sensors.drained import DrainedSensor
from atlas.settings import Tag

STEM = Path(__file__).stem
INCLUDE = include_folder(__file__)
STACK = settings.stack_name(STEM)
FROM_PLATFORM = ("LakeBucket", "ArtifactBucket", "KeyArn", "AlertTopicArn")
MAY_BE_SKIPPED = (
    *("feed", "wait_until_drained", "find_suspicious", "wait_for_reviews", "ask", "review", "answer_reviews"),
    *("wait_for_workflows", "audit", "quality_gate", "remove_stack"),
)
"""Skipped when no payments are asked for, when nobody is to be asked, or when the stack is kept."""
WATCHED = ("deploy_platform", "check_budget", "deploy_stack", *MAY_BE_SKIPPED, "check_health")

PRICE = Price(
    per_hour={
        "2 shards": 2 * costs.SHARD_HOUR,
        "5 alarms": 5 * costs.ALARM_HOUR,
        "4 metrics": 4 * costs.METRIC_HOUR,
    },
    per_million_events={
        "Kinesis": costs.PUT_UNITS,
        "Lambda, five in a batch": costs.INVOCATIONS / 5,
        "Lambda, 10 ms with 0.5 GB": costs.GB_SECONDS / 200,
        "DynamoDB, 5 write units": 5 * costs.WRITE_UNITS,
        "DynamoDB, 2 read units": 2 * costs.READ_UNITS,
        "Step Functions, 9 transitions for three in a hundred": 27 * costs.TRANSITIONS / 100,
    },
    bytes_per_event=60,
)

PARAMS = {
    "events": Param(
        500, type="integer", minimum=0, maximum=100_000, title="Payments", description="0 only looks after the stack"
    ),
    "seed": params.seed("payments"),
    "source_uri": params.source("CSVs: event_id, card, amount, currency, country, category, occurred_at"),
    "duplicates_percent": params.percent("Sent twice", 10),
    "malformed_percent": params.percent("Damaged copies", 1),
    "crash_percent": params.crashes("Share of commits: before them the scoring function dies"),
    "rate": params.rate("payments", default=100),
    "review": Param(
        "timeout",
        type="string",
        enum=["timeout", "airflow", "approve", "block"],
        title="Who answers reviews",
        description="airflow: people, in Required actions; approve, block: this run; timeout: nobody",
    ),
    "review_seconds": Param(
        None,
        type=["null", "integer"],
        minimum=1,
        maximum=86_400,
        title="Time to answer (seconds)",
        description="Afterwards the card is blocked. Default: 900, or 5 where nobody answers",
    ),
    "budget_usd": params.budget(),
    "keep_stack": params.keep_stack(True, "Two shards cost by the hour"),
}

with DAG(
    dag_id=STEM,
    description="Fraud decisions on a stream of payments, with a workflow, a block list and reviews by people",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    default_args=settings.DEFAULT_ARGS,
    params=PARAMS,
    tags=[Tag.WORKFLOW, Tag.KINESIS, Tag.LAMBDA, Tag.STEP_FUNCTIONS, Tag.DYNAMODB, Tag.SNS],
) as dag:
    deploy_platform = lifecycle.deploy_platform()
    platform = deploy_platform.output
    check_budget = lifecycle.check_budget(PRICE, platform)
    lake = platform["LakeBucket"]
    deploy_stack = lifecycle.deploy_stack(
        STEM,
        platform,
        FROM_PLATFORM,
        {
            "CrashShare": "{{ params.crash_percent / 100 }}",
            "ReviewSeconds": "{{ params.review_seconds or (5 if params.review == 'timeout' else 900) }}",
        },
    )
    stack = deploy_stack.output

    run_prefix = f"{lifecycle.LAKE}/{STEM}/runs/{{{{ run_id }}}}"
    feed = task(scenario.feed)(lake, stack["Stream"], run_prefix)
    wait_until_drained = DrainedSensor(
        task_id="wait_until_drained",
        manifest=feed["manifest"],
        checkpoints={"table": stack["StateTable"], "consumer": "score", "incarnation": stack["Incarnation"]},
        poll_interval=settings.POLL_SECONDS,
    )
    find_suspicious = task(scenario.find_suspicious)(lake, stack, run_prefix, feed["manifest"])
    waiting = {"found": find_suspicious, "poke_interval": settings.POLL_SECONDS, "mode": "reschedule"}
    wait_for_reviews = scenario.WorkflowsSensor(
        task_id="wait_for_reviews", or_reviewed=True, timeout=15 * 60, **waiting
    )
    ask = task(scenario.ask)(find_suspicious)
    review = HITLOperator.partial(
        task_id="review",
        options=[scenario.APPROVE, scenario.BLOCK],
        defaults=scenario.BLOCK,
        response_timeout=timedelta(minutes=15),
    ).expand_kwargs(ask.map(scenario.question))
    answer_reviews = task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)(scenario.answer_reviews)(
        find_suspicious, ask, review.output
    )
    wait_for_workflows = scenario.WorkflowsSensor(task_id="wait_for_workflows", timeout=25 * 3600, **waiting)

    audit = task(scenario.audit)(
        lake, stack, run_prefix, feed["manifest"], str(INCLUDE / "lambdas" / STEM / "rules.py")
    )
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        dataset="Fraud decisions",
        suite=INCLUDE / "expectations" / f"{STEM}.py",
        suite_function="decisions",
        measures=audit["measures"],
        violations=audit["violations"],
        output_prefix=run_prefix,
    )
    check_health = CheckHealthOperator(
        task_id="check_health",
        stack_name=STACK,
        failed=[
            f"{lifecycle.LAKE}/aws/lambda/{{{{ ti.xcom_pull('deploy_stack')['{mapping}'] }}}}/"
            for mapping in ("ScoreMapping", "StartWorkflowMapping")
        ],
        quarantine=f"{lifecycle.LAKE}/{STEM}/quarantine/",
        manifest=feed["manifest"],
        trigger_rule=TriggerRule.NONE_FAILED,
    )
    remove_stack = lifecycle.remove_stack(STEM, deploy_stack)
    result = "{{{{ ti.xcom_pull('audit')['{}'] }}}}"
    report = RunReportOperator(
        task_id="report",
        title="Fraud decisions with a workflow",
        output_prefix=run_prefix,
        watched=WATCHED,
        optional=MAY_BE_SKIPPED,
        facts={
            "Payments": "{{ ti.xcom_pull('feed')['events'] }}",
            "Duplicates sent": "{{ ti.xcom_pull('feed')['duplicates'] }}",
            "Malformed sent": "{{ ti.xcom_pull('feed')['malformed'] }}",
            "Decisions": "{{ ti.xcom_pull('audit')['decisions'] }}",
            "Workflows": "{{ ti.xcom_pull('audit')['measures']['executions'] }}",
            "Reviews answered": "{{ ti.xcom_pull('answer_reviews')['answered'] }}",
            "Cards blocked": "{{ ti.xcom_pull('audit')['measures']['blocked_cards'] }}",
            "Estimated cost": lifecycle.ESTIMATE,
        },
        gates=["quality_gate"],
        charts=[
            Chart(
                "Payments by hour and outcome",
                result.format("timeline"),
                "hour:T",
                "payments:Q",
                "Hour of the payment (UTC)",
                "Payments",
                color="decision:N",
                color_title="Outcome",
                mark="bar",
            ),
            Chart(
                "Suspicious payments by score",
                result.format("scores"),
                "score:O",
                "payments:Q",
                "Score (points)",
                "Payments",
                color="decided_by:N",
                color_title="Decided by",
                mark="bar",
            ),
        ],
        tables=[Table("Blocked cards", result.format("blocked"))],
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
        wait_until_drained,
        find_suspicious,
        wait_for_reviews,
        ask,
        review,
        answer_reviews,
        wait_for_workflows,
        audit,
        quality_gate,
        # TEARDOWN
        remove_stack,
        # WHATEVER HAPPENED: after the teardown, because a failed setup task stops all before it
        report,
        notify,
        verdict,
    )
    chain(wait_for_workflows, check_health, remove_stack)
