"""Alarms: seldom without cause, soon with one, after any clean stretch; and audits drawn by lot, everywhere alike."""

from __future__ import annotations

import numpy as np
import pytest

from delen.policies.drift import AUDITS, DriftAlarm, marked, stake


def audits(alarm: DriftAlarm, rate: float, count: int, seed: int) -> int | None:
    """How many audits it takes to raise the alarm when so many disagree; None where it stays silent."""
    for audit, disagrees in enumerate((np.random.default_rng(seed).random(count) < rate).tolist(), start=1):
        if alarm.observe(disagrees):
            return audit
    return None


@pytest.mark.slow
def test_at_the_bound_itself_hardly_any_run_alarms() -> None:
    fired = sum(audits(DriftAlarm(0.03), 0.03, AUDITS, seed) is not None for seed in range(100))
    assert fired <= 9  # 4.8 expected at most, and two standard errors


def test_a_shift_is_found_soon_also_after_a_long_clean_stretch() -> None:
    found = []
    for seed in range(20):
        alarm = DriftAlarm(0.04)
        for _ in range(20_000):
            alarm.observe(False)
        found.append(audits(alarm, 0.12, 500, seed))
    assert sum(audit is not None for audit in found) >= 19


def test_every_observation_may_have_a_bound_of_its_own() -> None:
    strict, loose = DriftAlarm(), DriftAlarm()
    for _ in range(20):
        strict.observe(True, 0.01)
        loose.observe(True, 0.5)
    assert strict.evidence > loose.evidence > 1
    alarm = DriftAlarm(0.2)
    alarm.observe(False)
    assert alarm.evidence == pytest.approx(1 - alarm.nu * 0.2)
    alarm.observe(True, 0.02)
    assert alarm.evidence == pytest.approx((2 - stake(0.2) * 0.2) * (1 + stake(0.02) * 0.98))


def test_evidence_does_not_grow_on_average_while_the_bound_holds() -> None:
    for eps in (0.005, 0.03, 0.2, 0.6, 0.95):
        nu = stake(eps)
        assert 0 < nu < 1 / eps
        assert eps * (1 + nu * (1 - eps)) + (1 - eps) * (1 - nu * eps) == pytest.approx(1)


def test_a_bound_that_allows_everything_never_alarms_and_none_at_all_soon_does() -> None:
    anything, nothing = DriftAlarm(1.0), DriftAlarm(0.0)
    assert not any(anything.observe(True) for _ in range(1000))
    assert nothing.observe(True)


def test_once_raised_it_stays_until_reset() -> None:
    alarm = DriftAlarm(0.02)
    for _ in range(50):
        alarm.observe(True)
    assert alarm.fired
    for _ in range(1000):
        assert alarm.observe(False)
    alarm.reset()
    assert not alarm.observe(False)


def test_marks_follow_the_share_and_are_the_same_everywhere() -> None:
    drawn = [marked(str(number).encode(), 0.1, 7) for number in range(20_000)]
    assert sum(drawn) == pytest.approx(2000, abs=130)
    assert [marked(bytes([number]), 0.5, 1) for number in range(8)] == [bool(int(bit)) for bit in MARKS]
    others = [marked(str(number).encode(), 0.1, 8) for number in range(20_000)]
    assert sum(one and other for one, other in zip(drawn, others, strict=True)) == pytest.approx(200, abs=45)


def test_all_or_none_are_marked_at_the_ends() -> None:
    assert all(marked(bytes([number]), 1.0, 0) for number in range(200))
    assert not any(marked(bytes([number]), 0.0, 0) for number in range(200))


MARKS = "00110100"
