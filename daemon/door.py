"""One endpoint of one tenant: a bound ROUTER that admits only who the handshake names, and its connection guard.

Role: options, modes and binding of an ipc or a tcp socket; events of its connections; closing and opening it again.
Flow: `bind` -> `attend` when its monitor has something -> `shut` at the cap, `look` at times. Does not: read messages
(sockets.py), decide who may come in (rights.py) or how many (guard.py).
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
import termios
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import zmq

from ..clients.wire import HEADER_BYTES_MAX
from .config import Limits
from .guard import ConnectionGuard, Intake
from .rights import IPC, TCP, TenantConfig, domain_of
from .socket_modes import EndpointError, let_in, prepare

# Over tcp nobody says that a peer's machine has lost power. Not in Limits: they refuse nobody who lives.
HEARTBEAT_MS, HEARTBEAT_MS_MAX = 2_000, 6_000
# Monitor events taken in at a time: with more there is an attack, and the cap is reached long before.
EVENTS_MAX = 256
# Sent, and not taken by the other side: more than answers on their way.
UNREAD_BYTES = 16 * 1024
_WATCHED = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_DONTWAIT = int(zmq.DONTWAIT)
# zmq_socket_monitor(3): the event and its value, a descriptor here. `zmq.utils.monitor` reads it with all of asyncio.
_EVENT = struct.Struct("=HI")


class Place(NamedTuple):
    """Where a tenant's door is: a path for ipc, or `tcp://host:port` with the daemon's secret key."""

    transport: str
    address: str
    secret_key: bytes = b""


class Door:
    """A tenant's bound socket."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], tenant: TenantConfig, place: Place, limits: Limits):
        """Make and bind it. Raises EndpointError. `notes` then has what the operator should know."""
        self.tenant = tenant.name
        self.transport = place.transport
        # By which of its tenant's doors it is told apart from the others: there may be two for tcp.
        self.slot = place.transport
        self.notes: list[str] = []
        # Descriptors of connections heard from since the last look; None while nobody looks.
        self.heard_fds: set[int] | None = None
        # Messages of users whose rights have ended, since this was bound.
        self.unwelcome_count = 0
        # Whether the monitor may have more than was taken in; its descriptor tells changes only.
        self.unread = True
        self._tenant = tenant
        self.place = place
        self._routes_max = limits.session_routes_max * limits.sessions_max
        cap = min(limits.connections_max, tenant.connections_max or limits.connections_max)
        self.guard = ConnectionGuard(cap)
        # Who last spoke on which route, to know whom to take leave of when rights end.
        self.users: OrderedDict[bytes, str] = OrderedDict()
        # What the library has made of the address, which alone it knows when that is to be given up.
        self._bound = b""
        try:
            self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
            self.monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        except zmq.ZMQError as error:
            raise EndpointError(f"cannot make a socket for {self!r}: {error.strerror}; raise LimitNOFILE") from error
        self._set_up(limits)
        self._set_up_monitor()
        try:
            self.bind()
        except EndpointError:
            self.close(linger_ms=0)
            raise

    def __repr__(self) -> str:
        return f"{self.slot} endpoint of {self.tenant}"

    def bind(self) -> None:
        """Let connections in, now or again."""
        if self.transport == IPC:
            self._bind_path(Path(self.place.address))
            return
        try:
            self.socket.bind(self.place.address)
        except zmq.ZMQError as error:
            hint = "another program has the port, or this machine no such address"
            raise EndpointError(f"cannot bind {self.place.address}: {error.strerror}; {hint}") from error
        self._bound = bytes(self.socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0")

    def change(self, tenant: TenantConfig, limits: Limits) -> None:
        """Go on with other rights: who may reach the socket file, and how many."""
        self._tenant = tenant
        self.guard.connections_max = min(limits.connections_max, tenant.connections_max or limits.connections_max)
        self.socket.setsockopt(zmq.MAXMSGSIZE, _message_bytes_max(tenant, limits))
        if self.transport == IPC and not self.guard.closed:
            self._let_in(Path(self.place.address))

    def heard(self, route: bytes, user: str) -> None:
        """Note who speaks on a route."""
        if self.users.get(route) != user:
            self.users[route] = user
            if len(self.users) > self._routes_max:
                self.users.popitem(last=False)

    def attend(self, now_us: int) -> str | None:
        """Take in what happened to connections; a line to log when that was too much and the door was shut."""
        guard = self.guard
        for _ in range(EVENTS_MAX):
            try:
                kind, fd = _EVENT.unpack(self.monitor.recv_multipart(_DONTWAIT)[0])
            except zmq.Again:
                self.unread = False
                return None
            if kind == zmq.EVENT_DISCONNECTED:
                guard.gone(fd)
            elif guard.accepted(fd):
                return self.shut(now_us, f"more than {guard.connections_max} connections (connections_max)")
        return None

    def shut(self, now_us: int, reason: str) -> str:
        """Drop all connections of this endpoint and take no new ones for a while; returns a line to log."""
        for_ms = self.guard.close(now_us) // 1000
        self.socket.unbind(self._bound)
        self.unwelcome_count = 0
        return f"{self!r}: {reason}; closed for {for_ms} ms, other tenants are not concerned"

    def reopen(self, now_us: int, *, short: bool = False) -> str | None:
        """Bind again when that is due; a line to log where it cannot be done, and it is tried again later.

        `short` of descriptors: let nobody in for a while, and drop who is here, which frees some.
        """
        if short:
            if not self.guard.closed:
                self.shut(now_us, "")
            self.guard.wait(now_us)
        if not self.guard.due(now_us):
            return None
        try:
            self.bind()
        except EndpointError as error:
            for_ms = self.guard.close(now_us) // 1000
            return f"{self!r}: {error}; tried again in {for_ms} ms"
        self.guard.opened(now_us)
        return None

    def untaken(self) -> None:
        """Somebody has too many answers waiting to be read, so the next is dropped; the operator is told."""
        said = f"{self!r}: a reader is too slow, its answers are dropped (send_queue_max); they can be fetched"
        if said not in self.notes:
            self.notes.append(said)

    def look(self) -> Intake:
        """Who has bytes to read, who was heard since the last look, and who does not read; two system calls each."""
        heard, self.heard_fds = self.heard_fds or set(), set()
        busy = {fd for fd in self.guard.fds if _waiting_bytes(fd, termios.FIONREAD)}
        unread = {fd for fd in self.guard.fds if _waiting_bytes(fd, termios.TIOCOUTQ) >= UNREAD_BYTES}
        return Intake(busy, heard, unread)

    def close(self, linger_ms: int) -> None:
        """Close for good; what was handed to ZeroMQ gets so long to leave."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=linger_ms)

    def forget(self) -> None:
        """Remove the socket file, once the socket is gone."""
        if self.transport == IPC:
            Path(self.place.address).unlink(missing_ok=True)

    # ----

    def _set_up(self, limits: Limits) -> None:
        socket, tenant = self.socket, self._tenant
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.ROUTER_HANDOVER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, _message_bytes_max(tenant, limits))
        socket.setsockopt(zmq.SNDHWM, limits.send_queue_max)
        socket.setsockopt(zmq.RCVHWM, limits.receive_count_max)
        socket.setsockopt(zmq.BACKLOG, limits.connections_backlog)
        socket.setsockopt(zmq.HANDSHAKE_IVL, limits.handshake_ms_max)
        # Without the second a missing handler would let everybody in.
        socket.setsockopt(zmq.ZAP_DOMAIN, domain_of(tenant.name, self.transport).encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        if self.transport == TCP:
            socket.setsockopt(zmq.CURVE_SERVER, 1)
            socket.setsockopt(zmq.CURVE_SECRETKEY, self.place.secret_key)
            socket.setsockopt(zmq.IPV6, 1)
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_MS_MAX)

    def _set_up_monitor(self) -> None:
        # Before binding, so that no connection is missed. Without a limit of its own: a monitor that is full stops the
        # library's thread, for all tenants, with a lock in its hand that binding and closing here would wait for. Who
        # connects and leaves without end fills the library's 2,000 in a turn of 60 ms.
        self.monitor.linger, self.monitor.rcvhwm = 0, 0
        address = f"inproc://door-{int(self.socket.getsockopt(zmq.FD))}"
        self.socket.monitor(address, _WATCHED)
        self.monitor.connect(address)

    def _bind_path(self, path: Path) -> None:
        before = os.umask(prepare(path))
        try:
            self.socket.bind(f"ipc://{path}")
        except zmq.ZMQError as error:
            raise EndpointError(f"cannot bind {path}: {error.strerror}") from error
        finally:
            os.umask(before)
        self._bound = f"ipc://{path}".encode()
        self._let_in(path)

    def _let_in(self, path: Path) -> None:
        note = let_in(path, self._tenant.uids)
        if note is not None and note not in self.notes:
            self.notes.append(note)


def _message_bytes_max(tenant: TenantConfig, limits: Limits) -> int:
    """Of one frame; beyond it the library drops the connection."""
    return payload_bytes_max(tenant, limits) + HEADER_BYTES_MAX


def payload_bytes_max(tenant: TenantConfig, limits: Limits) -> int:
    """The largest tensor this tenant may send."""
    return min(limits.payload_bytes_max, tenant.payload_bytes_max or limits.payload_bytes_max)


def _waiting_bytes(fd: int, way: int) -> int:
    """How much waits to be read (FIONREAD), or was sent and is not yet taken (TIOCOUTQ); 0 where it was closed."""
    count = array.array("i", [0])
    try:
        fcntl.ioctl(fd, way, count)
    except OSError:
        return 0
    return count[0]


def user_of(frame: zmq.Frame) -> str:
    """Who sent a frame: what the handshake named them. "" where no handshake did, which then is nobody."""
    try:
        return str(frame.get("User-Id"))
    except zmq.ZMQError:
        return ""
