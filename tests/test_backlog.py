"""The queue: three classes, each in the order of what is due, and features that are lost put nobody in limbo."""

from __future__ import annotations

from delen.daemon.backlog import Backlog
from delen.policies.view import Pools
from delen.tests.exact import exact, waits

NET, OTHER = exact(), exact("other")


def tickets(pools: Pools) -> dict[tuple[str, int], list[int]]:
    return {key: [waiting.ticket for waiting in pool] for key, pool in pools.items() if pool}


def test_requests_wait_by_class_network_and_due_time() -> None:
    backlog = Backlog()
    for waiting in (
        waits(1, NET, deadline_us=300),
        waits(2, NET, deadline_us=100),
        waits(3, NET, deadline_us=200),
        waits(4, OTHER, deadline_us=50),
        waits(5, NET, due_us=10),
        waits(6, NET, due_us=10, bounded=False),
    ):
        backlog.add(waiting)
    view = backlog.view()
    assert tickets(view.timed) == {("net", 0): [2, 3, 1], ("other", 0): [4]}
    assert tickets(view.untimed) == {("net", 0): [5]}
    assert tickets(view.best_effort) == {("net", 0): [6]}


def test_those_due_together_keep_the_order_in_which_they_came() -> None:
    backlog = Backlog()
    for ticket in (3, 1, 2):
        backlog.add(waits(ticket, NET, deadline_us=100))
    assert tickets(backlog.view().timed) == {("net", 0): [3, 1, 2]}


def test_only_the_one_that_is_meant_is_taken_out() -> None:
    backlog, twins = Backlog(), [waits(1, NET, deadline_us=100), waits(1, NET, deadline_us=100)]
    for waiting in twins:
        backlog.add(waiting)
    backlog.remove(twins[1])
    backlog.remove(twins[1])
    [left] = backlog.view().timed["net", 0]
    assert left is twins[0]


def test_after_the_loss_of_all_features_everybody_waits_at_the_start_in_order() -> None:
    backlog = Backlog()
    early, late, fresh = (waits(n, NET, deadline_us=due) for n, due in ((1, 100), (2, 300), (3, 200)))
    early.move_to(1)
    late.move_to(2)
    for waiting in (late, early, fresh):
        backlog.add(waiting)
    assert tickets(backlog.view().timed) == {("net", 2): [2], ("net", 1): [1], ("net", 0): [3]}
    backlog.restart()
    assert tickets(backlog.view().timed) == {("net", 0): [1, 3, 2]}


def test_the_work_that_admission_sees_is_what_has_a_deadline() -> None:
    backlog = Backlog()
    backlog.add(waits(1, NET, deadline_us=100))
    backlog.add(waits(2, NET, due_us=5))
    backlog.add(waits(3, NET, due_us=5, bounded=False))
    assert [chunk.deadline_us for chunk in backlog.work()] == [100]
