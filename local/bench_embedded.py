"""Measures the embedded AWS: what a laptop waits for, what it takes, and how much it carries.

- start: seconds until it answers, and until a PostgreSQL server of RDS, as Redshift's are, has taken a connection, too
- idle: resident megabytes of the emulator and all it has started: after the start; with a PostgreSQL server, a stack
  and a function that has been called; after everything else here
- stream: a fold behind a stream of four shards, put to at the rate that AWS takes
- athena: seconds of an aggregation of a million Parquet rows, from StartQueryExecution until it is seen to be done
- glue: seconds of a minimal Spark job, from StartJobRun until it is seen to be done, and until its first line
"""

# ruff: noqa: S608 - SQL is built here from constants

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg

from atlas.packaging import package
from local.bootstrap import ClientFactory, outputs_of, root
from local.launcher import embedded, layout

TEMPLATE = layout.REPOSITORY / "local" / "bench_stack" / "template.yaml"
BUCKET, STACK, DATABASE, INSTANCE = "atlas-bench", "atlas-bench", "bench", "bench"
SHARDS, SHARD_RATE, RECORDS_A_CALL = 4, 1000, 500
"""What a shard takes in a second and a call takes, https://docs.aws.amazon.com/streams/latest/dev/service-sizes-and-limits.html"""
STREAM_SECONDS = 20
ACCOUNTS = 60
"""Keys of a shard's records."""
TODAY, NOTE = "2026-01-05", "x" * 150
"""Bring a record to 240 bytes."""
ROWS = 1_000_000
QUERIES = 5
MOST_SECONDS = 120.0

T = TypeVar("T")


def measure(scratch: Path) -> dict[str, Any]:
    """Return all figures of an embedded AWS that is started in the folder ``scratch`` and stopped at the end."""
    port = embedded.free_port()
    client = root(embedded.endpoint(port))
    rds = client("rds")  # before the clock runs: reading the SDK's model of it is none of the embedded AWS's time
    begun = time.perf_counter()
    running = embedded.start(scratch, port)
    try:
        answered = time.perf_counter() - begun
        pid = running.process.pid
        started = megabytes(pid)
        connect(rds)
        start = {"answers_seconds": round(answered, 2), "seconds": round(time.perf_counter() - begun, 2)}
        deploy(client)
        warm_up(client)
        idle = {"after_start_megabytes": started, "after_warm_up_megabytes": megabytes(pid)}
        figures = {"start": start, "glue": glue(client), "athena": athena(client), "stream": stream(client, pid)}
        return {**figures, "idle": {**idle, "after_all_megabytes": megabytes(pid)}}
    finally:
        running.stop()


def connect(rds: Any) -> None:
    """Create a PostgreSQL instance and connect to it once it is available."""
    password = secrets.token_urlsafe(16)
    rds.create_db_instance(
        DBInstanceIdentifier=INSTANCE,
        Engine="postgres",
        DBInstanceClass="db.t4g.micro",
        AllocatedStorage=20,
        MasterUsername="bench",
        MasterUserPassword=password,
        DBName="bench",
    )
    instance = _wait(
        lambda: rds.describe_db_instances(DBInstanceIdentifier=INSTANCE)["DBInstances"][0],
        lambda found: found["DBInstanceStatus"] == "available",
    )
    address = {"host": instance["Endpoint"]["Address"], "port": instance["Endpoint"]["Port"]}
    psycopg.connect(**address, user="bench", password=password, dbname="bench", sslmode="require").close()


def deploy(client: ClientFactory) -> None:
    """Make the bucket, the catalog's database and the stack."""
    s3, cloudformation = client("s3"), client("cloudformation")
    s3.create_bucket(Bucket=BUCKET)
    client("glue").create_database(DatabaseInput={"Name": DATABASE})
    packaged = package(TEMPLATE, BUCKET)
    for key, content in packaged.objects.items():
        s3.put_object(Bucket=BUCKET, Key=key, Body=content)
    cloudformation.create_stack(
        StackName=STACK,
        TemplateBody=packaged.body,
        Parameters=[{"ParameterKey": "Bucket", "ParameterValue": BUCKET}],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})


