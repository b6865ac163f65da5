"""Times counted by how long they were, so that whoever asks gets distributions and not averages.

Role: `Tally` counts by the edges that `clients.info` tells; `Work` is what the device did for one network. Pure, a few
hundred nanoseconds for each value. Does not: keep values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ..clients.info import EDGES_US, Histogram, NetworkStats
from ..policies.view import Served
from .records import StepDone


class Tally:
    """A histogram that grows."""

    __slots__ = ("_counts", "_sum_us")

    def __init__(self) -> None:
        self._counts = [0] * (len(EDGES_US) + 1)
        self._sum_us = 0

    def add(self, value_us: int) -> None:
        """Count one value; a value on an edge belongs below it."""
        self._counts[bisect_left(EDGES_US, value_us)] += 1
        self._sum_us += value_us

    def told(self) -> Histogram:
        """As it stands."""
        return Histogram(tuple(self._counts), self._sum_us)


class Work:
    """Runs of one network's segments, of whatever version is served."""

    __slots__ = ("_batches", "_segments", "_served")

    def __init__(self, served: Served) -> None:
        self._served = served
        self._segments: list[Tally] = []
        self._batches: list[int] = []

    def add(self, served: Served, steps: Sequence[StepDone]) -> None:
        """What the device reported of one run."""
        self._served = served
        for step in steps:
            if step.head:
                continue
            while len(self._segments) <= step.index:
                self._segments.append(Tally())
            while len(self._batches) < step.batch:
                self._batches.append(0)
            self._segments[step.index].add(step.took_us)
            self._batches[step.batch - 1] += 1

    def told(self) -> NetworkStats:
        """As it stands."""
        served = self._served
        segments = tuple([tally.told() for tally in self._segments])
        return NetworkStats(served.name, served.version, segments, tuple(self._batches), served.correction.mu)
