"""An amount per second."""

from __future__ import annotations

import time


class Allowance:
    """What may be used now: it grows by ``rate`` a second, up to ``most``, and begins with one second's worth.

    Using more than there is leaves a debt, which has to grow back first.
    """

    def __init__(self, rate: float, most: float) -> None:
        self.rate = rate
        self._most = most
        self._left = rate
        self._at = time.monotonic()

    def left(self) -> float:
        """Return what may be used now."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self.rate)
        self._at = now
        return self._left

    def use(self, amount: float) -> None:
        """Take ``amount`` off."""
        self._left = self.left() - amount
