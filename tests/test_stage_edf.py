"""The default policy: who goes first, with whom, how deep, and when depth must wait."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.daemon.backlog import Backlog
from delen.policies.fairness import Share
from delen.policies.policy import make_policy
from delen.policies.scarcity import Scarcity, rate_at_best
from delen.policies.stage_edf import StageEdf, best_free
from delen.policies.view import NEVER_US, Choice, Run, Served, Waiting
from delen.tests.exact import NoCorrection, exact, waits

NET, OTHER = exact(), exact("other")
FAR_US = 1_000_000


def decision(*queue: Waiting, now_us: int = 0, price: float = 0.0, **options: object) -> Choice | None:
    backlog = Backlog()
    for waiting in queue:
        backlog.add(waiting)
    backlog.view().scarcity = Scarcity(price, now_us)
    return make_policy("stage-edf", options).choose(backlog.view(), now_us, 1)


def choose(*queue: Waiting, now_us: int = 0, price: float = 0.0, **options: object) -> Choice:
    choice = decision(*queue, now_us=now_us, price=price, **options)
    assert choice is not None
    return choice


def run_of(choice: Choice) -> Run:
    assert choice.run is not None
    return choice.run


def tickets(choice: Choice) -> list[int]:
    assert [member.ticket for member in choice.members] == [row.ticket for row in run_of(choice).rows]
    return [member.ticket for member in choice.members]


def stops(choice: Choice) -> list[int]:
    return [row.stop for row in run_of(choice).rows]


def spare(waiting: Waiting) -> Waiting:
    waiting.spare = True
    return waiting


def far(hop_us: float = 5_000.0, network: Served | None = None) -> Served:
    """A network whose worker is far away."""
    made = exact() if network is None else network
    made.__dict__["hop_us"] = hop_us
    return made


def ahead(name: str = "a") -> Share:
    """Of a tenant that has had more than its part."""
    share = Share(name)
    share.level = share.worth = 0.1
    return share


def gated(ticket: int, *, deadline_us: int = FAR_US, stage: int = 0, network: Served = NET) -> Waiting:
    made = waits(ticket, network, deadline_us=deadline_us, mandatory=2, stage=stage)
    made.gates, made.beyond = (0.9, 0.9, math.inf), (0.3, 0.3, 0.0)
    made.move_to(stage)
    return made


def test_nothing_waits_nothing_runs() -> None:
    assert decision() is None


def test_depth_that_could_not_be_reached_in_time_is_not_begun() -> None:
    held = waits(1, NET, deadline_us=210, stage=1)
    assert decision(held) is None
    assert decision(held, now_us=-1) is not None


# ---- who goes first


def test_earliest_deadline_first_across_networks() -> None:
    choice = choose(waits(1, NET, deadline_us=9_000), waits(2, OTHER, deadline_us=8_000))
    assert (run_of(choice).network, tickets(choice)) == ("other", [2])


def test_those_with_deadlines_go_before_those_without_that_are_due_later() -> None:
    timed, untimed = waits(1, NET, deadline_us=FAR_US), waits(2, OTHER, due_us=2 * FAR_US)
    assert tickets(choose(timed, untimed)) == [1]
    assert tickets(choose(timed, waits(2, OTHER, due_us=FAR_US // 2))) == [2]


def test_work_without_a_deadline_that_is_due_goes_first_if_nobody_gets_late_by_it() -> None:
    overdue = waits(1, OTHER, due_us=0, target=0)
    assert tickets(choose(waits(2, NET, deadline_us=5_000), overdue, now_us=100)) == [1]
    # The first exit takes 110 us: there is time for one only.
    assert tickets(choose(waits(2, NET, deadline_us=300), overdue, now_us=100)) == [2]


def test_best_effort_runs_while_deadlines_can_wait_and_not_a_moment_longer() -> None:
    free = waits(2, OTHER, due_us=0, bounded=False)
    # Alone and at its best exit it takes 110 us; half of the slack of 2 * 110 + 2 is enough, and then it is time for
    # a first batch twice as large.
    enough_us = 110 + 2 * (111 + NET.time_us(0, 0, 2))
    assert tickets(choose(waits(1, NET, deadline_us=enough_us), free)) == [2]
    assert tickets(choose(waits(1, NET, deadline_us=enough_us - 3), free)) == [1]


def test_without_filling_up_deadlines_come_first_always() -> None:
    free = waits(2, OTHER, due_us=0, bounded=False)
    assert tickets(choose(waits(1, NET, deadline_us=FAR_US), free, fill=False)) == [1]


def test_a_full_batch_need_not_wait() -> None:
    free = waits(99, OTHER, due_us=0, bounded=False)
    queue = [waits(ticket, NET, deadline_us=FAR_US) for ticket in range(NET.batch_useful[0])]
    assert tickets(choose(*queue, free)) == list(range(len(queue)))
    assert tickets(choose(*queue[1:], free)) == [99]


def test_those_beyond_their_share_keep_nobody_waiting() -> None:
    beyond = spare(waits(1, NET, deadline_us=300))
    assert tickets(choose(beyond, waits(2, OTHER, deadline_us=FAR_US))) == [2], "though theirs is the earlier deadline"
    assert tickets(choose(beyond)) == [1]


# ---- with whom


def test_requests_share_a_batch_in_order_of_their_deadlines() -> None:
    queue = [waits(ticket, NET, deadline_us=FAR_US + ticket) for ticket in (3, 1, 2)]
    assert tickets(choose(*queue)) == [1, 2, 3]


def test_survivors_of_different_runs_go_on_as_one_batch() -> None:
    survivors = [waits(ticket, NET, deadline_us=FAR_US, mandatory=2, stage=1) for ticket in (1, 2)]
    choice = choose(*survivors)
    assert (run_of(choice).first, tickets(choice), stops(choice)) == (1, [1, 2], [2, 2])


def test_those_who_have_their_answer_go_deeper_together_whoever_they_are() -> None:
    mine = waits(1, NET, deadline_us=FAR_US, stage=1)
    theirs = waits(2, NET, deadline_us=FAR_US + 1, stage=1, share=Share("b"))
    without = waits(3, NET, due_us=5, stage=1)
    choice = choose(mine, theirs, without)
    assert run_of(choice).first == 1
    assert tickets(choice) == [3, 1, 2]


def test_who_must_run_alone_does() -> None:
    alone = waits(1, NET, deadline_us=FAR_US)
    alone.alone = True
    assert tickets(choose(alone, waits(2, NET, deadline_us=FAR_US + 1))) == [1]
    assert tickets(choose(waits(0, NET, deadline_us=FAR_US - 1), alone)) == [0]


# ---- how deep


@pytest.mark.parametrize(
    ("left_us", "depth"), [(109, 0), (111, 0), (310, 0), (509, 0), (510, 1), (1_309, 1), (1_310, 2), (FAR_US, 2)]
)
def test_alone_it_goes_as_deep_as_half_the_time_left_over_allows(left_us: int, depth: int) -> None:
    # Exit 0 takes 110 us, exits 1 and 2 take 200 and 600 us more.
    assert stops(choose(waits(1, NET, deadline_us=left_us))) == [depth]


@pytest.mark.parametrize(("left_us", "depth"), [(310, 0), (312, 1), (710, 1), (712, 2)])
def test_how_much_of_the_time_left_over_goes_into_depth_is_an_option(left_us: int, depth: int) -> None:
    assert stops(choose(waits(1, NET, deadline_us=left_us), spare_share=1.0)) == [depth]


@pytest.mark.parametrize(("left_us", "depth"), [(564, 0), (566, 1), (1_364, 1), (1_366, 2)])
def test_of_the_time_left_over_depth_takes_what_it_mostly_takes(left_us: int, depth: int) -> None:
    # A run may take half as long again: 165 us of what is left are its own, and half of the rest may go into the
    # 200 and 600 us that depth mostly takes.
    network, correction = exact(), NoCorrection()
    correction.margin, correction.factor = 0.5, 1.5
    network.correction = correction
    assert stops(choose(waits(1, network, deadline_us=left_us))) == [depth]


def test_never_deeper_than_wanted_nor_shallower_than_needed() -> None:
    assert stops(choose(waits(1, NET, deadline_us=FAR_US, target=1))) == [1]
    assert stops(choose(waits(1, NET, deadline_us=200, mandatory=1))) == [1]


def test_exits_that_are_dominated_are_not_stopped_at() -> None:
    network = exact("ladder", accuracies=(0.85, 0.85, 0.97))
    # Time enough for segments 0 and 1, not for 2.
    assert stops(choose(waits(1, network, deadline_us=600))) == [0]


def test_where_others_wait_whom_it_saves_time_to_join_a_run_ends_at_the_exit_it_must_reach() -> None:
    first, second = waits(1, NET, deadline_us=2_000), waits(2, NET, deadline_us=FAR_US, stage=1)
    assert stops(choose(first, second, fill=False)) == [0]
    assert stops(choose(first, second, fill=False, rebatch=False)) == [2]
    assert stops(choose(first, waits(2, OTHER, deadline_us=FAR_US), fill=False)) == [2], "nobody to join"


def test_where_joining_others_would_cost_more_time_than_it_saves_a_run_goes_on() -> None:
    # Together they take another way to the worker and back, longer than what a row saves in a batch.
    first, second = waits(1, far(), deadline_us=9_000), waits(2, far(), deadline_us=FAR_US, stage=1)
    assert stops(choose(first, second, fill=False)) == [2]


@pytest.mark.parametrize(("head_us", "depth"), [(10.0, 0), (100.0, 2)])
def test_the_head_that_is_run_to_join_others_counts(head_us: float, depth: int) -> None:
    # Two together save 100 us of segment 1 and 1.5 heads, alone or not; to join, the first runs one more.
    network = exact(heads_us=[head_us] * 3)
    first, second = waits(1, network, deadline_us=FAR_US), waits(2, network, deadline_us=FAR_US, stage=1)
    assert stops(choose(first, second, fill=False)) == [depth]


def test_under_a_gate_who_stays_goes_on_with_those_who_stay_of_others() -> None:
    assert stops(choose(gated(1), gated(2))) == [2, 2], "nobody is left to join"
    useful = NET.batch_useful[2]
    assert stops(choose(*[gated(ticket) for ticket in range(useful + 1)])) == [0] * useful
    assert stops(choose(*[gated(ticket) for ticket in range(useful + 1)], rebatch=False)) == [2] * useful


def test_under_a_gate_only_who_is_likely_to_stay_counts() -> None:
    # A full batch has nobody to join; the two or three of it that will stay have.
    network = far(300.0)
    queue = [gated(ticket, network=network) for ticket in range(3 * network.batch_max)]
    assert set(stops(choose(*queue))) == {0}
    for waiting in queue:
        waiting.beyond = (1.0, 1.0, 0.0)
    assert set(stops(choose(*queue))) == {2}


def test_under_a_gate_too_a_run_goes_on_where_the_way_back_takes_longer() -> None:
    queue = [gated(ticket, network=far()) for ticket in range(3 * NET.batch_useful[2])]
    assert set(stops(choose(*queue))) == {2}


def test_depth_goes_where_it_gains_most_accuracy_per_microsecond() -> None:
    steep = exact("steep", accuracies=(0.5, 0.9, 0.92))
    optional = [waits(1, NET, deadline_us=FAR_US, stage=1), waits(2, steep, deadline_us=FAR_US, stage=1)]
    choice = choose(*optional)
    assert (tickets(choice), stops(choice)) == ([2], [1])


def test_depth_that_gains_less_than_time_is_worth_is_left_out() -> None:
    # Alone, exit 1 takes 200 us more than exit 0, exit 2 another 400 us.
    accuracy = NET.costs.accuracy
    first, second = ((accuracy[1] - accuracy[0]) / 200, (accuracy[2] - accuracy[1]) / 400)
    assert second < first
    for price, depth in ((0.99 * second, 2), (1.01 * second, 1), (0.99 * first, 1), (1.01 * first, 0)):
        assert stops(choose(waits(1, NET, deadline_us=FAR_US), price=price)) == [depth]
    assert stops(choose(waits(1, NET, deadline_us=FAR_US), price=1.0, scarcity=False)) == [2]


def test_what_gains_less_than_time_is_worth_fills_no_wait_but_runs_where_nobody_waits() -> None:
    urgent, held = waits(1, NET, deadline_us=FAR_US), waits(2, OTHER, deadline_us=FAR_US, stage=1)
    worth = rate_at_best(held, 1)
    assert tickets(choose(urgent, held, price=0.99 * worth)) == [2]
    assert tickets(choose(urgent, held, price=1.01 * worth)) == [1]
    assert tickets(choose(held, price=1.0)) == [2]


def test_a_tenant_with_more_weight_gets_its_depth_first() -> None:
    light = waits(1, NET, deadline_us=FAR_US, stage=1)
    heavy = waits(2, OTHER, deadline_us=FAR_US, stage=1, share=Share("b", weight=3.0))
    assert tickets(choose(light, heavy)) == [2]
    heavy.share = Share("b", weight=0.3)
    assert tickets(choose(light, heavy)) == [1]


def test_whose_tenant_had_more_goes_on_only_where_that_gains_more_though_there_is_time_for_both() -> None:
    held = waits(2, OTHER, deadline_us=FAR_US, stage=1, share=Share("b"))
    assert stops(choose(waits(1, NET, deadline_us=FAR_US), held, fill=False)) == [2]
    assert stops(choose(waits(1, NET, deadline_us=FAR_US, share=ahead()), held, fill=False)) == [0]


def test_depth_waits_for_those_beyond_their_share_though_there_is_time_for_both() -> None:
    beyond = spare(waits(2, OTHER, deadline_us=FAR_US))
    assert stops(choose(waits(1, NET, deadline_us=FAR_US), beyond)) == [0]


@pytest.mark.parametrize(("extra_us", "first"), [(-3, 1), (3, 2)])
def test_optional_depth_waits_for_a_deadline_that_could_not_wait_for_it(extra_us: int, first: int) -> None:
    urgent, held = waits(1, NET, deadline_us=0, target=0), waits(2, OTHER, deadline_us=FAR_US, stage=1, target=1)
    # The next exit takes 211 us; and a first batch twice as large must fit behind it into half of the time left over.
    needs_us = 110 + 2 * (211 + NET.time_us(0, 0, 2))
    urgent.deadline_us = urgent.due_us = needs_us + extra_us
    assert tickets(choose(urgent, held)) == [first]


# ---- any queue


def run_us(first: int, depths: Sequence[int]) -> float:
    """The time of one run by hand: a row more costs half of the first, rows leave where they stop, heads take 10 us."""

    def batch(us: float, rows: int) -> float:
        return us * (1 + 0.5 * (rows - 1)) if rows else 0.0

    total = 0.0
    for index, us in enumerate((100, 200, 400)):
        if index >= first:
            total += batch(us, sum(1 for stop in depths if stop >= index))
            total += batch(10, sum(1 for stop in depths if stop == index))
    return total


QUEUES = st.lists(
    st.tuples(st.integers(100, 4_000), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2), st.booleans()),
    min_size=1,
    max_size=8,
)


@given(
    st.sampled_from([NEVER_US, 300, 700, 1_500, 5_000]),
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)),
    st.sampled_from(["best effort", "optional", "spare"]),
    st.booleans(),
)
def test_who_waits_alone_goes_as_deep_as_if_it_had_been_weighed_against_others(
    deadline_us: int, depths: tuple[int, int, int], kind: str, gated: bool
) -> None:
    mandatory, target, stage = depths
    if kind == "optional":
        stage, mandatory = max(1, stage), min(mandatory, max(1, stage) - 1)
    target, bounded = max(mandatory, target, stage), kind != "best effort"
    waiting = waits(1, NET, deadline_us=deadline_us, mandatory=mandatory, target=target, stage=stage, bounded=bounded)
    waiting.spare = kind == "spare"
    if gated:
        waiting.gates, waiting.beyond = (0.5, 0.5, math.inf), (0.5, 0.2, 0.0)
        waiting.move_to(stage)
    backlog = Backlog()
    backlog.add(waiting)
    alone = make_policy("stage-edf").choose(backlog.view(), 100, 1)
    free = best_free(backlog.view(), 100, NEVER_US)
    assert alone == (None if free is None else StageEdf()._spare(backlog.view(), free, 100, 1))


@given(QUEUES, st.sampled_from([{}, {"rebatch": False}, {"fill": False}, {"spare_share": 1.0}]))
def test_a_run_takes_what_it_says_and_makes_nobody_late_who_could_be_in_time(
    requests: list[tuple[int, int, int, int, bool]], options: dict[str, Any]
) -> None:
    queue = [
        waits(
            ticket,
            OTHER if other else NET,
            deadline_us=deadline_us,
            mandatory=mandatory,
            target=max(mandatory, target, stage),
            stage=stage,
        )
        for ticket, (deadline_us, mandatory, target, stage, other) in enumerate(requests)
    ]
    choice = decision(*queue, now_us=0, **options)
    if choice is None:
        assert all(waiting.optional for waiting in queue)
        return
    run = run_of(choice)
    assert run.predicted_us == pytest.approx(run_us(run.first, stops(choice)), abs=1.01)
    for member, stop in zip(choice.members, stops(choice), strict=True):
        assert max(member.mandatory, member.stage) <= stop <= member.target
    first = choice.members[0]
    if run_us(first.stage, [first.expected]) + 1 <= first.deadline_us:
        assert all(run.predicted_us <= member.deadline_us for member in choice.members)
    if first.optional:
        # Whoever must still be answered can wait for it.
        for other in queue:
            alone_us = run_us(other.stage, [other.expected])
            in_time = other.optional or alone_us > other.deadline_us
            assert in_time or run.predicted_us + alone_us <= other.deadline_us
