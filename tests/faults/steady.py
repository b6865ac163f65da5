"""Tenant b of the fault suite: it asks at a steady rate, whatever becomes of its requests, and notes how they fared.

Role: `steady` plays one connection for some seconds in the process of the test; attackers are processes of their own
(`attackers.py`). Latencies are by the client's clock, from sending to reading.

Real time passes here, so all tests that use it are marked `pytest.mark.e2e`. Does not: assert anything.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from typing import NamedTuple

import numpy as np
import zmq

from delen.clients.bounds import Bounds
from delen.clients.wire import VERSION, Answer, Failure, Hello, Infer, Refusal, TensorSpec, decode_reply, encode

# How long after its last request all must have ended.
ENDS_S_MAX = 20.0
SPEC = (TensorSpec("float32", (1, 8, 8)),)


class Fared(NamedTuple):
    """What became of one tenant's requests: `lost` had no end, `doubled` more than one; latencies sorted, in us.

    `latencies_us`: of answers; `daemon_us`: of the same as the daemon has it; `refusals_us`: of refusals.
    """

    sent: int
    ends: Counter[str]
    missed: int
    lost: int
    doubled: int
    latencies_us: list[int]
    daemon_us: list[int]
    refusals_us: list[int]
    seconds: float

    @property
    def aside(self) -> int:
        """How many were not answered in time: refused, failed, late."""
        return self.sent - self.ends["answer"] + self.missed

    def percentile_us(self, share: float) -> int:
        return percentile_us(self.latencies_us, share)


def percentile_us(values: list[int], share: float) -> int:
    """Of sorted values; 0 where there are none."""
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0


def input_of(number: int, *, noisy: bool = False) -> bytes:
    """An input to `digits` that no other request has."""
    if noisy:
        return np.random.default_rng(number).random((1, 8, 8), np.float32).tobytes()
    x = np.zeros((1, 8, 8), np.float32)
    x[0, 0, 0] = number * 1e-7
    return x.tobytes()


def connected(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, client: str) -> zmq.Socket[bytes]:
    """A connection that has said hello."""
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.rcvhwm = socket.sndhwm = 0
    socket.rcvtimeo = int(1000 * ENDS_S_MAX)
    socket.connect(endpoint)
    socket.send_multipart(encode(Hello(VERSION, b"hello", client)))
    socket.recv_multipart()
    return socket


def steady(endpoint: str, *, rate_hz: float, seconds: float, latency_ms: float | None = 50.0) -> Fared:
    """Ask at this rate for so long, then wait for what has not ended."""
    count = int(rate_hz * seconds)
    run = time.monotonic_ns()
    messages = [
        encode(Infer(VERSION, b"%d-%d" % (run, n), "digits", SPEC, Bounds(latency_ms=latency_ms)), (input_of(n),))
        for n in range(count)
    ]
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = connected(context, endpoint, "steady")
        gc.collect()
        gc.disable()
        try:
            return _fared(*_play(socket, messages, 1e9 / rate_hz))
        finally:
            gc.enable()
    finally:
        context.destroy(linger=0)


_Came = list[tuple[int, list[bytes]]]


def _play(
    socket: zmq.Socket[bytes], messages: list[list[bytes | memoryview]], step_ns: float
) -> tuple[list[int], _Came]:
    """When each was sent, and what came when."""
    sent: list[int] = []
    came: _Came = []
    start = time.monotonic_ns()
    for number, frames in enumerate(messages):
        due = start + int(number * step_ns)
        while (left := due - time.monotonic_ns()) > 0:
            # Rounded up: a poll that ends early is only asked again.
            if socket.poll((left + 999_999) // 1_000_000 if left > 1_500_000 else 1):
                came.append((time.monotonic_ns(), socket.recv_multipart()))
        sent.append(time.monotonic_ns())
        socket.send_multipart(frames)
    until = time.monotonic_ns() + int(ENDS_S_MAX * 1e9)
    while len(came) < len(messages) and time.monotonic_ns() < until:
        if socket.poll(100):
            came.append((time.monotonic_ns(), socket.recv_multipart()))
    # What would come twice comes soon.
    while socket.poll(20):
        came.append((time.monotonic_ns(), socket.recv_multipart()))
    return sent, came


def _fared(sent: list[int], came: _Came) -> Fared:
    ends: Counter[str] = Counter()
    seen: Counter[int] = Counter()
    latencies: list[int] = []
    inside: list[int] = []
    refusals: list[int] = []
    missed = 0
    for when, frames in came:
        reply = decode_reply(frames)
        assert isinstance(reply, (Answer, Refusal, Failure)), reply
        number = int(reply.id.rpartition(b"-")[2])
        seen[number] += 1
        if isinstance(reply, Answer):
            ends["answer"] += 1
            missed += bool(reply.broken)
            latencies.append((when - sent[number]) // 1000)
            inside.append(reply.total_us)
        else:
            ends[reply.code] += 1
            if isinstance(reply, Refusal):
                refusals.append((when - sent[number]) // 1000)
    doubled = sum(times - 1 for times in seen.values())
    seconds = (came[-1][0] - sent[0]) / 1e9
    lost, times = len(sent) - len(seen), (sorted(latencies), sorted(inside), sorted(refusals))
    return Fared(len(sent), ends, missed, lost, doubled, *times, seconds)
