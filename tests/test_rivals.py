"""Each rival's rule on queues small enough to work out by hand, and all of them on the simulated core."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer, Failure
from delen.daemon.backlog import Backlog
from delen.daemon.outcomes import percentile
from delen.daemon.scenario import load_scenario, prepare
from delen.daemon.simulate import Simulation
from delen.policies.clockwork import Clockwork, ClockworkOptions
from delen.policies.edgeserving import EdgeServing, EdgeServingOptions
from delen.policies.fixed_exit import FixedExit, FixedExitOptions
from delen.policies.policy import Policy, make_policy
from delen.policies.pools import View
from delen.policies.rival_conditions import DelenConditions
from delen.policies.slackfit import SlackFit, SlackFitOptions
from delen.policies.view import NEVER_US, Choice, Waiting
from delen.tests.exact import exact, waits

# To exit 0, 1, 2: 110, 310, 710 us, half of that more for each further row.
NET, OTHER = exact("net"), exact("other")
RIVALS = ("delen-conditions", "edgeserving", "slackfit", "clockwork", "fixed-exit")


def view(*waiting: Waiting) -> View:
    backlog = Backlog()
    for one in waiting:
        backlog.add(one)
    return backlog.view()


def came(when_us: int, waiting: Waiting) -> Waiting:
    """As the core queues it for a rule that is first come, first served."""
    waiting.arrival_us = waiting.due_us = when_us
    return waiting


def ran(choice: Choice | None) -> tuple[list[int], set[int]]:
    """Tickets of a choice's run, and where its rows stop."""
    assert choice is not None
    assert choice.run is not None
    assert choice.run.stop_by_us == 0, "as published, nobody leaves a batch early"
    assert [member.ticket for member in choice.members] == [row.ticket for row in choice.run.rows]
    return [row.ticket for row in choice.run.rows], {row.stop for row in choice.run.rows}


# ---- edgeserving


@pytest.mark.parametrize(
    ("now_us", "depth"),
    [
        pytest.param(0, 1, id="two rows to exit 1 take 466 us"),
        pytest.param(100, 0, id="400 us are left for the first"),
        pytest.param(900, 0, id="late runs as little as possible, in its place"),
    ],
)
def test_edgeserving_goes_as_deep_as_all_its_batch_allows(now_us: int, depth: int) -> None:
    queue = view(came(0, waits(1, NET, deadline_us=500)), came(1, waits(2, NET, deadline_us=9_000)))

    assert ran(EdgeServing().choose(queue, now_us, 1)) == ([1, 2], {depth})


def test_edgeserving_with_one_bound_for_all_looks_at_no_others() -> None:
    queue = view(came(0, waits(1, NET, deadline_us=500)))

    rule = EdgeServing(EdgeServingOptions(per_request=False, slo_ms=1))

    assert ran(rule.choose(queue, 0, 1)) == ([1], {2})


def test_edgeserving_serves_the_network_that_leaves_the_least_urgency() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        now_us = 3_000
        waiting = [
            came(draw.randrange(now_us), waits(ticket, draw.choice((NET, OTHER)), deadline_us=draw.randrange(1, 9_000)))
            for ticket in range(14)
        ]
        waiting.append(came(5, waits(99, OTHER)))
        for one in waiting:
            one.deadline_us = NEVER_US if one.deadline_us == NEVER_US else one.arrival_us + one.deadline_us
        rule = EdgeServing(EdgeServingOptions(batch_max=4, clip=3.0, slo_ms=2))

        tickets, depths = ran(rule.choose(view(*waiting), now_us, 1))

        plans = [_edgeserving_plan([one for one in waiting if one.served is net], now_us) for net in (NET, OTHER)]
        left = [
            sum(_urgency(one, now_us + takes_us) for one in waiting if one not in members)
            for members, _, takes_us in plans
        ]
        members, depth, _ = plans[left.index(min(left))]
        assert (tickets, depths) == ([one.ticket for one in members], {depth}), f"seed {seed}: {left}"


