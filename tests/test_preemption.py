"""Giving way: who is asked to yield, when, and who is left alone."""

from __future__ import annotations

import pytest

from delen.daemon.backlog import Backlog
from delen.daemon.config import Limits
from delen.daemon.device import Device
from delen.daemon.preemption import preempt
from delen.daemon.records import Flight, Yield
from delen.policies.view import Waiting
from delen.tests.exact import exact, flight, waits

NET = exact()
FAR_US = 1_000_000


def asked_to_yield(urgent: Waiting, *flights: Flight, now_us: int = 50, others: tuple[Waiting, ...] = ()) -> list[int]:
    """The runs that are asked at once when this request comes."""
    device, backlog = Device(Limits(), 1_000), Backlog()
    device.up(0)
    for each in flights:
        device.post(each)
    for waiting in (*others, urgent):
        backlog.add(waiting)
    return [effect.run for effect in preempt(device, backlog, now_us, urgent) if isinstance(effect, Yield)]


def timed(ticket: int, *, deadline_us: int = FAR_US, mandatory: int = 0, stage: int = 0) -> Waiting:
    return waits(ticket, NET, deadline_us=deadline_us, mandatory=mandatory, stage=stage)


def free(ticket: int) -> Waiting:
    return waits(ticket, NET, due_us=0, bounded=False)


def spare(waiting: Waiting) -> Waiting:
    waiting.spare = True
    return waiting


def test_best_effort_gives_way_to_anybody_bounded() -> None:
    assert asked_to_yield(timed(9), flight(1, free(1))) == [1]
    assert asked_to_yield(waits(9, NET, due_us=5), flight(1, free(1))) == [1]
    assert asked_to_yield(free(9), flight(1, free(1))) == []
    assert asked_to_yield(spare(timed(9)), flight(1, free(1))) == []


# A run to the last exit takes 711 us; the newcomer needs 110 us behind it.
@pytest.mark.parametrize(("deadline_us", "runs"), [(711 + 110, []), (711 + 109, [1])])
def test_depth_gives_way_to_a_deadline_that_could_not_wait_for_it(deadline_us: int, runs: list[int]) -> None:
    deeper = waits(1, NET, due_us=5)
    assert asked_to_yield(timed(9, deadline_us=deadline_us), flight(1, deeper)) == runs
    assert asked_to_yield(waits(9, NET, due_us=0), flight(1, deeper)) == []


def test_those_who_waited_already_count_too() -> None:
    deeper, other = flight(1, waits(1, NET, due_us=5)), timed(2, deadline_us=900, mandatory=1)
    assert asked_to_yield(timed(9, deadline_us=1_000), deeper, others=(other,)) == [1]


def test_what_a_run_owes_to_its_own_deadlines_is_done_first() -> None:
    urgent = timed(9, deadline_us=400)
    owed = flight(1, timed(1, mandatory=2))
    assert asked_to_yield(urgent, owed) == []
    assert owed.yield_at_us is None
    # This one owes the first exit only, and is asked while it does that.
    partly = flight(2, timed(1))
    assert asked_to_yield(urgent, partly, now_us=0) == []
    assert partly.yield_at_us is not None
    assert 0 < partly.yield_at_us < 111
    # Later it is beyond what it owes, and is asked at once.
    beyond = flight(3, timed(1))
    assert asked_to_yield(urgent, beyond, now_us=150) == [3]


def test_nobody_is_asked_twice() -> None:
    once = flight(1, free(1))
    assert asked_to_yield(timed(9), once) == [1]
    assert asked_to_yield(timed(8), once) == []


def test_a_run_posted_behind_is_taken_back_too() -> None:
    running, posted = flight(1, timed(1, mandatory=2)), flight(2, spare(timed(2)), start_us=711)
    assert asked_to_yield(timed(9, deadline_us=900), running, posted) == [2]
    assert asked_to_yield(timed(9), flight(1, free(1)), flight(2, free(2), start_us=711)) == [1, 2]
