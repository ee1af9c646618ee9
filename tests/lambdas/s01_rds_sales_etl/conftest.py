"""The functions of s01 with a PostgreSQL, a bucket and secrets of the embedded AWS."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import psycopg
import pytest

from local.launcher import layout
from tests.conftest import Aws
from tests.lambdas.functions import importable

BUCKET = "s01-functions"
OWNER, READER = "sales_owner", "sales_reader"
PASSWORD, READER_PASSWORD = "Owner-passw0rd", "reader's-Passw0rd"
TABLES = ("customers", "orders", "order_items", "exchange_rates")
HEADER = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


def sale(
    invoice: str,
    code: str = "20000",
    quantity: int = 1,
    price: str = "1.00",
    customer: str = "12000",
    country: str = "France",
    at: str = "2026-01-05 10:00:00",
) -> str:
    """Return one row of a sales file."""
    return f"{invoice},{code},RED LANTERN,{quantity},{at},{price},{customer},{country}"


def sales(*rows: str) -> bytes:
    """Return a sales file."""
    return "".join(f"{row}\n" for row in (HEADER, *rows)).encode()


class Source:
    """The sales source as the functions and as a person with the owner's password see it."""

    def __init__(self, aws: Aws, address: dict[str, Any]) -> None:
        self.s3 = aws.client("s3")
        self.address = address
        self.owner = self.connect()
        self.load_source: ModuleType = importlib.import_module("load_source")
        self.plan_extraction: ModuleType = importlib.import_module("plan_extraction")
        self.rotate_reader: ModuleType = importlib.import_module("rotate_reader")

    def load(self, name: str, content: bytes, **options: Any) -> dict[str, Any]:
        """Load one file and return what became of it."""
        (loaded,) = self.load_all({name: content}, **options)
        return loaded

    def load_all(self, files: dict[str, bytes], **options: Any) -> list[dict[str, Any]]:
        """Load several files in one call."""
        for name, content in files.items():
            self.s3.put_object(Bucket=BUCKET, Key=f"sources/{name}", Body=content)
        tasks = [{"key": f"sources/{name}", **options} for name in files]
        answer: list[dict[str, Any]] = self.load_source.handler({"bucket": BUCKET, "files": tasks}, None)
        return json.loads(json.dumps(answer))  # type: ignore[no-any-return]  # as Lambda would return it

    def plan(self, watermarks: dict[str, str] | None = None, **event: Any) -> dict[str, Any]:
        """Plan an extraction."""
        request = {"watermarks": watermarks or {}, "rows_per_range": 1000, "max_ranges": 4, **event}
        answer: dict[str, Any] = self.plan_extraction.handler(request, None)
        return json.loads(json.dumps(answer))  # type: ignore[no-any-return]

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """Connect as the owner."""
        login: dict[str, Any] = {
            "user": OWNER,
            "password": PASSWORD,
            "dbname": "sales",
            "sslmode": "require",
            "autocommit": True,
        }
        return psycopg.connect(**self.address, **login | options)

    def run(self, statement: str) -> None:
        """Run a statement as the owner."""
        self.owner.execute(statement)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return a query's rows, sorted."""
        return sorted(self.owner.execute(query))

    def stamps(self) -> dict[tuple[Any, ...], Any]:
        """Return when each row of the source was last changed."""
        keys = {
            "customers": "customer_id, ''",
            "orders": "invoice_no, ''",
            "order_items": "invoice_no, line_no::text",
            "exchange_rates": "currency, rate_date::text",
        }
        return {
            (table, *row[:2]): row[2]
            for table, key in keys.items()
            for row in self.rows(f"SELECT {key}, updated_at FROM {table}")
        }


@pytest.fixture(scope="package")
def running_source(aws: Aws) -> Iterator[Source]:
    """One PostgreSQL instance for all tests of the functions, with the environment that the template gives them."""
    rds, secrets = aws.client("rds"), aws.client("secretsmanager")
    rds.create_db_instance(
        DBInstanceIdentifier="s01-functions",
        Engine="postgres",
        DBInstanceClass="db.t4g.micro",
        AllocatedStorage=20,
        MasterUsername=OWNER,
        MasterUserPassword=PASSWORD,
        DBName="sales",
    )
    aws.client("s3").create_bucket(Bucket=BUCKET)
    arns = {
        user: secrets.create_secret(
            Name=f"s01-functions-{user}", SecretString=json.dumps({"username": user, "password": password})
        )["ARN"]
        for user, password in ((OWNER, PASSWORD), (READER, READER_PASSWORD))
    }
    rds.get_waiter("db_instance_available").wait(
        DBInstanceIdentifier="s01-functions", WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    endpoint = rds.describe_db_instances(DBInstanceIdentifier="s01-functions")["DBInstances"][0]["Endpoint"]
    address = {"host": endpoint["Address"], "port": endpoint["Port"]}
    with pytest.MonkeyPatch.context() as patch, importable("lambdas/s01_rds_sales_etl", "layers/postgres/python"):
        for name, value in {
            "AWS_DEFAULT_REGION": layout.REGION,
            "AWS_LAMBDA_FUNCTION_NAME": "s01-functions",
            "DATABASE_HOST": address["host"],
            "DATABASE_PORT": str(address["port"]),
            "DATABASE_NAME": "sales",
            "OWNER_SECRET_ARN": arns[OWNER],
            "READER_SECRET_ARN": arns[READER],
            "QUARANTINE_BUCKET": BUCKET,
            "QUARANTINE_PREFIX": "quarantine",
        }.items():
            patch.setenv(name, value)
        source = Source(aws, address)
        for module in (importlib.import_module("database"), source.rotate_reader):
            patch.setattr(module, "_secrets", secrets)
        patch.setattr(source.load_source, "_s3", source.s3)
        source.load_all({})  # makes the tables
        with source.owner:
            yield source
    rds.delete_db_instance(DBInstanceIdentifier="s01-functions", SkipFinalSnapshot=True)


@pytest.fixture
def source(running_source: Source) -> Source:
    """The source without rows."""
    running_source.run(f"TRUNCATE {', '.join(TABLES)}")
    return running_source
