"""The Amazon Redshift Data API: statements that run in the background, their states and results.

https://docs.aws.amazon.com/redshift-data/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ClientError

from local.aws import emulator, iam
from local.aws.emulator import AwsError, Call, json_action
from local.aws.redshift import catalog, lexer, records, results, serverless
from local.aws.redshift.errors import SqlError
from local.aws.redshift.session import Column, Result, Session

Members = dict[str, Any]

SERVICE = "redshift-data"
MAX_QUERY_BYTES = 100_000
MAX_STATEMENTS = 40
MAX_ACTIVE = 500
"""All three: https://docs.aws.amazon.com/redshift/latest/mgmt/data-api.html"""
MAX_SESSIONS = 20
"""Statements that run at a time; further ones wait. It is below the connections of a server."""
RESULT_HOURS = 24
TOKEN_HOURS = 8
"""How long a ClientToken is remembered: https://docs.aws.amazon.com/redshift/latest/mgmt/data-api.html"""
MAX_WAIT_SECONDS = 30

_ENDED = ("FINISHED", "FAILED", "ABORTED")
_log = logging.getLogger(__name__)
_slots = threading.Semaphore(MAX_SESSIONS)
_lock = threading.Lock()
_statements: dict[str, Statement] = {}
_tokens: dict[tuple[str, str, str, str], tuple[str, str, datetime]] = {}

emulator.service(SERVICE, "RedshiftData")
iam.name_resources(SERVICE, serverless.workgroup_of)


def _invalid(message: str) -> AwsError:
    return AwsError("ValidationException", message)


@dataclass
class Part:
    """One SQL statement and what became of it."""

    id: str
    text: str
    bound: str
    status: str = "SUBMITTED"
    error: str = ""
    result: Result | None = None
    tables: dict[int, tuple[str, str]] = field(default_factory=dict)
    size: int = 0
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    seconds: float = 0.0
    began: float = 0.0

    def move(self, status: str, error: str = "") -> None:
        """Go to another status; what has ended stays as it is."""
        if self.status in _ENDED:
            return
        if status == "STARTED":
            self.began = time.monotonic()
        elif self.began:
            self.seconds = time.monotonic() - self.began
        self.status, self.error, self.updated = status, error, datetime.now(UTC)

    def finish(self, result: Result) -> None:
        """Keep the result."""
        self.size = results.size(result, SqlError)
        self.result = result
        self.move("FINISHED")

    @property
    def has_result(self) -> bool:
        """Whether there are rows to fetch, be it none."""
        return self.result is not None and bool(self.result.columns)

    def describe(self) -> Members:
        """Return what a statement and a sub-statement have in common."""
        return {
            "Id": self.id,
            "Duration": int(self.seconds * 1e9) if self.status in _ENDED else -1,
            **({"Error": self.error} if self.error else {}),
            "Status": self.status,
            "CreatedAt": self.created,
            "UpdatedAt": self.updated,
            "QueryString": self.text,
            "ResultRows": self.result.changed if self.result else -1,
            "ResultSize": self.size if self.result else -1,
            "RedshiftQueryId": -1,
            "HasResultSet": self.has_result,
        }


@dataclass
class Login:
    """Who a request acts as in which database."""

    namespace: records.Namespace
    workgroup: str
    workgroup_arn: str
    database: str
    user: str
    password: str
    secret: str

    def open(self, region: str) -> Session:
        """Log in.

        Raises:
            SqlError: the database says no.
        """
        return Session(self.namespace, self.database, self.user, self.password, region)