def _edgeserving_plan(waiting: Sequence[Waiting], now_us: int) -> tuple[list[Waiting], int, int]:
    members = sorted(waiting, key=lambda one: one.arrival_us)[:4]
    latest_us = min(one.arrival_us + _bound_us(one) for one in members)
    times_us = [NET.time_us(0, depth, len(members)) for depth in range(3)]
    depth = max((depth for depth in range(3) if now_us + times_us[depth] <= latest_us), default=0)
    return members, depth, times_us[depth]


def _bound_us(one: Waiting) -> int:
    return 2_000 if one.deadline_us == NEVER_US else one.deadline_us - one.arrival_us


def _urgency(one: Waiting, at_us: int) -> float:
    over = (at_us - one.arrival_us) / _bound_us(one) - 1
    return 3.0 if over > 2 else min(3.0, math.exp(over))


# ---- slackfit


@pytest.mark.parametrize(
    ("slack_us", "rows", "depth"),
    [
        pytest.param(800, 4, 1, id="727 to 1,035 us: four rows to exit 1, as one to exit 2 is a bucket below"),
        pytest.param(90_000, 8, 2, id="the highest bucket: all"),
        pytest.param(100, 6, 0, id="nothing is in time: the lowest bucket's largest"),
    ],
)
def test_slackfit_takes_the_largest_batch_of_the_bucket_its_slack_picks(slack_us: int, rows: int, depth: int) -> None:
    queue = view(*[waits(ticket, NET, deadline_us=1_000 + slack_us + ticket) for ticket in range(8)])

    assert ran(SlackFit().choose(queue, 1_000, 1)) == (list(range(rows)), {depth})


def test_slackfit_with_finer_buckets_goes_deeper_with_fewer() -> None:
    queue = view(*[waits(ticket, NET, deadline_us=750 + ticket) for ticket in range(8)])

    assert ran(SlackFit(SlackFitOptions(buckets=3)).choose(queue, 0, 1)) == (list(range(8)), {0})
    assert ran(SlackFit(SlackFitOptions(buckets=80)).choose(queue, 0, 1)) == ([0], {2})


def test_slackfit_starts_with_the_earliest_deadline_of_all() -> None:
    queue = view(waits(1, NET, deadline_us=5_000), waits(2, OTHER, deadline_us=4_000))

    assert ran(SlackFit().choose(queue, 0, 1)) == ([2], {2})


# ---- clockwork


def test_clockwork_drops_what_cannot_be_in_time_and_fills_the_batch_of_the_rest() -> None:
    # Two rows to exit 2 take 1,066 us, three 1,421.
    queue = view(*[waits(ticket, NET, deadline_us=us) for ticket, us in ((1, 500), (2, 1_200), (3, 5_000), (4, 6_000))])

    choice = Clockwork().choose(queue, 0, 1)

    assert ran(choice) == ([2, 3], {2})
    assert choice is not None
    assert [waiting.ticket for waiting in choice.dropped] == [1]


def test_clockwork_starts_with_the_run_that_can_wait_least_not_with_the_earliest_deadline() -> None:
    queue = view(
        waits(1, NET, deadline_us=1_900), waits(2, OTHER, deadline_us=2_000), waits(3, OTHER, deadline_us=2_000)
    )

    assert ran(Clockwork().choose(queue, 0, 1)) == ([2, 3], {2})


def test_clockwork_drops_all_where_none_is_in_time() -> None:
    choice = Clockwork().choose(view(waits(1, NET, deadline_us=700)), 0, 1)

    assert choice is not None
    assert choice.run is None
    assert [waiting.ticket for waiting in choice.dropped] == [1]


def test_clockwork_serves_the_exit_it_is_given() -> None:
    queue = view(waits(1, NET, deadline_us=700))

    assert ran(Clockwork(ClockworkOptions(exit=1)).choose(queue, 0, 1)) == ([1], {1})


def test_dropped_requests_end_as_late_before_anything_else_happens() -> None:
    simulation = Simulation([exact("net")], policy=Clockwork())
    # Takes the device for 710 us, so that the second cannot be in time any more.
    simulation.ask(0, "a", Bounds(latency_ms=5))
    simulation.ask(10, "a", Bounds(latency_ms=1))

    outcomes = simulation.run()

    assert [type(outcome.reply) for outcome in outcomes] == [Answer, Failure]
    late = outcomes[1].reply
    assert isinstance(late, Failure)
    assert late.code == "deadline"
    assert outcomes[1].ended_us == outcomes[0].ended_us, "the core says so when the device is free, not at the deadline"
    assert simulation.server.ledger.account("a").failed == 1


