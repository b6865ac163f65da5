"""Noise: the same seed gives the same times, each part does what its name says, presets have the published spread."""

from __future__ import annotations

import math
from random import Random

import msgspec
import numpy as np
import pytest

from delen.daemon.noise import PRESETS, Noise, NoiseSpec, preset

EVERYTHING = NoiseSpec(
    sigma=0.1,
    ar1_rho=0.99,
    ar1_sigma=0.2,
    steps=((1.0, 1.3), (2.0, 1.0)),
    throttle_period_s=0.5,
    throttle_factor=1.4,
    stall_rate_hz=5.0,
    stall_ms=10.0,
    stall_cluster=2,
)


def back_to_back(noise: Noise, profiled_us: float, count: int) -> list[int]:
    """`count` segments, each started when the one before ended."""
    now_us, times_us = 0, []
    for _ in range(count):
        took_us = noise.took_us(profiled_us, now_us)
        times_us.append(took_us)
        now_us += took_us
    return times_us


def test_without_noise_a_segment_takes_what_its_profile_says() -> None:
    noise = Noise(NoiseSpec(), Random(1))
    assert [noise.took_us(us, now) for us, now in ((1000.0, 0), (2.5, 10), (2.4, 20), (0.0, 30))] == [1000, 3, 2, 1]


def test_the_same_seed_gives_the_same_times() -> None:
    first = back_to_back(Noise(EVERYTHING, Random(5)), 700.0, 2000)
    assert first == back_to_back(Noise(EVERYTHING, Random(5)), 700.0, 2000)
    assert first != back_to_back(Noise(EVERYTHING, Random(6)), 700.0, 2000)


def test_jitter_is_log_normal_about_the_profile() -> None:
    logs = np.log(back_to_back(Noise(NoiseSpec(sigma=0.2), Random(2)), 1e6, 5000)) - math.log(1e6)
    assert np.median(logs) == pytest.approx(0, abs=0.01)
    assert logs.std() == pytest.approx(0.2, rel=0.05)
    # Each segment is drawn by itself.
    assert np.corrcoef(logs[:-1], logs[1:])[0, 1] == pytest.approx(0, abs=0.05)


def test_drift_has_its_deviation_and_its_correlation() -> None:
    noise = Noise(NoiseSpec(ar1_rho=0.9, ar1_sigma=0.3), Random(3))
    logs = np.log([noise.took_us(1e6, now_us) for now_us in range(0, 20_000_000, 1000)]) - math.log(1e6)
    assert logs.std() == pytest.approx(0.3, rel=0.05)
    assert np.corrcoef(logs[:-1], logs[1:])[0, 1] == pytest.approx(0.9, abs=0.02)
    assert np.corrcoef(logs[:-10], logs[10:])[0, 1] == pytest.approx(0.9**10, abs=0.08)


def test_the_weather_is_the_same_whatever_runs_in_it() -> None:
    spec = NoiseSpec(ar1_rho=0.99, ar1_sigma=0.2, stall_rate_hz=2.0, stall_ms=30.0)
    busy, idle = Noise(spec, Random(4)), Noise(spec, Random(4))
    for now_us in range(0, 10_000_000, 2000):
        busy.took_us(1.0, now_us)
    assert busy.took_us(1000.0, 10_000_000) == idle.took_us(1000.0, 10_000_000)


def test_adding_stalls_leaves_the_drift_as_it_was() -> None:
    spec = NoiseSpec(ar1_rho=0.99, ar1_sigma=0.2)
    stalling = msgspec.structs.replace(spec, stall_rate_hz=0.5, stall_ms=30.0)
    pair = Noise(spec, Random(4)), Noise(stalling, Random(4))
    times = [[noise.took_us(100.0, now_us) for now_us in range(0, 5_000_000, 1000)] for noise in pair]
    same = sum(calm == stormy for calm, stormy in zip(*times, strict=True))
    assert 4800 < same < 5000


def test_a_drift_of_days_ago_costs_one_draw() -> None:
    noise = Noise(NoiseSpec(ar1_rho=0.99, ar1_sigma=0.2), Random(1))
    assert 300 < noise.took_us(1000.0, 30 * 86_400 * 1_000_000) < 3000


def test_a_step_holds_until_the_next() -> None:
    noise = Noise(NoiseSpec(steps=((1.0, 1.5), (2.0, 0.8))), Random(1), start_us=500)
    assert [noise.took_us(1000.0, 500 + now_us) for now_us in (0, 999_999, 1_000_000, 1_999_999, 2_000_000)] == [
        1000,
        1000,
        1500,
        1500,
        800,
    ]


