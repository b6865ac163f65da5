"""How well energy is attributed: against a synthetic meter whose truth is known.

Role: `bench_attribution` plays runs of two networks on one device, tenants with short and with long requests mixed in
batches; each step truly takes another energy than its profile says. A rail draws that on top of idle power; a meter
averages, adds noise and is read at 10, 100 or 1,000 Hz. What every tenant is given is compared with what its rows
took. Three ways: by the profile alone; every run by its own window; and as the daemon does it (`settling.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from random import Random
from typing import NamedTuple

import msgspec

from ..policies.attribution import Attribution, Step, readings
from ..profiles.power_track import PowerTrack
from .outcomes import Interval, interval
from .settling import LEARN_US, STRETCH_US

# Readings per second, and over how long each is an average: jetson-stats and wall meters say means; an INA3221 with its
# driver's default averaging has a new reading about every 5 ms.
METERS_US = {10: 100_000, 100: 5_000, 1000: 5_000}
IDLE_MW = 1_500.0
# Per network and segment with its head: us and mJ of one row; a batch of b takes 0.4 + 0.6 b of that.
PROFILE = {"small": ((900, 2.5), (1_300, 4.5)), "large": ((6_000, 30.0), (9_000, 55.0), (14_000, 80.0))}
# Which network, its last exits and how likely they are, and how often asked: short requests and long ones.
TENANTS = {
    "lock": ("small", (0.9, 0.1), 60.0),
    "bell": ("small", (0.2, 0.8), 30.0),
    "door": ("large", (0.7, 0.2, 0.1), 8.0),
    "film": ("large", (0.0, 0.1, 0.9), 4.0),
}
BATCH_MAX = 4
# How far the truth is off the profile, each step on its own and all together; spread of single runs; of power samples.
STEP_OFF, ALL_OFF, RUN_SIGMA, METER_SIGMA = 0.25, 0.2, 0.05, 0.03


PROFILED, BY_WINDOW, LEARNT = "the profile alone", "each run's window", "stretches, learnt"
WAYS = (PROFILED, BY_WINDOW, LEARNT)


class Split(msgspec.Struct, frozen=True, kw_only=True):
    """The error of the tenant that was served worst, percent of its energy: mean and interval over seeds, and most."""

    rate_hz: int
    way: str
    worst_pct: Interval
    worst_pct_max: float


class _Part(NamedTuple):
    """One step of a run."""

    start_us: int
    end_us: int
    truth_mj: float
    step: Step
    owners: dict[Hashable, float]


def bench_attribution(
    seeds: int, *, duration_s: float = 60.0, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Split]:
    """Every rate and way, over seeds."""
    found: dict[tuple[int, str], list[float]] = {}
    for seed in range(seeds):
        runs, truth_mj = play(Random(f"attribution {seed}"), duration_s)
        for rate_hz in METERS_US:
            track = sampled(runs, rate_hz, duration_s, Random(f"meter {seed}"))
            for way, given_mj in _ways(runs, track, duration_s, rate_hz).items():
                worst = max(abs(given_mj.get(tenant, 0.0) / truth_mj[tenant] - 1) for tenant in TENANTS)
                found.setdefault((rate_hz, way), []).append(100 * worst)
        on_progress(seed + 1, seeds)
    return [
        Split(rate_hz=rate_hz, way=way, worst_pct=_of(values), worst_pct_max=max(values))
        for (rate_hz, way), values in found.items()
    ]


def play(random: Random, duration_s: float) -> tuple[list[list[_Part]], dict[Hashable, float]]:
    """Runs one after the other, each as its steps, and what every tenant's rows truly took, mJ."""
    whole = 1 + random.uniform(-ALL_OFF, ALL_OFF)
    off = {
        (network, index): whole * (1 + random.uniform(-STEP_OFF, STEP_OFF))
        for network, steps in PROFILE.items()
        for index in range(len(steps))
    }
    truth: dict[Hashable, float] = dict.fromkeys(TENANTS, 0.0)
    runs: list[list[_Part]] = []
    now_us, waiting = 0.0, _arrivals(random, duration_s)
    while waiting:
        when_us, tenant, stop = waiting.pop(0)
        now_us = max(now_us, when_us)
        network = TENANTS[tenant][0]
        rows = [(tenant, stop)]
        for other in list(waiting):
            if other[0] > now_us or len(rows) == BATCH_MAX:
                break
            if TENANTS[other[1]][0] == network:
                waiting.remove(other)
                rows.append(other[1:])
        runs.append(_run(random, now_us, network, rows, off))
        for part in runs[-1]:
            profiled_mj = math.fsum(part.owners.values())
            for owner, mj in part.owners.items():
                truth[owner] += mj / profiled_mj * part.truth_mj
        now_us = runs[-1][-1].end_us
    return runs, truth


