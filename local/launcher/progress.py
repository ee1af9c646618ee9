"""What the user sees while something takes a while: one line per step, with the seconds it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

WORTH_A_LINE_SECONDS = 0.2


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print ``what`` and the time it took when the block has ended without an error, unless there was nothing to do."""
    begun = time.monotonic()
    yield
    seconds = time.monotonic() - begun
    if seconds >= WORTH_A_LINE_SECONDS:
        say(f"{what:<60} {seconds:6.1f} s")


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(f"  {line}", flush=True)
