"""At exits, on the simulated core: who leaves, who joins, who gives way, whose answer is held; runs posted ahead."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet, merge
from delen.clients.wire import VERSION, Answer, Failure, Infer, Refusal
from delen.daemon.behaviour import PAYLOAD, Behaviour
from delen.daemon.config import Limits
from delen.daemon.noise import NoiseSpec
from delen.daemon.records import Ended, ExitDone, Restart, RowDone, RunReturned, StepDone
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS, Outcome, Simulation
from delen.policies.correction_rivals import Static
from delen.policies.exits import asked
from delen.policies.view import GUARD
from delen.tests.exact import exact
from delen.tests.simulation import served

FREE = Bounds()
# Answered by the first exit. Under conditions requests run alone, so the next run is known while one executes.
ALONE = Bounds(conditions=(ConditionSet(all_of=(Condition("exit", "equal", 0.0),)),) * 3)


def answers(outcomes: list[Outcome]) -> list[Answer]:
    return [outcome.reply for outcome in outcomes if isinstance(outcome.reply, Answer)]


# ---- exits: who leaves, who joins, who gives way


def timed(outcomes: list[Outcome], tenant: str) -> list[Answer]:
    return [o.reply for o in outcomes if o.tenant == tenant and isinstance(o.reply, Answer)]


def merged(simulation: Simulation) -> int:
    """How many runs went on with requests that had come to that exit in different runs."""
    came_by: dict[int, int] = {}
    count = 0
    for run in simulation.runs:
        count += len({came_by[row.ticket] for row in run.rows if row.ticket in came_by}) > 1
        came_by.update({row.ticket: run.id for row in run.rows})
    return count


def test_survivors_of_different_batches_go_on_together() -> None:
    simulation = Simulation([exact(), exact("other")], noise=NoiseSpec())
    for tenant in "ab":
        for network in ("net", "other"):
            simulation.poisson(tenant, Bounds(latency_ms=5.0), 800, 0, 200_000, network=network)
    outcomes = simulation.run()
    assert merged(simulation) >= 5
    assert any(reply.batches[-1] > reply.batches[0] for reply in answers(outcomes)), "larger deeper than at the start"


@pytest.mark.parametrize("bounds", [FREE, Bounds(energy_mj=1_000.0), Bounds(latency_ms=500.0)])
def test_depth_that_nobody_owes_gives_way_at_the_next_exit_and_goes_on_later(bounds: Bounds) -> None:
    long = exact("long", segments_us=(1_000, 20_000, 20_000))
    simulation = Simulation([long, exact()], noise=NoiseSpec())
    simulation.ask(0, "patient", bounds, "long")
    # While segment 1 or 2 runs, somebody comes who could not wait for both.
    simulation.ask(9_000, "urgent", Bounds(latency_ms=35.0))
    outcomes = simulation.run()
    [urgent], [patient] = timed(outcomes, "urgent"), timed(outcomes, "patient")
    assert urgent.broken == ()
    assert urgent.queue_us <= 21_030 - 9_000, "no more than the segment that ran"
    assert (patient.exit, patient.broken) == (2, ())
    assert patient.batches == (1, 1, 1), "nothing of it ran twice"


def test_what_a_run_owes_to_deadlines_of_its_own_does_not_give_way() -> None:
    long = exact("long", segments_us=(1_000, 5_000, 5_000))
    simulation = Simulation([long, exact()], noise=NoiseSpec())
    simulation.ask(0, "first", Bounds(latency_ms=14.0, accuracy=0.97), "long")
    simulation.ask(3_000, "second", Bounds(latency_ms=5.0))
    outcomes = simulation.run()
    assert [reply.broken for reply in timed(outcomes, "first")] == [()]
    [refused] = [o.reply for o in outcomes if o.tenant == "second"]
    assert isinstance(refused, Refusal), "it could only have been in time at the first one's cost"


@pytest.mark.slow
def test_optional_depth_never_makes_a_request_late_that_was_let_in() -> None:
    for seed in range(4):
        simulation = Simulation([exact(), exact("other")], noise=NoiseSpec(), seed=seed)
        simulation.poisson("deep", Bounds(latency_ms=50.0), 1_500, 0, 300_000)
        simulation.poisson("free", FREE, 1_000, 0, 300_000, network="other")
        simulation.poisson("tight", Bounds(latency_ms=2.5), 400, 0, 300_000, network="other")
        outcomes = simulation.run()
        replies = timed(outcomes, "deep") + timed(outcomes, "tight")
        assert len(replies) > 400
        assert all(reply.broken == () for reply in replies), f"seed {seed}"


def test_a_held_answer_is_given_while_it_still_keeps_its_bound() -> None:
    long = exact("long", segments_us=(1_000, 9_000, 9_000))
    simulation = Simulation([long], noise=NoiseSpec())
    # The device is kept busy with what must be done, so the first never gets its turn to go deeper.
    simulation.ask(0, "held", Bounds(latency_ms=20.0), "long")
    for when in range(0, 30_000, 1_000):
        simulation.ask(when, "busy", Bounds(latency_ms=3.0), "long")
    [held] = timed(simulation.run(), "held")
    assert (held.exit, held.stop, held.broken) == (0, "deadline", ())
    # When segment 1 could not end in time any more: 9,010 us before its deadline, with what the way back may take.
    assert held.total_us == pytest.approx(GUARD.usable_us(20.0) - 9_011, abs=2)


def test_without_a_deadline_an_answer_is_held_for_hold_ms_at_most() -> None:
    long = exact("long", segments_us=(1_000, 9_000, 9_000))
    simulation = Simulation([long], noise=NoiseSpec(), limits=Limits(hold_ms=15))
    simulation.ask(0, "held", FREE, "long")
    for when in range(500, 40_000, 1_000):
        simulation.ask(when, "busy", Bounds(latency_ms=3.5), "long")
    [held] = timed(simulation.run(), "held")
    assert (held.exit, held.stop) == (0, "fairness")
    assert held.total_us == 15_000


def test_a_gated_request_stops_where_its_gate_lets_it_go() -> None:
    sure, unsure = [[0.9] * 3], [[0.1, 0.9, 0.9]]
    for confidence, exit_index in ((sure, 0), (unsure, 1)):
        network = served(accuracies=(0.5, 0.6, 0.99))
        behaviour = Behaviour(confidence, [[True] * 3])
        simulation = Simulation([network], noise=NoiseSpec(), behaviours={"net": behaviour})
        simulation.ask(0, "a", Bounds(accuracy=0.9, latency_ms=50.0, objective="energy"))
        [reply] = answers(simulation.run())
        assert (reply.exit, reply.stop, reply.confidence) == (exit_index, "gate", 0.9)


# ---- the next run, posted while one executes


@pytest.mark.parametrize("hop_us", [100, 400])
def test_posting_ahead_hides_the_way_to_the_device(hop_us: int) -> None:
    def ended_us(ahead_us: int) -> tuple[int, int]:
        network = exact(segments_us=(1_000, 1_000, 1_000))
        simulation = Simulation([network], noise=NoiseSpec(), hop_us=hop_us, ahead_us=ahead_us)
        for _ in range(50):
            simulation.ask(0, "a", ALONE)
        simulation.run()
        return simulation.now_us, len(simulation.runs)

    (alone_us, runs), (ahead_us, as_many) = ended_us(0), ended_us(hop_us)
    assert runs == as_many
    # All but the first and the last half of the way is hidden.
    assert alone_us - ahead_us == pytest.approx((runs - 1) * hop_us, rel=0.02)


def two_runs(bounds: Bounds) -> Server:
    """A core whose device executes one request and has another posted behind it."""
    server = Server(Limits(), ahead_us=10_000)
    server.networks["net"] = exact()
    server.worker_ready(0)
    infer = Infer(VERSION, b"1", "net", TENSORS)
    for ticket in (1, 2):
        server.submit(0, "a", infer, asked(bounds), PAYLOAD)
        run = server.next(0)
        assert run is not None
        assert [row.ticket for row in run.rows] == [ticket]
    return server


def test_a_run_that_is_handed_back_waits_again_as_if_nothing_had_been() -> None:
    server = two_runs(ALONE)
    assert server.advance(40, RunReturned(2)) == []
    # Odd and even runs have a half of the shared memory each, and run 1 still executes in run 3's.
    assert server.next(40) is None
    rows = (RowDone(1, 0, 0.9, left=True, gated=False),)
    steps = tuple(StepDone(False, index, 1, 100) for index in range(3))
    server.advance(50, ExitDone(1, 2, rows, (*steps, StepDone(True, 2, 1, 10)), bytes(16), finished=True))
    again = server.next(50)
    assert again is not None
    assert (again.id, [row.ticket for row in again.rows]) == (3, [2])
    assert server.advance(40, RunReturned(2)) == [], "of a run long gone"


def test_what_came_due_while_it_was_posted_is_acted_on_when_it_is_handed_back() -> None:
    server = two_runs(merge(ALONE, Bounds(latency_ms=5.0, on_miss="drop")))
    assert server.expire(5_000) == [], "the device has them"
    [ended] = server.advance(5_100, RunReturned(2))
    assert isinstance(ended, Ended)
    assert isinstance(ended.reply, Failure)
    assert ended.reply.code == "deadline"


def test_what_a_run_never_reported_runs_again_on_the_next_worker() -> None:
    server = two_runs(ALONE)
    [restart] = server.advance(200, ExitDone(1, 0, (), (), b"", finished=True))
    assert isinstance(restart, Restart)
    assert server.worker_lost(200, 1_000) == []
    server.worker_ready(1_000)
    again = server.next(1_000)
    assert again is not None
    assert (again.first, [row.ticket for row in again.rows]) == (0, [1])


def test_an_answer_held_for_a_deeper_one_is_given_in_time_though_the_device_became_faster_meanwhile() -> None:
    long = exact("long", segments_us=(1_000, 6_000, 6_000))
    long.correction = Static(1.5)
    simulation = Simulation([long, exact()], noise=NoiseSpec())
    simulation.ask(0, "patient", Bounds(latency_ms=20.0), "long")
    # More than the device can do, so there is no slack for anything optional.
    for when_us in range(100, 25_000, 300):
        simulation.ask(when_us, "urgent", Bounds(latency_ms=4.0, accuracy=0.97))
    simulation.at(3_000, setattr, long, "correction", Static(1.0))
    [patient] = timed(simulation.run(), "patient")
    assert (patient.exit, patient.stop) == (0, "deadline")
    # Another segment could not be in time any more, guard and all; not merely when the bound itself has passed.
    assert patient.total_us <= GUARD.usable_us(20.0) - 6_000


def test_no_more_answers_are_held_for_depth_than_features_may_be_kept_for() -> None:
    wide = exact("wide", segments_us=(100, 9_000, 9_000))

    def held_most(held_max: int) -> int:
        simulation = Simulation([wide], noise=NoiseSpec(), limits=Limits(held_max=held_max))
        most = 0

        def look() -> None:
            nonlocal most
            pools = simulation.server.view().optional.values()
            most = max(most, sum(len(pool.members) for pool in pools))

        for when in range(0, 60_000, 250):
            simulation.ask(when, "a", Bounds(latency_ms=400.0), "wide")
        for when in range(0, 400_000, 250):
            simulation.at(when + 1, look)
        assert all(isinstance(outcome.reply, Answer) for outcome in simulation.run())
        return most

    assert held_most(1024) > 40
    assert held_most(20) <= 20


def test_what_a_profile_measured_is_a_model_of_the_request_that_is_charged_by_it() -> None:
    network = served(gates=False)
    network.costs.energy_source = "measured"
    simulation = Simulation([network])
    simulation.ask(0, "a", FREE)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Answer)
    assert outcome.reply.energy_source == "modelled"
    assert simulation.server.ledger.account("a").stats().energy_source == "modelled"