def warm_up(client: ClientFactory) -> None:
    """Let the function commit a record."""
    outputs = outputs_of(client, STACK)
    _put(client("kinesis"), outputs["Stream"], "warm-up", 0, 1)
    _wait(partial(committed, client("dynamodb"), outputs["StateTable"]), _is(1))


def glue(client: ClientFactory) -> dict[str, float]:
    """Return what the first job run of an embedded AWS takes, and the next."""
    first, first_line = _job_run(client)
    next_, _ = _job_run(client)
    return {
        "first_line_seconds": round(first_line, 1),
        "cold_seconds": round(first, 1),
        "next_seconds": round(next_, 1),
    }


def _job_run(client: ClientFactory) -> tuple[float, float]:
    """Run the job; return seconds until it is done and until its first line."""
    jobs, name = client("glue"), outputs_of(client, STACK)["Job"]
    logs = client("logs")
    begun = time.time()
    run = jobs.start_job_run(JobName=name)["JobRunId"]
    state = _wait(
        lambda: jobs.get_job_run(JobName=name, RunId=run)["JobRun"]["JobRunState"],
        lambda found: found not in ("STARTING", "RUNNING"),
    )
    seconds = time.time() - begun
    _demand(state, "SUCCEEDED")
    printed = logs.get_log_events(logGroupName="/aws-glue/jobs/output", logStreamName=run, startFromHead=True)
    return seconds, float(printed["events"][0]["message"]) - begun


def athena(client: ClientFactory, rows: int = ROWS) -> dict[str, float]:
    """Return the seconds that an aggregation of ``rows``, a multiple of 1,000, takes the first time and at best."""
    queries, s3 = client("athena"), client("s3")
    number = "1000 * a.n + b.n"
    # Trino's sequences have at most 10,000 entries.
    _query(
        queries,
        f"CREATE TABLE sales WITH (format = 'PARQUET', external_location = 's3://{BUCKET}/sales/') AS "
        f"SELECT {number} AS id, concat('country ', CAST(({number}) % 40 AS varchar)) AS country, "
        f"CAST(({number}) % 9973 AS decimal(12, 2)) AS amount, "
        f"date_add('second', {number}, TIMESTAMP '2026-01-01 00:00:00') AS sold_at "
        f"FROM UNNEST(sequence(0, {rows // 1000 - 1})) AS a(n) CROSS JOIN UNNEST(sequence(0, 999)) AS b(n)",
    )
    times = []
    for _ in range(QUERIES):
        begun = time.perf_counter()
        result = _query(
            queries,
            "SELECT country, count(*) AS sales, sum(amount) AS revenue, max(sold_at) AS latest FROM sales "
            "GROUP BY country ORDER BY revenue DESC",
        )
        times.append(time.perf_counter() - begun)
    answer = s3.get_object(Bucket=BUCKET, Key=result)["Body"].read().decode().splitlines()[1:]
    _demand(sum(int(line.split(",")[1].strip('"')) for line in answer), rows)
    return {"rows": rows, "first_seconds": round(times[0], 2), "best_seconds": round(min(times), 2)}


def _query(queries: Any, sql: str) -> str:
    """Run a query to its end; return the key of its result."""
    query = queries.start_query_execution(
        QueryString=sql,
        QueryExecutionContext={"Database": DATABASE},
        ResultConfiguration={"OutputLocation": f"s3://{BUCKET}/results/"},
    )["QueryExecutionId"]
    status = _wait(
        lambda: queries.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"],
        lambda found: found["State"] not in ("QUEUED", "RUNNING"),
    )
    _demand(status["State"], "SUCCEEDED")
    return f"results/{query}.csv"


