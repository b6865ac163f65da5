"""The device as the core knows it: when it is free, when it wants another run, and when a run takes far too long."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Refusal
from delen.daemon.config import Limits
from delen.daemon.device import Device, pays_ahead
from delen.daemon.noise import NoiseSpec
from delen.daemon.records import Flight
from delen.daemon.simulate import Simulation
from delen.policies import batches
from delen.policies.view import NEVER_US, Waiting
from delen.tests.exact import exact, flight, waits
from delen.tests.simulation import served

NET = exact()
FAR_US = 1_000_000


def timed(ticket: int, *, mandatory: int = 0, stage: int = 0) -> Waiting:
    return waits(ticket, NET, deadline_us=FAR_US, mandatory=mandatory, stage=stage)


def device(*flights: Flight, ahead_us: int = 0) -> Device:
    made = Device(Limits(), ahead_us)
    made.up(0)
    for each in flights:
        made.post(each)
    return made


def test_a_run_may_start_now_where_nothing_runs_and_never_before_the_worker_is_ready() -> None:
    assert device().start_us(5) == 5
    assert Device(Limits(), 0).start_us(5) is None
    assert device(flight(1, timed(1))).start_us(5) is None


def test_the_next_run_may_be_posted_only_shortly_before_the_end_of_the_one_that_executes() -> None:
    ahead = device(flight(1, timed(1)), ahead_us=200)
    post_us = ahead.post_at()
    assert 711 - 200 - 2 <= post_us <= 711 - 200
    assert ahead.start_us(post_us - 1) is None
    assert ahead.start_us(post_us) == 711
    assert ahead.start_us(900) == 900, "it should have been over already"
    ahead.post(flight(2, timed(2), start_us=711))
    assert (ahead.start_us(700), ahead.post_at()) == (None, NEVER_US), "there are never more than two"


def test_no_run_is_posted_whose_inputs_would_lie_over_those_of_the_run_that_executes() -> None:
    first, second = flight(1, timed(1)), flight(2, timed(2), start_us=711)
    both = device(first, second, ahead_us=200)
    # Another worker's, so it did not wait for the first. The third is odd, as the first is, whose inputs are in use.
    both.over(second, 650)
    assert (both.start_us(700), both.post_at()) == (None, NEVER_US)
    both.over(first, 710)
    assert both.start_us(710) == 710


def test_the_one_behind_begins_when_the_first_is_over() -> None:
    first, second = flight(1, timed(1)), flight(2, timed(2), start_us=711)
    both = device(first, second, ahead_us=200)
    assert [each.run.id for each in both.flights()] == [1, 2]
    both.over(first, 800)
    assert (both.running, both.posted) == (second, None)
    assert (second.posted_us, second.ends_us, second.must_us) == (800, 1_511, 911)


def test_the_next_run_is_expected_to_begin_when_the_one_before_it_is_likely_to_be_over() -> None:
    network = served()
    long = flight(1, waits(1, network, deadline_us=FAR_US))
    # Its three segments and a head, without the hop and without what only some runs take.
    assert long.likely_us == pytest.approx(710, abs=2)
    assert long.ends_us > 760
    ahead = device(long, ahead_us=200)
    assert ahead.start_us(ahead.post_at()) == long.likely_us


def test_when_the_one_behind_is_likely_to_be_over_counts_from_when_it_began() -> None:
    network = served()
    first, second = (flight(1 + at, waits(1 + at, network, deadline_us=FAR_US), start_us=711 * at) for at in (0, 1))
    both = device(first, second, ahead_us=200)
    both.over(first, 5_000)
    assert second.likely_us == pytest.approx(5_000 + 710, abs=2)
    assert both.post_at() == second.likely_us - 200, "and so does when the next may be posted"


def test_a_run_taken_back_leaves_the_one_that_executes_alone() -> None:
    first, second = flight(1, timed(1)), flight(2, timed(2), start_us=711)
    both = device(first, second, ahead_us=200)
    both.over(second, 300)
    assert (both.running, both.posted, first.posted_us) == (first, None, 0)


def test_it_is_free_when_what_deadlines_need_is_done_and_the_rest_has_given_way() -> None:
    # What must be done takes 111 us, up to the second exit 311, all of it 711.
    assert device(flight(1, timed(1))).free_us(0) == 111, "asked in time, it ends with what it must"
    assert device(flight(1, timed(1))).free_us(120) == 311, "later, with the exit ahead"
    assert device(flight(1, timed(1))).free_us(500) == 711
    assert device(flight(1, timed(1, mandatory=2))).free_us(0) == 711
    assert device(flight(1, timed(1, mandatory=2))).free_us(9_000) == 9_000
    assert device(flight(1, timed(1, stage=1), stop=1)).free_us(0) == 211, "depth alone gives way at its next exit"
    assert device().free_us(7) == 7


def test_with_a_run_posted_behind_it_is_free_after_both() -> None:
    both = device(flight(1, timed(1, mandatory=2)), flight(2, timed(2, mandatory=2), start_us=711), ahead_us=200)
    assert both.free_us(0) == 711 + 711


def test_what_lies_behind_a_run_that_is_late_begins_as_much_later() -> None:
    behind = flight(2, timed(2, mandatory=2), start_us=711)
    both = device(flight(1, timed(1, mandatory=2)), behind, ahead_us=200)
    assert both.free_us(9_000) == 9_000 + 711
    depth = flight(2, timed(2, stage=1), start_us=711)
    both = device(flight(1, timed(1, mandatory=2)), depth, ahead_us=200)
    assert both.free_us(9_000) == 9_000 + 211, "depth alone gives way at its next exit, once it has begun"


@pytest.mark.parametrize(("behind", "refused"), [(0, False), (1, True)])
def test_behind_a_stalled_run_and_another_nobody_is_promised_what_both_leave_no_time_for(
    behind: int, refused: bool
) -> None:
    # Everything takes four times as long as its 7.8 ms; a bound of 10 ms leaves 8.5 ms for one run.
    network = exact(segments_us=(7_790,), accuracies=(0.9,))
    # One row fills a batch, so the next run is posted early.
    network.batch_max = 1
    simulation = Simulation([network], noise=NoiseSpec(steps=((0.0, 4.0),)), ahead_us=1_000)
    for when_us in range(0, 100 * (1 + behind), 100):
        simulation.ask(when_us, "a", Bounds(latency_ms=100.0))
    simulation.ask(20_000, "b", Bounds(latency_ms=10.0))
    outcomes = simulation.run(until_us=20_001)
    assert [isinstance(outcome.reply, Refusal) for outcome in outcomes] == [True] * refused


def test_who_is_in_one_of_its_runs_is_known() -> None:
    both = device(flight(1, timed(1), timed(2)), flight(2, timed(3), start_us=711), ahead_us=200)
    assert [both.holds(ticket) for ticket in (1, 2, 3, 4)] == [True, True, True, False]
    assert both.find(2) is both.posted
    assert both.find(9) is None


def test_a_run_that_takes_far_too_long_is_overdue() -> None:
    limits = Limits()
    slow = device(flight(1, timed(1)))
    assert slow.wake_at() == limits.run_ms_min * 1000
    long = flight(1, timed(1))
    long.run = batches.choice(1, [timed(1)], [2], 10**6).run or long.run
    assert device(long).wake_at() == int(limits.run_factor_max * 10**6)
    assert device().wake_at() == NEVER_US


def test_when_it_is_lost_so_is_all_it_had_until_it_is_up_again() -> None:
    first, second = flight(1, timed(1)), flight(2, timed(2), start_us=711)
    gone = device(first, second, ahead_us=200)
    assert gone.lost(50_000) == (first, second)
    assert (gone.start_us(10), gone.free_us(10), list(gone.flights())) == (None, 50_000, [])
    gone.up(40_000)
    assert gone.start_us(40_000) == 40_000


def test_only_deadlines_of_this_run_are_owed_anything() -> None:
    assert flight(1, timed(1)).timed
    assert not flight(1, waits(1, NET, due_us=5)).timed
    assert not flight(1, timed(1, stage=1)).timed
    beyond = timed(1)
    beyond.spare = True
    assert not flight(1, beyond).timed
    assert not flight(1, beyond).bounded, "it gives way like best effort"
    assert not flight(1, waits(1, NET, bounded=False)).bounded


def test_a_run_is_posted_early_where_that_saves_more_than_one_more_row_would() -> None:
    # Alone to exit 0 takes 110 us, and a row more half of that; so one more saves 55 us.
    near, far = exact(), exact()
    near.__dict__["hop_us"], far.__dict__["hop_us"] = 54.0, 56.0
    for network, pays in ((near, False), (far, True)):
        members = [waits(1, network, deadline_us=FAR_US), waits(2, network, deadline_us=FAR_US)]
        assert pays_ahead(batches.choice(1, members, [0, 0], 165)) is pays


def test_who_could_have_no_company_is_always_posted_early() -> None:
    alone = timed(1)
    alone.alone = True
    assert pays_ahead(batches.choice(1, [alone], [0], 110))
    full = [timed(ticket) for ticket in range(NET.batch_useful[0])]
    assert pays_ahead(batches.choice(1, full, [0] * len(full), 1_000))
    assert not pays_ahead(batches.choice(1, full[:-1], [0] * (len(full) - 1), 1_000))


def test_what_is_left_of_a_run_that_passes_an_exit_has_its_own_time() -> None:
    network = exact(segments_us=(100, 100_000, 100_000))
    limits = Limits(run_ms_min=1, run_factor_max=3.0)
    device = Device(limits, 0)
    device.up(0)
    going = flight(1, waits(1, network))
    device.post(going)
    first_us = device.wake_at()
    device.passed(going, 1, 100_100)
    assert device.wake_at() == 100_100 + 3 * network.time_us(2, 2, 1)
    assert first_us > 3 * network.time_us(0, 2, 1) - 10
    device.passed(going, 2, 200_000)
    assert device.wake_at() == 100_100 + 3 * network.time_us(2, 2, 1), "nothing is left of it"