@dataclass
class Statement:
    """A request to run one statement or a batch, from its submission on."""

    login: Login
    owner: tuple[str, str, str]
    name: str
    whole: Part
    parts: list[Part]
    parameters: list[Members]
    form: str
    with_event: bool
    pid: int = 0
    ended: threading.Event = field(default_factory=threading.Event)
    _session: Session | None = None
    _cancelled: bool = False

    @property
    def id(self) -> str:
        """The statement's id."""
        return self.whole.id

    @property
    def is_batch(self) -> bool:
        """Whether it came by BatchExecuteStatement."""
        return self.parts != [self.whole]

    def run(self) -> None:
        """Run to the end; whatever fails becomes the status."""
        try:
            with _slots:
                self._run()
        except Exception as error:
            _log.exception("Statement %s", self.id)
            self._fail(f"Internal error: {type(error).__name__}")
        finally:
            self.ended.set()
            if self.with_event:
                _announce(self)

    def _run(self) -> None:
        self.whole.move("PICKED")
        try:
            session = self.login.open(self.owner[1])
        except SqlError as error:
            self._fail(error.message)
            return
        try:
            with _lock:
                self._session = session
                self.pid = session.pid
                if self._cancelled:
                    return
            self.whole.move("STARTED")
            if self.is_batch:
                self._run_parts(session)
            else:
                self.whole.finish(session.run(self.whole.bound))
                self._name_tables(session)
            session.refresh_views()
        except SqlError as error:
            self._fail(error.message)
        finally:
            with _lock:
                self._session = None
            session.close()

    def _run_parts(self, session: Session) -> None:
        self.parts[0].move("STARTED")

        def done(number: int, result: Result) -> None:
            self.parts[number].finish(result)
            if number + 1 < len(self.parts):
                self.parts[number + 1].move("STARTED")

        session.run_together([part.bound for part in self.parts], done)
        self._name_tables(session)
        self.whole.result = Result()
        self.whole.size = sum(part.size for part in self.parts)
        self.whole.move("FINISHED")

    def _name_tables(self, session: Session) -> None:
        for part in self.parts:
            wanted = {column.table for column in part.result.columns if column.table} if part.result else set()
            if wanted:
                rows = session.connection.execute(
                    "SELECT c.oid::bigint, nspname, relname FROM pg_class c "
                    "JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = ANY(%s::oid[])",
                    [list(wanted)],
                ).fetchall()
                part.tables = {oid: (schema, name) for oid, schema, name in rows}

    def _fail(self, message: str) -> None:
        """Report a failure, or that the statement was cancelled."""
        if self._cancelled:
            self._abort()
            return
        text = f"ERROR: {message}"
        if self.is_batch:
            number = next((n for n, part in enumerate(self.parts) if part.status not in _ENDED), len(self.parts) - 1)
            self.parts[number].move("FAILED", text)
            for part in self.parts:
                part.move("ABORTED")
            text = f"Query #{number + 1} failed with {text}"
        self.whole.move("FAILED", text)

    def _abort(self) -> None:
        for part in [*self.parts, self.whole]:
            part.move("ABORTED")

    def cancel(self) -> bool:
        """Cancel the statement; return whether it had not ended."""
        with _lock:
            if self.whole.status in _ENDED:
                return False
            self._cancelled = True
            if self._session:
                self._session.cancel()
        self._abort()
        return True

    def part(self, identifier: str) -> Part | None:
        """Return the part that ``identifier`` (``id:n``) means, for a single statement itself."""
        return next((part for part in [self.whole, *self.parts] if part.id == identifier), None)


def _announce(statement: Statement) -> None:
    """Put the event of a statement that has ended on the default bus.

    https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-monitoring-events.html
    """
    account, region, user = statement.owner
    whole = statement.whole
    detail = {
        "principal": user,
        "statementName": statement.name,
        "statementId": statement.id,
        "redshiftQueryId": -1,
        "state": whole.status,
        "rows": whole.result.changed if whole.result else -1,
        "expireAt": int((whole.created + timedelta(hours=RESULT_HOURS)).timestamp()),
    }
    emulator.module("services.eventbridge")._dispatch_event(
        {
            "EventId": str(uuid.uuid4()),
            "Source": "aws.redshift-data",
            "DetailType": "Redshift Data Statement Status Change",
            "Detail": json.dumps(detail),
            "EventBusName": "default",
            "Time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "Resources": [statement.login.workgroup_arn],
            "Account": account,
            "Region": region,
        }
    )


# Who asks ---------------------------------------------------------------------------------------------------------


def _owner(call: Call) -> tuple[str, str, str]:
    return call.account, call.region, serverless.database_user(call.caller.access_key)


def _login(call: Call) -> Login:
    """Return who a request acts as: the user of its secret, or the database user of its IAM identity.

    https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-access.html

    Raises:
        AwsError: ValidationException or AccessDeniedException.
    """
    payload = call.payload
    if payload.get("ClusterIdentifier"):
        raise _invalid("The embedded Redshift has workgroups only, no provisioned clusters.")
    if payload.get("SessionId") or payload.get("SessionKeepAliveSeconds"):
        raise _invalid("The embedded Redshift keeps no session between statements.")
    name = payload.get("WorkgroupName", "").rpartition("/")[2]
    if not name:
        raise _invalid("Either ClusterIdentifier or WorkgroupName must be given.")
    workgroup = records.workgroups.get((call.account, call.region, name))
    if workgroup is None or workgroup.members["status"] != "AVAILABLE":
        raise _invalid("Redshift endpoint doesn't exist in this region.")
    database = payload.get("Database", "")
    if not database:
        raise _invalid("Database name is required.")
    namespace = workgroup.namespace
    secret = payload.get("SecretArn", "")
    if secret:
        user, password = _secret(call, secret)
    else:
        if payload.get("DbUser"):
            raise _invalid("DbUser is not supported for a serverless workgroup.")
        check = iam.Check("redshift-serverless:GetCredentials", workgroup.members["workgroupArn"], {})
        if denied := iam.denial(call.caller.access_key, check, call.region):
            raise AwsError("AccessDeniedException", denied)
        user = serverless.database_user(call.caller.access_key)
        password, _ = namespace.login(user, serverless.CREDENTIAL_SECONDS)
    return Login(namespace, name, workgroup.members["workgroupArn"], database, user, password, secret)


