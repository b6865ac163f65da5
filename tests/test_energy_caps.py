"""Energy a tenant may have: charged at the worst when it comes in, at what it took when it has ended."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from delen.policies.bucket import WAIT_US_MAX
from delen.policies.energy_caps import HOUR_US, SLOTS, EnergyCap, Window
from delen.policies.rates import Promises, Terms

SECOND_US = 1_000_000


def test_watts_are_refilled_by_time_and_a_second_of_them_may_be_had_at_once() -> None:
    cap = EnergyCap(2.0, None)
    assert cap.wait_us(0, 2000.0) == (0, "")
    cap.book(0, 2000.0)
    wait_us, said = cap.wait_us(0, 500.0)
    assert wait_us == 250_000
    assert said == "power_w_max 2"
    assert cap.wait_us(250_000, 500.0)[0] == 0


def test_a_crowd_is_charged_before_it_runs() -> None:
    cap = EnergyCap(1.0, None)
    admitted = 0
    while not cap.wait_us(0, 100.0)[0]:
        cap.reserve(100.0)
        admitted += 1
    assert admitted == 10
    # One took less than the worst, so there is room again.
    cap.book(0, 20.0)
    cap.release(100.0)
    assert cap.wait_us(0, 80.0)[0] == 0
    assert cap.wait_us(0, 100.0)[0] > 0


def test_one_request_larger_than_a_seconds_worth_waits_for_a_full_bucket() -> None:
    cap = EnergyCap(1.0, None)
    assert cap.wait_us(0, 5000.0)[0] == 0
    cap.book(0, 5000.0)
    assert cap.wait_us(0, 5000.0)[0] == 5 * SECOND_US


def test_one_request_larger_than_a_windows_joules_never_comes_in_and_that_is_said() -> None:
    for cap in (EnergyCap(None, 1.0), EnergyCap(None, None, 1.0, 60.0)):
        wait_us, said = cap.wait_us(0, 1500.0)
        assert wait_us == WAIT_US_MAX
        assert said.endswith("1 is less than the 1.5 J that this may take")
        assert cap.wait_us(0, 1000.0) == (0, "")


def test_power_that_is_hardly_any_waits_long_and_windows_have_an_end() -> None:
    cap = EnergyCap(1e-310, None)
    cap.book(0, 10.0)
    assert cap.wait_us(0, 10.0)[0] > 24 * HOUR_US
    assert "energy_window_s" in (Terms(energy_j_window_max=1.0, energy_window_s=1e308).fault() or "")


def test_a_days_joules_are_gone_for_a_day() -> None:
    cap = EnergyCap(None, 1.0)
    cap.book(0, 900.0)
    assert cap.wait_us(0, 100.0)[0] == 0
    wait_us, said = cap.wait_us(0, 101.0)
    assert said == "energy_j_day_max 1"
    assert wait_us > 23 * HOUR_US
    assert cap.wait_us(wait_us - 1, 101.0)[0] == 1
    assert cap.wait_us(wait_us, 101.0)[0] == 0


@given(st.lists(st.tuples(st.integers(0, 3 * HOUR_US), st.floats(0, 1000)), max_size=40))
def test_what_is_counted_is_at_least_that_of_24_hours_and_at_most_that_of_25(steps: list[tuple[int, float]]) -> None:
    window, now_us, had = Window(), 0, list[tuple[int, float]]()
    for wait_us, amount in steps:
        now_us += wait_us
        window.add(now_us, amount)
        had.append((now_us, amount))
        day = sum(mj for at, mj in had if now_us - at < SLOTS * HOUR_US)
        more = sum(mj for at, mj in had if now_us - at < (SLOTS + 1) * HOUR_US)
        assert day - 1e-6 <= window.total(now_us) <= more + 1e-6


def test_what_is_given_back_leaves_the_window_with_what_it_was_given_for() -> None:
    window = Window(1000)
    for burst in range(20):
        at_us = burst * 100_000
        window.add(at_us, 100.0)
        # Measured a little later, it turns out to have been less.
        window.add(at_us + 1500, -30.0)
        assert window.total(at_us + 1500) == 70.0
        for later_us in range(at_us + 2000, at_us + 40_000, 500):
            assert 0 <= window.total(later_us) <= 70.0
        assert window.total(at_us + 40_000) == 0.0


def test_a_restart_forgets_nothing() -> None:
    window = Window()
    for hour in range(5):
        window.add(hour * HOUR_US, 10.0)
    after = Window()
    after.restore(100 * HOUR_US, window.levels(4 * HOUR_US))
    assert after.total(100 * HOUR_US) == 50.0
    assert after.total((100 + 22) * HOUR_US) == 30.0


def test_other_terms_keep_what_was_had() -> None:
    promises = Promises({"a": Terms(energy_j_day_max=1.0)})
    promise = promises.of("a")
    assert promise is not None
    promise.energy.book(0, 900.0)
    promises.change({"a": Terms(energy_j_day_max=0.8)})
    changed = promises.of("a")
    assert changed is not None
    assert changed.energy.wait_us(0, 1.0)[0] > 0


def test_joules_in_a_window_are_had_again_once_it_has_passed() -> None:
    cap = EnergyCap(None, None, 1.0, 240.0)
    assert cap.capped
    cap.book(0, 900.0)
    assert cap.wait_us(0, 100.0) == (0, "")
    wait_us, said = cap.wait_us(SECOND_US, 200.0)
    assert said == "energy_j_window_max 1"
    # In slots of ten seconds: gone at the latest one slot after its 240 s.
    assert 239 * SECOND_US <= wait_us <= 250 * SECOND_US
    assert cap.wait_us(SECOND_US + wait_us, 200.0) == (0, "")
