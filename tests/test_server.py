"""The core, driven on a virtual clock: what tenants were promised holds, and every request ends exactly once."""

from __future__ import annotations

from collections import Counter

import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.wire import VERSION, Answer, Failure, Infer, Refusal
from delen.daemon.config import Limits
from delen.daemon.noise import NoiseSpec
from delen.daemon.records import Effect, ExitDone, RunFailed, RunReturned
from delen.daemon.server import Server
from delen.daemon.simulate import TENSORS, Outcome, Simulation
from delen.policies.exits import asked
from delen.policies.policy import make_policy
from delen.policies.rates import Terms
from delen.tests.simulation import served

FAST = Bounds(latency_ms=20.0)
EXACT = Bounds(accuracy=0.955)
FREE = Bounds()


def answers(outcomes: list[Outcome]) -> list[Answer]:
    return [outcome.reply for outcome in outcomes if isinstance(outcome.reply, Answer)]


def one(bounds: Bounds, **network: object) -> Answer:
    simulation = Simulation([served(**network)])  # type: ignore[arg-type]
    simulation.ask(0, "a", bounds)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Answer), outcome.reply
    return outcome.reply


def refusal(bounds: Bounds, **network: object) -> Refusal:
    simulation = Simulation([served(**network)])  # type: ignore[arg-type]
    simulation.ask(0, "a", bounds)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Refusal), outcome.reply
    return outcome.reply


def slow(factor: float) -> NoiseSpec:
    """Everything takes so many times as long as the profile says."""
    return NoiseSpec(steps=((0.0, factor),))


# ---- bounds on an idle device


@pytest.mark.parametrize(
    ("bounds", "exit_index", "stop"),
    [
        (FREE, 2, "last_exit"),
        (FAST, 2, "last_exit"),
        (Bounds(latency_ms=20, objective="latency"), 0, "objective"),
        (Bounds(latency_ms=20, objective="energy"), 0, "objective"),
        (Bounds(latency_ms=1.4), 1, "deadline"),
        (Bounds(energy_mj=3), 1, "energy"),
        (Bounds(accuracy=0.955, objective="accuracy"), 2, "last_exit"),
    ],
)
def test_the_objective_decides_among_the_exits_that_fit(bounds: Bounds, exit_index: int, stop: str) -> None:
    answer = one(bounds)
    assert (answer.exit, answer.stop, answer.broken) == (exit_index, stop, ())


def test_without_gates_an_accuracy_bound_takes_the_cheapest_exit_that_keeps_it() -> None:
    answer = one(Bounds(accuracy=0.95), gates=False)
    assert (answer.exit, answer.expected_accuracy, answer.certificate) == (1, 0.95, "uncertified")


def test_a_gated_answer_says_that_it_is_certified_and_what_the_gates_delivered() -> None:
    simulation = Simulation([served(accuracies=(0.5, 0.6, 0.99))])
    for when in range(300):
        simulation.ask(when * 5000, "a", Bounds(accuracy=0.9))
    replies = answers(simulation.run())
    assert {reply.certificate for reply in replies} == {"certified"}
    [proof] = {reply.proof for reply in replies}
    assert proof is not None
    assert (proof.accuracy, proof.certainty, proof.n) == (0.9, 0.9, 4000)
    assert all(reply.expected_accuracy >= 0.9 and not reply.broken for reply in replies)
    assert {reply.stop for reply in replies} == {"gate", "last_exit"}


def test_dominated_exits_are_never_chosen() -> None:
    answer = one(FREE, accuracies=(0.85, 0.95, 0.95))
    assert (answer.exit, answer.stop) == (1, "last_exit")


@pytest.mark.parametrize("bounds", [FREE, FAST, EXACT, Bounds(accuracy=0.955, objective="accuracy")])
def test_charged_energy_is_the_sum_over_the_segments_and_heads_that_ran(bounds: Bounds) -> None:
    simulation = Simulation([served(gates=False)])
    simulation.ask(0, "a", bounds)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Answer)
    assert outcome.reply.exit == 2
    # Every run has one row here, and so one head.
    heads_us = 10 * len(simulation.runs)
    assert outcome.reply.energy_mj == pytest.approx((100 + 200 + 400 + heads_us) * 0.0075)
    assert outcome.reply.energy_source == "modelled"


