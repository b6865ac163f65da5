"""Attacks on one tenant's endpoint by raw sockets: the process lives, its memory comes back, and the other is served.

Each attacker is a process of its own. What is asserted are orders of magnitude; the library without guards aborts at
the limit on descriptors, or takes two bytes for every byte of a message that never ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from delen.clients.places import endpoint_path
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.rights import Rights
from delen.daemon.sockets import Endpoints
from delen.profiles.board import resident_bytes

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Nothing here takes three seconds; a shared machine may stand still for longer than that.
WAIT_S_MAX = 60.0
MB = 1024**2
CONNECT = """
import socket, sys, time
def connected():
    made = socket.socket(socket.AF_UNIX)
    made.connect(sys.argv[1])
    return made
def handshaken():
    made = connected()
    made.sendall(b"\\xff" + b"\\0" * 8 + b"\\x7f\\x03\\0NULL" + b"\\0" * 48)
    body = b"\\x05READY\\x0bSocket-Type\\0\\0\\0\\x06DEALER\\x08Identity\\0\\0\\0\\0"
    stream = made.makefile("rb")
    stream.read(64)
    made.sendall(b"\\x04" + bytes([len(body)]) + body)
    stream.read(stream.read(2)[1])
    return made
def until(s):
    end = time.monotonic() + s
    while time.monotonic() < end:
        yield
"""
FLOOD = """
held = []
for _ in until(1.5):
    try:
        held.append(connected())
    except OSError:
        time.sleep(0.001)
    if len(held) > 400:
        held.clear()
"""
SILENT = """
held = [connected() for _ in range(40)]
print(len(held), flush=True)
held[-1].recv(1)
"""
ENDLESS = """
frame = b"\\x03" + (65536).to_bytes(8, "big") + b"x" * 65536
for _ in until(1.5):
    try:
        made = handshaken()
        for _ in until(1.5):
            made.sendall(frame)
    except (OSError, IndexError):
        time.sleep(0.01)
"""
HALF = """
for _ in range(200):
    made = handshaken()
    made.sendall(b"\\x01\\x06header" + b"\\x03" + (65536).to_bytes(8, "big") + b"x" * 65536)
    made.close()
