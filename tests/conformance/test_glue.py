"""Glue: job runs that run their script, and partition filters of the Data Catalog."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.amazon.aws.operators.glue import GlueJobOperator
from airflow.providers.amazon.aws.sensors.glue import GlueJobSensor
from airflow.sdk.exceptions import AirflowException, TaskDeferred
from airflow.triggers.base import TriggerEvent
from botocore.exceptions import ClientError

from local.launcher import embedded, layout, spark
from tests.conformance.test_iam import role
from tests.conftest import Aws

RUN_SECONDS = 60.0
FINAL = ("SUCCEEDED", "FAILED", "STOPPED", "TIMEOUT")

SPARK_SCRIPT = """
import sys
import boto3
from awsglue.utils import getResolvedOptions
from pyspark.sql import SparkSession, functions as F

arguments = getResolvedOptions(sys.argv, ["JOB_NAME", "source", "target", "currency"])
spark = SparkSession.builder.getOrCreate()
sales = spark.read.csv(arguments["source"], header=True, schema="id int, day date, price decimal(10, 2)")
days = sales.groupBy("day").agg(F.sum("price").alias("revenue"))
days.coalesce(1).write.mode("overwrite").partitionBy("day").parquet(arguments["target"])
shout = F.udf(lambda text: text.upper() + "!")
print("first", spark.createDataFrame([("sold",)], "word string").select(shout("word")).first()[0])
print("job", arguments["JOB_NAME"], arguments["currency"], spark.conf.get("spark.sql.session.timeZone"))
print("as", boto3.client("sts").get_caller_identity()["Arn"])
print("warned", file=sys.stderr)
"""

SPARK_SLEEP = """
import os, time
from pyspark.sql import SparkSession
jvm = SparkSession.builder.getOrCreate().sparkContext._gateway.proc.pid
print(os.getpid())
print(jvm)
time.sleep(600)
"""


class Glue:
    """Jobs in a bucket of their own, with a role that may read and write it."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.client = aws.client("glue")
        self.s3 = aws.client("s3")
        self.name = f"glue-{uuid.uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=self.name)
        self.role = self.new_role("glue.amazonaws.com", logs=True)

    def new_role(self, service: str, *, logs: bool) -> str:
        """Return the ARN of a role that ``service`` may assume: the bucket's objects and, if asked for, logs."""
        allowed = [("s3:*", [f"arn:aws:s3:::{self.name}", f"arn:aws:s3:::{self.name}/*"])]
        if logs:
            allowed.append(("logs:*", ["arn:aws:logs:*:*:log-group:/aws-glue/*"]))
        iam = self.aws.client("iam")
        name = f"{self.name}-{uuid.uuid4().hex[:4]}"
        trust = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        arn: str = iam.create_role(RoleName=name, AssumeRolePolicyDocument=_policy(trust))["Role"]["Arn"]
        statements = [{"Effect": "Allow", "Action": action, "Resource": where} for action, where in allowed]
        iam.put_role_policy(RoleName=name, PolicyName="work", PolicyDocument=_policy(*statements))
        return arn

    def upload(self, key: str, text: str) -> str:
        """Store an object in the bucket and return its address."""
        self.s3.put_object(Bucket=self.name, Key=key, Body=text.encode())
        return f"s3://{self.name}/{key}"

    def job(self, script: str, command: str = "pythonshell", **definition: Any) -> str:
        """Create a job that runs ``script`` and return its name."""
        name = f"{self.name}-{uuid.uuid4().hex[:4]}"
        definition.setdefault("Role", self.role)
        location = self.upload(f"scripts/{name}.py", script)
        self.client.create_job(Name=name, Command={"Name": command, "ScriptLocation": location}, **definition)
        return name

    def start(self, job: str, **request: Any) -> str:
        """Start a run and return its id."""
        run_id: str = self.client.start_job_run(JobName=job, **request)["JobRunId"]
        return run_id

    def get(self, job: str, run_id: str) -> dict[str, Any]:
        """Return the run as GetJobRun does."""
        found: dict[str, Any] = self.client.get_job_run(JobName=job, RunId=run_id)["JobRun"]
        return found

    def wait(self, job: str, run_id: str) -> dict[str, Any]:
        """Return the run once it is over."""
        until(lambda: self.get(job, run_id)["JobRunState"] in FINAL)
        return self.get(job, run_id)

    def run(self, job: str, **request: Any) -> dict[str, Any]:
        """Run a job to its end."""
        return self.wait(job, self.start(job, **request))

    def log(self, kind: str, run_id: str) -> list[str]:
        """Return the lines of a run's log stream in the group output or error, none if there is no stream."""
        logs = self.aws.client("logs")
        try:
            answer = logs.get_log_events(
                logGroupName=f"/aws-glue/jobs/{kind}", logStreamName=run_id, startFromHead=True
            )
        except logs.exceptions.ResourceNotFoundException:
            return []
        return [event["message"] for event in answer["events"]]


