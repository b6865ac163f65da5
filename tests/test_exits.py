"""From bounds to exits: which fit, which is preferred, and that a refusal names something that fits."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.policies.exits import ExitPlan, Misfit, asked, plan
from delen.policies.view import GUARD, Guard, Served
from delen.tests.exact import exact

NET, GATED, NO_ENERGY = exact(), exact(gates=True), exact(energy=False)
ENDLESS_MS = 1_000.0


def planned(bounds: Bounds, network: Served = NET) -> ExitPlan:
    chosen = plan(asked(bounds), network)
    assert isinstance(chosen, ExitPlan), chosen
    return chosen


def misfit(bounds: Bounds, network: Served = NET) -> Misfit:
    chosen = plan(asked(bounds), network)
    assert isinstance(chosen, Misfit), chosen
    return chosen


def least_ms(exit_index: int) -> float:
    """The smallest latency bound that this exit fits in."""
    return GUARD.latency_ms_for(NET.time_us(0, exit_index, 1))


# ---- defaults


@pytest.mark.parametrize(
    ("bounds", "objective"),
    [
        (Bounds(), "accuracy"),
        (Bounds(latency_ms=5), "accuracy"),
        (Bounds(energy_mj=5), "accuracy"),
        (Bounds(accuracy=0.9), "energy"),
        (Bounds(accuracy=0.9, latency_ms=5), "accuracy"),
        (Bounds(accuracy=0.9, objective="latency"), "latency"),
        (Bounds(accuracy=0.9, objective=None), "energy"),
    ],
)
def test_the_objective_where_none_was_named(bounds: Bounds, objective: str) -> None:
    assert asked(bounds).objective == objective


def test_only_what_limits_makes_a_request_bounded() -> None:
    assert not asked(Bounds(objective="latency", on_miss="drop", certainty=0.9)).bounded
    assert not asked(Bounds(latency_ms=None)).bounded
    assert all(asked(b).bounded for b in (Bounds(latency_ms=1), Bounds(accuracy=0.5), Bounds(energy_mj=1)))


# ---- which exit


@pytest.mark.parametrize(
    ("bounds", "mandatory", "target", "limit"),
    [
        (Bounds(), 0, 2, "last_exit"),
        (Bounds(objective="latency"), 0, 0, "objective"),
        (Bounds(latency_ms=least_ms(2)), 0, 2, "last_exit"),
        (Bounds(latency_ms=least_ms(2) - 0.05), 0, 1, "deadline"),
        (Bounds(latency_ms=least_ms(0)), 0, 0, "deadline"),
        (Bounds(latency_ms=ENDLESS_MS, objective="energy"), 0, 0, "objective"),
        (Bounds(energy_mj=0.0075 * 730.01), 0, 2, "last_exit"),
        (Bounds(energy_mj=0.0075 * 729), 0, 1, "energy"),
        (Bounds(accuracy=0.95), 1, 1, "objective"),
        (Bounds(accuracy=0.951), 2, 2, "last_exit"),
        (Bounds(accuracy=0.95, objective="accuracy"), 1, 2, "last_exit"),
        (Bounds(accuracy=0.95, latency_ms=least_ms(1)), 1, 1, "deadline"),
        (Bounds(accuracy=0.85, latency_ms=ENDLESS_MS, energy_mj=3.0), 0, 1, "energy"),
    ],
)
def test_the_shallowest_that_keeps_all_bounds_and_the_one_that_the_objective_prefers(
    bounds: Bounds, mandatory: int, target: int, limit: str
) -> None:
    chosen = planned(bounds)
    assert (chosen.mandatory, chosen.target, chosen.limit, chosen.gate) == (mandatory, target, limit, None)


def test_exits_that_are_dominated_are_never_planned() -> None:
    network = exact("ladder", accuracies=(0.85, 0.84, 0.97))
    assert planned(Bounds(latency_ms=least_ms(1)), network).target == 0
    assert planned(Bounds(accuracy=0.86), network).target == 2


def test_gates_are_taken_where_they_cost_less_than_any_fixed_exit() -> None:
    steep = exact("steep", accuracies=(0.6, 0.7, 0.99), gates=True)
    gated = planned(Bounds(accuracy=0.9), steep)
    assert gated.gate is not None
    assert gated.gate is gated.proof
    assert gated.gate.time_us < steep.costs.path_us(0, 2, 1)
    assert (gated.mandatory, gated.target, gated.limit, gated.certificate) == (2, 2, "last_exit", "certified")
    fixed = planned(Bounds(accuracy=0.5), steep)
    assert fixed.gate is None, "the first exit alone keeps it"
    assert fixed.proof is not None
    assert (fixed.mandatory, fixed.target, fixed.certificate) == (0, 0, "certified")


def test_where_the_last_exit_is_too_dear_gates_end_at_one_that_is_not() -> None:
    steep = exact("steep", accuracies=(0.6, 0.8, 0.99), gates=True)
    chosen = planned(Bounds(accuracy=0.77, energy_mj=3.0, objective="energy"), steep)
    assert (chosen.mandatory, chosen.target, chosen.limit) == (1, 1, "objective")
    assert chosen.proof is not None
    assert chosen.proof.last == 1
    assert misfit(Bounds(accuracy=0.9, energy_mj=3.0, objective="energy"), steep).offer.accuracy == pytest.approx(
        0.8, abs=0.03
    )


def test_under_objective_accuracy_an_exit_is_certified_and_deeper_ones_are_gifts() -> None:
    steep = exact("steep", accuracies=(0.6, 0.8, 0.99), gates=True)
    chosen = planned(Bounds(accuracy=0.75, objective="accuracy"), steep)
    assert (chosen.mandatory, chosen.target, chosen.gate, chosen.certificate) == (1, 2, None, "certified")


def test_certainty_and_kind_of_certificate_make_plans_of_their_own() -> None:
    easy = planned(Bounds(accuracy=0.9, certainty=0.6), GATED).proof
    sure = planned(Bounds(accuracy=0.9, certainty=0.999), GATED).proof
    early = planned(Bounds(accuracy=0.9, certificate="conditional"), GATED).proof
    assert easy is not None
    assert sure is not None
    assert early is not None
    assert easy.time_us < sure.time_us
    assert (easy.certainty, sure.certainty, early.conditional) == (0.6, 0.999, True)


def test_where_a_deadline_may_stop_it_the_plan_says_what_that_costs() -> None:
    for bounds in (Bounds(accuracy=0.9, latency_ms=ENDLESS_MS, objective="energy"), Bounds(accuracy=0.9, latency_ms=5)):
        proof = planned(bounds, GATED).proof
        assert proof is not None
        assert len(proof.forced) == 3
        assert proof.reserve > 0
    untimed = planned(Bounds(accuracy=0.9), GATED).proof
    assert untimed is not None
    assert untimed.forced == ()


def test_what_cannot_be_certified_is_said_with_the_best_that_can() -> None:
    refused = misfit(Bounds(accuracy=0.9999), GATED)
    best = refused.offer.accuracy
    assert best is not None
    assert f"accuracy 0.9999 cannot be certified for net under these bounds: best is {best:.4f}" in refused.message
    assert "at certainty 0.9 (n=4000)" in refused.message
    assert planned(Bounds(accuracy=best), GATED).certificate == "certified"
    near = misfit(Bounds(accuracy=best, certainty=0.9999), GATED)
    assert "labelled samples would do" in near.message
    assert "labelled samples" not in refused.message


def test_what_could_not_be_certified_is_refused_after_an_alarm_too() -> None:
    for bounds in (Bounds(accuracy=0.999), Bounds(accuracy=0.93, energy_mj=1.0)):
        wanted = asked(bounds)
        assert isinstance(plan(wanted, GATED), Misfit)
        assert plan(wanted._replace(withdrawn=True), GATED) == plan(wanted, GATED)


def test_after_an_alarm_it_is_as_right_as_it_can_be_and_nothing_is_certified() -> None:
    chosen = plan(asked(Bounds(accuracy=0.88))._replace(withdrawn=True), GATED)
    assert isinstance(chosen, ExitPlan)
    last = GATED.exit_last
    assert (chosen.mandatory, chosen.target, chosen.gate, chosen.proof) == (last, last, None, None)
    assert chosen.certificate == "withdrawn"


def test_without_calibration_accuracies_are_the_profiles_and_say_so() -> None:
    chosen = planned(Bounds(accuracy=0.95))
    assert (chosen.mandatory, chosen.certificate, chosen.proof) == (1, "uncertified", None)
    assert "the best of net under the other bounds is 0.9700" in misfit(Bounds(accuracy=0.98)).message


def test_conditions_are_asked_at_every_exit() -> None:
    stop = ConditionSet(all_of=(Condition("exit", "equal", 0.0),))
    chosen = planned(Bounds(conditions=(stop, None, None)))
    assert (chosen.mandatory, chosen.target) == (0, 2)
    assert "2 exits; net has 3" in misfit(Bounds(conditions=(stop, None))).message


# ---- refusals


def test_without_known_energies_a_bound_on_them_is_refused_and_no_number_is_made_up() -> None:
    refused = misfit(Bounds(energy_mj=5), NO_ENERGY)
    assert refused.offer.energy_mj is None
    assert "energies" in refused.message


BOUNDS = st.fixed_dictionaries(
    {},
    optional={
        "latency_ms": st.floats(0.01, 5.0),
        "accuracy": st.floats(0.5, 1.0),
        "energy_mj": st.floats(0.01, 8.0),
        "objective": st.sampled_from(["accuracy", "latency", "energy"]),
    },
)


@given(BOUNDS, st.sampled_from([NET, GATED]))
def test_a_plan_keeps_every_bound_and_an_offer_names_one_that_can_be_kept(
    said: dict[str, Any], network: Served
) -> None:
    chosen = plan(asked(Bounds(**said)), network)
    if isinstance(chosen, Misfit):
        offered = {name: getattr(chosen.offer, name) for name in ("latency_ms", "accuracy", "energy_mj")}
        [(name, value)] = [(name, value) for name, value in offered.items() if value is not None]
        assert name in said
        again = plan(asked(Bounds(**{**said, name: value})), network)
        # Another bound may now be the one that cannot be kept, but never the one just offered.
        assert isinstance(again, ExitPlan) or getattr(again.offer, name) is None
        return
    costs = network.costs
    assert chosen.mandatory <= chosen.target
    if "latency_ms" in said:
        assert network.time_us(0, chosen.target, 1) <= GUARD.usable_us(said["latency_ms"])
    if "energy_mj" in said:
        energy_mj = costs.energy_mj(chosen.target, 1)
        assert energy_mj is not None
        assert energy_mj <= said["energy_mj"]
    if "accuracy" in said:
        reached = costs.accuracy[chosen.mandatory] if chosen.proof is None else chosen.proof.accuracy
        assert reached >= said["accuracy"]


@given(st.integers(1, 10_000_000), st.sampled_from([GUARD, Guard(0, 0.0), Guard(0, 0.5)]))
def test_the_bound_for_a_time_leaves_that_time(time_us: int, guard: Guard) -> None:
    bound_ms = guard.latency_ms_for(time_us)
    assert guard.usable_us(bound_ms) >= time_us
    assert guard.usable_us(bound_ms - 0.04) < time_us


# ---- what a tenant may use


def planned_within(bounds: Bounds, deepest: int, network: Served = NET) -> ExitPlan | Misfit:
    return plan(asked(bounds)._replace(deepest=deepest), network)


@pytest.mark.parametrize("network", [NET, GATED])
@pytest.mark.parametrize("deepest", [0, 1, 2, 9])
@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(),
        Bounds(latency_ms=ENDLESS_MS),
        Bounds(energy_mj=1e6),
        Bounds(accuracy=0.5),
        Bounds(accuracy=0.5, objective="accuracy"),
        Bounds(conditions=(None, None, ConditionSet(all_of=(Condition("confidence", "greater", 0.5),)))),
    ],
)
def test_no_plan_goes_deeper_than_a_tenant_may(bounds: Bounds, deepest: int, network: Served) -> None:
    chosen = planned_within(bounds, deepest, network)
    assert isinstance(chosen, ExitPlan), chosen
    assert chosen.mandatory <= chosen.target <= deepest
    if deepest >= network.exit_last:
        assert chosen == plan(asked(bounds), network)
    elif bounds == Bounds():
        assert (chosen.target, chosen.limit) == (deepest, "last_exit")


def test_bounds_that_need_more_than_a_tenant_may_use_are_refused_with_what_would_do() -> None:
    best = NET.costs.accuracy[0]
    chosen = planned_within(Bounds(accuracy=NET.costs.accuracy[-1]), 0)
    assert isinstance(chosen, Misfit)
    assert chosen.offer.accuracy is not None
    assert chosen.offer.accuracy <= best


def test_one_who_may_use_nothing_worth_choosing_may_use_the_first_exit() -> None:
    chosen = planned_within(Bounds(), -1)
    assert isinstance(chosen, ExitPlan)
    assert chosen.target == NET.ladder[0]
