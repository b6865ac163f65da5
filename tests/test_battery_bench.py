"""The bench of batteries, short: pacing answers to midnight with all its energy, and beats spending on a scarce day."""

from __future__ import annotations

import pytest

from delen.daemon.battery_bench import CLOUDED, DAY_S, STEP_S, UNUSED_PCT, bench_battery, sky


@pytest.mark.slow
def test_a_paced_battery_lasts_and_gives_more() -> None:
    [compared] = bench_battery(2, (0.55,))
    assert compared.unused_pct_max <= UNUSED_PCT
    assert compared.within_days == compared.days == 2
    assert compared.more_than_greedy_pct.mean > 9
    assert compared.of_best_pct.mean > 97
    assert compared.last_gap_s_max < 600
    assert compared.greedy_answered_pct.mean < 80 < compared.answered_pct.mean


def test_the_same_day_has_the_same_sky_with_spells_of_both_kinds() -> None:
    days = [sky(day) for day in range(20)]
    assert days[3] == sky(3)
    steps = [left for day in days for left in day]
    assert len(days[0]) == DAY_S // STEP_S
    assert set(steps) == {CLOUDED, 1.0}
    assert steps.count(1.0) / len(steps) == pytest.approx(0.6, abs=0.1)
