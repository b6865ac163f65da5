"""The estimate behind admission and depth: mandatory work in deadline order, and the time it leaves over."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.policies import load
from delen.policies.load import Cost
from delen.policies.pools import Chunk, cut
from delen.policies.view import NEVER_US
from delen.tests.exact import NoCorrection, exact, waits

NET = exact()


def work(*jobs: tuple[int, float]) -> list[Chunk]:
    """Batches of (deadline, time) that take exactly that long."""
    return [Chunk(due_us, due_us, cost_us, NET) for due_us, cost_us in sorted(jobs)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=5))
def test_no_order_leaves_more_slack_than_the_one_by_deadline(jobs: list[tuple[int, int]]) -> None:
    def slack(order: tuple[tuple[int, int], ...]) -> int:
        busy_until, least = 0, NEVER_US
        for due_us, cost_us in order:
            busy_until += cost_us
            least = min(least, due_us - busy_until)
        return least

    assert load.slack_us(work(*jobs), 0) == max(slack(order) for order in permutations(jobs))


def test_slack_is_what_may_pass_before_somebody_is_late() -> None:
    jobs = work((100, 30), (200, 100))
    slack_us = load.slack_us(jobs, 0)
    assert slack_us == 70
    assert load.slack_us(jobs, slack_us) == 0
    assert load.slack_us(jobs, slack_us + 1) < 0


def test_without_deadlines_there_is_all_the_time_in_the_world() -> None:
    assert load.slack_us([], 5) == NEVER_US
    assert load.slack_us([Chunk(10, NEVER_US, 100.0, NET)], 0) > NEVER_US // 2


def test_only_those_due_at_that_time_or_later_are_looked_at() -> None:
    jobs = work((100, 150), (200, 20), (300, 140))
    assert load.late_after(jobs, 0, 100)
    assert load.late_after(jobs, 0, 300)
    assert not load.late_after(jobs[:2], 0, 200)
    assert load.late_after(jobs[:2], 31, 200)


def test_means_add_up_and_spreads_as_independent_ones_do() -> None:
    noisy = exact()
    noisy.correction.margin = 0.1
    jobs = [Chunk(10_000, 10_000, us, noisy) for us in (300.0, 400.0)]
    assert load.slack_us(jobs, 1_000) == 10_000 - 1_000 - 700 - 50
    assert load.done_us(map(load.cost_of, jobs), 1_000) == pytest.approx(1_750, abs=1)
    # Admission keeps a share of the 300 us before the last of them starts, too.
    kept_us = round(load.KEPT_SHARE * 300)
    assert not load.late_after(jobs, 10_000 - 750 - kept_us, 0)
    assert load.late_after(jobs, 10_000 - 749 - kept_us, 0)
    assert load.done_us(map(load.cost_of, jobs), 0, load.KEPT_SHARE) == pytest.approx(750 + kept_us, abs=1)


def test_every_run_costs_the_way_to_the_device_and_back_too() -> None:
    far = exact()
    object.__setattr__(far, "hop_us", 40.0)
    jobs = [Chunk(1_000, 1_000, 100.0, far)] * 2
    assert load.slack_us(jobs, 0) == 1_000 - 280
    assert load.done_us(map(load.cost_of, jobs), 0) == 281


def test_a_cost_with_its_spread_is_what_a_run_is_predicted_to_take() -> None:
    network, correction = exact(), NoCorrection()
    correction.mu, correction.margin, correction.factor = 2.0, 0.25, 2.5
    network.correction = correction
    cost = load.mandatory(network, 0, 1, 3)
    assert cost.mean_us + cost.spread_us == pytest.approx(network.time_us(0, 1, 3), abs=1)


def test_a_chunk_costs_what_a_batch_of_its_rows_does() -> None:
    for rows in (1, 2, 3):
        [chunk] = cut([waits(ticket, NET, deadline_us=1_000, mandatory=1) for ticket in range(rows)])
        assert load.cost_of(chunk) == load.mandatory(NET, 0, 1, rows)
    assert load.cost_of(chunk) == Cost(chunk.path_us, 0.0)


def test_chunks_of_all_pools_come_in_the_order_they_are_due() -> None:
    parts = [work((300, 1), (500, 1)), [], work((200, 1), (400, 1))]
    dues = [chunk.due_us for chunk in load.in_order(parts)]
    assert dues == sorted(dues) == [200, 300, 400, 500]


def test_what_has_run_is_not_counted_again() -> None:
    [chunk] = cut([waits(1, NET, deadline_us=1_000, mandatory=2, stage=2)])
    assert math.isclose(load.cost_of(chunk).mean_us, 410.0)
