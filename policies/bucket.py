"""A token bucket, for rates, shares of the device and watts alike. Source: RFC 2697's single rate.

Does not: read a clock; every question comes with its time.
"""

from __future__ import annotations

import math

# Ten years. A rate may be so small that it would be for ever, which no number says.
WAIT_US_MAX = 10 * 366 * 86_400 * 1_000_000


def wait_us(short: float, per_us: float) -> int:
    """How long until so much has come at this rate, rounded up; at most WAIT_US_MAX."""
    if short <= 0:
        return 0
    return math.ceil(short / per_us) if short < per_us * WAIT_US_MAX else WAIT_US_MAX


class Bucket:
    """Tokens that come at a steady rate up to a depth. It may be overdrawn, for what a run takes shows afterwards."""

    __slots__ = ("_at_us", "_level", "depth", "per_us")

    def __init__(self, per_us: float, depth: float) -> None:
        self.per_us = per_us
        self.depth = depth
        self._level = depth
        self._at_us = 0

    def level(self, now_us: int) -> float:
        if now_us > self._at_us:
            self._level = min(self.depth, self._level + (now_us - self._at_us) * self.per_us)
            self._at_us = now_us
        return self._level

    def take(self, now_us: int, amount: float) -> None:
        self._level = self.level(now_us) - amount

    def wait_us(self, now_us: int, amount: float) -> int:
        """How long until there is `amount`."""
        return wait_us(amount - self.level(now_us), self.per_us)
