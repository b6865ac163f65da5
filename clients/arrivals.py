"""When requests arrive: arrays of times, for the load generator and the simulator.

Role: pure functions of their arguments and of the generator passed in: same seed, same times. All return int64
microseconds from the start, sorted, within [0, duration). Does not: keep a clock or send anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

# A whole day at a thousand requests per second; more is a mistake in the arguments.
ARRIVALS_MAX = 100_000_000


class Phase(NamedTuple):
    """A stretch of time with its own rate: seconds from the start, and requests per second."""

    start_s: float
    end_s: float
    rate_hz: float


def poisson(rate_hz: float, duration_s: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A Poisson process: independent exponential gaps. Raises ValueError for a negative rate or no duration."""
    return _uniform_in(0.0, duration_s, rate_hz, rng)


def poisson_phases(phases: Sequence[Phase], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A Poisson process whose rate changes by phases, as for a burst; phases follow one another without overlap.

    Time between phases has no arrivals. Raises ValueError for phases out of order or overlapping.
    """
    for earlier, later in pairwise(phases):
        if later.start_s < earlier.end_s:
            raise ValueError(f"phase at {later.start_s} s begins before the one before it ends at {earlier.end_s} s")
    parts = [_uniform_in(phase.start_s, phase.end_s, phase.rate_hz, rng) for phase in phases]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def burst(
    rate_hz: float, duration_s: float, *, burst_hz: float, start_s: float, end_s: float
) -> tuple[Phase, Phase, Phase]:
    """The phases of one burst: `burst_hz` from `start_s` to `end_s`, `rate_hz` before and after."""
    return (Phase(0.0, start_s, rate_hz), Phase(start_s, end_s, burst_hz), Phase(end_s, duration_s, rate_hz))


def periodic(
    rate_hz: float, duration_s: float, rng: np.random.Generator, *, jitter: float = 0.0
) -> npt.NDArray[np.int64]:
    """A camera: evenly spaced frames, each late by up to `jitter` of a period, uniformly. `jitter` in [0, 1]."""
    _check(rate_hz, duration_s)
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter is {jitter}; expected a share of the period, 0 to 1")
    count = _checked_count(np.ceil(rate_hz * duration_s))
    times_s = (np.arange(count) + jitter * rng.random(count)) / rate_hz if rate_hz else np.empty(0)
    return _microseconds(times_s, 0.0, duration_s)


def gamma(rate_hz: float, duration_s: float, rng: np.random.Generator, *, cv2: float) -> npt.NDArray[np.int64]:
    """Renewal arrivals with gamma gaps: `cv2` is their squared coefficient of variation.

    1 is Poisson, above 1 is bursty, below 1 is smoother; 13 squared fits the burstiest published trace.
    """
    _check(rate_hz, duration_s)
    if not 0 < cv2 < 1e6:
        raise ValueError(f"cv2 is {cv2}; expected a number above 0 and below 1e6")
    if rate_hz == 0:
        return np.empty(0, np.int64)
    _checked_count(rate_hz * duration_s)
    parts: list[npt.NDArray[Any]] = []
    reached_s = 0.0
    # Drawn in blocks of about what is left; the last block goes beyond the end and is cut.
    while reached_s < duration_s:
        block = max(64, int(rate_hz * (duration_s - reached_s) * 1.1))
        times_s = reached_s + np.cumsum(rng.gamma(1 / cv2, cv2 / rate_hz, block))
        parts.append(times_s)
        reached_s = float(times_s[-1])
    return _microseconds(np.concatenate(parts), 0.0, duration_s)


def _uniform_in(start_s: float, end_s: float, rate_hz: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    # Given their number, the times of a Poisson process are independent and uniform.
    _check(rate_hz, end_s - start_s)
    count = _checked_count(rng.poisson(rate_hz * (end_s - start_s)))
    return _microseconds(np.sort(rng.uniform(start_s, end_s, count)), start_s, end_s)


def _check(rate_hz: float, duration_s: float) -> None:
    if not 0 <= rate_hz < 1e9:
        raise ValueError(f"a rate of {rate_hz} requests per second; expected 0 to 1e9")
    if not 0 < duration_s < 1e9:
        raise ValueError(f"a duration of {duration_s} s; expected more than 0 and less than 1e9")
    _checked_count(rate_hz * duration_s)


def _checked_count(count: float) -> int:
    if count > ARRIVALS_MAX:
        raise ValueError(f"{count:.0f} arrivals; at most {ARRIVALS_MAX} can be made")
    return int(count)


def _microseconds(times_s: npt.NDArray[Any], start_s: float, end_s: float) -> npt.NDArray[np.int64]:
    times_us = np.floor(times_s * 1e6).astype(np.int64)
    return times_us[(times_us >= int(start_s * 1e6)) & (times_us < int(end_s * 1e6))]
