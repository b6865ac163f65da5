"""Who has waited too long without a deadline: work that newcomers with one are let in behind.

Role: beside an overload of deadlines, which admission fills to the brim, nothing else would ever have its turn. Where
the first of those due has not changed for a while, the batch it would run in is kept free for, and so it runs; that is
the least there must be, for all of it at once would let a flood without deadlines shut out everybody with one. Does
not: run anything; policies run what is overdue as soon as nobody becomes late by it.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter

from .pools import Chunk, Pools, cut
from .view import Waiting

_due = attrgetter("due_us")


class Starving:
    """Watches the requests with bounds and without a deadline."""

    def __init__(self, patience_us: int, wait_us: int) -> None:
        """`patience_us`: how long the first of them may be the first and due; `wait_us`: how long any may be due."""
        self._patience_us = patience_us
        self._wait_us = wait_us
        self._ticket = 0
        self._since_us = 0

    def work(self, pools: Pools, now_us: int) -> list[Chunk]:
        """The batches newcomers go behind. Cost: O(pools); where some have waited `wait_us`, O(those)."""
        waiting = [pool.members for pool in pools.values() if pool.members]
        if not waiting:
            return []
        members = min(waiting, key=_first_due)
        first = members[0]
        if first.ticket != self._ticket:
            self._ticket, self._since_us = first.ticket, now_us
        due_us = now_us - self._wait_us
        if first.due_us < due_us:
            return [chunk for each in waiting for chunk in cut(each[: bisect_left(each, due_us, key=_due)])]
        if now_us - max(first.due_us, self._since_us) <= self._patience_us:
            return []
        return cut(members[: first.served.batch_useful[first.expected]])[:1]


def _first_due(members: list[Waiting]) -> int:
    return members[0].due_us
