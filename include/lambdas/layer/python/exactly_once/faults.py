"""Faults for rehearsals."""

from __future__ import annotations

import os
import random


def crash(point: str) -> None:
    """End the process with the probability that the environment's CRASH_SHARE states (0 to 1, none by default).

    Called where a crash hurts most, between reading and committing; ``point`` says where in the function's log.
    """
    if random.random() < float(os.environ.get("CRASH_SHARE") or 0):  # noqa: S311  # a rehearsal, not a secret
        print(f"Rehearsed crash: {point}", flush=True)  # noqa: T201  # the process ends before a logger would flush
        os._exit(70)
