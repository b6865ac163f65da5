"""Endpoints: only one daemon per directory, sockets only their owner may use, and frames as clients send them."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from delen.clients.places import endpoint_path
from delen.daemon.config import Limits, TenantConfig
from delen.daemon.rights import Rights
from delen.daemon.runtime_lock import AlreadyRunning, RuntimeLock
from delen.daemon.sockets import EndpointError, Endpoints

WAIT_MS = 2_000


def test_a_directory_belongs_to_one_daemon_until_it_ends(tmp_path: Path) -> None:
    lock = RuntimeLock(tmp_path / "run")
    with pytest.raises(AlreadyRunning, match=rf"another delen daemon \(pid {os.getpid()}\)"):
        RuntimeLock(tmp_path / "run")
    lock.release()
    RuntimeLock(tmp_path / "run").release()


def test_tenants_can_pass_a_directory_made_under_a_strict_mask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        RuntimeLock(tmp_path / "run").release()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o711


def test_a_directory_that_others_can_write_or_link_to_is_not_used(tmp_path: Path) -> None:
    # In such a one they could make `t`, or a tenant's directory in it, before the daemon does.
    folder, link = tmp_path / "run", tmp_path / "link"
    folder.mkdir()
    for bad in (0o777, 0o1777, 0o707):
        folder.chmod(bad)
        with pytest.raises(EndpointError, match="chmod go-w"):
            RuntimeLock(folder)
    folder.chmod(0o755)
    link.symlink_to(folder)
    RuntimeLock(link).release()
    if os.getuid() == 0:
        os.chown(link, 4711, 4711, follow_symlinks=False)
        with pytest.raises(EndpointError, match="another user"):
            RuntimeLock(link)


def test_a_directory_that_cannot_be_made_or_a_lock_that_is_a_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EndpointError, match=r"--runtime-dir"):
        RuntimeLock(tmp_path / "file" / "run")
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EndpointError, match=r"--runtime-dir"):
        RuntimeLock(tmp_path)
    assert not (tmp_path / "elsewhere").exists()


def bound(folder: Path, *names: str, **limits: int) -> Endpoints:
    """Endpoints that admit this user."""
    tenants = [TenantConfig(name=name, uids=(os.getuid(),)) for name in names]
    return Endpoints(folder, tenants, Limits(**limits), Rights(tenants, own_uid=None, wall_s=0.0))


def test_a_file_in_the_way_is_not_deleted(tmp_path: Path) -> None:
    path = endpoint_path(tmp_path, "a")
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(EndpointError, match="in the way"):
        bound(tmp_path, "a")
    assert path.read_text() == "precious"


@pytest.fixture
def endpoints(tmp_path: Path) -> Iterator[Endpoints]:
    made = bound(tmp_path, "a", "b", receive_count_max=4)
    yield made
    made.close()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


def connect(context: zmq.Context[zmq.Socket[bytes]], folder: Path, tenant: str, kind: int) -> zmq.Socket[bytes]:
    client = context.socket(kind)
    client.linger, client.rcvtimeo = 0, WAIT_MS
    client.connect(f"ipc://{endpoint_path(folder, tenant)}")
    return client


def waited(endpoints: Endpoints, tenant: str, wait_ms: int = WAIT_MS) -> bool:
    """Answer handshakes until a message of this tenant has come, or nothing comes for so long."""
    poller = zmq.Poller()
    endpoints.watch(poller)
    socket = endpoints.door(tenant).socket
    while True:
        ready = dict(poller.poll(wait_ms))
        endpoints.attend(0, 0.0)
        if socket in ready or not ready:
            return socket in ready


def received(endpoints: Endpoints, tenant: str, count: int = 1) -> list[tuple[bytes, list[bytes]]]:
    """The next `count` messages."""
    found: list[tuple[bytes, list[bytes]]] = []
    while len(found) < count:
        assert waited(endpoints, tenant), f"{len(found)} of {count} messages came"
        came = endpoints.receive(endpoints.door(tenant), 1)
        found += [(route, [bytes(frame) for frame in frames]) for route, _, frames in came]
    return found


@pytest.mark.e2e
def test_sockets_are_their_owners_alone_and_go_with_the_daemon(tmp_path: Path) -> None:
    made = bound(tmp_path, "a")
    path = endpoint_path(tmp_path, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    made.close()
    assert not path.exists()


@pytest.mark.e2e
def test_the_socket_of_a_daemon_that_died_is_taken_over(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    path = endpoint_path(tmp_path, "a")
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    made = bound(tmp_path, "a")
    with connect(context, tmp_path, "a", zmq.DEALER) as client:
        client.send(b"header")
        assert received(made, "a")[0][1] == [b"header"]
    made.close()


@pytest.mark.e2e
@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_messages_go_to_and_fro_with_and_without_an_empty_first_frame(
    endpoints: Endpoints, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], kind: int
) -> None:
    with connect(context, tmp_path, "a", kind) as client:
        client.send_multipart([b"header", b"tensor"])
        [(route, frames)] = received(endpoints, "a")
        assert frames == [b"header", b"tensor"]
        assert endpoints.send("a", route, [b"reply", b"logits"])
        assert client.recv_multipart() == [b"reply", b"logits"]


@pytest.mark.e2e
def test_every_message_names_who_the_kernel_says_sent_it(
    endpoints: Endpoints, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with connect(context, tmp_path, "a", zmq.DEALER) as client:
        for _ in range(2):
            client.send_multipart([b"header", b"tensor"])
            assert waited(endpoints, "a")
            (arrived,) = endpoints.receive(endpoints.door("a"), 1)
            assert arrived.user == f"uid:{os.getuid()}"


@pytest.mark.e2e
def test_whoever_is_not_named_is_not_heard(tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]) -> None:
    made = bound(tmp_path, "a")
    made._rights.change([TenantConfig("a", uids=(os.getuid() + 1,))], 0.0)
    with connect(context, tmp_path, "a", zmq.DEALER) as client:
        client.send(b"header")
        assert not waited(made, "a", wait_ms=200)
    made.close()


@pytest.mark.e2e
def test_what_comes_by_one_endpoint_is_not_seen_at_another(
    endpoints: Endpoints, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with connect(context, tmp_path, "a", zmq.DEALER) as client:
        client.send(b"for a")
        received(endpoints, "a")
        assert not endpoints.door("b").socket.poll(0)


@pytest.mark.e2e
def test_too_many_frames_are_cut_so_that_the_codec_can_refuse_them(
    endpoints: Endpoints, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with connect(context, tmp_path, "a", zmq.DEALER) as client:
        client.send_multipart([b"x"] * 50)
        client.send(b"next")
        first, second = received(endpoints, "a", 2)
        assert 2 < len(first[1]) <= 4
        assert second[1] == [b"next"]


@pytest.mark.e2e
def test_a_turn_takes_no_more_than_it_is_told_to(
    endpoints: Endpoints, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with connect(context, tmp_path, "a", zmq.DEALER) as client:
        for number in range(4):
            client.send(bytes([number]))
        received(endpoints, "a", 1)
        assert len(list(endpoints.receive(endpoints.door("a"), 1))) <= 1


@pytest.mark.e2e
def test_who_takes_too_few_of_its_answers_loses_the_next_and_the_operator_is_told_by_which_limit(
    endpoints: Endpoints, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]]
) -> None:
    with connect(context, tmp_path, "a", zmq.DEALER) as client:
        client.rcvhwm = 1
        client.send(b"?")
        [arrived] = received(endpoints, "a", 1)
        answer = [bytes(65536)]
        assert not all(endpoints.send("a", arrived[0], answer) for _ in range(5000))
        (said,) = endpoints.attend(0, 0.0).notes
        assert "send_queue_max" in said
        assert endpoints.attend(0, 0.0).notes == []


@pytest.mark.e2e
def test_an_answer_for_who_is_gone_is_reported_as_undeliverable(endpoints: Endpoints) -> None:
    assert not endpoints.send("a", b"Dnobody", [b"reply"])
