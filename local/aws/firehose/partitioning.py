"""Dynamic partitioning: aggregated records taken apart, and the keys by which records go to their prefixes.

https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jq

from local.aws.firehose.destination import QUERY, Deaggregation
from local.aws.firehose.stages import Record

MOST_PARTITIONS = 500
"""Partitions that may wait at once: https://docs.aws.amazon.com/firehose/latest/dev/limits.html"""
MOST_RECORDS = 500
"""Records that one aggregated record may hold:
https://docs.aws.amazon.com/firehose/latest/dev/dynamic-partitioning-multirecord-deaggergation.html"""


_BEGINNING = re.compile(r"\S|$")


class PartitioningError(Exception):
    """A record cannot be taken apart, or has no partition."""


def documents(text: bytes) -> Iterator[Any]:
    """Yield the JSON documents that follow each other in ``text``, with or without space between them.

    Raises:
        ValueError: there is something else.
    """
    decoded, decoder = text.decode().rstrip(), json.JSONDecoder()
    end = 0
    while end < len(decoded):
        document, end = decoder.raw_decode(decoded, _BEGINNING.search(decoded, end).start())  # type: ignore[union-attr]
        yield document


def apart(record: Record, deaggregation: Deaggregation) -> list[Record]:
    """Return the records that ``record`` holds.

    Raises:
        PartitioningError: it holds too many, or something that is no JSON object.
    """
    if deaggregation.delimiter is None:
        try:
            found = list(documents(record.data))
        except ValueError:
            raise PartitioningError("Non JSON record provided") from None
        if not all(isinstance(document, dict) for document in found):
            raise PartitioningError("Non JSON record provided")
        parts = [json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode() for document in found]
    else:
        parts = [part for part in record.data.split(deaggregation.delimiter) if part]
    if len(parts) > MOST_RECORDS:
        raise PartitioningError(f"A record holds more than {MOST_RECORDS} records")
    return [replace(record, id=f"{record.id}{number:03d}", data=part) for number, part in enumerate(parts)]


@lru_cache
def _compiled(query: str) -> Any:
    return jq.compile(query)


def keyed(record: Record, query: str) -> Record:
    """Return ``record`` with the partition keys that the JQ query ``query`` finds in its data.

    Raises:
        PartitioningError: the data is no JSON, or a key is missing.
    """
    try:
        document = json.loads(record.data)
    except ValueError:
        raise PartitioningError("Non JSON record provided") from None
    try:
        found = _compiled(query).input_value(document).first()
    except (ValueError, StopIteration) as error:
        raise PartitioningError(f"The query failed: {error}") from None
    if not isinstance(found, dict):
        raise PartitioningError("The query must return one object")
    return with_keys(record, QUERY, found)


def with_keys(record: Record, namespace: str, keys: dict[str, Any]) -> Record:
    """Return ``record`` with the partition keys ``keys`` of ``namespace``.

    Raises:
        PartitioningError: a key has no value.
    """
    values = []
    for name, value in sorted(keys.items()):
        if value is None or value == "" or isinstance(value, (dict, list)):
            raise PartitioningError("partitionKeys values must not be null or empty")
        values.append((f"{namespace}:{name}", value if isinstance(value, str) else json.dumps(value)))
    return replace(record, values=(*record.values, *values))
