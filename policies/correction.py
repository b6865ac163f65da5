"""How much slower than its profile a network runs just now, and how far single runs stray from that.

Role: one filter per network, fed with every run; its `factor` turns a profiled median into a time that is kept in all
but `miss_target` of runs. Flow of `observe`: was the prediction kept; follow the slowdown (Kalman); remember the error;
watch for a step (CUSUM); set the margin (adaptive conformal quantile). Does not: read a clock, or know what ran.
Sources: ALERT (ATC'20) for a Kalman filter on the slowdown; adaptive conformal inference (Gibbs, Candès 2021) for the
margin; Page (1954) for the CUSUM. What differs, and every constant, is measured by `daemon/correction_bench.py`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from statistics import median
from typing import Protocol

MISS_TARGET = 0.01
# Errors kept, in units of 1/miss_target: two are the least from which the quantile can be read; with eight, margins are
# half as wide under rare stalls, and noise that itself has changed is still forgotten after 800 runs.
WINDOW, KEPT_MIN, KEPT_MAX = 8, 200, 8000
# How far alpha moves per run; misses among n runs are within (miss_target + STEP) / (STEP * n) of their target. Faster,
# at 0.01, one miss throws alpha to zero, and the margin swings between two extremes.
STEP = 0.001
# No windup: after a day of quiet, alpha must not need a hundred misses to come down. In units of miss_target.
ALPHA_MAX = 1.5
# Where alpha asks for a quantile beyond the largest error: that error and a tenth, and a tenth more per further miss.
BEYOND = 1.1
# Before enough runs are seen: profiles are taken on a quiet machine, serving shares it.
SEEN_MIN, MARGIN_FIRST, MARGIN_MIN, SPREAD_FIRST = 20, 0.3, 0.02, 0.1
# A timer and a bus are never more exact than this.
SPREAD_MIN = 0.01
# Variance per run by which the slowdown drifts, and how fast that is learnt. The measurement noise is what is seen;
# ALERT's constants 0.1 and 0.001 give a gain near 0.99, which follows every stray run.
DRIFT_MIN, DRIFT_MEMORY = 1e-4, 0.9
# The share of errors within one spread of the middle, on either side: one sigma of a normal distribution.
SPREAD_SHARE = 0.84
# A step: one-sided errors beyond one spread, each counted as at most four, that add up to more than five. So no single
# run however long is a step, two far ones are.
SCORE_MAX, ALLOWANCE, ALARM = 4.0, 1.0, 5.0
# After a miss the next runs may be as slow: a step shows before it is certain, and stalls come in clusters.
HOLD_RUNS, HOLD_OVER = 3, 1.1
# One run says little about the next: what a single one may teach, as a multiple of what was believed.
JUMP_MAX = 4.0


class Corrects(Protocol):
    """What a network's times are multiplied with: the mean slowdown `mu`, and above it a relative `margin`."""

    mu: float
    margin: float

    @property
    def factor(self) -> float:
        """`mu * (1 + margin)`: multiplies a profiled median into a time that nearly every run keeps."""

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """Learn from one run: `predicted_us` is the profile's median for exactly what ran."""


