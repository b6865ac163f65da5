"""Energy between two moments is the integral of the samples around them, and unknown where one is missing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.profiles.power_track import GAP_US, PowerTrack


def steady(power_mw: float, *, count: int = 11, step_us: int = 10_000) -> PowerTrack:
    track = PowerTrack()
    for sample in range(count):
        track.add_power(sample * step_us, power_mw)
    return track


def test_steady_power_is_power_times_time_between_samples_too() -> None:
    track = steady(5000)
    assert track.energy_mj(0, 100_000) == pytest.approx(500)
    assert track.energy_mj(13_337, 53_337) == pytest.approx(200)
    assert track.energy_mj(42_000, 42_000) == 0


def test_a_ramp_is_its_trapezoid() -> None:
    track = PowerTrack()
    track.add_power(0, 1000)
    track.add_power(1_000_000, 3000)
    assert track.energy_mj(0, 1_000_000) == pytest.approx(2000)


def test_what_lies_outside_is_unknown_beyond_the_reach() -> None:
    track = steady(5000)
    assert track.energy_mj(-1, 50_000) is None
    assert track.energy_mj(50_000, 100_001) is None
    assert track.energy_mj(-2_000, 102_000, reach_us=2_000) == pytest.approx(520)
    assert track.energy_mj(-2_001, 50_000, reach_us=2_000) is None
    assert track.energy_mj(60_000, 50_000) is None


def test_energy_over_a_cut_is_unknown_and_on_both_sides_known() -> None:
    track = steady(5000)
    track.cut()
    assert track.power_mw is None
    for sample in range(5):
        track.add_power(120_000 + sample * 10_000, 1000)
    assert track.energy_mj(50_000, 130_000) is None
    assert track.energy_mj(100_000, 120_000) is None
    assert track.energy_mj(50_000, 100_000) == pytest.approx(250)
    assert track.energy_mj(120_000, 160_000) == pytest.approx(40)


def test_samples_too_far_apart_do_not_join() -> None:
    track = PowerTrack()
    track.add_power(0, 1000)
    track.add_power(GAP_US + 1, 1000)
    assert track.energy_mj(0, GAP_US + 1) is None


def test_a_counter_is_read_as_differences_and_gives_power() -> None:
    track = PowerTrack()
    track.add_counter(0, 1e9)
    track.add_counter(100_000, 1e9 + 500)
    track.add_counter(200_000, 1e9 + 500)
    assert track.energy_mj(0, 200_000) == pytest.approx(500)
    assert track.power_mw == 0
    assert track.energy_mj(50_000, 150_000) == pytest.approx(250)


def test_a_single_sample_tells_nothing() -> None:
    track = PowerTrack()
    assert track.energy_mj(0, 1) is None
    track.add_power(0, 1000)
    assert track.energy_mj(0, 0, reach_us=100) is None


def test_old_samples_are_forgotten() -> None:
    track = PowerTrack(samples_max=10)
    for sample in range(100):
        track.add_power(sample * 1000, 1000)
    assert track.energy_mj(95_000, 99_000) == pytest.approx(4)
    assert track.energy_mj(0, 5_000) is None


def test_a_track_can_be_told_on() -> None:
    first, second = steady(5000), PowerTrack()
    first.cut()
    first.add_power(200_000, 3000)
    first.add_power(210_000, 3000)
    for sample in first.since(-1):
        second.add_total(*sample)
    assert second.energy_mj(20_000, 60_000) == pytest.approx(200)
    assert second.energy_mj(90_000, 205_000) is None
    assert second.power_mw == pytest.approx(3000)
    assert first.since(209_999) == [(210_000, 30.0, 1)]


@given(
    st.lists(st.tuples(st.integers(1, 50_000), st.floats(1, 50_000)), min_size=3, max_size=30),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
)
def test_windows_beside_each_other_add_up(samples: list[tuple[int, float]], shares: list[float]) -> None:
    track, now_us = PowerTrack(), 0
    for step_us, power_mw in samples:
        now_us += step_us
        track.add_power(now_us, power_mw)
    first_us = samples[0][0]
    start_us, middle_us, end_us = sorted(int(first_us + share * (now_us - first_us)) for share in shares)
    parts = track.energy_mj(start_us, middle_us), track.energy_mj(middle_us, end_us)
    whole = track.energy_mj(start_us, end_us)
    assert whole is not None
    assert parts[0] is not None
    assert parts[1] is not None
    assert parts[0] + parts[1] == pytest.approx(whole, abs=1e-6)
