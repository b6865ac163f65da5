"""Tenants' endpoints: one directory, one ROUTER, one socket file each, in a runtime directory held by a lock.

Role: everything that touches ZeroMQ in the daemon, with the settings that were found to matter, and the lock file that
keeps a second daemon from stealing the sockets (binding an ipc path silently takes it over).
Does not: understand messages.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import zmq

from ..clients.places import endpoint_path
from ..clients.wire import HEADER_BYTES_MAX
from .config import Limits

# A message has a route, perhaps an empty delimiter (REQ), a header and at most one tensor; more parts are dropped.
PARTS_MAX = 4
_DEALER, _REQ = b"D", b"R"
# As plain numbers: pyzmq's flags are enums, and `&` or `|` of those takes a microsecond for every part of a message.
_POLLIN, _DONTWAIT, _SNDMORE = int(zmq.POLLIN), int(zmq.DONTWAIT), int(zmq.SNDMORE | zmq.DONTWAIT)


class AlreadyRunning(RuntimeError):
    """Another daemon holds this runtime directory."""


class EndpointError(RuntimeError):
    """A directory or socket cannot be made: which, why, what to do."""


class RuntimeLock:
    """Held from before the first bind until the process ends; the kernel lets go of it whatever happens."""

    def __init__(self, directory: Path) -> None:
        """Make the directory, owned and mode 0711 or stricter, and take its lock.

        Raises:
            AlreadyRunning: another process holds it. EndpointError: the directory cannot be used.
        """
        try:
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EndpointError(
                f"cannot use {directory}: {error.strerror}; name another with --runtime-dir or make it writable"
            ) from error
        if directory.stat().st_uid != os.getuid():
            os.close(self._fd)
            raise EndpointError(f"{directory} belongs to another user; name another with --runtime-dir")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise AlreadyRunning(
                f"another delen daemon runs in {directory}; stop it, or use another --runtime-dir"
            ) from error

    def release(self) -> None:
        os.close(self._fd)


class Endpoints:
    """All tenants' ROUTER sockets, bound."""

    def __init__(self, directory: Path, tenants: Sequence[str], limits: Limits) -> None:
        self._context = zmq.Context(io_threads=1)
        self._context.set(zmq.MAX_SOCKETS, max(1023, limits.tenants_max + 16))
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._paths = {tenant: endpoint_path(directory, tenant) for tenant in tenants}
        try:
            for tenant, path in self._paths.items():
                self._sockets[tenant] = self._bind(path, limits)
        except EndpointError:
            self.close()
            raise

    def sockets(self) -> dict[str, zmq.Socket[bytes]]:
        """Tenant to socket, for polling."""
        return self._sockets

    def receive(self, tenant: str, count_max: int) -> Iterator[tuple[bytes, list[bytes | memoryview]]]:
        """What has arrived for a tenant, at most `count_max` messages: route, and frames with the tensor not copied."""
        socket = self._sockets[tenant]
        for position in range(count_max):
            # The first is there, the poller said so. Whether there are more is asked: that is cheaper than being told
            # by an exception, which every turn would end with.
            if position and not int(socket.getsockopt(zmq.EVENTS)) & _POLLIN:
                return
            try:
                identity = socket.recv(_DONTWAIT)
            except zmq.Again:
                return
            # The header is small and wanted as bytes. What comes after an identity is there with it.
            header, kind, more = socket.recv(), _DEALER, socket.getsockopt(zmq.RCVMORE)
            if more and not header:
                header, kind, more = socket.recv(), _REQ, socket.getsockopt(zmq.RCVMORE)
            frames: list[bytes | memoryview] = [header] if header or more else []
            while more:
                # A tensor may be large and is left where ZeroMQ put it.
                frame = socket.recv(copy=False)
                more = frame.more
                if len(frames) < PARTS_MAX:
                    frames.append(frame.buffer)
            yield kind + identity, frames

    def send(self, tenant: str, route: bytes, frames: Sequence[bytes | memoryview]) -> bool:
        """Hand a message to the socket; False when its reader is gone or too slow (the answer stays fetchable)."""
        socket = self._sockets[tenant]
        try:
            socket.send(route[1:], _SNDMORE)
            if route[:1] == _REQ:
                socket.send(b"", _SNDMORE)
            for frame in frames[:-1]:
                socket.send(frame, _SNDMORE)
            socket.send(frames[-1], _DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def close(self) -> None:
        """Close all and remove their socket files; what was handed to ZeroMQ gets a second to leave."""
        for socket in self._sockets.values():
            socket.close(linger=1000)
        self._context.term()
        for tenant in self._sockets:
            self._paths[tenant].unlink(missing_ok=True)

    def _bind(self, path: Path, limits: Limits) -> zmq.Socket[bytes]:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The lock is held, so a socket file here is a dead daemon's; anything else is not ours to delete.
            if path.is_socket():
                path.unlink()
            elif path.exists() or path.is_symlink():
                raise EndpointError(f"{path} is in the way and no socket; move it away")
        except OSError as error:
            raise EndpointError(f"cannot make {path.parent}: {error.strerror}") from error
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.MAXMSGSIZE, limits.payload_bytes_max + HEADER_BYTES_MAX)
        socket.setsockopt(zmq.SNDHWM, limits.send_queue_max)
        socket.setsockopt(zmq.RCVHWM, limits.receive_count_max)
        socket.setsockopt(zmq.BACKLOG, limits.connections_backlog)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 2000)
        before = os.umask(0o177)
        try:
            socket.bind(f"ipc://{path}")
        except zmq.ZMQError as error:
            socket.close()
            raise EndpointError(f"cannot bind {path}: {error.strerror}") from error
        finally:
            os.umask(before)
        return socket
