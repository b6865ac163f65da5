"""May this request come in now, and if not, what could?

Role: a request is accepted only if its mandatory work, put among all that waits by deadline, finishes in time and
makes nobody else late. A refusal carries an offer that is true: a client that takes it is admitted under the same load.
Does not: limit rates or queue lengths (the core's limits do), or look at optional depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

from ..clients.wire import Offer
from . import batches, exits, load
from .exits import Asked, ExitPlan, Misfit
from .pools import Chunk, Pool, cut
from .view import NEVER_US, Served, Waiting

# Looking at every batch costs some microseconds each; beyond so many requests the estimate by chunks must do.
WALK_MAX = 128

Newcomer = Callable[[Asked, ExitPlan], Waiting]


class Refused(NamedTuple):
    """Why there is no time for it now, and what there is time for."""

    message: str
    offer: Offer


class Queue(NamedTuple):
    """What waits before a newcomer could run: pools with deadlines by (network, stage), and when the device is free.

    `before`: work that goes first whatever its deadline. `stretch`: 0 for requests within their tenant's share; else
    the pools are of those beyond, and each of their runs takes so many times as long, for what others make of the
    device.
    """

    pools: Mapping[tuple[str, int], Pool]
    before: Sequence[Chunk]
    free_us: int
    stretch: float = 0.0

    def work(self) -> list[Chunk]:
        """All of it by due time."""
        return load.in_order([*(pool.chunks for pool in self.pools.values() if pool.members), self.before])

    def fits(self, newcomer: Waiting) -> bool:
        """Whether it is done in time, and makes nobody late who would not be so without it."""
        home = (newcomer.served.key, newcomer.stage)
        pool = self.pools.get(home)
        own = cut([newcomer]) if pool is None else pool.chunks_with(newcomer)
        others = [other.chunks for key, other in self.pools.items() if key != home and other.members]
        if self.stretch:
            return self._fits_between(load.in_order([*others, own]), newcomer.due_us)
        # It may have joined a batch that is due before it.
        due_us = max(chunk.due_us for chunk in own if chunk.due_us <= newcomer.due_us)
        if not load.late_after(load.in_order([*others, own, self.before]), self.free_us, due_us):
            return True
        return not self.before and self._fits_as_run(newcomer)

    def fits_on_average(self, newcomer: Waiting) -> bool:
        """Whether it makes nobody late if every run takes no longer than it does on average."""
        pools = [*(pool.chunks for pool in self.pools.values() if pool.members), cut([newcomer])]
        end_us = float(self.free_us)
        for chunk in load.in_order([*pools, self.before]):
            end_us += load.cost_of(chunk).mean_us
            if chunk.due_us >= newcomer.due_us and end_us > chunk.deadline_us:
                return False
        return True

    def _fits_as_run(self, newcomer: Waiting) -> bool:
        """The same, batch by batch as they would be formed: smaller where its first deadline allows no more."""
        if sum(len(pool.members) for pool in self.pools.values()) >= WALK_MAX:
            return False
        home = (newcomer.served.key, newcomer.stage)
        queues = [pool.members for key, pool in self.pools.items() if key != home and pool.members]
        pool = self.pools.get(home)
        own = [newcomer] if pool is None else sorted([*pool.members, newcomer], key=attrgetter("due_us"))
        return batches.late_when_run([*queues, own], self.free_us) is None

    def end_us(self, newcomer: Waiting) -> int:
        """When it would be done if it waited for everybody else: a time that can be promised."""
        alone = cut([newcomer])
        if self.stretch:
            chunks = [*(chunk for pool in self.pools.values() for chunk in pool.chunks), *alone]
            return int(self._begin_us() + (1 + load.KEPT_SHARE) * sum(map(self._between_us, chunks))) + 1
        return load.done_us((load.cost_of(chunk) for chunk in [*self.work(), *alone]), self.free_us, load.KEPT_SHARE)

    def _fits_between(self, work: Sequence[Chunk], due_us: int) -> bool:
        """Whether nobody beyond their share who is due at `due_us` or later would be late."""
        end_us = begin_us = self._begin_us()
        for chunk in work:
            end_us += self._between_us(chunk)
            kept_us = load.KEPT_SHARE * (end_us - begin_us)
            if chunk.due_us >= due_us and end_us + kept_us > chunk.deadline_us:
                return False
        return True

    def _begin_us(self) -> float:
        return load.done_us(map(load.cost_of, self.before), self.free_us)

    def _between_us(self, chunk: Chunk) -> float:
        served = chunk.served
        return self.stretch * (served.hop_us + chunk.path_us * served.correction.factor)


def refusal(wanted: Asked, plan: ExitPlan, queue: Queue, newcomer: Newcomer) -> Refused:
    """Why a request with a latency bound does not fit into the queue, and what of it would.

    Args:
        newcomer: makes the request as it would wait, for any bounds and plan.
    """
    assert wanted.latency_ms is not None
    waiting = newcomer(wanted, plan)
    guard = waiting.served.guard
    # At the end of the queue it delays nobody, so the whole backlog plus its own run is a bound that holds.
    feasible_us = queue.end_us(waiting) - waiting.arrival_us
    usable_us = guard.usable_us(wanted.latency_ms)
    shallower = None if wanted.accuracy is None else _deepest_in_time(wanted, plan, queue, newcomer)
    accuracy = waiting.served.costs.accuracy
    return Refused(
        f"latency_ms {wanted.latency_ms:g}: {feasible_us / 1000:.1f} ms of work come first",
        Offer(
            latency_ms=guard.latency_ms_for(max(feasible_us, usable_us + 1)),
            accuracy=None if shallower is None else int(accuracy[shallower] * 1e4) / 1e4,
        ),
    )


def true_offer(offer: Offer, wanted: Asked, served: Served, queue: Queue, newcomer: Newcomer) -> Offer:
    """What of an offer a client could really take: each value alone, the other bounds as they were asked.

    A latency that only fits an idle device is replaced by one that fits this queue.
    """
    found: dict[str, float] = {}
    for name in ("latency_ms", "accuracy", "energy_mj"):
        value = getattr(offer, name)
        for _ in range(2):
            if value is None:
                break
            taken = wanted._replace(**{name: value})
            chosen = exits.plan(taken, served)
            if isinstance(chosen, Misfit):
                break
            if taken.latency_ms is None or queue.fits(newcomer(taken, chosen)):
                found[name] = value
                break
            value = refusal(taken, chosen, queue, newcomer).offer.latency_ms if name == "latency_ms" else None
    return Offer(**found)


def _deepest_in_time(wanted: Asked, plan: ExitPlan, queue: Queue, newcomer: Newcomer) -> int | None:
    """For a request with an accuracy bound too: the best exit there would be time for."""
    waiting = newcomer(wanted, plan)
    for exit_index in reversed(waiting.served.ladder):
        if exit_index < plan.mandatory:
            waiting.mandatory = exit_index
            waiting.move_to(waiting.stage)
            if waiting.deadline_us < NEVER_US and queue.fits(waiting):
                return exit_index
    return None
