"""Runs: who goes together, how long that takes, and what the device is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.policies import batches
from delen.policies.view import NEVER_US, Row, Waiting
from delen.tests.exact import exact, waits

NET = exact()
FAR_US = 1_000_000


def tickets(members: Sequence[Waiting]) -> list[int]:
    return [member.ticket for member in members]


def gated(ticket: int, *, stage: int = 0) -> Waiting:
    made = waits(ticket, NET, deadline_us=FAR_US, mandatory=2, stage=stage)
    made.gates, made.beyond = (0.9, 0.8, math.inf), (0.3, 0.1, 0.0)
    made.move_to(stage)
    return made


def by_hand_us(stage: int, stops: Sequence[int]) -> float:
    """A row more costs half of the first, rows leave where they stop, heads take 10 us."""

    def batch(us: float, rows: int) -> float:
        return us * (1 + 0.5 * (rows - 1)) if rows else 0.0

    total = 0.0
    for index, us in enumerate((100, 200, 400)):
        if index >= stage:
            total += batch(us, sum(1 for stop in stops if stop >= index))
            total += batch(10, sum(1 for stop in stops if stop == index))
    return total


@given(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_a_run_takes_its_segments_for_the_rows_still_in_it_and_its_heads(stage: int, depths: list[int]) -> None:
    stops = [max(stage, depth) for depth in depths]
    assert batches.run_us(NET, stage, stops) == pytest.approx(by_hand_us(stage, stops), abs=1.01)


def test_a_batch_ends_before_it_makes_its_first_late() -> None:
    # One row takes 111 us, two 166, three 221.
    queue = [waits(ticket, NET, deadline_us=170 + FAR_US * (ticket > 1), target=0) for ticket in (1, 2, 3)]
    assert tickets(batches.prefix(queue, NET, 0, 0)) == [1, 2]
    assert tickets(batches.prefix(queue, NET, 0, 5)) == [1]
    assert tickets(batches.prefix(queue, NET, 0, 10**6)) == [1], "late already, it runs alone and soonest"


def test_a_batch_is_planned_for_its_deepest_row() -> None:
    queue = [waits(1, NET, deadline_us=400), waits(2, NET, deadline_us=FAR_US, mandatory=2)]
    assert tickets(batches.prefix(queue, NET, 0, 0)) == [1]


def test_a_batch_is_no_larger_than_pays_off() -> None:
    assert NET.batch_useful[0] < 9
    queue = [waits(ticket, NET, deadline_us=FAR_US) for ticket in range(9)]
    assert len(batches.prefix(queue, NET, 0, 0)) == NET.batch_useful[0]


def test_without_a_deadline_a_batch_leaves_the_device_free_again_soon() -> None:
    slow = exact("slow", segments_us=(1_200, 1_200, 1_200))
    queue = [waits(ticket, slow, due_us=ticket) for ticket in range(8)]
    # A segment of two rows takes 1,800 us, of three 2,400; the limit is 2,000.
    assert len(batches.prefix(queue, slow, 0, 0)) == 2
    slower = exact("slower", segments_us=(5_000, 5_000, 5_000))
    assert len(batches.prefix([waits(ticket, slower, due_us=ticket) for ticket in range(8)], slower, 0, 0)) == 1


def test_where_hops_are_long_a_batch_without_a_deadline_may_take_as_many_of_them() -> None:
    slow = exact("slow", segments_us=(1_200, 1_200, 1_200))
    slow.__dict__["hop_us"] = 1_000.0
    queue = [waits(ticket, slow, due_us=ticket) for ticket in range(8)]
    # Four hops are 4,000 us; with a hop, three rows take 3,420 us to their first exit, four 4,025 us.
    assert len(batches.prefix(queue, slow, 0, 0)) == 3


def test_who_must_run_alone_does() -> None:
    queue = [waits(ticket, NET, deadline_us=FAR_US) for ticket in range(3)]
    queue[1].alone = True
    assert tickets(batches.prefix(queue, NET, 0, 0)) == [0]
    assert tickets(batches.prefix(queue[1:], NET, 0, 0)) == [1]


def test_a_run_says_when_rows_must_leave_and_how_long_segments_take() -> None:
    members = [waits(1, NET, deadline_us=7_000), waits(2, NET, deadline_us=5_000)]
    run = batches.choice(9, members, [2, 1], 950).run
    assert run is not None
    assert (run.id, run.network, run.first, run.predicted_us) == (9, "net", 0, 950)
    assert (run.stop_by_us, run.segments_us) == (5_000, (166, 316, 616))


def test_with_one_segment_there_is_nothing_to_leave_before() -> None:
    run = batches.choice(9, [waits(1, NET, deadline_us=7_000)], [0], 111).run
    assert run is not None
    assert (run.stop_by_us, run.segments_us) == (0, ())


def test_without_deadlines_no_row_is_told_to_leave() -> None:
    run = batches.choice(9, [waits(1, NET)], [2], 711).run
    assert run is not None
    assert (run.stop_by_us, run.segments_us) == (0, ())


@pytest.mark.parametrize(
    ("member", "stop", "keeps", "row"),
    [
        # (exits looked at, whether its features are kept)
        (waits(1, NET, deadline_us=FAR_US), 0, True, ((), True)),
        (waits(1, NET, deadline_us=FAR_US), 0, False, ((), False)),
        (waits(1, NET, deadline_us=FAR_US), 2, True, ((), False)),
        (waits(1, NET, deadline_us=FAR_US, target=1), 1, True, ((), False)),
        (waits(1, NET, deadline_us=FAR_US, mandatory=1), 0, False, ((), True)),
        (gated(1), 2, True, ((0, 1), False)),
        (gated(1), 0, False, ((0,), True)),
        (gated(1, stage=1), 2, True, ((1,), False)),
    ],
)
def test_a_row_says_where_its_gate_is_asked_and_whether_it_may_go_on_later(
    member: Waiting, stop: int, keeps: bool, row: tuple[tuple[int, ...], bool]
) -> None:
    run = batches.choice(1, [member], [stop], 0, keeps=keeps).run
    assert run is not None
    gates = () if member.gates is None else tuple(member.gates[exit_index] for exit_index in row[0])
    assert run.rows == (Row(1, stop, row[0], gates, row[1]),)


def test_under_conditions_it_may_always_go_on() -> None:
    staged = waits(1, NET, due_us=NEVER_US)
    staged.staged = True
    run = batches.choice(1, [staged], [0], 0, keeps=False).run
    assert run is not None
    assert run.rows[0].keep
