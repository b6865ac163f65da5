"""How far a share counted on samples may be from the truth: the exact binomial interval, without scipy.

Role: accuracy figures carry one each. Pure.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

# Halvings of 0..1: the answer is exact to 2^-50, below what a float of this size resolves in a printed table.
HALVINGS = 50


def clopper_pearson(successes: int, n: int, certainty: float = 0.95) -> tuple[float, float]:
    """The two-sided interval of a binomial share that covers the truth with at least `certainty`.

    Returns:
        (low, high); (0, 1) where n is 0: nothing is known.
    Raises:
        ValueError: not 0 <= successes <= n, or certainty outside 0..1.
    Source: Clopper and Pearson 1934: the shares at which so many or more, so many or fewer, just become this unlikely.
    Cost: O(n) numpy work per halving, about 10 ms at n = 10,000.
    """
    if not 0 <= successes <= n or not 0 < certainty < 1:
        raise ValueError(
            f"{successes} of {n} at certainty {certainty}; expected 0 <= successes <= n and 0 < certainty < 1"
        )
    tail = (1 - certainty) / 2
    coefficients = _log_binomials(n)
    low = 0.0 if successes == 0 else _bisect(coefficients, range(successes, n + 1), tail, rising=True)
    high = 1.0 if successes == n else _bisect(coefficients, range(successes + 1), tail, rising=False)
    return low, high


def _log_binomials(n: int) -> Floats:
    """log C(n, i) for i in 0..n."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
    binomials: Floats = factorials[n] - factorials - factorials[::-1]
    return binomials


def _bisect(coefficients: Floats, counts: range, tail: float, *, rising: bool) -> float:
    """The share p at which P(count in `counts`) = tail; that probability rises or falls with p throughout."""
    n = len(coefficients) - 1
    chosen = coefficients[counts.start : counts.stop]
    hits = np.arange(counts.start, counts.stop, dtype=np.float64)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        share = (low + high) / 2
        probability = float(np.exp(chosen + hits * np.log(share) + (n - hits) * np.log1p(-share)).sum())
        if (probability < tail) == rising:
            low = share
        else:
            high = share
    return (low + high) / 2
