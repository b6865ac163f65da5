"""A worker that comes by itself: who is let in, what it is told, and that it never outlives the front's hold on it."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from delen.daemon import hosting, worker_guest
from delen.daemon.config import Config, Limits
from delen.daemon.pipe import Attach, Begin, Load, Pipe, PipeClosed, Up
from delen.daemon.socket_modes import EndpointError
from delen.daemon.supervisor import Supervisor
from delen.daemon.toml_file import ConfigError
from delen.daemon.worker_guest import WorkerDoor, WorkerGuest, uid_of
from delen.daemon.worker_service import begin
from delen.tests.sample_profile import device

LIMITS = Limits(start_ms_max=5_000, backoff_ms_min=100)
# A worker that takes its first message and then hangs, whatever signal it is sent in peace.
HANGS = """
import signal, socket, sys
from delen.daemon.pipe import Pipe
from delen.daemon.worker_service import begin
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
end.connect(sys.argv[1])
begin(Pipe(end))
print("held", flush=True)
while True:
    pass
"""


@pytest.fixture
def door(tmp_path: Path) -> Iterator[WorkerDoor]:
    made = WorkerDoor(tmp_path / "e" / "ctl", "")
    yield made
    made.close()


def come(door: WorkerDoor) -> Pipe:
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    end.connect(str(door._path))
    return Pipe(end)


def expected(door: WorkerDoor, state: Path) -> WorkerGuest:
    config = Config(networks=("digits",), threads=2, limits=LIMITS)
    return door.guest(config, hosting.host(config, state), 0)


def test_a_worker_that_comes_is_told_what_one_that_is_started_is(door: WorkerDoor, tmp_path: Path) -> None:
    guest = expected(door, tmp_path)
    assert guest.fileno() == door.fileno(), "until it comes, its coming is what to wait for"
    assert guest.receive() is None
    worker = come(door)
    assert guest.receive() is None
    assert guest.fileno() != door.fileno()
    message, lifeline = worker.receive_with_fd()
    assert message == Begin("onnx", "auto", 2, 500)
    attach, memory = worker.receive_attach()
    assert isinstance(attach, Attach)
    load = worker.receive_at_worker()
    assert isinstance(load, Load)
    assert load.name == "digits"
    worker.send(Up(device()))
    assert guest.receive() == Up(device())
    assert (guest.pid, guest.missing) == (os.getpid(), {"digits"})
    worker.close()
    with pytest.raises(PipeClosed):
        guest.receive()
    guest.end(0)
    os.close(lifeline)
    os.close(memory)


def test_whoever_is_not_the_engine_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_guest, "let_in", lambda _path, _uids: None)
    door = WorkerDoor(tmp_path / "e" / "ctl", str(os.getuid() + 1))
    guest = expected(door, tmp_path)
    strangers = [come(door) for _ in range(3)]
    assert guest.receive() is None
    assert door.strangers == [os.getuid()] * 3
    for stranger in strangers:
        with pytest.raises(PipeClosed):
            stranger.receive_at_worker()
        stranger.close()
    door.close()


def test_the_socket_is_for_the_engine_s_group_alone(tmp_path: Path) -> None:
    folder = tmp_path / "e"
    folder.mkdir()
    folder.chmod(0o2750)
    door = WorkerDoor(folder / "ctl", "")
    assert stat.S_IMODE((folder / "ctl").stat().st_mode) == 0o660
    door.close()
    assert not (folder / "ctl").exists()
    plain = WorkerDoor(tmp_path / "f" / "ctl", "")
    assert stat.S_IMODE((tmp_path / "f" / "ctl").stat().st_mode) == 0o600
    plain.close()
    (tmp_path / "f" / "ctl").write_text("somebody's")
    with pytest.raises(EndpointError, match="in the way"):
        WorkerDoor(tmp_path / "f" / "ctl", "")


def test_a_supervisor_waits_for_guests_as_for_its_own(
    door: WorkerDoor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(_pid: int) -> int:
        raise OSError

    # All guests here are this very process, which does not end.
    monkeypatch.setattr(os, "pidfd_open", unseen)
    config = Config(networks=("digits",), limits=LIMITS)
    supervisor = Supervisor(config, hosting.host(config, tmp_path), make=door.guest)
    supervisor.start(0)
    assert supervisor.filenos() == [door.fileno()]
    assert supervisor.receive() is None
    first = come(door)
    assert supervisor.receive() is None
    first.close()
    with pytest.raises(PipeClosed):
        supervisor.receive()
    supervisor.lost(1_000)
    supervisor.tick(1_000 + 2_000)
    assert supervisor.state == "starting"
    second = come(door)
    supervisor.receive()
    begun, lifeline = second.receive_with_fd()
    assert begun == Begin("onnx", "auto", 1, 500)
    os.close(lifeline)
    second.close()
    # One that never comes is late like one that never gets ready.
    supervisor.lost(10_000)
    supervisor.tick(1_000_000)
    assert supervisor.tick(1_000_000 + 5_000_000)
    supervisor.stop()


@pytest.mark.slow
def test_the_kernel_kills_a_hung_worker_that_the_front_lets_go(door: WorkerDoor, tmp_path: Path) -> None:
    guest = expected(door, tmp_path)
    command = [sys.executable, "-c", HANGS, str(door._path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        select.select([door.fileno()], [], [])
        assert guest.receive() is None
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        assert not guest.gone()
        guest.end(0)
        assert worker.wait(20) == -signal.SIGKILL
        assert guest.gone()


def test_a_front_that_is_gone_before_the_worker_is_held_is_noticed(door: WorkerDoor, tmp_path: Path) -> None:
    guest = expected(door, tmp_path)
    worker = come(door)
    guest.receive()
    guest.kill()
    with pytest.raises(PipeClosed):
        begin(worker)
    worker.close()
    guest.stop()


def test_users_are_named_or_numbered() -> None:
    assert uid_of("") == os.getuid()
    assert uid_of("12") == 12
    assert uid_of("root") == 0
    with pytest.raises(ConfigError, match="no such user"):
        uid_of("nobody-of-that-name")


def test_one_that_came_and_went_before_it_was_wanted_is_passed_over(door: WorkerDoor, tmp_path: Path) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(2):
        come(door).close()
    guest = expected(door, tmp_path)
    worker = come(door)
    assert guest.receive() is None
    message, lifeline = worker.receive_with_fd()
    assert isinstance(message, Begin)
    os.close(lifeline)
    guest.end(0)
    worker.close()
    # This very process is who came, so that it has not ended, and its end is still to be seen.
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before + 1, "nothing of those that went is kept"


def test_of_one_that_never_came_nothing_is_said(door: WorkerDoor, tmp_path: Path) -> None:
    guest = expected(door, tmp_path)
    guest.end(1)
    assert guest.gone()
    assert not guest.said()
