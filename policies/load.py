"""How much mandatory work with deadlines waits, in their order, and how much time is left over.

Role: the one estimate that both admission and the choice of runs rest on: earliest deadline first over mandatory work
only, in batches of useful size. Source: imprecise computation (Liu et al. 1991) applied per exit; chunks instead of
single requests keep a walk at O(queued / batch).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

from .pools import Chunk
from .view import NEVER_US, Served

_due = itemgetter(0)


# Of the time a newcomer would wait, how much more admission keeps free. With none, an overloaded queue is filled until
# its heads are due at once: batches shrink to meet them, and capacity with them (scenario e9: 89 %, not 97).
KEPT_SHARE = 0.06


class Cost(NamedTuple):
    """Time of one run: what it takes at the present slowdown, and how much more nearly every run keeps within.

    Means add up; spreads of independent runs add as the root of their sum of squares. Adding up worst cases instead
    would make a queue of twenty runs look several times as long as it ever is, and refuse what could be served.
    """

    mean_us: float
    spread_us: float


def in_order(parts: Iterable[Sequence[Chunk]]) -> list[Chunk]:
    """All chunks by due time."""
    # Sorting parts that are sorted already costs hardly more than looking at them.
    found = list(chain.from_iterable(parts))
    if len(found) > 1:
        found.sort(key=_due)
    return found


def slack_us(work: Sequence[Chunk], start_us: int) -> int:
    """How long all of `work` could wait from `start_us` on without a deadline missed; NEVER_US if none has one.

    Gated work counts with what it is likely to take; admission (`late_after`) counts the most.
    """
    slack, mean_us, variance = float(NEVER_US), float(start_us), 0.0
    for _, deadline_us, path_us, served, likely_us, spread_us in work:
        correction = served.correction
        took_us = path_us * correction.mu
        if likely_us is not None:
            # Who leaves by a gate leaves time for others; who was let in was let in as if nobody did.
            took_us = likely_us * correction.mu
            variance += (spread_us * correction.mu) ** 2
        mean_us += served.hop_us + took_us
        variance += (took_us * correction.margin) ** 2
        left_us = deadline_us - mean_us
        # The root is taken only where it may matter.
        if left_us < slack:
            left_us -= math.sqrt(variance)
            if left_us < slack:
                slack = left_us
    return int(slack)


def late_after(work: Sequence[Chunk], start_us: int, due_us: int) -> bool:
    """Whether any of `work` that is due at `due_us` or later would miss its deadline."""
    mean_us, variance = float(start_us), 0.0
    for chunk_due_us, deadline_us, path_us, served, _, _ in work:
        correction = served.correction
        took_us = path_us * correction.mu
        mean_us += served.hop_us + took_us
        variance += (took_us * correction.margin) ** 2
        if chunk_due_us >= due_us:
            kept_us = KEPT_SHARE * (mean_us - took_us - start_us)
            if mean_us + math.sqrt(variance) + kept_us > deadline_us:
                return True
    return False


def done_us(costs: Iterable[Cost], start_us: float, kept_share: float = 0.0) -> int:
    """When work of these costs is done, one after the other from `start_us`, in nearly all cases.

    `kept_share`: of the time before the last of them starts, how much more is kept, as admission does.
    """
    mean_us, variance = float(start_us), 0.0
    last_us = 0.0
    for cost in costs:
        last_us = cost.mean_us
        mean_us += last_us
        variance += cost.spread_us**2
    return int(mean_us + math.sqrt(variance) + kept_share * (mean_us - last_us - start_us)) + 1


def cost_of(chunk: Chunk) -> Cost:
    """Its time as the device runs just now."""
    path_us = chunk.path_us * chunk.served.correction.mu
    return Cost(chunk.served.hop_us + path_us, path_us * chunk.served.correction.margin)


def mandatory(served: Served, stage: int, depth: int, count: int) -> Cost:
    """Cost of one batch from `stage` to `depth`, where every row goes that deep."""
    path_us = served.costs.path_us(stage, max(stage, depth), min(count, served.batch_max)) * served.correction.mu
    return Cost(served.hop_us + path_us, path_us * served.correction.margin)
