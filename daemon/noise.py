"""How a device strays from its profile in simulation: jitter, drifts, steps, throttling, stalls; seeded.

Role: `Noise(spec, random).took_us(profiled_us, now_us)` is what a segment of so long takes when it starts now.
Flow: profiled time x jitter (each segment its own) x the device's slowdown at the start (drift x step x throttle),
then every stall that falls within it is added. Drift and stalls are drawn on virtual time, from generators of their
own: with the same seed two policies meet the same weather, whatever they run in it, so their results can be paired.

Does not: keep a clock, or know networks and batches. One `Noise` per device; `now_us` never goes back.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from random import Random

import msgspec

from ..policies.policy_options import expect

US_PER_MS, US_PER_S = 1_000, 1_000_000
# Beyond so many ms without a run, the drift is drawn in one jump: as likely, and a journal may start days after boot.
DRIFT_STEPS_MAX = 100_000


class NoiseSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a device strays from its profile; everything left out is absent.

    `sigma`: log-normal jitter of each segment, median 1.
    `ar1_rho`, `ar1_sigma`: log slowdown of the whole device as an AR(1) per ms of virtual time: correlation from one
        ms to the next (time constant about 1 / (1 - rho) ms) and standard deviation. Per time, not per run, since
        contention and temperature last as long however finely a network is cut into runs. Its median is 1 over time;
        over runs back to back it is exp(-ar1_sigma^2), since more of them fit into fast times.
    `steps`: (at_s, factor), rising: from `at_s` on everything takes `factor` times as long, until the next step.
    `throttle_*`: for the last `throttle_share` of every `throttle_period_s`, `throttle_factor` times as long.
    `stall_*`: `stall_rate_hz` times a second everything stands still for `stall_ms`, and `stall_cluster` more times
        after it, `stall_gap_ms` apart on average. Stalls while the device idles cost nothing.
    """

    sigma: float = 0.0
    ar1_rho: float = 0.0
    ar1_sigma: float = 0.0
    steps: tuple[tuple[float, float], ...] = ()
    throttle_period_s: float = 0.0
    throttle_share: float = 0.5
    throttle_factor: float = 1.0
    stall_rate_hz: float = 0.0
    stall_ms: float = 0.0
    stall_cluster: int = 0
    stall_gap_ms: float = 20.0

    def __post_init__(self) -> None:
        for name in ("sigma", "ar1_sigma", "throttle_period_s", "stall_rate_hz", "stall_ms", "stall_cluster"):
            expect(f"noise: {name}", getattr(self, name), 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in ("throttle_factor", "stall_gap_ms"):
            expect(f"noise: {name}", getattr(self, name), 0 < getattr(self, name) < math.inf, "more than 0")
        expect("noise: ar1_rho", self.ar1_rho, 0 <= self.ar1_rho < 1, "0 or more and below 1")
        expect("noise: throttle_share", self.throttle_share, 0 <= self.throttle_share <= 1, "a share, 0 to 1")
        for at_s, factor in self.steps:
            fits = 0 <= at_s < math.inf and 0 < factor < math.inf
            expect("noise: steps", (at_s, factor), fits, "(at_s, factor above 0)")
        rising = all(earlier[0] < later[0] for earlier, later in pairwise(self.steps))
        expect("noise: steps", self.steps, rising, "times that rise")


# Source: MLPerf Inference, as quoted beside each. The split of `xavier_cpu` into jitter and drift is assumed, as the
# results say nothing of how long a slow spell lasts: mostly drift, so that an inference cut into four segments has
# about the spread of an uncut one, which is what was measured.
PRESETS = {
    # v2.0 closed, NVIDIA, Orin TensorRT, ResNet-50: p90 1.005, p95 1.006, p99 1.010, p99.9 1.021 of a p50 of 0.69 ms.
    "orin_tensorrt": NoiseSpec(sigma=0.0043),
    # v1.1 closed, Krai, AGX Xavier, TFLite on its CPU, medians over 84 MobileNets: p90 1.46, p95 1.70, p99 2.43,
    # p99.9 5.6 of a p50 of 5.0 ms. Over all 664 of its CPU results up to 20 ms, p99.9 lies 20 ms above p50: stalls.
    "xavier_cpu": NoiseSpec(sigma=0.12, ar1_rho=0.98, ar1_sigma=0.334, stall_rate_hz=0.5, stall_ms=20.0),
}


def preset(name: str) -> NoiseSpec:
    """A published device's noise by name. Raises ValueError naming those there are."""
    if name not in PRESETS:
        raise ValueError(f"no noise is named {name[:80]!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


class Noise:
    """One device's noise from one seed: the same spec, seed and calls give the same times."""

    def __init__(self, spec: NoiseSpec, random: Random, *, start_us: int = 0) -> None:
        """`random` seeds this noise's own generators; drift, steps, throttling and stalls count from `start_us`."""
        # Seeded in this order whatever the spec holds, so that adding stalls to one leaves its jitter as it was.
        jitter, self._drifting, self._stalling = (Random(random.getrandbits(64)) for _ in range(3))
        self._gauss = jitter.gauss
        self._start_us = start_us
        self._sigma = spec.sigma
        self._spec = spec
        self._varies = bool(spec.ar1_sigma or spec.steps or spec.throttle_period_s)
        self._weather = self._varies or bool(spec.stall_rate_hz)

        self._drift_ms = 0
        self._drift = self._drifting.gauss(0.0, spec.ar1_sigma)
        self._drift_factor = math.exp(self._drift)
        self._innovation = spec.ar1_sigma * math.sqrt(1 - spec.ar1_rho**2)

        self._step_us = [at_s * US_PER_S for at_s, _ in spec.steps]
        self._step_factor = [1.0, *(factor for _, factor in spec.steps)]
        self._period_us = spec.throttle_period_s * US_PER_S
        self._free_us = self._period_us * (1 - spec.throttle_share)

        self._stall_us = spec.stall_ms * US_PER_MS
        self._stalls_left = 0
        self._stall_start_us = self._stall_end_us = 0.0
        self._next_stall()

    def took_us(self, profiled_us: float, now_us: int) -> int:
        """What a segment profiled at `profiled_us` takes when it starts at `now_us`, at least 1; us.

        Its slowdown is the device's at its start: segments are short beside what changes it.
        Cost: 0.6 us with jitter alone, 1.5 us with everything (CPython 3.11, one x86 core).
        """
        us = profiled_us * math.exp(self._gauss(0.0, self._sigma)) if self._sigma else profiled_us
        if self._weather:
            since_us = now_us - self._start_us
            if self._varies:
                us *= self._slowdown(since_us)
            if self._stall_start_us < since_us + us:
                us = self._stalled(since_us, us)
        return int(us + 0.5) or 1

    def _slowdown(self, since_us: int) -> float:
        factor = 1.0
        if self._innovation:
            behind = since_us // US_PER_MS - self._drift_ms
            if behind > 0:
                self._drift_on(behind)
            factor = self._drift_factor
        if self._step_us:
            factor *= self._step_factor[bisect_right(self._step_us, since_us)]
        if self._period_us and since_us % self._period_us >= self._free_us:
            factor *= self._spec.throttle_factor
        return factor

    def _drift_on(self, steps: int) -> None:
        """Every ms is drawn, also those nobody ran in: the drift is the same whatever runs."""
        self._drift_ms += steps
        rho, innovation = self._spec.ar1_rho, self._innovation
        if steps > DRIFT_STEPS_MAX:
            rho **= steps
            innovation = self._spec.ar1_sigma * math.sqrt(1 - rho**2)
            steps = 1
        drift, gauss = self._drift, self._drifting.gauss
        for _ in range(steps):
            drift = rho * drift + gauss(0.0, innovation)
        self._drift = drift
        self._drift_factor = math.exp(drift)

    def _stalled(self, since_us: int, us: float) -> float:
        """`us` and every stall within it; one that began before counts from now on."""
        end_us = since_us + us
        while self._stall_start_us < end_us:
            if self._stall_end_us > since_us:
                end_us += self._stall_end_us - max(self._stall_start_us, since_us)
            self._next_stall()
        return end_us - since_us

    def _next_stall(self) -> None:
        """Stalls follow one another and never overlap: the time to the next counts from the end of the last."""
        spec = self._spec
        if self._stalls_left:
            self._stalls_left -= 1
            gap_us = self._stalling.expovariate(1 / (spec.stall_gap_ms * US_PER_MS))
        else:
            self._stalls_left = spec.stall_cluster
            gap_us = self._stalling.expovariate(spec.stall_rate_hz / US_PER_S) if spec.stall_rate_hz else math.inf
        self._stall_start_us = self._stall_end_us + gap_us
        self._stall_end_us = self._stall_start_us + self._stall_us
