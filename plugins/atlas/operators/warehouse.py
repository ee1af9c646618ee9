"""Loading delivered objects into Redshift, each once."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.amazon.aws.hooks.redshift_data import FAILED_STATE, FINISHED_STATE, RUNNING_STATES
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.amazon.aws.operators.base_aws import AwsBaseOperator
from airflow.providers.amazon.aws.utils.mixins import aws_template_fields
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, conf
from botocore.exceptions import ClientError

from atlas.hooks.redshift_data import WarehouseHook
from atlas.triggers.warehouse import WarehouseTrigger

if TYPE_CHECKING:
    from airflow.sdk import Context
    from mypy_boto3_s3 import S3Client

Objects = dict[str, int]
"""Key to size in bytes."""

LEDGER_BYTES = 90_000
"""Of one INSERT into the ledger. A statement of the Data API has at most 100 KB, a batch at most 40 statements:
https://docs.aws.amazon.com/redshift/latest/mgmt/data-api.html"""
OBJECTS_PER_ROUND = 5_000
"""Keeps a round within that if a key and its manifest's address have up to 500 bytes together."""

MANIFEST = "{manifest}"
"""Stands for the manifest's address in a statement."""

BUSY = ("ActiveStatementsExceededException", "ActiveSessionsExceededException", "ThrottlingException")

TRY_AGAIN = ("1023", "could not serialize", "deadlock detected")
"""What an error says when another transaction came first:
https://docs.aws.amazon.com/redshift/latest/dg/c_serial_isolation-serializable-isolation-troubleshooting.html"""


@dataclass
class Progress:
    """What a load has done so far, and the round under way; times in seconds since 1970."""

    started: float
    rounds: int = 0
    objects: int = 0
    rows: int = 0
    bytes: int = 0
    statement_id: str | None = None
    manifest: str | None = None