def _arrivals(random: Random, duration_s: float) -> list[tuple[float, str, int]]:
    found = []
    for tenant, (_, exits, rate_hz) in TENANTS.items():
        when_s = random.expovariate(rate_hz)
        while when_s < duration_s - 1:
            found.append((when_s * 1e6, tenant, random.choices(range(len(exits)), exits)[0]))
            when_s += random.expovariate(rate_hz)
    return sorted(found)


def _run(
    random: Random, start_us: float, network: str, rows: Sequence[tuple[str, int]], off: dict[Step, float]
) -> list[_Part]:
    parts: list[_Part] = []
    strays = max(0.1, random.gauss(1, RUN_SIGMA))
    for index, (us, mj) in enumerate(PROFILE[network]):
        staying = [tenant for tenant, stop in rows if stop >= index]
        if not staying:
            break
        batch, owners = 0.4 + 0.6 * len(staying), dict[Hashable, float]()
        for tenant in staying:
            owners[tenant] = owners.get(tenant, 0.0) + mj * batch / len(staying)
        truth_mj = mj * batch * off[network, index] * strays
        end_us = start_us + us * batch
        parts.append(_Part(int(start_us), int(end_us), truth_mj, (network, index), owners))
        start_us = end_us
    return parts


def sampled(runs: Sequence[Sequence[_Part]], rate_hz: int, duration_s: float, random: Random) -> PowerTrack:
    """What a meter that averages and is noisy says of them, read so often."""
    track = PowerTrack(samples_max=10**7)
    totals, times = [0.0], [0]
    for part in [part for run in runs for part in run]:
        times += [part.start_us, part.end_us]
        totals += [totals[-1], totals[-1] + part.truth_mj]
    cursor = 0
    average_us = METERS_US[rate_hz]

    def drawn_mj(at_us: float) -> float:
        nonlocal cursor
        while cursor > 0 and times[cursor] > at_us:
            cursor -= 1
        while cursor + 1 < len(times) and times[cursor + 1] <= at_us:
            cursor += 1
        if cursor + 1 >= len(times) or times[cursor + 1] == times[cursor]:
            return totals[cursor]
        share = (at_us - times[cursor]) / (times[cursor + 1] - times[cursor])
        return totals[cursor] + share * (totals[cursor + 1] - totals[cursor])

    for sample in range(int(duration_s * rate_hz)):
        at_us = int(sample * 1e6 / rate_hz)
        drawn_mw = (drawn_mj(at_us) - drawn_mj(max(0.0, at_us - average_us))) / average_us * 1e6
        track.add_power(at_us, (IDLE_MW + drawn_mw) * max(0.0, random.gauss(1, METER_SIGMA)))
    return track


def _ways(
    runs: Sequence[Sequence[_Part]], track: PowerTrack, duration_s: float, rate_hz: int
) -> dict[str, dict[Hashable, float]]:
    """What each tenant is given, by every way."""
    average_us, reach_us = METERS_US[rate_hz], 2 * int(1e6 / rate_hz)
    ways: dict[str, dict[Hashable, float]] = {name: dict.fromkeys(TENANTS, 0.0) for name in WAYS}
    learning = Attribution()
    for run in runs:
        profiled_mj = math.fsum(mj for part in run for mj in part.owners.values())
        whole_mj = track.energy_mj(run[0].start_us, run[-1].end_us, reach_us)
        window_mj = max(0.0, (whole_mj or 0.0) - IDLE_MW * (run[-1].end_us - run[0].start_us) / 1e6)
        for part in run:
            learning.ran(part.start_us, part.end_us, part.step, part.owners)
            for owner, mj in part.owners.items():
                ways[PROFILED][owner] += mj
                ways[BY_WINDOW][owner] += mj / profiled_mj * window_mj
    lag_us = average_us // 2
    # As in the daemon: readings of a stretch come after it, and then it is settled.
    for start_us in range(0, int(duration_s * 1e6), STRETCH_US):
        end_us = start_us + STRETCH_US
        samples = [sample for sample in track.since(start_us - 1) if sample[0] <= end_us]
        for seen, energy_mj in readings(samples, average_us, LEARN_US):
            learning.learn(seen, energy_mj)
        settled = learning.settle(start_us, end_us, track.energy_mj(start_us + lag_us, end_us + lag_us, reach_us))
        for owner, mj in settled.measured_mj.items():
            ways[LEARNT][owner] += mj
    return ways


def _of(values: Sequence[float]) -> Interval:
    found = interval(values)
    assert found is not None
    return found
