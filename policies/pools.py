"""The queue as policies see it: pools of requests by network and stage, and the batches each would run in.

Role: `Pool` keeps requests by due time and cuts itself into chunks when asked; `View` holds the pools of every class.
Chunks hold profiled times, so a pool is cut again only when somebody came or went. Does not: add up chunks (`load.py`).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from operator import attrgetter
from typing import NamedTuple

from .device_clock import DeviceClock
from .fairness import Share
from .scarcity import Scarcity
from .view import Served, Waiting


class Chunk(NamedTuple):
    """Requests at one stage of one network that would run as one batch: due together, at their mandatory depth.

    `path_us`: profiled time of their run at the most, without the hop. `likely_us`, `spread_us`: what it takes on
    average, and how far from it, where gates let some go earlier; None where they do not.
    """

    due_us: int
    deadline_us: int
    path_us: float
    served: Served
    likely_us: float | None = None
    spread_us: float = 0.0


_due, _depth, _alone = attrgetter("due_us"), attrgetter("expected"), attrgetter("alone")


class Pool:
    """Waiting requests of one network at one stage, by due time; and the batches they would run in."""

    def __init__(self) -> None:
        self.members: list[Waiting] = []
        self._chunks: list[Chunk] | None = None
        self._useful: tuple[int, ...] = ()
        self._next: tuple[Waiting, list[Chunk]] | None = None
        self._lines: dict[Share, list[Waiting]] | None = None

    def add(self, waiting: Waiting) -> None:
        """O(log n) comparisons."""
        insort(self.members, waiting, key=_due)
        # Whoever was just judged is likely to be the one who comes in.
        self._chunks = self._next[1] if self._next is not None and self._next[0] is waiting else None
        self._next = None
        if self._lines is not None:
            insort(self._lines.setdefault(waiting.share, []), waiting, key=_due)

    def remove(self, waiting: Waiting) -> bool:
        """Take it out; False if it is not here. O(log n) comparisons, and those due at the same microsecond."""
        members = self.members
        position = bisect_left(members, waiting.due_us, key=_due)
        while position < len(members) and members[position].due_us == waiting.due_us:
            if members[position] is waiting:
                del members[position]
                self._chunks = self._next = None
                if self._lines is not None:
                    self._leave_line(self._lines, waiting)
                return True
            position += 1
        return False

    def fair(self, count: int, row_us: float, from_us: int = 0) -> Sequence[Waiting]:
        """Those to run first where not all can: of whoever had least, the earliest due, each booked with `row_us`.

        `from_us`: who is due earlier goes last, among its tenant's. Cost: O(count log tenants); the first time, O(n).
        """
        members = self.members
        if members[0].due_us >= from_us and count >= len(members):
            return members
        if self._lines is None:
            self._lines = {}
            for waiting in members:
                self._lines.setdefault(waiting.share, []).append(waiting)
        if len(self._lines) == 1:
            return _from(members, from_us)[:count]
        fronts = [
            (share.virtual_us, line[0].ticket, 0, share, _from(line, from_us)) for share, line in self._lines.items()
        ]
        heapify(fronts)
        chosen: list[Waiting] = []
        while len(chosen) < count and fronts:
            virtual_us, ticket, position, share, line = fronts[0]
            chosen.append(line[position])
            if position + 1 < len(line):
                heapreplace(fronts, (virtual_us + row_us / share.weight, ticket, position + 1, share, line))
            else:
                heappop(fronts)
        return chosen

    def _leave_line(self, lines: dict[Share, list[Waiting]], waiting: Waiting) -> None:
        line = lines[waiting.share]
        position = bisect_left(line, waiting.due_us, key=_due)
        while line[position] is not waiting:
            position += 1
        del line[position]
        if not line:
            del lines[waiting.share]

    @property
    def chunks(self) -> list[Chunk]:
        """Its batches, by due time."""
        useful = self.members[0].served.batch_useful if self.members else ()
        if self._chunks is None or self._useful is not useful:
            # Useful sizes change with the hop, seldom.
            self._chunks, self._useful = cut(self.members), useful
        return self._chunks

    def chunks_with(self, newcomer: Waiting) -> list[Chunk]:
        """Its batches if this request were in it too."""
        members = self.members.copy()
        insort(members, newcomer, key=_due)
        chunks = cut(members)
        self._next = newcomer, chunks
        return chunks


def _from(line: list[Waiting], from_us: int) -> list[Waiting]:
    """Those due at `from_us` or later; all where nobody is."""
    if line[0].due_us >= from_us or line[-1].due_us < from_us:
        return line
    return line[bisect_left(line, from_us, key=_due) :]


def cut(members: Sequence[Waiting]) -> list[Chunk]:
    """Batches of one pool's requests, sorted by due time."""
    if not members:
        return []
    first = members[0]
    served, stage = first.served, first.stage
    if len(members) == 1:
        alone_us = served.costs.path_us(stage, first.expected, 1)
        return [Chunk(first.due_us, first.deadline_us, alone_us, served, *_likely(members, first.expected))]
    depths = list(map(_depth, members))
    # Where some must run alone, batches break around them; that none forms is the estimate that is never too short.
    size, count = 1 if any(map(_alone, members)) else served.batch_useful[max(depths)], len(members)
    costs: dict[tuple[int, int], float] = {}
    result: list[Chunk] = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        depth = max(depths[start : start + size])
        path_us = costs.get((depth, rows))
        if path_us is None:
            path_us = costs[depth, rows] = served.costs.path_us(stage, depth, rows)
        first = members[start]
        likely = _likely(members[start : start + rows], depth)
        result.append(Chunk(first.due_us, first.deadline_us, path_us, served, *likely))
    return result


def _likely(members: Sequence[Waiting], depth: int) -> tuple[float, float] | tuple[()]:
    """Mean and spread of their run where all have the same gates."""
    first = members[0]
    if first.gates is None or any(member.gates != first.gates for member in members):
        return ()
    return first.served.likely(first.stage, depth, len(members), (first.gates, first.beyond))


Pools = Mapping[tuple[str, int], Pool]


@dataclass
class View:
    """The queue at one boundary: per class of requests, `pools[(network, stage)]`, each by `due_us`.

    `timed`: requests with a deadline that still need an answer. `optional`: those that have the answer they must have
    and may go deeper. `untimed`: with other bounds, or late already. `spare`: with bounds, beyond their tenant's
    share. `best_effort`: without any bound. `refused_until_us`: somebody within their share who was refused for want
    of time would have waited until then. `scarcity`: what device time is worth. `homes`: everybody who waits, by
    ticket, with their pool. `clock`: the device's, where it may be set.
    """

    timed: Pools
    optional: Pools
    untimed: Pools
    spare: Pools
    best_effort: Pools
    homes: Mapping[int, Pool] = field(default_factory=dict)
    refused_until_us: int = 0
    scarcity: Scarcity = field(default_factory=Scarcity)
    clock: DeviceClock | None = None

    def pools(self) -> Iterator[Pool]:
        """All pools somebody waits in, of every class."""
        for pools in (self.timed, self.optional, self.untimed, self.spare, self.best_effort):
            yield from (pool for pool in pools.values() if pool.members)
