"""Charts and tables of a run report, declared by the DAG and fed by CSV objects in S3."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

MAX_BYTES = 4 * 1024 * 1024
CHART_WIDTH = 900
CHART_HEIGHT = 280
FAINT = "rgba(128, 128, 128, 0.3)"


@dataclass(frozen=True)
class Chart:
    """A chart of a CSV object with a header line, such as an Athena result.

    ``data`` is its ``s3://`` address (templated). ``x``, ``y`` and ``color`` are ``column:kind`` with the
    kinds of Vega-Lite: ``T`` time, ``Q`` quantity, ``O`` ordered, ``N`` name. Titles state the unit ("Revenue
    (EUR)"). Times without an offset are UTC, and the axis shows UTC.
    """

    title: str
    data: str
    x: str
    y: str
    x_title: str
    y_title: str
    color: str | None = None
    color_title: str | None = None
    mark: Literal["line", "bar", "area"] = "line"


@dataclass(frozen=True)
class Table:
    """A table of a CSV object with a header line; shows the first ``limit`` rows. ``data`` is templated."""

    title: str
    data: str
    limit: int = 20


def read_csv(body: bytes) -> tuple[list[str], list[dict[str, str]]]:
    """Return the column names and the rows of CSV text with a header line.

    Raises:
        ValueError: there is no header line.
    """
    reader = csv.DictReader(io.StringIO(body.decode("utf-8")))
    rows = list(reader)
    if not reader.fieldnames:
        raise ValueError("it is empty")
    return list(reader.fieldnames), rows


def numeric_columns(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> list[str]:
    """Return the columns in which every value present is a number, and at least one is."""
    return [column for column in columns if _all_numbers([row[column] for row in rows if row[column]])]


def svg(chart: Chart, rows: Sequence[dict[str, str]]) -> str:
    """Draw ``chart`` as SVG text: no script, no network; lettering takes the colour of the page around it.

    Raises:
        ValueError: a column is missing or holds a value that is not of the declared kind.
    """
    import vl_convert

    encodings = {"x": (chart.x, chart.x_title), "y": (chart.y, chart.y_title)}
    if chart.color:
        encodings["color"] = (chart.color, chart.color_title or "")
    channels: dict[str, dict[str, Any]] = {}
    values: list[dict[str, Any]] = [{} for _ in rows]
    for channel, (encoding, title) in encodings.items():
        column, _, kind = encoding.rpartition(":")
        channels[channel] = {"field": channel, "type": _KINDS[kind].name, "title": title, "sort": None}
        if kind == "T":
            channels[channel]["scale"] = {"type": "utc"}
        for value, row in zip(values, rows, strict=True):
            value[channel] = _value(row, column, _KINDS[kind])
    lettering = {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFontSize": 12,
        "titleFontSize": 12,
    }
    return vl_convert.vegalite_to_svg(
        {
            "data": {"values": values},
            "mark": {"type": chart.mark},
            "encoding": channels,
            "width": CHART_WIDTH,
            "height": CHART_HEIGHT,
            "background": "transparent",
            "config": {
                "font": "system-ui, sans-serif",
                "axis": {**lettering, "gridColor": FAINT, "domainColor": FAINT, "tickColor": FAINT},
                "legend": {**lettering, "orient": "bottom"},
                "view": {"stroke": None},
            },
        }
    )


def _value(row: dict[str, str], column: str, kind: _Kind) -> Any:
    if column not in row:
        raise ValueError(f"it has no column {column!r}")
    text = row[column]
    if not text:
        return None
    try:
        return kind.parse(text)
    except (ValueError, InvalidOperation) as error:
        raise ValueError(f"column {column!r} holds {text!r}, which is not {kind.name}") from error


def _utc(text: str) -> str:
    """Return an ISO time with its offset, so that no reader takes it for local time."""
    time = datetime.fromisoformat(text.removesuffix(" UTC"))
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).isoformat()


def _all_numbers(texts: Sequence[str]) -> bool:
    try:
        return all(Decimal(text).is_finite() for text in texts) and bool(texts)
    except InvalidOperation:
        return False


@dataclass(frozen=True)
class _Kind:
    name: str
    parse: Callable[[str], Any]


_KINDS = {
    "T": _Kind("temporal", _utc),
    "Q": _Kind("quantitative", float),
    "O": _Kind("ordinal", str),
    "N": _Kind("nominal", str),
}