def _secret(call: Call, arn: str) -> tuple[str, str]:
    try:
        answer = emulator.client("secretsmanager", call.caller, call.region).get_secret_value(SecretId=arn)
    except ClientError as error:
        detail = error.response["Error"]
        raise AwsError(detail["Code"], detail.get("Message", "")) from error
    try:
        members = json.loads(answer["SecretString"])
        return str(members["username"]), str(members["password"])
    except (ValueError, KeyError, TypeError) as error:
        raise _invalid(f"Secret {arn} has no username and password.") from error


# Submission -------------------------------------------------------------------------------------------------------


@json_action(SERVICE, "ExecuteStatement")
def _execute_statement(call: Call) -> Members:
    return _submit(call, [call.payload.get("Sql", "")], batch=False)


@json_action(SERVICE, "BatchExecuteStatement")
def _batch_execute_statement(call: Call) -> Members:
    texts = call.payload.get("Sqls", [])
    if not 1 <= len(texts) <= MAX_STATEMENTS:
        raise _invalid(f"Sqls must have 1 to {MAX_STATEMENTS} statements.")
    return _submit(call, texts, batch=True)


def _submit(call: Call, texts: list[str], batch: bool) -> Members:
    payload = call.payload
    for text in texts:
        if not text.strip():
            raise _invalid("SQL statement must not be empty.")
        if len(text.encode()) > MAX_QUERY_BYTES:
            raise _invalid(f"Query string must not be longer than {MAX_QUERY_BYTES} bytes.")
    if payload.get("ExecutionMode", "TRANSACTION") != "TRANSACTION":
        raise _invalid("The embedded Redshift runs batches as one transaction only.")
    login, owner = _login(call), _owner(call)
    given = payload.get("Parameters", [])
    bound = _bind(texts, given)
    identifier = str(uuid.uuid4())
    whole = Part(identifier, texts[0] if not batch else "", bound[0] if not batch else "")
    parts = [Part(f"{identifier}:{n}", *pair) for n, pair in enumerate(zip(texts, bound, strict=True), 1)]
    statement = Statement(
        login=login,
        owner=owner,
        name=payload.get("StatementName", ""),
        whole=whole,
        parts=parts if batch else [whole],
        parameters=given,
        form=payload.get("ResultFormat", "JSON"),
        with_event=bool(payload.get("WithEvent")),
    )
    statement = _remembered(call, statement)
    if statement.id == identifier:
        emulator.in_background(statement.run, f"redshift-data-{identifier}")
    _wait(call, statement)
    answer = {
        "Id": statement.id,
        "CreatedAt": statement.whole.created,
        "Database": login.database,
        "DbUser": login.user,
        "DbGroups": [],
        "WorkgroupName": login.workgroup,
        "Status": statement.whole.status,
        "HasResultSet": statement.whole.has_result,
    }
    return answer | ({"SecretArn": login.secret} if login.secret else {})


def _remembered(call: Call, statement: Statement) -> Statement:
    """Keep a new statement, or return the one that the same ClientToken started.

    https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-calling-considerations-idempotency.html
    """
    payload = {name: value for name, value in call.payload.items() if name != "WaitTimeSeconds"}
    token, request = payload.get("ClientToken", ""), json.dumps(payload, sort_keys=True)
    now = datetime.now(UTC)
    with _lock:
        for old in [each for each in _statements.values() if now - each.whole.created > timedelta(hours=RESULT_HOURS)]:
            del _statements[old.id]
        for expired in [each for each, (_, _, since) in _tokens.items() if now - since >= timedelta(hours=TOKEN_HOURS)]:
            del _tokens[expired]
        key = (*statement.owner, token)
        if known := _tokens.get(key):
            known_id, known_request, _ = known
            if known_request != request:
                raise _invalid("The client token was used for a request with other parameters.")
            return _statements[known_id]
        active = [each for each in _statements.values() if each.whole.status not in _ENDED]
        if sum(each.login.workgroup == statement.login.workgroup for each in active) >= MAX_ACTIVE:
            raise AwsError("ActiveStatementsExceededException", "Active statements exceeded the allowed quota.")
        _statements[statement.id] = statement
        if token:
            _tokens[key] = (statement.id, request, now)
    return statement


