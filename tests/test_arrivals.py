"""Arrival times: the same seed gives the same times, and rate, spread and bursts are what was asked."""

from __future__ import annotations

import numpy as np
import pytest

from delen.clients.arrivals import Phase, burst, gamma, periodic, poisson, poisson_phases


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_the_same_seed_gives_the_same_times() -> None:
    np.testing.assert_array_equal(poisson(100, 5, rng()), poisson(100, 5, rng()))
    np.testing.assert_array_equal(gamma(100, 5, rng(), cv2=4), gamma(100, 5, rng(), cv2=4))


@pytest.mark.parametrize(
    "times_us",
    [
        poisson(1000, 3, rng()),
        periodic(1000, 3, rng(), jitter=1.0),
        gamma(1000, 3, rng(), cv2=9),
        poisson_phases(burst(1000, 3, burst_hz=1000, start_s=1, end_s=2), rng()),
    ],
    ids=["poisson", "periodic", "gamma", "phases"],
)
def test_times_are_sorted_whole_microseconds_within_the_duration_at_the_rate(times_us: np.ndarray) -> None:
    assert times_us.dtype == np.int64
    assert (np.diff(times_us) >= 0).all()
    assert times_us[0] >= 0
    assert times_us[-1] < 3_000_000
    assert len(times_us) == pytest.approx(3000, rel=0.15)


def test_poisson_gaps_spread_like_exponential_ones() -> None:
    gaps = np.diff(poisson(1000, 20, rng()))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("cv2", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_the_coefficient_asked(cv2: float) -> None:
    gaps = np.diff(gamma(1000, 30, rng(), cv2=cv2))
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.1)


def test_a_burst_has_its_rate_and_only_then() -> None:
    times_us = poisson_phases(burst(100, 30, burst_hz=1000, start_s=10, end_s=20), rng())
    before, during, after = (np.count_nonzero(times_us // 10_000_000 == part) for part in range(3))
    assert during == pytest.approx(10_000, rel=0.05)
    assert before == pytest.approx(1000, rel=0.15)
    assert after == pytest.approx(1000, rel=0.15)


def test_a_camera_without_jitter_is_exactly_periodic() -> None:
    np.testing.assert_array_equal(periodic(10, 0.5, rng()), [0, 100_000, 200_000, 300_000, 400_000])


def test_jitter_never_makes_a_frame_early_nor_overtake() -> None:
    late_us = periodic(10, 100, rng(), jitter=0.5)[:900] - np.arange(900) * 100_000
    assert late_us.min() >= 0
    assert late_us.max() < 50_000


@pytest.mark.parametrize("make", [poisson, periodic, lambda *a: gamma(*a, cv2=2.0)])
def test_no_rate_gives_no_arrivals(make: object) -> None:
    assert callable(make)
    assert len(make(0, 10, rng())) == 0


def test_phases_may_leave_gaps_but_not_overlap() -> None:
    times_us = poisson_phases([Phase(0, 1, 100), Phase(2, 3, 100)], rng())
    assert not ((times_us >= 1_000_000) & (times_us < 2_000_000)).any()
    assert len(poisson_phases([], rng())) == 0
    with pytest.raises(ValueError, match="before the one before it ends"):
        poisson_phases([Phase(0, 2, 1), Phase(1, 3, 1)], rng())


@pytest.mark.parametrize(
    ("rate_hz", "duration_s"), [(-1, 1), (float("nan"), 1), (1, 0), (1, float("inf")), (1e8, 1e8), (1e10, 1)]
)
def test_arguments_that_cannot_be_are_refused(rate_hz: float, duration_s: float) -> None:
    for make in (poisson, periodic, lambda *a: gamma(*a, cv2=2.0)):
        with pytest.raises(ValueError, match=r"expected|at most"):
            make(rate_hz, duration_s, rng())


def test_a_spread_or_jitter_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="cv2"):
        gamma(1, 1, rng(), cv2=0)
    with pytest.raises(ValueError, match="jitter"):
        periodic(1, 1, rng(), jitter=1.5)
