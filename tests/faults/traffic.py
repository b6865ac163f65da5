"""Tenants that ask without end and misbehave all the while, and write down what they were told.

Role: `Traffic` is one tenant: a few connections of its own, closed loops and bursts, requests with all kinds of bounds.
From a seeded generator it sends requests again, fetches and takes back what runs, uses an id for something else, drops
a connection and comes back under another routing id, asking for all it had waited for there. Everything goes into a
`History`. Flow: `turn` reads what is there, and sends what is due; `settle` asks until nothing is open.

Real time passes here, so all tests that use it are marked `pytest.mark.e2e`. Does not: judge (`history.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from random import Random
from typing import NamedTuple

import numpy as np
import zmq

from delen.clients.bounds import Bounds
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import (
    VERSION,
    Answer,
    Cancel,
    Failure,
    Fetch,
    Hello,
    Infer,
    Manage,
    Managed,
    Ping,
    Pong,
    Refusal,
    Request,
    TensorSpec,
    Welcome,
    decode_reply,
    encode,
)
from delen.exits.samples import load_samples
from delen.tests.faults.history import OF_ANOTHER, OF_NOBODY, History

CONNECTIONS, CLOSED, WAITING = 3, 2, 24
# Of all requests, how many get each mischief done to them once they are sent.
AGAIN, ELSEWHERE, FETCHED, CANCELLED, OTHER = 0.02, 0.01, 0.01, 0.02, 0.005
# A connection is dropped after so many requests, on average.
DROP_AFTER = 400
# Somebody who hears nothing of a request for so long asks for it.
PATIENCE_S, SETTLE_S_MAX = 2.0, 15.0
BOUNDS = (
    *((Bounds(),) * 6),
    *((Bounds(latency_ms=30_000.0),) * 4),
    *(Bounds(latency_ms=50.0), Bounds(latency_ms=50.0, on_miss="drop"), Bounds(accuracy=0.9), Bounds(latency_ms=0.5)),
)
SPEC = (TensorSpec("float32", (1, 8, 8)),)


class Seen(NamedTuple):
    """What an exit says of an image."""

    label: int
    confidence: float


class Pictures:
    """Inputs, each a digit with a speck of its own, and what each exit has said of the digit before."""

    def __init__(self, images: int = 64) -> None:
        pictures = load_samples("digits").images[:images]
        self._inputs = [np.ascontiguousarray(each, np.float32).reshape(1, 8, 8) / 16 for each in pictures]
        self._seen: dict[tuple[int, int], Seen] = {}
        self.faults: list[str] = []

    def payload(self, number: int) -> bytes:
        """No two inputs are the same, so that none is ever taken for poison of another's doing."""
        x = self._inputs[number % len(self._inputs)].copy()
        x[0, 0, 0] = number % 100_003 * 1e-7
        return x.tobytes()

    def check(self, number: int, answer: Answer) -> None:
        """Whether this is the answer to this input, not to another of its batch."""
        seen = self._seen.setdefault((number % len(self._inputs), answer.exit), Seen(answer.label, answer.confidence))
        if abs(seen.confidence - answer.confidence) > 0.02 or (seen.label != answer.label and seen.confidence > 0.6):
            said = f"{answer.label} ({answer.confidence:.3f})"
            self.faults.append(f"request {number}: {said}, but {seen} was said of that image at exit {answer.exit}")


