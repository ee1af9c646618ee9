"""Start a run of a scenario through Airflow's REST API, follow it, and fetch its report.

The API: https://airflow.apache.org/docs/apache-airflow/stable/stable-rest-api-ref.html
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import boto3

from local.bootstrap import lake_bucket
from local.launcher import LauncherError, airflow, faults, layout, processes, services
from local.launcher.progress import say

DEMO = ("s01_rds_sales_etl", "s05_ecommerce_redshift", "s08_fraud_workflow", "s27_idempotent_consumer")
"""The finished scenarios, in the order they are shown."""

REPORTS = layout.RUN / "reports"
PARSE_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``report`` is its report.json, empty if it left none; ``page`` the report on this disk."""

    dag_id: str
    state: str
    seconds: float
    report: Mapping[str, Any]
    page: Path | None

    @property
    def load(self) -> str:
        """Return the report's first fact, which is the size of the load."""
        return next((f"{fact.get('value')} {fact['name'].lower()}" for fact in self._list("facts")), "-")

    @property
    def gates(self) -> str:
        """Return what the quality gates decided, in a few words."""
        gates = self._list("gates")
        failed = [name for gate in gates for name in gate.get("failed", ())]
        if failed or not all(gate.get("passed") for gate in gates):
            return f"failed: {', '.join(failed) or 'no verdict'}"
        return f"passed ({sum(gate['evaluated'] for gate in gates)})" if gates else "-"

    def _list(self, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.report.get(name, [])
        return found


def run(dag_id: str, conf: str) -> int:
    """Run one scenario and say how it went; return the exit code.

    Raises:
        LauncherError: there is no such scenario, or ``conf`` is not what it takes.
    """
    if not dag_id:
        raise LauncherError("Which scenario? make run DAG=<stem>, for example DAG=s01_rds_sales_etl")
    outcome = _run(dag_id, parameters(conf))
    say(f"{dag_id}: {outcome.state} after {outcome.seconds:.1f} s")
    if outcome.page:
        say(f"Report: {outcome.page.as_uri()}")
    return 0 if outcome.state == "success" else 1


def demo() -> int:
    """Run the finished scenarios with their defaults, print a table, and return the exit code."""
    outcomes = [_run(dag_id, {}) for dag_id in DEMO]
    columns = "{:<26} {:<8} {:>9}  {:<24} {:<14} {}"
    say("")
    say(columns.format("scenario", "state", "seconds", "load", "quality gates", "report"))
    for outcome in outcomes:
        page = outcome.page.as_uri() if outcome.page else "-"
        seconds = f"{outcome.seconds:.1f}"
        say(columns.format(outcome.dag_id, outcome.state, seconds, outcome.load, outcome.gates, page))
    say("")
    say(f"Airflow goes on at http://127.0.0.1:{services.ui_port()} (make down stops it)")
    return 0 if all(outcome.state == "success" for outcome in outcomes) else 1


def replay(arguments: str) -> int:
    """Run ``python -m atlas.dead_letters`` on the lake, as Airflow's user; return its exit code.

    Raises:
        LauncherError: nothing runs, so there is no lake.
    """
    if not airflow.CONNECTION.is_file():
        raise LauncherError("Nothing runs here: make up")
    command = [sys.executable, "-m", "atlas.dead_letters", *shlex.split(arguments)]
    if arguments and "--bucket" not in arguments:
        command += ["--bucket", lake_bucket(_client, layout.ENVIRONMENT)]
    connection = {"AIRFLOW_CONN_AWS_DEFAULT": airflow.CONNECTION.read_text()}
    places = {"AIRFLOW_HOME": str(airflow.HOME), "PYTHONPATH": str(layout.REPOSITORY / "plugins")}
    return subprocess.run(command, env={**os.environ, **places, **connection}, check=False).returncode


def parameters(conf: str) -> dict[str, Any]:
    """Return a run's parameters from JSON; a ``source_uri`` on this machine is uploaded and replaced.

    Raises:
        LauncherError: ``conf`` is no JSON object, or its source does not exist or is empty.
    """
    try:
        parameters = json.loads(conf or "{}")
    except json.JSONDecodeError as error:
        raise LauncherError(f"CONF is not JSON: {error}. Example: CONF='{{\"seed\": 7}}'") from error
    if not isinstance(parameters, dict):
        raise LauncherError("CONF has to be a JSON object, such as CONF='{\"seed\": 7}'")
    source = parameters.get("source_uri")
    if source and not urlparse(source).scheme:
        parameters["source_uri"] = upload(Path(source).expanduser())
    return parameters


def upload(source: Path) -> str:
    """Copy the user's file or folder into the lake, under a name made of its content; return the address.

    Raises:
        LauncherError: there is nothing to copy.
    """
    files = source_files(source)
    root = source if source.is_dir() else source.parent
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    prefix = f"uploads/{digest.hexdigest()[:16]}/"
    bucket = lake_bucket(_client, layout.ENVIRONMENT)
    for file in files:
        _client("s3").upload_file(str(file), bucket, prefix + file.relative_to(root).as_posix())
    address = f"s3://{bucket}/{prefix}" + ("" if source.is_dir() else source.name)
    say(f"{source}: {len(files)} files copied to {address}")
    return address


def source_files(source: Path) -> list[Path]:
    """Return the files of a local source in a fixed order.

    Raises:
        LauncherError: the source does not exist or holds no file.
    """
    if not source.exists():
        raise LauncherError(f"source_uri: there is no {source.resolve()}")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    if not files:
        raise LauncherError(f"source_uri: {source.resolve()} holds no file")
    return files


def _client(service: str) -> Any:
    return boto3.client(service, **airflow.access())  # type: ignore[call-overload]


def _run(dag_id: str, parameters: Mapping[str, Any]) -> Outcome:
    api = Api(services.ui_port())
    run_id = f"cli__{datetime.now(UTC):%Y%m%dT%H%M%S.%f}"
    _wait_for_dag(api, dag_id)
    faults.switch(services.aws_endpoint(), faults.wanted())
    begun = time.monotonic()
    api.call("PATCH", f"dags/{dag_id}?update_mask=is_paused", {"is_paused": False})
    api.call("POST", f"dags/{dag_id}/dagRuns", {"dag_run_id": run_id, "logical_date": None, "conf": parameters})
    say(f"{dag_id}: http://127.0.0.1:{api.port}/dags/{dag_id}/runs/{run_id}")
    shown: dict[tuple[str, int], str] = {}
    state = "queued"
    while state in ("queued", "running"):
        time.sleep(0.5)
        state = api.call("GET", f"dags/{dag_id}/dagRuns/{run_id}")["state"]
        for task in api.pages(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances", "task_instances"):
            name = task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else "")
            now = task["state"] or "waiting"
            if shown.get(name, "waiting") != now:
                say(f"{time.monotonic() - begun:7.1f} s  {name:<44} {now}")
            shown[name] = now
    seconds = time.monotonic() - begun
    _end_faults()
    return Outcome(dag_id, state, seconds, *_report(api, dag_id, run_id))


def _end_faults() -> None:
    """Say how often each fault of the run struck, and have none while the report is fetched."""
    for rule in faults.struck(services.aws_endpoint()):
        say(f"{rule['fault']} struck {rule['struck']} times: {', '.join(rule['actions'])}")
    faults.switch(services.aws_endpoint(), [])


def _wait_for_dag(api: Api, dag_id: str) -> None:
    """Wait until Airflow has read the DAG file, which takes a moment after it started."""
    if not (layout.REPOSITORY / "dags" / f"{dag_id}.py").is_file():
        raise LauncherError(f"There is no dags/{dag_id}.py: name a scenario by its stem.")
    deadline = time.monotonic() + PARSE_SECONDS
    while not api.find(f"dags/{dag_id}"):
        for error in api.pages("importErrors", "import_errors"):
            if error["filename"] == f"{dag_id}.py":
                last = error["stack_trace"].strip().splitlines()[-1]
                raise LauncherError(f"Airflow cannot read dags/{dag_id}.py: {last}")
        if time.monotonic() > deadline:
            log = airflow.LOGS / "dag-processor.log"
            raise LauncherError(f"Airflow has not read dags/{dag_id}.py within {PARSE_SECONDS:.0f} s; see {log}")
        time.sleep(0.5)


def _report(api: Api, dag_id: str, run_id: str) -> tuple[dict[str, Any], Path | None]:
    """Return the run's report.json and where its page was copied to."""
    found = api.find(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/report/xcomEntries/return_value")
    if not found:
        return {}, None
    files = found["value"]
    if isinstance(files, str):
        files = json.loads(files)
    page = REPORTS / dag_id / f"{run_id}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(_read(files["html"]))
    return json.loads(_read(files["json"])), page


def _read(address: str) -> bytes:
    place = urlparse(address)
    content: bytes = _client("s3").get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))["Body"].read()
    return content


