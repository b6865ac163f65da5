"""How a request ends: where it stops and why, and that nothing is claimed that did not hold."""

from __future__ import annotations

import dataclasses
import math

import pytest

from delen.clients.bounds import Bounds, Condition, ConditionSet, Metric, Operator
from delen.clients.wire import VERSION, Answer, Failure, Infer, Proof, TensorSpec
from delen.daemon import endings
from delen.daemon.endings import answer, failure, give_up_us
from delen.daemon.hosting import info
from delen.daemon.hosting import served as hosted
from delen.daemon.records import Request
from delen.daemon.simulate import Simulation
from delen.exits.bundle import Bundle, load_bundle, shipped_directory
from delen.exits.manifest import ExitEntry
from delen.policies.exits import ExitPlan, asked
from delen.policies.fairness import Share
from delen.policies.gates import CertifiedPlan
from delen.policies.view import GUARD, NEVER_US, Guard, Served, Waiting
from delen.tests.exact import exact
from delen.tests.sample_profile import sample_profile
from delen.tests.simulation import served

LATE_US = 20_001
HOLD_US = 1_000_000


def request(
    bounds: Bounds,
    *,
    reached: int = 0,
    mandatory: int = 0,
    target: int = 2,
    gate: CertifiedPlan | None = None,
    energy_mj: float | None = 1.0,
) -> Request:
    """A request of a network of three exits that came at 0 and has just left a run at exit `reached`."""
    wanted = asked(bounds)
    waiting = Waiting(
        ticket=1,
        served=exact(),
        arrival_us=0,
        deadline_us=NEVER_US if wanted.latency_ms is None else GUARD.usable_us(wanted.latency_ms),
        due_us=0,
        mandatory=mandatory,
        target=target,
        bounded=wanted.bounded,
        objective=wanted.objective,
        share=Share("a"),
        staged=wanted.conditions is not None,
    )
    waiting.move_to(reached + 1)
    waiting.last_reached = reached
    infer = Infer(VERSION, b"1", "net", (TensorSpec("float32", (1,)),), bounds)
    plan = ExitPlan(mandatory, target, gate, "last_exit", "none", gate)
    made = Request("a", b"1", infer, b"", wanted, plan, waiting, energy_mj=energy_mj, confidence=0.8, logits=bytes(40))
    made.started_us = 300
    return made


def decide(request: Request, now_us: int, *, kept: bool = False) -> str | None:
    """Where a core that holds answers for at most HOLD_US stops a request."""
    until_us = give_up_us(request.waiting, HOLD_US) if kept else now_us
    return endings.decide(request, now_us, kept=kept, until_us=until_us)


def reply(ended_as: Request, now_us: int) -> Answer:
    kept = endings.forced_at(ended_as) is None
    ended = answer(ended_as, "last_exit", now_us, kept=kept)
    assert isinstance(ended.reply, Answer)
    return ended.reply


# ---- where it stops


@pytest.mark.parametrize(
    ("reached", "mandatory", "kept", "expected"),
    [
        (2, 0, False, "last_exit"),
        (1, 0, False, "deadline"),
        (1, 1, False, "deadline"),
        (1, 1, True, None),
        (0, 1, False, None),
        (0, 1, True, None),
    ],
)
def test_with_time_left_it_goes_on_until_its_bounds_hold_and_beyond_where_its_features_were_kept(
    reached: int, mandatory: int, kept: bool, expected: str | None
) -> None:
    asked_for = request(Bounds(latency_ms=20), reached=reached, mandatory=mandatory)
    assert decide(asked_for, 1_000, kept=kept) == expected


def test_an_answer_is_held_for_a_deeper_one_only_while_that_could_be_out_in_time() -> None:
    held = request(Bounds(latency_ms=20), reached=0)
    # Segment 1 and its head take 210 us, and a microsecond of rounding.
    last_us = GUARD.usable_us(20) - 211
    assert give_up_us(held.waiting, HOLD_US) == last_us
    assert decide(held, last_us - 1, kept=True) is None
    assert decide(held, last_us, kept=True) == "deadline"


def test_an_answer_is_held_for_the_next_exit_that_is_worth_reaching() -> None:
    held = request(Bounds(latency_ms=20), reached=0).waiting
    held.served = exact("ladder", accuracies=(0.85, 0.85, 0.97))
    assert give_up_us(held, HOLD_US) == GUARD.usable_us(20) - 611


def test_without_a_deadline_an_answer_is_held_no_longer_than_the_operator_allows() -> None:
    held = request(Bounds(), reached=0)
    assert decide(held, HOLD_US - 1, kept=True) is None
    assert decide(held, HOLD_US, kept=True) == "fairness"
    assert decide(request(Bounds(), reached=2), HOLD_US) == "last_exit"


