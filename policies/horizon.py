"""Energy that must last until a time: how much power may be drawn from now on.

Role: a battery's or a budget's energy, what must be left of it, and what is expected to be harvested until then; from
these the power that can be held to the end. Source: Budget RNN (RTAS'21), P_allow = (E_now - E_reserve + E_harvest) /
time left; differs: the least of that over all times until then, since nothing can be spent before it is harvested.

Does not: read a clock or a battery (`know` is told), or decide what is worth its energy (`budgets.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# mW times us.
MJ_PER_MW_US = 1e-6


class Harvest(NamedTuple):
    """Expected power until a time, from the one before: monotonic us, mW."""

    until_us: int
    power_mw: float


class Horizon:
    """Mutable; all energies in mJ."""

    __slots__ = ("_harvest", "energy_mj", "reserve_mj", "until_us")

    def __init__(
        self, energy_mj: float, until_us: int, *, reserve_mj: float = 0.0, harvest: Sequence[Harvest] = ()
    ) -> None:
        """`harvest`: what is expected, in the order of time; after the last, nothing."""
        self.energy_mj = energy_mj
        self.until_us = until_us
        self.reserve_mj = reserve_mj
        self._harvest = tuple(harvest)

    def know(self, energy_mj: float, harvest: Sequence[Harvest]) -> None:
        """What there is now, and what is expected from now on."""
        self.energy_mj, self._harvest = energy_mj, tuple(harvest)

    def spend(self, spent_mj: float) -> None:
        self.energy_mj -= spent_mj

    @property
    def left_mj(self) -> float:
        """What may still be spent of what is there."""
        return self.energy_mj - self.reserve_mj

    def allow_mw(self, now_us: int) -> float:
        """The highest power that can be held to the end; 0 where nothing is left, infinite once the end has passed.

        Between two times of the forecast the power that has come so far per time is highest or lowest at one of them,
        so looking at these is enough.
        """
        if now_us >= self.until_us:
            return math.inf
        have_mj, at_us, least_mw = self.left_mj, now_us, math.inf
        if have_mj <= 0:
            return 0.0
        for until_us, power_mw in self._harvest:
            if until_us <= at_us:
                continue
            end_us = min(until_us, self.until_us)
            have_mj += power_mw * (end_us - at_us) * MJ_PER_MW_US
            at_us = end_us
            least_mw = min(least_mw, have_mj / ((at_us - now_us) * MJ_PER_MW_US))
            if at_us == self.until_us:
                return least_mw
        return min(least_mw, have_mj / ((self.until_us - now_us) * MJ_PER_MW_US))
