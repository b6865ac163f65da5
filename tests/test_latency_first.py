"""The mode that finishes early: what is due first runs at once, and depth costs the time of everybody who waits."""

from __future__ import annotations

import pytest

from delen.daemon.backlog import Backlog
from delen.policies.policy import make_policy
from delen.policies.view import Run, Waiting
from delen.tests.exact import exact, waits

NET, OTHER = exact(), exact("other")
FAR_US = 1_000_000


def choose(*queue: Waiting, now_us: int = 0, delay_price: float = 0.003) -> Run:
    backlog = Backlog()
    for waiting in queue:
        backlog.add(waiting)
    choice = make_policy("latency-first", {"delay_price": delay_price}).choose(backlog.view(), now_us, 1)
    assert choice is not None
    assert choice.run is not None
    assert [member.ticket for member in choice.members] == [row.ticket for row in choice.run.rows]
    return choice.run


def tickets(run: Run) -> list[int]:
    return [row.ticket for row in run.rows]


def stops(run: Run) -> list[int]:
    return [row.stop for row in run.rows]


def test_nothing_waits_nothing_runs() -> None:
    assert make_policy("latency-first").choose(Backlog().view(), 0, 1) is None


def test_who_came_first_goes_first_unless_a_deadline_could_not_wait_for_that() -> None:
    later, first = waits(1, NET, deadline_us=5_000), waits(2, OTHER, deadline_us=FAR_US)
    later.arrival_us = 10
    assert tickets(choose(later, first)) == [2]
    # Its run could take 710 us, and the other needs 110 us.
    later.deadline_us = later.due_us = 710 + 110
    assert tickets(choose(later, first)) == [1]


def test_what_is_due_first_runs_first_and_never_waits_for_depth_or_for_best_effort() -> None:
    urgent, later = waits(1, NET, deadline_us=8_000), waits(2, OTHER, deadline_us=9_000)
    held, free = waits(3, NET, deadline_us=5_000, stage=1), waits(4, OTHER, due_us=1, bounded=False)
    untimed = waits(5, OTHER, due_us=2)
    order = [urgent, later, untimed, free, held]
    for position, first in enumerate(order[:-1]):
        assert tickets(choose(*order[position:])) == [first.ticket]


# From exit 0 to 1 it is 200 us for an accuracy of 0.10; from 1 to 2 400 us for 0.02; prices are per 110 us.
@pytest.mark.parametrize(
    ("price", "others", "depth"),
    [(0.0, 0, 2), (0.0054, 0, 2), (0.0056, 0, 1), (0.054, 0, 1), (0.056, 0, 0), (0.027, 1, 1), (0.028, 1, 0)],
)
def test_it_goes_deeper_while_that_is_worth_the_waiting_of_all(price: float, others: int, depth: int) -> None:
    queue = [waits(ticket, OTHER, deadline_us=2 * FAR_US) for ticket in range(2, 2 + others)]
    assert stops(choose(waits(1, NET, deadline_us=FAR_US), *queue, delay_price=price)) == [depth]


def test_what_a_batch_gains_is_the_sum_over_its_rows() -> None:
    queue = [waits(ticket, NET, deadline_us=FAR_US) for ticket in (1, 2)]
    # A row more costs half of the first: 300 us of two requests for 2 * 0.10.
    assert stops(choose(*queue, delay_price=0.036)) == [1, 1]
    assert stops(choose(*queue, delay_price=0.037)) == [0, 0]


@pytest.mark.parametrize(("left_us", "depth"), [(100, 0), (310, 0), (312, 1), (710, 1), (712, 2)])
def test_never_so_deep_that_it_would_be_late(left_us: int, depth: int) -> None:
    assert stops(choose(waits(1, NET, deadline_us=left_us), delay_price=0.0)) == [depth]


def test_its_bounds_hold_at_any_price() -> None:
    assert stops(choose(waits(1, NET, deadline_us=FAR_US, mandatory=2), delay_price=99.0)) == [2]
    assert stops(choose(waits(1, NET, deadline_us=FAR_US, target=1), delay_price=0.0)) == [1]


def test_nobody_is_held_at_an_exit() -> None:
    [row] = choose(waits(1, NET, deadline_us=FAR_US), delay_price=99.0).rows
    assert (row.stop, row.keep) == (0, False)


def test_who_gave_way_at_an_exit_goes_on_past_those_that_are_dominated() -> None:
    network = exact("ladder", accuracies=(0.85, 0.84, 0.97))
    assert stops(choose(waits(1, network, deadline_us=FAR_US, stage=1), delay_price=99.0)) == [2]


def test_under_conditions_every_exit_is_asked() -> None:
    staged = waits(1, NET, due_us=0)
    staged.staged = staged.alone = True
    [row] = choose(staged, delay_price=0.0).rows
    assert (row.stop, row.keep) == (0, True)