def test_it_stops_short_of_what_it_must_only_if_the_next_segment_would_end_too_late() -> None:
    bounds = Bounds(latency_ms=20, accuracy=0.95)
    deadline_us = GUARD.usable_us(20)
    # Segment 1 and its head take 210 us, and a microsecond of rounding.
    assert decide(request(bounds, reached=0, mandatory=1), deadline_us - 211) is None
    assert decide(request(bounds, reached=0, mandatory=1), deadline_us - 210) == "deadline"


def test_with_drop_late_is_an_error_and_so_is_not_reaching_what_was_promised() -> None:
    bounds = Bounds(latency_ms=20, accuracy=0.95, on_miss="drop")
    assert decide(request(bounds, reached=2, mandatory=1), LATE_US) == "drop"
    assert decide(request(bounds, reached=2, mandatory=1), LATE_US - 1) == "last_exit"
    assert decide(request(bounds, reached=0, mandatory=1), GUARD.usable_us(20)) == "drop"
    assert decide(request(bounds, reached=1, mandatory=1), GUARD.usable_us(20)) == "deadline"


def test_what_was_late_in_the_queue_stops_at_the_first_exit_it_gets_and_says_why() -> None:
    late = request(Bounds(latency_ms=20), reached=0, target=0)
    late.late = True
    assert decide(late, LATE_US) == "deadline"


def test_a_gate_that_let_it_go_is_why_it_stopped() -> None:
    gated = request(Bounds(accuracy=0.9), reached=0, mandatory=2)
    gated.gated = True
    assert decide(gated, 100) == "gate"


@pytest.mark.parametrize(
    ("metric", "value"),
    [("response_time", 0.02), ("confidence", 0.8), ("accuracy", 0.85), ("energy", 1.0), ("exit", 0.0)],
)
def test_conditions_are_tested_in_seconds_shares_millijoules_and_exit_numbers(metric: Metric, value: float) -> None:
    exactly = ConditionSet(all_of=(Condition(metric, "equal", value),))
    assert decide(request(Bounds(conditions=(exactly, None, None))), 20_000) == "condition"
    beyond = ConditionSet(all_of=(Condition(metric, "greater", value),))
    assert decide(request(Bounds(conditions=(beyond, None, None))), 20_000) is None


def test_a_condition_on_energy_that_is_not_known_never_holds() -> None:
    test = ConditionSet(all_of=(Condition("energy", "less", 1e9),))
    assert decide(request(Bounds(conditions=(test, None, None)), energy_mj=None), 100) is None


# ---- what its answer says


@pytest.mark.parametrize(
    ("bounds", "now_us", "energy_mj", "broken"),
    [
        (Bounds(latency_ms=20), LATE_US - 1, 1.0, ()),
        (Bounds(latency_ms=20), LATE_US, 1.0, ("latency_ms",)),
        (Bounds(accuracy=0.95), 100, 1.0, ("accuracy",)),
        (Bounds(energy_mj=1.0), 100, 1.0, ()),
        (Bounds(energy_mj=1.0), 100, 1.1, ("energy_mj",)),
        (Bounds(energy_mj=1.0), 100, None, ("energy_mj",)),
        (Bounds(latency_ms=20, accuracy=0.95), LATE_US, 1.0, ("latency_ms", "accuracy")),
        (Bounds(), LATE_US, None, ()),
    ],
)
def test_an_answer_names_every_bound_that_did_not_hold(
    bounds: Bounds, now_us: int, energy_mj: float | None, broken: tuple[str, ...]
) -> None:
    mandatory = 1 if isinstance(bounds.accuracy, float) else 0
    assert reply(request(bounds, mandatory=mandatory, energy_mj=energy_mj), now_us).broken == broken


def certified() -> CertifiedPlan:
    """Gates that half of all inputs pass at once; 7 of 100 were wrong in the test."""
    return CertifiedPlan(
        thresholds=(0.9, math.inf, math.inf),
        last=2,
        accuracy=0.92,
        certainty=0.9,
        conditional=False,
        n=100,
        errors=7,
        shares=(0.5, 0.0, 0.5),
        time_us=400.0,
        energy_mj=None,
        disagreement=0.05,
        forced=(),
        reserve=0.0,
    )


def test_an_answer_says_what_its_certificate_rests_on() -> None:
    told = reply(request(Bounds(accuracy=0.92), reached=2, mandatory=2, gate=certified()), 100)
    assert told.proof == Proof(0.92, 0.9, 100)
    assert reply(request(Bounds()), 100).proof is None


