"""A real daemon for end-to-end tests, and a client that says exactly what a test wants it to, well-formed or not.

Flow: `serving(folder)` starts a private daemon on the shipped `digits`; all daemons of one folder share a state
directory, so its quick profile is measured once. `Plain` is one DEALER of a tenant. `held` stops the engine's process,
so that what a test sends meanwhile waits together. Does not: check anything.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt
import psutil
import zmq

from delen.clients.bounds import Bounds
from delen.clients.client import Client
from delen.clients.info import TenantStats
from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import (
    VERSION,
    Answer,
    Failure,
    Hello,
    Infer,
    Ping,
    Pong,
    Refusal,
    Reply,
    Request,
    Stats,
    StatsReply,
    TensorSpec,
    Welcome,
    decode_reply,
    encode,
)
from delen.exits.samples import load_samples, prepare

# Nothing here takes a second on an idle machine; a busy one may be slow.
WAIT_S_MAX = 20
PAYLOAD_BYTES_MAX = 65_536
# Small payloads, so that too large is cheap. `run_ms_min` is how long a worker may be held before it counts as hung,
# `drain_ms_max` how long a daemon that was told to end waits for such a one.
SETTINGS = f"""
meter = "none"
[limits]
payload_bytes_max = {PAYLOAD_BYTES_MAX}
run_ms_min = 5000
drain_ms_max = 2000
"""
Ended = (Answer, Refusal, Failure)
_Kind = TypeVar("_Kind", bound=Reply)


@contextlib.contextmanager
def serving(
    folder: Path, tenants: Sequence[str] = ("a", "b"), settings: str = SETTINGS, networks: Sequence[str] = ("digits",)
) -> Iterator[PrivateDaemon]:
    """A private daemon, ready; `folder` keeps its configuration, and the profiles of all daemons started there."""
    config = folder / f"delen-{os.urandom(4).hex()}.toml"
    config.write_text(settings)
    arguments = ["--config", str(config)]
    with PrivateDaemon(tenants, networks, arguments=arguments, state_dir=folder / "state") as daemon:
        try:
            yield daemon
        finally:
            # Shown by pytest when the test failed.
            sys.stderr.write(f"the daemon said:\n{daemon.log()}")


def worker_of(daemon: PrivateDaemon) -> psutil.Process:
    """The engine's process: the front has no other child."""
    (worker,) = psutil.Process(daemon.pid).children()
    return worker


@contextlib.contextmanager
def held(process: psutil.Process) -> Iterator[None]:
    """Stop a process, as a hang would, and let it go on afterwards, if it still is there."""
    process.suspend()
    while process.status() != psutil.STATUS_STOPPED:
        pass
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()


def delen(*arguments: str, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "delen", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=3 * WAIT_S_MAX,
        check=False,
    )


class Images:
    """The test images of `digits`, as the network takes them."""

    def __init__(self, client: Client) -> None:
        (info,) = [info for info in client.networks() if info.name == "digits"]
        samples = load_samples("digits")
        self.exits = info.exits
        self.inputs: npt.NDArray[np.float32] = prepare(samples.images, info.preprocessing)
        self.labels: list[int] = samples.labels.tolist()


class Reachable(Protocol):
    """A daemon, whoever started it."""

    def endpoint(self, tenant: str) -> str:
        """Where this tenant asks."""
        ...


