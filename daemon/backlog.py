"""Requests that wait for a run: by network and stage, ordered by when they are due, in the classes of a `View`.

Role: the queue behind the core; policies see it as a `View`. Limits are checked before a request gets here. Two kinds
are out of policies' sight: those whose worker is away, and doubtful ones, which may end the worker that they run on. A
doubtful one comes into sight while a spare stands by, or where there is to be none, while nobody else with a deadline
waits.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ..policies.load import in_order
from ..policies.pools import Chunk, Pool, View
from ..policies.view import NEVER_US, Waiting

_Pools = dict[tuple[str, int], Pool]


class Backlog:
    """All waiting requests. Adding and removing cost O(log n) comparisons."""

    def __init__(self) -> None:
        self._timed: _Pools = {}
        self._optional: _Pools = {}
        self._untimed: _Pools = {}
        self._spare: _Pools = {}
        self._best_effort: _Pools = {}
        self._homes: dict[int, Pool] = {}
        # Those whose worker is away, out of policies' sight.
        self._parked: dict[int, Waiting] = {}
        self._away: set[str] = set()
        # All doubtful ones, and those of them that are held back just now.
        self._doubtful: dict[int, Waiting] = {}
        self._held: dict[int, Waiting] = {}
        # Of networks whose worker is to have a spare: whether it stands by. And whether others are in a hurry.
        self._spares: dict[str, bool] = {}
        self._hurry = False
        self._view = View(self._timed, self._optional, self._untimed, self._spare, self._best_effort, self._homes)

    def __len__(self) -> int:
        return len(self._homes)

    def add(self, waiting: Waiting) -> None:
        """What it waits for is read off the request; change that only while it is not here."""
        if waiting.doubtful:
            self._doubtful[waiting.ticket] = self._held[waiting.ticket] = waiting
            self._hold_or_let(waiting)
        else:
            self._place(waiting)
            self._look()

    def _place(self, waiting: Waiting) -> None:
        if self._away and waiting.served.key in self._away:
            self._parked[waiting.ticket] = waiting
            return
        pools, key = self._pools(waiting), (waiting.served.key, waiting.stage)
        pool = pools.get(key)
        if pool is None:
            pool = pools[key] = Pool()
        pool.add(waiting)
        self._homes[waiting.ticket] = pool

    def remove(self, waiting: Waiting) -> bool:
        """Take a request out; False if it does not wait."""
        self._doubtful.pop(waiting.ticket, None)
        found = self._held.pop(waiting.ticket, None) is not None or self._displace(waiting)
        self._look()
        return found

    def _displace(self, waiting: Waiting) -> bool:
        if self._parked and self._parked.pop(waiting.ticket, None) is not None:
            return True
        pool = self._homes.pop(waiting.ticket, None)
        return pool is not None and pool.remove(waiting)

    def can_hold(self, held_max: int) -> bool:
        """Whether one more may wait for a deeper answer beside the one it must have, with features on the device."""
        return len(self._homes) < held_max or sum([len(pool.members) for pool in self._optional.values()]) < held_max

    def view(self) -> View:
        """The queue for a policy: live, not a copy."""
        return self._view

    def timed(self) -> _Pools:
        """Requests with a deadline that still need an answer."""
        return self._timed

    def untimed(self) -> _Pools:
        """Requests with bounds and without a deadline, or late already."""
        return self._untimed

    def spare(self) -> _Pools:
        """Requests with bounds, beyond their tenant's share."""
        return self._spare

    def work(self) -> list[Chunk]:
        """The mandatory work of requests with a deadline, by due time."""
        return in_order([pool.chunks for pool in self._timed.values() if pool.members])

    def restart(self) -> None:
        """Take requests between two segments back to the start: their features are gone."""
        for waiting in [waiting for waiting in self._waiting() if waiting.stage > 0]:
            self.remove(waiting)
            waiting.move_to(0)
            self.add(waiting)

    def park(self, keys: Collection[str]) -> None:
        """The worker of these networks is gone, with their requests' features; nothing of theirs can run for now."""
        found = [waiting for waiting in self._waiting() if waiting.served.key in keys]
        for waiting in found:
            self.remove(waiting)
            waiting.move_to(0)
        self._away.update(keys)
        for waiting in found:
            self.add(waiting)

    def unpark(self, keys: Collection[str]) -> None:
        """It is back."""
        self._away.difference_update(keys)
        for waiting in [waiting for waiting in self._parked.values() if waiting.served.key in keys]:
            del self._parked[waiting.ticket]
            self.add(waiting)

    @property
    def parked_count(self) -> int:
        """How many are out of sight: they wait for a worker that is away, or are held back."""
        return len(self._parked) + len(self._held)

    # ---- those that may end the worker

    def stands_by(self, keys: Collection[str], warm: bool | None) -> None:
        """Whether a spare could take over from the worker of these networks; None: it is to have none."""
        for key in keys:
            if warm is None:
                self._spares.pop(key, None)
            else:
                self._spares[key] = warm
        self._hold_or_let(*self._doubtful.values())

    def holds_back(self, waiting: Waiting) -> bool:
        """Whether this request waits for better times."""
        return waiting.ticket in self._held

    def _look(self) -> None:
        """Somebody has come or gone, so others may be in a hurry, or are no more."""
        if self._doubtful and self._hurried() != self._hurry:
            self._hold_or_let(*self._doubtful.values())

    def _hold_or_let(self, *doubtful: Waiting) -> None:
        """Bring those into policies' sight that may run now, and take the others out of it."""
        self._hurry = self._hurried()
        for waiting in doubtful:
            warm, ticket = self._spares.get(waiting.served.key), waiting.ticket
            held = self._hurry if warm is None else not warm
            if held and ticket not in self._held:
                self._displace(waiting)
                self._held[ticket] = waiting
            elif not held and ticket in self._held:
                self._place(self._held.pop(ticket))

    def _hurried(self) -> bool:
        """Whether anybody with a deadline waits who is not doubtful, also for a worker that is away."""
        if any(not member.doubtful for pool in self._timed.values() for member in pool.members):
            return True
        return any(not one.doubtful and self._pools(one) is self._timed for one in self._parked.values())

    def _waiting(self) -> Iterator[Waiting]:
        for pool in self._view.pools():
            yield from pool.members
        yield from self._held.values()

    def _pools(self, waiting: Waiting) -> _Pools:
        if not waiting.bounded:
            return self._best_effort
        if waiting.optional:
            return self._optional
        if waiting.spare:
            return self._spare
        return self._untimed if waiting.deadline_us >= NEVER_US else self._timed
