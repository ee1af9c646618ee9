"""Runs scenarios without Airflow's servers, by ``dag.test()``: for tests and benchmarks.

Runs in Airflow's virtual environment. ``configure`` has to come before Airflow is first imported.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.session
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from local import bootstrap
from local.launcher import airflow, layout

LOCAL_BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"


def configure(home: Path) -> None:
    """Give Airflow its settings: a home of its own and short pauses."""
    _do_once()
    os.environ.update(
        {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(layout.DAGS),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(layout.PLUGINS),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "true",
            "AIRFLOW__ATLAS__ENVIRONMENT": layout.ENVIRONMENT,
            "AIRFLOW__ATLAS__POLL_SECONDS": "0.2",
            "AIRFLOW__ATLAS__BUFFER_SECONDS": "1",
            "AIRFLOW__ATLAS__RETRY_SECONDS": "1",
        }
    )


def _do_once() -> None:
    """Do once in this process what a run asks for over and over: half of its CPU time.

    AWS sessions, of which each task has its own, read the models of services; each look at a param checks its schema.
    """
    botocore.session.create_loader = cache(botocore.loaders.create_loader)
    check, checked = Draft202012Validator.check_schema, set[str]()

    def check_schema(schema: Any, *options: Any) -> None:
        text = json.dumps(schema, sort_keys=True)
        if text not in checked:
            check(schema, *options)
            checked.add(text)

    Draft202012Validator.check_schema = check_schema


@contextmanager
def quietly(log: Path) -> Iterator[None]:
    """Keep what Airflow prints out of the way: it goes to the end of ``log``."""
    sys.stdout.flush()
    printed = os.dup(1), os.dup(2)
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            for number, original in enumerate(printed, start=1):
                os.dup2(original, number)
                os.close(original)


@dataclass(frozen=True)
class Run:
    """A finished DAG run: its id and state, its tasks' states and durations, and what its report says."""

    run_id: str
    state: str
    tasks: dict[str, set[str]]
    """Task id to the states of its instances (several for a mapped task)."""
    seconds: dict[str, float]
    """Task id to the time its instances took, added up."""
    report: dict[str, Any]

    def fact(self, name: str) -> str:
        """Return a fact of the report."""
        (value,) = [fact["value"] for fact in self.report["facts"] if fact["name"] == name]
        return str(value)

    @property
    def gate(self) -> dict[str, Any]:
        """Return what the report says of its only gate."""
        (gate,) = self.report["gates"]
        found: dict[str, Any] = gate
        return found


class Scenarios:
    """An account with Atlas's permissions and an Airflow that uses it as its IAM user.

    Args:
        client: makes boto3 clients that act as the account root, by name of the service.
        endpoint: address of the embedded AWS.
    """

    def __init__(self, client: Callable[[str], Any], endpoint: str) -> None:
        from airflow.utils.db import initdb

        self.client = client
        self.endpoint = endpoint
        initdb()
        key = bootstrap.bootstrap(client, layout.ENVIRONMENT)
        os.environ["AIRFLOW_CONN_AWS_DEFAULT"] = airflow.connection(endpoint, key)

    @cached_property
    def lake(self) -> str:
        """The lake bucket; the platform has to be deployed."""
        return bootstrap.outputs_of(self.client, f"atlas-{layout.ENVIRONMENT}-platform")["LakeBucket"]

    def run(self, stem: str, **conf: Any) -> Run:
        """Run a DAG to its end with the params ``conf``.

        Raises:
            ValueError: the DAG file cannot be imported.
        """
        from airflow.dag_processing.dagbag import DagBag

        file = layout.DAGS / f"{stem}.py"
        bag = DagBag(file)
        if bag.import_errors:
            raise ValueError(f"{stem} cannot be imported: {bag.import_errors}")
        # A run registers its whole bundle first, which would be every DAG there is.
        os.environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = json.dumps(
            [{"name": stem, "classpath": LOCAL_BUNDLE, "kwargs": {"path": str(file)}}]
        )
        result = bag.dags[stem].test(run_conf=conf)
        tasks: dict[str, set[str]] = {}
        seconds: dict[str, float] = {}
        for instance in result.get_task_instances():
            tasks.setdefault(instance.task_id, set()).add(str(instance.state))
            seconds[instance.task_id] = seconds.get(instance.task_id, 0) + (instance.duration or 0)
        key = f"{stem}/runs/{result.run_id}/report.json"
        return Run(result.run_id, str(result.state), tasks, seconds, json.loads(self.read(key)))

    def query(self, sql: str) -> list[dict[str, str]]:
        """Return the rows of an Athena query on the environment's database.

        Raises:
            ValueError: the query failed; says why.
        """
        athena = self.client("athena")
        started = athena.start_query_execution(
            QueryString=sql,
            WorkGroup=f"atlas-{layout.ENVIRONMENT}",
            QueryExecutionContext={"Database": f"atlas_{layout.ENVIRONMENT}"},
        )["QueryExecutionId"]
        while True:
            execution = athena.get_query_execution(QueryExecutionId=started)["QueryExecution"]
            if execution["Status"]["State"] not in ("QUEUED", "RUNNING"):
                break
            time.sleep(0.05)
        if execution["Status"]["State"] != "SUCCEEDED":
            raise ValueError(f"{execution['Status']}: {sql}")
        location = execution["ResultConfiguration"]["OutputLocation"]
        return list(csv.DictReader(io.StringIO(self.read(location.removeprefix(f"s3://{self.lake}/")))))

    def read(self, key: str) -> str:
        """Return the text of an object in the lake."""
        return self.read_bytes(key).decode()

    def read_bytes(self, key: str) -> bytes:
        """Return the content of an object in the lake."""
        body: bytes = self.client("s3").get_object(Bucket=self.lake, Key=key)["Body"].read()
        return body

    def objects(self, prefix: str) -> dict[str, str]:
        """Return the lake's objects below ``prefix``: key to ETag."""
        pages = self.client("s3").get_paginator("list_objects_v2").paginate(Bucket=self.lake, Prefix=prefix)
        return {entry["Key"]: entry["ETag"] for page in pages for entry in page.get("Contents", [])}
