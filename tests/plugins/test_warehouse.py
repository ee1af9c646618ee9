"""Loading the warehouse: what is asked of the Data API, what happens when it refuses, what a retry finds."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk import DAG
from botocore.exceptions import ClientError

from atlas.hooks.redshift_data import WarehouseHook
from atlas.operators import warehouse
from atlas.operators.warehouse import WarehouseLoadOperator
from atlas.triggers.warehouse import WarehouseTrigger
from tests.conftest import Aws

BUCKET = "warehouse-lake"
NOW = datetime.now(UTC)
SQL = ["DELETE FROM staging", "-- rows\nCOPY staging FROM '{manifest}' IAM_ROLE DEFAULT MANIFEST", "MERGE INTO sales"]
ROWS_AN_OBJECT = 10


class DataApi:
    """A warehouse behind the Data API: statements run when they are looked at, a batch wholly or not at all.

    https://docs.aws.amazon.com/redshift-data/latest/APIReference/Welcome.html
    """

    def __init__(self, s3: Any) -> None:
        self.s3 = s3
        self.ledger: list[str] = []
        self.statements: dict[str, dict[str, Any]] = {}
        self.failures: list[tuple[int, str]] = []
        """Of the next batches: which statement fails, and its error."""
        self.refusals: list[str] = []
        """Codes of the next starts' errors."""
        self.missing: list[list[Any]] = []
        """Answers of the completeness query in turn, the last one again and again."""
        self.load_errors: list[list[str]] = []
        self.looks = 0
        """How often a batch is looked at before it has run."""
        self.cancelled: list[str] = []

    @property
    def batches(self) -> list[dict[str, Any]]:
        return [statement for statement in self.statements.values() if "Sqls" in statement]

    def execute_statement(self, **request: Any) -> dict[str, str]:
        return self._start(request)

    def batch_execute_statement(self, **request: Any) -> dict[str, str]:
        return self._start(request)

    def _start(self, request: dict[str, Any]) -> dict[str, str]:
        assert (request["Database"], request["WorkgroupName"]) == ("shop", "atlas")
        if self.refusals:
            raise ClientError({"Error": {"Code": self.refusals.pop(0), "Message": "later"}}, "ExecuteStatement")
        statement_id = str(uuid4())
        looks = self.looks if "Sqls" in request else 0
        started = {"Id": statement_id, "Status": "STARTED", "CreatedAt": NOW, "looks": looks}
        self.statements[statement_id] = {**started, **request}
        return {"Id": statement_id}

    def describe_statement(self, Id: str) -> dict[str, Any]:  # noqa: N803
        statement = self.statements[Id]
        if statement["Status"] == "STARTED" and statement["looks"] == 0:
            self._run(statement)
        statement["looks"] -= 1
        return statement

    def _run(self, statement: dict[str, Any]) -> None:
        statement["Status"] = "FINISHED"
        if "Sqls" not in statement:
            return
        sqls = statement["Sqls"]
        failing, error = self.failures.pop(0) if self.failures else (None, "")
        keys = [
            key for sql in sqls if sql.startswith("INSERT INTO load_ledger") for key in re.findall(r"\('([^']+)'", sql)
        ]
        statement["SubStatements"] = [
            {
                "Id": f"{statement['Id']}:{number}",
                "Status": "FINISHED",
                "QueryString": sql,
                "ResultRows": len(keys) * ROWS_AN_OBJECT if "COPY" in sql else 0,
            }
            for number, sql in enumerate(sqls, 1)
        ]
        if failing is None:
            self.ledger += keys
            return
        statement |= {"Status": "FAILED", "Error": error}
        for part in statement["SubStatements"][failing:]:
            part["Status"] = "ABORTED"
        statement["SubStatements"][failing]["Status"] = "FAILED"

    def cancel_statement(self, Id: str) -> dict[str, bool]:  # noqa: N803
        self.cancelled.append(Id)
        self.statements[Id]["Status"] = "ABORTED"
        return {"Status": True}

    def get_paginator(self, operation: str) -> Any:
        pages: Any = {"list_statements": self._list, "get_statement_result": self._result}[operation]
        return type("Paginator", (), {"paginate": staticmethod(lambda **request: [pages(**request)])})

    def _list(self, StatementName: str, Status: str, **_: Any) -> dict[str, Any]:  # noqa: N803
        assert Status == "ALL", "running statements are listed only if they are asked for"
        named = [s for s in self.statements.values() if s.get("StatementName", "").startswith(StatementName)]
        return {"Statements": named}

    def _result(self, Id: str) -> dict[str, Any]:  # noqa: N803
        statement = self.statements[Id]
        if "FROM load_ledger" in statement["Sql"]:
            (since,) = [parameter["value"] for parameter in statement["Parameters"]]
            return text_result(["object_key"], [[key] for key in self.ledger if key >= since])
        if "sys_load_error_detail" in statement["Sql"]:
            assert {"name": "files", "value": f"s3://{BUCKET}/s00/rows/%"} in statement["Parameters"]
            assert {"name": "since", "value": f"{NOW:%Y-%m-%d %H:%M:%S}"} in statement["Parameters"]
            return text_result(["file", "line", "name", "why"], self.load_errors)
        assert statement["Sql"] == "SELECT missing"
        answer = self.missing.pop(0) if len(self.missing) > 1 else self.missing[0]
        metadata = [{"name": "missing", "typeName": "int8"}, {"name": "example", "typeName": "varchar"}]
        return {"ColumnMetadata": metadata, "Records": [[{"longValue": answer[0]}, {"stringValue": answer[1]}]]}


