"""The estimate behind admission and depth: mandatory work in deadline order, and the time it leaves over."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.policies import load
from delen.policies.load import Chunk, Cost
from delen.policies.view import NEVER_US
from delen.tests.exact import exact, waits

NET = exact()


def work(*jobs: tuple[int, int]) -> list[Chunk]:
    return [Chunk(due_us, due_us, Cost(cost_us, 0.0)) for due_us, cost_us in sorted(jobs)]


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
    assert load.slack_us([Chunk(10, NEVER_US, Cost(100.0, 0.0))], 0) == NEVER_US


def test_means_add_up_and_spreads_as_independent_ones_do() -> None:
    jobs = [Chunk(10_000, 10_000, Cost(100.0, 30.0)), Chunk(10_000, 10_000, Cost(200.0, 40.0))]
    assert load.slack_us(jobs, 1_000) == 10_000 - 1_000 - 300 - 50
    assert load.done_us([job.cost for job in jobs], 1_000) == pytest.approx(1_350, abs=1)


def test_a_cost_with_its_spread_is_what_a_run_is_predicted_to_take() -> None:
    network = exact()
    network.correction.margin, network.correction.mu = 0.25, 2.0
    cost = load.mandatory(network, 0, 1, 3)
    assert cost.mean_us + cost.spread_us == pytest.approx(network.time_us(0, 1, 3), abs=1)


def test_a_pool_is_cut_into_batches_that_pay_off_each_due_with_its_first() -> None:
    size = NET.batch_useful[0]
    pool = [waits(ticket, NET, deadline_us=1_000 + ticket) for ticket in range(2 * size + 1)]
    chunks = load.chunks([pool])
    assert [chunk.deadline_us for chunk in chunks] == [1_000, 1_000 + size, 1_000 + 2 * size]
    full, rest = (load.mandatory(NET, 0, 0, rows) for rows in (size, 1))
    assert [chunk.cost for chunk in chunks] == [full, full, rest]


def test_a_batch_costs_what_its_deepest_row_needs() -> None:
    pool = [waits(ticket, NET, deadline_us=1_000 + ticket, mandatory=depth) for ticket, depth in enumerate((0, 2))]
    [chunk] = load.chunks([pool])
    assert chunk.cost == load.mandatory(NET, 0, 2, 2)


def test_chunks_of_all_pools_come_in_the_order_they_are_due() -> None:
    other = exact("other")
    pools = [[waits(1, NET, deadline_us=300)], [], [waits(2, other, deadline_us=200)]]
    dues = [chunk.due_us for chunk in load.chunks(pools)]
    assert dues == sorted(dues) == [200, 300]


def test_what_has_run_is_not_counted_again() -> None:
    survivor = waits(1, NET, deadline_us=1_000, mandatory=2)
    survivor.move_to(2)
    [chunk] = load.chunks([[survivor]])
    assert math.isclose(chunk.cost.mean_us, 410.0)
