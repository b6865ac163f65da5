"""Books of energy on bad days: who ended was told what the ledger has, and what was set aside for them is free."""

from __future__ import annotations

import math
from random import Random

import pytest

from delen.clients.adaptation import Adaptation
from delen.clients.bounds import Bounds
from delen.clients.wire import Answer
from delen.daemon.budget_events import tell
from delen.daemon.config import Limits
from delen.daemon.journal_records import AdaptedTo, Batteried, EnergyRecord, Recosted
from delen.daemon.noise import NoiseSpec
from delen.daemon.records import Ended, Request
from delen.daemon.server import Server
from delen.daemon.simulate import Simulation
from delen.policies.rates import Terms
from delen.tests.many import many
from delen.tests.recorded_day import ASKED
from delen.tests.simulation import served

END_US = 45_000
TERMS = {
    "a": Terms(energy_j_day_max=0.15, power_w_max=5.0),
    "b": Terms(weight=3.0),
    "c": Terms(energy_j_window_max=0.05, energy_window_s=0.02),
}
ADAPTATIONS = (
    Adaptation("battery", energy_j=0.1, for_s=0.04),
    Adaptation("battery", power_w=0.5),
    Adaptation("alert"),
    Adaptation("fixed", exit=1),
    Adaptation(),
)


class Books:
    """What every request had been charged when it ended, whatever its end was; a core that is watched for it."""

    def __init__(self, server: Server) -> None:
        self.charged: list[tuple[str, float]] = []
        self.answers: list[tuple[float | None, float | None]] = []
        self._end = server._end
        for part in (server, server._losses, server._lateness):
            part._end = self._ended  # type: ignore[method-assign, assignment]

    def _ended(self, request: Request, ended: Ended, *, forget: bool) -> object:
        self.charged.append((request.tenant, request.energy_mj or 0.0))
        if isinstance(ended.reply, Answer):
            self.answers.append((request.energy_mj, ended.reply.energy_mj))
        return self._end(request, ended, forget=forget)


def bad_day(seed: int) -> tuple[Simulation, Books]:
    """Stalls, dead workers, spoilt inputs, refusals for want of energy, and budgets that change meanwhile."""
    draw = Random(seed)
    networks = [served(), served("other", segments_us=(150, 250, 500), accuracies=(0.7, 0.9, 0.96))]
    # Nobody cancels and nothing is audited: that is a tenant's to pay too, and in no answer.
    limits = Limits(queued_max=60, power_w_max=draw.choice([0.0, 2.0]), audit_share=1e-12)
    noise = NoiseSpec(sigma=0.1, stall_rate_hz=5, stall_ms=20)
    ahead_us, terms = draw.choice([0, 300]), TERMS if seed % 3 else {}
    simulation = Simulation(
        networks, seed=seed, limits=limits, noise=noise, hop_us=100, ahead_us=ahead_us, tenants=terms
    )
    ids = [
        simulation.ask(draw.randrange(END_US), draw.choice("abc"), draw.choice(ASKED), draw.choice(["net", "other"]))
        for _ in range(150)
    ]
    spoilt = set(draw.sample(ids, 2))
    simulation.spoil = lambda request_id: request_id in spoilt
    for _ in range(draw.randrange(3)):
        simulation.kill_worker(draw.randrange(END_US))
    for _ in range(6):
        at_us = draw.randrange(END_US)
        told: list[EnergyRecord] = [
            AdaptedTo(at_us, draw.choice("abc"), draw.choice(ADAPTATIONS)),
            Batteried(at_us, 3_000 * draw.random(), 10.0, END_US, ((END_US // 2, 100.0),)),
            Recosted(at_us, draw.choice(["net", "other"]), (1.5, 0.5, 1.1)),
        ]
        simulation.at(at_us, tell, simulation.server, draw.choice(told))
    books = Books(simulation.server)
    simulation.run()
    return simulation, books


@pytest.mark.parametrize("seed", many(range(40), 6))
def test_what_requests_were_charged_is_what_the_ledger_has_and_nothing_stays_set_aside(seed: int) -> None:
    simulation, books = bad_day(seed)
    ledger = simulation.server.ledger
    assert all(told == charged for charged, told in books.answers)
    for tenant in "abc":
        charged_mj = math.fsum(mj for name, mj in books.charged if name == tenant)
        assert ledger.account(tenant).energy_mj == pytest.approx(charged_mj, rel=1e-9, abs=1e-6), f"seed {seed}"
        promise, adapted = ledger.promises.of(tenant), ledger.budgets._adapted.get(tenant)
        set_aside = [ledger.budgets._reserved_mj.get(tenant, 0.0)]
        set_aside += [cap._reserved_mj for cap in (promise and promise.energy, adapted and adapted.power) if cap]
        assert set_aside == pytest.approx([0.0] * len(set_aside), abs=1e-6), f"seed {seed}"


def test_such_days_are_bad_enough() -> None:
    outcomes = [outcome for seed in range(6) for outcome in bad_day(seed)[0].outcomes]
    codes = {getattr(outcome.reply, "code", "answer") for outcome in outcomes}
    assert {"answer", "quota"} <= codes
    assert len(codes) > 4
    assert any(isinstance(outcome.reply, Answer) and len(set(outcome.reply.batches)) > 1 for outcome in outcomes)


def test_bounds_of_energy_hold_while_costs_change() -> None:
    simulation = Simulation([served()], seed=4, noise=NoiseSpec(sigma=0.02))
    simulation.poisson("a", Bounds(energy_mj=3.0), 600.0, 0, 2_000_000)
    for at_us, times in ((500_000, 1.2), (1_000_000, 0.7), (1_500_000, 1.25)):
        simulation.at(at_us, tell, simulation.server, Recosted(at_us, "net", (times,) * 3))
    simulation.run()
    answers = [outcome.reply for outcome in simulation.outcomes if isinstance(outcome.reply, Answer)]
    assert len(answers) > 500
    assert sum("energy_mj" in answer.broken for answer in answers) <= 0.005 * len(answers)