def text_result(columns: list[str], rows: list[list[str]]) -> dict[str, Any]:
    metadata = [{"name": name, "typeName": "varchar"} for name in columns]
    return {"ColumnMetadata": metadata, "Records": [[{"stringValue": value} for value in row] for row in rows]}


class Bench:
    """A warehouse and a lake that objects are delivered to."""

    def __init__(self, aws: Aws) -> None:
        self.s3 = aws.client("s3")
        self.s3.create_bucket(Bucket=BUCKET)
        self.api = DataApi(self.s3)

    def deliver(self, *names: str, age: timedelta = timedelta()) -> list[str]:
        keys = [f"s00/rows/{NOW - age:%Y/%m/%d/%H}/{name}.gz" for name in names]
        for key in keys:
            self.s3.put_object(Bucket=BUCKET, Key=key, Body=b"x" * 7)
        return keys

    def operator(self, **changes: Any) -> WarehouseLoadOperator:
        arguments: dict[str, Any] = {
            "source_prefix": f"s3://{BUCKET}/s00/rows/",
            "manifest_prefix": f"s3://{BUCKET}/s00/manifests/",
            "sql": SQL,
            "ledger": "load_ledger",
            "database": "shop",
            "workgroup_name": "atlas",
            "poll_interval": 0.01,
            "timeout": 5,
            "deferrable": False,
        }
        with DAG("s00", schedule=None):
            return WarehouseLoadOperator(task_id="load_warehouse", **(arguments | changes))

    def load(self, **changes: Any) -> dict[str, float]:
        return self.operator(**changes).execute({})

    def manifest(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        (address,) = re.findall(f"FROM 's3://{BUCKET}/(.*?)'", batch["Sqls"][2])
        entries: list[dict[str, Any]] = json.load(self.s3.get_object(Bucket=BUCKET, Key=address)["Body"])["entries"]
        return entries


@pytest.fixture
def bench(connected: Aws, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    bench = Bench(connected)
    monkeypatch.setattr(WarehouseHook, "conn", bench.api)
    yield bench
    objects = bench.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    for entry in objects:
        bench.s3.delete_object(Bucket=BUCKET, Key=entry["Key"])
    bench.s3.delete_bucket(Bucket=BUCKET)


@pytest.mark.parametrize("field", WarehouseLoadOperator.template_fields)
def test_template_fields_are_attributes(bench: Bench, field: str) -> None:
    assert hasattr(bench.operator(), field)


def test_sql_comes_from_files_too() -> None:
    assert WarehouseLoadOperator.template_ext == (".sql",)
    assert {"sql", "complete_sql", "source_prefix", "manifest_prefix"} <= set(WarehouseLoadOperator.template_fields)


def test_a_round_loads_what_is_new_in_one_transaction(bench: Bench) -> None:
    keys = bench.deliver("a", "b", "c")
    bench.api.ledger.append(keys[1])
    totals = bench.load()
    (batch,) = bench.api.batches
    lock, clear, copy, merge, ledger, check = batch["Sqls"]
    assert (lock, clear, merge) == ("LOCK load_ledger", SQL[0], SQL[2])
    assert copy.startswith(f"-- rows\nCOPY staging FROM 's3://{BUCKET}/s00/manifests/")
    assert ledger.startswith("INSERT INTO load_ledger (object_key, manifest) VALUES ('s00/rows/")
    assert "COUNT(*) = COUNT(DISTINCT object_key)" in check
    assert sorted(bench.api.ledger) == keys
    assert bench.manifest(batch) == [
        {"url": f"s3://{BUCKET}/{key}", "mandatory": True, "meta": {"content_length": 7}} for key in (keys[0], keys[2])
    ]
    assert totals.pop("seconds") >= 0
    assert totals == {"rounds": 1, "objects": 2, "rows": 2 * ROWS_AN_OBJECT, "bytes": 14}


def test_nothing_new_is_no_round(bench: Bench) -> None:
    bench.api.missing = [[0, ""]]
    assert bench.load(complete_sql="SELECT missing")["rounds"] == 0
    assert bench.api.batches == []


def test_it_goes_on_until_nothing_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.deliver("a")
    late = iter(["b", "c"])
    monkeypatch.setattr("time.sleep", lambda seconds: bench.deliver(*[name for name in [next(late, None)] if name]))
    bench.api.missing = [[2, "o-7"], [1, "o-9"], [0, ""]]
    totals = bench.load(complete_sql="SELECT missing")
    assert (totals["objects"], totals["rows"]) == (3, 3 * ROWS_AN_OBJECT)
    assert 2 <= totals["rounds"] <= 3


def test_what_never_comes_is_named(bench: Bench) -> None:
    bench.api.missing = [[2, "o-7"]]
    with pytest.raises(AirflowException, match="not complete after 0 seconds: 2 are missing: o-7"):
        bench.load(complete_sql="SELECT missing", timeout=0)


def test_only_the_look_back_is_listed(bench: Bench) -> None:
    bench.deliver("old", age=timedelta(days=3))
    recent = bench.deliver("recent", age=timedelta(days=1))
    assert bench.load()["objects"] == 1
    assert bench.api.ledger == recent
    assert bench.load(look_back=timedelta(days=4))["objects"] == 1


def test_a_busy_warehouse_is_waited_for(bench: Bench) -> None:
    bench.deliver("a")
    bench.api.refusals = ["ActiveStatementsExceededException", "ThrottlingException"]
    assert bench.load()["objects"] == 1


def test_any_other_refusal_is_raised(bench: Bench) -> None:
    bench.deliver("a")
    bench.api.refusals = ["ResourceNotFoundException"]
    with pytest.raises(ClientError, match="ResourceNotFoundException"):
        bench.load()


@pytest.mark.parametrize(
    ("failing", "error"),
    [
        pytest.param(3, "ERROR: 1023 DETAIL: Serializable isolation violation on table - 100", id="not serializable"),
        pytest.param(5, "ERROR: Divide by zero", id="another load was first"),
    ],
)
def test_a_load_that_came_second_is_tried_again(bench: Bench, failing: int, error: str) -> None:
    keys = bench.deliver("a")
    bench.api.failures = [(failing, error)]
    totals = bench.load()
    assert (totals["rounds"], totals["rows"]) == (1, ROWS_AN_OBJECT)
    assert bench.api.ledger == keys
    assert len(bench.api.batches) == 2


def test_refused_rows_are_named_and_not_tried_again(bench: Bench) -> None:
    (key,) = bench.deliver("a")
    bench.api.failures = [(2, "ERROR: Load into table 'staging' failed. Check 'sys_load_error_detail' system table")]
    bench.api.load_errors = [[f"s3://{BUCKET}/{key}", "12", "amount", "Invalid digit"]]
    with pytest.raises(AirflowFailException) as raised:
        bench.load()
    assert "Load into table 'staging' failed" in str(raised.value)
    assert f"s3://{BUCKET}/{key}, line 12, column amount: Invalid digit" in str(raised.value)
    assert f"manifest s3://{BUCKET}/s00/manifests/" in str(raised.value)
    assert bench.api.ledger == []


def test_a_failed_merge_says_why(bench: Bench) -> None:
    bench.deliver("a")
    bench.api.failures = [(3, "ERROR: relation sales does not exist")]
    with pytest.raises(AirflowException, match="is FAILED: ERROR: relation sales does not exist") as raised:
        bench.load()
    assert not isinstance(raised.value, AirflowFailException), "worth another try"


def test_a_retry_attaches_to_the_statement_left_running(bench: Bench) -> None:
    bench.deliver("a", "b")
    bench.api.looks = 3
    first = bench.operator(deferrable=True)
    with pytest.raises(TaskDeferred):
        first.execute({})
    bench.deliver("c")
    totals = bench.load()
    assert len(bench.api.batches) == 2, "one of the first attempt, one of what came meanwhile"
    assert [len(bench.manifest(batch)) for batch in bench.api.batches] == [2, 1]
    assert (totals["rounds"], totals["objects"], totals["bytes"]) == (2, 3, 21)


def test_deferred_it_goes_on_where_it_was(bench: Bench) -> None:
    bench.deliver("a")
    bench.api.looks = 1
    operator = bench.operator(deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute({})
    assert deferred.value.method_name == "resume"
    assert deferred.value.kwargs is None, "dag.test() would drop it"
    (batch,) = bench.api.batches
    path, arguments = deferred.value.trigger.serialize()
    assert path == "atlas.triggers.warehouse.WarehouseTrigger"
    assert arguments["statement_id"] == arguments["progress"]["statement_id"] == batch["Id"]
    bench.api.describe_statement(batch["Id"])
    bench.api.describe_statement(batch["Id"])
    assert bench.operator(deferrable=True).resume({}, arguments["progress"])["objects"] == 1


class TestTrigger:
    def fire(self, statuses: list[str], monkeypatch: pytest.MonkeyPatch, **changes: Any) -> dict[str, Any]:
        looked: list[str] = []

        async def is_still_running(hook: Any, statement_id: str) -> bool:
            looked.append(statement_id)
            return statuses.pop(0) == "STARTED"

        monkeypatch.setattr(
            "airflow.providers.amazon.aws.hooks.redshift_data.RedshiftDataHook.is_still_running", is_still_running
        )
        arguments: dict[str, Any] = {
            "progress": {"started": 1.0},
            "statement_id": "s-1",
            "deadline": time.time() + 60,
            "poll_interval": 0.01,
            "aws_conn_id": None,
        }
        _, serialized = WarehouseTrigger(**(arguments | changes)).serialize()

        async def run() -> list[dict[str, Any]]:
            return [event.payload async for event in WarehouseTrigger(**serialized).run()]

        (event,) = asyncio.run(run())
        assert looked == ["s-1"] * len(looked)
        return event

    def test_it_fires_when_the_statement_has_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        statuses = ["STARTED", "STARTED", "FAILED", "unseen"]
        assert self.fire(statuses, monkeypatch) == {"started": 1.0}
        assert statuses == ["unseen"]

    def test_without_a_statement_it_waits_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        started = time.monotonic()
        assert self.fire([], monkeypatch, statement_id=None, poll_interval=0.2) == {"started": 1.0}
        assert 0.2 <= time.monotonic() - started < 1

    def test_it_fires_when_time_is_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.fire([], monkeypatch, deadline=time.time() - 1) == {"started": 1.0}


def test_time_that_runs_out_cancels_the_statement(bench: Bench) -> None:
    bench.deliver("a")
    bench.api.looks = -1
    with pytest.raises(AirflowException, match="a statement was still running"):
        bench.load(timeout=0.05)
    assert bench.api.cancelled == [batch["Id"] for batch in bench.api.batches]


def test_killing_the_task_cancels_its_statement(bench: Bench) -> None:
    bench.deliver("a")
    bench.api.looks = -1
    operator = bench.operator(deferrable=True)
    operator.on_kill()
    assert bench.api.cancelled == []
    with pytest.raises(TaskDeferred):
        operator.execute({})
    operator.on_kill()
    assert bench.api.cancelled == [batch["Id"] for batch in bench.api.batches]


def test_a_large_round_stays_within_the_data_api(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """https://docs.aws.amazon.com/redshift/latest/mgmt/data-api.html"""
    keys = {f"s00/rows/2026/01/05/10/{number:05d}-{'x' * 300}.gz": 1 for number in range(warehouse.OBJECTS_PER_ROUND)}
    statements = bench.operator()._statements(keys, "s3://lake/" + "m" * 150)
    assert len(statements) <= 40
    assert max(len(statement.encode()) for statement in statements) <= 100_000
    assert sum(statement.count(".gz") for statement in statements[4:-1]) == len(keys)


def test_rows_take_the_type_redshift_states() -> None:
    """https://docs.aws.amazon.com/redshift-data/latest/APIReference/API_GetStatementResult.html"""
    columns: dict[str, tuple[str, dict[str, Any]]] = {
        "count": ("int8", {"longValue": 12}),
        "revenue": ("numeric", {"stringValue": "10.10"}),
        "share": ("float8", {"doubleValue": 0.5}),
        "fresh": ("bool", {"booleanValue": True}),
        "day": ("date", {"stringValue": "2024-02-29"}),
        "at": ("timestamp", {"stringValue": "2024-02-29 01:02:03.004"}),
        "zoned": ("timestamptz", {"stringValue": "2024-02-29 02:02:03+01"}),
        "name": ("varchar", {"stringValue": ""}),
        "gone": ("numeric", {"isNull": True}),
    }
    api = DataApi(None)
    page = {
        "ColumnMetadata": [{"name": name, "typeName": kind} for name, (kind, _) in columns.items()],
        "Records": [[field for _, field in columns.values()]],
    }
    api._result = lambda Id: page  # type: ignore[method-assign] # noqa: N803
    hook = WarehouseHook(database="shop", workgroup_name="atlas")
    hook.conn = api
    assert hook.rows("SELECT", 1) == [
        {
            "count": 12,
            "revenue": Decimal("10.10"),
            "share": 0.5,
            "fresh": True,
            "day": date(2024, 2, 29),
            "at": datetime(2024, 2, 29, 1, 2, 3, 4000, tzinfo=UTC),
            "zoned": datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC),
            "name": "",
            "gone": None,
        }
    ]


class Warehouse:
    """An embedded Redshift Serverless workgroup that may read the lake."""

    LAKE = "warehouse-real"

    def __init__(self, aws: Aws) -> None:
        self.s3 = aws.client("s3")
        self.iam = aws.client("iam")
        self.serverless = aws.client("redshift-serverless")
        self.s3.create_bucket(Bucket=self.LAKE)
        trust = {"Effect": "Allow", "Principal": {"Service": "redshift-serverless.amazonaws.com"}}
        role = self.iam.create_role(
            RoleName=self.LAKE, AssumeRolePolicyDocument=policy({**trust, "Action": "sts:AssumeRole"})
        )["Role"]["Arn"]
        read = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"], "Resource": "*"}
        self.iam.put_role_policy(RoleName=self.LAKE, PolicyName="read", PolicyDocument=policy(read))
        names = {"namespaceName": self.LAKE, "dbName": "shop"}
        self.serverless.create_namespace(**names, iamRoles=[role], defaultIamRoleArn=role)
        self.serverless.create_workgroup(workgroupName=self.LAKE, namespaceName=self.LAKE, baseCapacity=8)
        while self.serverless.get_workgroup(workgroupName=self.LAKE)["workgroup"]["status"] != "AVAILABLE":
            time.sleep(0.1)

    def hook(self) -> WarehouseHook:
        return WarehouseHook(database="shop", workgroup_name=self.LAKE)

    def run(self, sql: list[str]) -> None:
        hook = self.hook()
        statement_id = hook.start(sql)
        hook.wait_for_results(statement_id, poll_interval=0.1)  # type: ignore[arg-type]

    def deliver(self, name: str, *lines: str) -> str:
        key = f"s00/rows/{datetime.now(UTC):%Y/%m/%d/%H}/{name}.csv"
        self.s3.put_object(Bucket=self.LAKE, Key=key, Body="".join(f"{line}\n" for line in lines).encode())
        return key

    def operator(self, **changes: Any) -> WarehouseLoadOperator:
        arguments: dict[str, Any] = {
            "source_prefix": f"s3://{self.LAKE}/s00/rows/",
            "manifest_prefix": f"s3://{self.LAKE}/s00/manifests/",
            "sql": [
                "DELETE FROM staging",
                "COPY staging FROM '{manifest}' IAM_ROLE DEFAULT MANIFEST CSV",
                "MERGE INTO sales USING staging ON sales.id = staging.id WHEN MATCHED THEN UPDATE SET amount = "
                "staging.amount WHEN NOT MATCHED THEN INSERT VALUES (staging.id, staging.amount)",
            ],
            "ledger": "load_ledger",
            "database": "shop",
            "workgroup_name": self.LAKE,
            "poll_interval": 0.1,
            "timeout": 20,
            "deferrable": False,
        }
        with DAG("s00", schedule=None):
            return WarehouseLoadOperator(task_id="load_warehouse", **(arguments | changes))

    def close(self) -> None:
        self.serverless.delete_workgroup(workgroupName=self.LAKE)


def policy(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


@pytest.fixture(scope="class")
def warehouse_of_aws(aws: Aws) -> Iterator[Warehouse]:
    found = Warehouse(aws)
    yield found
    found.close()


class TestRedshift:
    """Against the embedded Redshift, where statements really run."""

    @pytest.fixture
    def redshift(self, warehouse_of_aws: Warehouse, connected: Aws) -> Iterator[Warehouse]:
        tables = {
            "sales": "id VARCHAR(20), amount DECIMAL(10, 2)",
            "staging": "id VARCHAR(20), amount DECIMAL(10, 2)",
            "load_ledger": "object_key VARCHAR(300) PRIMARY KEY, manifest VARCHAR(300), loaded_at TIMESTAMP "
            "DEFAULT GETDATE()",
        }
        warehouse_of_aws.run([f"CREATE TABLE {name} ({columns})" for name, columns in tables.items()])
        yield warehouse_of_aws
        warehouse_of_aws.run([f"DROP TABLE {name}" for name in tables])
        for entry in warehouse_of_aws.s3.list_objects_v2(Bucket=Warehouse.LAKE).get("Contents", []):
            warehouse_of_aws.s3.delete_object(Bucket=Warehouse.LAKE, Key=entry["Key"])

    def test_objects_are_loaded_once(self, redshift: Warehouse) -> None:
        redshift.deliver("a", "o-1,1.50", "o-2,2.25")
        key = redshift.deliver("it's", "o-3,3.00")
        totals = redshift.operator().execute({})
        assert (totals["rounds"], totals["objects"], totals["rows"]) == (1, 2, 3)
        assert redshift.operator().execute({})["rounds"] == 0
        redshift.deliver("b", "o-3,4.00")
        missing = "SELECT 3 - COUNT(*) AS missing, 'orders' AS what FROM sales"
        assert redshift.operator(complete_sql=missing).execute({})["rows"] == 1
        hook = redshift.hook()
        assert hook.rows("SELECT COUNT(*) AS orders, SUM(amount) AS total FROM sales", 0.1) == [
            {"orders": 3, "total": Decimal("7.75")}
        ]
        assert key in [row["object_key"] for row in hook.rows("SELECT object_key FROM load_ledger", 0.1)]

    def test_refused_rows_name_file_line_and_reason(self, redshift: Warehouse) -> None:
        redshift.deliver("good", "o-1,1.50")
        key = redshift.deliver("bad", "o-2,2.25", "o-3,much")
        with pytest.raises(AirflowFailException) as raised:
            redshift.operator().execute({})
        assert "Load into table 'staging' failed" in str(raised.value)
        assert f"{key}, line 2, column amount: " in str(raised.value)
        assert redshift.hook().rows("SELECT 1 AS one FROM load_ledger", 0.1) == [], "nothing of the round stays"

    def test_an_object_that_another_load_took_is_not_loaded_twice(self, redshift: Warehouse) -> None:
        """The ledger's check rolls back the later one of two loads that both found the object new."""
        key = redshift.deliver("a", "o-1,1.50")
        operator = redshift.operator()
        progress = warehouse.Progress(started=time.time())
        objects = operator._new_objects()
        redshift.operator().execute({})
        redshift.run(["DELETE FROM sales"])
        operator._submit(progress, objects)
        while progress.statement_id:
            operator._settle(progress)
        assert progress.rounds == 0
        hook = redshift.hook()
        assert hook.rows("SELECT object_key FROM load_ledger", 0.1) == [{"object_key": key}]
        assert hook.rows("SELECT id FROM sales", 0.1) == [], "the effect went with the check"
