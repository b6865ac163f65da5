"""What is counted, and how: violations, accuracy, latencies, and intervals over seeds."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds
from delen.daemon.noise import NoiseSpec
from delen.daemon.outcomes import Interval, Measured, interval, measured, percentile, summary
from delen.daemon.simulate import Simulation
from delen.policies.policy import make_policy
from delen.tests.simulation import served


def simulated(policy: str, *asks: tuple[int, str, Bounds]) -> Simulation:
    network = served(segments_us=(1000, 2000, 4000), gates=False)
    simulation = Simulation([network], policy=make_policy(policy), noise=NoiseSpec())
    for when_us, tenant, bounds in asks:
        simulation.ask(when_us, tenant, bounds)
    simulation.run()
    return simulation


def test_late_dropped_and_refused_are_violations_without_accuracy() -> None:
    late = simulated("fixed-exit", (0, "a", Bounds(latency_ms=50)), (100, "a", Bounds(latency_ms=9)))
    found = measured(late)
    accuracy = late.server.networks["net"].costs.accuracy
    assert (found.requests, found.violations_pct, found.refused_pct, found.admitted_missed_pct) == (2, 50, 0, 50)
    assert found.effective_accuracy == pytest.approx(100 * accuracy[-1] / 2)
    refused = measured(simulated("stage-edf", (0, "a", Bounds(latency_ms=0.1)), (0, "a", Bounds(latency_ms=50))))
    assert (refused.violations_pct, refused.refused_pct, refused.admitted_missed_pct) == (50, 50, 0)
    dropped = measured(simulated("clockwork", (0, "a", Bounds(latency_ms=3)), (0, "a", Bounds(latency_ms=500))))
    assert (dropped.violations_pct, dropped.refused_pct, dropped.admitted_missed_pct) == (50, 0, 50)


def test_warm_up_and_other_tenants_are_left_out() -> None:
    simulation = simulated(
        "stage-edf", (0, "a", Bounds()), (2_000_000, "a", Bounds()), (3_000_000, "b", Bounds(latency_ms=0.1))
    )
    assert measured(simulation).requests == 3
    assert measured(simulation, warmup_us=1_000_000).requests == 2
    of_b = measured(simulation, who=lambda outcome: outcome.tenant == "b")
    assert (of_b.requests, of_b.violations_pct) == (1, 100)


def test_goodput_counts_answers_in_time_per_second_of_sending() -> None:
    asks = [(when_us, "a", Bounds(latency_ms=50)) for when_us in range(0, 2_000_001, 100_000)]
    assert measured(simulated("stage-edf", *asks)).goodput_hz == pytest.approx(21 / 2)


def test_nobody_counted_is_no_division_by_zero() -> None:
    found = measured(simulated("stage-edf"))
    assert (found.requests, found.violations_pct, found.p99_ms, found.energy_mj) == (0, 0, 0, None)


def test_intervals_are_student_s() -> None:
    # Two seeds: t is 12.706 with one degree of freedom, the standard error 0.5.
    two = interval([1.0, 2.0])
    assert two is not None
    assert (two.mean, two.n) == (1.5, 2)
    assert two.half == pytest.approx(12.706 * 0.5)
    assert interval([3.0]) == Interval(3.0, 0.0, 1)
    twenty = interval([float(value) for value in range(20)])
    assert twenty is not None
    assert twenty.half == pytest.approx(2.093 * 5.916 / 20**0.5, rel=1e-3)
    hundred = interval([0.0, 1.0] * 50)
    assert hundred is not None
    assert hundred.half == pytest.approx(1.960 * 0.5025 / 10, rel=1e-3)


def test_a_figure_that_one_seed_does_not_know_is_not_known() -> None:
    assert interval([1.0, None]) is None
    assert interval([]) is None


def test_percentiles_are_nearest_ranks() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([], 99) == 0


def test_a_summary_has_every_figure() -> None:
    run = measured(simulated("stage-edf", (0, "a", Bounds())))
    found = summary([run, run])
    assert set(found) == set(Measured.__struct_fields__) - {"seed", "requests", "log_hash", "spread"}
    assert found["p50_ms"] == Interval(run.p50_ms, 0.0, 2)
