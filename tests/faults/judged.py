"""Tenants who ask without pause, on a thread of their own, and judge every end they are told.

Role: `Load` asks the networks of `shifting.py`, whose answers say by themselves which version gave them to what input.
Flow: `with Load(...) as load:` ... `load.end()` -> `wrong` says what was not as it should be, in words.

Real time passes here, so all tests that use it are marked `pytest.mark.e2e`. Does not: know of processes.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import zmq

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Infer, Reply, TensorSpec
from delen.tests.daemon_fixture import WAIT_S_MAX, Ended, Plain, Reachable
from delen.tests.faults.counts import randomness
from delen.tests.faults.shifting import DIGITS, answer_of, one_hot

# Each of a network's versions comes again and again.
VERSIONS = 8
# Of each tenant: so many open, and one more so often, which keeps one of two cores busy and not both.
OPEN_MAX, EVERY_S = 8, 0.004
# What a daemon that is gone has said is read by then.
LAST_WORDS_S = 0.2
TENANTS = ("a", "b", "c", "d")
FREE = Bounds()


class Asked(NamedTuple):
    """`number`: which of all it was; `least`: the version that was acknowledged when it was sent."""

    number: int
    network: str
    digit: int
    least: int


class Load:
    """All tenants ask all networks, and judge what they are told.

    `requested`, `acknowledged`: the count of swaps of each network, kept by who makes them. `ends`: how requests ended,
    by code; of those with an answer, how many were `late`, which each must say.
    """

    def __init__(
        self,
        daemon: Reachable,
        networks: Sequence[str],
        tenants: Sequence[str] = TENANTS,
        *,
        bounds: Bounds = FREE,
        may_end: Collection[str] = (),
        open_max: int = OPEN_MAX,
    ) -> None:
        """`may_end`: codes that a request may end with instead of an answer. `open_max`: of each tenant."""
        self.acknowledged = dict.fromkeys(networks, 0)
        self.requested = dict.fromkeys(networks, 0)
        self.sent = 0
        self.ends: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._networks = itertools.cycle(networks)
        self._bounds, self._may_end, self._open_max = bounds, may_end, open_max
        self._last_ended = dict.fromkeys(tenants, 0)
        self._given_up = False
        self._random = randomness("load")
        self._plains = {tenant: Plain(daemon, tenant, client="load") for tenant in tenants}
        self._open: dict[str, dict[bytes, Asked]] = {tenant: {} for tenant in tenants}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_all)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for plain in self._plains.values():
            plain.__exit__()

    @property
    def answered(self) -> int:
        return self.ends["answer"]

    def end(self) -> None:
        """Ask nothing more, and wait for what was asked."""
        self._over.set()
        self._thread.join(3 * WAIT_S_MAX)

    def stop(self) -> None:
        """Ask nothing more, and wait for nothing: the daemon is gone."""
        self._given_up = True
        self.end()

    def unheard(self) -> int:
        """How many have no end though one that was sent after them by the same tenant has, so they had been read."""
        return sum(
            asked.number < self._last_ended[tenant]
            for tenant, waiting in self._open.items()
            for asked in waiting.values()
        )

    def unanswered(self) -> int:
        """How many were sent and never ended. After the end only."""
        return sum(map(len, self._open.values()))

    def _ask_all(self) -> None:
        poller, tenants = zmq.Poller(), {plain.socket: tenant for tenant, plain in self._plains.items()}
        for door in tenants:
            poller.register(door, zmq.POLLIN)
        due_s, give_up_s = time.monotonic(), 0.0
        while not self._over.is_set() or any(self._open.values()):
            now_s = time.monotonic()
            if self._over.is_set():
                give_up_s = give_up_s or now_s + WAIT_S_MAX
                if now_s > give_up_s or (self._given_up and now_s > give_up_s - WAIT_S_MAX + LAST_WORDS_S):
                    return
            elif now_s >= due_s:
                due_s = now_s + EVERY_S
                for tenant in self._open:
                    self._ask(tenant)
            for door, _ in poller.poll(max(1, round(1000 * (due_s - now_s)))):
                while int(door.getsockopt(zmq.EVENTS)) & int(zmq.POLLIN):
                    self._judge(tenants[door], self._plains[tenants[door]].receive())

    def _ask(self, tenant: str) -> None:
        plain, waiting = self._plains[tenant], self._open[tenant]
        if len(waiting) < self._open_max:
            network, digit, request_id = next(self._networks), self._random.randrange(DIGITS), plain.new_id()
            waiting[request_id] = Asked(self.sent, network, digit, self.acknowledged[network])
            infer = Infer(VERSION, request_id, network, (TensorSpec("float32", (DIGITS,)),), self._bounds)
            plain.send(infer, one_hot(digit).tobytes())
            self.sent += 1

    def _judge(self, tenant: str, reply: Reply) -> None:
        asked = self._open[tenant].pop(reply.id, None)
        if asked is None or not isinstance(reply, Ended):
            self.wrong.append(f"nobody asked for it: {reply}")
            return
        self._last_ended[tenant] = max(self._last_ended[tenant], asked.number)
        if not isinstance(reply, Answer):
            self.ends[reply.code] += 1
            if reply.code not in self._may_end:
                self.wrong.append(f"{asked}: no answer: {reply}")
        else:
            self.ends["answer"] += 1
            version = int(reply.network_version)
            served = {step % VERSIONS for step in range(asked.least, self.requested[asked.network] + 1)}
            if reply.label != answer_of(version, asked.digit) or version not in served:
                said = f"version {version}, one of {served} was served; label {reply.label}"
                self.wrong.append(f"{asked}: {said}")
            latency_ms = self._bounds.latency_ms
            late = isinstance(latency_ms, float) and reply.total_us > 1000 * latency_ms
            self.ends["late"] += late
            if late != ("latency_ms" in reply.broken):
                self.wrong.append(f"{asked}: {reply.total_us} us, broken {reply.broken}")
