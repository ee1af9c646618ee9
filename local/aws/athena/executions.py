"""Query executions: their states, their record as the API shows it, and the thread that runs them."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from local.aws import emulator
from local.aws.athena import prepared, results, statements
from local.aws.athena.engine import Engine
from local.aws.athena.errors import QueryCancelledError, QueryError, aws_errors
from local.aws.athena.hive import Column
from local.aws.athena.lake import location
from local.aws.athena.statements import Context, Outcome, Statement

Members = dict[str, Any]

_VERSION = "Athena engine version 3"
_log = logging.getLogger(__name__)


@dataclass
class Execution:
    """One query of one caller, from its submission on."""

    statement: Statement
    caller: emulator.Credentials
    account: str
    region: str
    workgroup: str
    database: str
    output: str
    enforced: bool
    scan_limit: int | None
    result_configuration: Members
    parameters: list[str]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    state: str = "QUEUED"
    reason: str = ""
    error: Members | None = None
    columns: list[Column] = field(default_factory=list)
    updated: int = 0
    manifest: str = ""
    scanned: int = 0
    submitted: datetime = field(default_factory=lambda: datetime.now(UTC))
    completed: datetime | None = None
    _engine: Engine | None = None
    _cancelled: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _started: float = field(default_factory=time.monotonic)
    _engine_seconds: float = 0.0
    _queue_seconds: float = 0.0
    _total_seconds: float = 0.0

    @property
    def has_rows(self) -> bool:
        """Return whether its result is rows in a CSV object."""
        return self.statement.subtype == "SELECT"

    @property
    def result_address(self) -> str:
        """Return where its result is: .csv of a SELECT, .txt of DDL; statements that write have none."""
        if self.statement.subtype in ("INSERT", "UNLOAD", "CREATE_TABLE_AS_SELECT"):
            return f"{self.output}{self.id}"
        return f"{self.output}{self.id}.{'csv' if self.has_rows else 'txt'}"

    def run(self) -> None:
        """Run the query to its end; whatever fails becomes its state."""
        with self._lock:
            if self._cancelled:
                return
            self._queue_seconds = time.monotonic() - self._started
            self.state = "RUNNING"
        began = time.monotonic()
        try:
            state, reason, error = self._run()
        except QueryCancelledError as failure:
            state, reason, error = "CANCELLED", failure.reason, _error(2, failure.kind, failure.reason)
        except QueryError as failure:
            state, reason, error = "FAILED", failure.reason, _error(2, failure.kind, failure.reason)
        except Exception as failure:
            _log.exception("Query %s", self.id)
            reason = f"GENERIC_INTERNAL_ERROR: {type(failure).__name__}: {failure}"
            state, error = "FAILED", _error(1, 200, reason)
        self._engine_seconds = time.monotonic() - began
        self._end(state, reason, error)

    def stop(self) -> None:
        """Cancel the query unless it has ended."""
        with self._lock:
            self._cancelled = True
            waiting = self.state == "QUEUED"
            if self._engine:
                self._engine.stop()
        if waiting:
            self._end("CANCELLED", "Query cancelled by user", None)

    def describe(self) -> Members:
        """Return the QueryExecution structure.

        https://docs.aws.amazon.com/athena/latest/APIReference/API_QueryExecution.html
        """
        status: Members = {"State": self.state, "SubmissionDateTime": self.submitted}
        if self.reason:
            status["StateChangeReason"] = self.reason
        if self.error:
            status["AthenaError"] = self.error
        if self.completed:
            status["CompletionDateTime"] = self.completed
        statistics: Members = {
            "EngineExecutionTimeInMillis": round(self._engine_seconds * 1000),
            "DataScannedInBytes": self.scanned,
            "TotalExecutionTimeInMillis": round(self._total_seconds * 1000),
            "QueryQueueTimeInMillis": round(self._queue_seconds * 1000),
            "ServiceProcessingTimeInMillis": 0,
        }
        if self.manifest:
            statistics["DataManifestLocation"] = self.manifest
        return {
            "QueryExecutionId": self.id,
            "Query": self.statement.text,
            "StatementType": self.statement.type,
            "SubstatementType": self.statement.subtype,
            "ResultConfiguration": {**self.result_configuration, "OutputLocation": self.result_address},
            "QueryExecutionContext": {"Database": self.database, "Catalog": "awsdatacatalog"},
            "Status": status,
            "Statistics": statistics,
            "WorkGroup": self.workgroup,
            "EngineVersion": {"SelectedEngineVersion": _VERSION, "EffectiveEngineVersion": _VERSION},
            **({"ExecutionParameters": self.parameters} if self.parameters else {}),
        }

    def _run(self) -> tuple[str, str, Members | None]:
        engine = Engine(self.statement.text, self.caller, self.region, self.scan_limit)
        try:
            with self._lock:
                self._engine = engine
                cancelled = self._cancelled
            if cancelled:
                engine.stop()
            context = Context(self.id, self.database, self.output, self.enforced, self._put_settings())
            if prepared.kind(self.statement.text):
                prepared.run(self.statement.text, self.workgroup, self.caller, self.region)
                outcome = statements.Outcome()
            else:
                outcome = statements.run(engine, self.statement, context)
            self.columns, self.updated = outcome.columns, outcome.updated
            self._store(engine, outcome)
            engine.count_scanned()
            self.scanned = engine.scanned
        finally:
            with self._lock:
                self._engine = None
            engine.close()
        return "SUCCEEDED", "", None

    def _store(self, engine: Engine, outcome: Outcome) -> None:
        """Put the result, or the list of the objects written, where the API says it is."""
        address = self.result_address
        path = engine.folder / "result"
        with path.open("wb") as target:
            if outcome.objects is not None:
                address = self.manifest = f"{self.output}{self.id}-manifest.csv"
                target.write("".join(f"{item}\n" for item in outcome.objects).encode())
            elif self.has_rows:
                results.write_csv(target, [[column.name for column in self.columns]])
                results.write_csv(target, outcome.rows)
            else:
                target.write("".join(f"{row[0]}\n" for row in outcome.rows).encode())
        bucket, key = location(address)
        with path.open("rb") as body, aws_errors(f"writing output to url: {address}"):
            engine.s3.put_object(Bucket=bucket, Key=key, Body=body, **self._put_settings())

    def _put_settings(self) -> Members:
        encryption = self.result_configuration.get("EncryptionConfiguration", {})
        if encryption.get("EncryptionOption") == "SSE_S3":
            return {"ServerSideEncryption": "AES256"}
        if encryption.get("EncryptionOption") == "SSE_KMS":
            return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": encryption["KmsKey"]}
        return {}

    def _end(self, state: str, reason: str, error: Members | None) -> None:
        with self._lock:
            self.reason, self.error = reason, error
            self.completed = datetime.now(UTC)
            self._total_seconds = time.monotonic() - self._started
            self.statement = replace(self.statement, tree=None)  # needed no more; its description is kept
            self.state = state


def _error(category: int, kind: int, message: str) -> Members:
    return {"ErrorCategory": category, "ErrorType": kind, "Retryable": False, "ErrorMessage": message}


def fingerprint(payload: Members) -> str:
    """Return what two requests with the same ClientRequestToken must have in common."""
    return json.dumps({key: value for key, value in payload.items() if key != "ClientRequestToken"}, sort_keys=True)
