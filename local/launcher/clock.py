"""Moves the clock of a running embedded AWS; ``local/aws/clock.py`` says what goes by it."""

from __future__ import annotations

from local.launcher import control


def advance(endpoint: str, seconds: float) -> float:
    """Let ``seconds`` pass at once; return by how many the clock is ahead now.

    Raises:
        LauncherError: time does not go back.
    """
    ahead: float = control.exchange(endpoint, "clock", {"advance": seconds})["ahead"]
    return ahead
