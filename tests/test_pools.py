"""Pools: in order of what is due, and cut into the batches they would run in, whoever came or went."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from delen.policies.pools import Pool, View, cut
from delen.policies.view import Waiting
from delen.tests.exact import exact, waits
from delen.tests.simulation import served

NET = exact()
USEFUL = NET.batch_useful[0]


def tickets(pool: Pool) -> list[int]:
    return [member.ticket for member in pool.members]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 2)), max_size=30), st.randoms(use_true_random=False))
def test_a_pool_is_always_what_cutting_its_sorted_members_afresh_gives(
    dues: list[tuple[int, int]], random: Random
) -> None:
    pool = Pool()
    here: list[Waiting] = []
    for ticket, (due_us, mandatory) in enumerate(dues):
        newcomer = waits(ticket, NET, deadline_us=due_us, mandatory=mandatory)
        assert pool.chunks == cut(sorted(here, key=lambda member: member.due_us))
        expected = pool.chunks_with(newcomer)
        assert pool.members == sorted(here, key=lambda member: member.due_us), "asking what if changes nothing"
        pool.add(newcomer)
        here.append(newcomer)
        assert pool.chunks == expected
        if random.random() < 0.4:
            gone = here.pop(random.randrange(len(here)))
            assert pool.remove(gone)
            assert not pool.remove(gone)


def test_those_due_together_keep_the_order_in_which_they_came() -> None:
    pool = Pool()
    for ticket in (3, 1, 2):
        pool.add(waits(ticket, NET, deadline_us=100))
    assert tickets(pool) == [3, 1, 2]
    assert [chunk.due_us for chunk in pool.chunks_with(waits(9, NET, deadline_us=100))] == [100]


def test_only_the_one_that_is_meant_is_taken_out() -> None:
    pool, twins = Pool(), [waits(1, NET, deadline_us=100), waits(1, NET, deadline_us=100)]
    for waiting in twins:
        pool.add(waiting)
    assert pool.remove(twins[1])
    assert pool.members == [twins[0]]


def test_a_pool_is_cut_into_batches_that_pay_off_each_due_with_its_first() -> None:
    chunks = cut([waits(ticket, NET, deadline_us=1_000 + ticket) for ticket in range(2 * USEFUL + 1)])
    assert [chunk.deadline_us for chunk in chunks] == [1_000, 1_000 + USEFUL, 1_000 + 2 * USEFUL]
    assert [chunk.path_us for chunk in chunks] == [NET.costs.path_us(0, 0, rows) for rows in (USEFUL, USEFUL, 1)]


def test_a_pool_is_cut_again_when_other_batches_pay_off() -> None:
    network, pool = served(), Pool()
    for ticket in range(16):
        pool.add(waits(ticket, network, deadline_us=1_000 + ticket))
    near = list(pool.chunks)
    for _ in range(200):
        network.ran(1_500.0)
    assert len(pool.chunks) < len(near)
    assert pool.chunks == cut(pool.members)


def test_a_batch_costs_what_its_deepest_row_needs() -> None:
    [chunk] = cut([waits(ticket, NET, deadline_us=1_000, mandatory=depth) for ticket, depth in enumerate((0, 2))])
    assert chunk.path_us == NET.costs.path_us(0, 2, 2)


def test_survivors_are_charged_only_what_is_left_to_run() -> None:
    [chunk] = cut([waits(1, NET, deadline_us=1_000, mandatory=2, stage=1)])
    assert chunk.path_us == NET.costs.path_us(1, 2, 1)


def test_where_somebody_must_run_alone_the_estimate_is_never_too_short() -> None:
    members = [waits(ticket, NET, deadline_us=1_000) for ticket in range(3)]
    members[1].alone = True
    chunks = cut(members)
    assert [chunk.path_us for chunk in chunks] == [NET.costs.path_us(0, 0, 1)] * 3


def test_a_view_names_every_pool_somebody_waits_in() -> None:
    def pool(*members: Waiting) -> Pool:
        made = Pool()
        for member in members:
            made.add(member)
        return made

    one, two = pool(waits(1, NET, deadline_us=1)), pool(waits(2, NET, deadline_us=2))
    view = View({("net", 0): one}, {("net", 1): pool()}, {}, {}, {("net", 0): two})
    assert list(view.pools()) == [one, two]
