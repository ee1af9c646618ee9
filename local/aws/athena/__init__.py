"""Athena: Trino SQL over the Glue Data Catalog, run by DuckDB with the caller's permissions.

https://docs.aws.amazon.com/athena/latest/APIReference/Welcome.html
"""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import Any

from local.aws import emulator
from local.aws.athena import prepared, results, statements, translate
from local.aws.athena.errors import QueryError
from local.aws.athena.executions import Execution, fingerprint
from local.aws.emulator import AwsError, Call, json_action

Members = dict[str, Any]

_MAX_QUERY_BYTES = 262_144
"""https://docs.aws.amazon.com/athena/latest/ug/service-limits.html"""
_NO_OUTPUT = (
    "No output location provided. An output location is required either through the Workgroup result configuration "
    "setting or as an API input."
)
_EXECUTE = re.compile(r"\s*EXECUTE\s+(?P<name>\w+)(?:\s+USING\s+(?P<values>.+?))?\s*;?\s*", re.IGNORECASE | re.DOTALL)

_lock = threading.Lock()
_executions: dict[str, Execution] = {}
_tokens: dict[tuple[str, str, str], tuple[str, str]] = {}


def _refuse(message: str, code: str = "InvalidRequestException") -> AwsError:
    return AwsError(code, message)


@json_action("athena", "StartQueryExecution")
def start_query_execution(call: Call) -> Members:
    """Submit a query; the same ClientRequestToken gives the same query again."""
    execution = _submitted(call)
    token = call.payload.get("ClientRequestToken")
    if token:
        key, request = (call.account, call.region, token), fingerprint(call.payload)
        with _lock:
            known_id, known_request = _tokens.setdefault(key, (execution.id, request))
        if known_request != request:
            raise _refuse("Idempotent parameters do not match")
        if known_id != execution.id:
            return {"QueryExecutionId": known_id}
    _executions[execution.id] = execution
    emulator.in_background(execution.run, f"athena-{execution.id}")
    return {"QueryExecutionId": execution.id}


def _submitted(call: Call) -> Execution:
    """Return the query a request submits, with its workgroup's settings applied.

    https://docs.aws.amazon.com/athena/latest/ug/workgroups-settings-override.html
    """
    payload = call.payload
    name = payload.get("WorkGroup") or "primary"
    workgroup = _answer(call, "GetWorkGroup", {"WorkGroup": name})["WorkGroup"]
    if workgroup["State"] != "ENABLED":
        raise _refuse(f"WorkGroup {name} is disabled.")
    configuration = workgroup.get("Configuration", {})
    given, default = payload.get("ResultConfiguration", {}), configuration.get("ResultConfiguration", {})
    # https://docs.aws.amazon.com/athena/latest/APIReference/API_WorkGroupConfiguration.html
    enforced = bool(configuration.get("EnforceWorkGroupConfiguration", False))
    result = default if enforced else {**default, **given}
    output = result.get("OutputLocation", "")
    if not output:
        raise _refuse(_NO_OUTPUT)
    if len(payload["QueryString"].encode()) > _MAX_QUERY_BYTES:
        raise _refuse(f"The query is longer than {_MAX_QUERY_BYTES} bytes")
    context = payload.get("QueryExecutionContext", {})
    parameters = list(payload.get("ExecutionParameters", []))
    limit = configuration.get("BytesScannedCutoffPerQuery")
    try:
        statement = _prepared(call, name, payload["QueryString"], parameters)
    except QueryError as error:
        raise AwsError("InvalidRequestException", error.reason) from error
    return Execution(
        statement=statement,
        caller=call.caller,
        account=call.account,
        region=call.region,
        workgroup=name,
        database=context.get("Database", "default").lower(),
        output=output.rstrip("/") + "/",
        enforced=enforced and "OutputLocation" in default,
        scan_limit=int(limit) if limit else None,
        result_configuration=result,
        parameters=parameters,
    )


def _prepared(call: Call, workgroup: str, text: str, parameters: list[str]) -> statements.Statement:
    """Parse a statement and put in its parameters; EXECUTE runs a prepared one.

    https://docs.aws.amazon.com/athena/latest/ug/querying-with-prepared-statements.html
    """
    execute = _EXECUTE.fullmatch(text)
    if preparing := prepared.kind(text):
        return statements.Statement(text, "DDL", preparing, None)
    if execute is None:
        return replace(statements.parse(translate.bind(text, parameters)), text=text)
    wanted = {"StatementName": execute["name"], "WorkGroup": workgroup}
    try:
        kept = _answer(call, "GetPreparedStatement", wanted)["PreparedStatement"]
    except AwsError as error:
        raise QueryError(f"Prepared statement not found: {execute['name']}") from error
    values = translate.parse(f"SELECT {execute['values']}").expressions if execute["values"] else []
    given = parameters or [value.sql(dialect="trino") for value in values]
    return replace(statements.parse(translate.bind(kept["QueryStatement"], given)), text=text)


