"""How a device strayed from its profile, read off a journal, so that a simulation meets the same weather.

Role: `observe(records)` collects what every run took, on the engine and beside it, and when, and when each request was
read; `Weather` gives times back to `Simulation.stray`, at the same times. Flow: `Chosen` and `Advanced` -> times of
steps over the profile's, by length, and hops. Not fitted: what breaks deadlines is the one run in a hundred and the
slow spell, of which no formula with two parameters knows. Does not: extrapolate; a simulation of other policies at
other loads takes a `NoiseSpec`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from statistics import median
from typing import NamedTuple

import msgspec

from ..profiles.costs import CostTables
from .journal_records import Advanced, Chosen, NetworkNoted, Record, Submitted
from .records import ExitDone, StepDone

RUNS_MIN = 100
# Short steps stray more than long ones: of about as many steps in each class as in any other.
CLASSES = 8


class TooLittle(ValueError):
    """The journal does not say enough."""


class Ratios(msgspec.Struct, frozen=True):
    """Observed over expected times, of what was expected to take up to `expected_us_max`, and when it began.

    `at_us`: from the first request on, rising; `ratios`: as many.
    """

    expected_us_max: float
    at_us: tuple[int, ...]
    ratios: tuple[float, ...]


class DeviceObserved(msgspec.Struct, frozen=True, kw_only=True):
    """What a simulation needs to be as this device was. `hops`: what runs took beside the engine's time, over `hop_us`.

    `slower`, `slower_p99`: engine time of whole runs over the profile's, median and p99; `hop_us`, `hop_p99_us`: alike.
    `busy`: share of time in which the device had a run. `read_us`: when each request, by (tenant, id), was read off its
    socket, from the first on: that is where its latency counts from.
    """

    runs: int
    busy: float
    slower: float
    slower_p99: float
    hop_us: int
    hop_p99_us: int
    steps: tuple[Ratios, ...]
    hops: Ratios
    read_us: dict[tuple[str, bytes], int]


class Weather:
    """Times as observed: what begins now takes as much longer as what was about as long and began then."""

    def __init__(self, classes: Sequence[Ratios], start_us: int = 0) -> None:
        """`classes`: by `expected_us_max`, rising. `start_us`: when the simulation's first request comes."""
        self._limits_us = [known.expected_us_max for known in classes[:-1]]
        self._classes = classes
        self._start_us = start_us

    def took_us(self, profiled_us: float, now_us: int) -> int:
        """At least 1. What began last is looked up, so that a stall holds up one step and not every one near it."""
        known = self._classes[bisect_left(self._limits_us, profiled_us)]
        place = max(0, bisect_right(known.at_us, now_us - self._start_us) - 1)
        return int(profiled_us * known.ratios[place] + 0.5) or 1


class _Step(NamedTuple):
    profiled_us: float
    at_us: int
    ratio: float


class _Ran(NamedTuple):
    ended_us: int
    wall_us: int
    took_us: int
    profiled_us: float
    steps: list[_Step]


def observe(records: Iterable[Record]) -> DeviceObserved:
    """Read off what happened.

    Raises:
        TooLittle: fewer than RUNS_MIN runs.
    """
    known = list(records)
    ran, span_us = _runs(known)
    read = [record for record in known if isinstance(record, Submitted)]
    if len(ran) < RUNS_MIN:
        raise TooLittle(f"the journal holds {len(ran)} runs; at least {RUNS_MIN} are needed to know how times spread")
    ratios = sorted(run.took_us / run.profiled_us for run in ran)
    hops_us = sorted(max(1, run.wall_us - run.took_us) for run in ran)
    hop_us = round(median(hops_us))
    return DeviceObserved(
        runs=len(ran),
        busy=sum(run.wall_us for run in ran) / span_us,
        slower=median(ratios),
        slower_p99=ratios[int(0.99 * len(ratios))],
        hop_us=hop_us,
        hop_p99_us=hops_us[int(0.99 * len(hops_us))],
        steps=_classes([step for run in ran for step in run.steps]),
        hops=_ratios([_Step(hop_us, run.ended_us, max(1, run.wall_us - run.took_us) / hop_us) for run in ran]),
        read_us={(record.tenant, record.id): record.now_us - read[0].now_us for record in read},
    )


def _classes(steps: Iterable[_Step]) -> tuple[Ratios, ...]:
    """By length, about as many in each class; those as long as one another stay together."""
    ordered = sorted(steps)
    size = max(1, len(ordered) // CLASSES)
    found: list[list[_Step]] = [[]]
    for _, alike in groupby(ordered, attrgetter("profiled_us")):
        if len(found[-1]) >= size:
            found.append([])
        found[-1] += alike
    return tuple(_ratios(members) for members in found)


def _ratios(steps: Sequence[_Step]) -> Ratios:
    by_time = sorted(steps, key=attrgetter("at_us"))
    return Ratios(
        max(step.profiled_us for step in steps),
        tuple(step.at_us for step in by_time),
        tuple(step.ratio for step in by_time),
    )


def _runs(records: Iterable[Record]) -> tuple[list[_Ran], int]:
    """All runs that ended by themselves, and over how long, us."""
    costs: dict[str, CostTables] = {}
    open_runs: dict[int, tuple[str, int, list[StepDone]]] = {}
    ran: list[_Ran] = []
    zero_us: int | None = None
    last_us = ended_us = 0
    for record in records:
        if isinstance(record, NetworkNoted):
            costs[record.known_as] = record.costs
        elif isinstance(record, Submitted):
            zero_us = record.now_us if zero_us is None else zero_us
        elif isinstance(record, Chosen) and record.run is not None:
            open_runs[record.run.id] = (record.run.network, record.now_us - (zero_us or 0), [])
        elif isinstance(record, Advanced) and record.done.run in open_runs:
            last_us = record.now_us - (zero_us or 0)
            network, start_us, steps = open_runs[record.done.run]
            if not isinstance(record.done, ExitDone):
                del open_runs[record.done.run]
                continue
            steps += record.done.steps
            if record.done.finished:
                del open_runs[record.done.run]
                # One posted behind another began when that one was over.
                ran.append(_ran(max(start_us, ended_us), last_us, steps, costs[network]))
                ended_us = last_us
    return ran, max(1, last_us)


def _ran(start_us: int, ended_us: int, steps: Sequence[StepDone], costs: CostTables) -> _Ran:
    found: list[_Step] = []
    profiled_us = took_us = 0.0
    for step in steps:
        us = (costs.head_us if step.head else costs.segment_us)[step.index][step.batch]
        found += [_Step(us, start_us + int(took_us), step.took_us / us)] if us > 0 else []
        profiled_us, took_us = profiled_us + us, took_us + step.took_us
    return _Ran(ended_us, ended_us - start_us, int(took_us), profiled_us or 1.0, found)
