"""When requests arrive: arrays of times, for the load generator and the simulator.

Role: pure functions of their arguments and of the generator passed in: same seed, same times. All return int64
microseconds from the start, sorted, within [0, duration). Recorded times are stretched by `scaled` and `to_rate`.
Does not: keep a clock, send anything, or read files (`profiles/traces.py` reads recorded ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

# A whole day at a thousand requests per second; more is a mistake in the arguments.
ARRIVALS_MAX = 100_000_000
# Changes of state that one modulated process may go through; each is drawn by itself.
DWELLS_MAX = 1_000_000

Times: TypeAlias = "npt.NDArray[np.int64]"


class Phase(NamedTuple):
    """A stretch of time with its own rate: seconds from the start, and requests per second."""

    start_s: float
    end_s: float
    rate_hz: float


def poisson(rate_hz: float, duration_s: float, rng: np.random.Generator) -> Times:
    """A Poisson process: independent exponential gaps. Raises ValueError for a negative rate or no duration."""
    return _uniform_in(0.0, duration_s, rate_hz, rng)


def poisson_phases(phases: Sequence[Phase], rng: np.random.Generator) -> Times:
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


def periodic(rate_hz: float, duration_s: float, rng: np.random.Generator, *, jitter: float = 0.0) -> Times:
    """A camera: evenly spaced frames, each late by up to `jitter` of a period, uniformly. `jitter` in [0, 1]."""
    _check(rate_hz, duration_s)
    if not 0 <= jitter <= 1:
        raise ValueError(f"jitter is {jitter}; expected a share of the period, 0 to 1")
    count = _checked_count(np.ceil(rate_hz * duration_s))
    times_s = (np.arange(count) + jitter * rng.random(count)) / rate_hz if rate_hz else np.empty(0)
    return _microseconds(times_s, 0.0, duration_s)


def gamma(rate_hz: float, duration_s: float, rng: np.random.Generator, *, cv2: float) -> Times:
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


def mmpp(rates_hz: Sequence[float], dwell_s: Sequence[float], duration_s: float, rng: np.random.Generator) -> Times:
    """A Markov-modulated Poisson process: bursts that come and go, each state with a rate of its own.

    Args:
        rates_hz: one for each state.
        dwell_s: how long each state lasts on average; exponential. The next is any of the others, equally likely.
    Stationary: it starts in a state with the share of time that state has, so the mean rate is the states' rates
    weighted by their dwell times, however short the duration.
    Raises:
        ValueError: no states, unequal lengths, a dwell time that is not positive, or too many changes or arrivals.
    """
    if not 0 < len(rates_hz) == len(dwell_s):
        raise ValueError(f"{len(rates_hz)} rates and {len(dwell_s)} dwell times; expected one of each for every state")
    for rate_hz, mean_s in zip(rates_hz, dwell_s, strict=True):
        _check(rate_hz, duration_s)
        if not 0 < mean_s < 1e9:
            raise ValueError(f"a dwell time of {mean_s} s; expected more than 0 and less than 1e9")
    if duration_s / min(dwell_s) > DWELLS_MAX:
        raise ValueError(f"states of {min(dwell_s)} s in {duration_s} s; at most {DWELLS_MAX} changes can be made")
    # Leaving for any of the others equally often, states are entered equally often: time is shared as dwell times are.
    state = int(rng.choice(len(rates_hz), p=np.asarray(dwell_s) / np.sum(dwell_s)))
    phases = []
    reached_s = 0.0
    while reached_s < duration_s:
        end_s = min(duration_s, reached_s + rng.exponential(dwell_s[state])) if len(rates_hz) > 1 else duration_s
        phases.append((reached_s, end_s, rates_hz[state]))
        reached_s = end_s
        if len(rates_hz) > 1:
            state = (state + 1 + int(rng.integers(len(rates_hz) - 1))) % len(rates_hz)
    starts_s, ends_s, phase_hz = np.array(phases).T
    return from_bins(starts_s, ends_s - starts_s, phase_hz * (ends_s - starts_s), rng)


def from_counts(counts: Sequence[float] | npt.NDArray[Any], bin_s: float, rng: np.random.Generator) -> Times:
    """A Poisson process whose rate is what was counted: `counts[i]` arrivals expected in bin i, spread evenly in it.

    The duration is `len(counts) * bin_s`. Counts need not be whole. Raises ValueError for a negative one, or no time.
    """
    expected = np.asarray(counts, np.float64)
    if not 0 < bin_s < 1e9:
        raise ValueError(f"a bin of {bin_s} s; expected more than 0 and less than 1e9")
    if expected.ndim != 1 or not (np.isfinite(expected).all() and (expected >= 0).all()):
        raise ValueError("counts must be one row of finite numbers, 0 or more")
    return from_bins(np.arange(len(expected)) * bin_s, np.full(len(expected), bin_s), expected, rng)


def from_bins(
    starts_s: npt.NDArray[Any], lengths_s: npt.NDArray[Any], expected: npt.NDArray[Any], rng: np.random.Generator
) -> Times:
    """A Poisson process in bins of any length: `expected[i]` arrivals expected in bin i, spread evenly in it.

    Bins begin at `starts_s`, in order, last `lengths_s`, and do not overlap; the last one ends the duration.
    """
    _checked_count(float(expected.sum()))
    counts = rng.poisson(expected)
    _checked_count(int(counts.sum()))
    times_s = np.repeat(starts_s, counts) + np.repeat(lengths_s, counts) * rng.random(int(counts.sum()))
    end_s = float(starts_s[-1] + lengths_s[-1]) if len(starts_s) else 0.0
    return _microseconds(np.sort(times_s), 0.0, end_s)


def scaled(times_us: npt.NDArray[np.int64], factor: float) -> Times:
    """Recorded times stretched `factor`-fold from their first, which becomes 0: at 0.1 everything is ten times as fast.

    Raises ValueError for times out of order or a factor that is not positive.
    """
    _check_sorted(times_us)
    if not 0 < factor < 1e9:
        raise ValueError(f"a time scale of {factor}; expected more than 0 and less than 1e9")
    stretched: Times = np.floor((times_us - times_us[:1]) * factor).astype(np.int64)
    return stretched


def to_rate(times_us: npt.NDArray[np.int64], rate_hz: float, duration_s: float, *, first: int = 0) -> Times:
    """As many recorded arrivals as `rate_hz` gives in `duration_s`, from the `first` on, stretched to fill it exactly.

    The mean rate is exact, whatever the recorded one was; gaps keep their proportions. The arrival after the last one
    taken marks the end. Raises ValueError where the trace is too short: it is never repeated.
    """
    _check(rate_hz, duration_s)
    _check_sorted(times_us)
    count = round(rate_hz * duration_s)
    if count == 0:
        return np.empty(0, np.int64)
    there = len(times_us) - first - 1
    if first < 0 or count > there:
        raise ValueError(
            f"{rate_hz} per second for {duration_s} s needs {count} arrivals and one more to end it; the trace has "
            f"{len(times_us)}, used from {first} on: ask for at most {max(there, 0) / duration_s:.6g} per second, or "
            f"{max(there, 0) / rate_hz:.6g} s"
        )
    used_us = times_us[first : first + count + 1] - times_us[first]
    if used_us[-1] == 0:
        raise ValueError(f"arrivals {first} to {first + count} of the trace are all at one time; nothing to stretch")
    fitted: Times = np.floor(used_us[:-1] * (duration_s * 1e6 / used_us[-1])).astype(np.int64)
    return fitted[fitted < int(duration_s * 1e6)]


def _uniform_in(start_s: float, end_s: float, rate_hz: float, rng: np.random.Generator) -> Times:
    # Given their number, the times of a Poisson process are independent and uniform.
    _check(rate_hz, end_s - start_s)
    count = _checked_count(rng.poisson(rate_hz * (end_s - start_s)))
    return _microseconds(np.sort(rng.uniform(start_s, end_s, count)), start_s, end_s)


def _check_sorted(times_us: npt.NDArray[np.int64]) -> None:
    if times_us.ndim != 1 or times_us.dtype.kind != "i" or (np.diff(times_us) < 0).any():
        raise ValueError("recorded times must be one row of whole microseconds that never fall")


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


def _microseconds(times_s: npt.NDArray[Any], start_s: float, end_s: float) -> Times:
    times_us = np.floor(times_s * 1e6).astype(np.int64)
    return times_us[(times_us >= int(start_s * 1e6)) & (times_us < int(end_s * 1e6))]
