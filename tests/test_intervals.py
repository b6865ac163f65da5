"""Accuracy intervals agree with published and exact values."""

from __future__ import annotations

import pytest

from delen.profiles.intervals import clopper_pearson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # scipy.stats.binomtest(k, n).proportion_ci(0.95, "exact"), version 1.17.
        (1, 10, 0.0025285785, 0.4450161170),
        (5, 10, 0.1870860284, 0.8129139716),
        (348, 360, 0.9424977199, 0.9826598325),
        (9300, 10000, 0.9248228293, 0.9349250122),
    ],
)
def test_known_values(successes: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(successes, n) == pytest.approx((low, high), abs=1e-9)


def test_the_ends_have_closed_forms() -> None:
    # With no success the upper end solves (1 - p)^n = 0.025.
    assert clopper_pearson(0, 30) == pytest.approx((0.0, 1 - 0.025 ** (1 / 30)))
    assert clopper_pearson(30, 30) == pytest.approx((0.025 ** (1 / 30), 1.0))


def test_nothing_is_known_from_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_more_certainty_is_a_wider_interval() -> None:
    low, high = clopper_pearson(90, 100)
    lower, higher = clopper_pearson(90, 100, 0.99)
    assert lower < low < 0.9 < high < higher


@pytest.mark.parametrize(("successes", "n", "certainty"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0.0)])
def test_impossible_counts_are_refused(successes: int, n: int, certainty: float) -> None:
    with pytest.raises(ValueError, match="expected 0 <= successes <= n"):
        clopper_pearson(successes, n, certainty)
