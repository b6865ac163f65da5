"""Requests that wait for a run: by network and stage, ordered by when they are due, in three classes.

Role: the queue behind the core; policies see it as a `View`. Limits are checked before a request gets here.
"""

from __future__ import annotations

from bisect import insort

from ..policies import load
from ..policies.view import NEVER_US, View, Waiting

_Pools = dict[tuple[str, int], list[Waiting]]


def _due(waiting: Waiting) -> int:
    return waiting.due_us


class Backlog:
    """All waiting requests. Adding costs O(log n) comparisons, removing O(n) of one pool."""

    def __init__(self) -> None:
        self._timed: _Pools = {}
        self._untimed: _Pools = {}
        self._best_effort: _Pools = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, waiting: Waiting) -> None:
        pool = self._pools(waiting).setdefault((waiting.served.name, waiting.stage), [])
        insort(pool, waiting, key=_due)
        self._count += 1

    def remove(self, waiting: Waiting) -> None:
        """Take a request out if it waits; nothing happens if it does not."""
        pool = self._pools(waiting).get((waiting.served.name, waiting.stage), [])
        if waiting in pool:
            pool.remove(waiting)
            self._count -= 1

    def view(self) -> View:
        """The queue for a policy."""
        return View(self._timed, self._untimed, self._best_effort)

    def work(self) -> list[load.Chunk]:
        """The mandatory work of requests with a deadline, by due time."""
        return load.chunks([pool for pool in self._timed.values() if pool])

    def restart(self) -> None:
        """Take requests between two segments back to the start: their features are gone."""
        staged = [
            waiting
            for pools in (self._timed, self._untimed, self._best_effort)
            for (_, stage), pool in pools.items()
            if stage > 0
            for waiting in pool
        ]
        for waiting in staged:
            self.remove(waiting)
            waiting.move_to(0)
            self.add(waiting)

    def _pools(self, waiting: Waiting) -> _Pools:
        if not waiting.bounded:
            return self._best_effort
        return self._timed if waiting.deadline_us < NEVER_US else self._untimed