class WarehouseLoadOperator(AwsBaseOperator[WarehouseHook]):
    """Load what a delivery stream has written below a prefix, in rounds, until all of it is in the warehouse.

    A round lists the objects that the ledger does not have, writes a COPY manifest of them, and runs ``sql`` and the
    insert into the ledger as one transaction of the Data API: either all of it happens or nothing. The transaction
    begins by locking the ledger and ends by checking that no object is in it twice, for Redshift does not enforce
    primary keys: of two loads of the same object, the later one is rolled back.

    A retry attaches to the statement that an earlier attempt left running, known by its name. Refusals because the
    warehouse is busy and serialization failures are waited out. Stopping the task cancels its statement, deferred too.

    Args:
        source_prefix: ``s3://bucket/prefix/`` of the objects, which are below ``YYYY/MM/DD/HH/`` of it in UTC, as
            Firehose writes them (templated).
        manifest_prefix: ``s3://bucket/prefix/`` for the COPY manifests, each named by its content (templated).
        sql: the statements of a round or their ``.sql`` files, for instance COPY into staging and MERGE; ``{manifest}``
            in them stands for the manifest's address (templated). No TRUNCATE: it commits.
        ledger: table with the columns ``object_key`` and ``manifest``; others need a default (templated).
        complete_sql: query of one row, how many are missing and a text about them; the load goes on until nothing is
            missing (templated). Without it one look that finds no new object is the end.
        database: name of the database (templated).
        workgroup_name: of Redshift Serverless (templated); give it or ``cluster_identifier``.
        cluster_identifier: of a provisioned cluster (templated).
        secret_arn: secret with the database user (templated); by default the user is the caller's IAM identity.
        look_back: how far back objects are looked for. What was delivered earlier and never loaded needs a longer one.
        poll_interval: seconds between two looks.
        timeout: seconds to wait for the load to be complete.
        deferrable: wait in the triggerer instead of on the worker.

    Returns:
        ``{"rounds", "objects", "rows": copied into staging, "bytes": of the objects, "seconds"}``.

    Raises:
        AirflowFailException: COPY refused rows; names table, files, lines and reasons. Never retried: the objects do
            not change.
        AirflowException: a statement failed for another reason, or the load was not complete in time.
    """

    aws_hook_class = WarehouseHook
    template_fields: Sequence[str] = aws_template_fields(
        *("source_prefix", "manifest_prefix", "sql", "ledger", "complete_sql"),
        *("database", "workgroup_name", "cluster_identifier", "secret_arn"),
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar = {"sql": "sql", "complete_sql": "sql"}
    ui_color = "#f6dfc9"

    def __init__(
        self,
        *,
        source_prefix: str,
        manifest_prefix: str,
        sql: Sequence[str],
        ledger: str,
        complete_sql: str | None = None,
        database: str,
        workgroup_name: str | None = None,
        cluster_identifier: str | None = None,
        secret_arn: str | None = None,
        look_back: timedelta = timedelta(days=2),
        poll_interval: float = 15,
        timeout: float = 3600,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_prefix = source_prefix
        self.manifest_prefix = manifest_prefix
        self.sql = sql
        self.ledger = ledger
        self.complete_sql = complete_sql
        self.database = database
        self.workgroup_name = workgroup_name
        self.cluster_identifier = cluster_identifier
        self.secret_arn = secret_arn
        self.look_back = look_back
        self.poll_interval = poll_interval
        self.timeout = timeout
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, float]:
        """Load until all is there."""
        return self._load(Progress(started=time.time()))

    def resume(self, context: Context, event: dict[str, Any]) -> dict[str, float]:
        """Go on after the trigger's wait."""
        return self._load(Progress(**event))

    def on_kill(self) -> None:
        """Cancel the statement under way."""
        self.hook.cancel()

    @property
    def _hook_parameters(self) -> dict[str, Any]:
        target = ("database", "workgroup_name", "cluster_identifier", "secret_arn")
        return {**super()._hook_parameters, **{name: getattr(self, name) for name in target}}

    @property
    def _statement_name(self) -> str:
        """What the statements of this task are found by again, whichever run and attempt started them."""
        return f"{self.dag_id}.{self.task_id}."

    def _load(self, progress: Progress) -> dict[str, float]:
        missing = "a statement was still running"
        self.hook.running = progress.statement_id
        while True:
            try:
                if progress.statement_id:
                    self._settle(progress)
                if not progress.statement_id:
                    self._start_round(progress)
                if not progress.statement_id and not (missing := self._missing()):
                    return self._summary(progress)
            except ClientError as error:
                missing = error.response["Error"]["Code"]
                if missing not in BUSY:
                    raise
                self.log.info("The warehouse is busy: %s", missing)
            if time.time() >= progress.started + self.timeout:
                self.on_kill()
                raise AirflowException(f"The load was not complete after {self.timeout:.0f} seconds: {missing}")
            self._wait(progress)

    def _wait(self, progress: Progress) -> None:
        """Wait for the statement to end, or for a while if there is none."""
        if self.deferrable:
            self.defer(
                trigger=WarehouseTrigger(
                    progress=asdict(progress),
                    statement_id=progress.statement_id,
                    deadline=progress.started + self.timeout,
                    poll_interval=self.poll_interval,
                    aws_conn_id=self.aws_conn_id,
                    region_name=self.region_name,
                    verify=self.verify,
                    botocore_config=self.botocore_config,
                ),
                method_name="resume",
            )
        time.sleep(self.poll_interval)

    def _start_round(self, progress: Progress) -> None:
        """Attach to a statement of an earlier attempt, or start one for the objects that are new."""
        found = self.hook.find_running(self._statement_name)
        if found:
            progress.statement_id, name = found
            progress.manifest = f"{self.manifest_prefix}{name.removeprefix(self._statement_name)}.json"
            self.log.info("Attaching to statement %s", progress.statement_id)
        elif objects := self._new_objects():
            self._submit(progress, objects)

    def _submit(self, progress: Progress, objects: Objects) -> None:
        bucket, _ = S3Hook.parse_s3_url(self.source_prefix)
        # https://docs.aws.amazon.com/redshift/latest/dg/loading-data-files-using-manifest.html
        entries = [
            {"url": f"s3://{bucket}/{key}", "mandatory": True, "meta": {"content_length": size}}
            for key, size in objects.items()
        ]
        manifest = json.dumps({"entries": entries}, indent=0)
        digest = hashlib.sha256(manifest.encode()).hexdigest()[:32]
        progress.manifest = f"{self.manifest_prefix}{digest}.json"
        manifest_bucket, manifest_key = S3Hook.parse_s3_url(progress.manifest)
        self._s3.load_string(manifest, manifest_key, manifest_bucket, replace=True)
        statements = self._statements(objects, progress.manifest)
        progress.statement_id = self.hook.start(statements, self._statement_name + digest)
        self.log.info("Statement %s loads %d objects, %s", progress.statement_id, len(objects), progress.manifest)

    def _statements(self, objects: Objects, manifest: str) -> list[str]:
        """Return the statements of a round: the caller's, between the ledger's lock and its check."""
        return [
            f"LOCK {self.ledger}",
            *(statement.replace(MANIFEST, manifest) for statement in self.sql),
            *_ledger_inserts(self.ledger, objects, manifest),
            f"SELECT 1 / CASE WHEN COUNT(*) = COUNT(DISTINCT object_key) THEN 1 ELSE 0 END FROM {self.ledger} "  # noqa: S608
            f"WHERE object_key >= {_literal(min(objects))}",
        ]

    def _new_objects(self) -> Objects:
        """Return the objects of the look-back that the ledger does not have, oldest first."""
        bucket, prefix = S3Hook.parse_s3_url(self.source_prefix)
        since = f"{prefix}{datetime.now(UTC) - self.look_back:%Y/%m/%d/%H}"
        s3: S3Client = self._s3.get_conn()
        pages = s3.get_paginator("list_objects_v2")
        delivered: Objects = {
            entry["Key"]: entry["Size"]
            for page in pages.paginate(Bucket=bucket, Prefix=prefix, StartAfter=since)
            for entry in page.get("Contents", [])
        }
        if not delivered:
            return {}
        # Keys begin with their time, so one bound serves the listing and the ledger.
        known = self.hook.rows(
            f"SELECT object_key FROM {self.ledger} WHERE object_key >= :since",  # noqa: S608
            self.poll_interval,
            {"since": since},
        )
        new = sorted(delivered.keys() - {row["object_key"] for row in known})
        return {key: delivered[key] for key in new[:OBJECTS_PER_ROUND]}

    def _settle(self, progress: Progress) -> None:
        """Judge the statement under way, if it has ended: add up its load, or leave its objects to the next round."""
        description = self.hook.client.describe_statement(Id=progress.statement_id)
        status = description["Status"]
        if status in RUNNING_STATES:
            return
        progress.statement_id = None
        parts = description.get("SubStatements", [])
        copies = [
            part
            for part, statement in zip(parts[1:], self.sql, strict=False)  # the first one is the lock
            if MANIFEST in statement
        ]
        if status == FINISHED_STATE:
            self._add(progress, copies)
            return
        error = description.get("Error", "no reason given")
        loaded_by_another = bool(parts) and parts[-1]["Status"] == FAILED_STATE  # the ledger's check
        if loaded_by_another or any(sign in error for sign in TRY_AGAIN):
            self.log.warning("Statement %s was rolled back and will be tried again: %s", description["Id"], error)
            return
        reasons = (
            self.hook.load_errors(self.source_prefix, description["CreatedAt"], self.poll_interval)
            if any(part["Status"] == FAILED_STATE for part in copies)
            else []
        )
        if reasons:
            raise AirflowFailException("\n- ".join([f"{error} (manifest {progress.manifest})", *reasons]))
        raise AirflowException(f"Statement {description['Id']} is {status}: {error}")

    def _add(self, progress: Progress, copies: Sequence[Mapping[str, Any]]) -> None:
        bucket, key = S3Hook.parse_s3_url(str(progress.manifest))
        entries = json.loads(self._s3.read_key(key, bucket))["entries"]
        progress.rounds += 1
        progress.objects += len(entries)
        progress.bytes += sum(entry["meta"]["content_length"] for entry in entries)
        progress.rows += sum(copy["ResultRows"] for copy in copies)
        self.log.info("Round %d: %d objects loaded so far", progress.rounds, progress.objects)

    def _missing(self) -> str:
        """Return what is missing, in words; nothing if the load is complete."""
        if not self.complete_sql:
            return ""
        rows = self.hook.rows(self.complete_sql, self.poll_interval)
        if len(rows) != 1:
            raise AirflowException(f"complete_sql must return one row, it returned {len(rows)}")
        missing, *more = rows[0].values()
        text = f"{missing} are missing: {', '.join(map(str, more))}" if missing else ""
        if text:
            self.log.info("Not complete: %s", text)
        return text

    def _summary(self, progress: Progress) -> dict[str, float]:
        totals = {name: getattr(progress, name) for name in ("rounds", "objects", "rows", "bytes")}
        return {**totals, "seconds": round(time.time() - progress.started, 1)}

    @cached_property
    def _s3(self) -> S3Hook:
        return S3Hook(
            aws_conn_id=self.aws_conn_id, region_name=self.region_name, verify=self.verify, config=self.botocore_config
        )


def _ledger_inserts(ledger: str, objects: Objects, manifest: str) -> Iterator[str]:
    """Yield INSERTs of all ``objects``, each small enough for the Data API."""
    beginning = f"INSERT INTO {ledger} (object_key, manifest) VALUES "  # noqa: S608
    rows: list[str] = []
    filled = 0
    for key in objects:
        row = f"({_literal(key)}, {_literal(manifest)})"
        if rows and filled + len(row.encode()) > LEDGER_BYTES:
            yield beginning + ", ".join(rows)
            rows, filled = [], 0
        rows.append(row)
        filled += len(row.encode()) + 2
    if rows:
        yield beginning + ", ".join(rows)


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
