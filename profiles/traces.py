"""Recorded load as arrival times: one door for scenarios to every kind of trace file.

Role: `arrivals_of_trace` scales a trace to a rate and a duration. Flow: path -> a reader of `trace_files` -> recorded
timestamps, stretched; or rates per stretch of time, clipped to the part used, scaled, and drawn from -> int64 us,
sorted, [0, duration).

Does not: repeat a trace that is too short, or make random generators.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from ..clients.arrivals import ARRIVALS_MAX, from_bins, scaled, to_rate
from .trace_files import TraceError, Window, read_counts, read_servegen, read_timestamps

Times: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Kind = Literal["azure", "servegen", "slopower", "nab"]


def arrivals_of_trace(
    kind: str,
    path: Path,
    *,
    duration_s: float,
    rng: np.random.Generator,
    rate_hz: float | None = None,
    time_scale: float | None = None,
    bin_s: float | None = None,
    random_start: bool = False,
) -> Times:
    """Arrivals as in a recorded trace, at a rate and for a duration of one's own.

    Args:
        kind: "azure" (timestamps), "servegen" (a client's file, or a directory of them, superposed), "slopower" or
            "nab" (counts).
        rate_hz: mean rate over the duration. Alone, recorded timestamps are stretched to it, as many as it takes; of
            the other kinds, the whole trace is squeezed into the duration.
        time_scale: trace time is multiplied by it: at 0.01 an hour passes in 36 s, at 100 times the rate. With
            `rate_hz` too (not for timestamps), it says how fast the load changes and `rate_hz` how high it is.
        bin_s: how long a count lasts, where the file does not say: SLO-Power's are 60 for Azure, 3600 for Wikipedia.
        random_start: begin anywhere in the trace that leaves enough, drawn from `rng`, not at its start.
    Returns:
        int64 us, sorted, within [0, duration). Counts become a non-homogeneous Poisson process; each window of a
        ServeGen client a stationary renewal process with the fitted shape, at the window's rate.
    Raises:
        TraceError: the file is not of that kind. ValueError: the trace is too short, or the arguments contradict it.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"no traces are of kind {kind[:80]!r}; there are: {', '.join(get_args(Kind))}")
    if rate_hz is None and time_scale is None:
        raise ValueError("neither rate_hz nor time_scale is given; a trace needs one, to know how fast it is played")
    for name, value in (("duration_s", duration_s), ("rate_hz", rate_hz), ("time_scale", time_scale), ("bin_s", bin_s)):
        if value is not None and not 0 < value < 1e9:
            raise ValueError(f"{name} is {value}; expected more than 0 and less than 1e9")
    if bin_s is not None and kind != "slopower":
        raise ValueError(
            f"bin_s is {bin_s}, but traces of kind {kind} say themselves how long theirs last; leave it out"
        )
    if kind == "azure":
        return _recorded(path, duration_s, rng, rate_hz=rate_hz, time_scale=time_scale, random_start=random_start)
    if kind == "servegen":
        loads = _servegen_loads(path)
    else:
        loads = [_counted_load(path, bin_s, timed=time_scale is not None)]
    span_s = max(float(load.ends_s[-1]) for load in loads)
    used_s = span_s if time_scale is None else duration_s / time_scale
    # Rounding may take a trace that fits exactly a last digit beyond its end.
    if used_s > span_s * (1 + 1e-9):
        raise ValueError(_too_short(path, span_s * (time_scale or 1.0), duration_s))
    start_s = float(rng.uniform(0.0, max(span_s - used_s, 0.0))) if random_start else 0.0
    pieces = [_piece(load, start_s, used_s, duration_s) for load in loads]
    expected = sum(float(piece.expected.sum()) for piece in pieces)
    if expected == 0:
        raise ValueError(
            f"{path} has no arrivals in the {used_s:.6g} s used, from {start_s:.6g} s on; use another part"
        )
    factor = rate_hz * duration_s / expected if rate_hz else 1.0
    if expected * factor > ARRIVALS_MAX:
        raise ValueError(f"{expected * factor:.0f} arrivals; at most {ARRIVALS_MAX} can be made: lower rate_hz")
    times_us = np.sort(np.concatenate([_drawn(piece, factor, rng) for piece in pieces]))
    return times_us[times_us < int(duration_s * 1e6)]


class _Load(NamedTuple):
    """One stream of a trace: stretches of constant rate, in trace seconds; `windows` where gaps were fitted to each."""

    starts_s: Floats
    ends_s: Floats
    rates_hz: Floats
    windows: tuple[Window, ...] = ()


class _Piece(NamedTuple):
    """The part of a load that is used, in seconds of the arrivals asked for, with the arrivals expected in each."""

    starts_s: Floats
    lengths_s: Floats
    expected: Floats
    windows: list[Window]


