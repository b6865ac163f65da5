"""What front and worker say to each other, and the socket they say it over.

Role: msgspec structs, one per packet, over an AF_UNIX SOCK_SEQPACKET pair; the arena's descriptor travels beside its
message. Packets keep their borders, so there is no framing to get wrong, and no pickle anywhere.
Does not: carry tensors (the arena does), or decide anything.
"""

from __future__ import annotations

import array
import socket
from typing import TypeAlias

import msgspec

from ..policies.view import Run
from ..profiles.schema import Device
from .arena import Need
from .records import ExitDone, RunFailed, RunReturned

# A packet holds one message; a profile is the largest at about 20 KB.
PACKET_BYTES_MAX = 160 * 1024


class _Message(msgspec.Struct, frozen=True, array_like=True):
    pass


# ---- front to worker


class Begin(_Message, frozen=True, tag="begin"):
    """To a worker that the front did not start: what it would have been started with. Beside it comes a pipe's end."""

    engine: str
    device: str
    threads: int
    spin_us: int


class Attach(_Message, frozen=True, tag="attach"):
    """Map the arena whose descriptor comes with this packet."""

    size: int


class Load(_Message, frozen=True, tag="load"):
    """Load a bundle that must have this digest; `profile`: a file to replay, for the replay engine.

    `temperatures`: of its exits where a user's own calibration has others than its manifest; else none.
    """

    name: str
    directory: str
    digest: str
    batch_max: int
    need: Need
    profile: str
    temperatures: tuple[float, ...] = ()


class Measure(_Message, frozen=True, tag="measure"):
    """Take a quick profile of a loaded network. `meter`: as in the configuration."""

    name: str
    watts: float | None
    meter: str = "auto"


class Post(_Message, frozen=True, tag="post"):
    """Run this, after what was posted before it; its inputs lie in the arena. `drop`: first, as `Drop`."""

    run: Run
    drop: tuple[int, ...] = ()


class Drop(_Message, frozen=True, tag="drop"):
    """Features of these requests are not needed any more; sent on its own where no run comes that could say so."""

    tickets: tuple[int, ...]


# ---- worker to front


class Up(_Message, frozen=True, tag="up"):
    """The worker runs: which engine on which device."""

    device: Device


class Loaded(_Message, frozen=True, tag="loaded"):
    """A network is loaded and warmed up."""

    name: str


class Measured(_Message, frozen=True, tag="measured"):
    """A quick profile, as JSON."""

    name: str
    profile: bytes


class Failed(_Message, frozen=True, tag="failed"):
    """A network cannot be loaded or measured, and why."""

    name: str
    kind: str
    message: str


ToWorker: TypeAlias = Begin | Attach | Load | Measure | Post | Drop
ToFront: TypeAlias = Up | Loaded | Measured | Failed | ExitDone | RunFailed | RunReturned

# Room for the one descriptor that may travel beside a message.
_FD_SPACE = socket.CMSG_SPACE(array.array("i").itemsize)

_encode = msgspec.msgpack.Encoder().encode
_decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
_decode_to_front = msgspec.msgpack.Decoder(ToFront).decode


class PipeClosed(Exception):
    """The other side is gone."""


class Pipe:
    """One end of the socket pair."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        # One buffer for all packets: a fresh one this large for every message costs more than the message.
        self._buffer = bytearray(PACKET_BYTES_MAX)
        self._view = memoryview(self._buffer)

    @staticmethod
    def pair() -> tuple[Pipe, socket.socket]:
        """A pipe for this process, and the bare socket that a worker inherits."""
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (here, there):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PACKET_BYTES_MAX)
        # The front never waits for a worker, not even to tell it something.
        here.setblocking(False)
        return Pipe(here), there

    @staticmethod
    def of(end: socket.socket) -> Pipe:
        """The front's end of a connection that a worker made."""
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PACKET_BYTES_MAX)
        end.setblocking(False)
        return Pipe(end)

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: ToWorker | ToFront, fd: int | None = None) -> None:
        """Send one message, with a descriptor or without.

        Raises:
            PipeClosed: the other side is gone, or (at the front) has read nothing for so long that it is as good as.
        """
        packet = _encode(message)
        try:
            if fd is None:
                self._end.send(packet)
            else:
                self._end.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        except (BrokenPipeError, ConnectionResetError, BlockingIOError) as error:
            raise PipeClosed from error

    def receive_attach(self) -> tuple[Attach, int]:
        """Wait for the front's message about its memory; returns it and the descriptor beside it. Raises PipeClosed."""
        message, fd = self.receive_with_fd()
        assert isinstance(message, Attach)
        return message, fd

    def receive_with_fd(self) -> tuple[ToWorker, int]:
        """Wait for a message that a descriptor comes with. Raises PipeClosed."""
        try:
            size, beside, _, _ = self._end.recvmsg_into([self._buffer], _FD_SPACE)
        except ConnectionResetError as error:
            raise PipeClosed from error
        if not size:
            raise PipeClosed
        message: ToWorker = _decode_to_worker(self._view[:size])
        [(level, kind, data)] = beside
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        return message, array.array("i", data)[0]

    def receive_at_worker(self, flags: int = 0) -> ToWorker:
        """Wait for the front's next message; no descriptor is taken in.

        Raises:
            PipeClosed: the front is gone. BlockingIOError: with MSG_DONTWAIT, when there is no message yet.
        """
        try:
            size = self._end.recv_into(self._buffer, 0, flags)
        except ConnectionResetError as error:
            raise PipeClosed from error
        if not size:
            raise PipeClosed
        message: ToWorker = _decode_to_worker(self._view[:size])
        return message

    def receive_at_front(self) -> ToFront | None:
        """The worker's next message, or None when there is none yet.

        Raises:
            PipeClosed: the worker is gone, or sent what is no message (it is not trusted to be sane).
        """
        try:
            size = self._receive_size()
        except BlockingIOError:
            return None
        except ConnectionResetError as error:
            raise PipeClosed from error
        if not size:
            raise PipeClosed
        try:
            message: ToFront = _decode_to_front(self._view[:size])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PipeClosed from error
        return message

    def _receive_size(self) -> int:
        """Bytes of the next packet. A worker that died with messages of ours unread resets the pipe: said once, before
        its own last words, which are still there to be read and say why it died.
        """
        try:
            return self._end.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            return self._end.recv_into(self._buffer, 0, socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._end.close()
