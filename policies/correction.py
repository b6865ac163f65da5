"""How much slower than its profile a network runs just now, and how far single runs stray from that.

Role: one filter per network, fed with every run; its `factor` turns a profiled median into a time that is kept in all
but `MISS_TARGET` of runs. Source: ALERT (ATC'20) for the Kalman filter on the slowdown, with gentler constants because
segments are deterministic; adaptive conformal inference (Gibbs, Candès 2021) for the margin.
"""

from __future__ import annotations

from bisect import insort
from collections import deque

MISS_TARGET = 0.01
KEPT = 200
# Process noise floor, measurement noise and smoothing of the filter: ALERT's 0.1 and 0.001 give a gain near 0.99,
# which follows every stray run; these settle near 0.13 and rise when errors are all of one sign.
NOISE_FLOOR, NOISE_RUN, NOISE_MEMORY = 1e-4, 5e-3, 0.3
# How fast the quantile follows misses: a step of 1 % of its range per miss.
STEP = 0.01
# Before enough runs are seen: profiles are taken on a quiet machine, serving shares it.
MARGIN_FIRST, MARGIN_MIN = 0.3, 0.02
# One run of a preempted process says little about the next: cap what a single observation may teach.
RATIO_MAX = 4.0


class Correction:
    """Slowdown `mu` against the profile, and the relative `margin` above it."""

    def __init__(self) -> None:
        self.mu = 1.0
        self._variance, self._gain, self._noise, self._innovation = 0.1, 0.5, NOISE_FLOOR, 0.0
        self._errors: deque[float] = deque(maxlen=KEPT)
        self._sorted: list[float] = []
        self._alpha = MISS_TARGET
        self.margin = MARGIN_FIRST

    @property
    def factor(self) -> float:
        """Multiplies a profiled median into a time that nearly every run keeps."""
        return self.mu * (1 + self.margin)

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """Learn from one run: `predicted_us` is the profile's median for exactly what ran."""
        if predicted_us <= 0:
            return
        ratio = min(observed_us / predicted_us, RATIO_MAX)
        error = ratio / self.mu - 1
        missed = error > self.margin
        self._alpha = min(1.0, max(0.0, self._alpha + STEP * (MISS_TARGET - missed)))
        self._filter(ratio)
        self._remember(error)
        self.margin = self._quantile(missed)

    def _filter(self, ratio: float) -> None:
        innovation = ratio - self.mu
        last = self._gain * self._innovation
        self._noise = max(NOISE_FLOOR, NOISE_MEMORY * self._noise + (1 - NOISE_MEMORY) * last * last)
        prior = (1 - self._gain) * self._variance + self._noise
        self._gain = prior / (prior + NOISE_RUN)
        self._variance, self._innovation = prior, innovation
        self.mu += self._gain * innovation

    def _remember(self, error: float) -> None:
        if len(self._errors) == KEPT:
            self._sorted.remove(self._errors[0])
        self._errors.append(error)
        insort(self._sorted, error)

    def _quantile(self, missed: bool) -> float:
        count = len(self._sorted)
        if count < 20:
            return MARGIN_FIRST
        if self._alpha < 1 / (count + 1):
            grown = self.margin * 1.1 if missed else 0.0
            return max(1.1 * self._sorted[-1], grown, MARGIN_MIN)
        return max(self._sorted[min(count - 1, int((1 - self._alpha) * count))], MARGIN_MIN)
