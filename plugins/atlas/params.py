"""The params that scenarios have in common: one way to ask for a load, its mishaps, a budget and what is kept.

What only one scenario asks stands in its DAG. ``title`` is what the trigger form shows, ``description`` what it shows
below the field.
"""

from __future__ import annotations

from airflow.sdk import Param

from atlas import settings


def seed(events: str) -> Param:
    """Return the param ``seed`` of the generator of ``events``, as the form calls them."""
    return Param(7, type="integer", minimum=0, maximum=999, title="Seed", description=f"Same seed, same {events}")


def source(content: str) -> Param:
    """Return the param ``source_uri``: an address in S3 of files with ``content``, in place of generated ones."""
    return Param(
        None,
        type=["null", "string"],
        pattern=settings.S3_ADDRESS,
        title="Own data",
        description=f"s3:// address of {content}",
    )


def rate(events: str, default: float | None = None) -> Param:
    """Return the param ``rate``: how many ``events`` are sent in a second at the most, without bound if empty."""
    return Param(
        default,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=settings.MOST_A_SECOND,
        title=f"{events.capitalize()} a second",
        description="At the most; empty: as fast as they are taken",
    )


def percent(title: str, default: float, description: str | None = None, maximum: float = 100) -> Param:
    """Return a param that is a share in percent, such as that of events sent twice; ``title`` gets the unit."""
    return Param(default, type="number", minimum=0, maximum=maximum, title=f"{title} (%)", description=description)


def crashes(when: str) -> Param:
    """Return the param ``crash_percent``: how often a function dies on purpose, and ``when``."""
    return percent("Rehearsed crashes", 0, when, maximum=50)


def budget() -> Param:
    """Return the param ``budget_usd``: enough for every default load, too little for a mistake with a zero or two."""
    return Param(
        1.0,
        type="number",
        minimum=0,
        maximum=1000,
        title="Budget (USD)",
        description="A run that is estimated to cost more on AWS is refused before its stack is made",
    )


def keep_stack(default: bool, cost: str) -> Param:
    """Return the param ``keep_stack``: whether the stack stays after the run; ``cost`` says what that costs."""
    return Param(default, type="boolean", title="Keep the stack", description=cost)
