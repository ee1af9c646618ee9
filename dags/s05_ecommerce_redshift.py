"""# s05: e-commerce transactions in the warehouse, in real time

*How do you analyse a shop's transactions in real time with Kinesis, Lambda and S3, with aggregates and queries in
Redshift?*

    transactions -> Kinesis -> Lambda (validate, enrich) -> Firehose -> S3 -> COPY, MERGE -> Redshift Serverless
                    Kinesis -> Firehose -> raw archive      malformed -> quarantine         -> minutes, baskets

**Exactly once, at the sink.** Everything up to S3 delivers at least once: producers repeat, a function that dies is
repeated, Firehose repeats. Each row carries its transaction, its line and its place in the stream. A load copies the
objects that the ledger does not know to a staging table, keeps one copy of each line, merges on transaction and line,
and writes the ledger, all in one transaction. An object or a line that comes again changes only a counter.

**Event time.** Minutes are those in which something was sold. A line that comes more than five minutes after its
minute was published is counted there all the same and marked late.

**Alternatives.** A streaming materialized view reads Kinesis within seconds, without enrichment and quarantine, and
deduplicates by query. Firehose's own Redshift target needs a publicly accessible cluster and delivers at least once.
DynamoDB aggregates (s08) answer in a second what is known beforehand; SQL answers what nobody has thought of yet.

**Scaling.** A shard takes 1 MB and 1,000 records a second; the function needs about a fifth of a core for that. Rows
are visible one Firehose buffer (60 s) plus one load (seconds) after they arrive. Load more often than that and MERGE
overhead dominates; a load's cost grows with what is new, because the sort key prunes nothing for keys: at some hundred
million lines, bound the MERGE by time.

**Failure.** A malformed transaction lies in `quarantine/` with the reason; mend and send it with `make replay`. A
batch that fails twenty times lies below `aws/lambda/<mapping>/` with its records. A failed load rolls back whole and
names file, line and reason; clear the task. Alarms: errors, falling behind, rows that do not reach S3; what to do:
`docs/operations.md#s05_ecommerce_redshift`.

**Security.** Warehouse in private subnets, reached by the Data API with temporary credentials only; the admin password
is managed and never read; each role confined to its prefixes below a permissions boundary. **PII.** Customer numbers
only.

**Cost.** 0.032 USD an hour while the stack is up, kept by default, for two shards; 0.50 USD a run, for ten minutes of
Redshift Serverless with 8 RPU, billed while a statement runs, at least a minute each time; 0.48 USD per million
transactions: half of it Redshift, the rest Firehose, where rows travel together because each record counts as 5 KB.
"""

from __future__ import annotations

from pathlib import Path

from airflow.providers.amazon.aws.operators.redshift_data import RedshiftDataOperator
from airflow.sdk import DAG, Param, chain, task

from atlas import costs, lifecycle, params, settings
from atlas.costs import Price
from atlas.operators.health import CheckHealthOperator
from atlas.operators.quality import QualityGateOperator
from atlas.operators.report import RunReportOperator
from atlas.operators.verdict import VerdictOperator
from atlas.operators.warehouse import WarehouseLoadOperator
from atlas.paths import include_folder
from atlas.reports.charts import Chart, Table
from atlas.scenarios import s05_ecommerce_redshift as scenario
from atlas.settings import Tag

