"""Fairness: optional and best-effort time by weight, energy counted too, nobody starved, and nothing owed touched."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer
from delen.daemon.config import Limits
from delen.daemon.noise import NoiseSpec
from delen.daemon.simulate import Simulation
from delen.policies.fairness import CREDIT_US, LAG_US_MAX, Share, Shares, jain, spread
from delen.policies.pools import Pool
from delen.policies.rates import Terms
from delen.policies.view import NEVER_US, Served, Waiting
from delen.tests.simulation import served

BEST_EFFORT = Bounds()


def weighted(weights: Mapping[str, float]) -> dict[str, Terms]:
    return {name: Terms(weight=weight) for name, weight in weights.items()}


def saturated(networks: Mapping[str, Served], bounds: Bounds, seconds: float) -> Simulation:
    """Tenants a, b, c of weight 1, 2, 4, each asking its network for far more than there is time for."""
    limits = Limits(queued_max=300)
    distinct = {network.name: network for network in networks.values()}
    simulation = Simulation(list(distinct.values()), seed=1, tenants=weighted({"a": 1, "b": 2, "c": 4}), limits=limits)
    for tenant, network in networks.items():
        simulation.poisson(tenant, bounds, 1500, 0, int(seconds * 1e6), network=network.name)
    simulation.run(until_us=int(seconds * 1e6))
    return simulation


def parts(simulation: Simulation) -> list[float]:
    """Optional time of a, b and c over what their weights make of the sum; all 1 if weights are honoured."""
    times = [simulation.server.ledger.share(tenant).time_us for tenant in "abc"]
    return [7 * time / sum(times) / weight for time, weight in zip(times, (1, 2, 4), strict=True)]


def member(share: Share, ticket: int, due_us: int, network: Served) -> Waiting:
    return Waiting(ticket, network, 0, NEVER_US, due_us, 0, 2, False, "accuracy", share)


@pytest.mark.slow
def test_weights_are_honoured_among_best_effort_of_one_network() -> None:
    network = served(segments_us=(1000, 2000, 4000))
    simulation = saturated(dict.fromkeys("abc", network), BEST_EFFORT, 4.0)
    assert parts(simulation) == pytest.approx([1, 1, 1], rel=0.1)


@pytest.mark.slow
def test_weights_are_honoured_across_networks_of_unlike_cost() -> None:
    networks = {
        "a": served("small", segments_us=(500, 800, 900)),
        "b": served("middle", segments_us=(1000, 2000, 4000)),
        "c": served("large", segments_us=(2000, 4000, 8000)),
    }
    assert parts(saturated(networks, BEST_EFFORT, 4.0)) == pytest.approx([1, 1, 1], rel=0.1)


@pytest.mark.slow
def test_depth_beyond_the_bounds_goes_by_weight_too() -> None:
    network = served(segments_us=(300, 2000, 4000))
    simulation = Simulation([network], tenants=weighted({"a": 1, "b": 2, "c": 4}))
    for tenant in "abc":
        simulation.poisson(tenant, Bounds(latency_ms=100.0), 300, 0, 3_000_000)
    simulation.run()
    assert parts(simulation) == pytest.approx([1, 1, 1], rel=0.1)
    evenly = simulation.server.ledger.spread()
    assert evenly is not None
    assert evenly.time > 0.99
    replies = [outcome.reply for outcome in simulation.outcomes]
    assert all(isinstance(reply, Answer) and not reply.broken for reply in replies)


@pytest.mark.slow
@pytest.mark.parametrize("rate_hz", [4_000, 9_000])
def test_a_flood_of_deadlines_on_a_cheap_network_takes_no_more_than_its_part_of_what_is_free(rate_hz: float) -> None:
    networks = [served("cheap", gates=False), served("deep", segments_us=(700, 900, 1500), gates=False)]
    terms = weighted({"flood": 1, "deep": 1, "free": 1})
    simulation = Simulation(
        networks, seed=1, noise=NoiseSpec(sigma=0.05), hop_us=100, ahead_us=1_000, tenants=terms, check=False
    )
    simulation.poisson("flood", Bounds(latency_ms=20.0), rate_hz, 0, 2_000_000, network="cheap")
    simulation.poisson("deep", Bounds(latency_ms=60.0), 200, 0, 2_000_000, network="deep")
    simulation.poisson("free", BEST_EFFORT, 60, 0, 2_000_000, network="deep")
    waited_us = [outcome.ended_us - outcome.sent_us for outcome in simulation.run() if outcome.tenant == "free"]
    assert max(waited_us) < 1.2 * 1000 * simulation.limits.hold_ms
    assert jain([simulation.server.ledger.share(tenant).time_us for tenant in terms]) > 0.9


def test_a_flood_of_best_effort_does_not_starve_another_tenants() -> None:
    network = served(segments_us=(1000, 2000, 4000))
    simulation = Simulation([network], tenants=weighted({"flood": 1, "quiet": 1}), limits=Limits(queued_max=1000))
    for _ in range(800):
        simulation.ask(0, "flood", BEST_EFFORT)
    for when_ms in range(10, 500, 50):
        simulation.ask(when_ms * 1000, "quiet", BEST_EFFORT)
    quiet = [o for o in simulation.run() if o.tenant == "quiet" and isinstance(o.reply, Answer)]
    assert len(quiet) == 10
    # The flood alone takes three seconds; once it is ahead by some runs, whoever asks little does not wait for it.
    took_us = [outcome.ended_us - outcome.sent_us for outcome in quiet]
    assert max(took_us) < 200_000
    assert max(took_us[-5:]) < 10_000


@pytest.mark.slow
def test_tenants_that_are_alike_lose_nothing_by_fairness() -> None:
    def accuracy(tenants: Mapping[str, Terms], seed: int) -> float:
        network = served(segments_us=(300, 2000, 4000))
        simulation = Simulation([network], seed=seed, tenants=tenants, check=False)
        for tenant in "abc":
            simulation.poisson(tenant, Bounds(latency_ms=50.0), 300, 0, 2_000_000)
        answers = [outcome.reply for outcome in simulation.run()]
        return sum(network.costs.accuracy[a.exit] for a in answers if isinstance(a, Answer)) / len(answers)

    alike = {name: Terms() for name in "abc"}
    lost = [accuracy({}, seed) - accuracy(alike, seed) for seed in range(4)]
    assert sum(lost) / len(lost) < 0.0015


def test_virtual_time_is_the_larger_of_time_and_energy_over_weight() -> None:
    shares, frugal, hungry = Shares(), Share("frugal", 2.0), Share("hungry")
    for share in (frugal, hungry):
        shares.enter(share)
    # 1 mW and 3 mW: 2 mW in the mean, so the hungry one's energy counts as half as much again as its time.
    shares.charge(frugal, 1000, 1e-3)
    shares.charge(hungry, 1000, 3e-3)
    assert frugal.virtual_us == pytest.approx(500)
    assert hungry.virtual_us == pytest.approx(1500)
    assert frugal.worth == 2.0
    assert hungry.worth < 1.0


def test_time_alone_counts_where_energy_is_unknown() -> None:
    shares, share = Shares(), Share("a")
    shares.enter(share)
    shares.charge(share, 1000, None)
    assert (share.virtual_us, share.energy_mj) == (1000, None)
    assert spread([share]).energy is None


def test_who_comes_back_neither_pays_for_its_absence_nor_is_paid_for_it() -> None:
    shares, busy, back = Shares(), Share("busy"), Share("back")
    shares.enter(busy)
    shares.charge(busy, 10 * LAG_US_MAX, None)
    shares.enter(back)
    assert back.virtual_us == busy.virtual_us - CREDIT_US
    shares.leave(back)
    shares.enter(back)
    assert back.virtual_us == busy.virtual_us - CREDIT_US


def test_who_wants_nothing_optional_gathers_no_claim() -> None:
    shares, busy, sober = Shares(), Share("busy"), Share("sober")
    shares.enter(busy)
    shares.enter(sober)
    shares.charge(busy, 10 * LAG_US_MAX, None)
    assert busy.virtual_us - sober.virtual_us == LAG_US_MAX


def test_a_pool_gives_each_its_turn_and_the_earliest_due_of_each() -> None:
    network, pool = served(), Pool()
    much, little = Share("much", virtual_us=1000.0), Share("little")
    first = [member(much, ticket, ticket, network) for ticket in range(5)]
    late = [member(little, 10 + ticket, 100 + ticket, network) for ticket in range(5)]
    for waiting in [*first, *late]:
        pool.add(waiting)
    assert [w.ticket for w in pool.fair(4, 600.0)] == [10, 11, 0, 12]
    pool.remove(late[0])
    pool.add(member(little, 9, 50, network))
    assert [w.ticket for w in pool.fair(2, 500.0)] == [9, 11]
    assert pool.fair(100, 500.0) == pool.members


def test_jains_index() -> None:
    assert jain([5, 5, 5]) == pytest.approx(1)
    assert jain([9, 0, 0]) == pytest.approx(1 / 3)
    assert jain([0, 0]) == 1
    assert spread([Share("a", 1.0, time_us=10.0), Share("b", 2.0, time_us=20.0)]).time == pytest.approx(1)
