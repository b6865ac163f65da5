"""Adaptation policies on the core: each sends requests where it should, bounds hold all the same."""

from __future__ import annotations

from collections import Counter

import pytest

from delen.clients.adaptation import Adaptation, Adapts, adaptation_fault
from delen.clients.bounds import Bounds, Condition, ConditionSet
from delen.clients.wire import Answer, Refusal
from delen.daemon.config import Limits
from delen.daemon.noise import NoiseSpec
from delen.daemon.simulate import Simulation
from delen.policies.alert import Alert
from delen.policies.exits import asked
from delen.policies.view import Served
from delen.profiles.boards import parse_spec, replayed
from delen.profiles.costs import Costs

SECOND_US = 1_000_000


def nano() -> Served:
    """ResNet-50 on a Jetson Nano as published: 12, 26 and 43 ms, 46, 99 and 177 mJ."""
    return Served("net", "1", Costs.of(replayed(parse_spec("jetson-nano"), "resnet50"), 8), None, 8, 0.0)


def simulated(adaptation: Adaptation, *, noise: NoiseSpec | None = None, power_w_max: float = 0.0) -> Simulation:
    limits = Limits(queued_max=10_000, power_w_max=power_w_max)
    simulation = Simulation([nano()], seed=5, limits=limits, noise=noise)
    simulation.server.ledger.budgets.adapt(0, "a", adaptation)
    return simulation


def exits(simulation: Simulation, tenant: str = "a") -> Counter[int | str]:
    """How many were answered at which exit, or refused with which code."""
    replies = [outcome.reply for outcome in simulation.outcomes if outcome.tenant == tenant]
    return Counter(reply.exit if isinstance(reply, Answer) else reply.code for reply in replies)


def test_fixed_sends_everything_to_its_exit_and_nobody_else_s() -> None:
    simulation = simulated(Adaptation("fixed", exit=1))
    simulation.poisson("a", Bounds(), 5.0, 0, 4 * SECOND_US)
    simulation.poisson("b", Bounds(), 5.0, 0, 4 * SECOND_US)
    simulation.run()
    assert set(exits(simulation)) == {1}
    assert set(exits(simulation, "b")) == {2}
    told = {outcome.reply.stop for outcome in simulation.outcomes if isinstance(outcome.reply, Answer)}
    assert told == {"objective", "last_exit"}


def test_bounds_come_before_adaptation() -> None:
    simulation = simulated(Adaptation("fixed", exit=0))
    simulation.ask(0, "a", Bounds(accuracy=0.7))
    simulation.ask(SECOND_US, "a", Bounds(latency_ms=30))
    simulation.run()
    assert [outcome.reply.exit for outcome in simulation.outcomes if isinstance(outcome.reply, Answer)] == [2, 0]
    assert all(not outcome.reply.broken for outcome in simulation.outcomes if isinstance(outcome.reply, Answer))


def test_conditions_hold_for_requests_that_bring_no_bounds_of_their_kind() -> None:
    stop_at_first = ConditionSet(all_of=(Condition("exit", "greater_eq", 0),))
    simulation = simulated(Adaptation("conditions", conditions={"net": (stop_at_first, None, None, None)}))
    simulation.ask(0, "a", Bounds())
    simulation.ask(SECOND_US, "a", Bounds(accuracy=0.6))
    simulation.run()
    replies = [outcome.reply for outcome in simulation.outcomes]
    assert [(reply.exit, reply.stop) for reply in replies if isinstance(reply, Answer)] == [
        (0, "condition"),
        (1, "objective"),
    ]


def test_alert_takes_the_exit_that_is_best_with_how_likely_it_is_in_time() -> None:
    alert, served = Alert(), nano()
    # 43 ms to the third exit fit into 60, but with ALERT's spread of a third only four times in five.
    assert alert.exit(asked(Bounds(latency_ms=60)), served) == 1
    assert alert.exit(asked(Bounds(latency_ms=200)), served) == 2
    for _ in range(20):
        alert.observe(26_200.0, 2.4 * 26_200)
    assert alert.mean == pytest.approx(2.4, rel=0.02)
    assert alert.exit(asked(Bounds(latency_ms=60)), served) == 0
    assert alert.exit(asked(Bounds(accuracy=0.6)), served) == 1
    assert alert.exit(asked(Bounds(energy_mj=60)), served) == 0


