"""What a millijoule is worth just now: prices that make energy last, and what they do to how deep a request goes.

Role: a `Budget` is energy to last until a time, or a power to keep to. What is drawn beyond its allowance is owed (a
virtual queue), and what is owed sets the price. A request then goes to the exit whose accuracy less its energy at that
price is the most, and does not come in where not even the first is worth it. Requests alike are so spread over two
neighbouring exits, which is the best there is for a given energy.

Flow: `Budget.price` at admission and at exits -> `worth_it`; `Budget.spend` as runs are booked. Source: drift plus
penalty (Neely 2010), price z*e/V; the allowance is `horizon.py`'s. What is owed is the integral of a PID controller on
the power drawn. Pure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..profiles.costs import Costs
from .bucket import wait_us
from .horizon import MJ_PER_MW_US, Harvest, Horizon

# What may be owed before nothing is worth its energy any more, in requests to the last exit: with few the price jumps
# about and energy stays unused (0.70 of what is wanted, 4 days of `delen bench battery`: 3.7 % with 8, 0.9 % with 32).
OWED_REQUESTS = 32
# And of the energy that is left.
OWED_LEFT = 0.25


class Worth(NamedTuple):
    """What a network's exits cost and give: of the ladder, shallow to deep: exit, mJ at batch 1, accuracy."""

    exits: tuple[tuple[int, float, float], ...]
    steepest: float
    deepest_mj: float


def worth_of(costs: Costs) -> Worth | None:
    """None where the device knows no energies of it."""
    exits = []
    steepest, before_mj, before = 0.0, 0.0, 0.0
    for index in costs.ladder:
        energy_mj = costs.energy_mj(index, 1)
        if energy_mj is None or energy_mj <= 0:
            return None
        exits.append((index, energy_mj, costs.accuracy[index]))
        if energy_mj > before_mj:
            steepest = max(steepest, (costs.accuracy[index] - before) / (energy_mj - before_mj))
        before_mj, before = energy_mj, costs.accuracy[index]
    return Worth(tuple(exits), steepest, exits[-1][1])


def worth_it(worth: Worth, price: float, least: int, most: int) -> int | None:
    """The exit from `least` to `most` that gives most accuracy less energy at this price; None: not even one does.

    `price`: accuracy per mJ. Of two as good the shallower.
    """
    found, best = None, 0.0
    for index, energy_mj, accuracy in worth.exits:
        if least <= index <= most and accuracy - price * energy_mj > best + 1e-12:
            found, best = index, accuracy - price * energy_mj
    return found


class Budget:
    """One tenant's or the whole device's. `horizon`: energy to last; else `power_mw` is what may be drawn."""

    __slots__ = ("_at_us", "_owed_max_mj", "_owed_mj", "_scale_mj", "_steepest", "horizon", "power_mw", "spent_mj")

    def __init__(self, now_us: int, horizon: Horizon | None, power_mw: float = math.inf) -> None:
        self.horizon = horizon
        self.power_mw = power_mw
        self.spent_mj = 0.0
        self._at_us = now_us
        self._owed_mj = self._owed_max_mj = 0.0
        # What a request takes, to the last exit, and the most that a mJ can gain, of all networks seen.
        self._scale_mj = self._steepest = 0.0

    def price(self, now_us: int, worth: Worth) -> float:
        """Accuracy per mJ."""
        self._steepest = max(self._steepest, worth.steepest)
        self._scale_mj = max(self._scale_mj, worth.deepest_mj)
        self._pass(now_us)
        owed_max_mj = OWED_REQUESTS * self._scale_mj
        if self.horizon is not None:
            # Towards the end there is not so much left that could be owed.
            owed_max_mj = min(owed_max_mj, max(self._scale_mj, OWED_LEFT * self.horizon.left_mj))
        if owed_max_mj < self._owed_max_mj:
            self._owed_mj *= owed_max_mj / self._owed_max_mj
        self._owed_max_mj = owed_max_mj
        return self._owed_mj / owed_max_mj * self._steepest

    def spend(self, now_us: int, spent_mj: float) -> None:
        """Its part of a run."""
        self._pass(now_us)
        # Less than nothing where a meter says that it was less than charged: what is not owed is no credit.
        self._owed_mj = max(0.0, self._owed_mj + spent_mj)
        self.spent_mj += spent_mj
        if self.horizon is not None:
            self.horizon.spend(spent_mj)

    def know(self, now_us: int, energy_mj: float, harvest: tuple[Harvest, ...]) -> None:
        """What a battery has now, and is expected to get."""
        self._pass(now_us)
        assert self.horizon is not None
        self.horizon.know(energy_mj, harvest)

    def lasts(self, most_mj: float) -> bool:
        """Whether one more request of at most `most_mj` can be paid for at all."""
        return self.horizon is None or self.horizon.left_mj >= most_mj

    def over(self, now_us: int) -> bool:
        """Whether its time has come."""
        return self.horizon is not None and now_us >= self.horizon.until_us

    def allow_mw(self, now_us: int) -> float:
        """What may be drawn just now."""
        return self.power_mw if self.horizon is None else min(self.power_mw, self.horizon.allow_mw(now_us))

    def worth_in_us(self, now_us: int) -> int:
        """How long until about one request's energy of what is owed has been allowed."""
        allowed_mw = self.allow_mw(now_us)
        if not 0 < allowed_mw < math.inf:
            return 1_000_000
        return max(1, wait_us(self._scale_mj, allowed_mw * MJ_PER_MW_US))

    def _pass(self, now_us: int) -> None:
        if now_us <= self._at_us:
            return
        allowed_mw = self.allow_mw(now_us)
        if math.isinf(allowed_mw):
            self._owed_mj = 0.0
        else:
            self._owed_mj = max(0.0, self._owed_mj - allowed_mw * (now_us - self._at_us) * MJ_PER_MW_US)
        self._at_us = now_us
