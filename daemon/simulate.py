"""The real core on a virtual clock: arrivals, a device that takes a profile's times with noise, faults on demand.

Role: what `loop.py` is to sockets, this is to a heap of (time, seq, action) and one seeded generator. Same seed, same
log. With `check`, the invariants of the core are checked after every event; a failure names seed and time.

Flow: `ask` and friends put events on the heap -> `run` takes them in order -> the core -> `Outcome`s. What a request's
input is like (confidence and correctness at every exit) is drawn from a network's `Behaviour`, so that gates act as
they would. Does not: read scenarios (`scenario.py`) or add anything up (`outcomes.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from random import Random
from typing import NamedTuple, Protocol

from ..clients.bounds import Bounds
from ..clients.wire import VERSION, Answer, Failure, Infer, Refusal, TensorSpec
from ..policies.exits import Asked, asked
from ..policies.policy import Policy
from ..policies.rates import Terms
from ..policies.view import NEVER_US, Row, Run, Served
from .behaviour import PAYLOAD, Behaviour, payload_of
from .config import Limits
from .invariants import Watch
from .noise import Noise, NoiseSpec
from .records import Effect, Ended, ExitDone, Forget, Restart, RowDone, RunFailed, RunReturned, StepDone, Yield
from .server import Server
from .simulated_clock import SimulatedClock

# What an action returns that the core learnt nothing of.
UNTOLD = object()
# Four classes of float32: nobody looks at what they hold.
LOGITS = bytes(16)
TENSORS = (TensorSpec("float32", (1,)),)


class Outcome(NamedTuple):
    """How one request ended and when; `sent_us` when it was submitted, `correct` None where that is not known."""

    tenant: str
    network: str
    sent_us: int
    ended_us: int
    bounds: Bounds
    reply: Answer | Failure | Refusal
    correct: bool | None


class _Open(NamedTuple):
    id: bytes
    tenant: str
    network: str
    sent_us: int
    bounds: Bounds
    ticket: int
    sample: int


class Strays(Protocol):
    """What a time becomes on a device that is not exact, see `Noise`."""

    def took_us(self, profiled_us: float, now_us: int) -> int: ...


class Simulation:
    """One device, one core, one generator. `strays`: by network, how one strays from its profile unlike the others."""

    def __init__(
        self,
        networks: Sequence[Served],
        *,
        seed: int = 0,
        policy: Policy | None = None,
        limits: Limits | None = None,
        noise: NoiseSpec | None = None,
        behaviours: Mapping[str, Behaviour] | None = None,
        hop_us: int = 0,
        ahead_us: int = 0,
        tenants: Mapping[str, Terms] | None = None,
        restart_us: int = 500_000,
        check: bool = True,
        server: Server | None = None,
    ) -> None:
        """`hop_us`: what a run costs on the way to an idle device and back, beside the engine's time.

        `noise`: how the device strays from its profile; a little jitter if not given. `ahead_us`: as for `Server`.
        `server`: a core without networks, made elsewhere; then `policy` and `ahead_us` are its own, not given here.
        """
        self.limits = Limits() if limits is None else limits
        self.server = Server(self.limits, policy, ahead_us=ahead_us, tenants=tenants) if server is None else server
        for network in networks:
            self.server.networks[network.name] = network
        self.server.worker_ready(0)
        self.seed = seed
        self.now_us = 0
        self.outcomes: list[Outcome] = []
        self.restarts: list[str] = []
        self.runs: list[Run] = []
        self.spoil: Callable[[bytes], bool] | None = None
        self._told_us = 0
        self.random = Random(seed)
        self._noise: Strays = Noise(NoiseSpec(sigma=0.02) if noise is None else noise, self.random)
        self.strays: dict[str, Strays] = {}
        self._hop: Strays | None = None
        self._behaviours = dict(behaviours or {})
        self._hop_us = hop_us
        self._restart_us = restart_us
        self._watch = Watch(self.server, self.limits, seed) if check else None
        self._log = blake2b(digest_size=16)
        self._heap: list[tuple[int, int, Callable[..., object], tuple[object, ...]]] = []
        self._seq = 0
        self._open: dict[tuple[str, bytes], _Open] = {}
        self._by_ticket: dict[int, _Open] = {}
        self._yields: set[int] = set()
        self._generation = 0
        self._forgotten: set[int] = set()
        self.clock = SimulatedClock(self.server)
        self._audited: dict[int, int] = {}
        self._running: Run | None = None
        self._posted: Run | None = None
        self._asked: dict[Bounds, Asked] = {}

    # ---- what a test or a scenario asks for

    @property
    def log_hash(self) -> str:
        """Of every run and every end so far, with their times: the same for the same seed."""
        return self._log.hexdigest()

    def at(self, when_us: int, action: Callable[..., object], *arguments: object) -> None:
        """Do something at a virtual time."""
        heapq.heappush(self._heap, (when_us, self._seq, action, arguments))
        self._seq += 1

    def ask(
        self, when_us: int, tenant: str, bounds: Bounds, network: str = "net", *, sample: int | None = None
    ) -> bytes:
        """A request of this tenant at this time; returns its id. `sample`: of the network's behaviour; None: drawn."""
        request_id = self._seq.to_bytes(8, "big")
        self.at(when_us, self._submit, request_id, tenant, bounds, network, sample)
        return request_id

    def poisson(
        self, tenant: str, bounds: Bounds, rate_hz: float, start_us: int, end_us: int, *, network: str = "net"
    ) -> None:
        """Requests with exponential gaps."""
        when = float(start_us)
        while (when := when + self.random.expovariate(rate_hz) * 1e6) < end_us:
            self.ask(int(when), tenant, bounds, network)

    def stray(self, engine: Strays, hop: Strays) -> None:
        """Instead of the noise given: how the engine's times stray from the profile, and the hop from `hop_us`."""
        self._noise, self._hop = engine, hop

    def kill_worker(self, when_us: int) -> None:
        """The worker dies at this time and is back `restart_us` later."""
        self.at(when_us, self._lose)

    def cancel(self, when_us: int, request_id: bytes) -> None:
        """Its client no longer wants it."""
        self.at(when_us, self._cancel, request_id)

    def run(self, until_us: int | None = None) -> list[Outcome]:
        """Until nothing is left to happen, or `until_us`. Returns all outcomes in the order they ended."""
        heap, server, watch = self._heap, self.server, self._watch
        end_us = NEVER_US if until_us is None else until_us
        wake_us, told = 0, True
        while True:
            if told:
                wake_us = server.wake_at()
            next_us = heap[0][0] if heap else NEVER_US
            if wake_us < next_us:
                next_us = wake_us
            if next_us >= end_us:
                break
            if next_us > self.now_us:
                self.now_us = next_us
            idle = not heap or heap[0][0] > self.now_us
            if watch is not None:
                watch.now(self.now_us)
            # Between two exits the device goes on by itself: nothing reaches the core, so nothing need be asked of it.
            told = wake_us <= self.now_us
            while heap and heap[0][0] <= self.now_us:
                _, _, action, arguments = heapq.heappop(heap)
                if action(*arguments) is not UNTOLD:
                    told = True
            if wake_us <= self.now_us:
                self._take(server.expire(self.now_us))
            if told:
                self._post()
            if watch is not None:
                watch.after(idle=idle)
        if watch is not None and until_us is None:
            watch.over()
        return self.outcomes

    # ---- the device

    def _post(self) -> None:
        if self._watch is not None and len(self.server.view().homes) and self.server.can_run(self.now_us):
            self._watch.decide_twice(self.now_us)
        run = self.server.next(self.now_us)
        if run is None:
            return
        self.runs.append(run)
        self._note("run", run.id, run.first, *[part for row in run.rows for part in (row.ticket, row.stop)])
        if self._watch is not None:
            self._watch.posted(run)
        if self._running is None:
            self._begin(run, self.now_us + self._hop_us // 2)
        else:
            self._posted = run

    def _begin(self, run: Run, start_us: int) -> None:
        self._running = run
        if run.id in self._yields:
            # Asked to yield before it began: nothing of it runs.
            self._finish(start_us)
            self._report(start_us, RunReturned(run.id))
            return
        if self._watch is not None:
            self._watch.begun(run)
        self._segment(run, run.first, list(run.rows), self.clock.begin(run, start_us), ())

    def _segment(self, run: Run, index: int, rows: list[Row], start_us: int, untold: tuple[StepDone, ...]) -> None:
        costs = self.server.networks[run.network].costs_at(run.clock_khz)
        took_us = self.strays.get(run.network, self._noise).took_us(costs.segment_us[index][len(rows)], start_us)
        steps = (*untold, StepDone(False, index, len(rows), took_us))
        self.at(start_us + took_us, self._at_exit, run, index, rows, steps, self._generation)

    def _at_exit(self, run: Run, index: int, rows: list[Row], steps: tuple[StepDone, ...], generation: int) -> object:
        if generation != self._generation:
            return UNTOLD
        now_us = self.now_us
        if self.spoil is not None and self._spoilt(self.spoil, rows):
            self._finish(now_us)
            self._report(now_us, RunFailed(run.id, "output", "NaN"))
            return None
        early = (run.id in self._yields or self._too_late(run, index)) and max([row.stop for row in rows]) > index
        looked = rows if early else [row for row in rows if row.stop == index or index in row.exits]
        if not looked:
            self._segment(run, index + 1, rows, now_us, steps)
            return UNTOLD
        costs = self.server.networks[run.network].costs_at(run.clock_khz)
        head_us = self.strays.get(run.network, self._noise).took_us(costs.head_us[index][len(looked)], now_us)
        steps = (*steps, StepDone(True, index, len(looked), head_us))
        done = tuple([self._outcome(run, row, index, early) for row in looked])
        left = {row.ticket for row in done if row.left}
        if self._watch is not None:
            for row, outcome in zip(looked, done, strict=True):
                # What the worker was told to drop while it ran is dropped when the run is over.
                kept = outcome.left and row.is_held(gated=outcome.gated, early=early and index < row.stop)
                if kept and row.ticket not in self._forgotten:
                    self._watch.holds(row.ticket)
        staying = [row for row in rows if row.ticket not in left]
        told = ExitDone(run.id, index, done, steps, LOGITS * len(done), not staying)
        self.at(now_us + head_us, self._after_head, run, index, staying, told, self._generation)
        return UNTOLD

    def _after_head(self, run: Run, index: int, staying: list[Row], told: ExitDone, generation: int) -> None:
        if generation != self._generation:
            return
        if staying:
            self._report(self.now_us, told)
            self._segment(run, index + 1, staying, self.now_us, ())
        else:
            self._finish(self.now_us)
            self._report(self.now_us, told)

    def _spoilt(self, spoil: Callable[[bytes], bool], rows: list[Row]) -> bool:
        known = [self._by_ticket.get(row.ticket) for row in rows]
        return any(spoil(b"" if was is None else was.id) for was in known)

    def _too_late(self, run: Run, index: int) -> bool:
        """Whether the next segment, if there is one, would end too late."""
        if not run.stop_by_us or index + 1 >= len(run.segments_us):
            return False
        return self.now_us + run.segments_us[index + 1] > run.stop_by_us

    def _finish(self, ended_us: int) -> None:
        """The device has done this run; the one posted behind it begins."""
        run, self._posted, self._running = self._posted, None, None
        if run is not None:
            self._begin(run, ended_us)

    def _forget(self, tickets: tuple[int, ...]) -> None:
        if self._watch is not None:
            self._forgotten.update(tickets)
            self._watch.forgot(tickets)

    def _report(self, at_us: int, done: ExitDone | RunFailed | RunReturned) -> None:
        back_us = self._hop_us // 2
        if self._hop is not None:
            back_us = max(0, self._hop.took_us(self._hop_us, at_us) - back_us)
        # Reports arrive in the order they were sent.
        at_us = self._told_us = max(self._told_us, at_us + back_us)
        if at_us <= self.now_us:
            self._advance(done, self._generation)
        else:
            self.at(at_us, self._advance, done, self._generation)

    def _advance(self, done: ExitDone | RunFailed | RunReturned, generation: int) -> None:
        if generation == self._generation:
            if self._watch is not None:
                self._watch.reported(done)
            self._take(self.server.advance(self.now_us, done))

    def _outcome(self, run: Run, row: Row, index: int, early: bool) -> RowDone:
        behaviour, label = self._behaviours.get(run.network), 1
        if behaviour is None:
            confidence = self.random.random() if row.gates else 0.5
        else:
            was = self._by_ticket.get(row.ticket)
            sample = self._audited.get(row.ticket, 0) if was is None else was.sample
            confidence, label = behaviour.confidence[sample][index], behaviour.label(sample, index)
        gated = row.lets_go(index, confidence)
        if gated and row.audit and row.ticket in self._by_ticket:
            self._audited[row.ticket] = self._by_ticket[row.ticket].sample
        return RowDone(row.ticket, label, confidence, gated or early or row.stop == index, gated)

    # ---- what the loop would do

    def _submit(self, request_id: bytes, tenant: str, bounds: Bounds, network: str, sample: int | None = None) -> None:
        infer = Infer(VERSION, request_id, network, TENSORS, bounds)
        wanted = self._asked.get(bounds)
        if wanted is None:
            wanted = self._asked[bounds] = asked(bounds)
        verdict, effects = self.server.submit(self.now_us, tenant, infer, wanted, payload_of(request_id))
        self._judged(tenant, infer, wanted, verdict, sample)
        if effects:
            self._take(effects)

    def _judged(
        self, tenant: str, infer: Infer, wanted: Asked, verdict: Refusal | int, sample: int | None = None
    ) -> None:
        """Note that a request was refused, or let in under a ticket."""
        network, bounds, now_us = infer.network, infer.bounds, self.now_us
        behaviour = self._behaviours.get(network)
        if behaviour is None:
            sample = -1
        elif sample is None:
            sample = int(self.random.random() * len(behaviour.correct))
        if isinstance(verdict, Refusal):
            self._note("refused", verdict.code, self._seq)
            self.outcomes.append(Outcome(tenant, network, now_us, now_us, bounds, verdict, None))
            if self._watch is not None:
                self._watch.refused(tenant)
            return
        accepted = _Open(infer.id, tenant, network, now_us, bounds, verdict, sample)
        self._open[tenant, infer.id] = self._by_ticket[verdict] = accepted
        if self._watch is not None:
            self._watch.accepted(verdict, tenant, infer, wanted, len(PAYLOAD))

    def _cancel(self, request_id: bytes) -> None:
        for ticket in [known.ticket for known in self._open.values() if known.id == request_id]:
            self._take(self.server.cancel(ticket))

    def _take(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Ended):
                self._ended(effect)
            elif isinstance(effect, Yield):
                self._yields.add(effect.run)
            elif isinstance(effect, Forget):
                self._forget(effect.tickets)
            elif isinstance(effect, Restart):
                self.restarts.append(effect.reason)
                self._lose()

    def _ended(self, effect: Ended) -> None:
        if self._watch is not None:
            self._watch.ended(effect)
        was, reply, correct = self._open.pop((effect.tenant, effect.id)), effect.reply, None
        del self._by_ticket[was.ticket]
        if isinstance(reply, Answer):
            if was.sample >= 0:
                correct = self._behaviours[was.network].correct[was.sample][reply.exit]
            self._note("answer", was.ticket, reply.exit, reply.stop, reply.total_us)
        else:
            self._note("failed", was.ticket, reply.code)
        self.outcomes.append(Outcome(was.tenant, was.network, was.sent_us, self.now_us, was.bounds, reply, correct))

    def _lose(self) -> None:
        self._generation += 1
        if self._watch is not None:
            self._watch.lost()
        self._running = self._posted = None
        ready_us = self.now_us + self._restart_us
        self._take(self.server.worker_lost(self.now_us, ready_us))
        self.at(ready_us, self._back, self._generation)

    def _back(self, generation: int) -> None:
        if generation == self._generation:
            self.server.worker_ready(self.now_us)

    def _note(self, *said: object) -> None:
        self._log.update(f"{self.now_us} {said}".encode())
