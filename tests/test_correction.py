"""The filter on run times: nearly every run keeps what is predicted, whatever the noise, and a step is learnt fast."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from delen.policies.correction import MARGIN_MIN, Correction

PREDICTED_US = 1_000.0


def steady(draw: Random) -> float:
    return 1.0


def gaussian(draw: Random) -> float:
    return max(0.1, draw.gauss(1.0, 0.05))


def skewed(draw: Random) -> float:
    return draw.lognormvariate(0.0, 0.2)


def stalling(draw: Random) -> float:
    """One run in 25 is preempted."""
    return 2.0 if draw.random() < 0.04 else draw.gauss(1.0, 0.02)


def throttled(draw: Random) -> float:
    """The profile was taken in another power mode."""
    return 1.8 * draw.gauss(1.0, 0.03)


def late_share(noise: Callable[[Random], float], runs: int = 4_000, learning: int = 200) -> tuple[float, float]:
    """Share of runs that took longer than predicted, after the first `learning`, and the mean factor."""
    draw, correction = Random(7), Correction()
    late, factors = 0, 0.0
    for run in range(runs):
        ratio = noise(draw)
        if run >= learning:
            late += ratio > correction.factor
            factors += correction.factor
        correction.observe(PREDICTED_US, PREDICTED_US * ratio)
    return late / (runs - learning), factors / (runs - learning)


@pytest.mark.parametrize(
    ("noise", "factor_max"), [(steady, 1.05), (gaussian, 1.2), (skewed, 2.1), (stalling, 2.6), (throttled, 2.1)]
)
def test_all_but_about_one_run_in_a_hundred_keep_the_prediction_and_it_is_not_wider_than_that_takes(
    noise: Callable[[Random], float], factor_max: float
) -> None:
    late, factor = late_share(noise)
    assert late <= 0.02
    assert factor <= factor_max


def after(*ratios: float) -> Correction:
    correction = Correction()
    for ratio in ratios:
        correction.observe(PREDICTED_US, PREDICTED_US * ratio)
    return correction


def test_a_new_network_is_given_a_wide_margin() -> None:
    assert after().factor == pytest.approx(1.3)


def test_a_step_is_learnt_in_a_few_runs_both_ways() -> None:
    quiet = [1.0] * 100
    assert after(*quiet, *[2.0] * 10).factor > 2.0
    assert after(*quiet, *[2.0] * 100, *[1.0] * 10).mu < 1.2


def test_one_stall_however_long_does_not_spoil_what_was_known() -> None:
    quiet = [1.0] * 100
    stalled = after(*quiet, 1_000.0)
    assert stalled.mu < 2.0
    assert after(*quiet, 1_000.0, *[1.0] * 20).mu == pytest.approx(1.0, abs=0.05)


def test_the_margin_never_vanishes() -> None:
    assert after(*[1.0] * 1_000).margin == MARGIN_MIN


def test_a_run_for_which_nothing_was_predicted_teaches_nothing() -> None:
    correction = after()
    correction.observe(0.0, 500.0)
    assert (correction.mu, correction.factor) == (after().mu, after().factor)
