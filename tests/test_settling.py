"""Settling: what tenants were charged becomes what was measured, idle is apart, and costs follow."""

from __future__ import annotations

from random import Random

import pytest

from delen.clients.adaptation import Adaptation
from delen.clients.bounds import Bounds
from delen.clients.wire import Answer
from delen.daemon.config import Limits
from delen.daemon.settling import LOOK_US, WAIT_US, Settling
from delen.daemon.simulate import Simulation
from delen.policies.attribution import Settled
from delen.policies.view import Served
from delen.profiles.boards import parse_spec, replayed
from delen.profiles.costs import Costs
from delen.profiles.power_track import PowerTrack

SECOND_US = 1_000_000
IDLE_MW = 1200.0
# By segment, what it takes over what the profile says.
TRUTH = (1.3, 0.8, 1.1)


class Bench:
    """A core on a device with a meter that sees what steps truly draw, 100 times a second and half a second late."""

    def __init__(self, seed: int, *, breaks_us: int | None = None) -> None:
        costs = Costs.of(replayed(parse_spec("jetson-nano"), "resnet50"), 8)
        self.simulation = Simulation([Served("net", "1", costs, None, 8, 0.0)], seed=seed, limits=Limits(), check=False)
        self.costs, self.truth_mj, self.random = costs, dict.fromkeys(("a", "b"), 0.0), Random(seed)
        self.server, self.track = self.simulation.server, PowerTrack()
        self.reads = True
        self.settling = Settling(self.server, self.track, lambda: self.reads, 0)
        self._steps: list[tuple[int, int, float]] = []
        self._breaks_us = breaks_us
        advance = self.server.advance

        def watched(now_us: int, done: object) -> object:
            self._note(now_us, done)
            return advance(now_us, done)  # type: ignore[arg-type]

        self.server.advance = watched  # type: ignore[method-assign, assignment]

    def run(self, seconds: int) -> None:
        for tenant, energy_mj, rate_hz in (("a", 60.0, 6.0), ("b", 400.0, 6.0)):
            self.simulation.poisson(tenant, Bounds(energy_mj=energy_mj), rate_hz, 0, seconds * SECOND_US)
        for tick in range(seconds * 100 + 400):
            at_us = tick * 10_000
            self.simulation.at(at_us + 500_000, self._sample, at_us)
        for look in range((seconds + 4) * SECOND_US // LOOK_US):
            self.simulation.at(look * LOOK_US, self.settling.turn, look * LOOK_US)
        self.simulation.run()

    def _note(self, now_us: int, done: object) -> None:
        flight = self.server._device.find(done.run)  # type: ignore[attr-defined]
        assert flight is not None
        at_us = now_us - sum(step.took_us for step in done.steps)  # type: ignore[attr-defined]
        for step in done.steps:  # type: ignore[attr-defined]
            energies = self.costs.head_mj if step.head else self.costs.segment_mj
            assert energies is not None
            spent_mj = energies[step.index][step.batch] * TRUTH[step.index]
            rows = {row.ticket for row in done.rows} if step.head else set(flight.rows)  # type: ignore[attr-defined]
            for ticket in rows:
                self.truth_mj[flight.owners[ticket]] += spent_mj / step.batch
            self._steps.append((at_us, at_us + step.took_us, spent_mj))
            at_us += step.took_us

    def _sample(self, at_us: int) -> None:
        """What was drawn in the 5 ms before."""
        if self._breaks_us is not None and at_us >= self._breaks_us:
            self.reads = False
            self.track.cut()
            return
        drawn_mj = sum(
            mj * max(0, min(end, at_us) - max(start, at_us - 5000)) / max(1, end - start)
            for start, end, mj in self._steps[-60:]
        )
        self.track.add_power(at_us, (IDLE_MW + drawn_mj / 0.005) * self.random.gauss(1, 0.02))


@pytest.mark.slow
def test_tenants_end_up_with_what_they_truly_took_and_idle_is_apart() -> None:
    bench = Bench(2)
    bench.server.ledger.budgets.adapt(0, "b", Adaptation(energy_j=1e6, for_s=1e6))
    bench.run(60)
    ledger = bench.server.ledger
    for tenant, truth_mj in bench.truth_mj.items():
        account = ledger.account(tenant)
        assert account.energy_mj == pytest.approx(truth_mj, rel=0.05)
        assert account.energy_source == "measured"
    assert ledger.idle_mj == pytest.approx(IDLE_MW * 62, rel=0.06)
    # What is left of an allowance follows what was measured, not what was charged.
    budget_j = ledger.budgets.standing(bench.simulation.now_us, "b").drawn_j
    assert budget_j * 1000 == pytest.approx(ledger.account("b").energy_mj, rel=1e-6)
    # The core knows its steps by what they take from now on.
    costs = bench.server.networks["net"].costs
    assert costs.segment_mj is not None
    assert bench.costs.segment_mj is not None
    for index, factor in enumerate(TRUTH):
        known = costs.segment_mj[index][1] / bench.costs.segment_mj[index][1]
        assert known == pytest.approx(factor, rel=0.08)


@pytest.mark.slow
def test_what_the_meter_did_not_see_stays_modelled() -> None:
    bench = Bench(2, breaks_us=5 * SECOND_US)
    bench.run(20)
    account = bench.server.ledger.account("b")
    assert account.energy_source == "modelled"
    assert account.unsettled_mj == pytest.approx(0, abs=1e-6)
    assert bench.server.pending_count == 0


def test_a_counter_that_stands_is_no_measurement() -> None:
    bench = Bench(2)
    track = bench.track
    bench._sample = lambda at_us: track.add_counter(at_us, 5.0)  # type: ignore[method-assign]
    bench.run(4)
    ledger = bench.server.ledger
    assert ledger.account("b").energy_source == "modelled"
    assert ledger.account("b").energy_mj > 0
    assert ledger.attribution is not None
    assert ledger.attribution.readings == 0


def test_without_a_meter_nothing_is_settled() -> None:
    bench = Bench(1)
    bench.reads = False
    bench.run(3)
    ledger = bench.server.ledger
    assert ledger.attribution is None
    assert ledger.idle_mj is None
    assert {ledger.account(tenant).energy_source for tenant in ("a", "b")} == {"modelled"}
    sources = {o.reply.energy_source for o in bench.simulation.outcomes if isinstance(o.reply, Answer)}
    assert sources == {"modelled"}


def test_after_hours_asleep_the_time_is_settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(1)
    bench.run(3)
    attribution = bench.server.ledger.attribution
    assert attribution is not None
    settle, ends_us = attribution.settle, []

    def noted(start_us: int, end_us: int, energy_mj: float | None) -> Settled:
        ends_us.append(end_us)
        return settle(start_us, end_us, energy_mj)

    monkeypatch.setattr(attribution, "settle", noted)
    woken_us = 8 * 3600 * SECOND_US
    bench.settling.turn(woken_us)
    # Second by second it would keep the daemon from its requests for a second and more.
    assert ends_us[0] == woken_us - WAIT_US
    assert len(ends_us) < 10
    assert bench.server.ledger.account("b").unsettled_mj == pytest.approx(0, abs=1e-6)
