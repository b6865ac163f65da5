"""An upper bound on what any plan could get, for traces too long to solve: a relaxation that costs n log n.

Role: for thousands of requests, and for pruning the search of `oracle.py`. Flow: networks and requests -> per request
the least device time that each exit can cost -> the best use of the device's time -> sum of accuracies.

Why it is a bound. In a run of b rows let each row pay 1/b of its time. A request answered at an exit in time has then
paid, within its own window from arrival to deadline, at least the least sum of such shares over the batch sizes whose
runs fit into the window one after another, with no more rows than there are requests of that network whose windows
overlap with its own. The device has one microsecond per microsecond. Relaxed: shares may be split, broken off and
mixed at will, and a request may stop between two exits (the concave hull of accuracy over time paid).
What is left is to give out time to requests with windows, each with a concave gain: the amounts that fit form a
polymatroid, so the greedy order by gain per microsecond is optimal (Edmonds, 1970), and its worth is the sum over
rates of (rate - next rate) * F, F the most time that increments of that rate or a higher one can use, which earliest
deadline first attains (Glover, 1967: matching in convex bipartite graphs).

Does not: find a plan, or know of noise, energy or accuracy bounds.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from math import ceil
from typing import NamedTuple, TypeAlias

from .oracle_instances import Asked, Network
from .view import NEVER_US

# Lengths of window told apart over all networks of a long trace: each costs a pass over the requests per exit. With 64
# instead of 256 the bound rose by 0.0001.
KINDS_MAX = 64
# For single requests, in the search.
WINDOWS_MAX = 10_000
# A step that costs nothing would have an infinite rate.
LEAST_US = 1e-6

# What more device time brings, steepest first: gain per us, us.
Hull: TypeAlias = tuple[tuple[float, float], ...]
# Ways to an exit as (time taken, share paid), us: along the list the time rises and the share falls.
Frontier: TypeAlias = list[tuple[int, float]]


class Job(NamedTuple):
    """Wants time between release and deadline, us; what it gains by it is its hull."""

    release_us: int
    deadline_us: int
    hull: Hull


def relaxation(requests: Sequence[Asked], networks: Sequence[Network]) -> float:
    """No policy's sum of accuracies over these requests exceeds this.

    Cost: n log n for each distinct gain per us. 20,000 requests on one core: 0.3-1 s for three networks and three
        lengths of window, 2 s where every window differs, 28 s for eight networks at batch 16 and such windows.
    """
    rows = rows_max(requests, networks)
    hulls: dict[tuple[int, int], Hulls] = {}
    jobs = []
    for asked, limit in zip(requests, rows, strict=True):
        key = asked.network, limit
        if key not in hulls:
            hulls[key] = Hulls(networks[asked.network], rows=limit, kinds=ceil(KINDS_MAX / len(networks)))
        hull = hulls[key].of(asked.deadline_us - asked.arrival_us)
        if hull:
            jobs.append(Job(asked.arrival_us, asked.deadline_us, hull))
    return best_use(sorted(jobs))


def rows_max(requests: Sequence[Asked], networks: Sequence[Network]) -> list[int]:
    """Per request, how many rows a run with it can have: requests of its network with a window that overlaps."""
    arrivals = [sorted(asked.arrival_us for asked in requests if asked.network == n) for n in range(len(networks))]
    deadlines = [sorted(asked.deadline_us for asked in requests if asked.network == n) for n in range(len(networks))]
    return [
        min(
            len(networks[n].segments_us[0]) - 1,
            bisect_left(arrivals[n], asked.deadline_us) - bisect_right(deadlines[n], asked.arrival_us),
        )
        for asked in requests
        for n in (asked.network,)
    ]


class Hulls:
    """What more time brings to a request of one network, from segment `first` on, in runs of at most `rows`.

    Tells at most about `kinds` lengths of the window apart; one in between counts as the longer, which allows more.
    """

    def __init__(
        self, network: Network, *, rows: int, first: int = 0, heads: bool = True, kinds: int = WINDOWS_MAX
    ) -> None:
        self._frontiers = _frontiers(network, first, rows, heads=heads)
        best = (0.0, *accumulate(network.accuracy, max))
        self._gains = [accuracy - best[first] for accuracy in best[first + 1 :]]
        # The hull changes only at windows in which one more way to an exit fits.
        times = sorted({time for frontier in self._frontiers for time, _ in frontier})
        self._times = [*times[:: -ceil(len(times) / kinds)][::-1], NEVER_US + 1] if times else [NEVER_US + 1]
        self._hulls: dict[int, Hull] = {}

    def of(self, window_us: int) -> Hull:
        index = bisect_right(self._times, window_us)
        if index not in self._hulls:
            self._hulls[index] = self._hull(self._times[index] - 1)
        return self._hulls[index]

    def _hull(self, window_us: int) -> Hull:
        points = []
        for frontier, gain in zip(self._frontiers, self._gains, strict=True):
            fits = bisect_right(frontier, window_us, key=_time)
            if fits and gain > 0:
                points.append((max(frontier[fits - 1][1], LEAST_US), gain))
        return _concave(points)


def best_use(jobs: Sequence[Job]) -> float:
    """The most that jobs, sorted by release, can gain from one device together."""
    kinds: dict[Hull, int] = {}
    windows = [(release, deadline, kinds.setdefault(hull, len(kinds))) for release, deadline, hull in jobs]
    rates = sorted({rate for hull in kinds for rate, _ in hull}, reverse=True)
    worth = 0.0
    for rate, lower in zip(rates, [*rates, 0.0][1:], strict=True):
        wanted = [sum(us for each, us in hull if each >= rate) for hull in kinds]
        used_us = _used_us([(release, deadline, wanted[kind]) for release, deadline, kind in windows if wanted[kind]])
        worth += (rate - lower) * used_us
    return worth


def _used_us(jobs: Sequence[tuple[int, int, float]]) -> float:
    """Device time that jobs (release, deadline, time wanted), sorted by release, can use: earliest deadline first."""
    waiting: list[tuple[int, float]] = []
    now = used = 0.0
    for (release, deadline, wanted), until in zip(jobs, [*(job[0] for job in jobs[1:]), NEVER_US], strict=True):
        now = max(now, release)
        heappush(waiting, (deadline, wanted))
        while waiting and now < until:
            deadline, wanted = heappop(waiting)
            gets = min(wanted, deadline - now, until - now)
            if gets > 0:
                now += gets
                used += gets
                if gets < wanted and now < deadline:
                    heappush(waiting, (deadline, wanted - gets))
    return used


def _frontiers(network: Network, first: int, rows: int, *, heads: bool) -> list[Frontier]:
    """Per exit from `first` on, the ways there that pay less the longer they take, over all batch sizes."""
    frontiers, ways = [], [(0, 0.0)]
    for segment, head in zip(network.segments_us[first:], network.heads_us[first:], strict=True):
        ways = _extended(ways, segment, rows)
        frontiers.append(_extended(ways, head, rows) if heads else ways)
    return frontiers


def _extended(ways: Frontier, row: Sequence[int], rows: int) -> Frontier:
    options = {(row[batch], row[batch] / batch) for batch in range(1, rows + 1)}
    longer = sorted((time + more, share + paid) for time, share in ways for more, paid in options)
    kept: Frontier = []
    for time, share in longer:
        if not kept or share < kept[-1][1]:
            kept.append((time, share))
    return kept


def _time(way: tuple[int, float]) -> int:
    return way[0]


def _concave(points: Sequence[tuple[float, float]]) -> Hull:
    """The increments of the least concave curve from (0, 0) above all (us, gain); gains never fall, us is above 0."""
    kept = [(0.0, 0.0)]
    for us, gain in points:
        while us <= kept[-1][0]:
            kept.pop()
        if gain <= kept[-1][1]:
            continue
        while len(kept) > 1 and _rate(kept[-1], (us, gain)) >= _rate(kept[-2], kept[-1]):
            kept.pop()
        kept.append((us, gain))
    return tuple((_rate(left, right), right[0] - left[0]) for left, right in pairwise(kept))


def _rate(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])