def stream(client: ClientFactory, pid: int, seconds: int = STREAM_SECONDS) -> dict[str, float]:
    """Put to all shards what they take in ``seconds`` and wait until the fold has committed the last record.

    ``lag_seconds`` is from the last PutRecords until then, ``cores`` the CPU time of the emulator and all it has
    started, the function's processes among them, to the time that has passed. The processes of the function are there
    before the clock runs.
    """
    kinesis, outputs = client("kinesis"), outputs_of(client, STACK)
    done = partial(committed, client("dynamodb"), outputs["StateTable"])
    put_to = partial(_put, kinesis, outputs["Stream"])
    before = done()
    for shard in range(SHARDS):
        put_to("first", shard, RECORDS_A_CALL)
    before = _wait(done, _is(before + SHARDS * RECORDS_A_CALL))
    calls = seconds * SHARDS * SHARD_RATE // RECORDS_A_CALL
    records = calls * RECORDS_A_CALL
    begun, used = time.monotonic(), cpu_seconds(pid)
    for call in range(calls):
        time.sleep(max(0.0, begun + call * seconds / calls - time.monotonic()))
        put_to(str(call), call % SHARDS, RECORDS_A_CALL)
    put = time.monotonic()
    waiting = before + records - done()
    _wait(done, _is(before + records))
    end = time.monotonic()
    return {
        "records": records,
        "put_records_per_second": round(records / (put - begun)),
        "committed_records_per_second": round(records / (end - begun)),
        "records_waiting_at_the_last_put": waiting,
        "lag_seconds": round(end - put, 2),
        "cores": round((cpu_seconds(pid) - used) / (end - begun), 2),
    }


def _put(kinesis: Any, name: str, call: str, shard: int, records: int) -> None:
    """Put ``records`` payments of 1 into one shard.

    Raises:
        RuntimeError: some were refused.
    """
    rows = [
        {
            "id": f"{call}-{shard}-{n}",
            "account": f"{shard}-{n % ACCOUNTS}",
            "amount": "1",
            "at": "2026-01-05",
            "note": NOTE,
        }
        for n in range(records)
    ]
    answer = kinesis.put_records(
        StreamName=name,
        Records=[
            {
                "Data": json.dumps(row).encode(),
                "PartitionKey": row["account"],
                "ExplicitHashKey": str(shard * 2**128 // SHARDS),
            }
            for row in rows
        ],
    )
    _demand(answer["FailedRecordCount"], 0)


def committed(dynamodb: Any, table: str) -> int:
    """Return how many payments the accounts' balances hold."""
    balances = {"FilterExpression": "sk = :balance", "ExpressionAttributeValues": {":balance": {"S": "balance"}}}
    pages = dynamodb.get_paginator("scan").paginate(TableName=table, **balances)
    return int(sum(Decimal(item["sum"]["N"]) for page in pages for item in page["Items"]))


def megabytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants; pages that they share count for each."""
    return round(_sum(pid, lambda process: process.memory_info().rss) / 2**20)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and its descendants have used, ended ones included."""
    return _sum(pid, lambda process: sum(process.cpu_times()[:4]))


def _sum(pid: int, number: Callable[[psutil.Process], float]) -> float:
    """Add up a number of a process and its descendants, without those that end while they are looked at."""
    process, total = psutil.Process(pid), 0.0
    for member in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            total += number(member)
    return total


def _wait(look: Callable[[], T], done: Callable[[T], bool]) -> T:
    """Return what ``look`` brings once it is ``done``.

    Raises:
        TimeoutError: it was not in ``MOST_SECONDS``.
    """
    deadline = time.monotonic() + MOST_SECONDS
    while not done(found := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {found}")
        time.sleep(0.05)
    return found


def _is(wanted: T) -> Callable[[T], bool]:
    return lambda found: found == wanted


def _demand(found: object, wanted: object) -> None:
    """Raise ``RuntimeError`` unless they are equal: a benchmark of what failed means nothing."""
    if found != wanted:
        raise RuntimeError(f"{found} instead of {wanted}")