"""
LARGE = """
made = handshaken()
made.sendall(b"\\x02" + (2**40).to_bytes(8, "big") + b"x" * 1000)
print(made.recv(1) == b"", flush=True)
"""


class Front:
    """The doors of tenants a and b, answering every message with its own frames, without the rest of a daemon."""

    def __init__(self, folder: Path, **limits: int) -> None:
        self.folder = folder
        tenants = [TenantConfig(name, uids=(os.getuid(),)) for name in "ab"]
        rights = Rights(tenants, own_uid=None, wall_s=time.time())
        self.endpoints = Endpoints(folder, tenants, Limits(**limits), rights)
        self.poller = zmq.Poller()
        self.endpoints.watch(self.poller)
        self.notes: list[str] = []
        self.heard = {"a": 0, "b": 0}
        self.resident_max = self.fds_max = 0

    def turn(self) -> None:
        ready = dict(self.poller.poll(5))
        now_us = time.monotonic_ns() // 1000
        if self.endpoints.wants(ready, now_us):
            self.notes += self.endpoints.attend(now_us, time.time()).notes
            self.resident_max = max(self.resident_max, resident_bytes() or 0)
            self.fds_max = max(self.fds_max, len(self.endpoints.door("a").guard.fds))
        for door in self.endpoints.doors(ready):
            for route, _, frames in self.endpoints.receive(door, 16):
                self.heard[door.tenant] += 1
                self.endpoints.send(door.tenant, route, frames)


@pytest.fixture
def client() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.linger = 0
        yield made


def attacked(front: Front, attack: str, client: zmq.Socket[bytes], tenant: str = "b") -> int:
    """Turn while the attacker is at work on a; how often `tenant` was answered meanwhile, one question at a time."""
    path = str(endpoint_path(front.folder, "a"))
    client.connect(f"ipc://{endpoint_path(front.folder, tenant)}")
    answered = 0
    client.send(b"?")
    with subprocess.Popen([sys.executable, "-c", CONNECT + attack, path]) as attacker:
        try:
            give_up_s = time.monotonic() + WAIT_S_MAX
            while attacker.poll() is None:
                front.turn()
                if client.poll(0):
                    client.recv()
                    answered += 1
                    client.send(b"?")
                assert time.monotonic() < give_up_s, "the attacker does not come to an end"
        finally:
            attacker.kill()
    return answered


def served(front: Front, client: zmq.Socket[bytes], tenant: str) -> bool:
    """Whether a tenant is answered in the end."""
    client.connect(f"ipc://{endpoint_path(front.folder, tenant)}")
    client.send(b"?")
    give_up_s = time.monotonic() + WAIT_S_MAX
    while time.monotonic() < give_up_s:
        front.turn()
        if client.poll(0):
            return True
    return False


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    made = Front(tmp_path, connections_max=100)
    yield made
    made.endpoints.close()


def test_a_flood_of_connections_shuts_its_own_door_only(
    front: Front, client: zmq.Socket[bytes], tmp_path: Path
) -> None:
    answered = attacked(front, FLOOD, client)
    assert any("connections_max" in note for note in front.notes), "the flood never reached the cap"
    # The events of what was accepted before the door was shut come after it.
    assert front.fds_max < 400
    assert answered > 100
    assert front.endpoints.door("b").guard.full_count == 0
    with zmq.Context() as context, context.socket(zmq.DEALER) as other:
        other.linger = 0
        assert served(front, other, "a"), "the door opens again"


def test_connections_of_all_tenants_together_have_a_cap(tmp_path: Path, client: zmq.Socket[bytes]) -> None:
    front = Front(tmp_path, connections_total_max=20)
    silent = subprocess.Popen(
        [sys.executable, "-c", CONNECT + SILENT, str(endpoint_path(tmp_path, "a"))], stdout=subprocess.PIPE
    )
    with silent:
        give_up_s = time.monotonic() + WAIT_S_MAX
        while not front.notes and time.monotonic() < give_up_s:
            front.turn()
        assert "connections_total_max" in front.notes[0]
        assert "endpoint of a" in front.notes[0]
        assert served(front, client, "b")
        silent.kill()
    front.endpoints.close()


def test_a_silent_connection_is_dropped_with_its_handshake_overdue(front: Front, client: zmq.Socket[bytes]) -> None:
    attacked(front, "made = connected()\nmade.recv(1000)\nassert made.recv(1) == b''\n", client)
    assert not front.endpoints.door("a").guard.fds


def test_a_message_without_end_is_cut_and_its_memory_comes_back(front: Front, client: zmq.Socket[bytes]) -> None:
    before = resident_bytes()
    assert before is not None
    answered = attacked(front, ENDLESS, client)
    assert any("memory grows" in note for note in front.notes)
    assert front.resident_max - before < 400 * MB, "without the guard, 1.5 s of this take over 2 GB"
    assert answered > 50
    give_up_s = time.monotonic() + WAIT_S_MAX
    while (resident_bytes() or 0) - before > 24 * MB:
        front.turn()
        assert time.monotonic() < give_up_s, f"{((resident_bytes() or 0) - before) / MB:.0f} MB are not given back"
    assert front.heard["a"] == 0


def test_half_a_message_never_arrives_and_leaves_nothing_behind(front: Front, client: zmq.Socket[bytes]) -> None:
    before = resident_bytes()
    assert before is not None
    attacked(front, HALF, client)
    for _ in range(50):
        front.turn()
    assert front.heard["a"] == 0
    assert not front.endpoints.door("a").guard.fds
    assert (resident_bytes() or 0) - before < 24 * MB


def test_a_frame_larger_than_allowed_costs_its_sender_the_connection(front: Front, client: zmq.Socket[bytes]) -> None:
    assert attacked(front, LARGE, client) > 0
    assert front.heard["a"] == 0
    assert not front.endpoints.door("a").guard.fds


def test_whoever_takes_a_route_of_another_gets_nothing_of_theirs(
    front: Front, client: zmq.Socket[bytes], tmp_path: Path
) -> None:
    """Routes are names that clients choose; the first keeps it, and the second is not heard."""
    client.setsockopt(zmq.ROUTING_ID, b"chosen")
    assert served(front, client, "a")
    client.recv()
    heard = front.heard["a"]
    with zmq.Context() as context, context.socket(zmq.DEALER) as thief:
        thief.linger = 0
        thief.setsockopt(zmq.ROUTING_ID, b"chosen")
        thief.connect(f"ipc://{endpoint_path(tmp_path, 'a')}")
        thief.send(b"mine")
        for _ in range(40):
            front.turn()
        assert front.heard["a"] == heard
        client.send(b"still mine")
        for _ in range(40):
            front.turn()
        assert client.poll(0)
        assert not thief.poll(0)