def _recorded(
    path: Path,
    duration_s: float,
    rng: np.random.Generator,
    *,
    rate_hz: float | None,
    time_scale: float | None,
    random_start: bool,
) -> Times:
    times_us = read_timestamps(path)
    if rate_hz is not None:
        if time_scale is not None:
            raise ValueError(f"rate_hz is {rate_hz} and time_scale {time_scale}; recorded timestamps take only one")
        spare = len(times_us) - 1 - round(rate_hz * duration_s)
        first = int(rng.integers(spare + 1)) if random_start and spare > 0 else 0
        return to_rate(times_us, rate_hz, duration_s, first=first)
    played_us, duration_us = scaled(times_us, time_scale or 1.0), int(duration_s * 1e6)
    if played_us[-1] < duration_us:
        raise ValueError(_too_short(path, played_us[-1] / 1e6, duration_s))
    start_us = int(rng.integers(played_us[-1] - duration_us + 1)) if random_start else 0
    return played_us[(played_us >= start_us) & (played_us < start_us + duration_us)] - start_us


def _servegen_loads(path: Path) -> list[_Load]:
    paths = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if not paths:
        raise TraceError(f"{path} is a directory without .csv files; expected one file for each client")
    loads = []
    for client in paths:
        windows = read_servegen(client)
        starts_s = np.array([window.start_s for window in windows])
        ends_s = starts_s + np.array([window.length_s for window in windows])
        loads.append(_Load(starts_s, ends_s, np.array([window.rate_hz for window in windows]), windows))
    return loads


def _counted_load(path: Path, bin_s: float | None, *, timed: bool) -> _Load:
    read = read_counts(path)
    length_s = read.bin_s or bin_s
    if length_s is None and timed:
        raise ValueError(
            f"{path} does not say how long a count lasts, and time_scale needs it; give bin_s: 60 for SLO-Power's "
            "Azure counts, 3600 for its Wikipedia counts"
        )
    # Without a time scale the whole trace fills the duration, however long its bins were.
    length_s = length_s or 1.0
    edges_s = np.arange(len(read.counts) + 1, dtype=np.float64) * np.float64(length_s)
    return _Load(edges_s[:-1], edges_s[1:], np.array(read.counts) / length_s)


def _too_short(path: Path, played_s: float, duration_s: float) -> str:
    return (
        f"{path} lasts {played_s:.6g} s at this time_scale, and {duration_s:.6g} s are asked for; traces are never "
        f"repeated: ask for less, or raise time_scale {duration_s / max(played_s, 1e-9):.3g}-fold"
    )


def _piece(load: _Load, start_s: float, used_s: float, duration_s: float) -> _Piece:
    low_s = np.maximum(load.starts_s, start_s)
    lengths_s = np.minimum(load.ends_s, start_s + used_s) - low_s
    kept = np.flatnonzero((lengths_s > 0) & (load.rates_hz > 0))
    stretch = duration_s / used_s
    return _Piece(
        starts_s=(low_s[kept] - start_s) * stretch,
        lengths_s=lengths_s[kept] * stretch,
        expected=lengths_s[kept] * load.rates_hz[kept],
        windows=[load.windows[index] for index in kept] if load.windows else [],
    )


def _drawn(piece: _Piece, factor: float, rng: np.random.Generator) -> Times:
    """The arrivals of one stream; bins without fitted gaps are Poisson."""
    if not piece.windows:
        return from_bins(piece.starts_s, piece.lengths_s, piece.expected * factor, rng)
    drawn_s = [
        start_s + length_s / (expected * factor) * _renewal(window, expected * factor, rng)
        for window, start_s, length_s, expected in zip(
            piece.windows, piece.starts_s, piece.lengths_s, piece.expected, strict=True
        )
    ]
    return np.floor(np.concatenate(drawn_s) * 1e6).astype(np.int64)


def _renewal(window: Window, expected: float, rng: np.random.Generator) -> Floats:
    """Arrivals in [0, `expected`) with gaps of mean 1 and the window's shape, stationary from the start.

    The fitted scale is not used: it is the mean gap between the arrivals seen, which leaves out the silence around
    them, so a burst of ten in ten minutes would last ten minutes. Stationary: the first gap is the rest of one that
    was under way, drawn in proportion to its length; starting with an arrival would add (CV^2 - 1) / 2 to each window.
    Source: Cox, Renewal Theory, 1962, on equilibrium renewal processes.
    """
    shape = window.shape
    if window.family == "Gamma":
        under_way = rng.gamma(shape + 1) / shape
    else:
        mean = math.gamma(1 + 1 / shape)
        under_way = rng.gamma(1 + 1 / shape) ** (1 / shape) / mean
    parts = [np.array([under_way * rng.random()])]
    while parts[-1][-1] < expected:
        count = max(16, int((expected - parts[-1][-1]) * 1.1))
        gaps = rng.gamma(shape, 1 / shape, count) if window.family == "Gamma" else rng.weibull(shape, count) / mean
        parts.append(parts[-1][-1] + np.cumsum(gaps))
    times = np.concatenate(parts)
    return times[times < expected]
