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
from . import load
from .exits import Asked, ExitPlan, latency_ms_for, usable_us
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
    mean_us, variance = float(queue.free_us), 0.0
    for position, chunk in enumerate(queue.work):
        mean_us += chunk.cost.mean_us
        variance += chunk.cost.spread_us**2
        if position < len(before):
            continue
        done_us = mean_us + math.sqrt(variance)
        done_with_us = mean_us + cost.mean_us + math.sqrt(variance + cost.spread_us**2)
        # Work that would be late without this request too is no reason to refuse it.
        if done_with_us > chunk.deadline_us >= done_us:
            return False
    return True


def _deepest_in_time(plan: ExitPlan, served: Served, queue: Queue, deadline_us: int) -> int | None:
    """For a request with an accuracy bound too: the best exit there would be time for."""
    feasible = (
        exit_index
        for exit_index in reversed(served.ladder)
        if exit_index < plan.mandatory and _fits(queue, load.mandatory(served, 0, exit_index, 1), deadline_us)
    )
    return next(feasible, None)
