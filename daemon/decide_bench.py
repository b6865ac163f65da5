"""What one decision of the core costs, by how much is queued: eight networks of four exits, a queue that lives.

Role: `delen bench decision`. Drives the real `Server` with made-up costs; nothing runs, but every run is reported as
done, its requests go on or end, and as many new ones come in as ended: pools are cut again as they are in service.
Bounds are LATENCY_FACTOR times what the queue's mandatory work takes, and begin spread over that time: everybody can be
let in, and depth has to be weighed. Target (DESIGN.md 7): a decision in 200 us at 1,000 queued. The garbage collector
rests meanwhile, as it does in the daemon. Times are of this thread's processor time, so that the 99th percentile is of
decisions and not of whatever else the machine does.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import msgspec

from ..clients.bounds import Bounds
from ..clients.wire import VERSION, Infer, Refusal, TensorSpec
from ..policies.exits import asked
from ..policies.policy import Policy, make_policy
from ..policies.pools import View
from ..policies.view import Choice, Run, Served
from ..profiles.assumed import assumed_cost, assumed_profile
from ..profiles.costs import Costs
from ..profiles.schema import Profile
from .config import Limits
from .records import Effect, Ended, ExitDone, RowDone, StepDone
from .server import Server

NETWORKS, EXITS, BATCHES, TENANTS = 8, 4, (1, 8, 32), 16
QUEUED = (1, 10, 100, 1_000, 10_000, 100_000)
# Decisions per row of the table; long queues take long, and differ less from one decision to the next.
DECISIONS, DECISIONS_LONG, LONG = 2_000, 200, 10_000
LOOP_STEPS, LOOP_EVERY = 200_000, 50
LATENCY_FACTOR, LATENCY_MS_MIN = 1.6, 20.0
TENSORS = (TensorSpec("float32", (1,)),)


class DecisionCost(msgspec.Struct, frozen=True):
    """With `queued` requests waiting, over `decisions` of them, us.

    `choose`: the policy alone; `next`: with taking the batch out of the queue and posting it; `submit`: admission of
    one request. `loop_us`: median of a fixed loop of plain Python, timed in between: the machine's speed meanwhile.
    """

    queued: int
    decisions: int
    choose_p50_us: float
    choose_p99_us: float
    next_p50_us: float
    next_p99_us: float
    submit_p50_us: float
    submit_p99_us: float
    loop_us: float


def bench_decisions(queued: Sequence[int] = QUEUED, policy: str = "stage-edf") -> Iterator[DecisionCost]:
    """One row per queue length, as they are measured."""
    for count in queued:
        with _no_collections():
            yield _measure(count, DECISIONS if count < LONG else DECISIONS_LONG, policy)


class _Timed:
    """A policy that notes how long each of its decisions takes, and lets everybody in while the queue is filled."""

    def __init__(self, policy: Policy) -> None:
        self.name, self.demotes, self.preempts = policy.name, policy.demotes, policy.preempts
        self.by_arrival, self.reactive = policy.by_arrival, policy.reactive
        self.admits = False
        self.took_us: list[float] = []
        self._policy = policy

    def choose(self, view: View, now_us: int, run_id: int) -> Choice | None:
        start_ns = time.thread_time_ns()
        choice = self._policy.choose(view, now_us, run_id)
        self.took_us.append((time.thread_time_ns() - start_ns) / 1000)
        return choice


class _Queue:
    """A server whose queue is kept at one length."""

    def __init__(self, policy: _Timed, queued: int) -> None:
        self.server = Server(Limits(queued_max=2 * QUEUED[-1]), policy)
        self.now_us = 0
        self.submit_us: list[float] = []
        self._draw, self._ended = Random(0), 0
        self._costs = Costs.of(_profile(), BATCHES[-1])
        for index in range(NETWORKS):
            self.server.networks[str(index)] = Served(str(index), "1", self._costs, None, BATCHES[-1], 100.0)
        self.server.worker_ready(0)
        served = self.server.networks["0"]
        useful = served.batch_useful[0]
        each_ms = served.time_us(0, 0, useful) / useful / 1000
        self._latency_ms = max(LATENCY_MS_MIN, LATENCY_FACTOR * queued * each_ms)
        for _ in range(queued):
            self._submit(self._latency_ms * self._draw.random())
        policy.admits = True

    def fill(self) -> None:
        """As many new requests as have ended."""
        for _ in range(self._ended):
            offered_ms = self._submit(self._latency_ms * self._draw.uniform(0.9, 1.1))
            while offered_ms is not None:
                offered_ms = self._submit(offered_ms)
        self._ended = 0

    def _submit(self, latency_ms: float) -> float | None:
        """One request, of any network and tenant; if it is refused, the bound it was offered."""
        draw, bounds = self._draw, Bounds(latency_ms=latency_ms + LATENCY_MS_MIN)
        infer = Infer(VERSION, draw.randbytes(8), str(draw.randrange(NETWORKS)), TENSORS, bounds)
        wanted, tenant = asked(bounds), f"tenant{draw.randrange(TENANTS)}"
        start_ns = time.thread_time_ns()
        verdict, _ = self.server.submit(self.now_us, tenant, infer, wanted, b"\0\0\0\0")
        self.submit_us.append((time.thread_time_ns() - start_ns) / 1000)
        if not isinstance(verdict, Refusal):
            return None
        # Without an offer, for where others are short of time already: as one who can wait much longer.
        offered_ms = None if verdict.offer is None else verdict.offer.latency_ms
        return 2 * latency_ms if offered_ms is None else offered_ms

    def done(self, run: Run) -> None:
        """Report a run as done, exit by exit; and what has come due meanwhile."""
        self.now_us += run.predicted_us
        rows = list(run.rows)
        for index in range(run.first, max(row.stop for row in rows) + 1):
            leaving = [row for row in rows if row.stop == index]
            us = self._costs.segment_us[index][len(rows)]
            steps = [StepDone(False, index, len(rows), int(us))]
            if leaving:
                steps.append(StepDone(True, index, len(leaving), int(self._costs.head_us[index][len(leaving)])))
            rows = [row for row in rows if row.stop > index]
            told = tuple([RowDone(row.ticket, 1, 0.5, True, False) for row in leaving])
            done = ExitDone(run.id, index, told, tuple(steps), bytes(16) * len(told), not rows)
            self._count(self.server.advance(self.now_us, done))
        self._count(self.server.expire(self.now_us))

    def _count(self, effects: Sequence[Effect]) -> None:
        self._ended += sum(1 for effect in effects if isinstance(effect, Ended))


def _measure(queued: int, decisions: int, name: str) -> DecisionCost:
    policy = _Timed(make_policy(name))
    queue = _Queue(policy, queued)
    next_us: list[float] = []
    loop_us: list[float] = []
    for stage in ("warm up", "measure"):
        next_us.clear()
        queue.submit_us.clear()
        policy.took_us.clear()
        for number in range(decisions if stage == "measure" else decisions // 4):
            if number % LOOP_EVERY == 0:
                loop_us.append(_loop_us())
            start_ns = time.thread_time_ns()
            run = queue.server.next(queue.now_us)
            next_us.append((time.thread_time_ns() - start_ns) / 1000)
            if run is not None:
                queue.done(run)
                queue.fill()
    choose, after, submit = (_percentiles(times) for times in (policy.took_us, next_us, queue.submit_us))
    return DecisionCost(queued, len(next_us), *choose, *after, *submit, statistics.median(loop_us))


def _loop_us() -> float:
    start_ns = time.thread_time_ns()
    total = 0
    for step in range(LOOP_STEPS):
        total += step & 3
    return (time.thread_time_ns() - start_ns) / 1000


def _percentiles(times: list[float]) -> tuple[float, float]:
    """Median and 99th percentile, nearest rank; 0 where nothing was timed."""
    ordered = sorted(times)
    count = len(ordered)
    return (ordered[(count - 1) // 2], ordered[-(-99 * count // 100) - 1]) if ordered else (0.0, 0.0)


@contextmanager
def _no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _profile() -> Profile:
    """Segments of 100 to 400 us; a row more in the batch costs half of the first."""
    rows = [
        [assumed_cost(us, us) for us in (100.0 * (index + 1) * (1 + 0.5 * (batch - 1)) for batch in BATCHES)]
        for index in range(EXITS)
    ]
    return assumed_profile("made up", BATCHES, rows, [rows[0]] * EXITS, [0.6 + 0.1 * k for k in range(EXITS)])
