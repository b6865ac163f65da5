"""How much mandatory work with deadlines waits, in their order, and how much time is left over.

Role: the one estimate that both admission and the choice of exits rest on: earliest deadline first over mandatory work
only, in batches of useful size. Pure arithmetic over a `View`.
Source: ALGORITHMS of imprecise computation (Liu et al. 1991) applied per exit; chunks instead of single requests keep
it O(queued / batch).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple

from .view import NEVER_US, Served, Waiting


class Cost(NamedTuple):
    """Time of one run: what it takes at the present slowdown, and how much more nearly every run keeps within.

    Means add up; spreads of independent runs add as the root of their sum of squares. Adding up worst cases instead
    would make a queue of twenty runs look several times as long as it ever is, and refuse what could be served.
    """

    mean_us: float
    spread_us: float


class Chunk(NamedTuple):
    """Requests at one stage of one network that would run as one batch: due together, at their mandatory depth."""

    due_us: int
    deadline_us: int
    cost: Cost


_depth, _alone = attrgetter("expected"), attrgetter("alone")


def chunks(pools: Sequence[Sequence[Waiting]]) -> list[Chunk]:
    """Cut each pool, sorted by due time, into batches; return all of them by due time."""
    result = [chunk for pool in pools for chunk in _chunks(pool)]
    result.sort()
    return result


def slack_us(work: Sequence[Chunk], start_us: int) -> int:
    """How long all of `work` could wait from `start_us` on without a deadline missed; NEVER_US if none has one."""
    slack, mean_us, variance = float(NEVER_US), float(start_us), 0.0
    for chunk in work:
        mean_us += chunk.cost.mean_us
        variance += chunk.cost.spread_us**2
        if chunk.deadline_us < NEVER_US:
            slack = min(slack, chunk.deadline_us - mean_us - math.sqrt(variance))
    return int(slack)


def done_us(costs: Iterable[Cost], start_us: float) -> int:
    """When work of these costs is done, one after the other from `start_us`, in nearly all cases."""
    mean_us, variance = float(start_us), 0.0
    for cost in costs:
        mean_us += cost.mean_us
        variance += cost.spread_us**2
    return int(mean_us + math.sqrt(variance)) + 1


def mandatory(served: Served, stage: int, depth: int, count: int) -> Cost:
    """Cost of one batch from `stage` to `depth`, where every row goes that deep."""
    path_us = served.costs.path_us(stage, max(stage, depth), min(count, served.batch_max)) * served.correction.mu
    return Cost(served.hop_us + path_us, path_us * served.correction.margin)


def _chunks(pool: Sequence[Waiting]) -> list[Chunk]:
    """This runs for every decision and admission: per request it costs one attribute, per chunk one look-up."""
    if not pool:
        return []
    served, stage = pool[0].served, pool[0].stage
    depths = list(map(_depth, pool))
    # Where some must run alone, batches break around them; that none forms is the estimate that is never too short.
    size, count = 1 if any(map(_alone, pool)) else served.batch_useful[max(depths)], len(pool)
    costs: dict[tuple[int, int], Cost] = {}
    result: list[Chunk] = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        depth = max(depths[start : start + size])
        cost = costs.get((depth, rows))
        if cost is None:
            cost = costs[depth, rows] = mandatory(served, stage, depth, rows)
        first = pool[start]
        result.append(Chunk(first.due_us, first.deadline_us, cost))
    return result
