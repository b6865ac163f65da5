"""Doors under attack, by real sockets: what is shut opens again, and nothing wedges or ends the front."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
import zmq

from delen.clients.key_text import key_text
from delen.clients.places import endpoint_path
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.guard import CLOSED_US_MIN
from delen.daemon.rights import TCP, PublicKey, Rights
from delen.daemon.sockets import LOOK_US, Endpoints, Listener

pytestmark = pytest.mark.e2e
SECRET = zmq.curve_keypair()[1]
# The other side of each socket works in a thread of its own; nothing here takes a second of it.
WAIT_MS = 10_000
CHURN = """
import socket, sys
from pathlib import Path
from delen.clients.places import endpoint_path
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.rights import Rights
from delen.daemon.sockets import Endpoints

folder, tenants = Path(sys.argv[1]), [TenantConfig("a")]
endpoints = Endpoints(folder, tenants, Limits(), Rights(tenants, own_uid=None, wall_s=0.0))
for _ in range(1500):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(str(endpoint_path(folder, "a")))
endpoints.close()
print("closed")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def made(folder: Path, tenant: TenantConfig, host: str = "", **limits: int) -> Endpoints:
    rights = Rights([tenant], own_uid=None, wall_s=0.0)
    return Endpoints(folder, [tenant], Limits(**limits), rights, Listener(host, SECRET) if host else None)


def attended(endpoints: Endpoints, now_us: int = 0) -> list[str]:
    """What is said at once, as in the loop's first turn, or else once connections or handshakes have come."""
    notes = endpoints.attend(now_us, 0.0).notes
    if notes:
        return notes
    poller = zmq.Poller()
    endpoints.watch(poller)
    assert poller.poll(WAIT_MS), "nothing comes"
    return endpoints.attend(now_us, 0.0).notes


@pytest.mark.parametrize("host", ["tcp://*", "tcp://localhost", "tcp://0.0.0.0", "tcp://127.0.0.1"])
def test_a_tcp_door_that_is_full_is_shut_and_opened_again_however_its_address_was_written(
    tmp_path: Path, host: str
) -> None:
    port = free_port()
    endpoints = made(tmp_path, TenantConfig("a", tcp_port=port), host, connections_max=1)
    # Anybody on the network may connect; only what comes after that needs a key.
    families = socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
    held, notes = [], list[str]()
    for _ in range(2):
        for family, kind, _, _, address in families:
            one = socket.socket(family, kind)
            if one.connect_ex(address):
                one.close()
            else:
                held.append(one)
    while not any("more than 1 connections" in note for note in notes):
        notes += attended(endpoints)
    for one in held:
        one.settimeout(WAIT_MS / 1000)
        while one.recv(64):
            pass
        one.close()
    endpoints.attend(CLOSED_US_MIN, 0.0)
    assert not endpoints.door("a", TCP).guard.closed
    endpoints.close()


def test_connections_from_before_it_was_shut_do_not_shut_it_twice(tmp_path: Path) -> None:
    endpoints = made(tmp_path, TenantConfig("a"), connections_max=2, connections_total_max=4)
    held = []
    for _ in range(20):
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(endpoint_path(tmp_path, "a")))
        held.append(one)
    door, notes = endpoints.door("a"), list[str]()
    while not notes:
        notes += attended(endpoints)
    for one in held:
        one.close()
    while door.monitor.poll(100):
        notes += endpoints.attend(0, 0.0).notes
    assert len(notes) == 1, notes
    assert door.guard.full_count == 1
    endpoints.close()


@pytest.mark.slow
def test_who_connects_and_leaves_without_end_cannot_wedge_the_front(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHURN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "closed\n", done.stderr


@pytest.fixture
def client() -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket_:
        socket_.linger = 0
        yield socket_


def test_who_goes_on_sending_without_rights_is_dropped(tmp_path: Path, client: zmq.Socket[bytes]) -> None:
    endpoints = made(tmp_path, TenantConfig("a", uids=(os.getuid(),)))
    client.connect(f"ipc://{endpoint_path(tmp_path, 'a')}")
    client.send(b"first")
    door = endpoints.door("a")
    while not door.socket.poll(10):
        endpoints.attend(0, 0.0)
    assert [endpoints.allows(door, one.user) for one in endpoints.receive(door, 1)] == [True]
    endpoints._rights.change([TenantConfig("a", uids=(os.getuid() + 1,))], 0.0)
    notes = list[str]()
    for _ in range(Limits().unwelcome_max):
        assert not notes, "not for one message that was on its way"
        client.send(b"more")
        assert door.socket.poll(WAIT_MS)
        assert [endpoints.allows(door, one.user) for one in endpoints.receive(door, 1)] == [False]
        if endpoints.wants({}, 1):
            notes += endpoints.attend(1, 0.0).notes
    assert len(notes) == 1
    assert "rights have ended" in notes[0]
    # It comes back, and this time it is not let in.
    notes = endpoints.attend(1 + CLOSED_US_MIN, 0.0).notes
    assert not door.guard.closed
    client.send(b"again")
    while not any("not its user" in note for note in notes):
        notes += attended(endpoints, 2 + CLOSED_US_MIN)
        # It may have been on its way before the connection was dropped, which waits until it is read.
        assert not any(endpoints.allows(door, one.user) for one in endpoints.receive(door, 1))
    endpoints.close()


def test_a_key_that_ended_while_nobody_was_connected_is_denied_at_once(
    tmp_path: Path, client: zmq.Socket[bytes]
) -> None:
    port, (public, secret) = free_port(), zmq.curve_keypair()
    key = PublicKey(public.decode(), not_after=datetime(2026, 1, 1, tzinfo=timezone.utc))
    endpoints = made(tmp_path, TenantConfig("a", keys=(key,), tcp_port=port), "tcp://127.0.0.1")
    wall_s = datetime(2026, 1, 2, tzinfo=timezone.utc).timestamp()
    client.curve_publickey, client.curve_secretkey = public, secret
    client.curve_serverkey = zmq.curve_public(SECRET)
    client.connect(f"tcp://127.0.0.1:{port}")
    notes = list[str]()
    assert endpoints._zap.poll(WAIT_MS)
    while not notes:
        notes += endpoints.attend(0, wall_s).notes
    assert "not valid now" in notes[0]
    assert endpoints._keeper.admitted == 0
    assert key_text(b"\1" * 32) not in notes[0]
    endpoints.close()


@pytest.mark.slow
def test_who_asks_and_never_reads_is_dropped_before_its_answers_fill_the_memory(
    tmp_path: Path, client: zmq.Socket[bytes]
) -> None:
    endpoints = made(tmp_path, TenantConfig("a", uids=(os.getuid(),)), memory_growth_bytes_max=8 * 1024**2)
    door, notes, now_us = endpoints.door("a"), list[str](), 0
    client.rcvhwm = 1
    client.connect(f"ipc://{endpoint_path(tmp_path, 'a')}")
    client.send(b"ask")
    while not door.socket.poll(10):
        endpoints.attend(now_us, 0.0)
    (asked,) = endpoints.receive(door, 1)
    sent = 0
    while not notes:
        # Of 1,024 that the library would keep: 64 MB for one connection, and a tenant may have 256.
        sent += endpoints.send("a", asked.route, [b"header", bytes(64 * 1024)])
        now_us += LOOK_US
        notes += endpoints.attend(now_us, 0.0).notes
        assert sent < 512, "still kept"
    assert "does not take its answers" in notes[0]
    endpoints.close()
