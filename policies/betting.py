"""A bound on the mean of anything that has a largest value: cost per request, or finer losses.

Role: where `binomial.py` cannot help because outcomes lie between 0 and a maximum. Flow: values of samples, in the
order they were drawn -> `mean_max`. Used to say what a plan costs at most on average. Pure.
Does not: assume a distribution; only that values are drawn independently and none exceeds `largest`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

# Halvings of 0..largest: 2^-40 of it, below what anything is printed with.
HALVINGS = 40


def mean_max(values: npt.NDArray[np.float64], largest: float, doubt: float) -> float:
    """Upper bound of the mean, exceeded by the truth with probability `doubt` at most.

    Args:
        values: shape (n,), each in 0..largest, in the order drawn, which must not depend on them.
    Raises:
        ValueError: a value outside that, or `doubt` not between 0 and 1.
    Returns:
        `largest` where there are no values.
    Source: Waudby-Smith, Ramdas, JRSS-B 2024: bets that the mean is below mu; the smallest mu at which their product
    ever reaches 1/doubt. Bets follow the variance seen so far, and never stake more than a loss can cost.
    """
    if not 0 < doubt < 1 or not largest > 0:
        raise ValueError(f"doubt {doubt}, largest {largest}; expected doubt between 0 and 1 and largest above 0")
    if len(values) == 0:
        return largest
    if not bool(np.all((values >= 0) & (values <= largest))):
        raise ValueError(f"values lie outside 0..{largest:g}")
    shares = values / largest
    bets, goal = _bets(shares, doubt), -math.log(doubt)

    def refuted(mean: float) -> bool:
        """Whether the bets against a mean this high ever won enough."""
        return float(np.cumsum(np.log1p(-bets * (shares - mean))).max()) >= goal

    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if refuted(middle) else (middle, high)
    return high * largest


def _bets(shares: npt.NDArray[np.float64], doubt: float) -> npt.NDArray[np.float64]:
    """What is staked on each, from those before it alone; starts from a mean of a half and a variance of a quarter."""
    n = len(shares)
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(shares)) / (counts + 1)
    variances = (0.25 + np.cumsum((shares - means) ** 2)) / (counts + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    # Below 1, so that no value wipes out what was won; a mean of 1 would else make a stake of 1 lose all.
    bets: npt.NDArray[np.float64] = np.minimum(0.99, np.sqrt(2 * math.log(1 / doubt) / (n * before)))
    return bets
