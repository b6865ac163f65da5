"""Power that lasts: to the end, never more than has come in by then, and nothing once it is used up."""

from __future__ import annotations

import math

import pytest

from delen.policies.horizon import MJ_PER_MW_US, Harvest, Horizon

HOUR_US = 3_600_000_000


def test_energy_is_spread_over_the_time_left() -> None:
    horizon = Horizon(7_200_000.0, 2 * HOUR_US, reserve_mj=3_600_000.0)
    assert horizon.allow_mw(0) == pytest.approx(500.0)
    horizon.spend(1_800_000.0)
    assert horizon.allow_mw(HOUR_US) == pytest.approx(500.0)
    assert horizon.allow_mw(2 * HOUR_US) == math.inf


def test_nothing_is_allowed_of_the_reserve() -> None:
    horizon = Horizon(1000.0, HOUR_US, reserve_mj=1000.0, harvest=(Harvest(HOUR_US, 50.0),))
    assert horizon.allow_mw(0) == 0.0


def test_what_is_harvested_late_cannot_be_spent_early() -> None:
    harvest = (Harvest(2 * HOUR_US, 0.0), Harvest(4 * HOUR_US, 1000.0))
    horizon = Horizon(720_000.0, 4 * HOUR_US, harvest=harvest)
    # 720 J over the two dark hours; with the 7,200 J of the bright ones it would be 550 mW.
    assert horizon.allow_mw(0) == pytest.approx(100.0)


def test_what_is_harvested_early_is_spread_to_the_end() -> None:
    horizon = Horizon(360_000.0, 4 * HOUR_US, harvest=(Harvest(HOUR_US, 300.0), Harvest(4 * HOUR_US, 0.0)))
    assert horizon.allow_mw(0) == pytest.approx((360_000 + 1_080_000) / (4 * HOUR_US * MJ_PER_MW_US))


def test_no_constant_power_below_it_runs_dry_and_any_above_does() -> None:
    harvest = tuple(Harvest((k + 1) * HOUR_US, 40.0 * (k % 3)) for k in range(12))
    horizon = Horizon(300_000.0, 12 * HOUR_US, harvest=harvest)

    def least_left(power_mw: float) -> float:
        left = least = 300_000.0
        for k in range(12):
            left += (40.0 * (k % 3) - power_mw) * HOUR_US * MJ_PER_MW_US
            least = min(least, left)
        return least

    allowed = horizon.allow_mw(0)
    assert least_left(allowed * 0.999) > 0 > least_left(allowed * 1.001)
