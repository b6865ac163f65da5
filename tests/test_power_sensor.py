"""A reading that is missing, frozen, absurd, late or goes backwards is no reading, and energy over it is unknown."""

from __future__ import annotations

import pytest

from delen.clients.info import MeterState
from delen.profiles.power_sensor import Gauge
from delen.tests.fake_sensor import FakeSensor


def gauge(sensor: FakeSensor) -> Gauge:
    return Gauge(sensor, lambda: sensor.now_ns)


def stands(gauge: Gauge) -> MeterState:
    return gauge.state


def sampled(sensor: FakeSensor, values: list[float | None], step_s: float = 0.1) -> Gauge:
    """A gauge after these readings, a step apart."""
    made = gauge(sensor)
    for value in values:
        sensor.value = value
        sensor.now_ns += round(step_s * 1e9)
        made.sample()
    return made


def test_what_is_read_is_integrated() -> None:
    made = sampled(FakeSensor(), [1000, 1001, 3000, 3000])
    assert stands(made) == "reading"
    assert made.track.energy_mj(100_000, 400_000) == pytest.approx(100.05 + 200.05 + 300)


def test_one_that_speaks_once_a_second_is_integrated_though_it_is_read_a_little_later() -> None:
    sensor = FakeSensor()
    sensor.sample_s = 1.0
    made = sampled(sensor, [1000, 1001, 1002, 1003], step_s=1.01)
    assert made.track.energy_mj(1_010_000, 4_040_000) == pytest.approx(1001.5 * 3.03)
    # One reading was missed.
    sensor.now_ns += 2_600_000_000
    made.sample()
    assert made.track.energy_mj(4_040_000, 6_640_000) is None


@pytest.mark.parametrize(
    ("value", "state"),
    [(None, "missing"), (0.0, "absurd"), (-5.0, "absurd"), (3e5, "absurd"), (float("nan"), "absurd")],
)
def test_a_reading_that_makes_no_sense_cuts_the_track(value: float | None, state: str) -> None:
    made = sampled(FakeSensor(), [1000, 1001, value])
    assert stands(made) == state
    assert made.track.power_mw is None
    made.sensor.value = 1002  # type: ignore[attr-defined]
    made.sensor.now_ns += 100_000_000  # type: ignore[attr-defined]
    made.sample()
    assert stands(made) == "reading"
    assert made.track.energy_mj(100_000, 400_000) is None
    assert made.track.energy_mj(100_000, 200_000) == pytest.approx(100.05)


def test_a_reading_that_stays_is_frozen_until_it_moves() -> None:
    sensor = FakeSensor()
    made = sampled(sensor, [1000.0] * 101)
    assert stands(made) == "reading", "ten seconds of one reading may be real"
    made.sample()
    sensor.now_ns += 100_000_000
    made.sample()
    assert stands(made) == "frozen"
    sensor.value = 1008
    made.sample()
    assert stands(made) == "reading"


def test_one_that_is_missing_in_between_does_not_thaw_it() -> None:
    sensor = FakeSensor()
    made = sampled(sensor, [1000.0] * 120)
    assert stands(made) == "frozen"


def test_a_slow_reading_is_none_though_its_figure_may_be_right() -> None:
    sensor = FakeSensor(takes_s=5.0)
    made = gauge(sensor)
    made.sample()
    assert stands(made) == "slow"
    assert made.track.last_us is None


def test_a_counter_gives_differences() -> None:
    made = sampled(FakeSensor(counts=True), [5e6, 5e6 + 100, 5e6 + 300])
    assert made.track.energy_mj(100_000, 300_000) == pytest.approx(300)


def test_a_counter_that_goes_backwards_is_not_believed_and_starts_anew() -> None:
    sensor = FakeSensor(counts=True)
    made = sampled(sensor, [5e6, 5e6 + 100, 7])
    assert stands(made) == "backwards"
    sensor.value, sensor.now_ns = 107, sensor.now_ns + 100_000_000
    made.sample()
    sensor.value, sensor.now_ns = 207, sensor.now_ns + 100_000_000
    made.sample()
    assert stands(made) == "reading"
    assert made.track.energy_mj(100_000, 500_000) is None
    assert made.track.energy_mj(400_000, 500_000) == pytest.approx(100)


def test_a_counter_that_leaps_is_absurd() -> None:
    assert sampled(FakeSensor(counts=True), [0, 100, 1e9]).state == "absurd"
    assert sampled(FakeSensor(counts=True), [float("inf")]).state == "absurd"
