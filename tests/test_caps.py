"""Caps of a tenant in the core: never exceeded, named in the refusal, and no concern of anybody else's."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer, Refusal
from delen.daemon.simulate import Outcome, Simulation
from delen.policies.rates import Terms
from delen.tests.simulation import served

SECOND_US = 1_000_000
FREE, FAST = Bounds(), Bounds(latency_ms=50.0)


def of(outcomes: list[Outcome], tenant: str, kind: type) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.tenant == tenant and isinstance(outcome.reply, kind)]


def codes(outcomes: list[Outcome], tenant: str) -> set[str]:
    return {outcome.reply.code for outcome in of(outcomes, tenant, Refusal) if isinstance(outcome.reply, Refusal)}


def flooded(terms: Terms, bounds: Bounds = FREE, *, step_us: int = 2_000, count: int = 1000) -> list[Outcome]:
    """Tenant a asks every `step_us`, and b now and then, within bounds that it always gets."""
    simulation = Simulation([served()], tenants={"a": terms, "b": Terms()})
    for number in range(count):
        simulation.ask(number * step_us, "a", bounds)
        if number % 50 == 0:
            simulation.ask(number * step_us + 700, "b", FAST)
    outcomes = simulation.run()
    assert not of(outcomes, "b", Refusal), "b is not concerned"
    assert len(outcomes) == count + -(-count // 50)
    return outcomes


def test_a_rate_that_is_a_cap_is_exact() -> None:
    """50 times the rate: 2 s at 10 per second with a burst of 5."""
    outcomes = flooded(Terms(rate_hz_max=10.0, burst_max=5))
    taken = of(outcomes, "a", Answer)
    # The burst, and one each tenth of a second from then on.
    assert len(taken) == 5 + 19
    assert codes(outcomes, "a") == {"rate"}
    refused = of(outcomes, "a", Refusal)[0].reply
    assert isinstance(refused, Refusal)
    assert "rate_hz_max 10 (burst_max 5)" in refused.message
    assert refused.offer is not None
    assert refused.offer.retry_after_ms is not None
    assert 0 < refused.offer.retry_after_ms <= 100.1


def test_what_waits_is_capped_below_the_common_limit() -> None:
    simulation = Simulation([served()], tenants={"a": Terms(queued_max=3), "b": Terms()})
    for tenant in "aaaaab":
        simulation.ask(0, tenant, FREE)
    outcomes = simulation.run()
    assert len(of(outcomes, "a", Answer)) == 3
    refused = of(outcomes, "a", Refusal)[0].reply
    assert isinstance(refused, Refusal)
    assert refused.code == "queue_full"
    assert "your queued_max is 3" in refused.message
    assert len(of(outcomes, "b", Answer)) == 1


def energy_mj(outcomes: list[Outcome]) -> float:
    return sum(o.reply.energy_mj or 0.0 for o in of(outcomes, "a", Answer) if isinstance(o.reply, Answer))


@pytest.mark.parametrize("bounds", [FREE, FAST])
def test_watts_are_kept_by_less_depth_first_and_then_by_refusing(bounds: Bounds) -> None:
    # To the last exit a request takes 5.3 mJ, to the first 0.8; asked for are 500 per second.
    power_w = 0.6
    outcomes = flooded(Terms(power_w_max=power_w), bounds)
    took_s = 2.0
    assert energy_mj(outcomes) <= power_w * 1000 * (took_s + 1.0)
    exits = {o.reply.exit for o in of(outcomes, "a", Answer) if isinstance(o.reply, Answer)}
    assert len(exits) > 1, "depth gives way before requests do"
    tight = flooded(Terms(power_w_max=0.05), bounds)
    assert energy_mj(tight) <= 0.05 * 1000 * (took_s + 1.0) + 6
    assert codes(tight, "a") == {"quota"}
    refused = of(tight, "a", Refusal)[0].reply
    assert isinstance(refused, Refusal)
    assert "power_w_max 0.05" in refused.message


def test_joules_of_a_day_are_never_exceeded() -> None:
    outcomes = flooded(Terms(energy_j_day_max=0.2))
    assert 0.15 * 1000 < energy_mj(outcomes) <= 0.2 * 1000
    refused = of(outcomes, "a", Refusal)[-1].reply
    assert isinstance(refused, Refusal)
    assert refused.offer is not None
    assert refused.offer.retry_after_ms is not None
    assert refused.offer.retry_after_ms > 23 * 3600 * 1000


def test_a_cap_on_energy_that_is_not_known_admits_nothing() -> None:
    simulation = Simulation([served(energy=False)], tenants={"a": Terms(power_w_max=100.0)})
    simulation.ask(0, "a", FREE)
    [outcome] = simulation.run()
    assert isinstance(outcome.reply, Refusal)
    assert "knows no energies" in outcome.reply.message


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (Terms(rate_hz_max=0.0), "rate_hz_max"),
        (Terms(rate_hz_max=float("inf")), "rate_hz_max"),
        (Terms(burst_max=0), "burst_max"),
        (Terms(queued_max=0), "queued_max"),
        (Terms(queued_bytes_max=-1), "queued_bytes_max"),
        (Terms(power_w_max=float("nan")), "power_w_max"),
        (Terms(energy_j_day_max=-1.0), "energy_j_day_max"),
        (Terms(rate_hz=20.0, rate_hz_max=10.0), "promises more"),
    ],
)
def test_a_cap_that_cannot_be_is_named(terms: Terms, said: str) -> None:
    assert said in str(terms.fault())
