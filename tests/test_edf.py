"""The first policy: who goes first, with whom, and how deep."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.daemon.backlog import Backlog
from delen.policies import edf
from delen.policies.edf import Choice
from delen.policies.view import Waiting
from delen.tests.exact import exact, waits

NET, OTHER = exact(), exact("other")
FAR_US = 1_000_000


def choose(*queue: Waiting, now_us: int = 0) -> Choice:
    backlog = Backlog()
    for waiting in queue:
        backlog.add(waiting)
    choice = edf.choose(backlog.view(), now_us, 1)
    assert choice is not None
    return choice


def tickets(choice: Choice) -> list[int]:
    assert [member.ticket for member in choice.members] == [row.ticket for row in choice.run.rows]
    return [member.ticket for member in choice.members]


def stops(choice: Choice) -> list[int]:
    return [row.stop for row in choice.run.rows]


def test_nothing_waits_nothing_runs() -> None:
    assert edf.choose(Backlog().view(), 0, 1) is None


def test_earliest_deadline_first_across_networks() -> None:
    choice = choose(waits(1, NET, deadline_us=9_000), waits(2, OTHER, deadline_us=8_000))
    assert (choice.run.network, tickets(choice)) == ("other", [2])


def test_those_with_deadlines_go_before_those_without_and_best_effort_goes_last() -> None:
    timed, untimed, free = waits(1, NET, deadline_us=FAR_US), waits(2, OTHER, due_us=2 * FAR_US), None
    free = waits(3, NET, due_us=1, bounded=False)
    assert tickets(choose(timed, untimed, free)) == [1]
    assert tickets(choose(untimed, free)) == [2]
    assert tickets(choose(free)) == [3]


def test_work_without_a_deadline_that_is_due_goes_first_if_nobody_gets_late_by_it() -> None:
    overdue = waits(1, OTHER, due_us=0, target=0)
    assert tickets(choose(waits(2, NET, deadline_us=5_000), overdue, now_us=100)) == [1]
    # The first exit takes 110 us: there is time for one only.
    assert tickets(choose(waits(2, NET, deadline_us=300), overdue, now_us=100)) == [2]


@pytest.mark.parametrize(
    ("left_us", "depth"), [(109, 0), (111, 0), (310, 0), (312, 1), (710, 1), (712, 2), (FAR_US, 2)]
)
def test_alone_it_goes_as_deep_as_its_deadline_allows(left_us: int, depth: int) -> None:
    assert stops(choose(waits(1, NET, deadline_us=left_us))) == [depth]


def test_never_deeper_than_wanted_nor_shallower_than_needed() -> None:
    assert stops(choose(waits(1, NET, deadline_us=FAR_US, target=1))) == [1]
    assert stops(choose(waits(1, NET, deadline_us=200, mandatory=1))) == [1]


def test_exits_that_are_dominated_are_not_stopped_at() -> None:
    network = exact("ladder", accuracies=(0.85, 0.85, 0.97))
    # Time enough for segments 0 and 1, not for 2.
    assert stops(choose(waits(1, network, deadline_us=400))) == [0]


def test_requests_share_a_batch_in_order_of_their_deadlines() -> None:
    queue = [waits(ticket, NET, deadline_us=FAR_US + ticket) for ticket in (3, 1, 2)]
    assert tickets(choose(*queue)) == [1, 2, 3]


def test_a_batch_ends_before_it_makes_its_first_late() -> None:
    # One row takes 111 us, two 166, three 221.
    queue = [waits(ticket, NET, deadline_us=170 + FAR_US * (ticket > 1), target=0) for ticket in (1, 2, 3)]
    assert tickets(choose(*queue)) == [1, 2]


def test_rows_leave_where_they_want_to() -> None:
    queue = [waits(ticket, NET, deadline_us=FAR_US, target=target) for ticket, target in ((1, 2), (2, 0), (3, 1))]
    assert stops(choose(*queue)) == [2, 0, 1]


@pytest.mark.parametrize(("extra_us", "depth"), [(0, 0), (199, 0), (200, 1), (599, 1), (600, 2)])
def test_optional_depth_is_given_only_in_a_share_of_the_time_that_others_do_not_need(extra_us: int, depth: int) -> None:
    first = waits(1, NET, deadline_us=3_000)
    # The first exit takes 110 us and the other's run 3,010; deeper exits take 200 and 600 us more.
    heavy = exact("heavy", segments_us=(1_000, 1_000, 1_000))
    other = waits(2, heavy, deadline_us=3_120 + round(extra_us / edf.SPARE_SHARE), mandatory=2)
    choice = choose(first, other)
    assert tickets(choice) == [1]
    assert stops(choice) == [depth]


def test_a_run_says_when_rows_must_leave_and_how_long_segments_take() -> None:
    run = choose(waits(1, NET, deadline_us=5_000)).run
    assert run.stop_by_us == 5_000
    assert run.segments_us == (111, 211, 411)
    assert run.predicted_us == 711
    free = choose(waits(1, NET, bounded=False)).run
    assert (free.stop_by_us, free.segments_us) == (0, ())


def test_a_gated_row_is_looked_at_on_every_exit_it_may_leave_at_and_kept_ones_are_not() -> None:
    gated = waits(1, NET, deadline_us=FAR_US, mandatory=2)
    gated.gate = 0.9
    [row] = choose(gated).run.rows
    assert (row.exits, row.gate, row.stop) == ((0, 1), 0.9, 2)
    staged = waits(1, NET, due_us=0)
    staged.staged = staged.alone = True
    [row] = choose(staged).run.rows
    assert (row.exits, row.stop, row.keep) == ((), 0, True)


def test_who_must_run_alone_does() -> None:
    alone = waits(1, NET, deadline_us=FAR_US)
    alone.alone = True
    assert tickets(choose(alone, waits(2, NET, deadline_us=FAR_US + 1))) == [1]
    assert tickets(choose(waits(0, NET, deadline_us=FAR_US - 1), alone)) == [0]


def test_survivors_of_different_runs_go_on_as_one_batch() -> None:
    survivors = [waits(ticket, NET, deadline_us=FAR_US) for ticket in (1, 2)]
    for waiting in survivors:
        waiting.move_to(1)
    choice = choose(*survivors)
    assert (choice.run.first, tickets(choice)) == (1, [1, 2])


def run_us(stops_at: Sequence[int]) -> float:
    """The time of one run by hand: a row more costs half of the first, rows leave where they stop, heads take 10 us."""

    def batch(us: float, rows: int) -> float:
        return us * (1 + 0.5 * (rows - 1)) if rows else 0.0

    total = 0.0
    for index, us in enumerate((100, 200, 400)):
        total += batch(us, sum(1 for stop in stops_at if stop >= index))
        total += batch(10, sum(1 for stop in stops_at if stop == index))
    return total


REQUESTS = st.lists(
    st.tuples(st.integers(100, 4_000), st.integers(0, 2), st.integers(0, 2), st.booleans()), min_size=1, max_size=7
)


@given(REQUESTS)
def test_a_run_takes_what_it_says_and_makes_no_member_late_who_could_be_in_time(
    requests: list[tuple[int, int, int, bool]],
) -> None:
    queue = [
        waits(n, OTHER if other else NET, deadline_us=deadline_us, mandatory=mandatory, target=max(mandatory, target))
        for n, (deadline_us, mandatory, target, other) in enumerate(requests)
    ]
    choice = choose(*queue)
    assert choice.run.predicted_us == pytest.approx(run_us(stops(choice)), abs=1.01)
    for member, stop in zip(choice.members, stops(choice), strict=True):
        assert member.mandatory <= stop <= member.target
    first = choice.members[0]
    assert first.due_us == min(waiting.due_us for waiting in queue)
    if run_us([first.mandatory]) + 1 <= first.deadline_us:
        assert all(choice.run.predicted_us <= member.deadline_us for member in choice.members)
