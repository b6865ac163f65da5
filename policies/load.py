"""How much mandatory work with deadlines waits, in their order, and how much time is left over.

Role: the one estimate that both admission and the choice of exits rest on: earliest deadline first over mandatory work
only, in batches of useful size. Pure arithmetic over a `View`.
Source: ALGORITHMS of imprecise computation (Liu et al. 1991) applied per exit; chunks instead of single requests keep
it O(queued / batch).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from .view import NEVER_US, Served, Waiting


class Chunk(NamedTuple):
    """Requests at one stage of one network that would run as one batch: due together, at their mandatory depth."""

    due_us: int
    deadline_us: int
    cost_us: int


_depth = attrgetter("expected")


def chunks(pools: Sequence[Sequence[Waiting]]) -> list[Chunk]:
    """Cut each pool, sorted by due time, into batches; return all of them by due time."""
    result = [chunk for pool in pools for chunk in _chunks(pool)]
    result.sort()
    return result


def slack_us(work: Sequence[Chunk], start_us: int) -> int:
    """How long all of `work` could wait from `start_us` on without a deadline missed; NEVER_US if none has one."""
    slack, busy_until = NEVER_US, start_us
    for chunk in work:
        busy_until += chunk.cost_us
        if chunk.deadline_us < NEVER_US:
            slack = min(slack, chunk.deadline_us - busy_until)
    return slack


def backlog_us(work: Sequence[Chunk]) -> int:
    """Device time that all of `work` takes."""
    return sum(chunk.cost_us for chunk in work)


def mandatory_us(served: Served, stage: int, depth: int, count: int) -> int:
    """Time of one batch from `stage` to `depth`, where every row goes that deep."""
    return served.time_us(stage, max(stage, depth), min(count, served.batch_max))


def _chunks(pool: Sequence[Waiting]) -> list[Chunk]:
    """This runs for every decision and admission: per request it costs one attribute, per chunk one look-up."""
    if not pool:
        return []
    served, stage = pool[0].served, pool[0].stage
    depths = list(map(_depth, pool))
    size, count = served.batch_useful[max(depths)], len(pool)
    costs: dict[tuple[int, int], int] = {}
    result: list[Chunk] = []
    for start in range(0, count, size):
        rows = min(size, count - start)
        depth = max(depths[start : start + size])
        cost_us = costs.get((depth, rows))
        if cost_us is None:
            cost_us = costs[depth, rows] = mandatory_us(served, stage, depth, rows)
        first = pool[start]
        result.append(Chunk(first.due_us, first.deadline_us, cost_us))
    return result
