"""What the core is told of energy: it obeys, a journal of it is played again exactly, what cannot be is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from delen.clients.adaptation import Adaptation
from delen.clients.bounds import Bounds
from delen.clients.info import NetworkInfo, Preprocessing
from delen.clients.wire import VERSION, Adapt, Adapted, Answer, Refusal
from delen.daemon.budget_events import adapted, scaled, tell
from delen.daemon.config import Limits
from delen.daemon.journal import Journal
from delen.daemon.journal_records import AdaptedTo, Batteried, Corrected, EnergyRecord, Recosted, Setup
from delen.daemon.recorded import Recorded
from delen.daemon.replay import replay
from delen.daemon.server import Server
from delen.daemon.simulate import Simulation
from delen.policies.correction_rivals import correction
from delen.tests.simulation import served

SECOND_US = 1_000_000


def test_a_journal_of_budgets_is_played_again_exactly(tmp_path: Path) -> None:
    setup, network = Setup(limits=Limits(queued_max=1000, power_w_max=2.0)), served()
    network.correction = correction("conformal", miss_target=0.01, p95_over_p50=1.3)
    journal = Journal(tmp_path / "j", bytes_max=10_000_000, note=lambda _said: None)
    simulation = Simulation([network], seed=3, limits=setup.limits, server=Recorded(journal, setup), check=False)
    told: list[EnergyRecord] = [
        AdaptedTo(10_000, "a", Adaptation("battery", energy_j=0.2, for_s=5.0)),
        AdaptedTo(20_000, "b", Adaptation("alert")),
        Batteried(30_000, 900.0, 100.0, 6 * SECOND_US, ((2 * SECOND_US, 50.0),)),
        Recosted(2 * SECOND_US, "net", (1.2, 0.9, 1.1)),
        Corrected(2 * SECOND_US + 500_000, (("a", 12.5), ("b", -3.0))),
        AdaptedTo(3 * SECOND_US, "b", Adaptation("battery")),
        AdaptedTo(4 * SECOND_US, "a", Adaptation()),
    ]
    for record in told:
        simulation.at(record.now_us, tell, simulation.server, record)
    for tenant in ("a", "b"):
        simulation.poisson(tenant, Bounds(), 60.0, 0, 5 * SECOND_US)
        simulation.poisson(tenant, Bounds(latency_ms=20), 30.0, 0, 5 * SECOND_US)
    simulation.run()
    journal.close()
    replayed = replay(tmp_path / "j")
    assert replayed.difference is None, replayed.difference
    assert replayed.decisions == len(simulation.runs)
    kinds = {(type(o.reply).__name__, getattr(o.reply, "stop", "")) for o in simulation.outcomes}
    assert ("Refusal", "") in kinds
    assert len(kinds) > 2


def test_energies_change_by_segment_and_nothing_else_does() -> None:
    costs = served().costs
    assert costs.segment_mj is not None
    dearer = scaled(costs, (2.0, 1.0, 0.5))
    assert dearer.segment_mj is not None
    assert dearer.segment_mj[0][1] == 2 * costs.segment_mj[0][1]
    assert dearer.segment_mj[2][3] == 0.5 * costs.segment_mj[2][3]
    assert dearer.segment_us == costs.segment_us
    assert dearer.ladder == costs.ladder


def known(*, energies: bool = True) -> NetworkInfo:
    costs = served().costs
    infos = costs.exit_infos()
    if not energies:
        from msgspec.structs import replace

        infos = tuple(replace(info, energy_mj=None) for info in infos)
    return NetworkInfo("net", "1", ("x",), "float32", (1,), Preprocessing(), infos, 8, "onnx", "")


@pytest.mark.parametrize(
    ("wanted", "networks", "said"),
    [
        (Adaptation("battery"), [known()], "told of no battery"),
        (Adaptation("battery", power_w=1.0), [known(energies=False)], "no energies are known here of net"),
        (Adaptation("none", energy_j=1.0, for_s=1.0), [known(energies=False)], "profile them first"),
        (Adaptation("fixed", exit=3), [known()], "at most 3 exits, counted from 0"),
        (Adaptation("conditions", conditions={"net": (None,)}), [known()], "conditions for 1 exits; net has 3"),
        (Adaptation("conditions", conditions={"other": (None,)}), [known()], "no network of yours"),
    ],
)
def test_what_cannot_be_had_here_is_refused_with_why(
    wanted: Adaptation, networks: list[NetworkInfo], said: str
) -> None:
    server = Server(Limits())
    reply = adapted(server, 0, "a", Adapt(VERSION, b"1", wanted), networks)
    assert isinstance(reply, Refusal)
    assert reply.code == "adaptation"
    assert said in reply.message
    assert server.ledger.budgets.adaptation("a") == Adaptation()


def test_how_it_stands_is_told_without_changing_it() -> None:
    server = Server(Limits())
    wanted = Adaptation("battery", energy_j=10.0, for_s=100.0)
    adapted(server, 0, "a", Adapt(VERSION, b"1", wanted), [known()])
    reply = adapted(server, 40 * SECOND_US, "a", Adapt(VERSION, b"2"), [known()])
    assert isinstance(reply, Adapted)
    assert reply.adaptation == wanted
    standing = reply.standing
    assert (standing.left_j, standing.left_s) == (10.0, 60.0)
    assert standing.allowed_w == pytest.approx(1 / 6)
    assert Answer.__struct_fields__