def test_the_accuracy_of_a_gate_is_claimed_only_for_answers_given_under_it() -> None:
    gate = certified()
    through = request(Bounds(accuracy=0.92), reached=0, mandatory=2, gate=gate)
    through.gated = True
    at_the_end = request(Bounds(accuracy=0.92), reached=2, mandatory=2, gate=gate)
    for one in (through, at_the_end):
        assert reply(one, 100).expected_accuracy == pytest.approx(0.93)
        assert reply(one, 100).broken == ()
    cut_short = request(Bounds(accuracy=0.92), reached=0, mandatory=2, gate=gate)
    assert (reply(cut_short, 100).expected_accuracy, reply(cut_short, 100).broken) == (0.85, ("accuracy",))


def test_stopped_between_two_exits_of_the_ladder_it_was_stopped_too_early_however_deep() -> None:
    cut_short = request(Bounds(accuracy=0.8), reached=1)
    cut_short.waiting.served = served(accuracies=(0.85, 0.6, 0.97))
    assert endings.forced_at(cut_short) == 1
    deeper = request(Bounds(accuracy=0.8), reached=2)
    deeper.waiting.served = cut_short.waiting.served
    assert endings.forced_at(deeper) is None


def test_times_are_from_the_reading_of_the_request() -> None:
    told = reply(request(Bounds()), 1_000)
    assert (told.queue_us, told.total_us) == (300, 1_000)


def test_a_failure_says_its_code_and_carries_no_tensor() -> None:
    ended = failure(request(Bounds()), "engine", "NaN")
    assert (ended.reply, ended.tensor, ended.tenant) == (Failure(VERSION, b"1", "engine", "NaN"), b"", "a")


# ---- conditions on computation, from the bundle's manifest to the answer


def stop_when(operator: Operator, gmac: float, exits: int = 3) -> Bounds:
    """The same condition on computation at every exit."""
    return Bounds(conditions=(ConditionSet(all_of=(Condition("computation", operator, gmac),)),) * exits)


def answered(network: Served, bounds: Bounds) -> tuple[int, str]:
    """Exit and reason of the one answer on an idle device."""
    simulation = Simulation([network])
    simulation.ask(0, "a", bounds, network.name)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Answer), outcome.reply
    return outcome.reply.exit, outcome.reply.stop


@pytest.mark.parametrize(
    ("bounds", "exit_index", "stop"),
    [
        (stop_when("greater_eq", 0.5), 1, "condition"),
        (stop_when("greater", 0.5), 2, "condition"),
        (stop_when("less", 1.0), 0, "condition"),
        (stop_when("equal", 2.0), 2, "condition"),
        (stop_when("greater", 2.0), 2, "last_exit"),
    ],
)
def test_a_condition_on_computation_tests_the_gmac_of_the_exit_reached(
    bounds: Bounds, exit_index: int, stop: str
) -> None:
    network = dataclasses.replace(served(gates=False), gmac=(0.1, 0.5, 2.0))
    assert answered(network, bounds) == (exit_index, stop)


def test_a_condition_on_unknown_computation_never_stops_a_request() -> None:
    assert answered(served(gates=False), stop_when("greater_eq", 0.0)) == (2, "last_exit")


def test_the_gmac_of_a_bundle_reach_its_tenants_and_their_conditions() -> None:
    bundle, profile = load_bundle(shipped_directory() / "digits"), sample_profile()
    view = hosted(bundle, profile, 8)
    told = [entry.gmac for entry in info(bundle, profile, view).exits]
    assert told == [entry.gmac for entry in bundle.manifest.exits]
    first, second, _ = told
    assert first is not None
    assert second is not None
    assert answered(view, stop_when("greater", first)) == (1, "condition")
    assert answered(view, stop_when("greater", second)) == (2, "condition")


def test_where_one_exit_is_uncounted_tenants_see_the_others_and_conditions_see_none() -> None:
    shipped, profile = load_bundle(shipped_directory() / "digits"), sample_profile()
    exits = (ExitEntry(accuracy=0.8, temperature=1.0), *shipped.manifest.exits[1:])
    fields = {name: getattr(shipped.manifest, name) for name in shipped.manifest.__struct_fields__}
    bundle = Bundle(shipped.directory, type(shipped.manifest)(**{**fields, "exits": exits}), shipped.digest)
    view = hosted(bundle, profile, 8)
    assert view.gmac is None
    assert [entry.gmac is None for entry in info(bundle, profile, view).exits] == [True, False, False]


def test_on_a_device_with_a_way_back_an_answer_is_held_for_a_part_of_its_time_only() -> None:
    held = request(Bounds(latency_ms=20.0), reached=0).waiting
    held.served.guard = Guard(hold_share=0.25)
    assert give_up_us(held, 1_000_000) == held.arrival_us + (held.deadline_us - held.arrival_us) // 4