def test_alert_runs_in_the_core_and_learns_from_its_answers() -> None:
    simulation = simulated(Adaptation("alert"), noise=NoiseSpec(steps=((5.0, 2.0),)))
    for k in range(60):
        simulation.ask(k * SECOND_US // 4, "a", Bounds(latency_ms=150))
    simulation.run()
    found = [outcome.reply.exit for outcome in simulation.outcomes if isinstance(outcome.reply, Answer)]
    # 43 ms become 86: from then on its wide spread leaves too much to chance.
    assert set(found[:19]) == {2}
    assert set(found[25:]) == {1}


def test_load_goes_shallower_as_more_is_asked_and_deeper_again() -> None:
    simulation = simulated(Adaptation("load"))
    simulation.poisson("a", Bounds(), 2.0, 0, 20 * SECOND_US)
    simulation.poisson("a", Bounds(), 45.0, 20 * SECOND_US, 30 * SECOND_US)
    simulation.poisson("a", Bounds(), 2.0, 30 * SECOND_US, 50 * SECOND_US)
    simulation.run()

    def mean(from_s: int, to_s: int) -> float:
        found = [
            outcome.reply.exit
            for outcome in simulation.outcomes
            if isinstance(outcome.reply, Answer) and from_s * SECOND_US <= outcome.sent_us < to_s * SECOND_US
        ]
        return sum(found) / len(found)

    assert mean(0, 20) > 1.8
    assert mean(22, 30) < 0.5
    assert mean(34, 50) > 1.8


def test_a_battery_answers_everybody_to_the_end_and_uses_what_there_is() -> None:
    simulation = simulated(Adaptation("battery", energy_j=100.0, for_s=1000.0))
    for k in range(1000):
        simulation.ask(k * SECOND_US, "a", Bounds())
    simulation.run()
    found = exits(simulation)
    # 100 mJ each: between the second exit's 99 and the third's 177.
    assert found["quota"] <= 10
    assert sum(count for exit_index, count in found.items() if exit_index in (1, 2)) > 900
    spent_mj = simulation.server.ledger.account("a").energy_mj
    assert 98_000 <= spent_mj <= 100_000
    answered = [outcome for outcome in simulation.outcomes if isinstance(outcome.reply, Answer)]
    assert max(outcome.sent_us for outcome in answered) >= 995 * SECOND_US
    assert {outcome.reply.stop for outcome in answered if isinstance(outcome.reply, Answer)} <= {"energy", "last_exit"}


@pytest.mark.parametrize("policy", ["none", "load", "alert"])
def test_energy_that_is_used_up_is_used_up_whatever_the_policy(policy: str) -> None:
    simulation = simulated(Adaptation(policy, energy_j=2.0, for_s=100.0))  # type: ignore[arg-type]
    simulation.poisson("a", Bounds(), 5.0, 0, 10 * SECOND_US)
    simulation.poisson("b", Bounds(), 5.0, 0, 10 * SECOND_US)
    simulation.run()
    assert simulation.server.ledger.account("a").energy_mj <= 2000
    assert exits(simulation)["quota"] > 0
    assert set(exits(simulation, "b")) == {2}
    refused = next(o.reply for o in simulation.outcomes if isinstance(o.reply, Refusal))
    assert "energy_j 2" in refused.message
    assert refused.offer is not None
    assert refused.offer.retry_after_ms is not None


def test_a_power_is_an_average_nobody_exceeds() -> None:
    simulation = simulated(Adaptation("none", power_w=0.3))
    simulation.poisson("a", Bounds(), 10.0, 0, 60 * SECOND_US)
    simulation.run()
    assert simulation.server.ledger.account("a").energy_mj <= 0.3 * 61_000 + 177


def test_changed_at_run_time_the_next_request_obeys() -> None:
    simulation = simulated(Adaptation("fixed", exit=0))
    for k in range(4):
        simulation.ask(k * SECOND_US, "a", Bounds())
    budgets = simulation.server.ledger.budgets
    simulation.at(SECOND_US + 500_000, budgets.adapt, SECOND_US + 500_000, "a", Adaptation("fixed", exit=2))
    simulation.at(2 * SECOND_US + 500_000, budgets.adapt, 2 * SECOND_US + 500_000, "a", Adaptation())
    simulation.ask(2 * SECOND_US + 600_000, "a", Bounds(latency_ms=15))
    simulation.run()
    assert [o.reply.exit for o in simulation.outcomes if isinstance(o.reply, Answer)] == [0, 0, 2, 0, 2]


@pytest.mark.parametrize(
    ("adaptation", "said"),
    [
        (Adaptation("battery", energy_j=-3.0, for_s=10.0), "energy_j is -3; expected a finite number above 0"),
        (Adaptation("battery", energy_j=3.0), "energy_j needs for_s beside it"),
        (Adaptation("battery", energy_j=3.0, for_s=-10.0), "that time has passed already"),
        (Adaptation("none", for_s=10.0), "for_s needs energy_j beside it"),
        (Adaptation("fixed"), "fixed needs exit"),
        (Adaptation("load", exit=1), "exit is for fixed"),
        (Adaptation("conditions"), "needs the conditions of at least one network"),
        (Adaptation("alert", power_w=float("nan")), "power_w is nan"),
    ],
)
def test_what_cannot_be_is_said(adaptation: Adaptation, said: str) -> None:
    assert said in (adaptation_fault(adaptation) or "")


def test_what_can_be_has_no_fault() -> None:
    assert adaptation_fault(Adaptation("battery", energy_j=3.0, for_s=10.0, power_w=1.0)) is None
    assert adaptation_fault(Adaptation()) is None


def test_an_adaptation_said_anew_forgets_nobody_who_is_in() -> None:
    power = Adaptation("battery", power_w=0.2)
    simulation = simulated(power)
    budgets = simulation.server.ledger.budgets
    simulation.ask(1000, "a", Bounds())
    simulation.run(2000)
    assert simulation.server.pending_count == 1
    in_full = budgets.wait_us(2000, "a", 100.0)[0]
    assert in_full > 0
    budgets.adapt(2000, "a", power)
    assert budgets.wait_us(2000, "a", 100.0)[0] == in_full
    simulation.run()
    assert budgets.wait_us(simulation.now_us, "a", 20.0)[0] == 0


@pytest.mark.parametrize("policy", ["none", "battery"])
@pytest.mark.parametrize("power_w", [5e-324, 1e-310, 1e-300, 1e-9])
def test_power_that_is_hardly_any_refuses_and_harms_nobody_else(policy: Adapts, power_w: float) -> None:
    adaptation = Adaptation(policy, power_w=power_w)
    assert adaptation_fault(adaptation) is None
    simulation = simulated(adaptation)
    for at_us in range(1000, SECOND_US, 100_000):
        simulation.ask(at_us, "a", Bounds())
        simulation.ask(at_us, "b", Bounds())
    simulation.run()
    assert exits(simulation)["quota"] == 9
    assert exits(simulation, "b") == {2: 10}
