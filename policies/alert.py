"""ALERT's rule for one tenant: the exit that is best by predicted time, accuracy and energy.

Role: one Kalman filter on how much slower than profiled this tenant's requests are answered, waiting included; from its
mean and spread the chance of every exit to be in time, and so what it may be expected to give. Source: Wan et al.,
ALERT (ATC'20), section 3, with its constants; differs: exits instead of networks, and power is the device's affair. An
exit that is late counts as none. Does not: read a clock.
"""

from __future__ import annotations

import math

from .exits import Asked
from .view import Served

# ALERT's own: Q0, R, alpha, and where mean, variance and gain begin.
DRIFT_MIN, NOISE, MEMORY = 0.1, 0.001, 0.3
MEAN_FIRST, VARIANCE_FIRST, GAIN_FIRST = 1.0, 0.1, 0.5
# Of its requests, how many must be in time where something else than accuracy is to be saved.
IN_TIME = 0.99


class Alert:
    """One tenant's filter."""

    __slots__ = ("_drift", "_error", "_gain", "_variance", "mean")

    def __init__(self) -> None:
        self.mean = MEAN_FIRST
        self._variance, self._gain, self._drift, self._error = VARIANCE_FIRST, GAIN_FIRST, DRIFT_MIN, 0.0

    @property
    def spread(self) -> float:
        """One sigma of the next ratio."""
        return math.sqrt(self._variance + self._drift + NOISE)

    def observe(self, profiled_us: float, took_us: float) -> None:
        """Learn from an answer: what its way takes by the profile, and what it took."""
        if profiled_us <= 0:
            return
        error = took_us / profiled_us - self.mean
        self._drift = max(DRIFT_MIN, MEMORY * self._drift + (1 - MEMORY) * (self._gain * self._error) ** 2)
        prior = (1 - self._gain) * self._variance + self._drift
        self._gain = prior / (prior + NOISE)
        self.mean += self._gain * error
        self._variance, self._error = prior, error

    def exit(self, wanted: Asked, served: Served) -> int:
        """Where such a request should go: of the exits that keep its other bounds most likely, the best for it."""
        costs, found, best = served.costs, served.ladder[0], (-1.0, -math.inf)
        for index in served.ladder:
            accuracy, energy_mj = costs.accuracy[index], costs.energy_mj(index, 1)
            if wanted.deepest is not None and index > wanted.deepest:
                break
            if wanted.energy_mj is not None and (costs.most_mj(index) or math.inf) > wanted.energy_mj:
                break
            likely = self._in_time(wanted, costs.path_us(0, index, 1))
            if wanted.objective == "accuracy":
                merit = (0.0, likely * accuracy)
            else:
                enough = wanted.accuracy is None or accuracy >= wanted.accuracy
                kept = 1.0 if enough and likely >= IN_TIME else likely * min(1.0, accuracy / (wanted.accuracy or 1.0))
                merit = (kept, -(energy_mj if energy_mj is not None else costs.path_us(0, index, 1)))
            if merit > best:
                found, best = index, merit
        return found

    def _in_time(self, wanted: Asked, profiled_us: float) -> float:
        """How likely an answer that takes so long by the profile is in time."""
        if wanted.latency_ms is None:
            return 1.0
        sigmas = (wanted.latency_ms * 1000 / profiled_us - self.mean) / self.spread
        return 0.5 * math.erfc(-sigmas / math.sqrt(2))
