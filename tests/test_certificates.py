"""Certificates: exactly the tests they claim, on the rows they claim, true as often as they claim, and quick."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delen.exits.calibration_file import Calibration
from delen.policies import binomial
from delen.policies.certificates import PLAIN_DOUBT, RESERVE_DOUBT, RESERVE_SHARE, Certifier, mean_us
from delen.policies.gates import Candidate, CertifiedPlan
from delen.profiles.costs import Costs
from delen.tests.labelled_samples import ACCURACIES, outcomes
from delen.tests.sample_profile import sample_profile
from delen.tests.simulation import served

COSTS = Costs.of(sample_profile(accuracies=ACCURACIES), 4)
SAMPLES = outcomes(6000)
MADE = Certifier.of(SAMPLES, COSTS)


def passed(ways: tuple[Candidate, ...], accuracy: float, doubt: float) -> list[Candidate]:
    """The fixed sequence as it is defined: test after test, and nothing after the first that fails."""
    found = []
    for way in ways:
        if binomial.cdf(way.errors, MADE.proofs.n, 1 - accuracy) > doubt:
            break
        found.append(way)
    return found


@given(st.floats(0.7, 0.95), st.sampled_from([0.5, 0.9, 0.99]), st.booleans())
def test_a_plan_is_the_cheapest_before_the_first_test_that_fails(
    accuracy: float, certainty: float, gated: bool
) -> None:
    ways = passed(MADE.proofs.gates if gated else MADE.proofs.fixed, accuracy, 1 - certainty)
    plan = MADE.plan(accuracy, certainty, gated=gated)
    if plan is None:
        assert not ways
        return
    cheapest = min(ways, key=lambda way: (mean_us(way, COSTS), way.last))
    assert (plan.thresholds, plan.last, plan.errors) == (cheapest.thresholds, cheapest.last, cheapest.errors)
    assert plan.time_us == pytest.approx(mean_us(cheapest, COSTS))
    assert (plan.accuracy, plan.certainty, plan.n) == (accuracy, certainty, MADE.proofs.n)


@given(st.sampled_from([0.5, 0.9, 0.95]), st.booleans(), st.sampled_from([None, 0, 1]), st.booleans(), st.booleans())
@settings(deadline=None)
def test_the_best_can_be_had_and_a_little_more_cannot(
    certainty: float, gated: bool, deepest: int | None, forcible: bool, conditional: bool
) -> None:
    asked: dict[str, Any] = {"gated": gated, "deepest": deepest, "forcible": forcible, "conditional": conditional}
    best = MADE.best(certainty, **asked)
    assert MADE.plan(best, certainty, **asked) is not None
    assert MADE.plan(best + 0.0002, certainty, **asked) is None


def test_rows_of_the_search_never_count_in_a_test_nor_the_others_in_the_search() -> None:
    kept, worse = SAMPLES.correct.copy(), SAMPLES.correct.copy()
    worse[~SAMPLES.fit] = False
    spoilt = Certifier.of(Calibration(SAMPLES.confidence, worse, SAMPLES.agrees, SAMPLES.fit), COSTS)
    assert [way.thresholds for way in spoilt.proofs.gates] == [way.thresholds for way in MADE.proofs.gates]
    assert spoilt.best(0.9) == 0
    kept[SAMPLES.fit] = False
    other = Certifier.of(Calibration(SAMPLES.confidence, kept, SAMPLES.agrees, SAMPLES.fit), COSTS)
    assert [way.errors for way in other.proofs.fixed] == [way.errors for way in MADE.proofs.fixed]


def test_gates_cost_less_than_the_best_fixed_exit() -> None:
    gates, fixed = MADE.plan(0.9, 0.9), MADE.plan(0.9, 0.9, gated=False)
    assert gates is not None
    assert fixed is not None
    assert gates.gated
    assert not fixed.gated
    assert gates.time_us < 0.8 * fixed.time_us
    assert gates.energy_mj == pytest.approx(gates.time_us * 0.0075)


def test_what_may_not_go_deep_gets_another_plan_or_none() -> None:
    shallow = MADE.plan(0.86, 0.9, deepest=1)
    assert shallow is not None
    assert shallow.last == 1
    assert MADE.plan(0.9, 0.9, deepest=0) is None
    assert MADE.best(0.9, deepest=0) == pytest.approx(ACCURACIES[0], abs=0.03)


def test_conditional_plans_hold_at_every_exit_and_before() -> None:
    plan = MADE.plan(0.88, 0.9, conditional=True)
    assert plan is not None
    assert plan.conditional
    way = next(w for w in MADE.proofs.gates if (w.thresholds, w.last) == (plan.thresholds, plan.last))
    tested = 0
    for last in range(way.last + 1):
        if way.thresholds[last] < math.inf or last == way.last:
            wrong, halted = sum(way.wrong[: last + 1]), sum(way.halted[: last + 1])
            assert binomial.cdf(wrong, halted, 1 - 0.88) <= 0.1 + 1e-9
            tested += 1
    assert tested >= 2


def test_easy_inputs_do_not_hide_bad_early_answers_under_a_conditional_certificate() -> None:
    # The first exit is sure of a fifth of the inputs and wrong at half of them; the last is always right.
    count = 4000
    early = np.arange(count) % 5 == 0
    sure = np.where(early, 0.99, 0.2).astype(np.float32)
    first_right = np.where(early, np.arange(count) % 2 == 0, False)
    always = np.ones(count, bool)
    samples = Calibration(
        np.stack([sure, sure, sure], axis=1), np.stack([first_right, first_right, always], axis=1),
        np.stack([first_right, first_right, always], axis=1), np.arange(count) % 3 == 0,
    )  # fmt: skip
    certifier = Certifier.of(samples, COSTS)
    loose, strict = certifier.plan(0.85, 0.9), certifier.plan(0.85, 0.9, conditional=True)
    assert loose is not None
    assert strict is not None
    assert loose.shares[0] == pytest.approx(0.2)
    assert strict.shares[2] == 1


def test_plans_that_may_be_stopped_early_keep_a_reserve_and_say_what_each_stop_costs() -> None:
    plan = MADE.plan(0.88, 0.9, forcible=True)
    assert plan is not None
    assert plan.reserve == pytest.approx(RESERVE_SHARE * 0.12)
    assert binomial.cdf(plan.errors, plan.n, 0.12 - plan.reserve) <= 0.1 * RESERVE_DOUBT
    way = next(w for w in MADE.proofs.gates if (w.thresholds, w.last) == (plan.thresholds, plan.last))
    for exit_index in range(plan.last):
        beyond = plan.n - sum(way.halted[: exit_index + 1])
        assert way.excess[exit_index] / beyond < plan.forced[exit_index] < 1
    assert plan.forced[plan.last :] == (0.0,) * (3 - plan.last)
    tight = MADE.plan(MADE.best(0.9, forcible=True), 0.9, forcible=True)
    assert tight is not None
    assert tight.reserve == 0
    assert binomial.cdf(tight.errors, tight.n, 1 - tight.accuracy) <= 0.1 * PLAIN_DOUBT


def test_what_holds_when_some_are_stopped_holds_for_those_that_had_left_before() -> None:
    """Answers that a stop breaks say so; the others are then mostly early ones, and the claim is about these."""
    # The first exit is sure of half the inputs and too often wrong there; the last makes up for it.
    draw, count = np.random.default_rng(2), 8000
    early = draw.uniform(size=count) < 0.5
    first = np.where(early, draw.uniform(size=count) < 0.84, draw.uniform(size=count) < 0.3)
    last = np.where(early, first, draw.uniform(size=count) < 0.98)
    sure = np.where(early, 0.99, 0.2).astype(np.float32)
    right = np.stack([first, first, last], axis=1)
    agrees = right == right[:, -1:]
    samples = Calibration(np.stack([sure, sure, sure], axis=1), right, agrees, np.arange(count) % 3 == 0)
    certifier = Certifier.of(samples, COSTS)
    free, forcible = certifier.plan(0.89, 0.9), certifier.plan(0.89, 0.9, forcible=True)
    assert free is not None
    assert free.shares[0] > 0.4
    assert forcible is None or forcible.shares[0] == 0


def test_a_conditional_certificate_bears_no_stop() -> None:
    """Whoever is stopped joins those who left early, and they may be few."""
    plan = MADE.plan(0.88, 0.9, conditional=True, forcible=True)
    assert plan is not None
    assert (plan.forced, plan.reserve) == ((), 0.0)
    assert plan == MADE.plan(0.88, 0.9, conditional=True)


def test_disagreement_is_bounded_from_above_among_answers_that_gates_let_go() -> None:
    """Only those are audited, so a bound for all answers would be too low for them and raise false alarms."""
    plan = MADE.plan(0.9, 0.9)
    assert plan is not None
    way = next(w for w in MADE.proofs.gates if (w.thresholds, w.last) == (plan.thresholds, plan.last))
    pool = outcomes(50_000, seed=11)
    leaves = np.full(len(pool.fit), plan.last)
    for index in range(plan.last - 1, -1, -1):
        leaves[pool.confidence[:, index] > plan.thresholds[index]] = index
    gated = leaves < plan.last
    truth = 1 - float(pool.agrees[np.arange(len(leaves)), leaves][gated].mean())
    assert truth < plan.disagreement < 3 * way.disagreed / way.let_go
    fixed = MADE.plan(0.85, 0.9, gated=False)
    assert fixed is not None
    assert fixed.disagreement == 1, "nothing of it is audited"


def test_samples_needed_are_for_both_parts() -> None:
    needed = MADE.needed(0.91, 0.9)
    assert needed is not None
    assert needed > len(SAMPLES.fit) * 0.3
    assert MADE.needed(0.95, 0.9) is None
    fewer = MADE.needed(0.85, 0.9)
    assert fewer is not None
    assert fewer < needed / 10


def test_without_samples_to_test_on_nothing_is_certified_and_without_any_to_search_on_fixed_exits_are() -> None:
    blind = Certifier.of(SAMPLES._replace(fit=np.ones(6000, bool)), COSTS)
    assert (blind.plan(0.5, 0.5), blind.best(0.5)) == (None, 0.0)
    unsearched = Certifier.of(SAMPLES._replace(fit=np.zeros(6000, bool)), COSTS)
    plan = unsearched.plan(0.85, 0.9)
    assert plan is not None
    assert (plan.gated, plan.last) == (False, 1)


def test_dominated_exits_are_never_left_at() -> None:
    costs = Costs.of(sample_profile(accuracies=(0.8, 0.79, 0.92)), 4)
    certifier = Certifier.of(SAMPLES, costs)
    assert all(way.shares[1] == 0 and way.thresholds[1] == math.inf for way in certifier.proofs.gates)


def test_what_a_journal_keeps_makes_the_same_certifier() -> None:
    again = Certifier(MADE.proofs, COSTS)
    for accuracy in (0.8, 0.9, 0.915):
        assert again.plan(accuracy, 0.9, forcible=True) == MADE.plan(accuracy, 0.9, forcible=True)


def broken_share(pick: dict[str, Any], sets: int, accuracy: float) -> tuple[float, int]:
    """Share of drawn calibration sets whose plan is less accurate on the pool they were drawn from, and plans made."""
    pool, draw = outcomes(20_000, seed=9), np.random.default_rng(4)
    broken = made = 0
    for _ in range(sets):
        rows = draw.integers(0, 20_000, 900)
        fit = np.arange(900) < 300
        samples = Calibration(pool.confidence[rows], pool.correct[rows], pool.agrees[rows], fit)
        plan = Certifier.of(samples, COSTS).plan(accuracy, 0.8, **pick)
        if plan is not None:
            made += 1
            broken += delivered(plan, pool) < accuracy
    return broken / sets, made


def delivered(plan: CertifiedPlan, pool: Calibration) -> float:
    leaves = np.full(len(pool.fit), plan.last)
    for index in range(plan.last - 1, -1, -1):
        leaves[pool.confidence[:, index] > plan.thresholds[index]] = index
    return float(pool.correct[np.arange(len(leaves)), leaves].mean())


@pytest.mark.slow
@pytest.mark.parametrize("pick", [{}, {"gated": False}])
def test_certificates_break_no_more_often_than_they_say(pick: dict[str, Any]) -> None:
    share, made = broken_share(pick, 150, 0.905)
    assert made > 50
    assert share <= 0.2 + 2 * math.sqrt(0.2 * 0.8 / 150)


def test_what_the_last_exit_alone_keeps_can_always_be_had() -> None:
    network = served(accuracies=(0.6, 0.8, 0.99)).gates
    assert network is not None
    assert network.best(0.9) >= network.alone(2, 0.9) - 1e-4