class Correction:
    """Slowdown and margin whose long-run share of misses is `miss_target`, whatever the noise.

    Cost: 3 us per run, see `daemon/correction_bench.py`.
    """

    def __init__(self, miss_target: float = MISS_TARGET) -> None:
        """Nothing seen yet. `miss_target`: the share of runs that may take longer than predicted, above 0, below 1."""
        self.mu, self.margin = 1.0, MARGIN_FIRST
        # Multiplies a profiled median into a time that nearly every run keeps. Read far more often than runs end.
        self.factor = self.mu * (1 + self.margin)
        self._target = self._alpha = miss_target
        self._kept = min(KEPT_MAX, max(KEPT_MIN, round(WINDOW / miss_target)))
        # The filter: variance of mu, its drift per run, and the last gain and error. All relative to mu.
        self._variance, self._drift, self._gain, self._error = 0.1, DRIFT_MIN, 0.5, 0.0
        # (observed over profiled, relative error) of the last runs, and the errors in order.
        self._runs: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []
        # Evidence that runs have become slower or faster, and since how many runs there is any.
        self._slower, self._slower_runs, self._faster, self._faster_runs = 0.0, 0, 0.0, 0
        # How many runs ago the level last changed.
        self._level_runs = 0
        # The quantile alone, and the ratio that is expected for some runs after a miss.
        self._wide, self._hold_ratio, self._hold_runs = MARGIN_FIRST, 0.0, 0

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """Learn from one run: `predicted_us` is the profile's median for exactly what ran; without one nothing is."""
        if predicted_us <= 0 or observed_us <= 0:
            return
        ratio = _within(self.mu / JUMP_MAX, observed_us / predicted_us, JUMP_MAX * self.mu)
        error = ratio / self.mu - 1
        missed = error > self.margin
        self._alpha = _within(0.0, self._alpha + STEP * (self._target - missed), ALPHA_MAX * self._target)
        below, above = self._spreads()
        self._follow(error, below, above)
        self._remember(ratio, error)
        self._watch(error / (above if error > 0 else below))
        self._widen(missed, ratio)
        self.factor = self.mu * (1 + self.margin)

    def _spreads(self) -> tuple[float, float]:
        """One sigma below and above, read off the errors' quantiles: stalls do not move them."""
        count = len(self._sorted)
        if count < SEEN_MIN:
            return SPREAD_FIRST, SPREAD_FIRST
        high = int(SPREAD_SHARE * count)
        return max(SPREAD_MIN, -self._sorted[count - 1 - high]), max(SPREAD_MIN, self._sorted[high])

    def _follow(self, error: float, below: float, above: float) -> None:
        """Kalman filter on the slowdown. Errors of one sign in a row mean that it lags: the drift is learnt from those.

        Differs from ALERT, where any large error raises the drift: there heavy tails make the mean jump about.
        """
        error = _within(-SCORE_MAX * below, error, SCORE_MAX * above)
        lag = self._gain * error * self._error
        self._drift = max(DRIFT_MIN, DRIFT_MEMORY * self._drift + (1 - DRIFT_MEMORY) * lag)
        prior = self._variance + self._drift
        gain = prior / (prior + (0.5 * (below + above)) ** 2)
        self._variance, self._gain, self._error = (1 - gain) * prior, gain, error
        self.mu *= 1 + gain * error

    def _remember(self, ratio: float, error: float) -> None:
        if len(self._runs) == self._kept:
            del self._sorted[bisect_left(self._sorted, self._runs.popleft()[1])]
        self._runs.append((ratio, error))
        self._level_runs += 1
        insort(self._sorted, error)

    def _watch(self, score: float) -> None:
        """Two-sided CUSUM on `score`, the error in spreads; and once, at SEEN_MIN runs, a level without the profile."""
        score = _within(-SCORE_MAX, score, SCORE_MAX)
        slower, faster = self._slower + score - ALLOWANCE, self._faster - score - ALLOWANCE
        self._slower, self._slower_runs = (slower, self._slower_runs + 1) if slower > 0 else (0.0, 0)
        self._faster, self._faster_runs = (faster, self._faster_runs + 1) if faster > 0 else (0.0, 0)
        if len(self._runs) == SEEN_MIN:
            self._restart(SEEN_MIN)
        elif slower > ALARM:
            self._restart(self._slower_runs)
        elif faster > ALARM:
            self._restart(self._faster_runs)

    def _restart(self, count: int) -> None:
        """The last `count` runs are a new level: the slowdown is theirs, and so are their errors.

        All of them forget what they missed by: one step would else widen the margin for as long as the window lasts,
        and cost depth in every run for what a run that looks at the clock at its exits survives (scenario e6, 1.5
        times from 5 s on: 72.1 % effective accuracy instead of 70.7, with as few misses). Where levels change one
        after the other the first error stays: then the next change is to be reckoned with.
        """
        count = min(count, len(self._runs))
        new = [self._runs.pop() for _ in range(count)]
        for _, error in new:
            del self._sorted[bisect_left(self._sorted, error)]
        self.mu = median(ratio for ratio, _ in new)
        if self._level_runs - count < SEEN_MIN and len(self._runs) + count > SEEN_MIN:
            self._remember(*new.pop())
        self._level_runs = 0
        for ratio, _ in reversed(new):
            self._remember(ratio, ratio / self.mu - 1)
        below, above = self._spreads()
        self._variance, self._drift, self._error = (0.5 * (below + above)) ** 2 / count, DRIFT_MIN, 0.0
        self._slower, self._slower_runs, self._faster, self._faster_runs = 0.0, 0, 0.0, 0

    def _widen(self, missed: bool, ratio: float) -> None:
        """The margin: the conformal quantile, and for HOLD_RUNS after a miss what that run would have needed."""
        self._wide = self.margin = self._quantile(missed)
        if missed:
            self._hold_ratio = max(self._hold_ratio, HOLD_OVER * ratio)
            self._hold_runs = HOLD_RUNS
        elif self._hold_runs:
            self._hold_runs -= 1
        if self._hold_runs:
            self.margin = max(self.margin, self._hold_ratio / self.mu - 1)
        else:
            self._hold_ratio = 0.0

    def _quantile(self, missed: bool) -> float:
        count = len(self._sorted)
        if count < SEEN_MIN:
            return max(MARGIN_FIRST, BEYOND * self._sorted[-1])
        if self._alpha < 1 / (count + 1):
            grown = BEYOND * self._wide if missed else 0.0
            return max(BEYOND * self._sorted[-1], grown, MARGIN_MIN)
        return max(self._sorted[min(count - 1, int((1 - self._alpha) * count))], MARGIN_MIN)


def _within(least: float, value: float, most: float) -> float:
    """The value, or the limit it is beyond."""
    # Comparing costs a third of `max` and `min`, and this is asked four times per run.
    return least if value < least else most if value > most else value