class Api:
    """Airflow's REST API on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._token: str = self._send("GET", "/auth/token", None)["access_token"]

    def call(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        """Return what the API answers to a request below ``/api/v2``.

        Raises:
            LauncherError: it refused; the message is the API's reason.
        """
        try:
            return self._send(method, f"/api/v2/{path}", content)
        except urllib.error.HTTPError as error:
            raise LauncherError(f"Airflow refused: {_detail(error)}") from error

    def find(self, path: str) -> Any:
        """Return what is at ``path``, None if nothing is there."""
        try:
            return self._send("GET", f"/api/v2/{path}", None)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise LauncherError(f"Airflow refused: {_detail(error)}") from error

    def pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        """Yield all entries of a list, which the API gives in pages."""
        offset = 0
        while True:
            page = self.call("GET", f"{path}?limit=100&offset={offset}")
            yield from page[key]
            offset += len(page[key])
            if not page[key] or offset >= page["total_entries"]:
                return

    def _send(self, method: str, path: str, content: Mapping[str, Any] | None) -> Any:
        headers = {"Content-Type": "application/json"}
        if path != "/auth/token":
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{quote(path, safe='/?=&')}",
            method=method,
            headers=headers,
            data=None if content is None else json.dumps(content).encode(),
        )
        with processes.OPENER.open(request, timeout=30) as response:
            return json.load(response)


def _detail(error: urllib.error.HTTPError) -> str:
    detail: str = json.loads(error.read())["detail"]
    return detail
