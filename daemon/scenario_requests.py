"""Who asks when and for what: the streams of a scenario, and the requests they become.

Role: the TOML sections on arrivals and bounds, and `stream_requests`: times and bounds of one stream. Flow: rate and
kind of arrivals -> `clients/arrivals.py` or a trace -> times, each with bounds drawn by the shares of its asks.
Does not: make random generators, or know networks, policies and devices.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from ..clients import arrivals
from ..clients.bounds import Bounds, Objective, OnMiss, bounds_fault
from ..profiles.traces import arrivals_of_trace


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of a scenario file; keys that are not known are errors."""


class DataMissing(ValueError):
    """A trace is needed, and nobody said where traces lie."""


class Arrivals(Section, frozen=True, kw_only=True):
    """How the requests of a stream come; its rate is the stream's.

    `kind`: `poisson`; `gamma` with `cv2`; `periodic` with `jitter`, from a phase of its own; `mmpp` with `rates` (times
    the stream's rate) and `dwell_s`; `burst`: `burst` times the rate from `start_s` to `end_s`; `trace`: `file` below
    the data directory, of `trace` kind, brought to the stream's rate.
    """

    kind: Literal["poisson", "gamma", "periodic", "mmpp", "burst", "trace"] = "poisson"
    cv2: float = 1.0
    jitter: float = 0.0
    rates: tuple[float, ...] = ()
    dwell_s: tuple[float, ...] = ()
    burst: float = 1.0
    start_s: float = 0.0
    end_s: float = 0.0
    trace: str = ""
    file: str = ""
    time_scale: float | None = None
    bin_s: float | None = None
    random_start: bool = True

    def fault(self, duration_s: float) -> str | None:
        """What is missing for its kind, or outside the scenario; the rest is checked where times are made."""
        if self.kind == "trace" and not (self.trace and self.file):
            return "arrivals of kind trace need `trace`, the kind of file, and `file`"
        if self.kind == "mmpp" and not self.rates:
            return "arrivals of kind mmpp need `rates` and `dwell_s`"
        if self.kind == "burst" and not 0 <= self.start_s < self.end_s <= duration_s:
            return f"a burst from {self.start_s} to {self.end_s} s; expected 0 <= start_s < end_s <= {duration_s} s"
        return None


class Ask(Section, frozen=True, kw_only=True):
    """Bounds that `share` of a stream's requests carry; shares are relative to one another."""

    share: float = 1.0
    latency_ms: float | None = None
    accuracy: float | None = None
    energy_mj: float | None = None
    objective: Objective | None = None
    on_miss: OnMiss = "answer"

    def bounds(self) -> Bounds:
        """As a tenant would say them."""
        said = {
            name: value
            for name in ("latency_ms", "accuracy", "energy_mj", "objective")
            if (value := getattr(self, name)) is not None
        }
        return Bounds(on_miss=self.on_miss, **said)


class Stream(Section, frozen=True, kw_only=True):
    """Requests of one tenant to one network: `rate` times the case's load per second."""

    tenant: str
    network: str
    rate: float = 1.0
    arrivals: Arrivals = Arrivals()
    asks: tuple[Ask, ...] = (Ask(),)

    def fault(self, duration_s: float) -> str | None:
        """What nobody could ask for, in words; None when all can be asked."""
        if not 0 <= self.rate < math.inf:
            return f"rate is {self.rate}; expected a finite number, 0 or more"
        if not self.asks or not all(0 < ask.share < math.inf for ask in self.asks):
            return "shares of its asks must be above 0, and there must be one"
        unkept = next((said for ask in self.asks if (said := bounds_fault(ask.bounds()))), None)
        return f"asks: {unkept}" if unkept else self.arrivals.fault(duration_s)


def stream_requests(
    stream: Stream, rate_hz: float, duration_s: float, rng: np.random.Generator, data: Path | None
) -> list[tuple[int, Bounds]]:
    """Times in us, rising, and the bounds of each request.

    Raises:
        DataMissing: it plays a trace and `data`, the directory of traces, is None. ValueError, OSError: the trace or
            the figures do not fit.
    """
    times_us = _times(stream.arrivals, rate_hz, duration_s, rng, data)
    kinds = [ask.bounds() for ask in stream.asks]
    shares = np.array([ask.share for ask in stream.asks])
    drawn = rng.choice(len(kinds), size=len(times_us), p=shares / shares.sum())
    return [(when_us, kinds[kind]) for when_us, kind in zip(times_us.tolist(), drawn.tolist(), strict=True)]


def _times(
    said: Arrivals, rate_hz: float, duration_s: float, rng: np.random.Generator, data: Path | None
) -> npt.NDArray[np.int64]:
    if said.kind == "gamma":
        return arrivals.gamma(rate_hz, duration_s, rng, cv2=said.cv2)
    if said.kind == "periodic":
        return _camera(said, rate_hz, duration_s, rng)
    if said.kind == "mmpp":
        return arrivals.mmpp([rate_hz * rate for rate in said.rates], said.dwell_s, duration_s, rng)
    if said.kind == "burst":
        phases = arrivals.burst(
            rate_hz, duration_s, burst_hz=rate_hz * said.burst, start_s=said.start_s, end_s=said.end_s
        )
        return arrivals.poisson_phases(phases, rng)
    if said.kind == "trace":
        if data is None:
            raise DataMissing(f"needs the trace {said.file}; say where traces lie with --data DIR")
        return arrivals_of_trace(
            said.trace,
            data / said.file,
            duration_s=duration_s,
            rng=rng,
            rate_hz=rate_hz,
            time_scale=said.time_scale,
            bin_s=said.bin_s,
            random_start=said.random_start,
        )
    return arrivals.poisson(rate_hz, duration_s, rng)


def _camera(said: Arrivals, rate_hz: float, duration_s: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Cameras are not switched on together, so each begins somewhere within its first period."""
    if rate_hz <= 0:
        return arrivals.periodic(rate_hz, duration_s, rng, jitter=said.jitter)
    phase_us = int(rng.random() * 1e6 / rate_hz)
    times_us = arrivals.periodic(rate_hz, duration_s, rng, jitter=said.jitter) + phase_us
    return times_us[times_us < int(duration_s * 1e6)]
