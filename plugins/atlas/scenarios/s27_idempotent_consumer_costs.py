"""What the strategies of s27 cost, from what their functions wrote down about each message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import fmean
from typing import Any

from atlas.costs import READ_UNITS, WRITE_UNITS

NAMES = {"natural": "natural key", "powertools": "Powertools", "inbox": "inbox", "control": "none (control)"}
OUTCOMES = {"applied": "first delivery", "duplicate": "duplicate"}
ALL = "all"
PERCENTILES = range(1, 100)

Row = dict[str, Any]


@dataclass(frozen=True)
class Taken:
    """What a message took: time, requests to DynamoDB and the units they were charged; see the function consumer.py."""

    outcome: str
    milliseconds: float
    requests: int
    read_units: float
    write_units: float


def table(taken: Mapping[str, Sequence[Taken]]) -> list[Row]:
    """Return a row for each strategy and kind of message: means per message, and how long it took.

    First deliveries, duplicates (where they are told apart) and all of both; what ends in quarantine or fails is left
    out, because it costs all strategies the same.
    """
    rows = []
    for arm, messages in taken.items():
        kinds = {label: [m for m in messages if m.outcome == outcome] for outcome, label in OUTCOMES.items()}
        together = [message for kind in kinds.values() for message in kind]
        if not all(kinds.values()):
            kinds = {}
        rows += [_row(NAMES[arm], label, kind) for label, kind in {**kinds, ALL: together}.items() if kind]
    return rows


def units(rows: Sequence[Row]) -> list[Row]:
    """Return the units of each kind of message, two rows for each bar of a chart."""
    split = {row["Strategy"] for row in rows if row["Message"] != ALL}
    return [
        {"case": f"{row['Strategy']}: {row['Message']}", "kind": kind, "units": row[kind]}
        for row in rows
        if row["Message"] != ALL or row["Strategy"] not in split
        for kind in ("Write units", "Read units")
    ]


def times(taken: Mapping[str, Sequence[Taken]]) -> list[Row]:
    """Return the percentiles of the time that a message took, in milliseconds, by strategy."""
    return [
        {"strategy": NAMES[arm], "percentile": percent, "milliseconds": round(_percentile(spans, percent), 2)}
        for arm, messages in taken.items()
        if (spans := sorted(message.milliseconds for message in messages if message.outcome in OUTCOMES))
        for percent in PERCENTILES
    ]


def totals(rows: Sequence[Row]) -> dict[str, str]:
    """Return, by strategy, US dollars of DynamoDB per million messages of this load."""
    return {row["Strategy"]: row["USD per million"] for row in rows if row["Message"] == ALL}


def text(rows: Sequence[Row]) -> str:
    """Return the table for a log, in columns."""
    if not rows:
        return "nothing was taken"
    cells = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _row(strategy: str, kind: str, messages: Sequence[Taken]) -> Row:
    spans = sorted(message.milliseconds for message in messages)
    writes, reads = (fmean(getattr(message, name) for message in messages) for name in ("write_units", "read_units"))
    dollars = Decimal(writes) * WRITE_UNITS + Decimal(reads) * READ_UNITS
    return {
        "Strategy": strategy,
        "Message": kind,
        "Messages": len(messages),
        "Requests": round(fmean(message.requests for message in messages), 2),
        "Write units": round(writes, 2),
        "Read units": round(reads, 2),
        "p50 (ms)": round(_percentile(spans, 50), 1),
        "p99 (ms)": round(_percentile(spans, 99), 1),
        "USD per million": f"{dollars:.2f}",
    }


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """Return the smallest value that at least ``percent`` of the ordered values do not exceed (nearest rank)."""
    return ordered[-(-percent * len(ordered) // 100) - 1]
