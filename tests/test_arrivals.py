"""Arrival times: the same seed gives the same times, and rate, spread and bursts are what was asked."""

from __future__ import annotations

import numpy as np
import pytest

from delen.clients.arrivals import (
    Phase,
    burst,
    from_counts,
    gamma,
    mmpp,
    periodic,
    poisson,
    poisson_phases,
    scaled,
    to_rate,
)


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


def test_a_modulated_process_spends_its_dwell_times_at_its_rates() -> None:
    times_us = mmpp([100, 1000], [0.3, 0.1], 400, rng())
    # Three quarters of the time at 100 per second, one at 1,000: 325 on average.
    assert len(times_us) / 400 == pytest.approx(325, rel=0.05)
    counts = np.bincount(times_us // 10_000, minlength=40_000)
    # A bin of 10 ms within a burst expects 10 arrivals, outside 1; Poisson alone would have a dispersion of 1.
    assert counts.var() / counts.mean() > 4


def test_a_modulated_process_starts_as_it_goes_on() -> None:
    first = [np.count_nonzero(mmpp([0, 1000], [1.0, 3.0], 0.1, np.random.default_rng(seed))) for seed in range(400)]
    assert np.mean(first) == pytest.approx(75, rel=0.1)


def test_states_are_all_visited_alike() -> None:
    times_us = mmpp([100, 1000, 10_000], [1.0, 1.0, 1.0], 200, rng())
    rates_hz = np.bincount(times_us // 100_000, minlength=2000) * 10
    for rate_hz in (100, 1000, 10_000):
        share = np.count_nonzero((rates_hz > rate_hz / 3) & (rates_hz < rate_hz * 3)) / 2000
        assert share == pytest.approx(1 / 3, abs=0.1)


def test_one_state_is_poisson() -> None:
    assert len(mmpp([1000], [0.001], 10, rng())) == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize(
    ("rates_hz", "dwell_s"), [([], []), ([1, 2], [1]), ([1, -1], [1, 1]), ([1, 2], [1, 0]), ([1, 2], [1e-9, 1])]
)
def test_states_that_cannot_be_are_refused(rates_hz: list[float], dwell_s: list[float]) -> None:
    with pytest.raises(ValueError, match=r"expected|at most"):
        mmpp(rates_hz, dwell_s, 10, rng())


def test_counts_become_arrivals_in_their_bins() -> None:
    times_us = from_counts([1000, 0, 2000, 0.5], 2.0, rng())
    counts = np.bincount(times_us // 2_000_000, minlength=4)
    assert counts[0] == pytest.approx(1000, rel=0.15)
    assert counts[1] == 0
    assert counts[2] == pytest.approx(2000, rel=0.1)
    assert (np.diff(times_us) >= 0).all()
    assert times_us.dtype == np.int64
    halves = np.bincount(times_us[times_us < 2_000_000] // 1_000_000)
    assert halves[0] == pytest.approx(halves[1], rel=0.2)
    np.testing.assert_array_equal(times_us, from_counts([1000, 0, 2000, 0.5], 2.0, rng()))


def test_no_counts_give_no_arrivals() -> None:
    assert len(from_counts([], 1.0, rng())) == 0
    assert len(from_counts([0, 0], 1.0, rng())) == 0


@pytest.mark.parametrize(("counts", "bin_s"), [([-1], 1), ([float("nan")], 1), ([1], 0), ([1e12], 1)])
def test_counts_that_cannot_be_are_refused(counts: list[float], bin_s: float) -> None:
    with pytest.raises(ValueError, match=r"expected|at most|0 or more"):
        from_counts(counts, bin_s, rng())


def test_recorded_times_are_stretched_from_their_first() -> None:
    recorded = np.array([500, 600, 900, 900])
    np.testing.assert_array_equal(scaled(recorded, 10), [0, 1000, 4000, 4000])
    np.testing.assert_array_equal(scaled(recorded, 0.1), [0, 10, 40, 40])
    assert len(scaled(np.empty(0, np.int64), 2)) == 0
    with pytest.raises(ValueError, match="time scale"):
        scaled(recorded, 0)
    with pytest.raises(ValueError, match="never fall"):
        scaled(recorded[::-1], 1)


def test_a_recorded_trace_takes_the_rate_and_keeps_its_proportions() -> None:
    recorded = np.array([0, 10, 11, 40, 100, 1000])
    # Four arrivals end where the fifth begins: 100 becomes 2 s.
    np.testing.assert_array_equal(to_rate(recorded, 2, 2), [0, 200_000, 220_000, 800_000])
    np.testing.assert_array_equal(to_rate(recorded, 1, 2, first=2), [0, 2_000_000 * 29 // 89])
    assert len(to_rate(recorded, 0, 2)) == 0


def test_a_trace_too_short_is_refused_not_repeated() -> None:
    recorded = np.arange(0, 1000, 10)
    assert len(to_rate(recorded, 99, 1)) == 99
    with pytest.raises(ValueError, match=r"at most 99 per second, or 0\.99 s"):
        to_rate(recorded, 100, 1)
    with pytest.raises(ValueError, match="at most 49 per second"):
        to_rate(recorded, 99, 1, first=50)
    with pytest.raises(ValueError, match="nothing to stretch"):
        to_rate(np.zeros(10, np.int64), 5, 1)
