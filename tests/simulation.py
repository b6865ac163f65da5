"""The real core on a virtual clock: arrivals, a device that takes a profile's times with noise, faults on demand.

Role: what `daemon/loop.py` is to sockets, this is to a heap of (time, seq, event) and one seeded generator. After every
event the invariants of the core are checked. A test prints its seed in every failure; the same seed gives the same log.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Any

import numpy as np

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Failure, Infer, Refusal, TensorSpec
from delen.daemon.config import Limits
from delen.daemon.records import Effect, Ended, ExitDone, Forget, Restart, RowDone, RunFailed, StepDone, Yield
from delen.daemon.server import Server
from delen.policies.exits import asked
from delen.policies.gates import GateTable
from delen.policies.view import Row, Run, Served
from delen.profiles.costs import Costs
from delen.tests.sample_profile import sample_profile

LOGITS = bytes(40)


def served(
    name: str = "net", *, segments_us: Sequence[float] = (100, 200, 400), gates: bool = True, **profile: Any
) -> Served:
    """A network with made-up costs; calibrated on 2,000 samples whose confidence tells how often they are right."""
    costs = Costs.of(sample_profile(segments_us=segments_us, **profile), 8)
    table = _gates(len(costs.accuracy), costs.ladder) if gates else None
    return Served(name, "1", costs, table, batch_max=8, hop_us=50.0)


@cache
def _gates(exit_count: int, ladder: tuple[int, ...]) -> GateTable:
    draw = np.random.default_rng(0)
    confidence = draw.uniform(0.2, 1.0, (2000, exit_count)).astype(np.float32)
    correct = draw.uniform(0, 1, confidence.shape) < confidence**0.1
    return GateTable(confidence, correct, ladder)


@dataclass
class Outcome:
    """How one request ended and when; `sent_us` when it was submitted."""

    tenant: str
    sent_us: int
    ended_us: int
    bounds: Bounds
    reply: Answer | Failure | Refusal


@dataclass
class Simulation:
    """One device, one core, one generator.

    `slowdown(now_us)`: multiplies the device's times. `noise`: log-normal sigma on every step. `spoil`: ticket -> kind
    of EngineFault its runs end with.
    """

    networks: Sequence[Served]
    seed: int = 0
    limits: Limits = field(default_factory=Limits)
    noise: float = 0.02
    slowdown: Callable[[int], float] = lambda now_us: 1.0
    restart_us: int = 500_000
    spoil: Callable[[bytes], bool] = lambda request_id: False
    now_us: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    log: list[tuple[int, str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    restarts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.server = Server(self.limits)
        for network in self.networks:
            self.server.networks[network.name] = network
        self.server.worker_ready(0)
        self._random = Random(self.seed)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._seq = 0
        self._open: dict[bytes, tuple[str, int, Bounds, int]] = {}
        self._yield: int = 0
        self._generation = 0
        self._kept: set[int] = set()

    # ---- what a test asks for

    def at(self, when_us: int, action: Callable[[], None]) -> None:
        """Do something at a virtual time."""
        heapq.heappush(self._heap, (when_us, self._seq, action))
        self._seq += 1

    def ask(self, when_us: int, tenant: str, bounds: Bounds, network: str = "net") -> bytes:
        """A request of this tenant at this time; returns its id."""
        request_id = self._seq.to_bytes(8, "big")
        self.at(when_us, lambda: self._submit(request_id, tenant, bounds, network))
        return request_id

    def poisson(
        self, tenant: str, bounds: Bounds, rate_hz: float, start_us: int, end_us: int, network: str = "net"
    ) -> None:
        """Requests with exponential gaps."""
        when = float(start_us)
        while (when := when + self._random.expovariate(rate_hz) * 1e6) < end_us:
            self.ask(int(when), tenant, bounds, network)

    def kill_worker(self, when_us: int) -> None:
        """The worker dies at this time and is back `restart_us` later."""
        self.at(when_us, self._lose)

    def cancel(self, when_us: int, request_id: bytes) -> None:
        def act() -> None:
            if request_id in self._open:
                self._take(self.server.cancel(self._open[request_id][3]))

        self.at(when_us, act)

    def run(self, until_us: int | None = None) -> list[Outcome]:
        """Until nothing is left to happen, or `until_us`. Returns all outcomes in the order they ended."""
        while True:
            due_us = self.server.wake_at()
            next_us = self._heap[0][0] if self._heap else 2**62
            if min(due_us, next_us) >= (2**62 if until_us is None else until_us):
                break
            self.now_us = max(self.now_us, min(due_us, next_us))
            while self._heap and self._heap[0][0] <= self.now_us:
                heapq.heappop(self._heap)[2]()
            self._take(self.server.expire(self.now_us))
            self._post()
            self.check()
        return self.outcomes

    def check(self) -> None:
        """The invariants of the core, after every event."""
        where = f"seed {self.seed}, at {self.now_us} us"
        for account in self.server.accounts.values():
            assert account.pending >= 0, where
            assert account.pending <= self.limits.queued_max, where
        pending = sum(account.pending for account in self.server.accounts.values())
        assert pending == self.server.pending_count == len(self._open), where

    # ---- the device

    def _post(self) -> None:
        run = self.server.next(self.now_us)
        if run is None:
            return
        self.runs.append(run)
        served = self.server.networks[run.network]
        for row in run.rows:
            # Features of a request that goes on must be here, and only those.
            assert (run.first > 0) == (row.ticket in self._kept), f"seed {self.seed}: row {row} of run {run.id}"
            self._kept.discard(row.ticket)
        self._segment(run, served, run.first, list(run.rows), self.now_us, self._generation)

    def _segment(self, run: Run, served: Served, index: int, rows: list[Row], start_us: int, generation: int) -> None:
        took_us = self._time(served.costs.segment_us[index][len(rows)], start_us)
        self.at(start_us + took_us, lambda: self._at_exit(run, served, index, rows, took_us, generation))

    def _at_exit(self, run: Run, served: Served, index: int, rows: list[Row], took_us: int, generation: int) -> None:
        if generation != self._generation:
            return
        if any(row.ticket in self._spoilt(run) for row in rows):
            self._take(self.server.advance(self.now_us, RunFailed(run.id, "output", "NaN")))
            return
        more = any(row.stop > index for row in rows)
        late = bool(run.stop_by_us) and more and self.now_us + run.segments_us[index + 1] > run.stop_by_us
        early = more and (self._yield == run.id or late)
        looked = [row for row in rows if early or row.stop == index or index in row.exits]
        steps = [StepDone(False, index, len(rows), took_us)]
        done = [self._outcome(row, index, early) for row in looked]
        left = {row.ticket for row in done if row.left}
        staying = [row for row in rows if row.ticket not in left]
        for row, outcome in zip(looked, done, strict=True):
            if outcome.left and not outcome.gated and (row.keep or (early and index < row.stop)):
                self._kept.add(row.ticket)
        if looked:
            head_us = self._time(served.costs.head_us[index][len(looked)], self.now_us)
            steps.append(StepDone(True, index, len(looked), head_us))
        report = ExitDone(run.id, index, tuple(done), tuple(steps), LOGITS * len(done), not staying)
        self._take(self.server.advance(self.now_us, report))
        if staying:
            self._segment(run, served, index + 1, staying, self.now_us, generation)

    def _outcome(self, row: Row, index: int, early: bool) -> RowDone:
        confidence = self._random.random()
        gated = row.gate is not None and index in row.exits and confidence > row.gate
        return RowDone(row.ticket, 1, confidence, gated or early or row.stop == index, gated)

    def _time(self, profiled_us: float, now_us: int) -> int:
        return max(1, int(profiled_us * self.slowdown(now_us) * math.exp(self._random.gauss(0, self.noise))))

    def _spoilt(self, run: Run) -> set[int]:
        bad = {ticket for request_id, (_, _, _, ticket) in self._open.items() if self.spoil(request_id)}
        return bad & {row.ticket for row in run.rows}

    # ---- what the loop would do

    def _submit(self, request_id: bytes, tenant: str, bounds: Bounds, network: str) -> None:
        infer = Infer(VERSION, request_id, network, (TensorSpec("float32", (1,)),), bounds)
        verdict, effects = self.server.submit(self.now_us, tenant, infer, asked(bounds), b"\0\0\0\0")
        if isinstance(verdict, Refusal):
            self.outcomes.append(Outcome(tenant, self.now_us, self.now_us, bounds, verdict))
            self.log.append((self.now_us, repr(verdict)))
        else:
            self._open[request_id] = (tenant, self.now_us, bounds, verdict)
        self._take(effects)

    def _take(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Ended):
                # Exactly once: an id that is not open fails here.
                tenant, sent_us, bounds, _ = self._open.pop(effect.id)
                self.outcomes.append(Outcome(tenant, sent_us, self.now_us, bounds, effect.reply))
                self.log.append((self.now_us, repr(effect.reply)))
            elif isinstance(effect, Yield):
                self._yield = effect.run
            elif isinstance(effect, Forget):
                self._kept -= set(effect.tickets)
            elif isinstance(effect, Restart):
                self.restarts.append(effect.reason)
                self._lose()

    def _lose(self) -> None:
        self._generation += 1
        self._kept.clear()
        ready_us = self.now_us + self.restart_us
        self._take(self.server.worker_lost(self.now_us, ready_us))
        self.at(ready_us, lambda: self.server.worker_ready(self.now_us))