def test_unknown_energy_is_said_never_zero() -> None:
    answer = one(FREE, energy=False)
    assert (answer.energy_mj, answer.energy_source) == (None, "unknown")


@pytest.mark.parametrize(
    ("bounds", "offer"),
    [
        (Bounds(latency_ms=0.3), "latency_ms"),
        (Bounds(accuracy=0.9999), "accuracy"),
        (Bounds(energy_mj=0.01), "energy_mj"),
    ],
)
def test_a_refusal_offers_what_is_feasible_and_the_offer_is_true(bounds: Bounds, offer: str) -> None:
    refused = refusal(bounds)
    assert refused.code == "infeasible"
    assert refused.offer is not None
    value = getattr(refused.offer, offer)
    assert value is not None
    assert not one(Bounds(**{offer: value})).broken


def test_an_energy_bound_without_known_energies_is_refused_in_words() -> None:
    refused = refusal(Bounds(energy_mj=5), energy=False)
    assert "knows no energies" in refused.message


def test_an_offer_made_under_load_is_admitted_under_the_same_load() -> None:
    simulation = Simulation([served()])
    for when in range(40):
        simulation.ask(when, "a", Bounds(latency_ms=60, accuracy=0.955, objective="accuracy"))
    simulation.ask(100, "b", Bounds(latency_ms=1.2))
    simulation.run(until_us=101)
    [refused] = [outcome.reply for outcome in simulation.outcomes if isinstance(outcome.reply, Refusal)]
    assert refused.offer is not None
    assert refused.offer.latency_ms is not None
    simulation.ask(102, "b", Bounds(latency_ms=refused.offer.latency_ms))
    assert all(not isinstance(o.reply, Refusal) for o in simulation.run() if o.sent_us > 101)


# ---- conditions


def test_conditions_stop_at_the_first_exit_where_they_hold() -> None:
    at_exit_1 = (None, ConditionSet(all_of=(Condition("exit", "greater_eq", 1.0),)), None)
    answer = one(Bounds(conditions=at_exit_1))
    assert (answer.exit, answer.stop) == (1, "condition")


def test_conditions_that_never_hold_are_answered_by_the_last_exit() -> None:
    never = tuple(ConditionSet(all_of=(Condition("energy", "greater", 1e9),)) for _ in range(3))
    answer = one(Bounds(conditions=never))
    assert (answer.exit, answer.stop) == (2, "last_exit")


def test_conditions_for_another_number_of_exits_are_refused() -> None:
    refused = refusal(Bounds(conditions=(None, ConditionSet(all_of=(Condition("exit", "equal", 0.0),)))))
    assert "has 3" in refused.message


# ---- load


def test_requests_of_several_tenants_share_a_batch() -> None:
    simulation = Simulation([served()])
    for tenant in "abcdefgh":
        simulation.ask(10, tenant, FAST)
    simulation.ask(0, "x", FREE)
    simulation.run()
    assert max(len(run.rows) for run in simulation.runs) >= 4