def _policy(*statements: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def until(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds, at most ``RUN_SECONDS``."""
    deadline = time.monotonic() + RUN_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    """Return whether the process exists and is no zombie."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


@pytest.fixture(scope="module")
def glue(aws: Aws) -> Glue:
    spark.ensure(layout.python(layout.AWS_VENV), layout.JARS)
    return Glue(aws)


@pytest.mark.usefixtures("glue")
def test_spark_is_set_up_once(tmp_path: Path) -> None:
    """What is set up stays as it is; what is not is an error that says what to do."""
    marker = layout.JARS / "installed.json"
    before = marker.stat().st_mtime_ns
    jars = spark.ensure(layout.python(layout.AWS_VENV), layout.JARS)
    assert marker.stat().st_mtime_ns == before
    assert {"hadoop-aws-3.3.4.jar", "postgresql-42.7.3.jar"} <= {jar.name for jar in jars if jar.exists()}
    with pytest.raises(spark.SetupError, match="make setup"):
        spark.installed(tmp_path)
    with pytest.raises(spark.SetupError, match="PySpark is not installed"):
        spark.ensure(Path(sys.executable), tmp_path)


def test_a_spark_job_reads_and_writes_s3_as_its_role(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-crawler-pyspark-extensions-get-resolved-options.html"""
    source = glue.upload("in/sales.csv", "id,day,price\n1,2024-01-01,1.10\n2,2024-01-02,2.00\n3,2024-01-01,0.05\n")
    target = f"s3://{glue.name}/out/"
    job = glue.job(
        SPARK_SCRIPT,
        "glueetl",
        GlueVersion="5.0",
        DefaultArguments={"--source": source, "--target": target, "--currency": "EUR"},
    )

    run = glue.run(job, Arguments={"--currency": "USD"})

    assert run["JobRunState"] == "SUCCEEDED", run.get("ErrorMessage")
    keys = [item["Key"] for item in glue.s3.list_objects_v2(Bucket=glue.name, Prefix="out/")["Contents"]]
    assert [key.split("/")[1] for key in keys] == ["_SUCCESS", "day=2024-01-01", "day=2024-01-02"]
    role_name = glue.role.rsplit("/", 1)[-1]
    output = glue.log("output", run["Id"])
    assert output[0] == "first SOLD!"
    assert output[1] == f"job {job} USD UTC"
    assert output[2].endswith(f":assumed-role/{role_name}/GlueJobRunnerSession")
    assert "warned" in glue.log("error", run["Id"])
    assert run["LogGroupName"] == "/aws-glue/jobs"
    assert run["CompletedOn"] >= run["StartedOn"]
    assert run["Attempt"] == 0
    assert not list(glue.aws.state.glob("glue-*"))


def test_the_error_of_spark_is_the_error_of_the_run(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-jobs-runs.html (ErrorMessage)"""
    script = """
from pyspark.sql import SparkSession
reader = SparkSession.builder.getOrCreate().read.format("jdbc").option("driver", "org.postgresql.Driver")
reader.options(url="jdbc:postgresql://127.0.0.1:9/nothing", dbtable="sales").load()
"""
    run = glue.run(glue.job(script, "glueetl"))
    assert run["JobRunState"] == "FAILED"
    assert run["ErrorMessage"].startswith("Py4JJavaError: An error occurred while calling")
    assert "org.postgresql.util.PSQLException: Connection to 127.0.0.1:9 refused" in run["ErrorMessage"]
    assert "\tat " not in run["ErrorMessage"]
    log = glue.log("error", run["Id"])
    assert "Traceback (most recent call last):" in log
    assert any(line.startswith("Caused by: java.net.ConnectException") for line in log)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("raise ValueError('no apples left')", "ValueError: no apples left", id="exception"),
        pytest.param("import sys; sys.exit('gave up')", "SystemExit: gave up", id="exit message"),
        pytest.param("import sys; sys.exit(3)", "SystemExit: 3", id="exit code"),
        pytest.param("import os; os._exit(4)", "Command failed with exit code 4", id="no word"),
        pytest.param("import os; os.kill(os.getpid(), 9)", "Command failed with exit code 137", id="killed"),
        pytest.param("def broken(:", "SyntaxError: invalid syntax (script.py, line 1)", id="syntax"),
    ],
)
def test_a_python_shell_job_fails_with_the_reason(glue: Glue, script: str, message: str) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/add-job-python.html"""
    run = glue.run(glue.job(script))
    assert (run["JobRunState"], run["ErrorMessage"]) == ("FAILED", message)


def test_a_python_shell_job_gets_arguments_and_modules(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/aws-glue-programming-etl-glue-arguments.html (--extra-py-files)"""
    module = glue.upload("modules/greeting.py", "WORD = 'welcome'")
    job = glue.job(
        "import sys, greeting; print(greeting.WORD, sys.argv[1:])",
        DefaultArguments={"--extra-py-files": module, "--a": "default", "--b": "default"},
        NonOverridableArguments={"--c": "fixed"},
    )
    run = glue.run(job, Arguments={"--b": "of this run"})
    arguments = ["--extra-py-files", module, "--a", "default", "--b", "of this run", "--c", "fixed"]
    assert glue.log("output", run["Id"]) == [f"welcome {arguments}"]
    with pytest.raises(ClientError, match="InvalidInputException"):
        glue.start(job, Arguments={"--c": "other"})


def test_a_missing_script_fails_the_run(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/glue-troubleshooting-errors.html"""
    job = glue.job("")
    glue.s3.delete_object(Bucket=glue.name, Key=f"scripts/{job}.py")
    run = glue.run(job)
    assert run["JobRunState"] == "FAILED"
    assert "specified key does not exist" in run["ErrorMessage"]
    assert f"scripts/{job}.py" in run["ErrorMessage"]


def test_the_role_limits_what_a_script_can_do(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/create-an-iam-role.html"""
    run = glue.run(glue.job("import boto3; boto3.client('sqs').create_queue(QueueName='not-allowed')"))
    assert run["JobRunState"] == "FAILED"
    assert "AccessDenied" in run["ErrorMessage"]


def test_a_script_is_read_with_the_role(aws: Aws, glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/create-an-iam-role.html"""
    run = glue.run(glue.job("print('never')", Role=role(aws, "glue.amazonaws.com")))
    assert run["JobRunState"] == "FAILED"
    assert "s3:GetObject" in run["ErrorMessage"]


def test_a_role_for_another_service_is_refused(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/create-an-iam-role.html"""
    run = glue.run(glue.job("print('never')", Role=glue.new_role("lambda.amazonaws.com", logs=True)))
    assert run["JobRunState"] == "FAILED"
    assert run["ErrorMessage"].endswith("should be given assume role permissions for Glue Service.")


def test_a_role_without_logs_runs_silently(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/create-an-iam-policy.html (logs permissions)"""
    run = glue.run(glue.job("print('heard by nobody')", Role=glue.new_role("glue.amazonaws.com", logs=False)))
    assert run["JobRunState"] == "SUCCEEDED"
    assert glue.log("output", run["Id"]) == []


@pytest.mark.parametrize("argument", ["--enable-glue-datacatalog", "--additional-python-modules"])
def test_an_argument_that_would_be_ignored_is_refused(glue: Glue, argument: str) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/aws-glue-programming-etl-glue-arguments.html"""
    run = glue.run(glue.job("print('never')"), Arguments={argument: "true"})
    assert run["JobRunState"] == "FAILED"
    assert run["ErrorMessage"].startswith(f"{argument} is not supported")


def test_stopping_a_run_ends_its_process(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_BatchStopJobRun.html"""
    job = glue.job(SPARK_SLEEP, "glueetl")
    run_id = glue.start(job)
    until(lambda: len(glue.log("output", run_id)) == 2)
    pids = [int(line) for line in glue.log("output", run_id)]
    assert all(alive(pid) for pid in pids)

    answer = glue.client.batch_stop_job_run(JobName=job, JobRunIds=[run_id, "jr_unknown"])

    assert answer["SuccessfulSubmissions"] == [{"JobName": job, "JobRunId": run_id}]
    assert [error["JobRunId"] for error in answer["Errors"]] == ["jr_unknown"]
    assert glue.wait(job, run_id)["JobRunState"] == "STOPPED"
    assert not any(alive(pid) for pid in pids)
    again = glue.client.batch_stop_job_run(JobName=job, JobRunIds=[run_id])
    assert again["Errors"][0]["ErrorDetail"]["ErrorCode"] == "JobRunInTerminalStateException"


def test_concurrent_runs_are_limited(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StartJobRun.html (ConcurrentRunsExceededException)"""
    job = glue.job("import time; time.sleep(600)")
    assert glue.client.get_job(JobName=job)["Job"]["ExecutionProperty"] == {"MaxConcurrentRuns": 1}
    first = glue.start(job)
    with pytest.raises(ClientError, match=f"Concurrent runs exceeded for {job}"):
        glue.start(job)
    location = {"Name": "pythonshell", "ScriptLocation": f"s3://{glue.name}/scripts/{job}.py"}
    update = {"Role": glue.role, "Command": location, "ExecutionProperty": {"MaxConcurrentRuns": 2}}
    glue.client.update_job(JobName=job, JobUpdate=update)
    second = glue.start(job)
    glue.client.batch_stop_job_run(JobName=job, JobRunIds=[first, second])
    assert {glue.wait(job, run_id)["JobRunState"] for run_id in (first, second)} == {"STOPPED"}


def test_a_failed_run_is_retried(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/aws-glue-api-jobs-job.html (MaxRetries)"""
    script = f"""
import boto3
s3 = boto3.client("s3")
attempts = s3.list_objects_v2(Bucket="{glue.name}", Prefix="attempts/")["KeyCount"]
s3.put_object(Bucket="{glue.name}", Key=f"attempts/{{attempts}}")
assert attempts, "the first attempt fails"
"""
    job = glue.job(script, MaxRetries=2)
    run_id = glue.start(job)
    until(lambda: len(glue.client.get_job_runs(JobName=job)["JobRuns"]) == 2)
    retry = glue.wait(job, f"{run_id}_attempt_1")
    assert (retry["JobRunState"], retry["Attempt"], retry["PreviousRunId"]) == ("SUCCEEDED", 1, run_id)
    assert glue.get(job, run_id)["ErrorMessage"] == "AssertionError: the first attempt fails"


def test_runs_are_listed_newest_first_in_pages(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_GetJobRuns.html"""
    job = glue.job("print('done')", ExecutionProperty={"MaxConcurrentRuns": 3})
    started = [glue.start(job) for _ in range(3)]
    pages = glue.client.get_paginator("get_job_runs").paginate(JobName=job, PaginationConfig={"PageSize": 2})
    found = [[run["Id"] for run in page["JobRuns"]] for page in pages]
    assert found == [[started[2], started[1]], [started[0]]]
    for run_id in started:
        glue.wait(job, run_id)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda glue: glue.start("no-such-job"), id="start"),
        pytest.param(lambda glue: glue.client.get_job_runs(JobName="no-such-job"), id="runs"),
    ],
)
def test_an_unknown_job_is_an_error(glue: Glue, call: Callable[[Glue], Any]) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StartJobRun.html (EntityNotFoundException)"""
    with pytest.raises(ClientError, match="EntityNotFoundException"):
        call(glue)


def test_a_job_of_a_stack_runs_within_its_limit(glue: Glue) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-glue-job.html"""
    location = glue.upload("scripts/stack.py", "import time; time.sleep(600)")
    properties = {
        "Role": glue.role,
        "Command": {"Name": "pythonshell", "ScriptLocation": location},
        "ExecutionProperty": {"MaxConcurrentRuns": 2},
    }
    template = {
        "Resources": {"Job": {"Type": "AWS::Glue::Job", "Properties": properties}},
        "Outputs": {"Job": {"Value": {"Ref": "Job"}}},
    }
    cloudformation = glue.aws.client("cloudformation")
    cloudformation.create_stack(StackName=glue.name, TemplateBody=json.dumps(template))
    cloudformation.get_waiter("stack_create_complete").wait(StackName=glue.name, WaiterConfig={"Delay": 1})
    job = cloudformation.describe_stacks(StackName=glue.name)["Stacks"][0]["Outputs"][0]["OutputValue"]
    runs = [glue.start(job), glue.start(job)]
    with pytest.raises(ClientError, match="ConcurrentRunsExceededException"):
        glue.start(job)
    glue.client.batch_stop_job_run(JobName=job, JobRunIds=runs)
    assert {glue.wait(job, run_id)["JobRunState"] for run_id in runs} == {"STOPPED"}


@pytest.fixture
def _connection(glue: Glue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's connection to the embedded AWS."""
    value = {
        "conn_type": "aws",
        "login": layout.ROOT_KEYS[0],
        "password": layout.ROOT_KEYS[1],
        "extra": {"region_name": layout.REGION, "endpoint_url": glue.aws.endpoint},
    }
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(value))


class TaskInstance:
    """As much of a task instance as the operator uses."""

    task_id = "job"

    def __init__(self) -> None:
        self.xcom: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcom[key] = value


def execute(task: GlueJobOperator) -> Any:
    return task.execute({"ti": TaskInstance()})  # type: ignore[typeddict-item]


def operator(glue: Glue, script: str, **arguments: Any) -> GlueJobOperator:
    name = f"{glue.name}-{uuid.uuid4().hex[:4]}"
    location = glue.upload(f"scripts/{name}.py", script)
    return GlueJobOperator(
        task_id="job",
        job_name=name,
        iam_role_arn=glue.role,
        create_job_kwargs={"Command": {"Name": "pythonshell", "ScriptLocation": location}, "MaxCapacity": 1.0},
        verbose=True,
        job_poll_interval=1,
        waiter_delay=1,
        **arguments,
    )


@pytest.mark.usefixtures("_connection")
def test_the_airflow_operator_waits_and_tells_the_output(glue: Glue, capsys: pytest.CaptureFixture[str]) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_GetJobRun.html (LogGroupName, JobRunState)"""
    good = operator(glue, "print('hello from the job')", deferrable=False)
    run_id = execute(good)
    assert glue.get(good.job_name, run_id)["JobRunState"] == "SUCCEEDED"
    assert "\thello from the job\n" in capsys.readouterr().out
    assert GlueJobSensor(task_id="sensor", job_name=good.job_name, run_id=run_id).poke({})

    bad = operator(glue, "raise ValueError('spoilt')", deferrable=False)
    with pytest.raises(AirflowException, match="FAILED"):
        execute(bad)


@pytest.mark.parametrize(
    ("script", "status"),
    [pytest.param("print('fine')", "success", id="success"), pytest.param("1 / 0", "error", id="error")],
)
@pytest.mark.usefixtures("_connection")
def test_the_airflow_operator_defers(glue: Glue, script: str, status: str) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_GetJobRun.html (JobRunState)"""
    with pytest.raises(TaskDeferred) as deferred:
        execute(operator(glue, script, deferrable=True))

    async def first_event() -> TriggerEvent:
        return await anext(deferred.value.trigger.run())

    assert asyncio.run(first_event()).payload["status"] == status


def test_a_run_that_takes_too_long_is_killed_with_its_children(glue: Glue) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_StartJobRun.html (Timeout)"""
    script = """
import subprocess, time
print(subprocess.Popen(["sleep", "600"]).pid)
time.sleep(600)
"""
    job = glue.job(script)
    # Timeout is in whole minutes; a client that does not check its parameters can ask for less.
    client = glue.aws.client("glue", parameter_validation=False)
    run_id = client.start_job_run(JobName=job, Timeout=0.03)["JobRunId"]
    assert glue.wait(job, run_id)["JobRunState"] == "TIMEOUT"
    (pid,) = map(int, glue.log("output", run_id))
    assert not alive(pid)


@pytest.mark.usefixtures("glue")
def test_no_job_outlives_the_embedded_aws(tmp_path: Path) -> None:
    """https://docs.aws.amazon.com/glue/latest/dg/how-it-works.html (runs are processes of the service)"""
    running = embedded.start(tmp_path, embedded.free_port())
    try:
        glue = Glue(Aws(running))
        run_id = glue.start(glue.job(SPARK_SLEEP, "glueetl"))
        until(lambda: len(glue.log("output", run_id)) == 2)
        pids = [int(line) for line in glue.log("output", run_id)]
        assert all(alive(pid) for pid in pids)
        running.process.kill()
        until(lambda: not any(alive(pid) for pid in pids))
    finally:
        running.stop()


PARTITIONS = [
    ["2023", "de", "2023-12-31", "1.50"],
    ["2024", "de", "2024-01-01", "10.00"],
    ["2024", "fr", "2024-01-02", "2.25"],
    ["2024", "__HIVE_DEFAULT_PARTITION__", "2024-02-01", "9.00"],
]


@pytest.fixture(scope="module")
def table(glue: Glue) -> dict[str, str]:
    """A table partitioned by year int, country string, day date, rate decimal, and its four partitions."""
    database = glue.name.replace("-", "_")
    keys = [("year", "int"), ("country", "string"), ("day", "date"), ("rate", "decimal(5,2)"), ("odd", "boolean")]
    columns = [{"Name": "id", "Type": "bigint"}]
    glue.client.create_database(DatabaseInput={"Name": database})
    descriptor = {"Columns": columns, "Location": f"s3://{glue.name}/table/"}
    definition = {
        "Name": "sales",
        "StorageDescriptor": descriptor,
        "PartitionKeys": [{"Name": name, "Type": kind} for name, kind in keys],
    }
    glue.client.create_table(DatabaseName=database, TableInput=definition)
    inputs = [{"Values": [*values, "true"], "StorageDescriptor": descriptor} for values in PARTITIONS]
    glue.client.batch_create_partition(DatabaseName=database, TableName="sales", PartitionInputList=inputs)
    return {"DatabaseName": database, "TableName": "sales"}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        pytest.param("year = 2024", [1, 2, 3], id="equal"),
        pytest.param("year <> 2024", [0], id="not equal"),
        pytest.param("year != 2024", [0], id="not equal, other sign"),
        pytest.param("2024 > YEAR", [0], id="literal first, any case"),
        pytest.param("rate > 9", [1], id="decimals compare as numbers"),
        pytest.param("rate >= -1 AND rate <= 2.25", [0, 2], id="bounds and a negative number"),
        pytest.param("rate < 1.50", [], id="none"),
        pytest.param("day BETWEEN '2024-01-01' AND DATE '2024-01-31'", [1, 2], id="between dates"),
        pytest.param("day NOT BETWEEN '2024-01-01' AND '2024-01-31'", [0, 3], id="not between"),
        pytest.param("country IN ('fr', 'it')", [2], id="in"),
        pytest.param("country NOT IN ('fr')", [0, 1], id="not in leaves null out"),
        pytest.param("country LIKE 'd_' OR country LIKE 'f%'", [0, 1, 2], id="like"),
        pytest.param("country NOT LIKE 'd%'", [2], id="not like leaves null out"),
        pytest.param("country IS NULL", [3], id="null"),
        pytest.param("country IS NOT NULL AND year = 2024", [1, 2], id="not null"),
        pytest.param("NOT (country = 'de')", [2], id="not of unknown is unknown"),
        pytest.param("country = 'de' OR year = 2024", [0, 1, 2, 3], id="true wins over unknown"),
        pytest.param("year = 2023 OR country = 'fr' AND year = 2024", [0, 2], id="and binds closer"),
        pytest.param("(year = 2023 OR country = 'fr') AND year = 2024", [2], id="parentheses"),
    ],
)
def test_partitions_are_filtered(glue: Glue, table: dict[str, str], expression: str, expected: list[int]) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_GetPartitions.html (Expression)"""
    found = glue.client.get_partitions(**table, Expression=expression)["Partitions"]
    assert [partition["Values"][:4] for partition in found] == [PARTITIONS[index] for index in expected]


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("upper(country) = 'DE'", id="function"),
        pytest.param("month = 1", id="not a partition key"),
        pytest.param("id = 1", id="an ordinary column"),
        pytest.param("year = rate", id="two keys"),
        pytest.param("1 = 1", id="no key"),
        pytest.param("year", id="no condition"),
        pytest.param("year =", id="syntax"),
        pytest.param("year = 'soon'", id="a literal of another type"),
        pytest.param("year LIKE '20%'", id="like on a number"),
        pytest.param("odd = true", id="a key of an unsupported type"),
    ],
)
def test_an_unsupported_filter_is_refused(glue: Glue, table: dict[str, str], expression: str) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_GetPartitions.html (supported operators and key types)"""
    with pytest.raises(ClientError, match="InvalidInputException"):
        glue.client.get_partitions(**table, Expression=expression)


def test_partitions_come_in_pages(glue: Glue, table: dict[str, str]) -> None:
    """https://docs.aws.amazon.com/glue/latest/webapi/API_GetPartitions.html (NextToken, ExcludeColumnSchema)"""
    pages = glue.client.get_paginator("get_partitions").paginate(
        **table, Expression="year = 2024", ExcludeColumnSchema=True, PaginationConfig={"PageSize": 2}
    )
    found = [page["Partitions"] for page in pages]
    assert [[partition["Values"][:4] for partition in page] for page in found] == [PARTITIONS[1:3], PARTITIONS[3:]]
    assert "Columns" not in found[0][0]["StorageDescriptor"]
    assert found[0][0]["StorageDescriptor"]["Location"]
    with pytest.raises(ClientError, match="InvalidInputException"):
        glue.client.get_partitions(**table, NextToken="made up")
    with pytest.raises(ClientError, match="EntityNotFoundException"):
        glue.client.get_partitions(DatabaseName=table["DatabaseName"], TableName="no_such_table")
