"""Tenants that hurt, each a process of its own: `python -m delen.tests.faults.attackers KIND ENDPOINT SECONDS`.

Role: one function for each way; prints `begun` once it is at work, and at the end one line of JSON that says what it
did and what it was told. They run only when nobody else wants a processor (SCHED_IDLE): what is tested is what the
daemon lets them do to others, not what two cores can do at once.

Real time passes here, so all tests that use it are marked `pytest.mark.e2e`. Does not: judge.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import zmq

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Failure, Fetch, Infer, Refusal, decode_reply, encode
from delen.tests.faults.steady import ENDS_S_MAX, SPEC, connected, input_of

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
_READY_BODY = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x00"
# Greeting and handshake in one piece: with NULL nobody has to wait for the other.
SPOKEN = GREETING + b"\x04" + bytes([len(_READY_BODY)]) + _READY_BODY
FLOOD_HZ, CHURN_HZ = 2_000, 5_000
# So many handshakes a second, by so many at a time.
KNOCKERS, KNOCK_HZ = 25, 500
Report = dict[str, Any]


@contextmanager
def attacker(kind: str, endpoint: str, seconds: float) -> Iterator[Callable[[], Report]]:
    """One at work; calling what this yields waits for its report."""
    command = [sys.executable, "-m", __name__, kind, endpoint, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            begun = process.stdout.readline()
            assert begun == "begun\n", f"the attacker {kind} did not begin: {begun!r}"

            def report() -> Report:
                said, _ = process.communicate(timeout=seconds + 3 * ENDS_S_MAX)
                found: Report = json.loads(said)
                return found

            yield report
        finally:
            process.kill()


def begun() -> None:
    sys.stdout.write("begun\n")
    sys.stdout.flush()


def until(seconds: float) -> Iterator[float]:
    """The time that has gone by, again and again until it is over."""
    start = time.monotonic()
    while (gone := time.monotonic() - start) < seconds:
        yield gone


class Asker:
    """A connection that keeps count of what it was told."""

    def __init__(self, endpoint: str) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = connected(self.context, endpoint, "attacker")
        self.ends: Counter[str] = Counter()
        self.sent = self.answers_late = 0
        self._run = b"%d" % time.monotonic_ns()

    def infer(self, tensor: bytes, **bounds: Any) -> bytes:
        request_id = b"%b-%d" % (self._run, self.sent)
        self.sent += 1
        self.socket.send_multipart(encode(Infer(VERSION, request_id, "digits", SPEC, Bounds(**bounds)), (tensor,)))
        return request_id

    def read(self, wait_ms: int = 0) -> bool:
        """Take in what is there."""
        found = False
        while self.socket.poll(wait_ms):
            found = True
            self.note(self.socket.recv_multipart())
            wait_ms = 0
        return found

    def note(self, frames: list[bytes]) -> None:
        reply = decode_reply(frames)
        if isinstance(reply, Answer):
            self.ends["answer"] += 1
            self.answers_late += bool(reply.broken)
        elif isinstance(reply, Refusal | Failure):
            self.ends[reply.code] += 1
            hint = reply.offer.retry_after_ms if isinstance(reply, Refusal) and reply.offer is not None else None
            self.ends["with retry_after_ms"] += hint is not None

    def settle(self, wanted: int) -> None:
        """Wait until so many ends have come."""
        give_up = time.monotonic() + ENDS_S_MAX
        while sum(self.ends.values()) - self.ends["with retry_after_ms"] < wanted and time.monotonic() < give_up:
            self.read(100)
        self.read(20)

    def report(self, **more: Any) -> Report:
        self.context.destroy(linger=0)
        return {"sent": self.sent, "ends": dict(self.ends), "late": self.answers_late, **more}


def flood(endpoint: str, seconds: float, rate_hz: int = FLOOD_HZ, **bounds: Any) -> Report:
    """Far more requests than its rate allows."""
    asker = Asker(endpoint)
    begun()
    for gone in until(seconds):
        while asker.sent < gone * rate_hz:
            asker.infer(input_of(asker.sent), **bounds)
        if not asker.read(1):
            time.sleep(0.0005)
    asker.settle(asker.sent)
    return asker.report(seconds=seconds)


def pile(endpoint: str, seconds: float) -> Report:
    """Far more requests than there is time for, all at once, none of which has a bound."""
    asker = Asker(endpoint)
    begun()
    for number in range(int(seconds * FLOOD_HZ)):
        asker.infer(input_of(number))
        asker.read()
    asker.settle(asker.sent)
    return asker.report(seconds=seconds)


def slow(endpoint: str, seconds: float) -> Report:
    """Asks for one answer again and again, thousands of times, and reads nothing until the end."""
    asker = Asker(endpoint)
    first = asker.infer(input_of(0))
    asker.settle(1)
    asker.socket.close(linger=0)
    unread = asker.context.socket(zmq.DEALER)
    unread.linger, unread.rcvhwm, unread.sndhwm = 0, 1, 0
    unread.connect(endpoint)
    begun()
    asked = 0
    for gone in until(seconds):
        while asked < gone * FLOOD_HZ:
            unread.send_multipart(encode(Fetch(VERSION, first)))
            asked += 1
        time.sleep(0.001)
    read = 0
    while unread.poll(500):
        unread.recv_multipart()
        read += 1
    again = connected(asker.context, endpoint, "reader")
    again.send_multipart(encode(Fetch(VERSION, first)))
    kept = isinstance(decode_reply(again.recv_multipart()), Answer)
    return asker.report(asked=asked, read=read, kept=kept)


def churn(endpoint: str, seconds: float) -> Report:
    """Connections that go as soon as they have come, half of them with all of a handshake said."""
    path = endpoint.removeprefix("ipc://")
    made = failed = 0
    begun()
    for gone in until(seconds):
        while made + failed < gone * CHURN_HZ:
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(0.01)
                try:
                    one.connect(path)
                    if made % 2:
                        one.sendall(SPOKEN)
                    made += 1
                except OSError:
                    failed += 1
        time.sleep(0.0005)
    return {"made": made, "failed": failed, "rate_hz": made / seconds}


def sloth(endpoint: str, seconds: float) -> Report:
    """Noise that no exit is sure of, with bounds that let it go to the last exit, as fast as it is answered."""
    asker = Asker(endpoint)
    begun()
    inputs = [input_of(number, noisy=True) for number in range(256)]
    for _ in until(seconds):
        while asker.sent - asker.ends["answer"] < 32:
            asker.infer(inputs[asker.sent % 256], latency_ms=200.0, objective="accuracy")
        asker.read(1)
    asker.settle(asker.sent)
    return asker.report()


def idle(endpoint: str, seconds: float, count: int = 64) -> Report:
    """As many connections as it may have, and says nothing on them."""
    path = endpoint.removeprefix("ipc://")
    held: list[socket.socket] = []
    lost = 0
    begun()
    for _ in until(seconds):
        while len(held) < count:
            one = socket.socket(socket.AF_UNIX)
            one.settimeout(0.01)
            try:
                one.connect(path)
                one.sendall(SPOKEN)
            except OSError:
                one.close()
                break
            one.setblocking(False)
            held.append(one)
        alive = [one for one in held if _alive(one)]
        lost += len(held) - len(alive)
        held = alive
        time.sleep(0.01)
    return {"held": len(held), "lost": lost}


def _alive(one: socket.socket) -> bool:
    try:
        return bool(one.recv(4096))
    except BlockingIOError:
        return True
    except OSError:
        return False


def endless(endpoint: str, seconds: float) -> Report:
    """Messages that never end, and such that end in the middle."""
    path = endpoint.removeprefix("ipc://")
    part = b"\x03" + (65536).to_bytes(8, "big") + bytes(65536)
    half = b"\x01\x06header" + part[:30_000]
    sent_bytes = broken = 0
    begun()
    for gone in until(seconds):
        with socket.socket(socket.AF_UNIX) as one, suppress(OSError):
            one.settimeout(0.05)
            one.connect(path)
            one.sendall(SPOKEN)
            if broken % 2:
                one.sendall(half)
            else:
                for now in until(seconds - gone):
                    one.sendall(part)
                    sent_bytes += len(part)
                    if now > 1.0:
                        break
        broken += 1
        time.sleep(0.001)
    return {"bytes": sent_bytes, "connections": broken}


def poison(endpoint: str, seconds: float) -> Report:
    """One input that the engine dies of, again and again; see `planted.py`."""
    import numpy as np

    asker = Asker(endpoint)
    bad = np.full((1, 8, 8), 666.0, np.float32).tobytes()
    begun()
    for _ in until(seconds):
        asker.infer(bad, latency_ms=5000.0)
        asker.settle(asker.sent)
        time.sleep(0.01)
    return asker.report()


def knock(endpoint: str, seconds: float) -> Report:
    """Handshakes over tcp with a key nobody knows, 500 a second. `endpoint`: and the server's key after a space."""
    address, server_key = endpoint.split(" ")
    public, secret = zmq.curve_keypair()
    knocked = tried = 0
    with zmq.Context() as context:
        poller, knockers = zmq.Poller(), {}
        for _ in range(KNOCKERS):
            one = context.socket(zmq.DEALER)
            one.linger = 0
            one.curve_serverkey, one.curve_publickey, one.curve_secretkey = server_key.encode(), public, secret
            monitor = one.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            poller.register(monitor, zmq.POLLIN)
            knockers[monitor] = one
        idle = list(knockers.values())
        begun()
        for gone in until(seconds):
            while idle and tried < gone * KNOCK_HZ:
                idle.pop().connect(address)
                tried += 1
            for monitor, _ in poller.poll(2):
                monitor.recv_multipart()
                # Who was denied does not come again by itself.
                knockers[monitor].disconnect(address)
                idle.append(knockers[monitor])
                knocked += 1
        context.destroy(linger=0)
    return {"knocked": knocked, "rate_hz": knocked / seconds}


KINDS: dict[str, Callable[[str, float], Report]] = {
    kind.__name__: kind for kind in (flood, pile, slow, churn, sloth, idle, endless, poison, knock)
}


if __name__ == "__main__":
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    sys.stdout.write(json.dumps(KINDS[sys.argv[1]](sys.argv[2], float(sys.argv[3]))) + "\n")
