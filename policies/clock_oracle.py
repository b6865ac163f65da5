"""The least energy any choice of clocks could have taken, all requests known beforehand: the yardstick of `clock.py`.

Role: `least_cost` solves one device, one request at a time, each to a given exit, in the order they come. Where all
have the same latency bound that order loses nothing: two requests swapped into the order of their arrival still keep
their bounds. Exact up to STEP_US: times at which a request ends are rounded down, so the result is never too dear.

Does not: batch (a TX2 was never measured with batches), or refuse: who cannot be in time runs at the highest clock.
Source: dynamic programming over (when free, clock); of two ways to be free as early the cheaper stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

STEP_US = 250


class Job(NamedTuple):
    """A request: when it comes and must be answered, and its time and energy by clock, us and mJ."""

    arrival_us: int
    deadline_us: int
    ways: Mapping[int, tuple[float, float]]


class Best(NamedTuple):
    """`energy_mj`: of all jobs, changes of clock included. `busy_us`: for how long the device worked or changed clock.

    `late`: how many could not be in time.
    """

    energy_mj: float
    busy_us: float
    late: int


class _State(NamedTuple):
    cost_mj: float
    energy_mj: float
    busy_us: float


def least_cost(jobs: Sequence[Job], switch_us: int, price_mj_us: float, first_khz: int) -> Best:
    """Energy of the cheapest choice of clocks that keeps every bound that can be kept.

    Args:
        jobs: by arrival; that must be the order of their deadlines.
        price_mj_us: what each microsecond of work costs beside the energies; below 0 where waiting costs more.
        first_khz: the clock at the start.
    Cost: O(jobs x clocks^2 x times a queue may end at), the last up to latency bound / STEP_US.
    """
    states: dict[tuple[int, int], _State] = {(0, first_khz): _State(0.0, 0.0, 0.0)}
    late = 0
    for job in [_worth_while(job, price_mj_us) for job in jobs]:
        states = _idle(states, job.arrival_us)
        after, in_time = _serve(states, job, switch_us, price_mj_us)
        late += not in_time
        states = _thin(after)
    best = min(states.values())
    return Best(best.energy_mj, best.busy_us, late)


def _worth_while(job: Job, price_mj_us: float) -> Job:
    """Without the clocks that are slower than another and no cheaper: nobody would ever change to one of those."""
    costs = {khz: (us, mj + price_mj_us * us) for khz, (us, mj) in job.ways.items()}
    kept = {
        khz: job.ways[khz]
        for khz, (us, mj) in costs.items()
        if not any(other_us < us and other_mj <= mj for other_us, other_mj in costs.values())
    }
    return job._replace(ways=kept)


def _idle(states: Mapping[tuple[int, int], _State], until_us: int) -> dict[tuple[int, int], _State]:
    """Who was free before this time is free at it."""
    found: dict[tuple[int, int], _State] = {}
    for (free_us, khz), state in states.items():
        key = max(free_us, until_us), khz
        if key not in found or state < found[key]:
            found[key] = state
    return found


def _serve(
    states: Mapping[tuple[int, int], _State], job: Job, switch_us: int, price_mj_us: float
) -> tuple[dict[tuple[int, int], _State], bool]:
    """Every way to run this job next; and whether any is in time. If none is, it runs as fast as it can."""
    found: dict[tuple[int, int], _State] = {}
    top = max(job.ways)
    for hurry in (False, True):
        for (free_us, before_khz), (cost_mj, energy_mj, busy_us) in states.items():
            for khz, (us, mj) in job.ways.items():
                if hurry and khz != top:
                    continue
                wait_us = switch_us if khz != before_khz else 0
                ends_us = free_us + wait_us + us
                if not hurry and ends_us > job.deadline_us:
                    continue
                spent_mj = mj + mj * wait_us / us
                state = _State(
                    cost_mj + spent_mj + price_mj_us * (wait_us + us), energy_mj + spent_mj, busy_us + wait_us + us
                )
                key = int(ends_us) // STEP_US * STEP_US, khz
                if key not in found or state < found[key]:
                    found[key] = state
        if found:
            return found, not hurry
    raise AssertionError("a job has no way to run")


def _thin(states: Mapping[tuple[int, int], _State]) -> dict[tuple[int, int], _State]:
    """Without those that are free later than another of the same clock and no cheaper."""
    kept: dict[tuple[int, int], _State] = {}
    least: dict[int, float] = {}
    for key in sorted(states):
        state, khz = states[key], key[1]
        if state.cost_mj < least.get(khz, float("inf")):
            kept[key], least[khz] = state, state.cost_mj
    return kept
