"""The device's clock as the core knows it: follows runs, counts changes and use."""

from __future__ import annotations

import pytest

from delen.policies.device_clock import USE_US, DeviceClock


def test_a_clock_that_a_run_wishes_is_in_force_once_it_is_confirmed() -> None:
    clock = DeviceClock((300, 900), 900, switch_us=7, dwell_us=100)
    clock.begin(300, 10, 5.0)
    clock.begin(0, 20, 5.0)
    assert (clock.now_khz, clock.next_khz, clock.switches) == (900, 300, 0)
    # Which of the two a run would find is not known.
    assert (clock.switch_to_us(300), clock.switch_to_us(900)) == (7, 7)
    assert clock.dwells(10_000)
    clock.confirm(300, 40)
    clock.begin(300, 50, 5.0)
    assert (clock.now_khz, clock.next_khz, clock.since_us, clock.switches) == (300, 300, 40, 1)
    assert (clock.switch_to_us(300), clock.switch_to_us(900)) == (0, 7)
    assert [clock.dwells(now_us) for now_us in (139, 140)] == [True, False]


def test_of_two_wishes_the_later_is_the_one_that_is_waited_for() -> None:
    clock = DeviceClock((300, 900), 900)
    clock.begin(300, 10, 5.0)
    clock.begin(900, 20, 5.0)
    clock.confirm(300, 30)
    assert (clock.now_khz, clock.next_khz) == (300, 900)
    clock.confirm(900, 40)
    assert (clock.now_khz, clock.next_khz, clock.wished_khz) == (900, 900, 0)


def test_use_tends_to_the_share_of_time_that_was_asked_for_and_fades() -> None:
    clock = DeviceClock((300, 900), 900)
    now_us = 0
    for _ in range(2_000):
        clock.begin(0, now_us, 4_000.0)
        now_us += 10_000
    assert clock.use(now_us) == pytest.approx(0.4, abs=0.01)
    assert clock.use(now_us + 5 * int(USE_US)) < 0.01