def test_the_most_urgent_request_goes_first() -> None:
    simulation = Simulation([served(), served("other")])
    simulation.ask(0, "x", FAST)
    simulation.ask(1, "slack", Bounds(latency_ms=100))
    simulation.ask(2, "urgent", Bounds(latency_ms=8), "other")
    simulation.run()
    assert [run.network for run in simulation.runs[:3]] == ["net", "other", "net"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_under_twice_the_load_of_the_last_exit_bounds_hold_by_leaving_earlier(seed: int) -> None:
    # Exit costs 160, 370, 780 us with the hop; 8 requests of the last exit alone sustain about 2,000 a second.
    simulation = Simulation([served()], seed=seed)
    simulation.poisson("a", FAST, 500, 0, 1_000_000)
    simulation.poisson("a", FAST, 4_000, 1_000_000, 2_000_000)
    simulation.poisson("a", FAST, 500, 2_100_000, 3_000_000)
    outcomes = simulation.run()
    kept = [o for o in outcomes if isinstance(o.reply, Answer) and not o.reply.broken]
    assert len(kept) >= 0.99 * len(outcomes)
    before, during, after = (
        [o.reply.exit for o in kept if start <= o.sent_us < start + 900_000 and isinstance(o.reply, Answer)]
        for start in (0, 1_050_000, 2_100_000)
    )
    assert sum(during) / len(during) < 0.8 * sum(before) / len(before)
    assert sum(after) / len(after) > 0.95 * sum(before) / len(before)


@pytest.mark.slow
def test_best_effort_does_not_make_bounded_requests_miss() -> None:
    simulation = Simulation([served()], seed=1)
    simulation.poisson("free", FREE, 3_000, 0, 500_000)
    simulation.poisson("tight", Bounds(latency_ms=5), 200, 0, 500_000)
    outcomes = [o for o in simulation.run() if o.tenant == "tight"]
    assert all(isinstance(o.reply, Answer) and not o.reply.broken for o in outcomes)


@pytest.mark.slow
def test_a_step_in_speed_is_learnt_and_bounds_hold_again() -> None:
    simulation = Simulation([served()], seed=2, noise=NoiseSpec(sigma=0.02, steps=((0.5, 1.5),)))
    simulation.poisson("a", Bounds(latency_ms=6), 1_500, 0, 1_500_000)
    late = [o for o in simulation.run() if o.sent_us > 700_000 and isinstance(o.reply, Answer) and o.reply.broken]
    assert len(late) <= 0.01 * 1_200


def test_a_full_queue_is_refused_with_a_time_to_retry_and_counted() -> None:
    simulation = Simulation([served()], limits=Limits(queued_max=10))
    for when in range(15):
        simulation.ask(when, "a", FREE)
    outcomes = simulation.run()
    refused = [o.reply for o in outcomes if isinstance(o.reply, Refusal)]
    assert [r.code for r in refused] == ["queue_full"] * 5
    assert all(r.offer is not None and r.offer.retry_after_ms is not None for r in refused)
    assert simulation.server.ledger.accounts["a"].refused == 5


def test_an_overrun_answers_with_what_was_reached_and_says_which_bound_broke() -> None:
    simulation = Simulation([served()], noise=slow(15))
    simulation.ask(0, "a", Bounds(latency_ms=2.0, accuracy=0.95, objective="latency"))
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Answer)
    assert (outcome.reply.exit, outcome.reply.stop, outcome.reply.broken) == (0, "deadline", ("accuracy",))


def test_drop_gives_a_typed_error_instead_of_a_late_answer() -> None:
    simulation = Simulation([served()], noise=slow(50))
    simulation.ask(0, "a", Bounds(latency_ms=2.0, on_miss="drop"))
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Failure)
    assert outcome.reply.code == "deadline"


# ---- looking ahead


def core(policy: str, options: dict[str, object] | None = None, *, ahead_us: int) -> Server:
    server = Server(Limits(), make_policy(policy, options), ahead_us=ahead_us)
    server.networks["net"] = served()
    server.worker_ready(0)
    return server


def submit(server: Server, when_us: int, request_id: int) -> None:
    infer = Infer(VERSION, bytes([request_id]), "net", TENSORS, FREE)
    verdict, _ = server.submit(when_us, "a", infer, asked(FREE), b"")
    assert isinstance(verdict, int)


def test_a_policy_that_wants_to_be_asked_later_is_not_asked_before() -> None:
    server = core("fixed-exit", {"queue_delay_ms": 50.0}, ahead_us=300)
    for request_id in range(8):
        submit(server, 0, request_id)
    assert server.next(0) is not None, "a full batch need not wait"
    submit(server, 10, 8)
    now_us = server.wake_at()
    assert server.can_run(now_us)
    assert server.next(now_us) is None
    assert server.wake_at() == 50_010
    assert not server.can_run(50_009)


def test_where_nothing_is_predicted_no_run_is_posted_ahead() -> None:
    for policy, ahead in (("stage-edf", True), ("delen-conditions", False)):
        server = core(policy, ahead_us=1_000_000)
        # The way to the worker takes longer than company would save.
        server.networks["net"].hop_us = 1_000.0
        submit(server, 0, 0)
        assert server.next(0) is not None
        submit(server, 10, 1)
        assert server.can_run(10) is ahead, policy
        assert (server.next(10) is not None) is ahead, policy


# ---- losses


def test_a_lost_worker_loses_no_request() -> None:
    simulation = Simulation([served()], restart_us=50_000)
    simulation.poisson("a", EXACT, 500, 0, 400_000)
    simulation.kill_worker(100_000)
    simulation.kill_worker(200_000)
    outcomes = simulation.run()
    assert Counter(type(o.reply) for o in outcomes).keys() == {Answer}


