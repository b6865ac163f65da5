"""The bound on a mean: it holds as often as it says, is tighter where values vary less, and refuses other values."""

from __future__ import annotations

import numpy as np
import pytest

from delen.policies.betting import mean_max


def test_it_is_too_low_no_more_often_than_the_doubt() -> None:
    draw = np.random.default_rng(0)
    values = draw.beta(2, 8, (300, 200)) * 5
    too_low = sum(mean_max(row, 5.0, 0.1) < 1.0 for row in values)
    assert too_low <= 30 + 2 * np.sqrt(300 * 0.09)


def test_more_samples_and_less_spread_bring_it_closer() -> None:
    draw = np.random.default_rng(1)
    wide, narrow = draw.uniform(0, 1, 4000), draw.uniform(0.45, 0.55, 4000)
    assert mean_max(wide[:100], 1.0, 0.1) > mean_max(wide, 1.0, 0.1) > mean_max(narrow, 1.0, 0.1) > 0.5
    # Hoeffding's bound, which knows no variance.
    assert mean_max(narrow, 1.0, 0.1) < narrow.mean() + np.sqrt(np.log(10) / 8000)


def test_the_scale_is_only_a_scale() -> None:
    values = np.random.default_rng(2).uniform(0, 1, 50)
    assert mean_max(values * 7, 7.0, 0.05) == pytest.approx(7 * mean_max(values, 1.0, 0.05))


def test_without_values_all_is_possible_and_impossible_ones_are_refused() -> None:
    assert mean_max(np.array([]), 3.0, 0.1) == 3.0
    for values, largest, doubt in (([1.5], 1.0, 0.1), ([-0.1], 1.0, 0.1), ([np.nan], 1.0, 0.1), ([0.5], 1.0, 0.0)):
        with pytest.raises(ValueError, match=r"outside|expected"):
            mean_max(np.array(values), largest, doubt)
