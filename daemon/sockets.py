"""Tenants' endpoints: one directory and one door each, and one doorkeeper for all.

Role: everything of ZeroMQ in the daemon but the sockets' own options (door.py): handshakes, messages in and out, and
when a door is shut, opened or not read for a while. Flow of a turn: `attend` where `wants` says so, then `receive`.
Does not: understand messages, or decide who may come in (rights.py).
"""

from __future__ import annotations

import select
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import zmq

from ..profiles.board import resident_bytes
from .config import Limits
from .descriptors import Descriptors, enough_for
from .door import Door, Place, user_of
from .guard import MemoryGuard
from .listener import Listener as Listener
from .listener import places
from .memory import give_back
from .rights import IPC, TCP, Rights, TenantConfig
from .socket_modes import EndpointError as EndpointError
from .zap import ADDRESS, Doorkeeper, Rejected

# A message has a header and at most one tensor; of more parts so many are kept, for the refusal. No operator's limit:
# what a message is, the wire format alone says.
PARTS_MAX = 4
# The first byte of a route: by which of a tenant's doors it came, and whether it is REQ's.
_KINDS = {IPC: (b"D", b"R"), TCP: (b"d", b"r"), "other tcp": (b"o", b"q")}
_SLOT = {kind: slot for slot, kinds in _KINDS.items() for kind in kinds}
# Two for tcp: while the daemon's key is changed, the old one and the next each have a port.
_SLOTS = {IPC: (IPC,), TCP: (TCP, "other tcp")}
_REQ = frozenset(kinds[1] for kinds in _KINDS.values())
# As plain numbers: pyzmq's flags are enums, and `&` or `|` of those takes a microsecond for every part of a message.
_POLLIN, _DONTWAIT, _SNDMORE = int(zmq.POLLIN), int(zmq.DONTWAIT), int(zmq.SNDMORE | zmq.DONTWAIT)
# Handshakes answered in one turn: 0.1 ms each (0.75 with CURVE, most of it the library's), so that requests go on.
HANDSHAKES_MAX = 8
# How often memory is looked at while somebody is connected, and how soon again once it grows.
LOOK_US, LOOK_AGAIN_US = 50_000, 5_000
REFRESH_US = 1_000_000
NEVER_US = 2**62


class Arrived(NamedTuple):
    """A message: the way back, who sent it (as its handshake was judged), and its frames."""

    route: bytes
    user: str
    frames: list[bytes | memoryview]


class Attended(NamedTuple):
    """What there is to do beside messages: lines to log, and (tenant, route) of users whose rights have ended.

    `rejected`: strangers who were turned away, for the audit log.
    """

    notes: list[str]
    lost: list[tuple[str, bytes]]
    rejected: list[Rejected]