def _bind(texts: list[str], given: list[Members]) -> list[str]:
    """Put named parameters into statements.

    https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-calling-considerations-parameters.html
    """
    values = {each["name"]: each["value"] for each in given}
    if len(values) != len(given):
        raise _invalid("A parameter was given more than once.")
    try:
        used = {name for text in texts for name, _, _ in lexer.parameters(text)} if given else set()
        missing, unused = used - values.keys(), values.keys() - used
        if missing:
            raise _invalid(f"Cannot find parameter: {min(missing)}")
        if unused:
            raise _invalid(f"Parameters list contains unused parameters. Unused parameters: {sorted(unused)}")
        return [lexer.bind(text, values) for text in texts] if given else texts
    except SqlError as error:
        raise _invalid(error.message) from error


def _wait(call: Call, statement: Statement) -> None:
    seconds = int(call.payload.get("WaitTimeSeconds") or 0)
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise _invalid(f"WaitTimeSeconds must be from 0 to {MAX_WAIT_SECONDS}.")
    statement.ended.wait(seconds)


# Statements -------------------------------------------------------------------------------------------------------


def _find(call: Call) -> tuple[Statement, Part]:
    """Return the statement a request names; those of others do not exist for it.

    https://docs.aws.amazon.com/redshift/latest/mgmt/data-api-iam.html
    """
    identifier = call.payload.get("Id", "")
    statement = _statements.get(identifier.partition(":")[0])
    part = statement.part(identifier) if statement and statement.owner == _owner(call) else None
    if statement is None or part is None:
        raise AwsError("ResourceNotFoundException", "Query does not exist.")
    return statement, part


@json_action(SERVICE, "DescribeStatement")
def _describe_statement(call: Call) -> Members:
    statement, part = _find(call)
    _wait(call, statement)
    login = statement.login
    answer = part.describe() | {
        "Database": login.database,
        "DbUser": login.user,
        "WorkgroupName": login.workgroup,
        "RedshiftPid": statement.pid,
        "ResultFormat": statement.form,
        "QueryParameters": statement.parameters,
    }
    if login.secret:
        answer["SecretArn"] = login.secret
    if not statement.parameters:
        del answer["QueryParameters"]
    if statement.is_batch and part is statement.whole:
        answer["SubStatements"] = [each.describe() for each in statement.parts]
        answer["HasResultSet"] = any(each.has_result for each in statement.parts)
    return answer


@json_action(SERVICE, "GetStatementResult")
def _get_statement_result(call: Call) -> Members:
    part, start = _finished(call, "JSON")
    return _result_page(part, start) | {"Records": results.records(_result(part), start)}


@json_action(SERVICE, "GetStatementResultV2")
def _get_statement_result_v2(call: Call) -> Members:
    part, start = _finished(call, "CSV")
    return _result_page(part, start) | {"Records": results.csv_records(_result(part), start), "ResultFormat": "CSV"}


def _finished(call: Call, form: str) -> tuple[Part, int]:
    statement, part = _find(call)
    _wait(call, statement)
    if statement.is_batch and part is statement.whole:
        raise _invalid("The result of a batch is fetched by the ids of its sub-statements.")
    if statement.form != form:
        raise _invalid(f"The statement has results of format {statement.form}.")
    if statement.whole.status != "FINISHED" or not part.has_result:
        raise AwsError(
            "ResourceNotFoundException", "Query does not have result. Please check query status with DescribeStatement."
        )
    return part, int(call.payload.get("NextToken") or 0)


def _result(part: Part) -> Result:
    if part.result is None:
        raise AssertionError(part)
    return part.result


def _result_page(part: Part, start: int) -> Members:
    result = _result(part)
    following = start + results.PAGE_ROWS
    return {
        "ColumnMetadata": [results.metadata(column, part.tables) for column in result.columns],
        "TotalNumRows": len(result.rows),
        **({"NextToken": str(following)} if following < len(result.rows) else {}),
    }


@json_action(SERVICE, "CancelStatement")
def _cancel_statement(call: Call) -> Members:
    statement, _ = _find(call)
    if not statement.cancel():
        raise _invalid(f"Could not cancel a query that is already in {statement.whole.status} state.")
    return {"Status": True}