# ---- fixed-exit


def test_fixed_exit_runs_what_waits_at_the_network_that_waits_longest() -> None:
    queue = view(came(9, waits(3, NET)), came(5, waits(1, OTHER)), came(7, waits(2, OTHER)))

    assert ran(FixedExit().choose(queue, 20, 1)) == ([1, 2], {2})


def test_fixed_exit_is_by_network_where_that_is_said() -> None:
    options = FixedExitOptions(exit=0, exits={"net": 1})

    assert ran(FixedExit(options).choose(view(waits(1, NET)), 0, 1)) == ([1], {1})
    assert ran(FixedExit(options).choose(view(waits(1, OTHER)), 0, 1)) == ([1], {0})


def test_a_partial_batch_waits_for_the_queue_delay_and_a_full_one_does_not() -> None:
    batcher = FixedExit(FixedExitOptions(batch_max=2, queue_delay_ms=1))
    first, second = came(100, waits(1, NET)), came(300, waits(2, NET))

    waiting = batcher.choose(view(first), 200, 1)

    assert waiting is not None
    assert waiting.run is None
    assert waiting.wake_us == 1_100
    assert ran(batcher.choose(view(first), 1_100, 1)) == ([1], {2})
    assert ran(batcher.choose(view(first, second), 300, 1)) == ([1, 2], {2})


def test_the_core_asks_again_when_the_queue_delay_is_over() -> None:
    simulation = Simulation([exact("net")], policy=FixedExit(FixedExitOptions(queue_delay_ms=3)))
    simulation.ask(1_000, "a", Bounds(latency_ms=50))

    outcomes = simulation.run()

    assert 1_000 + 3_000 + 600 < outcomes[0].ended_us < 1_000 + 3_000 + 900
    assert len(simulation.runs) == 1


# ---- delen-conditions


def test_delen_goes_exit_by_exit_and_with_the_oldest_first() -> None:
    older, newer = came(0, waits(1, NET, stage=1)), came(5, waits(2, OTHER))
    for waiting in (older, newer):
        waiting.staged = waiting.alone = True

    choice = DelenConditions().choose(view(older, newer), 10, 1)

    assert ran(choice) == ([1], {1})
    assert choice is not None
    assert choice.run is not None
    assert choice.run.rows[0].keep, "it may go on"


@pytest.mark.parametrize(
    ("bounds", "exit_index", "broken"),
    [
        pytest.param(Bounds(latency_ms=0.05), 0, ("latency_ms",), id="past at the first exit"),
        pytest.param(Bounds(latency_ms=0.2), 1, ("latency_ms",), id="stops only once the bound has passed"),
        pytest.param(Bounds(latency_ms=9.0), 2, (), id="no condition true at the last exit still answers"),
        pytest.param(Bounds(accuracy=0.95), 1, (), id="stops where the accuracy is reached"),
        pytest.param(Bounds(accuracy=0.95, latency_ms=0.05), 0, ("latency_ms", "accuracy"), id="whichever holds"),
        pytest.param(Bounds(energy_mj=1.0), 1, ("energy_mj",), id="an energy cap is noticed when it is passed"),
    ],
)
def test_delen_tests_bounds_at_every_exit(bounds: Bounds, exit_index: int, broken: tuple[str, ...]) -> None:
    simulation = Simulation([exact("net")], policy=DelenConditions())
    simulation.ask(0, "a", bounds)

    reply = simulation.run()[0].reply

    assert isinstance(reply, Answer)
    assert (reply.exit, reply.broken) == (exit_index, broken)
    assert reply.stop == ("condition" if broken or bounds.accuracy == 0.95 else "last_exit")


