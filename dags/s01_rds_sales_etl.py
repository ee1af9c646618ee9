"""# s01: sales from RDS to the lake

*How do you automate an ETL that extracts from a relational database on RDS, transforms into sales trends and customer
behaviour, loads an S3 data lake and tells the analytics team when it is done?*

    files -> Lambda -> RDS (PostgreSQL) -> Lambda plans -> Glue extracts -> raw/ -> Glue transforms -> staging/
          -> Great Expectations judges through Athena -> published/ -> Athena -> report, SNS

**Incremental.** Every source row carries `updated_at`. A Lambda plans the half-open interval from the last published
watermark to the start of the oldest open transaction, cut into ranges; one Glue run reads each range over JDBC. The
unit is the whole order, so a late change to one line brings its order along and its day is rebuilt. The watermark
moves only after publication: whatever fails before, the next run does again, with the same result.

**Write, audit, publish.** The transform writes to `staging/`; the gate judges what readers would see; only a pass
copies it to `published/`, object by object under fixed names, so a re-run of an interval leaves the same objects.

**Alternatives.** DMS or zero-ETL integrations stream changes without a query on the source, for continuous load and
more cost; Glue bookmarks keep a watermark per table but know neither late commits nor an order's lines; Iceberg (s40)
makes publication atomic across tables.

**Scaling.** A range holds `rows_per_range` lines and up to `max_ranges` run at once; a run reads only changed orders
and rewrites only their days. The trends are recomputed over all lines: at some hundred million lines, make them
incremental.

**Failure.** A damaged file: its good rows go on, the others stand in `quarantine/` with line and reason, the run
fails at the end and says so. Bad data in the source: the gate names rows, nothing is published, the next run judges
again once they are mended. A dead job or function: clear the task; every step overwrites its own output. More:
`docs/operations.md#s01_rds_sales_etl`.

**Security.** Database and functions in private subnets, TLS to the database, an owner and a read-only user with
secrets of their own that are rotated, every role confined to its prefixes below a permissions boundary. **PII.**
Customer numbers only.

**Cost.** 0.020 USD an hour while the stack is up (removed after the run by default), for db.t4g.micro; 0.029 USD a run,
for two Glue jobs of 2 DPU, at least a minute each; 0.44 USD per million orders.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.amazon.aws.operators.athena import AthenaOperator
from airflow.providers.amazon.aws.operators.glue import GlueJobOperator
from airflow.providers.amazon.aws.operators.lambda_function import LambdaInvokeFunctionOperator
from airflow.sdk import DAG, Param, TriggerRule, chain, task

from atlas import costs, lifecycle, params, settings
from atlas.costs import Price
from atlas.operators.quality import QualityGateOperator
from atlas.operators.report import RunReportOperator
from atlas.operators.verdict import VerdictOperator
from atlas.paths import include_folder
from atlas.reports.charts import Chart, Table
from atlas.scenarios import s01_rds_sales_etl as scenario
from atlas.settings import Tag

STEM = Path(__file__).stem
INCLUDE = include_folder(__file__)
STACK = settings.stack_name(STEM)
FROM_PLATFORM = (
    *("LakeBucket", "ArtifactBucket", "KeyArn", "Database", "PrivateSubnetA", "PrivateSubnetB", "ZoneA"),
    *("ClientGroup", "DatabaseGroup"),
)
MAY_BE_SKIPPED = (
    *("load_source", "extract", "transform", "register_staging", "find_published", "quality_gate", "publish"),
    *("register_published", "remove_stack"),
)
"""Skipped when no load is asked for, when nothing in the source has changed, or when the stack is kept."""
WORK = (
    *("deploy_platform", "check_budget", "deploy_stack", "check_load", "plan_extraction"),
    *("daily_trend", "segments", "top_products"),
)
WATCHED = (*WORK, *MAY_BE_SKIPPED)

PRICE = Price(
    per_hour={
        "db.t4g.micro": costs.DB_T4G_MICRO_HOUR,
        "20 GB of gp3": 20 * costs.DB_GP3_GB_HOUR,
        "2 secrets": 2 * costs.SECRET_HOUR,
    },
    # An order has five lines; the jobs take 9,305 and 4,174 lines a second.
    per_million_events={"Glue, 2 DPU for half an hour": 2 * costs.DPU_HOUR / 2},
    bytes_per_event=400,
    per_run={"Glue, two jobs of 2 DPU for a minute": 4 * costs.DPU_HOUR / 60},
)

PARAMS = {
    "orders": Param(
        2000, type="integer", minimum=0, maximum=100_000, title="Orders", description="0 loads nothing new"
    ),
    "seed": params.seed("orders"),
    "source_uri": params.source("UCI Online Retail CSVs, plain or gzip"),
    "faults": Param(
        "none",
        type="string",
        enum=["none", "malformed_rows", "bad_rows"],
        title="Fault to rehearse",
        description="malformed_rows: refused on loading; bad_rows: reach the source unchecked and stop at the gate",
    ),
    "interval_start": Param(
        None, type=["null", "string"], format="date-time", title="Interval start", description="Default: the watermark"
    ),
    "interval_end": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Interval end",
        description="Default: as late as is safe",
    ),
    "rows_per_range": Param(500_000, type="integer", minimum=100, maximum=10_000_000, title="Lines per Glue run"),
    "max_ranges": Param(4, type="integer", minimum=1, maximum=4, title="Glue runs at once"),
    "max_rejected_percent": params.percent("Tolerated rejects", 1, "More fails the run"),
    "max_age_minutes": Param(1440, type="integer", minimum=1, maximum=525_600, title="Freshness (minutes)"),
    "budget_usd": params.budget(),
    "keep_stack": params.keep_stack(False, "The database costs by the hour"),
}

with DAG(
    dag_id=STEM,
    description="Sales from RDS through Lambda and Glue into the lake, judged, published and announced",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    default_args=settings.DEFAULT_ARGS,
    params=PARAMS,
    tags=[Tag.BATCH, Tag.RDS, Tag.LAMBDA, Tag.GLUE, Tag.S3, Tag.ATHENA, Tag.SNS],
    template_searchpath=[str(INCLUDE / "sql")],
) as dag:
    deploy_platform = lifecycle.deploy_platform()
    platform = deploy_platform.output
    check_budget = lifecycle.check_budget(PRICE, platform, load="orders")
    lake = platform["LakeBucket"]
    deploy_stack = lifecycle.deploy_stack(STEM, platform, FROM_PLATFORM)
    stack = deploy_stack.output

    load_source = LambdaInvokeFunctionOperator.partial(
        task_id="load_source",
        function_name=stack["LoadSourceFunction"],
        botocore_config={"read_timeout": 310, "retries": {"max_attempts": 0}},
        max_active_tis_per_dagrun=4,
    ).expand(payload=task(scenario.find_load)(lake))

    totals = task(trigger_rule=TriggerRule.NONE_FAILED)(scenario.load_totals)(load_source.output)
    check_load = task(retries=0)(scenario.check_load)(totals, "{{ params.max_rejected_percent }}")

    request = task(trigger_rule=TriggerRule.NONE_FAILED)(scenario.plan_request)(lake)
    plan_extraction = LambdaInvokeFunctionOperator(
        task_id="plan_extraction", function_name=stack["PlanExtractionFunction"], payload=request
    )

    plan = task(scenario.plan)(plan_extraction.output)
    extractions = task(scenario.extractions)(plan)
    glue = {
        "waiter_delay": settings.POLL_SECONDS,
        "waiter_max_attempts": settings.POLL_ATTEMPTS,
        "job_poll_interval": settings.POLL_SECONDS,
        "resume_glue_job_on_retry": True,
        "stop_job_run_on_kill": True,
    }
    extract = GlueJobOperator.partial(task_id="extract", job_name=stack["ExtractJob"], **glue).expand(
        script_args=extractions
    )
    transform = GlueJobOperator(
        task_id="transform",
        job_name=stack["TransformJob"],
        script_args={
            "--interval": plan["interval"],
            "--ranges": "{{ ti.xcom_pull('extractions') | length }}",
            "--base_currency": "GBP",
        },
        **glue,
    )
    athena = {
        "database": platform["Database"],
        "workgroup": platform["WorkGroup"],
        "sleep_time": settings.POLL_SECONDS,
        "max_polling_attempts": settings.POLL_ATTEMPTS,
    }
    register_staging = AthenaOperator(task_id="register_staging", query=f"{STEM}/register_staging.sql", **athena)
    # A stack that was removed and made again has tables that do not know of the data published before.
    find_published = AthenaOperator(task_id="find_published", query=f"{STEM}/register_published.sql", **athena)
    run_prefix = f"{lifecycle.LAKE}/{STEM}/runs/{{{{ run_id }}}}"
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        dataset="Staged sales",
        suite=INCLUDE / "expectations" / f"{STEM}.py",
        suite_function="staged_sales",
        parameters={"max_age_minutes": "{{ params.max_age_minutes }}"},
        sql=f"{STEM}/gate_measures.sql",
        violations_sql=f"{STEM}/gate_violations.sql",
        database=platform["Database"],
        workgroup=platform["WorkGroup"],
        output_prefix=run_prefix,
        poll_interval=settings.POLL_SECONDS,
    )

    publish = task(scenario.publish)(lake, plan)
    register_published = AthenaOperator(task_id="register_published", query=f"{STEM}/register_published.sql", **athena)
    queries = [
        AthenaOperator(task_id=name, query=f"{STEM}/{name}.sql", trigger_rule=TriggerRule.NONE_FAILED, **athena)
        for name in ("daily_trend", "segments", "top_products")
    ]
    remove_stack = lifecycle.remove_stack(STEM, deploy_stack)
    result = (
        "s3://{{{{ ti.xcom_pull('deploy_platform')['LakeBucket'] }}}}/athena-results/{{{{ ti.xcom_pull('{}') }}}}.csv"
    )
    report = RunReportOperator(
        task_id="report",
        title="Sales from RDS to the lake",
        output_prefix=run_prefix,
        watched=WATCHED,
        optional=MAY_BE_SKIPPED,
        interval="{% set plan = ti.xcom_pull('plan') %}{{ plan.start ~ ' to ' ~ plan.end if plan else 'not planned' }}",
        facts={
            "Rows": "{{ ti.xcom_pull('load_totals')['rows'] }}",
            "Rows refused": "{{ ti.xcom_pull('load_totals')['rejected'] }}",
            "Refused because": "{{ ti.xcom_pull('load_totals')['problems'] | join('; ') or 'none' }}",
            "Rows changed in the source": "{{ ti.xcom_pull('load_totals')['changed'] }}",
            "Orders extracted": "{{ ti.xcom_pull('plan')['changed']['orders'] }}",
            "Days rebuilt": "{{ ti.xcom_pull('publish')['days'] }}",
            "Estimated cost": lifecycle.ESTIMATE,
        },
        gates=["quality_gate"],
        charts=[
            Chart(
                "Net sales by day, 7-day average",
                result.format("daily_trend"),
                "order_date:T",
                "net_sales_7_day_average:Q",
                "Day (UTC)",
                "Net sales (GBP)",
            ),
            Chart(
                "Net sales by customer segment",
                result.format("segments"),
                "segment:N",
                "net_sales:Q",
                "Segment",
                "Net sales (GBP)",
                mark="bar",
            ),
        ],
        tables=[Table("Top products", result.format("top_products"), limit=10)],
    )
    notify = lifecycle.notify(platform)
    verdict = VerdictOperator(task_id="verdict", watched=(*WATCHED, "report", "notify"), optional=MAY_BE_SKIPPED)
    chain(
        # SETUP
        deploy_platform,
        check_budget,
        deploy_stack,
        # BODY
        load_source,
        totals,
        request,
        plan_extraction,
        plan,
        extractions,
        extract,
        transform,
        [register_staging, find_published],
        quality_gate,
        publish,
        register_published,
        queries,
        # TEARDOWN
        remove_stack,
        # WHATEVER HAPPENED: after the teardown, because a failed setup task stops all before it
        report,
        notify,
        verdict,
    )
    chain(check_load, remove_stack)
