"""Any order of requests, repetitions, cancels, fetches, new connections, lost rights and dying workers: one end each.

Hypothesis chooses the steps and makes a failure short; the simulated core and the real desk are watched after every
event by `invariants.py` and `desk_simulation.py`, which know what must hold. Beside the scripts of random faults
(`tests/simulated_faults.py`), which draw a whole day at once, this looks for short sequences.
"""

from __future__ import annotations

import time

import pytest
from hypothesis import Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Hello, Infer, encode
from delen.daemon.config import Limits
from delen.daemon.simulate import TENSORS
from delen.tests.desk_simulation import DeskSimulation
from delen.tests.faults import counts
from delen.tests.faults.counts import count
from delen.tests.faults.figures import note
from delen.tests.simulation import served

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.e2e]

TENANTS, NETWORKS, ROUTES = ("a", "b"), ("net", "other"), (b"r", b"s", b"t")
BOUNDS = (
    Bounds(),
    Bounds(latency_ms=1.0),
    Bounds(latency_ms=3.0, on_miss="drop"),
    Bounds(accuracy=0.9),
    Bounds(latency_ms=40.0, accuracy=0.85, objective="latency"),
    Bounds(energy_mj=50.0),
)
STEPS, BATCH = 25, 100
# A quiet two-core machine does more; a busy one does what it can, and the summary says how many that were.
CI_S_MAX, SOAK_S_MAX = 14.0, 600.0
LIMITS = Limits(queued_max=6, retries_max=1, answer_window_ms=50, answers_kept_max=1024, run_ms_min=5, hold_ms=5)

tenants, networks, routes = st.sampled_from(TENANTS), st.sampled_from(NETWORKS), st.sampled_from(ROUTES)
bounds, numbers, delays = st.sampled_from(BOUNDS), st.integers(0, 5), st.sampled_from([0, 50, 300, 1_500, 20_000])


class Sequences(RuleBasedStateMachine):
    """Two tenants with three connections each, who have half a dozen ids between them, and a device that may die."""

    def __init__(self) -> None:
        super().__init__()
        made = [served("net", gates=True), served("other", segments_us=(700, 900), accuracies=(0.8, 0.9), gates=False)]
        self.simulation = DeskSimulation(
            made, {tenant: Bounds() for tenant in TENANTS}, seed=1, limits=LIMITS, restart_us=2_000, hop_us=80
        )
        self.sent: dict[tuple[str, bytes], Infer] = {}
        for tenant in TENANTS:
            self._hello(tenant, b"t")

    @initialize(spoilt=st.booleans(), forgetful=st.sampled_from([0.0, 0.0, 0.2]))
    def begin(self, spoilt: bool, forgetful: float) -> None:
        self.simulation.spoil = (lambda request_id: request_id == b"id2") if spoilt else None
        self.simulation.forgetful = forgetful

    @rule(tenant=tenants, number=numbers, network=networks, bounds=bounds, route=routes)
    def ask(self, tenant: str, number: int, network: str, bounds: Bounds, route: bytes) -> None:
        """A new request, or another under an id that was used."""
        infer = Infer(VERSION, b"id%d" % number, network, TENSORS, bounds)
        self.sent[tenant, infer.id] = infer
        self.simulation.send(self.simulation.now_us, tenant, infer, route)
        self._go_on(0)

    @precondition(lambda self: bool(self.sent))
    @rule(data=st.data(), route=routes)
    def again(self, data: st.DataObject, route: bytes) -> None:
        """The same, perhaps on another connection, or by another tenant."""
        tenant, request_id = data.draw(st.sampled_from(sorted(self.sent)))
        who = data.draw(st.sampled_from([tenant, *TENANTS]))
        self.simulation.send(self.simulation.now_us, who, self.sent[tenant, request_id], route)
        self._go_on(0)

    @rule(tenant=tenants, number=numbers, route=routes)
    def cancel(self, tenant: str, number: int, route: bytes) -> None:
        self.simulation.take_back(self.simulation.now_us, tenant, b"id%d" % number, route)
        self._go_on(0)

    @rule(tenant=tenants, number=numbers, route=routes)
    def fetch(self, tenant: str, number: int, route: bytes) -> None:
        self.simulation.fetch(self.simulation.now_us, tenant, b"id%d" % number, route)
        self._go_on(0)

    @rule(tenant=tenants, route=routes)
    def reconnect(self, tenant: str, route: bytes) -> None:
        self._hello(tenant, route)

    @rule(tenant=tenants, route=routes)
    def lose_rights(self, tenant: str, route: bytes) -> None:
        """Nobody reads on this connection any more; what only it waits for ends, and is told to nobody."""
        self.simulation.at(self.simulation.now_us, self._leave, tenant, route)
        self._go_on(0)
        self._hello(tenant, route)

    def _leave(self, tenant: str, route: bytes) -> None:
        simulation = self.simulation
        effects = simulation.desk.leave(tenant, route)
        # Who is gone may be told, and hears nothing.
        gone = {asker for asker in simulation._waiting if asker[0] == tenant and asker[2] == route}
        simulation._take(effects)
        simulation._waiting -= gone

    @rule(delay_us=delays)
    def wait(self, delay_us: int) -> None:
        self._go_on(delay_us)

    @rule(delay_us=delays)
    def kill(self, delay_us: int) -> None:
        self.simulation.kill_worker(self.simulation.now_us + delay_us)

    @rule(by_us=st.sampled_from([3_000, 60_000, 100_000_000]))
    def jump(self, by_us: int) -> None:
        """The machine slept."""
        self.simulation.jump(self.simulation.now_us, by_us)
        self._go_on(0)

    @rule()
    def stale(self) -> None:
        self.simulation.stale(self.simulation.now_us)

    @rule()
    def nudge(self) -> None:
        self.simulation.nudge(self.simulation.now_us)

    def teardown(self) -> None:
        """Everything comes to its end, and whoever asked was told."""
        self.simulation.run()
        self.simulation.settled()

    def _go_on(self, delay_us: int) -> None:
        self.simulation.run(self.simulation.now_us + delay_us + 1)

    def _hello(self, tenant: str, route: bytes) -> None:
        hello = encode(Hello(VERSION, b"h", "client"))
        self.simulation.desk.handle(self.simulation.now_us, tenant, route, hello)


def test_every_sequence_of_requests_ends_each_once() -> None:
    wanted, done = count("P10 request sequences"), 0
    give_up_s = time.monotonic() + (SOAK_S_MAX if counts.SOAK else CI_S_MAX)
    while done < wanted and time.monotonic() < give_up_s:
        run_state_machine_as_test(
            seed(counts.SEED * 1_000_000 + done)(Sequences),
            settings=settings(
                max_examples=BATCH,
                stateful_step_count=STEPS,
                derandomize=False,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink],
            ),
        )
        done += BATCH
    note("P10 request sequences done", done, "runs", beside=f"of {wanted:,}, up to {STEPS} steps each")
    # The summary shall not say that more was done than was.
    counts.used["P10 request sequences"] = done
    assert done >= counts.COUNTS["P10 request sequences"].ci // 10