STEM = Path(__file__).stem
INCLUDE = include_folder(__file__)
STACK = settings.stack_name(STEM)
FROM_PLATFORM = (
    *("LakeBucket", "KeyArn", "AlertTopicArn", "PrivateSubnetA", "PrivateSubnetB", "PrivateSubnetC"),
    "DatabaseGroup",
)
LAKE = f"{lifecycle.LAKE}/{STEM}"
TABLES_AND_VIEWS = (
    *("create_sale_lines", "create_arrived_lines", "create_distinct_lines", "create_load_ledger"),
    *("create_expected_lines", "drop_sales_by_minute", "create_sales_by_minute", "drop_baskets", "create_baskets"),
)
"""Views are made anew, because Redshift has no CREATE OR REPLACE for materialized ones and theirs may have changed."""
LOAD = ("load_clear_arrived", "load_copy", "load_clear_distinct", "load_distinct", "load_merge")
VIEWS = ("sales_by_minute", "baskets")
RESULTS = ("unload_days", "unload_categories", "unload_summary")
WATCHED = (
    *("deploy_platform", "check_budget", "deploy_stack", "create_tables", "feed", "expect", "load_warehouse"),
    *(f"refresh_{view}" for view in VIEWS),
    *("quality_gate", "check_health", "unload", "remove_stack"),
)
MAY_BE_SKIPPED = ("remove_stack",)
"""Skipped when the stack is kept."""

PRICE = Price(
    per_hour={
        "2 shards": 2 * costs.SHARD_HOUR,
        "3 alarms": 3 * costs.ALARM_HOUR,
        "2 metrics": 2 * costs.METRIC_HOUR,
        "Redshift's secret": costs.SECRET_HOUR,
    },
    # A transaction has five lines of 300 bytes.
    per_million_events={
        "Kinesis": costs.PUT_UNITS,
        "Lambda, a hundred in a batch": costs.INVOCATIONS / 100,
        "Lambda, 1 ms with 0.5 GB": costs.GB_SECONDS / 2000,
        "Firehose, 5 KB to the archive, 2 KB of rows": 7 * costs.FIREHOSE_GB,
        "Redshift, 8 RPU for five minutes": 8 * costs.RPU_HOUR / 12,
    },
    bytes_per_event=400,
    per_run={"Redshift, 8 RPU for ten minutes": 8 * costs.RPU_HOUR / 6},
)

PARAMS = {
    "events": Param(
        2000, type="integer", minimum=0, maximum=100_000, title="Transactions", description="0 only watches"
    ),
    "seed": params.seed("transactions"),
    "source_uri": params.source("UCI Online Retail CSVs, plain or gzip, replayed in the order of their time"),
    "speed": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=86_400,
        title="Speed of the replay",
        description="Seconds of the shop's time per second; none: as fast as the stream takes it",
    ),
    "rate": params.rate("transactions"),
    "duplicates_percent": params.percent("Sent twice", 10),
    "malformed_percent": params.percent("Damaged copies", 1),
    "crash_percent": params.crashes(
        "How often the function dies before it hands its rows over, and again before it says so"
    ),
    "buffer_seconds": Param(
        settings.BUFFER_SECONDS,
        type="integer",
        minimum=0,
        maximum=900,
        title="Firehose buffer (seconds)",
        description="Shorter is fresher, in more and smaller objects",
    ),
    "budget_usd": params.budget(),
    "keep_stack": params.keep_stack(True, "The stream costs by the hour"),
}

