"""A Redshift Serverless warehouse for tests: its statements by the Data API, its objects in S3."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from local.launcher import layout
from tests.conformance.test_iam import allow, role, unique
from tests.conftest import Aws

REDSHIFT = "redshift-serverless.amazonaws.com"
ENDED = ("FINISHED", "FAILED", "ABORTED")


@dataclass(frozen=True)
class Warehouse:
    """A workgroup ``name`` with database ``shop``, and a bucket its only role may read and write."""

    aws: Aws
    name: str
    bucket: str
    role: str

    @property
    def data(self) -> Any:
        """The Data API as the root."""
        return self.aws.client("redshift-data")

    @property
    def login(self) -> dict[str, str]:
        """The arguments that say where a statement runs."""
        return {"WorkgroupName": self.name, "Database": "shop"}

    @property
    def secret(self) -> str:
        """The ARN of the administrator's secret."""
        namespace = self.aws.client("redshift-serverless").get_namespace(namespaceName=self.name)["namespace"]
        return str(namespace["adminPasswordSecretArn"])

    def ended(self, identifier: str, client: Any = None) -> dict[str, Any]:
        """Return a statement once it has ended."""
        statement: dict[str, Any] = (client or self.data).describe_statement(Id=identifier, WaitTimeSeconds=30)
        assert statement["Status"] in ENDED, statement
        return statement

    def run(self, sql: str, client: Any = None, **options: Any) -> dict[str, Any]:
        """Run one statement to its end."""
        started = (client or self.data).execute_statement(Sql=sql, **self.login | options)
        return self.ended(started["Id"], client)

    def do(self, *statements: str) -> None:
        """Run statements that must succeed, each in a transaction of its own."""
        for sql in statements:
            statement = self.run(sql)
            assert statement["Status"] == "FINISHED", f"{statement['Error']}: {sql}"

    def error(self, sql: str, client: Any = None, **options: Any) -> str:
        """Run a statement that must fail and return what it says."""
        statement = self.run(sql, client, **options)
        assert statement["Status"] == "FAILED", f"{statement['Status']}: {sql}"
        return str(statement["Error"])

    def batch(self, *statements: str, **options: Any) -> dict[str, Any]:
        """Run statements in one transaction to their end."""
        started = self.data.batch_execute_statement(Sqls=list(statements), **self.login | options)
        return self.ended(started["Id"])

    def rows(self, sql: str, client: Any = None, **options: Any) -> list[list[Any]]:
        """Run a query and return its rows, None for NULL."""
        statement = self.run(sql, client, **options)
        assert statement["Status"] == "FINISHED", f"{statement['Error']}: {sql}"
        return fetched(client or self.data, statement["Id"])

    def value(self, sql: str) -> Any:
        """Run a query of one value and return it."""
        [[value]] = self.rows(sql)
        return value

    def put(self, key: str, body: str | bytes) -> str:
        """Put an object and return its address."""
        content = body.encode() if isinstance(body, str) else body
        self.aws.client("s3").put_object(Bucket=self.bucket, Key=key, Body=content)
        return f"s3://{self.bucket}/{key}"

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Return the objects below ``prefix`` by what follows it."""
        s3 = self.aws.client("s3")
        listed = s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        return {
            item["Key"].removeprefix(prefix): s3.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read()
            for item in listed
        }


def fetched(client: Any, identifier: str) -> list[list[Any]]:
    """Return all rows of a result."""
    pages = client.get_paginator("get_statement_result").paginate(Id=identifier)
    return [
        [None if "isNull" in field else next(iter(field.values())) for field in row]
        for page in pages
        for row in page["Records"]
    ]


def available(aws: Aws, name: str) -> dict[str, Any]:
    """Return a workgroup once it is available."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        workgroup: dict[str, Any] = aws.client("redshift-serverless").get_workgroup(workgroupName=name)["workgroup"]
        if workgroup["status"] == "AVAILABLE":
            return workgroup
        time.sleep(0.05)
    raise AssertionError(f"{name} is still {workgroup['status']}")


def create(aws: Aws) -> Warehouse:
    """Create a warehouse."""
    name = unique("warehouse")
    aws.client("s3").create_bucket(Bucket=name)
    objects = allow(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], f"arn:aws:s3:::{name}/*")
    loader = role(aws, REDSHIFT, objects, allow("s3:ListBucket", f"arn:aws:s3:::{name}"))
    serverless = aws.client("redshift-serverless")
    serverless.create_namespace(
        namespaceName=name,
        dbName="shop",
        adminUsername="shop_admin",
        manageAdminPassword=True,
        iamRoles=[loader],
        defaultIamRoleArn=loader,
    )
    serverless.create_workgroup(workgroupName=name, namespaceName=name, baseCapacity=8)
    available(aws, name)
    return Warehouse(aws, name, name, loader)


def remove(warehouse: Warehouse) -> None:
    """Delete a warehouse."""
    serverless = warehouse.aws.client("redshift-serverless")
    serverless.delete_workgroup(workgroupName=warehouse.name)
    serverless.delete_namespace(namespaceName=warehouse.name)


def manifest(*addresses: str, mandatory: bool = True) -> str:
    """Return a COPY manifest."""
    return json.dumps({"entries": [{"url": address, "mandatory": mandatory} for address in addresses]})


def parquet(sql: str) -> list[list[str]]:
    """Run SQL on Parquet files by a reader that has nothing to do with Redshift; return its rows as texts."""
    script = "import duckdb, json, sys; print(json.dumps(duckdb.sql(sys.argv[1]).fetchall(), default=str))"
    python = layout.python(layout.AWS_VENV)
    output = subprocess.run([python, "-c", script, sql], capture_output=True, text=True, check=True).stdout
    rows: list[list[str]] = json.loads(output)
    return rows
