"""The items of a Distributed Map: read from S3, selected, and put together in batches.

https://docs.aws.amazon.com/step-functions/latest/dg/state-map-distributed.html
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from local.aws import emulator
from local.aws.stepfunctions.calls import Data, Failure, client
from local.aws.stepfunctions.tasks import State, number

_sfn = emulator.module("services.stepfunctions")

_DELIMITERS = {"COMMA": ",", "PIPE": "|", "SEMICOLON": ";", "SPACE": " ", "TAB": "\t"}
_MOST_INPUT_BYTES = 262_144
"""A child execution's input is no longer: https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html."""


def inputs(state: State, raw_input: Any, effective: Any, context: Data) -> list[tuple[Any, int]]:
    """Return the input of each child execution of a Distributed Map, and how many items it holds.

    Args:
        state: the Map state.
        raw_input: the state's input, which JSONata sees.
        effective: the input as ``InputPath`` leaves it, which JSONPath sees.
        context: the context object.

    Raises:
        Failure: ``States.ItemReaderFailed`` if the items cannot be read.
    """
    jsonata = _sfn._state_query_language(state, context) == "JSONata"

    def fill(template: Any, seen: Data) -> Any:
        if jsonata:
            return _sfn._apply_jsonata_template(template, raw_input, seen)
        return _sfn._resolve_params_obj(template, effective, seen)

    if "ItemReader" in state:
        reader = state["ItemReader"]
        arguments = fill(reader.get("Arguments") or reader.get("Parameters") or {}, context)
        config = fill(reader.get("ReaderConfig") or {}, context) if jsonata else reader.get("ReaderConfig") or {}
        found = _read(reader["Resource"].rpartition(":")[2], arguments, config)
        most = number(config, "MaxItems", effective, context, jsonata=False)
        found = found[: int(most)] if most else found
    elif jsonata:
        found = fill(state["Items"], context) if "Items" in state else raw_input
    else:
        found = _sfn._resolve_path_or_ctx(state.get("ItemsPath", "$"), effective, context)
    if isinstance(found, dict):
        found = [{"Key": key, "Value": value} for key, value in found.items()]
    if not isinstance(found, list):
        raise Failure("States.Runtime", f"The items of a Map state must be an array or an object, not {found!r}.")
    if selector := state.get("ItemSelector") or state.get("Parameters"):
        found = [fill(selector, _with_item(context, index, item)) for index, item in enumerate(found)]
    if "ItemBatcher" not in state:
        return [(item, 1) for item in found]
    batcher = state["ItemBatcher"]
    most_items = number(batcher, "MaxItemsPerBatch", effective, context, jsonata)
    most_bytes = number(batcher, "MaxInputBytesPerBatch", effective, context, jsonata)
    common = {"BatchInput": fill(batcher["BatchInput"], context)} if "BatchInput" in batcher else {}
    return list(_batches(found, common, int(most_items or len(found)), int(most_bytes or _MOST_INPUT_BYTES)))


def _with_item(context: Data, index: int, item: Any) -> Data:
    seen = copy.deepcopy(context)
    seen["Map"] = {"Item": {"Index": index, "Value": item}}
    return seen


def _batches(found: list[Any], common: Data, most_items: int, most_bytes: int) -> Iterator[tuple[Data, int]]:
    """https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itembatcher.html"""
    empty = len(json.dumps({**common, "Items": []}))
    batch: list[Any] = []
    size = empty
    for item in found:
        cost = len(json.dumps(item)) + len(", ")
        if batch and (len(batch) == most_items or size + cost > most_bytes):
            yield {**common, "Items": batch}, len(batch)
            batch, size = [], empty
        batch.append(item)
        size += cost
    if batch:
        yield {**common, "Items": batch}, len(batch)


def _read(action: str, arguments: Data, config: Data) -> list[Any]:
    """Read a dataset as the execution's role.

    https://docs.aws.amazon.com/step-functions/latest/dg/input-output-itemreader.html
    """
    s3 = client("s3")
    try:
        if action == "listObjectsV2":
            return _list(s3, arguments, config)
        content = _fetch(s3, arguments["Bucket"], arguments["Key"])
        if config.get("InputType") == "MANIFEST" or "ManifestType" in config:
            return _follow(s3, content, config)
        return _parse(content, config)
    except (ClientError, ValueError, LookupError) as error:
        raise Failure("States.ItemReaderFailed", f"The items cannot be read: {error}") from error


def _list(s3: Any, arguments: Data, config: Data) -> list[Any]:
    pages = s3.get_paginator("list_objects_v2").paginate(**arguments)
    listed = [each for page in pages for each in page.get("Contents", [])]
    if config.get("Transformation") == "LOAD_AND_FLATTEN":
        bucket = arguments["Bucket"]
        return [item for each in listed for item in _parse(_fetch(s3, bucket, each["Key"]), config)]
    return [
        {
            "Etag": each["ETag"],
            "Key": each["Key"],
            "LastModified": int(each["LastModified"].timestamp()),
            "Size": each["Size"],
            "StorageClass": each.get("StorageClass", "STANDARD"),
        }
        for each in listed
    ]


def _fetch(s3: Any, bucket: str, key: str) -> bytes:
    body: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def _follow(s3: Any, manifest: bytes, config: Data) -> list[Any]:
    """Read the files that a manifest names: one of UNLOAD in Athena, or of an S3 inventory in CSV."""
    if config.get("ManifestType") == "ATHENA_DATA":
        files = [uri.removeprefix("s3://").partition("/") for uri in manifest.decode().split()]
        return [item for bucket, _, key in files for item in _parse(_fetch(s3, bucket, key), config)]
    inventory = json.loads(manifest)
    if inventory["fileFormat"] != "CSV":
        raise ValueError(f"an inventory in {inventory['fileFormat']} is not supported")
    bucket = inventory["destinationBucket"].rpartition(":")[2]
    header = [name.strip() for name in inventory["fileSchema"].split(",")]
    given = {"InputType": "CSV", "CSVHeaderLocation": "GIVEN", "CSVHeaders": header}
    return [item for file in inventory["files"] for item in _parse(_fetch(s3, bucket, file["key"]), given)]


def _csv(text: str, config: Data) -> list[Any]:
    """Fields that a row lacks are empty strings, further ones are left out."""
    rows = list(csv.reader(io.StringIO(text), delimiter=_DELIMITERS[config.get("CSVDelimiter", "COMMA")]))
    header = config["CSVHeaders"] if config.get("CSVHeaderLocation") == "GIVEN" else rows.pop(0) if rows else []
    filled = (row + [""] * (len(header) - len(row)) for row in rows if row)
    return [dict(zip(header, row, strict=False)) for row in filled]


def _json(text: str, config: Data) -> list[Any]:
    found = json.loads(text)
    for part in filter(None, config.get("ItemsPointer", "").split("/")):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return [{"Key": key, "Value": value} for key, value in found.items()] if isinstance(found, dict) else list(found)


def _json_lines(text: str, _: Data) -> list[Any]:
    return [json.loads(line) for line in text.splitlines() if line.strip()]


_READERS: dict[str, Callable[[str, Data], list[Any]]] = {"CSV": _csv, "JSON": _json, "JSONL": _json_lines}


def _parse(content: bytes, config: Data) -> list[Any]:
    kind = config.get("InputType", "JSON")
    if kind not in _READERS:
        raise ValueError(f"the input type {kind} is not supported")
    return _READERS[kind](content.decode(), config)
