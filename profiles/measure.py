"""Measure what a network costs and how good it is on this device: the only place where profiles are made.

Flow: `measure(runner, bundle, ...)` loads the network, warms up, times every segment and head at every batch size,
weighs them with a meter, counts right answers, and returns a checked `Profile`; `store.py` writes it.

Machines are noisy, so work goes round in turns: one round runs each batch size for a moment, whole networks at a time,
and a disturbance falls on all alike; small batches, being quick, get more runs. What noise still puts out of order is
fitted: a larger batch never costs less (`monotone.isotonic`). Deeper always costs more by construction: paths are sums.

Does not: include bringing inputs to the device (`place`) or the way to the client; the daemon's core adds those.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..clients.info import EnergySource
from ..exits.bundle import Bundle
from ..exits.datasets import Labelled
from ..exits.runner import EngineFault, Loaded, Runner
from ..exits.samples import prepare
from .board import ROOT, describe_device, resident_bytes, temperature_c
from .intervals import clopper_pearson
from .measure_energy import Weighing, weigh
from .meters import Meter
from .monotone import isotonic
from .schema import FORMAT, Cost, ExitQuality, Profile, ProfileError, profile_fault

BATCHES = (1, 2, 4, 8, 16, 32)
# At most so many runs of one batch size before the others have their turn.
TURN_RUNS_MAX = 50
# Of a quick budget's time, what one run of every size may take: there are two to warm up, two to three to weigh, and a
# last round that begins just before the time is up.
QUICK_ROUND_SHARE_MAX = 0.15

OnProgress = Callable[[int, int, str], None]
# The clock, by a name of its own so that tests can put another in its place.
clock_ns: Callable[[], int] = time.perf_counter_ns


class Budget(NamedTuple):
    """How much time a measurement may take. `turn_s`: of one batch size in one round.

    `p99_factor`: by how much the 99th percentile is widened, because few runs seldom see a rare stall. `samples_max`:
    labelled images run to count right answers; 0 takes the bundle's calibration for it.
    """

    quick: bool
    timing_s: float
    rounds_min: int
    turn_s: float
    energy_s: float
    samples_max: int
    p99_factor: float


# At most 5 s in all for a network of 4 exits. 30 runs see a 1-in-100 stall one time in four (1 - 0.99^30), so the p99
# of few runs is mostly too low; the factor is a round margin (LOG.md has what quick and full profiles differed by).
QUICK = Budget(quick=True, timing_s=2.0, rounds_min=2, turn_s=0.02, energy_s=0.8, samples_max=0, p99_factor=1.25)
FULL = Budget(quick=False, timing_s=30.0, rounds_min=30, turn_s=0.05, energy_s=15.0, samples_max=10_000, p99_factor=1.0)


class Times:
    """Durations of every step, us: `segments[k][batch]`, `heads[k][batch]`, one entry a run."""

    def __init__(self, exit_count: int) -> None:
        self.segments: list[dict[int, list[float]]] = [{} for _ in range(exit_count)]
        self.heads: list[dict[int, list[float]]] = [{} for _ in range(exit_count)]


def measure(
    runner: Runner,
    bundle: Bundle,
    *,
    meter: Meter,
    batches: Sequence[int] = BATCHES,
    samples: Labelled | None = None,
    budget: Budget = FULL,
    on_progress: OnProgress = lambda done, total, label: None,
    root: Path = ROOT,
) -> Profile:
    """Profile one network on one engine, on this machine as it is set now. Nothing else should run meanwhile.

    Args:
        batches: sizes to measure, ascending from 1. Sizes that do not fit in memory, and for a quick budget in time,
            are left out, largest first; `costs.py` reads beyond.
        samples: labelled images (n, channels, height, width) uint8, never trained on; None: the bundle's calibration.
        on_progress: called with (done, total, what is being done).
    Raises:
        ProfileError: `batches` do not ascend from 1, or what was measured cannot be right.
        EngineFault: the engine cannot load or run the network.
    """
    if not batches or batches[0] != 1 or list(batches) != sorted(set(batches)):
        raise ProfileError(f"batches is {list(batches)}; expected ascending sizes that start at 1")
    on_progress(0, 100, "loading")
    temperature_start_c = temperature_c(root)
    resident_start = resident_bytes(root) or 0
    loaded = runner.load(bundle, batches[-1])
    on_progress(2, 100, "idle power")
    idle_power_mw = meter.idle_power_mw()
    inputs = _inputs(bundle, samples, batches)
    run = _Measurement(loaded, len(bundle.manifest.exits), budget, on_progress)
    chain_s = run.warm_up(inputs)
    inputs = {batch: inputs[batch] for batch in chain_s}
    times = run.time_rounds(inputs, chain_s)
    weighing = Weighing(meter, idle_power_mw, budget.energy_s, clock_ns)
    energies = weigh(loaded, inputs, _medians(times), weighing, lambda: on_progress(75, 100, "energy"))
    exits = run.count_right(bundle, samples, max(chain_s))
    source: EnergySource = "unknown" if energies is None else meter.source
    profile = Profile(
        format=FORMAT,
        network=bundle.manifest.name,
        network_version=bundle.manifest.version,
        bundle=bundle.digest,
        device=describe_device(runner, root),
        batches=tuple(chain_s),
        segments=_rows(times.segments, None if energies is None else energies.segments, budget),
        heads=_rows(times.heads, None if energies is None else energies.heads, budget),
        exits=exits,
        energy_source=source,
        energy_model=weighing.model(source),
        idle_power_mw=idle_power_mw,
        memory_bytes=max(0, (resident_bytes(root) or 0) - resident_start),
        temperature_c=(temperature_start_c, temperature_c(root)),
        quick=budget.quick,
        taken_wall=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )
    fault = profile_fault(profile)
    if fault:
        raise ProfileError(f"what was measured of {bundle.manifest.name} cannot be right: {fault}; measure again")
    on_progress(100, 100, "done")
    return profile


class _Measurement:
    """One network under the clock."""

    def __init__(self, loaded: Loaded[Any], exit_count: int, budget: Budget, on_progress: OnProgress) -> None:
        self._loaded = loaded
        self._exit_count = exit_count
        self._budget = budget
        self._on_progress = on_progress

    def warm_up(self, inputs: dict[int, npt.NDArray[Any]]) -> dict[int, float]:
        """Seconds of the whole network by batch size, the second run of two; sizes that do not fit are left out."""
        chain_s: dict[int, float] = {}
        for batch, images in inputs.items():
            # The next size is about as dear as the last one in proportion.
            guess_s = sum(chain_s.values()) + max(chain_s.values(), default=0.0) * 2
            if self._budget.quick and guess_s > self._budget.timing_s * QUICK_ROUND_SHARE_MAX and chain_s:
                break
            self._on_progress(5, 100, f"warming up, batch {batch}")
            try:
                for _ in range(2):
                    started_ns = clock_ns()
                    self._chain(images, None)
                    chain_s[batch] = (clock_ns() - started_ns) / 1e9
            except EngineFault as fault:
                if fault.kind != "memory" or batch == 1:
                    raise
                chain_s.pop(batch, None)
                break
        return chain_s

    def time_rounds(self, inputs: dict[int, npt.NDArray[Any]], chain_s: dict[int, float]) -> Times:
        """Go round the batch sizes until the time is up and every one had its least number of turns."""
        times = Times(self._exit_count)
        started_ns = clock_ns()
        rounds = 0
        while True:
            elapsed_s = (clock_ns() - started_ns) / 1e9
            if rounds >= self._budget.rounds_min and elapsed_s >= self._budget.timing_s:
                return times
            share = min(elapsed_s / self._budget.timing_s, 1.0)
            self._on_progress(10 + int(60 * share), 100, f"timing, round {rounds + 1}")
            for batch, images in inputs.items():
                for _ in range(_turn_runs(self._budget, chain_s[batch])):
                    self._chain(images, times)
            rounds += 1

    def count_right(self, bundle: Bundle, samples: Labelled | None, batch: int) -> tuple[ExitQuality, ...]:
        """Accuracy of each exit: on the samples, else on the bundle's calibration, else the manifest's (n = 0)."""
        limit = min(self._budget.samples_max, 0 if samples is None else len(samples.labels))
        if samples is not None and limit:
            right = np.zeros(self._exit_count, np.int64)
            for start in range(0, limit, batch):
                self._on_progress(85 + 14 * start // limit, 100, "accuracy")
                labels = samples.labels[start : min(start + batch, limit)]
                features = self._loaded.place(_ready(bundle, samples.images[start : start + len(labels)]))
                for index in range(self._exit_count):
                    features = self._loaded.segment(index, features)
                    right[index] += int((self._loaded.head(index, features).argmax(axis=1) == labels).sum())
            return tuple(_quality(int(count), limit) for count in right)
        calibration = bundle.calibration()
        if calibration is not None:
            n = len(calibration.correct)
            return tuple(_quality(int(count), n) for count in calibration.correct.sum(axis=0))
        entries = bundle.manifest.exits
        return tuple(ExitQuality(accuracy=entry.accuracy, low=0.0, high=1.0, n=0) for entry in entries)

    def _chain(self, images: npt.NDArray[Any], times: Times | None) -> None:
        """Run the whole network with all heads once, keeping the time of each step."""
        loaded, batch = self._loaded, len(images)
        features = loaded.place(images)
        loaded.finish()
        for index in range(self._exit_count):
            started_ns = clock_ns()
            features = loaded.segment(index, features)
            loaded.finish()
            between_ns = clock_ns()
            loaded.head(index, features)
            ended_ns = clock_ns()
            if times is not None:
                times.segments[index].setdefault(batch, []).append((between_ns - started_ns) / 1e3)
                times.heads[index].setdefault(batch, []).append((ended_ns - between_ns) / 1e3)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ascending values that at least `share` of them do not exceed: nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _turn_runs(budget: Budget, chain_s: float) -> int:
    return max(1, min(TURN_RUNS_MAX, int(budget.turn_s / max(chain_s, 1e-9))))


def _medians(times: Times) -> list[dict[int, float]]:
    """Median us of each step in the order they run: segment 0, head 0, segment 1, ..."""
    pairs = zip(times.segments, times.heads, strict=True)
    return [{batch: percentile(sorted(runs), 0.5) for batch, runs in step.items()} for pair in pairs for step in pair]


def _rows(
    steps: list[dict[int, list[float]]], energies: list[dict[int, float]] | None, budget: Budget
) -> tuple[tuple[Cost, ...], ...]:
    return tuple(
        _costs(step, None if energies is None else energies[index], budget) for index, step in enumerate(steps)
    )


def _costs(step: dict[int, list[float]], energy_mj: dict[int, float] | None, budget: Budget) -> tuple[Cost, ...]:
    """The costs of one step, fitted so that a larger batch never costs less and p50 <= p95 <= p99."""
    runs = [sorted(values) for values in step.values()]
    counts = [len(values) for values in runs]
    p50, p95, p99 = (isotonic([percentile(values, share) for values in runs], counts) for share in (0.5, 0.95, 0.99))
    energies: Sequence[float | None] = [None] * len(runs)
    if energy_mj is not None:
        energies = isotonic([energy_mj[batch] for batch in step], counts)
    costs = []
    for index, n in enumerate(counts):
        middle = p50[index]
        high = max(p95[index], middle)
        top = max(p99[index] * budget.p99_factor, high)
        costs.append(
            Cost(p50_us=round(middle, 3), p95_us=round(high, 3), p99_us=round(top, 3), n=n, energy_mj=energies[index])
        )
    return tuple(costs)


def _quality(right: int, n: int) -> ExitQuality:
    low, high = clopper_pearson(right, n)
    return ExitQuality(accuracy=right / n, low=low, high=high, n=n)


def _inputs(bundle: Bundle, samples: Labelled | None, batches: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    """One input batch of each size: real images where there are any, else a smooth pattern without special values."""
    expected = bundle.manifest.input
    if samples is not None:
        rows = np.arange(batches[-1]) % len(samples.images)
        images = _ready(bundle, samples.images[rows])
    else:
        values = (np.arange(batches[-1] * math.prod(expected.shape)) % 251) / 251
        scale = 1 if np.dtype(expected.dtype).kind == "f" else 100
        images = (values * scale).astype(expected.dtype).reshape(batches[-1], *expected.shape)
    return {batch: images[:batch] for batch in batches}


def _ready(bundle: Bundle, images: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    if bundle.manifest.input.dtype == images.dtype.name:
        return images
    return prepare(images, bundle.manifest.preprocessing)