def test_delen_interleaves_nothing() -> None:
    simulation = Simulation([exact("net"), exact("other")], policy=DelenConditions(), ahead_us=50)
    for when_us in range(0, 400, 50):
        simulation.ask(when_us, "a", Bounds(latency_ms=5.0), "net" if when_us % 100 else "other")

    simulation.run()

    tickets = [run.rows[0].ticket for run in simulation.runs]
    assert tickets == sorted(tickets)
    assert len(tickets) > len(set(tickets)), "they stop at exits on the way"


# ---- all of them on the core


@pytest.mark.parametrize("name", RIVALS)
def test_every_request_ends_exactly_once(name: str) -> None:
    for seed in range(2):
        networks = [exact("net", gates=True), exact("other")]
        simulation = Simulation(networks, seed=seed, policy=make_policy(name), ahead_us=100)
        kinds = (
            Bounds(latency_ms=3.0),
            Bounds(latency_ms=12.0, on_miss="drop"),
            Bounds(accuracy=0.9),
            Bounds(accuracy=0.9, latency_ms=9.0),
            Bounds(energy_mj=4.0),
            Bounds(),
        )
        for kind in kinds:
            simulation.poisson("a", kind, 500.0, 0, 60_000)
            simulation.poisson("b", kind, 200.0, 0, 60_000, network="other")
        for _ in range(20):
            when_us = simulation.random.randrange(50_000)
            simulation.cancel(when_us + 4_000, simulation.ask(when_us, "a", Bounds(latency_ms=20.0)))
        if seed % 2:
            simulation.kill_worker(30_000)

        outcomes = simulation.run()

        assert simulation.server.pending_count == 0, f"{name}, seed {seed}"
        assert not simulation.restarts, f"{name}, seed {seed}"
        ended = {type(outcome.reply) for outcome in outcomes}
        assert Answer in ended, f"{name}, seed {seed}"


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_run_as_published(name: str) -> None:
    """No admission, nothing put behind, no run asked to give way: what the core does only for our own rules."""
    policy: Policy = make_policy(name)

    assert (policy.admits, policy.demotes, policy.preempts) == (False, False, False)


def test_first_come_first_served_is_by_arrival_on_the_core_too() -> None:
    simulation = Simulation([exact("net")], policy=FixedExit(FixedExitOptions(batch_max=1)))
    for when_us, latency_ms in ((0, 90.0), (10, 80.0), (20, 70.0)):
        simulation.ask(when_us, "a", Bounds(latency_ms=latency_ms))

    assert [outcome.sent_us for outcome in simulation.run()] == [0, 10, 20]


def test_no_run_gives_way_to_an_urgent_newcomer() -> None:
    simulation = Simulation([exact("net")], policy=EdgeServing())
    simulation.ask(0, "a", Bounds(latency_ms=50))
    simulation.ask(10, "b", Bounds(latency_ms=0.75))

    first, second = (outcome.reply for outcome in simulation.run())

    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert (first.exit, second.broken) == (2, ("latency_ms",))


# ---- the setting of Dělen's own figures


@pytest.mark.parametrize(("case", "low_ms", "high_ms", "exit_index"), [(0, 25.7, 26.6, 1), (1, 42.9, 43.5, 2)])
def test_the_released_code_answers_when_it_was_published_to(
    case: int, low_ms: float, high_ms: float, exit_index: int
) -> None:
    scenario = load_scenario("e10")
    theirs = next(spec for spec in scenario.policies if spec.name == "delen-conditions")

    outcomes = prepare(scenario, scenario.cases[case], theirs, 0).run(until_us=5_000_000)

    times_ms = sorted((outcome.ended_us - outcome.sent_us) / 1000 for outcome in outcomes)
    assert low_ms <= percentile(times_ms, 5) <= percentile(times_ms, 95) <= high_ms
    assert {outcome.reply.exit for outcome in outcomes if isinstance(outcome.reply, Answer)} == {exit_index}


@pytest.mark.parametrize("case", [0, 1])
def test_the_default_policy_keeps_those_bounds(case: int) -> None:
    scenario = load_scenario("e10")
    ours = next(spec for spec in scenario.policies if spec.name == "stage-edf")

    outcomes = prepare(scenario, scenario.cases[case], ours, 0).run(until_us=5_000_000)

    assert outcomes
    assert all(isinstance(outcome.reply, Answer) and not outcome.reply.broken for outcome in outcomes)
