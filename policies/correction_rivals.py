"""Other ways to correct a profile, to be compared with `Correction` on the same core; and all of them by name.

Role: what published servers and common practice do, each as a `Corrects`. One instance per network sees the ratios of
all its runs; Clockwork keeps a window per (network, batch), so here it learns sooner than it would by itself.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping
from statistics import NormalDist

from .correction import MISS_TARGET, Correction, Corrects

# p95 over p50 where no profile says it: log-normal jitter of 6 %, a quiet machine.
P95_OVER_P50 = 1.1
# Clockwork (OSDI'20): the 99th percentile of the last 10 runs.
CLOCKWORK_RUNS, CLOCKWORK_SHARE = 10, 0.99
# ALERT (ATC'20): process noise floor, measurement noise, forgetting, first variance and gain.
ALERT_NOISE_FLOOR, ALERT_NOISE_RUN, ALERT_MEMORY, ALERT_VARIANCE, ALERT_GAIN = 0.1, 0.001, 0.3, 0.1, 0.5


class Static:
    """The profile is believed: every run takes up to `ratio` times its median, whatever is observed."""

    def __init__(self, ratio: float) -> None:
        self.mu, self.margin = 1.0, ratio - 1

    @property
    def factor(self) -> float:
        """Constant."""
        return self.mu * (1 + self.margin)

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """Nothing is learnt."""


class LastRuns:
    """The quantile `share` (interpolated; 1 is the maximum) of the last `runs` ratios; `ratio_first` before any."""

    def __init__(self, runs: int, share: float, ratio_first: float = P95_OVER_P50) -> None:
        self.mu, self.margin = 1.0, ratio_first - 1
        self._share, self._length = share, runs
        self._runs: deque[float] = deque()
        self._sorted: list[float] = []

    @property
    def factor(self) -> float:
        """The quantile; `mu` is the window's median."""
        return self.mu * (1 + self.margin)

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """The newest run takes the place of the oldest."""
        if predicted_us <= 0:
            return
        if len(self._runs) == self._length:
            del self._sorted[bisect_left(self._sorted, self._runs.popleft())]
        ratio = observed_us / predicted_us
        self._runs.append(ratio)
        insort(self._sorted, ratio)
        self.mu = self._sorted[len(self._sorted) // 2]
        self.margin = self._quantile() / self.mu - 1

    def _quantile(self) -> float:
        place = self._share * (len(self._sorted) - 1)
        low = int(place)
        high = math.ceil(place)
        return self._sorted[low] + (place - low) * (self._sorted[high] - self._sorted[low])


class Alert:
    """ALERT's Kalman filter with its own constants: mean and variance of the slowdown, taken as normal."""

    def __init__(self, miss_target: float = MISS_TARGET) -> None:
        self._sigmas = NormalDist().inv_cdf(1 - miss_target)
        self._variance, self._gain, self._noise = ALERT_VARIANCE, ALERT_GAIN, ALERT_NOISE_FLOOR
        self._innovation = 0.0
        self.mu, self.margin = 1.0, self._sigmas * math.sqrt(ALERT_VARIANCE)

    @property
    def factor(self) -> float:
        """Mean and as many sigmas as leave `miss_target` of a normal distribution above."""
        return self.mu * (1 + self.margin)

    def observe(self, predicted_us: float, observed_us: float) -> None:
        """ALERT's update, in its order: drift, variance, gain, mean."""
        if predicted_us <= 0:
            return
        moved = self._gain * self._innovation
        self._noise = max(ALERT_NOISE_FLOOR, ALERT_MEMORY * self._noise + (1 - ALERT_MEMORY) * moved * moved)
        self._variance = (1 - self._gain) * self._variance + self._noise
        self._gain = self._variance / (self._variance + ALERT_NOISE_RUN)
        self._innovation = observed_us / predicted_us - self.mu
        self.mu += self._gain * self._innovation
        self.margin = self._sigmas * math.sqrt(self._variance) / self.mu


# Each makes a correction from the share of runs that may miss, and the profile's p95 over its p50.
CORRECTIONS: Mapping[str, Callable[[float, float], Corrects]] = {
    "conformal": lambda miss_target, _ratio: Correction(miss_target),
    "static-p50": lambda _miss_target, _ratio: Static(1.0),
    "static-p95": lambda _miss_target, ratio: Static(ratio),
    "last-10-p99": lambda _miss_target, ratio: LastRuns(CLOCKWORK_RUNS, CLOCKWORK_SHARE, ratio),
    "max-of-n": lambda miss_target, ratio: LastRuns(round(1 / miss_target), 1.0, ratio),
    "alert": lambda miss_target, _ratio: Alert(miss_target),
}


def correction(name: str, *, miss_target: float = MISS_TARGET, p95_over_p50: float = P95_OVER_P50) -> Corrects:
    """A new correction for one network, by its name in a config or scenario.

    Raises:
        ValueError: no correction has this name, `miss_target` is no share between 0 and 1, or a p95 is below its p50.
    """
    if name not in CORRECTIONS:
        raise ValueError(f"no correction is called {name!r}; choose one of {', '.join(CORRECTIONS)}")
    if not 0 < miss_target < 1:
        raise ValueError(f"miss_target is {miss_target}, a share of runs above 0 and below 1 is expected; try 0.01")
    if not p95_over_p50 >= 1:
        raise ValueError(f"p95_over_p50 is {p95_over_p50}, a p95 is never below its p50; measure the profile again")
    return CORRECTIONS[name](miss_target, p95_over_p50)