def test_in_flight_work_that_has_no_time_to_run_again_gets_a_typed_error() -> None:
    simulation = Simulation([served()], restart_us=500_000)
    simulation.ask(0, "a", FAST)
    simulation.kill_worker(100)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Failure)
    assert outcome.reply.code == "engine_crashed"


def test_a_request_that_kills_the_worker_again_is_not_run_a_third_time() -> None:
    simulation = Simulation([served()], restart_us=1_000)
    simulation.ask(0, "a", EXACT)
    for when in (60, 1_070, 2_080):
        simulation.kill_worker(when)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Failure)
    assert outcome.reply.code == "poison"


def test_a_run_that_takes_far_too_long_costs_the_worker_its_life() -> None:
    simulation = Simulation([served()], noise=NoiseSpec(steps=((0.0, 1e5), (0.01, 1.0))), restart_us=1_000)
    simulation.ask(0, "a", EXACT)
    [outcome] = simulation.run()
    assert len(simulation.restarts) == 1
    assert isinstance(outcome.reply, Answer)


def test_one_bad_input_fails_alone_and_its_batch_is_answered() -> None:
    bad: list[bytes] = []
    simulation = Simulation([served()])
    simulation.spoil = lambda request_id: request_id in bad
    simulation.ask(0, "x", FREE)
    ids = [simulation.ask(5, "a", FAST) for _ in range(6)]
    bad.append(ids[3])
    outcomes = simulation.run()
    assert Counter(type(o.reply) for o in outcomes) == {Answer: 6, Failure: 1}


def test_a_cancelled_request_ends_as_cancelled_and_only_once() -> None:
    for when in (1, 60, 170, 400, 600, 5_000):
        simulation = Simulation([served()])
        request_id = simulation.ask(0, "a", FREE)
        simulation.cancel(when, request_id)
        [outcome] = simulation.run()
        # Too late is too late: the answer was given, and stays the only end.
        assert isinstance(outcome.reply, Answer if when == 5_000 else Failure)


@pytest.mark.parametrize(("seed", "rate_hz"), [(0, 700.0), (1, 700.0), (2, 150.0)])
def test_it_makes_no_difference_when_runs_are_entered_that_are_over(
    seed: int, rate_hz: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def day(server: Server) -> str:
        simulation = Simulation([served()], seed=seed, noise=NoiseSpec(sigma=0.3), server=server, hop_us=50)
        for tenant, bounds in (("a", Bounds(latency_ms=1.6)), ("b", FREE), ("c", EXACT)):
            simulation.poisson(tenant, bounds, rate_hz, 0, 300_000)
        simulation.kill_worker(100_000)
        simulation.run()
        return simulation.log_hash

    tenants = {"a": Terms(), "b": Terms(weight=2.0), "c": Terms(rate_hz=300.0)}
    prompt = Server(Limits(), ahead_us=100, tenants=tenants)
    advance = prompt.advance

    def at_once(now_us: int, done: ExitDone | RunFailed | RunReturned) -> list[Effect]:
        effects = advance(now_us, done)
        prompt.learn()
        if done.run % 3 == 0:
            prompt.ledger.count()
        return effects

    monkeypatch.setattr(prompt, "advance", at_once)
    late = Server(Limits(), ahead_us=100, tenants=tenants)
    assert day(late) == day(prompt)
    told = [[account.stats() for account in each.ledger.accounts.values()] for each in (late, prompt)]
    assert told[0] == told[1]


def test_what_a_run_took_is_entered_by_the_time_anybody_looks() -> None:
    simulation = Simulation([served()])
    simulation.ask(0, "a", FREE)
    simulation.run()
    stats = simulation.server.ledger.accounts["a"].stats()
    assert (stats.answered, stats.pending) == (1, 0)
    assert stats.device_us > 0


def test_who_comes_after_a_slow_run_is_judged_by_it() -> None:
    simulation = Simulation([served()], noise=slow(5.0))
    simulation.ask(0, "a", FREE)
    simulation.ask(50_000, "a", Bounds(latency_ms=1.0))
    _, after = simulation.run()
    assert isinstance(after.reply, Refusal), "the first exit fits by the profile, and took five times as long"
