"""Times counted by how long they were, so that whoever asks gets distributions and not averages.

Role: `Tally` counts by the edges that `clients.info` tells; `Work` is what the device did for one network. Values are
only noted at first, and counted many at a time: one by one, between other things, each costs several times as much.
Pure. Does not: keep values for longer than that.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ..clients.info import EDGES_US, Histogram, NetworkStats
from ..policies.view import Served
from .records import StepDone

NOTED_MAX = 64


class Tally:
    """A histogram that grows."""

    __slots__ = ("_counts", "_noted", "_sum_us")

    def __init__(self) -> None:
        self._counts = [0] * (len(EDGES_US) + 1)
        self._noted: list[int] = []
        self._sum_us = 0

    def add(self, value_us: int) -> None:
        """Count one value; a value on an edge belongs below it."""
        self._noted.append(value_us)
        if len(self._noted) >= NOTED_MAX:
            self._count()

    def told(self) -> Histogram:
        """As it stands."""
        self._count()
        return Histogram(tuple(self._counts), self._sum_us)

    def _count(self) -> None:
        counts, noted = self._counts, self._noted
        for value_us in noted:
            counts[bisect_left(EDGES_US, value_us)] += 1
        self._sum_us += sum(noted)
        noted.clear()


class Work:
    """Runs of one network's segments, of whatever version is served."""

    __slots__ = ("_batches", "_noted", "_segments", "_served")

    def __init__(self, served: Served) -> None:
        self._served = served
        self._noted: list[Sequence[StepDone]] = []
        self._segments: list[Tally] = []
        self._batches: list[int] = []

    def add(self, served: Served, steps: Sequence[StepDone]) -> None:
        """What the device reported of one run."""
        self._served = served
        self._noted.append(steps)
        if len(self._noted) >= NOTED_MAX:
            self._count()

    def told(self) -> NetworkStats:
        """As it stands."""
        self._count()
        served = self._served
        segments = tuple([tally.told() for tally in self._segments])
        return NetworkStats(served.name, served.version, segments, tuple(self._batches), served.correction.mu)

    def _count(self) -> None:
        for step in [step for steps in self._noted for step in steps if not step.head]:
            while len(self._segments) <= step.index:
                self._segments.append(Tally())
            while len(self._batches) < step.batch:
                self._batches.append(0)
            self._segments[step.index].add(step.took_us)
            self._batches[step.batch - 1] += 1
        self._noted.clear()
