"""The queue: every class in the order of what is due, and features that are lost put nobody in limbo."""

from __future__ import annotations

from delen.daemon.backlog import Backlog
from delen.policies.pools import Pools
from delen.policies.view import Waiting
from delen.tests.exact import exact, waits

NET, OTHER = exact(), exact("other")


def backlog(*queue: Waiting) -> Backlog:
    made = Backlog()
    for waiting in queue:
        made.add(waiting)
    return made


def tickets(pools: Pools) -> dict[tuple[str, int], list[int]]:
    return {key: [member.ticket for member in pool.members] for key, pool in pools.items() if pool.members}


def spare(waiting: Waiting) -> Waiting:
    waiting.spare = True
    return waiting


def test_requests_wait_by_class_network_stage_and_due_time() -> None:
    view = backlog(
        waits(1, NET, deadline_us=300),
        waits(2, NET, deadline_us=100),
        waits(3, NET, deadline_us=200),
        waits(4, OTHER, deadline_us=50),
        waits(5, NET, due_us=10),
        waits(6, NET, due_us=10, bounded=False),
        waits(7, NET, deadline_us=70, mandatory=2, stage=1),
        waits(8, NET, deadline_us=70, stage=1),
        waits(9, NET, due_us=70, stage=2),
        spare(waits(10, NET, deadline_us=20)),
        waits(11, NET, due_us=10, bounded=False, stage=1),
    ).view()
    assert tickets(view.timed) == {("net", 0): [2, 3, 1], ("net", 1): [7], ("other", 0): [4]}
    assert tickets(view.optional) == {("net", 1): [8], ("net", 2): [9]}
    assert tickets(view.untimed) == {("net", 0): [5]}
    assert tickets(view.spare) == {("net", 0): [10]}
    assert tickets(view.best_effort) == {("net", 0): [6], ("net", 1): [11]}


def test_who_has_the_answer_it_must_have_is_optional_whatever_its_tenants_share() -> None:
    view = backlog(spare(waits(1, NET, deadline_us=70, stage=1))).view()
    assert tickets(view.optional) == {("net", 1): [1]}


def test_under_conditions_nothing_is_optional() -> None:
    staged = waits(1, NET, due_us=10, stage=1)
    staged.staged = True
    assert tickets(backlog(staged).view().untimed) == {("net", 1): [1]}


def test_its_length_is_how_many_wait() -> None:
    first, second = waits(1, NET, deadline_us=100), waits(2, NET, due_us=100)
    queue = backlog(first, second)
    assert len(queue) == 2
    assert queue.remove(first)
    assert not queue.remove(first)
    assert len(queue) == 1


def test_after_the_loss_of_all_features_everybody_waits_at_the_start_in_order() -> None:
    queue = backlog(
        waits(2, NET, deadline_us=300, mandatory=2, stage=2),
        waits(1, NET, deadline_us=100, mandatory=2, stage=1),
        waits(3, NET, deadline_us=200, mandatory=2),
        waits(4, NET, due_us=5, stage=1),
        waits(5, NET, due_us=5, bounded=False, stage=1),
    )
    queue.restart()
    view = queue.view()
    assert tickets(view.timed) == {("net", 0): [1, 3, 2]}
    assert tickets(view.optional) == {("net", 0): [4]}
    assert tickets(view.best_effort) == {("net", 0): [5]}


def test_the_work_that_admission_sees_is_what_has_a_deadline_and_no_answer() -> None:
    queue = backlog(
        waits(1, NET, deadline_us=100),
        waits(2, NET, due_us=5),
        waits(3, NET, due_us=5, bounded=False),
        waits(4, NET, deadline_us=100, stage=1),
        spare(waits(5, NET, deadline_us=90)),
    )
    assert [chunk.deadline_us for chunk in queue.work()] == [100]