@json_action(SERVICE, "ListStatements")
def _list_statements(call: Call) -> Members:
    payload = call.payload
    wanted = payload.get("Status", "ALL")
    name = payload.get("StatementName", "")
    own = [
        each
        for each in reversed(list(_statements.values()))
        if each.owner == _owner(call)
        and wanted in ("ALL", each.whole.status)
        and each.name.startswith(name)
        and payload.get("WorkgroupName", each.login.workgroup) == each.login.workgroup
        and payload.get("Database", each.login.database) == each.login.database
    ]
    return _page("Statements", [_listed(each) for each in own], payload)


def _listed(statement: Statement) -> Members:
    whole = statement.whole
    texts = {"QueryStrings": [part.text for part in statement.parts]} if statement.is_batch else {}
    return {
        "Id": statement.id,
        "QueryString": whole.text,
        **texts,
        "Status": whole.status,
        "StatementName": statement.name,
        "CreatedAt": whole.created,
        "UpdatedAt": whole.updated,
        "QueryParameters": statement.parameters,
        "IsBatchStatement": statement.is_batch,
        "ResultFormat": statement.form,
        **({"SecretArn": statement.login.secret} if statement.login.secret else {}),
    }


def _page(name: str, items: list[Any], payload: Members) -> Members:
    start = int(payload.get("NextToken") or 0)
    end = start + int(payload.get("MaxResults") or 100)
    return {name: items[start:end], **({"NextToken": str(end)} if end < len(items) else {})}


# Metadata ---------------------------------------------------------------------------------------------------------


def _query(call: Call, text: str, *values: Any) -> list[tuple[Any, ...]]:
    login = _login(call)
    if connected := call.payload.get("ConnectedDatabase"):
        login.database = connected
    try:
        session = login.open(call.region)
    except SqlError as error:
        raise AwsError("DatabaseConnectionException", error.message) from error
    try:
        return list(session.connection.execute(text.encode(), values).fetchall())
    finally:
        session.close()


_OWN_SCHEMAS = "nspname NOT LIKE 'pg\\_toast%%' AND nspname NOT LIKE 'pg\\_temp%%' AND nspname <> 'redshift_system'"


@json_action(SERVICE, "ListDatabases")
def _list_databases(call: Call) -> Members:
    rows = _query(call, "SELECT datname FROM pg_database ORDER BY 1")
    return _page("Databases", [name for (name,) in rows if name not in catalog.SYSTEM_DATABASES], call.payload)


@json_action(SERVICE, "ListSchemas")
def _list_schemas(call: Call) -> Members:
    rows = _query(
        call,
        f"SELECT nspname FROM pg_namespace WHERE {_OWN_SCHEMAS} AND nspname LIKE %s ORDER BY 1",  # noqa: S608
        call.payload.get("SchemaPattern", "%"),
    )
    return _page("Schemas", [name for (name,) in rows], call.payload)


_KINDS = "CASE relkind WHEN 'r' THEN 'TABLE' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'VIEW' END"


@json_action(SERVICE, "ListTables")
def _list_tables(call: Call) -> Members:
    rows = _query(
        call,
        f"SELECT relname, {_KINDS}, nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "  # noqa: S608
        f"WHERE relkind IN ('r', 'v', 'm') AND {_OWN_SCHEMAS} AND nspname LIKE %s AND relname LIKE %s ORDER BY 3, 1",
        call.payload.get("SchemaPattern", "%"),
        call.payload.get("TablePattern", "%"),
    )
    return _page(
        "Tables", [{"name": name, "type": kind, "schema": schema} for name, kind, schema in rows], call.payload
    )


@json_action(SERVICE, "DescribeTable")
def _describe_table(call: Call) -> Members:
    schema, table = call.payload.get("Schema", "public"), call.payload.get("Table", "")
    rows = _query(
        call,
        "SELECT attname, atttypid::bigint, atttypmod, attnotnull, pg_get_expr(adbin, adrelid), c.oid::bigint "
        "FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace "
        "LEFT JOIN pg_attrdef d ON d.adrelid = attrelid AND d.adnum = attnum "
        "WHERE nspname = %s AND relname = %s AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        schema,
        table,
    )
    columns = []
    for name, kind, modifier, required, default, oid in rows:
        column = Column(name, kind, modifier, oid)
        members = results.metadata(column, {oid: (schema, table)})
        members |= {"nullable": 0 if required else 1, "length": members["precision"]}
        columns.append(members | ({"columnDefault": default} if default else {}))
    return {"TableName": table, **_page("ColumnList", columns, call.payload)}
