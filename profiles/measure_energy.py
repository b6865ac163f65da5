"""Weigh the steps of a network with a meter: mJ of each segment and head at each batch size.

Role: the energy half of `measure.py`. Where time allows, each step is repeated alone for as long as the meter needs;
where not (a real sensor and a quick budget), whole networks are weighed and their energy is split by time, which takes
the power of all steps for the same; where there is no time for one window, the largest batch alone, which takes that
of all batches for the same too. What the device draws idle is taken off: it is booked apart from requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy.typing as npt

from ..clients.info import EnergySource
from ..exits.runner import Loaded
from .meters import Meter

# Windows a little longer than the meter's least, so that a fast run of the work does not fall below it.
WINDOW_MARGIN = 1.2
WINDOWS_MAX = 3


class Energies(NamedTuple):
    """mJ for the whole batch, less the idle draw: `segments[k][batch]`, `heads[k][batch]`."""

    segments: list[dict[int, float]]
    heads: list[dict[int, float]]


class Weighing:
    """One meter over windows of repeated work, less the idle draw, within a time budget."""

    def __init__(self, meter: Meter, idle_power_mw: float | None, budget_s: float, clock_ns: Callable[[], int]) -> None:
        self.budget_s = budget_s
        self._meter = meter
        self._idle_power_mw = idle_power_mw
        self._clock_ns = clock_ns
        self._split = ""

    def window_s(self, window_count: int) -> float | None:
        """How long each of so many windows may be; None where that is too short for the meter."""
        share_s = self.budget_s / window_count
        if share_s >= self.least_s:
            return share_s
        self._split = "weighed per network and split over its steps by time"
        return None

    def once(self, batch: int) -> bool:
        """Whether there is time for one window at the most, which then is at this batch size."""
        if self.budget_s >= self.least_s:
            return False
        self._split = f"weighed once, at batch {batch}, and split over steps and batches by time"
        return True

    @property
    def least_s(self) -> float:
        return self._meter.window_s_min * WINDOW_MARGIN

    def of(self, work: Callable[[], object], guess_us: float, window_s: float) -> float | None:
        """mJ of one run of `work`, repeated to fill the window; None where the meter does not know."""
        runs = max(1, math.ceil(window_s * 1e6 / max(guess_us, 1.0)))
        started_ns = self._clock_ns()
        self._meter.start()
        for _ in range(runs):
            work()
        energy = self._meter.stop()
        elapsed_s = (self._clock_ns() - started_ns) / 1e9
        if energy.mj is None:
            return None
        idle_mj = (self._idle_power_mw or 0.0) * elapsed_s
        # Below the idle draw by noise: too little to be seen, which is a measurement, not an unknown.
        return max(0.0, energy.mj - idle_mj) / runs

    def model(self, source: EnergySource) -> str:
        """How the energies of a profile were made, in words."""
        if source == "unknown":
            return f"none: {self._meter.model}" if not self._meter.model.startswith("none") else self._meter.model
        parts = [self._meter.model]
        if self._idle_power_mw is not None:
            parts.append(f"less {self._idle_power_mw:.0f} mW drawn idle")
        parts += [self._split] if self._split else []
        return "; ".join(parts)


def weigh(
    loaded: Loaded[Any],
    inputs: dict[int, npt.NDArray[Any]],
    medians_us: Sequence[dict[int, float]],
    weighing: Weighing,
    on_round: Callable[[], None],
) -> Energies | None:
    """Energy of every step at every batch size; None where the meter left any of them unknown.

    Args:
        inputs: one batch of each size. `medians_us`: per step in the order they run, by batch size.
        on_round: called before each batch size.
    """
    exit_count = len(medians_us) // 2
    energies = Energies([{} for _ in range(exit_count)], [{} for _ in range(exit_count)])
    window_s, largest = weighing.window_s(len(inputs) * len(medians_us)), max(inputs)
    of_largest: list[float] | None = None
    if window_s is None and weighing.once(largest):
        on_round()
        of_largest = _split(loaded, inputs[largest], [step[largest] for step in medians_us], weighing)
        if of_largest is None:
            return None
    for batch, images in inputs.items():
        on_round()
        guesses_us = [step[batch] for step in medians_us]
        steps_mj: list[float] | None
        if of_largest is not None:
            share = sum(of_largest) / max(sum(step[largest] for step in medians_us), 1e-9)
            steps_mj = [share * step_us for step_us in guesses_us]
        elif window_s is None:
            steps_mj = _split(loaded, images, guesses_us, weighing)
        else:
            steps_mj = _step_by_step(loaded, images, guesses_us, weighing, window_s)
        if steps_mj is None:
            return None
        for index in range(exit_count):
            energies.segments[index][batch], energies.heads[index][batch] = steps_mj[2 * index : 2 * index + 2]
    return energies


def _step_by_step(
    loaded: Loaded[Any], images: npt.NDArray[Any], guesses_us: Sequence[float], weighing: Weighing, window_s: float
) -> list[float] | None:
    """mJ of each step, each repeated alone."""
    features = loaded.place(images)
    found: list[float] = []
    for index in range(len(guesses_us) // 2):
        before = features

        def segment(index: int = index, before: Any = before) -> None:
            loaded.segment(index, before)
            loaded.finish()

        features = loaded.segment(index, before)

        def head(index: int = index, after: Any = features) -> None:
            loaded.head(index, after)

        for work, guess_us in ((segment, guesses_us[2 * index]), (head, guesses_us[2 * index + 1])):
            step_mj = _median_mj(weighing, work, guess_us, window_s)
            if step_mj is None:
                return None
            found.append(step_mj)
    return found


def _median_mj(weighing: Weighing, work: Callable[[], object], guess_us: float, window_s: float) -> float | None:
    """The middle of up to three windows, as the meter's least length and the work allow: one may be disturbed."""
    windows = max(1, min(WINDOWS_MAX, int(window_s / max(weighing.least_s, guess_us / 1e6))))
    found = [weighing.of(work, guess_us, window_s / windows) for _ in range(windows)]
    known = [value for value in found if value is not None]
    return median(known) if known else None


def _split(
    loaded: Loaded[Any], images: npt.NDArray[Any], guesses_us: Sequence[float], weighing: Weighing
) -> list[float] | None:
    """mJ of each step as its share, by time, of a whole network's."""

    def network() -> None:
        features = loaded.place(images)
        for index in range(len(guesses_us) // 2):
            features = loaded.segment(index, features)
            loaded.head(index, features)

    total_us = sum(guesses_us)
    network_mj = weighing.of(network, total_us, weighing.least_s)
    if network_mj is None:
        return None
    return [network_mj * step_us / max(total_us, 1e-9) for step_us in guesses_us]
