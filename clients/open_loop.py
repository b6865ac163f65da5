"""Requests of many tenants sent at given times, whatever becomes of them: the load of a scenario on a real daemon.

Role: messages are made before the clock starts and replies read after it has stopped, so that one process drives eight
tenants at little cost to the two cores it shares with the daemon. No time is read off the replies here: the daemon's
own clock is in its answers. Flow: hello on every connection -> send at each time, keep what has come -> wait for the
rest. Does not: judge, retry, or subtract anything from bounds, as the SDK does.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import zmq

from .private_daemon import PrivateDaemon
from .wire import VERSION, Answer, Failure, Frames, Hello, Refusal, Welcome, decode_reply, encode

ENDS_S_MAX = 30.0


# One request: when it is sent, us from the start; the tenant on whose connection; its frames.
Message: TypeAlias = tuple[int, str, Frames]


class Played(NamedTuple):
    """What came of all messages: the end of each by (tenant, request id); `late_us`: how late each was sent."""

    ends: dict[tuple[str, bytes], Answer | Refusal | Failure]
    late_us: list[int]


class NoEnd(RuntimeError):
    """The daemon did not answer, or not everything."""


@contextmanager
def playing(
    tenants: Sequence[str], networks: Sequence[str], state_dir: Path, journal: Path | None = None
) -> Iterator[Callable[[Sequence[Message]], Played]]:
    """A private daemon that these tenants' messages can be played to, as often as one likes."""
    arguments = [] if journal is None else ["--journal", str(journal)]
    with PrivateDaemon(tenants, networks, state_dir=state_dir, arguments=arguments) as daemon:
        endpoints = {tenant: daemon.endpoint(tenant) for tenant in tenants}
        yield lambda messages: play(endpoints, messages)


def play(endpoints: Mapping[str, str], messages: Sequence[Message]) -> Played:
    """Send all of them, in order of their times, and wait until each has ended.

    Args:
        endpoints: of every tenant.
    Raises:
        NoEnd: a request had no end ENDS_S_MAX after the last was sent.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        sockets = {tenant: _connect(context, endpoint) for tenant, endpoint in endpoints.items()}
        return _play(sockets, messages)
    finally:
        context.destroy(linger=0)


def _connect(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    # Nothing is ever left out for want of room here.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVTIMEO, int(1000 * ENDS_S_MAX))
    socket.connect(endpoint)
    socket.send_multipart(encode(Hello(VERSION, b"hello", "open-loop")))
    try:
        reply = decode_reply(socket.recv_multipart())
    except zmq.Again as error:
        raise NoEnd(f"no welcome from {endpoint} within {ENDS_S_MAX:g} s; is the daemon running?") from error
    if not isinstance(reply, Welcome):
        raise NoEnd(f"{endpoint} answered hello with {reply}")
    return socket


def _play(sockets: Mapping[str, zmq.Socket[bytes]], messages: Sequence[Message]) -> Played:
    came: list[tuple[str, list[bytes]]] = []
    late_us: list[int] = []
    gc.collect()
    gc.disable()
    try:
        start_ns = time.monotonic_ns()
        for when_us, tenant, frames in messages:
            while (left_us := when_us - (time.monotonic_ns() - start_ns) // 1000) > 0:
                _drain(sockets, came)
                # Not until something comes: being woken by answers would take processor time from the daemon.
                time.sleep(left_us / 1e6)
            late_us.append(-left_us)
            sockets[tenant].send_multipart(frames, copy=True)
        poller = zmq.Poller()
        for socket in sockets.values():
            poller.register(socket, zmq.POLLIN)
        end_ns = time.monotonic_ns() + int(ENDS_S_MAX * 1e9)
        _drain(sockets, came)
        while len(came) < len(messages) and (left_ns := end_ns - time.monotonic_ns()) > 0:
            poller.poll(left_ns // 1_000_000 + 1)
            _drain(sockets, came)
    finally:
        gc.enable()
    if len(came) < len(messages):
        raise NoEnd(f"{len(messages) - len(came)} of {len(messages)} requests had no end within {ENDS_S_MAX:g} s")
    ends: dict[tuple[str, bytes], Answer | Refusal | Failure] = {}
    for tenant, parts in came:
        reply = decode_reply(parts)
        if not isinstance(reply, Answer | Refusal | Failure):
            raise NoEnd(f"tenant {tenant} was told {reply} instead of an end")
        ends[tenant, reply.id] = reply
    return Played(ends, late_us)


def _drain(sockets: Mapping[str, zmq.Socket[bytes]], came: list[tuple[str, list[bytes]]]) -> None:
    for tenant, socket in sockets.items():
        while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            came.append((tenant, socket.recv_multipart()))
