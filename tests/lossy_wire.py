"""A client's protocol state and a fake daemon joined without sockets or clocks, for tests that lose messages.

Role: `LossyWire` hands frames from one to the other; its user says when time passes and what is lost. Does not: wait.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from delen.clients.bounds import Bounds
from delen.clients.calls import Call
from delen.clients.connection import TICK_US, Connection
from delen.clients.wire import VERSION, Frames, Infer, Ping, Request, TensorSpec
from delen.tests.fake_daemon import FakeDaemon

TIMEOUT_US = 5_000_000
X = np.array([[[0, 3], [1, 0]]], np.float32)


class LossyWire:
    """A connection and a fake daemon, and the wire in between; `lose` drops what is said either way."""

    def __init__(self, daemon: FakeDaemon | None = None, bounds: Bounds | None = None) -> None:
        self.daemon = daemon or FakeDaemon()
        self.connection = Connection(endpoint="ipc:///s", client="c", bounds=bounds or Bounds(), nonce=b"\x80" * 8)
        self.now_us = 1_000_000
        self.peer = b"peer"
        self.ended: list[Call] = []

    def open(self, message: Request, tensors: Sequence[bytes] = ()) -> Call:
        call = Call(message=message, tensors=tensors, created_us=self.now_us, give_up_us=self.now_us + TIMEOUT_US)
        self.connection.open(call, self.now_us)
        return call

    def infer(self, bounds: Bounds | None = None) -> Call:
        spec = TensorSpec("float32", (1, 2, 2))
        message = Infer(VERSION, self.connection.new_id(), "toy", (spec,), bounds or Bounds())
        return self.open(message, (X.tobytes(),))

    def ping(self) -> Call:
        return self.open(Ping(VERSION, self.connection.new_id()))

    def sent(self) -> list[Frames]:
        """Everything there is to send, taken by the socket."""
        out = []
        while (frames := self.connection.outgoing(self.now_us)) is not None:
            self.connection.sent(self.now_us)
            out.append(frames)
        return out

    def lose(self) -> None:
        """What is said now reaches nobody."""
        self.sent()

    def deaf(self) -> None:
        """The daemon hears; what it replies reaches nobody."""
        for frames in self.sent():
            self.daemon.reply(self.peer, frames)

    def talk(self) -> list[object]:
        """Until neither has more to say; returns what the daemon read meanwhile."""
        heard_count = len(self.daemon.log)
        while out := self.sent():
            for reply in [self.daemon.reply(self.peer, frames) for frames in out]:
                if reply is not None:
                    self.connection.receive(reply, self.now_us)
        self.ended += self.connection.take_ended()
        return self.daemon.log[heard_count:]

    def passes(self, us: int) -> None:
        """Time goes by in ticks."""
        end_us = self.now_us + us
        while self.now_us < end_us:
            self.now_us = min(end_us, self.now_us + TICK_US)
            if self.now_us >= self.connection.wake_at_us:
                self.connection.tick(self.now_us)
