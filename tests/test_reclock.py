"""A clock that changes under the core: it goes on, its journal is played again exactly, and energies begin anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.clients.adaptation import Adaptation
from delen.clients.bounds import Bounds
from delen.daemon.budget_events import tell
from delen.daemon.canary import Canaries
from delen.daemon.config import Limits
from delen.daemon.journal import Journal, read_journal
from delen.daemon.journal_records import (
    AdaptedTo,
    Batteried,
    Corrected,
    EnergyRecord,
    Reclocked,
    Recosted,
    Setup,
    Spared,
)
from delen.daemon.reclock import reclock
from delen.daemon.recorded import Recorded
from delen.daemon.replay import replay
from delen.daemon.simulate import Simulation
from delen.policies.attribution import Attribution
from delen.policies.correction_rivals import correction
from delen.policies.policy import make_policy
from delen.tests.many import many
from delen.tests.tx2 import BEST_KHZ, TOP_KHZ, tx2

SECOND_US = 1_000_000


def changed(now_us: int, clock_khz: int, limit_khz: int = TOP_KHZ, *, dwell_us: int = 50_000) -> Reclocked:
    """The board runs at `clock_khz`, and allows no more than `limit_khz`."""
    allowed = {khz: costs.tables() for khz, costs in tx2().at_khz.items() if khz <= limit_khz}
    return Reclocked(now_us, "resnet50", allowed[max(allowed)], allowed, 1.1, clock_khz, 1_000, dwell_us)


def recorded(path: Path, seed: int) -> Simulation:
    setup = Setup(limits=Limits(queued_max=50, power_w_max=1.2), policy="clock", ahead_us=seed % 2 * 5_000)
    network = tx2()
    network.correction = correction(setup.correction, miss_target=setup.miss_target, p95_over_p50=1.1)
    network.at_khz = {}
    journal = Journal(path, bytes_max=10_000_000, note=lambda _said: None)
    simulation = Simulation([network], seed=seed, limits=setup.limits, server=Recorded(journal, setup), hop_us=200)
    server = simulation.server
    told: list[EnergyRecord] = [
        AdaptedTo(100_000, "a", Adaptation("battery", energy_j=6.0, for_s=5.0)),
        Batteried(200_000, 30_000.0, 1_000.0, 6 * SECOND_US, ((3 * SECOND_US, 900.0),)),
        Recosted(1_500_000, "resnet50", (1.2, 0.9, 1.1, 1.0)),
        Corrected(1_600_000, (("a", -2_500.0), ("b", 400.0))),
        AdaptedTo(2_500_000, "b", Adaptation("alert", power_w=3.0)),
        AdaptedTo(3_500_000, "a", Adaptation("load")),
    ]
    for record in told:
        simulation.at(record.now_us, tell, server, record)
    # Free, then held down to a clock that is none of its steps, then free again.
    for at_us, clock_khz, limit_khz in (
        (0, TOP_KHZ, TOP_KHZ),
        (2_000_000, 900_000, 900_000),
        (3_000_000, TOP_KHZ, TOP_KHZ),
    ):
        simulation.at(at_us, reclock, server, changed(at_us, clock_khz, limit_khz), setup)
    for at_us, warm in ((400_000, False), (700_000, True), (4_000_000, None)):
        simulation.at(at_us, lambda warm=warm: server.spare(("resnet50",), warm=warm))
    simulation.kill_worker(2_200_000 + 1_000 * seed)
    for tenant in "abc":
        simulation.poisson(tenant, Bounds(latency_ms=300, accuracy=0.5), 4.0, 0, 5 * SECOND_US, network="resnet50")
        simulation.poisson(tenant, Bounds(), 3.0, 0, 5 * SECOND_US, network="resnet50")
    simulation.run()
    journal.close()
    return simulation


@pytest.mark.parametrize("seed", many(range(12), 3))
def test_a_journal_of_clocks_spares_and_energy_is_played_again_exactly(tmp_path: Path, seed: int) -> None:
    simulation = recorded(tmp_path / "j", seed)
    kinds = {type(record) for record in read_journal(tmp_path / "j")}
    assert {AdaptedTo, Batteried, Corrected, Reclocked, Recosted, Spared} <= kinds
    replayed = replay(tmp_path / "j")
    assert replayed.difference is None, f"seed {seed}: {replayed.difference}"
    assert replayed.decisions == len(simulation.runs)
    # Runs that the power cap cut short too.
    assert len({run.clock_khz for run in simulation.runs} - {0}) > 1
    assert 0 not in {run.clock_khz for run in simulation.runs}


def test_a_clock_that_is_none_of_the_steps_stops_nobody() -> None:
    simulation = Simulation([tx2()], policy=make_policy("clock"))
    server, setup = simulation.server, Setup(policy="clock")
    # What it runs at is faster than any step that may be set, and has just changed: no lower one before the dwell.
    simulation.at(0, reclock, server, changed(0, TOP_KHZ, 900_000, dwell_us=SECOND_US), setup)
    simulation.ask(10, "a", Bounds(latency_ms=400, accuracy=0.5), "resnet50")
    [outcome] = simulation.run()
    assert type(outcome.reply).__name__ == "Answer"
    assert simulation.runs[0].clock_khz == 854_250


def test_what_a_meter_taught_of_another_clock_is_over() -> None:
    server = Simulation([tx2()], policy=make_policy("clock")).server
    taught = server.ledger.attribution = Attribution(idle_mw=2_000.0)
    step = ("resnet50", 0)
    for reading in range(0, 400_000_000, 100_000):
        taught.ran(reading, reading + 50_000, step, {"a": 40.0})
        taught.learn([(reading, reading + 50_000, 1.0)], 100.0 + 80.0)
        taught.learn([(reading + 50_000, reading + 100_000, 1.0)], 100.0)
        if taught.factor(step) > 1.8:
            break
    assert taught.factor(step) > 1.8
    reclock(server, changed(0, TOP_KHZ), Setup(policy="clock"))
    assert taught.factor(step) == 1.0


def test_a_run_that_nobody_waits_for_is_reckoned_by_the_clock_it_finds() -> None:
    network = tx2()
    server = Simulation([network], policy=make_policy("clock")).server
    reclock(server, changed(0, TOP_KHZ), Setup(policy="clock"))
    clock = server.view().clock
    assert clock is not None
    clock.now_khz = BEST_KHZ
    server.idle.canaries = Canaries(SECOND_US)
    server.worker_ready(10)
    run = server.next(2 * SECOND_US)
    assert run is not None
    # Else it would seem to take 1.5 times what it should, and so everything after it.
    assert run.clock_khz == BEST_KHZ
    assert clock.now_khz == BEST_KHZ
    assert clock.switches == 0
