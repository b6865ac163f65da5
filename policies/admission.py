"""May this request come in now, and if not, what could?

Role: a request is accepted only if its mandatory work, inserted by deadline into all that waits, finishes in time and
makes nobody else late. A refusal carries an offer that is true: a client that takes it is admitted under the same load.
Does not: limit rates or queue lengths (the core's limits do), or look at optional depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..clients.wire import Offer
from . import exits, load
from .exits import Asked, ExitPlan, Misfit, latency_ms_for, usable_us
from .load import Chunk, Cost
from .view import Served


class Refused(NamedTuple):
    """Why there is no time for it now, and what there is time for."""

    message: str
    offer: Offer


class Queue(NamedTuple):
    """What waits and runs just now: mandatory work by due time (`load.chunks`), and when the device is free."""

    work: Sequence[Chunk]
    free_us: int


def admit(wanted: Asked, plan: ExitPlan, served: Served, queue: Queue, now_us: int) -> Refused | None:
    """Check one request with a latency bound against the queue; None when it may come in."""
    if wanted.latency_ms is None:
        return None
    cost = load.mandatory(served, 0, plan.mandatory, 1)
    usable = usable_us(wanted.latency_ms)
    if _fits(queue, cost, now_us + usable):
        return None
    # At the end of the queue it delays nobody, so the whole backlog plus its own run is a bound that holds.
    feasible_us = load.done_us([*(chunk.cost for chunk in queue.work), cost], queue.free_us) - now_us
    offer_ms = latency_ms_for(max(feasible_us, usable + 1))
    shallower = None if wanted.accuracy is None else _deepest_in_time(plan, served, queue, now_us + usable)
    return Refused(
        f"latency_ms {wanted.latency_ms:g}: {feasible_us / 1000:.1f} ms of work come first",
        Offer(
            latency_ms=offer_ms,
            accuracy=None if shallower is None else int(served.costs.accuracy[shallower] * 1e4) / 1e4,
        ),
    )


def _fits(queue: Queue, cost: Cost, deadline_us: int) -> bool:
    """Whether work of this cost due at `deadline_us` is done in time and leaves all later work in time."""
    before = [chunk.cost for chunk in queue.work if chunk.due_us <= deadline_us]
    if load.done_us([*before, cost], queue.free_us) > deadline_us:
        return False
    mean_us, variance = queue.free_us + cost.mean_us, cost.spread_us**2
    for position, chunk in enumerate(queue.work):
        mean_us += chunk.cost.mean_us
        variance += chunk.cost.spread_us**2
        # Only work that comes after it is delayed by it.
        if position >= len(before) and mean_us + math.sqrt(variance) > chunk.deadline_us:
            return False
    return True


def true_offer(offer: Offer, wanted: Asked, served: Served, queue: Queue, now_us: int) -> Offer:
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
            refused = None if isinstance(chosen, Misfit) else admit(taken, chosen, served, queue, now_us)
            if refused is None and not isinstance(chosen, Misfit):
                found[name] = value
                break
            value = refused.offer.latency_ms if refused is not None and name == "latency_ms" else None
    return Offer(**found)


def _deepest_in_time(plan: ExitPlan, served: Served, queue: Queue, deadline_us: int) -> int | None:
    """For a request with an accuracy bound too: the best exit there would be time for."""
    feasible = (
        exit_index
        for exit_index in reversed(served.ladder)
        if exit_index < plan.mandatory and _fits(queue, load.mandatory(served, 0, exit_index, 1), deadline_us)
    )
    return next(feasible, None)