class Wire:
    """One connection, and the requests that wait on it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, number: int) -> None:
        self.number = number
        self.waiting: set[int] = set()
        self.pongs = 0
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 100_000)
        self.socket.setsockopt(zmq.RCVHWM, 100_000)
        self.socket.connect(endpoint)

    def send(self, message: Request, *tensors: bytes) -> None:
        self.socket.send_multipart(encode(message, tensors))


class Traffic:
    """One tenant of a daemon; `history` is what it has lived through."""

    def __init__(self, daemon: PrivateDaemon, tenant: str, random: Random, *, rate_hz: float = 0.0) -> None:
        """`rate_hz`: of the one connection that asks whether it is answered or not; the others wait their turn."""
        self.history = History()
        self.pictures = Pictures()
        self.tenant = tenant
        self.sent = 0
        self.mischief: Counter[str] = Counter()
        self.managed: list[str] = []
        self._daemon, self._random, self._rate_hz = daemon, random, rate_hz
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._wires: dict[zmq.Socket[bytes], Wire] = {}
        self._count = 0
        self._since_s: dict[int, float] = {}
        self._doubted: set[int] = set()
        self._wire_count = self._drop_at = 0
        self._due_s = self._look_s = time.monotonic()
        for _ in range(CONNECTIONS):
            self._connect()

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    @property
    def ended(self) -> int:
        """How many requests have ended or were turned away."""
        return sum(self.history.ends.values())

    def files(self) -> list[int]:
        """Descriptors that are readable when something may have come."""
        return [int(socket.getsockopt(zmq.FD)) for socket in self._wires]

    # ---- a turn

    def turn(self, budget: int, timeout_ms: int = 0) -> None:
        """Hear what has come; send at most `budget` new requests."""
        ready = dict(self._poller.poll(timeout_ms))
        for wire in [self._wires[socket] for socket in ready]:
            self._hear(wire)
        now_s = time.monotonic()
        if budget > 0:
            self._ask(now_s, budget)
            if self._count >= self._drop_at:
                self._drop_at = self._count + int(self._random.uniform(0, 2 * DROP_AFTER))
                self._drop(self._random.choice(list(self._wires.values())))
        if now_s >= self._look_s:
            self._look_s = now_s + PATIENCE_S / 4
            self._look(now_s)

    def _ask(self, now_s: float, budget: int) -> None:
        closed, opened = list(self._wires.values())[:CLOSED], list(self._wires.values())[CLOSED:]
        for wire in closed:
            while len(wire.waiting) < WAITING and budget > 0:
                self._send(wire, now_s)
                budget -= 1
        while self._rate_hz and now_s >= self._due_s and budget > 0:
            # In bursts, since that is what queues are made of.
            size = min(self._random.choice((1, 1, 2, 40)), budget)
            self._due_s = max(self._due_s + size / self._rate_hz, now_s - 1)
            for _ in range(size):
                self._send(self._random.choice(opened), now_s)
            budget -= size

    def _send(self, wire: Wire, now_s: float) -> None:
        self._count += 1
        number, random = self._count, self._random
        self.sent += 1
        self._since_s[number] = now_s
        self._infer(wire, number)
        chance = random.random()
        for name, share in (("again", AGAIN), ("elsewhere", ELSEWHERE), ("fetch", FETCHED), ("cancel", CANCELLED)):
            if chance < share:
                self._misbehave(name, wire, number)
                break
            chance -= share
        if random.random() < OTHER:
            self.mischief["other"] += 1
            self.history.asked(wire.number, number, other=True)
            wire.send(
                Infer(VERSION, _id(number), "digits", SPEC, Bounds(latency_ms=77.0)), self.pictures.payload(number)
            )

    def _misbehave(self, name: str, wire: Wire, number: int) -> None:
        self.mischief[name] += 1
        other = self._random.choice(list(self._wires.values()))
        # Perhaps one of some time ago, so that it races with the end, or comes after it.
        number = max(1, number - self._random.choice((0, 3, 10, 30, 100, 1000)))
        if not self.history.known(number):
            return
        self._since_s.setdefault(number, time.monotonic())
        if name in ("again", "elsewhere"):
            self._infer(other if name == "elsewhere" else wire, number)
        else:
            self.history.asked(other.number, number)
            other.send((Fetch if name == "fetch" else Cancel)(VERSION, _id(number)))

    def _infer(self, wire: Wire, number: int) -> None:
        # The same each time, or it would be another request.
        bounds = BOUNDS[number * 7919 % 1009 % len(BOUNDS)]
        self.history.asked(wire.number, number)
        if number in self.history.open:
            wire.waiting.add(number)
        wire.send(Infer(VERSION, _id(number), "digits", SPEC, bounds), self.pictures.payload(number))

    # ---- what comes

    def _hear(self, wire: Wire) -> None:
        for _ in range(256):
            try:
                frames = wire.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            reply = decode_reply(frames)
            if isinstance(reply, Pong):
                wire.pongs += 1
            elif isinstance(reply, (Answer, Failure, Refusal)) and reply.id[:1] == b"n":
                self._told(wire, int(reply.id[1:]), reply)
            elif isinstance(reply, (Managed, Refusal)):
                self.managed.append(reply.network_version if isinstance(reply, Managed) else reply.code)
            else:
                assert isinstance(reply, Welcome), reply

    def _told(self, wire: Wire, number: int, reply: Answer | Failure | Refusal) -> None:
        self.history.told(wire.number, number, reply)
        if isinstance(reply, Answer):
            self.pictures.check(number, reply)
        if isinstance(reply, Refusal) and reply.code in (OF_ANOTHER, OF_NOBODY):
            if reply.code == OF_NOBODY and number in self.history.open and not self.history.open[number].refused:
                # It never arrived: the connection it was sent on was dropped before.
                self._infer(wire, number)
            return
        for each in self._wires.values():
            each.waiting.discard(number)
        if number not in self.history.open:
            self._since_s.pop(number, None)

    def _look(self, now_s: float) -> None:
        """Ask for what is long in coming; those that were turned away are done with once nobody asks any more."""
        alive = {wire.number for wire in self._wires.values()}
        for number, told in list(self.history.open.items()):
            if told.refused and all(told.replies[each] >= told.asks[each] for each in alive):
                if number not in self._doubted and any(told.replies[each] < told.asks[each] for each in told.asks):
                    # Sent twice, once on a connection that is gone: that one may have been let in.
                    self._doubted.add(number)
                    self._fetch(number)
                    continue
                self.history.refused(number)
                self._since_s.pop(number, None)
            elif not told.refused and now_s - self._since_s[number] > PATIENCE_S:
                self._since_s[number] = now_s
                self.mischief["overdue"] += 1
                self._fetch(number)

    def _fetch(self, number: int) -> None:
        wire = self._random.choice(list(self._wires.values()))
        self.history.asked(wire.number, number)
        wire.send(Fetch(VERSION, _id(number)))

    # ---- connections

    def _connect(self) -> Wire:
        self._wire_count += 1
        wire = Wire(self._context, self._daemon.endpoint(self.tenant), self._wire_count)
        self._wires[wire.socket] = wire
        self._poller.register(wire.socket, zmq.POLLIN)
        wire.send(Hello(VERSION, b"hello", f"c{wire.number % 64}"))
        return wire

    def _drop(self, wire: Wire) -> None:
        """Leave without a word, with whatever was on its way, and come back as somebody else."""
        self.mischief["drop"] += 1
        self._poller.unregister(wire.socket)
        wires = list(self._wires.values())
        place = wires.index(wire)
        del self._wires[wire.socket]
        wire.socket.close(linger=0)
        new = self._connect()
        # In the same place, so that each kind of connection stays as many.
        wires[place] = new
        self._wires = {each.socket: each for each in wires}
        for number in sorted(wire.waiting):
            if number in self.history.open:
                new.waiting.add(number)
                self.history.asked(new.number, number)
                new.send(Fetch(VERSION, _id(number)))

    def swap(self, directory: str) -> None:
        """Ask for another version, on the first connection."""
        next(iter(self._wires.values())).send(Manage(VERSION, b"manage", "swap", directory))

    # ---- the end

    def settle(self) -> None:
        """Ask until every request has ended, and everything that was asked for has been told."""
        until_s = time.monotonic() + SETTLE_S_MAX
        while self.history.open and time.monotonic() < until_s:
            self.turn(0, 50)
        wires = list(self._wires.values())
        for wire in wires:
            wire.pongs = 0
            wire.send(Ping(VERSION, b"ping"))
        while not all(wire.pongs for wire in wires) and time.monotonic() < until_s:
            self.turn(0, 50)
        if not all(wire.pongs for wire in wires):
            self.history.faults.append("a ping was not answered")


def _id(number: int) -> bytes:
    return b"n%d" % number