class Endpoints:
    """All tenants' doors, bound."""

    def __init__(
        self,
        directory: Path,
        tenants: Sequence[TenantConfig],
        limits: Limits,
        rights: Rights,
        tcp: Listener | None = None,
    ) -> None:
        """Bind all. Raises EndpointError."""
        self._directory = directory
        self._limits = limits
        self._rights = rights
        # Of tcp, from the next `change` on.
        self.tcp = tcp
        self._context = zmq.Context(io_threads=1)
        # Each door is three sockets to the library: its own, and both ends of its monitor.
        self._context.set(zmq.MAX_SOCKETS, max(1023, 9 * limits.tenants_max + 16))
        self._doors: dict[tuple[str, str], Door] = {}
        self._by_socket: dict[object, Door] = {}
        self._poller: zmq.Poller | None = None
        self._paused: dict[str, int] = {}
        self._monitors = select.epoll()
        self._monitors_fd = self._monitors.fileno()
        self._by_monitor: dict[int, Door] = {}
        self._keeper = Doorkeeper(rights)
        self._to_give_back = False
        self._memory = MemoryGuard(limits.memory_growth_bytes_max)
        enough_for(sum(len(places(directory, tenant, tcp)) for tenant in tenants))
        self._descriptors = Descriptors(limits)
        self._due_us = self._refresh_us = self._look_us = 0
        self._generation = rights.generation
        # Before any door: without an answer nobody comes in.
        self._zap = self._context.socket(zmq.ROUTER)
        self._zap.linger = 0
        self._zap.bind(ADDRESS)
        # Its descriptor tells changes only, like a monitor's: what is left after a look is remembered.
        self._monitors.register(int(self._zap.getsockopt(zmq.FD)), select.EPOLLIN)
        self._zap_unread = True
        try:
            for tenant in tenants:
                self._open(tenant)
        except EndpointError:
            self.close()
            raise

    def allows(self, door: Door, user: str) -> bool:
        """Whether a message of this user that came by this door may be read; asked for every one."""
        if self._rights.allows(door.tenant, user):
            return True
        door.unwelcome_count += 1
        self._due_us = 0 if door.unwelcome_count >= self._limits.unwelcome_max else self._due_us
        return False

    def doors(self, ready: Iterable[object] | None = None) -> list[Door]:
        """All, or those that have something to read by what the poller found; of who is paused it finds nothing."""
        if ready is None:
            return list(self._doors.values())
        by_socket = self._by_socket
        return [by_socket[source] for source in ready if source in by_socket]

    def door(self, tenant: str, slot: str = IPC) -> Door:
        """One door. Raises KeyError: there is none."""
        return self._doors[tenant, slot]

    def notes(self) -> list[str]:
        """What the operator should know of how doors were bound; told once."""
        found = [note for door in self._doors.values() for note in door.notes]
        for door in self._doors.values():
            door.notes.clear()
        return found

    # ---- who may come in

    def watch(self, poller: zmq.Poller) -> None:
        """Have this poller wait for messages, handshakes and connections from now on."""
        self._poller = poller
        poller.register(self._monitors_fd, zmq.POLLIN)
        for door in self._doors.values():
            poller.register(door.socket, zmq.POLLIN)

    def change(self, tenants: Sequence[TenantConfig], limits: Limits, wall_s: float) -> None:
        """Serve these tenants from now on: open and close doors, keep those that stay with all their connections.

        Raises EndpointError: one cannot be bound; those new before it are open, all old ones still are.
        """
        self._limits = limits
        names = {tenant.name: tenant for tenant in tenants}
        for tenant in tenants:
            self._open(tenant)
        self._rights.change(tenants, wall_s)
        for (name, slot), door in list(self._doors.items()):
            stays = names.get(name)
            if stays is None or door.place not in places(self._directory, stays, self.tcp):
                self._shut_for_good(name, slot)
            else:
                door.change(stays, limits)
        enough_for(len(self._doors))
        self._descriptors.change(limits)
        self._due_us = 0

    def pause(self, tenant: str, until_us: int) -> None:
        """Read nothing from this tenant until then; what it sends waits in its own queues."""
        paused, self._paused[tenant] = tenant in self._paused, until_us
        if paused:
            return
        for door in self._of(tenant):
            if self._poller is not None:
                self._poller.unregister(door.socket)
        self._due_us = min(self._due_us, until_us)

    def wake_at(self) -> int:
        """When `attend` is due though nothing happens: within a second."""
        return self._due_us

    def wants(self, ready: Container[object], now_us: int) -> bool:
        """Whether to call `attend` in this turn; `ready`: what the poller found."""
        return now_us >= self._due_us or self._monitors_fd in ready

    def attend(self, now_us: int, wall_s: float) -> Attended:
        """Answer handshakes, count connections, shut and open doors, let keys begin and end."""
        notes: list[str] = []
        if now_us >= self._refresh_us:
            # First, for handshakes: a key may have ended while nobody was connected.
            self._rights.refresh(wall_s)
            self._refresh_us = now_us + REFRESH_US
        self._handshakes(now_us, notes)
        for fd, _ in self._monitors.poll(0):
            if fd in self._by_monitor:
                self._by_monitor[fd].unread = True
        doors = list(self._doors.values())
        notes += self._descriptors.look(now_us, sum([len(door.guard.fds) for door in doors]))
        for door in doors:
            _add(notes, door.attend(now_us) if door.unread else None)
            _add(notes, door.reopen(now_us, short=self._descriptors.short))
            if door.unwelcome_count >= self._limits.unwelcome_max and not door.guard.closed:
                # Theirs cannot be dropped alone; everybody else's is back at once, and theirs is denied.
                notes.append(door.shut(now_us, "somebody whose rights have ended goes on sending (unwelcome_max)"))
        while (total := sum([len(door.guard.fds) for door in doors])) > self._descriptors.connections_max():
            fullest = max(doors, key=lambda door: len(door.guard.fds))
            said = f"the most of {total} connections (connections_total_max, or what open files allow)"
            notes.append(fullest.shut(now_us, said))
        if now_us >= self._look_us:
            self._look(now_us, doors, notes)
        for tenant in [name for name, until_us in self._paused.items() if now_us >= until_us]:
            self._go_on(tenant)
        notes += self.notes()
        self._due_us = self._next_us(doors)
        return Attended(notes, self._lost(), self._keeper.take_rejected())

    # ---- messages

    def receive(self, door: Door, count_max: int) -> Iterator[Arrived]:
        """What has arrived at a door, at most `count_max` messages; tensors are not copied."""
        socket = door.socket
        dealer, req = _KINDS[door.slot]
        for position in range(count_max):
            # The first is there, the poller said so. Whether there are more is asked: that is cheaper than being told
            # by an exception, which every turn would end with.
            if position and not int(socket.getsockopt(zmq.EVENTS)) & _POLLIN:
                return
            try:
                identity = socket.recv(_DONTWAIT)
            except zmq.Again:
                return
            # What comes after an identity is there with it. The header is small and wanted as bytes.
            frame = socket.recv(copy=False)
            kind, header, more = dealer, frame.bytes, frame.more
            if more and not header:
                frame = socket.recv(copy=False)
                kind, header, more = req, frame.bytes, frame.more
            user = user_of(frame)
            frames: list[bytes | memoryview] = [header] if header or more else []
            while more:
                # A tensor may be large and is left where ZeroMQ put it.
                frame = socket.recv(copy=False)
                more = frame.more
                if len(frames) < PARTS_MAX:
                    frames.append(frame.buffer)
            route = kind + identity
            if door.heard_fds is not None:
                door.heard_fds.add(int(frame.get(zmq.SRCFD)))
            door.heard(route, user)
            yield Arrived(route, user, frames)

    def send(self, tenant: str, route: bytes, frames: Sequence[bytes | memoryview]) -> bool:
        """Hand a message to the socket; False when its reader is gone or too slow (the answer stays fetchable)."""
        kind = route[:1]
        door = self._doors.get((tenant, _SLOT[kind]))
        if door is None:
            return False
        socket = door.socket
        try:
            socket.send(route[1:], _SNDMORE)
            if kind in _REQ:
                socket.send(b"", _SNDMORE)
            for frame in frames[:-1]:
                socket.send(frame, _SNDMORE)
            socket.send(frames[-1], _DONTWAIT)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                if error.errno == zmq.EAGAIN:
                    door.untaken()
                return False
            raise
        return True

    def close(self) -> None:
        """Close all and remove their socket files; what was handed to ZeroMQ gets a second to leave."""
        for door in self._doors.values():
            door.close(linger_ms=1000)
        self._zap.close()
        self._monitors.close()
        self._context.term()
        for door in self._doors.values():
            door.forget()

    # ----

    def _open(self, tenant: TenantConfig) -> None:
        """Bind what this tenant has no door for yet."""
        wanted, doors = places(self._directory, tenant, self.tcp), self._of(tenant.name)
        for place in wanted:
            if place in [door.place for door in doors]:
                continue
            slot = self._free_slot(tenant.name, place, wanted)
            door = Door(self._context, tenant, place, self._limits)
            door.slot = slot
            self._doors[tenant.name, slot] = self._by_socket[door.socket] = door
            fd = int(door.monitor.getsockopt(zmq.FD))
            self._monitors.register(fd, select.EPOLLIN)
            self._by_monitor[fd] = door
            if self._poller is not None:
                self._poller.register(door.socket, zmq.POLLIN)

    def _free_slot(self, tenant: str, place: Place, wanted: Sequence[Place]) -> str:
        """For one more door; where all are taken, one that is wanted no more gives way to it."""
        slots = _SLOTS[place.transport]
        free = [slot for slot in slots if (tenant, slot) not in self._doors]
        if not free:
            free = [slot for slot in slots if self._doors[tenant, slot].place not in wanted]
            self._shut_for_good(tenant, free[0])
        return free[0]

    def _shut_for_good(self, tenant: str, slot: str) -> None:
        door = self._doors.pop((tenant, slot))
        del self._by_socket[door.socket]
        if self._poller is not None and tenant not in self._paused:
            self._poller.unregister(door.socket)
        if not self._of(tenant):
            self._paused.pop(tenant, None)
        fd = int(door.monitor.getsockopt(zmq.FD))
        self._monitors.unregister(fd)
        del self._by_monitor[fd]
        door.close(linger_ms=1000)
        door.forget()

    def _of(self, tenant: str) -> list[Door]:
        return [door for door in self._doors.values() if door.tenant == tenant]

    def _go_on(self, tenant: str) -> None:
        del self._paused[tenant]
        for door in self._of(tenant):
            if self._poller is not None:
                self._poller.register(door.socket, zmq.POLLIN)

    def _handshakes(self, now_us: int, notes: list[str]) -> None:
        self._zap_unread = True
        for _ in range(HANDSHAKES_MAX):
            try:
                frames = self._zap.recv_multipart(_DONTWAIT)
            except zmq.Again:
                self._zap_unread = False
                return
            reply, line = self._keeper.answer(now_us, frames)
            if reply is not None:
                self._zap.send_multipart(reply, _DONTWAIT)
            _add(notes, line)

    def _look(self, now_us: int, doors: Sequence[Door], notes: list[str]) -> None:
        """Is somebody sending a message without end? See guard.py."""
        self._look_us = now_us + LOOK_US
        if self._to_give_back:
            # The library has had time to free it.
            give_back()
            self._to_give_back = False
        resident = resident_bytes()
        if resident is None or not self._memory.grown(resident):
            for door in doors:
                door.heard_fds = None
            return
        self._look_us = now_us + LOOK_AGAIN_US
        by_name = {repr(door): door for door in doors}
        intakes = {name: door.look() for name, door in by_name.items()}
        said, suspects = "does not take its answers", self._memory.slow(intakes)
        if not suspects:
            said, suspects = "sends what is no whole message", self._memory.suspects(resident, intakes)
        said = f"memory grows (memory_growth_bytes_max) while it {said}"
        notes += [by_name[name].shut(now_us, said) for name in suspects]
        if suspects:
            self._look_us, self._to_give_back = now_us + LOOK_US, True

    def _lost(self) -> list[tuple[str, bytes]]:
        if self._generation == self._rights.generation:
            return []
        self._generation = self._rights.generation
        lost: list[tuple[str, bytes]] = []
        for door in self._doors.values():
            gone = [route for route, user in door.users.items() if not self._rights.allows(door.tenant, user)]
            for route in gone:
                del door.users[route]
                lost.append((door.tenant, route))
        return lost

    def _next_us(self, doors: Sequence[Door]) -> int:
        times = [door.guard.open_at_us for door in doors if door.guard.open_at_us is not None]
        times += [*self._paused.values(), self._descriptors.due_us]
        if self._zap_unread or any(door.unread for door in doors):
            return 0
        if self._to_give_back or any(door.guard.fds for door in doors):
            times.append(self._look_us)
            times.append(self._refresh_us)
        return min(times)


def _add(notes: list[str], line: str | None) -> None:
    if line is not None:
        notes.append(line)
