"""The results of a Map Run: in the state's output, or written to S3.

https://docs.aws.amazon.com/step-functions/latest/dg/input-output-resultwriter.html
"""

from __future__ import annotations

import json
from typing import Any

from botocore.exceptions import ClientError

from local.aws import emulator
from local.aws.stepfunctions.calls import Data, Failure, client

_sfn = emulator.module("services.stepfunctions")

_FILES = {
    "SUCCEEDED": {"SUCCEEDED"},
    "FAILED": {"FAILED", "TIMED_OUT", "ABORTED"},
    "PENDING": {"PENDING", "PENDING_REDRIVE"},
}
"""The result files, and the states of the child executions in each."""


def outputs(children: list[Data], config: Data) -> list[Any]:
    """Return the results of children as a state's output has them; ``config`` is the ``WriterConfig``."""
    if config.get("Transformation") == "NONE":
        return [_described(child) for child in children]
    found = [json.loads(child["output"]) if child["status"] == "SUCCEEDED" else None for child in children]
    if config.get("Transformation") != "FLATTEN":
        return found
    return [each for one in found for each in (one if isinstance(one, list) else [one])]


def write(writer: Data, arguments: Data, map_run: str, children: list[Data]) -> Data:
    """Write result files and their manifest as the execution's role; return what the state's output has instead.

    Raises:
        Failure: ``States.ResultWriterFailed`` if S3 refused them.
    """
    config = writer.get("WriterConfig") or {}
    bucket, kind = arguments["Bucket"], config.get("OutputType", "JSON")
    folder = "/".join(filter(None, [arguments.get("Prefix", "").strip("/"), map_run.rpartition(":")[2]]))
    s3 = client("s3")
    files: dict[str, list[Data]] = {}
    try:
        for name, states in _FILES.items():
            entries = _entries(name, [child for child in children if child["status"] in states], config)
            files[name] = []
            if entries:
                key = f"{folder}/{name}_0.{kind.lower()}"
                text = "\n".join(map(json.dumps, entries)) if kind == "JSONL" else json.dumps(entries)
                s3.put_object(Bucket=bucket, Key=key, Body=text.encode())
                files[name].append({"Key": key, "Size": len(text.encode())})
        manifest = {"DestinationBucket": bucket, "MapRunArn": map_run, "ResultFiles": files}
        s3.put_object(Bucket=bucket, Key=f"{folder}/manifest.json", Body=json.dumps(manifest).encode())
    except ClientError as error:
        raise Failure("States.ResultWriterFailed", f"The results cannot be written: {error}") from error
    details = {"Bucket": bucket, "Key": f"{folder}/manifest.json"}
    return {"MapRunArn": map_run, "ResultWriterDetails": details}


def _entries(name: str, children: list[Data], config: Data) -> list[Any]:
    """Failed and pending children are described whatever the transformation is."""
    transformed = name == "SUCCEEDED" and config.get("Transformation", "NONE") != "NONE"
    return outputs(children, config if transformed else {"Transformation": "NONE"})


def _described(child: Data) -> Data:
    """Return a child as DescribeExecution describes it, with the names that result files use."""
    if child["startDate"] is None:
        return {"Input": child["input"], "InputDetails": {"Included": True}, "Status": "PENDING"}
    described = json.loads(_sfn._describe_execution({"executionArn": child["executionArn"]})[2])
    return {_capital(name): _capital_members(value) for name, value in sorted(described.items())}


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _capital_members(value: Any) -> Any:
    return {_capital(name): item for name, item in value.items()} if isinstance(value, dict) else value
