"""Judging a frame by a suite of Great Expectations.

A suite is a function in a file below ``include/expectations`` that returns a list of ``gxe.Expect...``
objects, each with a ``description`` and, where a query can show offending rows, ``meta={"rule": "<name of the
rule>"}``.

Great Expectations turns every bound into a float, so ``max_value=Decimal("0.01")`` refuses exactly 0.01.
Compare money as two columns (``ExpectColumnPairValuesToBeEqual``) or as a difference bounded by zero.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.expectations.expectation import Expectation

_NULL_IS_AN_ANSWER = frozenset({"expect_column_values_to_be_null", "expect_column_to_exist"})


@dataclass(frozen=True)
class Finding:
    """What one expectation found.

    ``observed`` and ``bound`` are readable text ("3", "at most 0"). ``error`` says why nothing could be
    judged, and is set only when ``passed`` is false.
    """

    name: str
    rule: str | None
    description: str
    expectation: str
    observed: str
    bound: str
    passed: bool
    error: str | None


def load_suite(file: str | Path, function: str, arguments: Mapping[str, Any]) -> list[Expectation]:
    """Call ``function(**arguments)`` of the Python file and return the expectations it lists.

    Raises:
        FileNotFoundError: there is no such file.
        AttributeError: the file has no such function.
        ValueError: the suite is empty, and would pass whatever it is shown.
    """
    path = Path(file)
    spec = importlib.util.spec_from_file_location(f"atlas_expectations_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{path} is not a Python file")
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # importing it logs a hundred lines
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    suite: list[Expectation] = getattr(module, function)(**arguments)
    if not suite:
        raise ValueError(f"{path}: {function}() returned no expectation")
    return suite


def judge(frame: pd.DataFrame, suite: Sequence[Expectation]) -> list[Finding]:
    """Return one finding per expectation, in the suite's order, using an ephemeral context.

    An expectation that raises (no such column, values that cannot be compared) fails with the exception's
    text, and so does one that Great Expectations would pass because all its values are NULL.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("measures").add_dataframe_asset("measures")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    return [_finding(expectation, batch.validate(expectation), frame) for expectation in suite]


def _finding(expectation: Expectation, validation: Any, frame: pd.DataFrame) -> Finding:
    kind = expectation.expectation_type
    arguments = expectation.configuration.kwargs
    columns = list(_columns(arguments))
    rule = (expectation.meta or {}).get("rule")
    error = _error(validation.exception_info)
    unknown = [column for column in columns if column in frame and frame[column].isna().all()]
    if validation.success and unknown and kind not in _NULL_IS_AN_ANSWER:
        error = f"nothing was judged: {', '.join(unknown)} is NULL"
    readable = re.sub("^expect_(column_pair_|multicolumn_|column_|table_)?", "", kind).replace("_", " ")
    return Finding(
        name=rule or f"{kind}({', '.join(columns)})",
        rule=rule,
        description=expectation.description or readable,
        expectation=kind,
        observed=_observed(validation.result, columns, frame),
        bound=_bound(arguments) or readable,
        passed=bool(validation.success) and error is None,
        error=error,
    )


def _columns(arguments: Mapping[str, Any]) -> Iterator[str]:
    for key in ("column", "column_A", "column_B"):
        if key in arguments:
            yield arguments[key]
    yield from arguments.get("column_list", ())


def _error(info: Mapping[str, Any]) -> str | None:
    """Return the messages of ``exception_info``, which is one entry or one per metric that raised."""
    entries = [info] if "raised_exception" in info else list(info.values())
    messages = {str(entry["exception_message"]) for entry in entries if entry["raised_exception"]}
    return "; ".join(sorted(messages)) or None


def _observed(result: Mapping[str, Any], columns: Sequence[str], frame: pd.DataFrame) -> str:
    if "observed_value" in result:
        return _text(result["observed_value"])
    present = [column for column in columns if column in frame]
    if len(frame) == 1 and present:
        values = [(column, _text(frame[column].iloc[0])) for column in present]
        return values[0][1] if len(values) == 1 else ", ".join(f"{name} = {value}" for name, value in values)
    if "unexpected_count" in result:
        return f"{result['unexpected_count']} of {result['element_count']} values unexpected"
    return "nothing"


def _bound(arguments: Mapping[str, Any]) -> str:
    low, high = arguments.get("min_value"), arguments.get("max_value")
    parts = []
    if low is not None and low == high:
        parts.append(f"exactly {_text(low)}")
    else:
        if low is not None:
            parts.append(f"{'more than' if arguments.get('strict_min') else 'at least'} {_text(low)}")
        if high is not None:
            parts.append(f"{'less than' if arguments.get('strict_max') else 'at most'} {_text(high)}")
    said = {
        "column",
        "column_A",
        "column_B",
        "column_list",
        "min_value",
        "max_value",
        "strict_min",
        "strict_max",
    }
    parts += [f"{key} {_text(value)}" for key, value in arguments.items() if key not in said]
    return ", ".join(parts)


def _text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