@json_action("athena", "UpdatePreparedStatement")
def update_prepared_statement(call: Call) -> Members:
    """Put another query in the place of a prepared statement's."""
    _answer(call, "DeletePreparedStatement", call.payload)
    return _answer(call, "CreatePreparedStatement", call.payload)


def _answer(call: Call, action: str, payload: Members) -> Members:
    """Ask the emulator's own Athena, which keeps workgroups and prepared statements."""
    return emulator.fall_through(replace(call, action=action, payload=payload))


def _find(call: Call) -> Execution:
    name = call.payload.get("QueryExecutionId", "")
    execution = _executions.get(name)
    if execution is None or (execution.account, execution.region) != (call.account, call.region):
        raise _refuse(f"QueryExecution {name} was not found")
    return execution


@json_action("athena", "GetQueryExecution")
def get_query_execution(call: Call) -> Members:
    """Describe a query."""
    return {"QueryExecution": _find(call).describe()}


@json_action("athena", "BatchGetQueryExecution")
def batch_get_query_execution(call: Call) -> Members:
    """Describe several queries; unknown ones are named as unprocessed."""
    found, missing = [], []
    for name in call.payload["QueryExecutionIds"]:
        try:
            found.append(_find(replace(call, payload={"QueryExecutionId": name})).describe())
        except AwsError as error:
            missing.append({"QueryExecutionId": name, "ErrorCode": error.code, "ErrorMessage": error.message})
    return {"QueryExecutions": found, "UnprocessedQueryExecutionIds": missing}


@json_action("athena", "ListQueryExecutions")
def list_query_executions(call: Call) -> Members:
    """List a workgroup's queries, the latest first."""
    workgroup = call.payload.get("WorkGroup") or "primary"
    _answer(call, "GetWorkGroup", {"WorkGroup": workgroup})
    names = [
        e.id
        for e in reversed(list(_executions.values()))
        if (e.account, e.region, e.workgroup) == (call.account, call.region, workgroup)
    ]
    start = int(call.payload.get("NextToken") or 0)
    end = start + int(call.payload.get("MaxResults") or 50)
    return {"QueryExecutionIds": names[start:end], **({"NextToken": str(end)} if end < len(names) else {})}


@json_action("athena", "StopQueryExecution")
def stop_query_execution(call: Call) -> Members:
    """Cancel a query; one that has ended stays as it is."""
    _find(call).stop()
    return {}


@json_action("athena", "GetQueryRuntimeStatistics")
def get_query_runtime_statistics(call: Call) -> Members:
    """Return the times and the rows of a query."""
    execution = _find(call)
    statistics = execution.describe()["Statistics"]
    timeline = {name: value for name, value in statistics.items() if name.endswith("InMillis")}
    rows = {"InputBytes": execution.scanned}
    return {"QueryRuntimeStatistics": {"Timeline": timeline, "Rows": rows}}


@json_action("athena", "GetQueryResults")
def get_query_results(call: Call) -> Members:
    """Return a page of a query's result, read from S3 with the caller's permissions.

    The first page of a SELECT starts with the column names. The token is the byte at which the next page starts.
    https://docs.aws.amazon.com/athena/latest/APIReference/API_GetQueryResults.html
    """
    execution = _find(call)
    limit = int(call.payload.get("MaxResults") or results.PAGE)
    if not 1 <= limit <= results.PAGE:
        raise _refuse(f"MaxResults is more than maximum allowed length {results.PAGE}.")
    if execution.state in ("QUEUED", "RUNNING"):
        raise _refuse(f"Query has not yet finished. Current state: {execution.state}")
    if execution.state != "SUCCEEDED":
        raise _refuse(f"Query did not finish successfully. Final query state: {execution.state}")
    s3 = emulator.client("s3", call.caller, call.region)
    following = None
    rows: list[results.Row] = []
    try:
        if execution.has_rows:
            start = int(call.payload.get("NextToken") or 0)
            columns = len(execution.columns)
            rows, following = results.read_page(s3, execution.result_address, start, limit, columns)
        elif not execution.manifest:
            rows = results.read_lines(s3, execution.result_address)
    except QueryError as error:
        raise _refuse(error.reason) from error
    data = [{"Data": [{} if v is None else {"VarCharValue": v} for v in row]} for row in rows]
    info = [results.column_info(column) for column in execution.columns]
    page = {"Rows": data, "ResultSetMetadata": {"ColumnInfo": info}}
    token = {"NextToken": str(following)} if following is not None else {}
    return {"UpdateCount": execution.updated, "ResultSet": page, **token}
