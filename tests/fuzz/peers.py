"""Raw connections by the ten thousand: each says its bytes, is kept for a little while, and is hung up.

Role: `Peers` is a ring of open sockets, so that the daemon has time to read what each of them said before it goes, and
few are open at a time. Who has more to say once it is answered waits for that, and so no more of them wait than a door
has room for. Over tcp they are reset, so that none is left waiting for its port. Does not: judge.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from delen.tests.fuzz.curve import Curve
    from delen.tests.fuzz.zmtp import Conversation

# So many connections are open at a time, well below any cap of delen's; and so many wait to be let in, fewer than the
# listener's queue holds: beyond it the system drops connections over tcp, and tries again after a second.
RING, HALF = 40, 12
# A connection that cannot be made at once: the listener's queue is full, and it is the daemon's turn.
WAIT_S_MAX = 20
RECEIVE_BYTES = 4096
# What everybody gets; READY comes after it, to those who are let in.
GREETING_BYTES = 64
READY = b"\5READY"
Address: TypeAlias = "str | tuple[str, int]"


class Said(NamedTuple):
    """What to say now, and what after the daemon's answer to it; None: nothing more."""

    data: bytes
    then: Next | None = None


# What to say next, of what was heard in answer so far; None: not yet.
Next: TypeAlias = Callable[[bytes], Said | None]


class Peers:
    """Connections to one endpoint: a path, or host and port."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._open: deque[socket.socket] = deque()
        self._half: deque[tuple[socket.socket, Next]] = deque()
        self.count = self.answered = self.refused = 0

    def say(self, said: Conversation) -> None:
        """Connect, say it, and stay for a while."""
        then = said.then
        self._begin(said.opening, None if then is None else lambda heard: _let_in(heard, then))

    def close(self) -> None:
        """Hang up all."""
        while self._half:
            self._go_on(*self._half.popleft())
        while self._open:
            self._hang_up(self._open.popleft())

    def _begin(self, opening: bytes, then: Next | None) -> None:
        made = self._connect()
        self.count += 1
        _send(made, opening)
        self._wait(made, then)

    def _wait(self, made: socket.socket, then: Next | None) -> None:
        if then is None:
            self._keep(made)
            return
        self._half.append((made, then))
        if len(self._half) > HALF:
            self._go_on(*self._half.popleft())

    def _connect(self) -> socket.socket:
        made = socket.socket(socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET)
        if not isinstance(self._address, str):
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Not `settimeout`, with which a full queue is an error at once.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", WAIT_S_MAX, 0))
        made.connect(self._address)
        made.setblocking(False)
        return made

    def _go_on(self, made: socket.socket, then: Next) -> None:
        """Its opening was good, so the daemon answers; what it says then depends on that."""
        made.settimeout(WAIT_S_MAX)
        heard = b""
        while (said := then(heard)) is None:
            try:
                piece = made.recv(RECEIVE_BYTES)
            except ConnectionError:
                piece = b""
            if not piece:
                self.refused += 1
                made.close()
                return
            heard += piece
        self.answered += 1
        made.setblocking(False)
        _send(made, said.data)
        self._wait(made, said.then)

    def _keep(self, made: socket.socket) -> None:
        self._open.append(made)
        if len(self._open) > RING:
            self._hang_up(self._open.popleft())

    def _hang_up(self, made: socket.socket) -> None:
        try:
            self.refused += not made.recv(RECEIVE_BYTES)
        except BlockingIOError:
            pass
        except ConnectionError:
            self.refused += 1
        made.close()


class CurvePeers(Peers):
    """Connections that speak CurveZMQ: those whose opening was good say the second half, too."""

    def __init__(self, address: Address, curve: Curve, draw: Random) -> None:
        super().__init__(address)
        self._curve, self._draw = curve, draw

    def one(self) -> None:
        """One more connection; the one that has waited longest goes on."""
        said, good = self._curve.opening(self._draw)
        self._begin(said, self._next if good else None)

    def _next(self, heard: bytes) -> Said | None:
        welcome = self._curve.welcome(heard)
        if welcome is None:
            return None
        said, messages = self._curve.closing(self._draw, welcome)
        # The library takes no message before it has said READY.
        return Said(said, None if messages is None else lambda heard: Said(messages) if READY in heard else None)


def _let_in(heard: bytes, then: bytes) -> Said | None:
    return Said(then) if len(heard) > GREETING_BYTES else None


def _send(made: socket.socket, data: bytes) -> None:
    """As far as the other side takes it."""
    with suppress(BlockingIOError, ConnectionError):
        made.send(data)