with DAG(
    dag_id=STEM,
    description="Transactions from Kinesis through Lambda and Firehose into Redshift, exactly once",
    doc_md=__doc__,
    schedule=None,
    max_active_runs=1,
    default_args=settings.DEFAULT_ARGS,
    params=PARAMS,
    tags=[Tag.STREAMING, Tag.KINESIS, Tag.LAMBDA, Tag.FIREHOSE, Tag.S3, Tag.REDSHIFT, Tag.SNS],
    template_searchpath=[str(INCLUDE / "sql")],
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
            "BufferSeconds": "{{ params.buffer_seconds }}",
        },
    )
    stack = deploy_stack.output
    run_prefix = f"{LAKE}/runs/{{{{ run_id }}}}"

    warehouse = {
        "database": stack["Database"],
        "workgroup_name": stack["Workgroup"],
        "poll_interval": settings.POLL_SECONDS,
    }

    def statements(*names: str) -> list[str]:
        return [f"{STEM}/{name}.sql" for name in names]

    create_tables = RedshiftDataOperator(task_id="create_tables", sql=statements(*TABLES_AND_VIEWS), **warehouse)
    feed = task(scenario.feed)(lake, stack["Stream"], run_prefix)
    expect = RedshiftDataOperator(
        task_id="expect", sql=statements("clear_expected_lines", "fill_expected_lines"), **warehouse
    )
    load_warehouse = WarehouseLoadOperator(
        task_id="load_warehouse",
        source_prefix=f"{LAKE}/rows/",
        manifest_prefix=f"{LAKE}/manifests/",
        sql=statements(*LOAD),
        ledger="load_ledger",
        complete_sql=f"{STEM}/load_missing.sql",
        timeout=1800,
        **warehouse,
    )
    refresh = [
        RedshiftDataOperator(task_id=f"refresh_{view}", sql=f"{STEM}/refresh_{view}.sql", **warehouse) for view in VIEWS
    ]
    quality_gate = QualityGateOperator(
        task_id="quality_gate",
        dataset="Sales in the warehouse",
        suite=INCLUDE / "expectations" / f"{STEM}.py",
        suite_function="warehouse",
        sql=f"{STEM}/gate_measures.sql",
        violations_sql=f"{STEM}/gate_violations.sql",
        output_prefix=run_prefix,
        **warehouse,
    )
    check_health = CheckHealthOperator(
        task_id="check_health",
        stack_name=STACK,
        failed=[f"{lifecycle.LAKE}/aws/lambda/{{{{ ti.xcom_pull('deploy_stack')['Mapping'] }}}}/"],
        quarantine=f"{LAKE}/quarantine/",
        manifest="{{ ti.xcom_pull('feed')['manifest'] if params.events or params.source_uri else '' }}",
    )
    unload = RedshiftDataOperator(task_id="unload", sql=statements(*RESULTS), **warehouse)
    remove_stack = lifecycle.remove_stack(STEM, deploy_stack)
    report = RunReportOperator(
        task_id="report",
        title="Transactions in the warehouse",
        output_prefix=run_prefix,
        watched=WATCHED,
        optional=MAY_BE_SKIPPED,
        facts={
            "Transactions sent": "{{ ti.xcom_pull('feed')['transactions'] }}",
            "Net sales sent (GBP)": "{{ ti.xcom_pull('feed')['net_sales'] }}",
            "Sent twice": "{{ ti.xcom_pull('feed')['duplicates'] }}",
            "Damaged copies": "{{ ti.xcom_pull('feed')['malformed'] }}",
            "Rows delivered to S3": "{{ ti.xcom_pull('load_warehouse')['rows'] }}",
            "Objects loaded": "{{ ti.xcom_pull('load_warehouse')['objects'] }}",
            "Loads": "{{ ti.xcom_pull('load_warehouse')['rounds'] }}",
            "Seconds until all was in the warehouse": "{{ ti.xcom_pull('load_warehouse')['seconds'] }}",
            "Estimated cost": lifecycle.ESTIMATE,
        },
        gates=["quality_gate"],
        charts=[
            Chart(
                "Revenue by day of the last four weeks",
                f"{run_prefix}/days_000",
                "day:T",
                "revenue:Q",
                "Day (UTC)",
                "Revenue (GBP)",
                mark="bar",
            ),
            Chart(
                "Net sales by category",
                f"{run_prefix}/categories_000",
                "category:N",
                "net_sales:Q",
                "Category",
                "Net sales (GBP)",
                mark="bar",
            ),
        ],
        tables=[Table("Baskets", f"{run_prefix}/summary_000"), Table("Categories", f"{run_prefix}/categories_000")],
    )
    notify = lifecycle.notify(platform)
    verdict = VerdictOperator(task_id="verdict", watched=(*WATCHED, "report", "notify"), optional=MAY_BE_SKIPPED)
    chain(
        # SETUP
        deploy_platform,
        check_budget,
        deploy_stack,
        # BODY
        create_tables,
        feed,
        expect,
        load_warehouse,
        *refresh,
        [quality_gate, check_health],
        unload,
        # TEARDOWN
        remove_stack,
        # WHATEVER HAPPENED: after the teardown, because a failed setup task stops all before it
        report,
        notify,
        verdict,
    )
