"""The exact binomial test, fast enough to be asked while a request waits: no table, no scipy.

Role: everything in this room that says "certified" rests on `cdf`. Flow: errors counted on held-out samples -> the most
errors a claim may have (`errors_max`), the highest error rate they allow (`rate_max`), or how many samples a claim
would take (`samples_needed`).

Does not: know exits or gates (`certificates.py` does). Pure.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

# Terms further from the peak than so many standard deviations add less than 1e-17 of the sum.
SIGMAS = 9.0
TERMS_MIN = 64
# Newton's steps for a rate; from the guess below 5 are enough, and each stays on the safe side of the root.
STEPS_MAX = 40
# More labels than anybody collects: above it, "more than" is what is said.
SAMPLES_MAX = 1_000_000_000


def cdf(count: int, n: int, rate: float) -> float:
    """P(at most `count` of `n` independent trials succeed), each with probability `rate`.

    Sums from the nearest term to the tail, so small probabilities are as exact as large ones: relative error below
    1e-7 up to n = 1,000,000 (that of `lgamma` there).
    Cost: O(sqrt(n)), 10-30 us.
    """
    if count < 0:
        return 0.0
    if count >= n or rate <= 0:
        return 1.0
    if rate >= 1:
        return 0.0
    if count <= n * rate:
        return _tail(count, n, rate)
    # The upper tail of so many is the lower tail of the failures.
    return 1.0 - _tail(n - count - 1, n, 1 - rate)


def errors_max(n: int, rate: float, doubt: float) -> int:
    """The most errors among `n` samples that still reject "the error rate is above `rate`" at level `doubt`.

    -1 where not even a faultless record would do: too few samples.
    """
    guess = n * rate + NormalDist().inv_cdf(doubt) * math.sqrt(max(n * rate * (1 - rate), 0.25))
    low, high, stride = -1, n, max(1, int(math.sqrt(n) / 8))
    place = min(max(int(guess), 0), n - 1)
    # Invariant: `low` passes (-1 trivially), `high` fails; first close in around the guess, then halve.
    while high - low > 1:
        if cdf(place, n, rate) <= doubt:
            low = place
            place = min(low + stride, (low + high + 1) // 2) if high - low > stride else (low + high) // 2
        else:
            high = place
            place = max(high - stride, (low + high) // 2) if high - low > stride else (low + high) // 2
        place = min(max(place, low + 1), high - 1)
    return low


def rate_max(errors: int, n: int, doubt: float) -> float:
    """The highest error rate under which so few errors are not too unlikely: the upper Clopper-Pearson bound.

    The truth lies above it with probability `doubt` at most. 1 without samples, or when all are wrong.
    Source: Clopper, Pearson, Biometrika 1934. ln of the distribution is concave in the rate, so Newton's steps from the
    right of the root never cross it: what is returned errs to the safe side.
    """
    if errors >= n:
        return 1.0
    if errors == 0:
        return -math.expm1(math.log(doubt) / n)
    if errors == n - 1:
        return math.exp(math.log1p(-doubt) / n)
    target, share = math.log(doubt), (errors + 1) / n
    reach = 4 * math.sqrt(share * (1 - share) / n) + 1 / n
    while cdf(errors, n, rate := min(share + reach, (1 + share + reach) / (2 + reach))) > doubt:
        reach *= 2
    for _ in range(STEPS_MAX):
        below = cdf(errors, n, rate)
        step = (target - math.log(below)) * below / (n * _pmf(errors, n - 1, rate))
        rate -= step
        if step < 1e-12:
            break
    return float(min(1.0, rate + 1e-12))


def samples_needed(share: float, rate: float, doubt: float) -> int | None:
    """How many samples certify an error rate of `rate` at level `doubt` if a `share` of them is wrong, and any more do.

    None where no number does: `share` is not below `rate`, or it would take over a thousand million.
    Errors are taken as floor(share x n), so more samples are sometimes worse by one error; from here on none fail.
    """
    if share >= rate:
        return None
    if share <= 0:
        return max(1, math.ceil(math.log(doubt) / math.log1p(-rate)))

    def passes(errors: int) -> bool:
        """At the smallest n with so many errors, the hardest one."""
        n = _first(errors, share)
        return n > SAMPLES_MAX or cdf(errors, n, rate) <= doubt

    low, high = 0, 1
    while not passes(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    if _first(high, share) > SAMPLES_MAX:
        return None
    # With one error fewer it failed at first, but may pass before the next error comes.
    return _least(low, rate, doubt, _first(low, share) if low else 1, _first(high, share))


def _first(errors: int, share: float) -> int:
    n = max(1, math.ceil(errors / share - 1e-9))
    return n if math.floor(share * n + 1e-9) >= errors else n + 1


def _least(errors: int, rate: float, doubt: float, low: int, high: int) -> int:
    """The smallest n in low..high from which so many errors pass; `high` does."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if cdf(errors, middle, rate) <= doubt else (middle + 1, high)
    return high


def _tail(count: int, n: int, rate: float) -> float:
    """P(at most `count`) where that lies below the mean: the last term, times a sum of falling ratios."""
    spread = math.sqrt(n * rate * (1 - rate))
    terms = min(count, int(SIGMAS * spread) + TERMS_MIN)
    here = np.arange(count, count - terms, -1, dtype=np.float64)
    ratios = here / (n + 1 - here)
    ratios *= (1 - rate) / rate
    return min(1.0, _pmf(count, n, rate) * (1.0 + float(np.multiply.accumulate(ratios).sum())))


def _pmf(count: int, n: int, rate: float) -> float:
    if not 0 <= count <= n:
        return 0.0
    ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
    return math.exp(ways + count * math.log(rate) + (n - count) * math.log1p(-rate))