def test_throttling_slows_the_last_share_of_every_period() -> None:
    noise = Noise(NoiseSpec(throttle_period_s=1.0, throttle_share=0.25, throttle_factor=2.0), Random(1))
    times = [noise.took_us(100.0, now_us) for now_us in range(0, 3_000_000, 10_000)]
    assert times == ([100] * 75 + [200] * 25) * 3


def test_a_stall_is_added_to_the_segment_it_falls_in_and_to_no_other() -> None:
    times = back_to_back(Noise(NoiseSpec(stall_rate_hz=2.0, stall_ms=50.0), Random(8)), 1000.0, 100_000)
    stalled = [us for us in times if us > 1000]
    assert len(stalled) == pytest.approx(200, rel=0.2)
    assert set(stalled) <= {51_000, 101_000}


def test_a_segment_that_starts_within_a_stall_waits_for_its_end() -> None:
    spec = NoiseSpec(stall_rate_hz=2.0, stall_ms=50.0)
    # A busy device says where the first stall is: within a ms of this segment's start.
    first = next(index for index, us in enumerate(back_to_back(Noise(spec, Random(8)), 1000.0, 2000)) if us > 1000)
    assert 25_000 <= Noise(spec, Random(8)).took_us(1000.0, 1000 * first + 26_000) <= 26_000
    assert Noise(spec, Random(8)).took_us(1000.0, 1000 * first + 52_000) == 1000


def test_stalls_come_in_clusters() -> None:
    spec = NoiseSpec(stall_rate_hz=0.5, stall_ms=10.0, stall_cluster=3, stall_gap_ms=20.0)
    times = np.array(back_to_back(Noise(spec, Random(9)), 1000.0, 200_000))
    starts_s = (np.cumsum(times) - times)[times > 1000] / 1e6
    gaps_s = np.diff(starts_s)
    # Four stalls to a cluster: of four gaps three are short.
    assert np.mean(gaps_s < 0.15) == pytest.approx(0.75, abs=0.06)
    assert len(starts_s) / (times.sum() / 1e6) == pytest.approx(0.5 * 4, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "p50_us", "parts", "p99", "p999"),
    [
        ("orin_tensorrt", 690.0, 1, (1.008, 1.012), (1.01, 1.03)),
        # A log-normal of this p99 alone would have a p99.9 of 3.2.
        ("xavier_cpu", 5000.0, 1, (2.2, 2.6), (4.5, 6.5)),
        ("xavier_cpu", 5000.0, 4, (2.1, 2.6), (4.5, 6.5)),
    ],
)
def test_presets_have_the_published_spread(
    name: str, p50_us: float, parts: int, p99: tuple[float, float], p999: tuple[float, float]
) -> None:
    times = np.array(back_to_back(Noise(preset(name), Random(3)), p50_us / parts, 100_000 * parts))
    middle, high, highest = np.percentile(times.reshape(-1, parts).sum(axis=1), [50, 99, 99.9])
    assert p99[0] < high / middle < p99[1]
    assert p999[0] < highest / middle < p999[1]
    # Back to back, more runs fall into fast times.
    assert 0.88 * p50_us < middle < 1.01 * p50_us


def test_a_preset_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="orin_tensorrt, xavier_cpu"):
        preset("pi")
    assert all(isinstance(spec, NoiseSpec) for spec in PRESETS.values())


def test_a_spec_reads_from_toml_and_refuses_what_it_does_not_know() -> None:
    text = "sigma = 0.05\nsteps = [[10.0, 1.3], [20, 1]]\nstall_rate_hz = 0.2\nstall_ms = 20\n"
    spec = msgspec.toml.decode(text, type=NoiseSpec)
    assert spec.steps == ((10.0, 1.3), (20.0, 1.0))
    with pytest.raises(msgspec.ValidationError, match="unknown field `jitter`"):
        msgspec.convert({"jitter": 1}, NoiseSpec)


@pytest.mark.parametrize(
    "fields",
    [
        {"sigma": -1},
        {"sigma": math.nan},
        {"ar1_rho": 1.0},
        {"steps": [[2, 1], [1, 1]]},
        {"steps": [[1, 0]]},
        {"throttle_share": 1.5},
        {"throttle_factor": 0},
        {"stall_gap_ms": 0},
        {"stall_cluster": -1},
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused_by_name(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"noise: {next(iter(fields))} is .*expected"):
        msgspec.convert(fields, NoiseSpec)


def test_a_segment_takes_at_least_a_microsecond() -> None:
    assert min(back_to_back(Noise(EVERYTHING, Random(1)), 0.2, 5000)) == 1
