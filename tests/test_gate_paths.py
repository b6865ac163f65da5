"""The search: what it returns is ordered, beaten by nothing, and cheaper than what one threshold could do."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from delen.policies.gate_paths import CANDIDATES_MAX, Gates, Steps, find_path
from delen.tests.labelled_samples import STEPS, outcomes

INF = math.inf
SAMPLES = outcomes(3000, fit_share=1.0)


def judged(gates: Gates, steps: Steps = STEPS) -> tuple[int, float]:
    """Errors and cost, one sample after the other."""
    errors, cost = 0, 0.0
    for sure, right in zip(SAMPLES.confidence.tolist(), SAMPLES.correct.tolist(), strict=True):
        for place in range(gates.last + 1):
            cost += steps.segment[place]
            if place == gates.last or gates.thresholds[place] < INF:
                cost += steps.head[place]
            if place == gates.last or sure[place] > gates.thresholds[place]:
                errors += not right[place]
                break
    return errors, cost / len(SAMPLES.correct)


def test_gates_let_go_at_the_first_exit_that_is_sure_enough() -> None:
    sure = np.array([[0.95, 0.1, 0.1], [0.5, 0.95, 0.1], [0.5, 0.5, 0.1], [0.9, 0.8, 0.1]], np.float32)
    assert Gates((0.9, 0.8, INF), 2).leaves(sure).tolist() == [0, 1, 2, 2]
    assert Gates((0.9, INF, INF), 1).leaves(sure).tolist() == [0, 1, 1, 1]


def test_a_head_is_paid_for_only_where_there_is_a_gate_or_the_end() -> None:
    assert STEPS.to_leave(Gates((0.5, INF, INF), 2)) == [110, 320, 720]
    assert STEPS.to_leave(Gates((INF, INF, INF), 2)) == [110, 310, 710]


def test_the_path_is_in_the_order_of_errors_and_nothing_on_it_is_beaten_at_its_depth() -> None:
    path = find_path(SAMPLES.confidence, SAMPLES.correct, STEPS)
    figures = [judged(gates) for gates in path]
    assert [errors for errors, _ in figures] == sorted(errors for errors, _ in figures)
    for last in range(3):
        costs = [cost for gates, (_, cost) in zip(path, figures, strict=True) if gates.last == last]
        assert all(before > after for before, after in pairwise(costs))
        assert costs


def test_a_vector_does_better_than_one_threshold_for_all() -> None:
    path = find_path(SAMPLES.confidence, SAMPLES.correct, STEPS)
    scalars = [Gates((t, t, INF), 2) for t in np.linspace(0.3, 0.999, 120).tolist()]
    best = [judged(gates) for gates in path]
    spared = []
    for errors, cost in map(judged, scalars[::10]):
        spared.append(min(c for e, c in best if e <= errors) / cost)
    # Thresholds are tried in steps, so a scalar between two of them may be a little cheaper.
    assert max(spared) < 1.05
    assert min(spared) < 0.97


def test_at_any_price_of_an_error_the_search_comes_close_to_trying_everything() -> None:
    grid = [*np.quantile(SAMPLES.confidence[:, :2], np.linspace(0.02, 0.98, 25)).tolist(), INF]
    everything = [judged_fast(Gates((first, second, INF), 2)) for first in grid for second in grid]
    path = [judged_fast(gates) for gates in find_path(SAMPLES.confidence, SAMPLES.correct, STEPS)]
    for price in (0.5, 1.0, 2.0, 4.0):
        best, found = (min(cost + price * errors for errors, cost in ways) for ways in (everything, path))
        assert found <= best * 1.002, price


def judged_fast(gates: Gates) -> tuple[int, float]:
    leaves = gates.leaves(SAMPLES.confidence)
    errors = int((~SAMPLES.correct[np.arange(len(leaves)), leaves]).sum())
    return errors, float(np.array(STEPS.to_leave(gates))[leaves].mean())


def test_dear_heads_are_left_out() -> None:
    def asked(steps: Steps) -> float:
        """How many of the ways to the last exit ask at the second."""
        path = [gates for gates in find_path(SAMPLES.confidence, SAMPLES.correct, steps) if gates.last == 2]
        return sum(gates.thresholds[1] < INF for gates in path) / len(path)

    dear = asked(Steps((100.0, 200.0, 400.0), (10.0, 350.0, 10.0)))
    assert asked(STEPS) > 0.9
    assert dear < 0.5


def test_thresholds_lie_between_the_steps_of_what_a_file_can_hold() -> None:
    path = find_path(SAMPLES.confidence, SAMPLES.correct, STEPS)
    edges = {threshold for gates in path for threshold in gates.thresholds if threshold < INF}
    doubts = (1 - np.array(sorted(edges))).astype(np.float16)
    below = np.nextafter(doubts, np.float16(0)).astype(np.float64)
    above = np.nextafter(doubts, np.float16(2)).astype(np.float64)
    exact = 1 - np.array(sorted(edges))
    halves = np.minimum(abs(exact - (below + doubts) / 2), abs(exact - (above + doubts) / 2))
    np.testing.assert_allclose(halves, 0, atol=1e-12)


@pytest.mark.parametrize("count", [20, 200])
def test_few_samples_and_ties_still_give_a_path(count: int) -> None:
    sure, right = np.full((count, 3), 0.75, np.float32), SAMPLES.correct[:count]
    path = find_path(sure, right, STEPS)
    assert {gates.last for gates in path} <= {0, 1, 2}
    assert 1 <= len(path) <= CANDIDATES_MAX


def test_one_exit_alone_is_a_path() -> None:
    path = find_path(SAMPLES.confidence[:, :1], SAMPLES.correct[:, :1], Steps((100.0,), (10.0,)))
    assert path == [Gates((INF,), 0)]
