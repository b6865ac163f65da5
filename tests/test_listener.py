"""Where tenants are served over tcp while the daemon's key is changed: two ports, and what becomes of connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from delen.clients.keys import KeyFile, Pair, key_text_of, write_secret
from delen.daemon.config import Config, Limits
from delen.daemon.listener import Listener, listener_of, places, renewed
from delen.daemon.rights import PublicKey, Rights, TenantConfig, rights_fault
from delen.daemon.server_key import NEXT_NAME, SECRET_NAME
from delen.daemon.sockets import Endpoints
from delen.daemon.toml_file import ConfigError

HOST = "tcp://127.0.0.1"


def pair() -> Pair:
    public, secret = zmq.curve_keypair()
    return Pair(public.decode(), secret.decode())


OLD, NEW, THIRD, MINE = pair(), pair(), pair(), pair()


def listener(now: Pair, upcoming: Pair | None = None) -> Listener:
    return Listener(HOST, now.secret.encode(), b"" if upcoming is None else upcoming.secret.encode())


def test_the_next_key_is_shown_at_a_port_of_its_own_where_there_are_both() -> None:
    tenant = TenantConfig("a", tcp_port=5701, next_tcp_port=5702)

    def addresses(tcp: Listener | None, of: TenantConfig = tenant) -> list[tuple[str, bytes]]:
        return [(place.address, place.secret_key) for place in places(Path("/run"), of, tcp)[1:]]

    first, second = (f"{HOST}:5701", OLD.secret.encode()), (f"{HOST}:5702", NEW.secret.encode())
    assert addresses(None) == []
    assert addresses(listener(OLD)) == [first]
    assert addresses(listener(OLD, NEW)) == [first, second]
    assert addresses(listener(OLD, NEW), TenantConfig("a", tcp_port=5701)) == [first]


def configured(folder: Path, now: Pair, upcoming: Pair | None = None, tcp: str = HOST) -> Config:
    for name, key in ((SECRET_NAME, now), (NEXT_NAME, upcoming)):
        (folder / name).unlink(missing_ok=True)
        if key is not None:
            write_secret(folder / name, key_text_of(KeyFile(None, None, None, key)))
    return Config(tcp=tcp, server_key_file=str(folder / SECRET_NAME))


def test_a_reload_takes_the_keys_that_were_announced_and_no_others(tmp_path: Path) -> None:
    before = listener_of(configured(tmp_path, OLD))
    assert before == listener(OLD)
    both = renewed(before, configured(tmp_path, OLD, NEW))
    assert both == listener(OLD, NEW)
    assert renewed(both, configured(tmp_path, NEW)) == listener(NEW)
    with pytest.raises(ConfigError, match="rotate-server"):
        renewed(before, configured(tmp_path, THIRD))
    # Whether there is tcp, and where, waits for a restart.
    assert renewed(None, configured(tmp_path, OLD)) is None
    assert renewed(before, configured(tmp_path, OLD, tcp="")) == before
    assert renewed(before, configured(tmp_path, OLD, tcp="tcp://*")) == before


def test_no_two_ports_are_the_same() -> None:
    tenants = [TenantConfig("a", tcp_port=5701, next_tcp_port=5702), TenantConfig("b", tcp_port=5702)]
    assert "5702 is 'a''s already" in (rights_fault(tenants) or "")
    assert rights_fault([TenantConfig("a", tcp_port=5701, next_tcp_port=5701)]) is not None
    assert "next_tcp_port is 0" in (TenantConfig("a", next_tcp_port=0).rights_fault() or "")


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


def asked(endpoints: Endpoints, client: zmq.Socket[bytes]) -> bool:
    """Whether a question is answered, at whichever of the doors it comes in."""
    client.send(b"?")
    for turn in range(300):
        endpoints.attend(turn, 0.0)
        for door in endpoints.doors():
            if door.socket.poll(5):
                for route, _, frames in endpoints.receive(door, 1):
                    assert endpoints.send(door.tenant, route, frames)
        if client.poll(5):
            return client.recv() == b"?"
    return False


@pytest.mark.e2e
def test_who_knows_the_next_key_stays_connected_when_it_takes_the_place_of_the_old_one(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    first, second, third = free_ports(3)
    tenant = TenantConfig("a", keys=(PublicKey(MINE.public),), tcp_port=first)
    rights = Rights([tenant], own_uid=None, wall_s=0.0)
    endpoints = Endpoints(tmp_path, [tenant], Limits(), rights, listener(OLD))

    def connected(port: int, server: Pair) -> zmq.Socket[bytes]:
        client = context.socket(zmq.DEALER)
        client.linger = 0
        client.curve_serverkey = server.public.encode()
        client.curve_publickey, client.curve_secretkey = MINE.public.encode(), MINE.secret.encode()
        client.connect(f"{HOST}:{port}")
        return client

    def changed(tcp: Listener, **ports: int | None) -> None:
        endpoints.tcp = tcp
        endpoints.change([msgspec.structs.replace(tenant, **ports)], Limits(), 0.0)

    before, after = connected(first, OLD), connected(second, NEW)
    assert asked(endpoints, before)
    changed(listener(OLD, NEW), next_tcp_port=second)
    assert asked(endpoints, before)
    assert asked(endpoints, after)
    fds = set(endpoints.door("a", "other tcp").guard.fds)
    changed(listener(NEW), tcp_port=second)
    assert asked(endpoints, after)
    assert endpoints.door("a", "other tcp").guard.fds == fds, "it is the same connection"
    assert {door.place.address for door in endpoints.doors()} == {
        f"{HOST}:{second}",
        str(tmp_path / "t" / "a" / "sock"),
    }
    # And once more, with the place of the first door free for the third key.
    changed(listener(NEW, THIRD), tcp_port=second, next_tcp_port=third)
    last = connected(third, THIRD)
    assert asked(endpoints, last)
    assert asked(endpoints, after)
    context.destroy(linger=0)
    endpoints.close()
