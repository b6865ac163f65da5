"""How often predicted run times are broken, and how much is reserved for that, by correction and by kind of noise.

Role: `delen bench correction`. Flow: per noise and seed one trace of runs (`Noise`, virtual time), the same for all
corrections; each predicts a run, is scored, and then learns from it. Does not: run anything, or schedule: what misses
and reserved time mean for requests, the simulator says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from random import Random

import msgspec

from ..policies.correction import MISS_TARGET, Corrects
from ..policies.correction_rivals import CORRECTIONS, Static, correction
from .noise import US_PER_MS, Noise, NoiseSpec, preset

# A segment of 5 ms, then 5 ms in which the device idles or runs something else.
RUN_US, PAUSE_US = 5 * US_PER_MS, 5 * US_PER_MS
LEARNING, SCORED = 300, 4_000
# Then everything takes STEP_FACTOR times as long for STEP_RUNS; the first ones are scored, and those after it.
STEP_FACTOR, STEP_SCORED, STEP_RUNS = 1.3, 50, 200
P95_SIGMAS = 1.645
# What no correction can know: the one constant that exactly as many runs of this trace would have kept.
HINDSIGHT = "best-constant"

# Power modes and throttling as ALGORITHMS asks, a new level every four seconds.
LEVELS = (1.0, 1.3, 1.0, 1.1, 1.5, 1.2, 1.4, 1.0, 1.5, 1.1)
NOISES: Mapping[str, NoiseSpec] = {
    "jitter 1 %": NoiseSpec(sigma=0.01),
    "jitter 5 %": NoiseSpec(sigma=0.05),
    "jitter 15 %": NoiseSpec(sigma=0.15),
    "drift over 0.1 s": NoiseSpec(sigma=0.03, ar1_rho=0.99, ar1_sigma=0.1),
    "drift over 1 s": NoiseSpec(sigma=0.03, ar1_rho=0.999, ar1_sigma=0.15),
    "steps": NoiseSpec(sigma=0.05, steps=tuple((4.0 * at, factor) for at, factor in enumerate(LEVELS))),
    "throttling": NoiseSpec(sigma=0.03, throttle_period_s=10.0, throttle_share=0.3, throttle_factor=1.4),
    "rare stalls": NoiseSpec(sigma=0.05, stall_rate_hz=0.5, stall_ms=10.0),
    "clustered stalls": NoiseSpec(sigma=0.05, stall_rate_hz=0.5, stall_ms=10.0, stall_cluster=7, stall_gap_ms=10.0),
    "heavy tail": NoiseSpec(sigma=0.376),
    "orin_tensorrt": preset("orin_tensorrt"),
    "xavier_cpu": preset("xavier_cpu"),
}


class CorrectionScore(msgspec.Struct, frozen=True):
    """One correction under one noise, means over seeds.

    `missed_pct`: runs that took longer than predicted; `missed_pct_worst`: in the seed with most of them.
    `over_pct`: time reserved beyond what runs took. `step_missed`: misses among the first STEP_SCORED runs after
    everything takes STEP_FACTOR times as long; `back_over_pct`: time reserved in excess when it no longer does.
    """

    noise: str
    correction: str
    missed_pct: float
    missed_pct_worst: float
    over_pct: float
    step_missed: float
    back_over_pct: float


class _Trial(msgspec.Struct, frozen=True):
    missed_pct: float
    over_pct: float
    step_missed: int
    back_over_pct: float


def bench_corrections(seeds: int) -> list[CorrectionScore]:
    """Every correction under every noise, on `seeds` traces each. Cost: 0.4 s per seed."""
    scores = []
    for noise, spec in NOISES.items():
        trials: dict[str, list[_Trial]] = {name: [] for name in (*CORRECTIONS, HINDSIGHT)}
        for seed in range(seeds):
            ratios = trace(spec, seed)
            for name, candidate in _candidates(spec, ratios):
                trials[name].append(_trial(candidate, ratios))
        scores += [_score(noise, name, of_seeds) for name, of_seeds in trials.items()]
    return scores


def trace(spec: NoiseSpec, seed: int) -> list[float]:
    """Observed over profiled time of successive runs."""
    noise = Noise(spec, Random(seed))
    ratios, now_us = [], 0
    for _ in range(LEARNING + SCORED + STEP_RUNS + STEP_SCORED):
        took_us = noise.took_us(RUN_US, now_us)
        now_us += took_us + PAUSE_US
        ratios.append(took_us / RUN_US)
    return ratios


def _candidates(spec: NoiseSpec, ratios: Sequence[float]) -> Iterator[tuple[str, Corrects]]:
    """A profile is measured under the same jitter and drift, before any step or stall."""
    p95_over_p50 = math.exp(P95_SIGMAS * math.hypot(spec.sigma, spec.ar1_sigma))
    for name in CORRECTIONS:
        yield name, correction(name, p95_over_p50=p95_over_p50)
    scored = sorted(ratios[LEARNING : LEARNING + SCORED])
    yield HINDSIGHT, Static(scored[int((1 - MISS_TARGET) * SCORED) - 1])


def _trial(candidate: Corrects, ratios: Sequence[float]) -> _Trial:
    step, back = LEARNING + SCORED, LEARNING + SCORED + STEP_RUNS
    _run(candidate, ratios[:LEARNING])
    missed, over_pct = _run(candidate, ratios[LEARNING:step])
    slowed = [STEP_FACTOR * ratio for ratio in ratios[step:back]]
    step_missed, _ = _run(candidate, slowed[:STEP_SCORED])
    _run(candidate, slowed[STEP_SCORED:])
    _, back_over_pct = _run(candidate, ratios[back:])
    return _Trial(100 * missed / SCORED, over_pct, step_missed, back_over_pct)


def _run(candidate: Corrects, ratios: Sequence[float]) -> tuple[int, float]:
    """Misses, and time reserved beyond what was taken, %."""
    missed, reserved = 0, 0.0
    for ratio in ratios:
        factor = candidate.factor
        missed += ratio > factor
        reserved += factor
        candidate.observe(RUN_US, RUN_US * ratio)
    return missed, 100 * (reserved / sum(ratios) - 1)


def _score(noise: str, name: str, trials: Sequence[_Trial]) -> CorrectionScore:
    count = len(trials)
    return CorrectionScore(
        noise=noise,
        correction=name,
        missed_pct=sum(trial.missed_pct for trial in trials) / count,
        missed_pct_worst=max(trial.missed_pct for trial in trials),
        over_pct=sum(trial.over_pct for trial in trials) / count,
        step_missed=sum(trial.step_missed for trial in trials) / count,
        back_over_pct=sum(trial.back_over_pct for trial in trials) / count,
    )
