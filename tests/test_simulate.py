"""The simulator: virtual time, one generator, a device that does what its profile says, and a watch over it all."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.wire import Answer, Failure, Refusal
from delen.daemon.behaviour import Behaviour
from delen.daemon.noise import NoiseSpec
from delen.daemon.records import Effect, Ended
from delen.daemon.simulate import Outcome, Simulation
from delen.policies.policy import make_policy, policy_names
from delen.tests.exact import exact
from delen.tests.simulation import served

FAST, FREE = Bounds(latency_ms=20.0), Bounds()
EXACT = NoiseSpec()


def busy(seed: int, *, policy: str = "stage-edf", check: bool = True, ahead_us: int = 0) -> Simulation:
    """Some of everything, on a device with jitter."""
    networks = [served(), served("other", segments_us=(300, 500, 900))]
    simulation = Simulation(
        networks, seed=seed, policy=make_policy(policy), hop_us=60, ahead_us=ahead_us, restart_us=5_000, check=check
    )
    for name in ("net", "other"):
        simulation.poisson("a", FAST, 500, 0, 60_000, network=name)
        simulation.poisson("b", Bounds(accuracy=0.9), 200, 0, 60_000, network=name)
        simulation.poisson("c", FREE, 100, 0, 60_000, network=name)
    simulation.kill_worker(30_000)
    return simulation


def one(outcomes: list[Outcome]) -> Answer:
    [outcome] = outcomes
    assert isinstance(outcome.reply, Answer), outcome.reply
    return outcome.reply


# ---- the same seed, the same log


@pytest.mark.parametrize("policy", policy_names())
def test_the_same_seed_gives_the_same_log_bit_for_bit(policy: str) -> None:
    logs = [busy(seed, policy=policy) for seed in (3, 3, 4)]
    for simulation in logs:
        simulation.run()
    assert logs[0].log_hash == logs[1].log_hash != logs[2].log_hash


def test_being_watched_changes_nothing() -> None:
    watched, alone = busy(5), busy(5, check=False)
    assert watched.run() == alone.run()
    assert watched.log_hash == alone.log_hash


def test_a_run_can_be_halted_and_goes_on_where_it_was() -> None:
    halted, through = busy(6), busy(6)
    for until_us in (10_000, 29_999, 30_001, 45_000):
        halted.run(until_us=until_us)
        assert halted.now_us < until_us
    assert halted.run() == through.run()


# ---- time


def test_times_are_the_profiles_and_the_way_to_the_device_and_back() -> None:
    simulation = Simulation([exact()], noise=EXACT, hop_us=80)
    simulation.ask(1_000, "a", FAST)
    reply = one(simulation.run())
    assert (reply.exit, reply.total_us, reply.compute_us) == (2, 40 + 710 + 40, 710)
    assert simulation.outcomes[0].sent_us == 1_000
    assert simulation.outcomes[0].ended_us == 1_790


def test_noise_stretches_the_device_and_not_the_way_to_it() -> None:
    simulation = Simulation([exact()], noise=NoiseSpec(steps=((0.0, 2.0),)), hop_us=80)
    simulation.ask(0, "a", FAST)
    assert one(simulation.run()).total_us == 40 + 1_420 + 40


def test_nothing_happens_in_no_time_while_nobody_asks() -> None:
    simulation = Simulation([exact()], noise=EXACT)
    simulation.ask(3_600_000_000, "a", FAST)
    assert simulation.run(until_us=3_600_000_000) == []
    assert len(simulation.run()) == 1


# ---- what inputs are like


def test_behaviours_decide_who_passes_a_gate_and_who_is_right() -> None:
    sure_early, never_sure = [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]
    behaviour = Behaviour([sure_early, never_sure], [[True, False, False], [False, False, True]])
    network = served(accuracies=(0.5, 0.6, 0.99))
    bounds = Bounds(accuracy=0.9)
    for sample, exit_index, stop in ((0, 0, "gate"), (1, 2, "last_exit")):
        simulation = Simulation([network], noise=EXACT, behaviours={"net": behaviour})
        simulation.ask(0, "a", bounds, sample=sample)
        reply = one(simulation.run())
        assert (reply.exit, reply.stop) == (exit_index, stop)
        assert simulation.outcomes[0].correct is True


def test_conditions_see_the_confidence_of_the_sample() -> None:
    behaviour = Behaviour([[0.2, 0.8, 0.9]], [[True] * 3])
    confident = ConditionSet(all_of=(Condition("confidence", "greater", 0.7),))
    simulation = Simulation([exact()], noise=EXACT, behaviours={"net": behaviour})
    simulation.ask(0, "a", Bounds(conditions=(confident,) * 3))
    reply = one(simulation.run())
    assert (reply.exit, reply.stop, reply.confidence) == (1, "condition", 0.8)


def test_whether_an_answer_is_right_is_unknown_without_samples() -> None:
    simulation = Simulation([exact()], noise=EXACT)
    simulation.ask(0, "a", FAST)
    simulation.run()
    assert simulation.outcomes[0].correct is None


# ---- faults


def test_a_spoilt_input_is_refused_by_the_engine() -> None:
    simulation = Simulation([exact()], noise=EXACT)
    bad = simulation.ask(0, "a", FAST)
    simulation.spoil = lambda request_id: request_id == bad
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Failure)
    assert outcome.reply.code == "output"


def test_a_lost_worker_is_back_when_it_was_said_to_be() -> None:
    simulation = Simulation([exact()], noise=EXACT, restart_us=7_000)
    simulation.kill_worker(100)
    simulation.ask(200, "a", Bounds(latency_ms=50.0))
    assert one(simulation.run()).queue_us == 6_900


def test_what_cannot_be_kept_is_refused_and_noted() -> None:
    simulation = Simulation([exact()], noise=EXACT)
    simulation.ask(0, "a", Bounds(latency_ms=0.01))
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Refusal)
    assert outcome.sent_us == outcome.ended_us == 0


def test_a_run_asked_to_yield_ends_at_its_next_exit_and_one_that_has_not_begun_comes_back() -> None:
    simulation = Simulation([exact()], noise=EXACT)
    simulation.ask(0, "a", FAST)
    simulation.run(until_us=50)
    simulation._yields.add(simulation.runs[0].id)
    reply = one(simulation.run())
    assert (reply.exit, reply.batches) == (2, (1, 1, 1))
    assert [run.first for run in simulation.runs][:2] == [0, 1]


# ---- the watch


def test_what_does_not_hold_is_said_with_seed_and_time() -> None:
    simulation = Simulation([exact()], noise=EXACT, seed=77)
    simulation.ask(0, "a", FAST)
    advance = simulation.server.advance

    def twice(now_us: int, done: object) -> list[Effect]:
        effects = advance(now_us, done)  # type: ignore[arg-type]
        return [*effects, *[effect for effect in effects if isinstance(effect, Ended)]]

    simulation.server.advance = twice  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match=r"seed 77, at 710 us: 1: .* is not open"):
        simulation.run()