class Plain:
    """One connection of one tenant that has said hello; says what it is told and reads what comes."""

    counter = itertools.count(1)

    def __init__(self, daemon: Reachable, tenant: str = "a", *, client: str | None = "plain") -> None:
        self._context = zmq.Context()
        self.socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVTIMEO, 1000 * WAIT_S_MAX)
        self.socket.setsockopt(zmq.SNDTIMEO, 1000 * WAIT_S_MAX)
        self.socket.connect(daemon.endpoint(tenant))
        self.tensors: dict[bytes, bytes] = {}
        if client is not None:
            self.ask(Hello(VERSION, self.new_id(), client), Welcome)

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        # Not `term`, which would wait for ever for a monitor that a failed test left open.
        self._context.destroy(linger=0)

    def new_id(self) -> bytes:
        return b"plain%d" % next(self.counter)

    def send(self, message: Request, *tensors: bytes) -> None:
        self.socket.send_multipart(encode(message, tensors))

    def receive(self) -> Reply:
        """The next reply; an answer's logits are kept in `tensors`."""
        frames = self.socket.recv_multipart()
        # An empty frame in front is REQ's; the daemon returns it to whoever sends one.
        frames = frames if frames[0] else frames[1:]
        reply = decode_reply(frames)
        if isinstance(reply, Answer):
            self.tensors[reply.id] = frames[1]
        return reply

    def ask(self, message: Request, kind: type[_Kind]) -> _Kind:
        """Send and take the next reply, which must be of this kind and have the message's id."""
        self.send(message)
        reply = self.receive()
        assert isinstance(reply, kind), reply
        assert reply.id == message.id
        return reply

    def infer(self, x: npt.NDArray[np.float32] | None = None, *, request_id: bytes = b"", **bounds: Any) -> bytes:
        """Send one request to `digits`, by default of zeros but for a speck that its id has alone; returns the id."""
        request_id = request_id or self.new_id()
        if x is None:
            # Inputs that are running in two deaths of the engine are poison: no test's should be another's.
            x = np.zeros((1, 8, 8), np.float32)
            # So small that the answers are alike all the same.
            x[0, 0, 0] = 1e-5 * crc32(request_id) / 2**32
        specs = (TensorSpec("float32", x.shape),)
        self.send(Infer(VERSION, request_id, "digits", specs, Bounds(**bounds)), x.tobytes())
        return request_id

    def until_pong(self) -> list[Reply]:
        """Everything that comes before the pong to a ping sent now: all that was sent before has been read by then."""
        ping = Ping(VERSION, self.new_id())
        self.send(ping)
        found: list[Reply] = []
        while not isinstance(reply := self.receive(), Pong):
            found.append(reply)
        return found

    def ends(self, ids: Sequence[bytes]) -> dict[bytes, Reply]:
        """Wait for the ends of these requests; no reply may come twice, or to a request that is not waited for."""
        found: dict[bytes, Reply] = {}
        while len(found) < len(ids):
            reply = self.receive()
            assert isinstance(reply, Ended), reply
            assert reply.id in ids
            assert reply.id not in found
            found[reply.id] = reply
        assert self.until_pong() == []
        return found

    def answers(self, ids: Sequence[bytes]) -> list[Answer]:
        """The answers to these requests, in the order they were asked; anything but an answer fails the test."""
        found = self.ends(ids)
        answers = [found[request_id] for request_id in ids]
        for answer in answers:
            assert isinstance(answer, Answer), answer
        return [answer for answer in answers if isinstance(answer, Answer)]

    def stats(self) -> StatsReply:
        return self.ask(Stats(VERSION, self.new_id()), StatsReply)

    def row(self, tenant: str = "a") -> TenantStats:
        """One tenant's row of the ledger, the books of which must balance."""
        stats = self.stats()
        for row in stats.tenants:
            assert row.accepted == row.answered + row.failed + row.pending
            assert row.answered == row.bounds_met + row.bounds_broken
        (found,) = [row for row in stats.tenants if row.tenant == tenant]
        return found

    def until_worker_is(self, state: str, restarts: int) -> StatsReply:
        """Ask until the worker is in this state after so many restarts; the daemon's answers set the pace."""
        for _ in range(100_000):
            stats = self.stats()
            if stats.worker == state and stats.worker_restarts == restarts:
                return stats
        raise AssertionError(f"the worker is {stats.worker} after {stats.worker_restarts} restarts")
