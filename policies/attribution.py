"""Whose energy it was: what a meter says of stretches of time, shared out to those whose work ran in them.

Role: `ran` notes each step of a run with what the profile says of it, per owner; `settle` takes what was measured over
a stretch and gives every owner a part, and idle what is left. All parts together are what was measured, but for
rounding. What the profile says wrong of a step, and what is drawn idle, is learnt by regression on single readings
(`learn`), each set against what ran in just the time it is an average of: so a meter that is far slower than runs, or
looks away between two readings, still tells steps apart.

Source: ALGORITHMS of energy attribution (run energy = rail power over its window minus idle, shared by profiled
energy); the regression is a Kalman filter on the steps' factors, recursive least squares that forgets. Pure. Does not:
read meters, or know tenants from requests: an owner is whatever the caller names.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Hashable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Of a network, and one of its segments with the head behind it.
Step = tuple[str, int]
# From, to, us, and how much of what was drawn between them a reading holds.
Seen = tuple[int, int, float]
# How far a profile may be off before anything is learnt, one sigma; and how fast that may change, per reading.
FACTOR_SIGMA, DRIFT_SIGMA = 0.3, 0.0005
# A factor beyond these is a broken meter or another network.
FACTOR_MIN, FACTOR_MAX = 0.2, 5.0
# Idle power where nobody has said: what boards draw, and that it is hardly known.
IDLE_MW, IDLE_SIGMA_MW = 2_000.0, 2_000.0
# What of a reading neither meter nor model gets right, one sigma, of all of it.
NOISE_SHARE = 0.02
NOISE_STEP = 0.05
# How far the parts of one stretch are moved to meet what was measured; what is beyond is called idle.
SCALE_MIN, SCALE_MAX = 0.5, 2.0
STEPS_MAX = 50_000


class Settled(NamedTuple):
    """One stretch: what each owner was given of what was measured, and had been told by the profile; and idle, mJ."""

    measured_mj: dict[Hashable, float]
    modelled_mj: dict[Hashable, float]
    idle_mj: float


class Attribution:
    """Steps that are not settled yet, and what has been learnt."""

    def __init__(self, idle_mw: float | None = None) -> None:
        """`idle_mw`: what is drawn without work, where the profile knows."""
        # Of each step that ran, in order: when, which, and the mJ the profile has for it, in all and per owner.
        self._starts_us: list[int] = []
        self._ends_us: list[int] = []
        self._ran: list[tuple[Step, float, Mapping[Hashable, float]]] = []
        self._known: dict[Step, int] = {}
        # By how much steps are told with other energies already than their profile has.
        self._taken: dict[Step, float] = {}
        sigma_mw = IDLE_SIGMA_MW if idle_mw is None else 0.25 * idle_mw
        self._state: npt.NDArray[np.float64] = np.array([IDLE_MW if idle_mw is None else idle_mw])
        self._covariance: npt.NDArray[np.float64] = np.array([[sigma_mw**2]])
        self._noise = 0.0
        self._settled_us = 0
        self.readings = 0

    @property
    def idle_mw(self) -> float:
        """What is drawn without work, as far as it is known."""
        return max(0.0, float(self._state[0]))

    @property
    def known(self) -> int:
        """Of how many steps anything has been learnt."""
        return len(self._known)

    def factor(self, step: Step) -> float:
        """What a step takes over what is told of it: at most so far off its profile, whatever a meter says."""
        known = self._known.get(step)
        if known is None:
            return 1.0
        taken = self._taken.get(step, 1.0)
        return _within(float(self._state[known]), FACTOR_MIN / taken, FACTOR_MAX / taken)

    def take_factor(self, step: Step, off_share: float) -> float:
        """A step's factor where that is off by so much, for whoever from now on tells of it with that; else 1."""
        factor, known = self.factor(step), self._known.get(step)
        if known is None or abs(factor - 1) <= off_share:
            return 1.0
        self._taken[step] = factor * self._taken.get(step, 1.0)
        self._state[known] = 1.0
        self._covariance[known, :] /= factor
        self._covariance[:, known] /= factor
        return factor

    def renew(self, network: str) -> None:
        """Its steps are told with other energies from now on, of another clock: what was learnt of them is over."""
        for step, known in self._known.items():
            if step[0] == network:
                self._taken.pop(step, None)
                self._state[known] = 1.0
                self._covariance[known, :] = self._covariance[:, known] = 0.0
                self._covariance[known, known] = FACTOR_SIGMA**2

    def keep(self, networks: Collection[str]) -> None:
        """Forget what was learnt of all others: they are served no more."""
        kept = [step for step in self._known if step[0] in networks]
        if len(kept) == len(self._known):
            return
        places = [0, *(self._known[step] for step in kept)]
        self._known = {step: place for place, step in enumerate(kept, start=1)}
        self._taken = {step: taken for step, taken in self._taken.items() if step in self._known}
        self._state, self._covariance = self._state[places], self._covariance[np.ix_(places, places)]

    def ran(self, start_us: int, end_us: int, step: Step, owners: Mapping[Hashable, float]) -> None:
        """A step ran from `start_us` to `end_us`, after all noted before; `owners`: mJ by the profile for each."""
        # One that is told of after its time was settled is settled with what comes next.
        start_us = max(start_us, self._settled_us, self._ends_us[-1] if self._ends_us else start_us)
        self._starts_us.append(start_us)
        self._ends_us.append(max(end_us, start_us + 1))
        self._ran.append((step, math.fsum(owners.values()), owners))
        if len(self._ran) > 2 * STEPS_MAX:
            self._forget(STEPS_MAX)

    def learn(self, seen: Sequence[Seen], energy_mj: float) -> None:
        """One reading, as energy: idle power times time, and each step's factor times its energy by the profile.

        Args:
            seen: when it was looked at, and with which weight; all steps that ran then must have been noted.
        """
        found: dict[int, float] = {}
        span = 0.0
        for from_us, to_us, weight in seen:
            span += (to_us - from_us) * 1e-6 * weight
            for index, share in self._between(from_us, to_us):
                step, mj, _ = self._ran[index]
                known = self._known.get(step)
                if known is None:
                    known = self._grow(step)
                found[known] = found.get(known, 0.0) + mj * share * weight
        inputs = np.zeros(len(self._state))
        inputs[0] = span
        for known, mj in found.items():
            inputs[known] = mj
        self._follow(inputs, energy_mj)

    def settle(self, start_us: int, end_us: int, energy_mj: float | None) -> Settled:
        """Share out what was measured from `start_us` to `end_us`, None: it is not known, and then nothing is.

        Stretches follow on each other. Of a step that goes on beyond the end, what lies before it is shared.
        """
        modelled: dict[Hashable, float] = {}
        parts: dict[Hashable, float] = {}
        for index, share in self._between(start_us, end_us):
            step, _, owners = self._ran[index]
            factor = self.factor(step)
            for owner, mj in owners.items():
                modelled[owner] = modelled.get(owner, 0.0) + mj * share
                parts[owner] = parts.get(owner, 0.0) + mj * share * factor
        self._settled_us = end_us
        # Readings are averages and late, so what ran shortly before the end is kept for them.
        self._forget(bisect_right(self._ends_us, start_us))
        if energy_mj is None:
            return Settled({}, modelled, 0.0)
        known_mj = math.fsum(parts.values())
        if known_mj <= 0:
            return Settled({}, modelled, energy_mj)
        scale = _within((energy_mj - self.idle_mw * (end_us - start_us) / 1e6) / known_mj, SCALE_MIN, SCALE_MAX)
        scale = min(scale, energy_mj / known_mj)
        measured = {owner: mj * scale for owner, mj in parts.items()}
        return Settled(measured, modelled, energy_mj - math.fsum(measured.values()))

    def _between(self, from_us: int, to_us: int) -> list[tuple[int, float]]:
        """The steps that ran between two moments, and how much of each."""
        found = []
        starts, ends = self._starts_us, self._ends_us
        index = bisect_right(ends, from_us)
        while index < len(starts) and starts[index] < to_us:
            within_us = min(ends[index], to_us) - max(starts[index], from_us)
            found.append((index, within_us / (ends[index] - starts[index])))
            index += 1
        return found

    def _forget(self, count: int) -> None:
        for kept in (self._starts_us, self._ends_us, self._ran):
            del kept[:count]

    def _follow(self, inputs: npt.NDArray[np.float64], energy_mj: float) -> None:
        covariance = self._covariance
        covariance[np.diag_indices_from(covariance)] += self._drift()
        reach = covariance @ inputs
        # By rounding it may be less than nothing.
        doubt = max(0.0, float(inputs @ reach))
        noise = max(self._noise, (NOISE_SHARE * energy_mj) ** 2)
        if doubt + noise <= 0:
            return
        error = energy_mj - float(inputs @ self._state)
        # A reading that cannot be, or work nobody was told of, moves nothing far.
        most = 4 * math.sqrt(doubt + noise)
        error = _within(error, -most, most)
        # What is not explained: the meter's own noise, and runs that differ.
        self._noise += NOISE_STEP * (max(0.0, error * error - doubt) - self._noise)
        gain = reach / (doubt + noise)
        self._state = self._state + gain * error
        self._covariance = covariance - np.outer(gain, reach)
        self.readings += 1

    def _drift(self) -> npt.NDArray[np.float64]:
        drift = np.full(len(self._state), DRIFT_SIGMA**2)
        drift[0] = (DRIFT_SIGMA * self.idle_mw) ** 2
        return drift

    def _grow(self, step: Step) -> int:
        size = len(self._state)
        self._known[step] = size
        self._state = np.append(self._state, 1.0)
        grown = np.zeros((size + 1, size + 1))
        grown[:size, :size] = self._covariance
        grown[size, size] = FACTOR_SIGMA**2
        self._covariance = grown
        return size


def readings(
    samples: Sequence[tuple[int, float, int]], average_us: int, least_us: int = 0
) -> list[tuple[list[Seen], float]]:
    """What samples in a row have seen, for `learn`: those of one span, as `PowerTrack.since` gives them.

    `average_us`: over how long before it a sample is an average; 0: an energy counter, which sees everything.
    `least_us`: so long a time is put together into one reading.
    """
    found: list[tuple[list[Seen], float]] = []
    seen: list[Seen] = []
    energy_mj, begun_us = 0.0, 0
    for (from_us, before_mj, span), (to_us, after_mj, same) in pairwise(samples):
        if span != same or to_us <= from_us:
            seen = []
            continue
        if not seen:
            energy_mj, begun_us = 0.0, from_us
        energy_mj += after_mj - before_mj
        if average_us:
            # Power between two samples is taken as going straight from one to the other.
            weight = (to_us - from_us) / 2 / average_us
            seen += [(from_us - average_us, from_us, weight), (to_us - average_us, to_us, weight)]
        else:
            seen.append((from_us, to_us, 1.0))
        if to_us - begun_us >= least_us:
            found.append((seen, energy_mj))
            seen = []
    return found


def _within(value: float, least: float, most: float) -> float:
    return least if value < least else most if value > most else value
