"""How long a run of gated requests is likely to take: most leave early, and nobody knows which.

Role: expected time and its spread, for planning what fits beside such work; admission counts the worst. Does not:
know the device's present slowdown (`load.py` does).
"""

from __future__ import annotations

import math

from ..profiles.costs import Costs


def gated_path(
    costs: Costs, way: tuple[int, int], count: int, gates: tuple[float, ...], beyond: tuple[float, ...]
) -> tuple[float, float]:
    """Profiled mean and standard deviation of a batch's run, us, without the hop.

    Rows leave independently, so at every segment their number is binomial; the spreads of segments add up as if all
    were long together, which they nearly are: whoever stays, stays for all of them.

    Args:
        way: from this segment to this exit.
        gates: per exit, infinite where there is none.
        beyond: per exit, the share of such requests that go beyond it.
    """
    first, last = way
    come = beyond[first - 1] if first else 1.0
    mean_us = spread_us = 0.0
    for index in range(first, last + 1):
        share = 1.0 if index == first or come <= 0 else min(1.0, max(0.0, beyond[index - 1] / come))
        asked = index == last or gates[index] < math.inf
        times_us = [
            costs.segment_us[index][rows] + (costs.head_us[index][rows] if asked else 0.0) if rows else 0.0
            for rows in range(count + 1)
        ]
        chances = [math.comb(count, rows) * share**rows * (1 - share) ** (count - rows) for rows in range(count + 1)]
        step_us = math.fsum([chance * time_us for chance, time_us in zip(chances, times_us, strict=True)])
        squares = [chance * (time_us - step_us) ** 2 for chance, time_us in zip(chances, times_us, strict=True)]
        mean_us += step_us
        spread_us += math.sqrt(math.fsum(squares))
    return mean_us, spread_us
