"""The bench judges by the pool: certificates hold there, naive thresholds do not, and alarms are those of the core."""

from __future__ import annotations

import numpy as np
import pytest

from delen.policies import certificate_bench
from delen.policies.certificate_bench import Task, bench_certificates, bench_drift
from delen.policies.certificates import Certifier
from delen.policies.drift import DriftAlarm
from delen.profiles.costs import Costs
from delen.tests.labelled_samples import ACCURACIES, outcomes
from delen.tests.sample_profile import sample_profile

COSTS = Costs.of(sample_profile(accuracies=ACCURACIES), 4)


@pytest.mark.slow
def test_certificates_hold_on_the_pool_and_naive_thresholds_break() -> None:
    told: list[int] = []
    task = Task(accuracy=0.9, certainty=0.8, sets=60, size=900)
    kept = bench_certificates(outcomes(6000), COSTS, task, np.random.default_rng(0), told.append)
    found = {one.kind: one for one in kept}
    assert told == list(range(1, 61))
    for kind in ("fixed exit", "gates", "conditional gates", "gates, forced exits"):
        assert found[kind].made > 10
        assert found[kind].broken_share <= found[kind].allowed
    assert found["naive thresholds"].broken_share > found["naive thresholds"].allowed
    assert found["fixed exit"].of_fixed == 1
    of_fixed = found["gates"].of_fixed
    assert of_fixed is not None
    assert of_fixed < 0.9


def test_a_plan_is_judged_by_where_the_pool_leaves() -> None:
    pool = outcomes(3000)
    plan = Certifier.of(pool, COSTS).plan(0.88, 0.9, forcible=True)
    assert plan is not None
    world = certificate_bench._World(pool, COSTS)
    judged, forced = world.judge(plan), world.judge_forced(plan)
    assert judged.accuracy == pytest.approx(plan.measured, abs=0.02)
    assert judged.cost == pytest.approx(plan.time_us / COSTS.path_us(0, 2, 1), abs=0.02)
    # As many are stopped as the plan bears, so they cost something, and less than what is kept for them.
    assert judged.accuracy - plan.reserve <= forced.accuracy < judged.accuracy


def test_the_alarms_of_the_bench_are_those_of_the_core() -> None:
    rate, bound = 0.2, 0.05
    [raised] = certificate_bench._Bets("evidence", bound, 1, np.random.default_rng(3)).alarms_at(rate, 400)
    draw, alarm, audit = np.random.default_rng(3), DriftAlarm(bound), 0
    while not alarm.observe(bool(draw.random(1)[0] < rate)):
        audit += 1
    assert raised == audit + 1


@pytest.mark.slow
def test_a_product_goes_deaf_and_evidence_does_not() -> None:
    pool = outcomes(4000)
    plan = Certifier.of(pool, COSTS).plan(0.88, 0.9)
    assert plan is not None
    kept = {one.kind: one for one in bench_drift(pool, COSTS, plan, 20, np.random.default_rng(0))}
    assert kept["product"].after_clean == 0
    assert kept["evidence"].after_clean > 0.9
    assert kept["evidence"].false_at_truth <= 0.1
