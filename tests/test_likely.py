"""Likely times of gated runs: what they are worth against drawing every row, and in planning against admission."""

from __future__ import annotations

import math

import numpy as np
import pytest

from delen.policies import load
from delen.policies.likely import gated_path
from delen.policies.pools import cut
from delen.tests.exact import exact, waits

NET = exact()
GATES, BEYOND = (0.9, math.inf, math.inf), (0.4, 0.4, 0.0)


def drawn_us(first: int, count: int, beyond: tuple[float, ...]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Many runs, every row drawn on its own."""
    random, costs = np.random.default_rng(0), NET.costs
    at = random.uniform(size=(20_000, count))
    come = beyond[first - 1] if first else 1.0
    total = np.zeros(len(at))
    for index in range(first, 3):
        share = 1.0 if index == first else beyond[index - 1] / come
        rows = (at < share).sum(axis=1)
        segment = np.array([0.0, *costs.segment_us[index][1 : count + 1]])
        head = np.array([0.0, *costs.head_us[index][1 : count + 1]])
        total += segment[rows] + (head[rows] if index == 2 or GATES[index] < math.inf else 0.0)
    return total


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("first", [0, 1])
def test_the_mean_is_that_of_many_runs_and_the_spread_no_less(first: int, count: int) -> None:
    gates = GATES if first == 0 else (math.inf,) * 3
    mean_us, spread_us = gated_path(NET.costs, (first, 2), count, gates, BEYOND)
    seen = drawn_us(first, count, BEYOND)
    assert mean_us == pytest.approx(seen.mean(), rel=0.02)
    assert 0.95 * seen.std() <= spread_us <= 1.5 * seen.std() + 1


def test_without_anybody_leaving_it_is_the_whole_path() -> None:
    mean_us, spread_us = gated_path(NET.costs, (0, 2), 4, (math.inf,) * 3, (1.0, 1.0, 0.0))
    assert mean_us == pytest.approx(NET.costs.path_us(0, 2, 4))
    assert spread_us == 0


def test_planning_counts_on_gates_and_admission_does_not() -> None:
    queue = [waits(ticket, NET, deadline_us=2_000, mandatory=2) for ticket in range(4)]
    sure = load.slack_us(cut(queue), 0)
    for waiting in queue:
        waiting.gates, waiting.beyond = GATES, BEYOND
        waiting.move_to(0)
    chunks = cut(queue)
    assert load.slack_us(chunks, 0) > sure
    tight_us = int(NET.time_us(0, 2, 4))
    late = [chunk._replace(deadline_us=tight_us - 50) for chunk in chunks]
    assert load.slack_us(late, 0) > 0, "it is likely to be in time"
    assert load.late_after(late, 0, 0), "and would not have been let in"
