"""The device's power cap: no second draws more than it; what does not fit waits, and nothing is lost."""

from __future__ import annotations

import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer
from delen.daemon.behaviour import Behaviour
from delen.daemon.config import Limits
from delen.daemon.simulate import Simulation
from delen.policies.power_cap import WINDOW_US, PowerCap
from delen.policies.view import Served
from delen.profiles.boards import parse_spec, replayed
from delen.profiles.costs import Costs
from delen.tests.simulation import served as certified


def nano() -> Served:
    """ResNet-50 on a Jetson Nano as published: exits at 46, 99 and 177 mJ."""
    return Served("net", "1", Costs.of(replayed(parse_spec("jetson-nano"), "resnet50"), 8), None, 8, 0.0)


def flood(power_w_max: float, seed: int = 1) -> Simulation:
    simulation = Simulation([nano()], seed=seed, limits=Limits(queued_max=10_000, power_w_max=power_w_max))
    simulation.poisson("a", Bounds(), 15.0, 0, 10_000_000)
    simulation.poisson("b", Bounds(latency_ms=900, accuracy=0.6), 4.0, 0, 10_000_000)
    simulation.run()
    return simulation


@pytest.mark.parametrize("power_w_max", [0.4, 1.0, 2.5])
def test_no_second_draws_more_than_the_cap(power_w_max: float) -> None:
    # The watch of the simulation checks every second of it; see invariant 9.
    simulation = flood(power_w_max)
    drawn_mj = sum(account.energy_mj for account in simulation.server.ledger.accounts.values())
    seconds = simulation.now_us / 1e6
    assert 0.75 * power_w_max < drawn_mj / 1000 / seconds <= power_w_max
    assert simulation.server.pending_count == 0


def test_without_a_cap_the_same_requests_draw_more() -> None:
    free, capped = flood(0.0), flood(1.0)
    drawn = [sum(a.energy_mj for a in each.server.ledger.accounts.values()) / each.now_us for each in (free, capped)]
    assert drawn[0] > 1.5 * drawn[1]
    assert all(isinstance(outcome.reply, Answer) for outcome in capped.outcomes if outcome.tenant == "a")


def test_room_comes_back_a_window_after_a_run_has_ended() -> None:
    served, cap = nano(), PowerCap(0.1)
    simulation = Simulation([served])
    simulation.ask(0, "a", Bounds(), "net")
    simulation.run(1)
    [run] = simulation.runs
    assert cap.room_mj(0) == pytest.approx(100.0)
    cap.post(run, served)
    assert cap.room_mj(0) < 0
    assert cap.free_us(0) == WINDOW_US
    cap.over(run.id, 50_000)
    assert cap.room_mj(50_000 + WINDOW_US - 1) < 0
    assert cap.room_mj(50_000 + WINDOW_US) == pytest.approx(100.0)


def test_a_lost_worker_s_runs_still_count() -> None:
    served, cap = nano(), PowerCap(0.1)
    simulation = Simulation([served])
    simulation.ask(0, "a", Bounds(), "net")
    simulation.run(1)
    cap.post(simulation.runs[0], served)
    cap.lost()
    assert cap.room_mj(10) < 0
    assert cap.room_mj(10 + WINDOW_US) == pytest.approx(100.0)


@pytest.mark.parametrize("power_w_max", [0.005, 0.02, 0.1])
def test_audits_keep_to_the_cap_too(power_w_max: float) -> None:
    # A whole audit of eight takes 30 mJ, its last segment 13; the watch of the simulation checks every second.
    sure = Behaviour([[0.999] * 3] * 100, [[True] * 3] * 100, [[True] * 3] * 100)
    limits = Limits(audit_share=1.0, power_w_max=power_w_max)
    simulation = Simulation([certified()], limits=limits, behaviours={"net": sure})
    for number in range(200):
        simulation.ask(number * 3_000, "a", Bounds(accuracy=0.93))
    assert all(isinstance(outcome.reply, Answer) for outcome in simulation.run())
    told = simulation.server.assurance.told("a")["net"]
    assert told.audits > 60
    assert told.audits + told.skipped == 200
    assert {row.stop for run in simulation.runs for row in run.rows if run.first} == {1, 2}
