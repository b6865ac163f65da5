"""The real daemon as its operator and service manager see it: ready, alive, draining, gone."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import Answer, Failure, Offer, Refusal
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Plain, held, serving, worker_of

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class Manager:
    """A service manager's notification socket: what the daemon said, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, watchdog_ms: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(WAIT_S_MAX)
        address = folder / f"notify-{os.urandom(4).hex()}"
        self.socket.bind(str(address))
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", str(watchdog_ms * 1000))

    def until(self, wanted: str) -> list[str]:
        """All messages up to the next that begins so."""
        heard = [self.socket.recv(4096).decode()]
        while not heard[-1].startswith(wanted):
            heard.append(self.socket.recv(4096).decode())
        return heard


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Manager]:
    made = Manager(monkeypatch, tmp_path, watchdog_ms=400)
    yield made
    made.socket.close()


def told_to_end(daemon: PrivateDaemon) -> None:
    os.kill(daemon.pid, signal.SIGTERM)


def until_refused(plain: Plain) -> Refusal:
    """Ask until the daemon has noticed that it is to end; what it accepted until then is among its open requests."""
    while True:
        plain.infer()
        (*_, last) = [None, *plain.until_pong()]
        if isinstance(last, Refusal):
            return last


def test_the_manager_is_told_of_every_phase(manager: Manager, folder: Path) -> None:
    with serving(folder) as daemon:
        heard = manager.until("READY=1")
        assert "STATUS=loading digits" in heard
        assert "EXTEND_TIMEOUT_USEC=15000000" in heard
        assert "WATCHDOG=1" not in heard, "nobody is to be believed alive who is not there yet"
        assert (
            heard[-1] == "READY=1\nSTATUS=serving digits to 2 tenants; 0 answered, 0 refused, 0 pending; worker ready"
        )
        with Plain(daemon) as plain:
            # Ready is ready: the first request on the first connection has its answer.
            plain.answers([plain.infer()])
        for _ in range(3):
            manager.until("WATCHDOG=1")
        manager.until("STATUS=serving digits to 2 tenants; 1 answered, 0 refused, 0 pending; worker ready")
        with held(worker_of(daemon)), Plain(daemon) as plain:
            plain.infer()
            assert plain.until_pong() == []
            told_to_end(daemon)
            said = "ending; 1 requests to finish, for at most 2000 ms (limits.drain_ms_max)"
            assert manager.until("STOPPING=1")[-1].endswith(said)
            # Draining is being alive, too.
            manager.until("WATCHDOG=1")
        assert daemon.stop() == 0


def test_a_daemon_told_to_end_finishes_what_it_accepted_and_takes_nothing_new(folder: Path) -> None:
    with serving(folder) as daemon, Plain(daemon) as plain, Plain(daemon, "b") as newcomer:
        with held(worker_of(daemon)):
            same = np.zeros((1, 8, 8), np.float32)
            asked = [plain.infer(same, request_id=b"one"), plain.infer(request_id=b"two")]
            assert plain.until_pong() == []
            told_to_end(daemon)
            refused = until_refused(newcomer)
            assert (refused.code, refused.offer) == ("shutting_down", Offer(retry_after_ms=1000.0))
            # Said again, what was accepted is still the same request, and what asks no work is answered.
            plain.infer(same, request_id=b"one")
            assert plain.until_pong() == []
            assert newcomer.row("a").pending == 2
        for _ in asked:
            assert isinstance(plain.receive(), Answer)
        assert psutil.Process(daemon.pid).wait(WAIT_S_MAX) in (0, None)
        assert daemon.stop() == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_what_cannot_be_finished_in_time_ends_with_a_typed_error(folder: Path, signals: int) -> None:
    settings = SETTINGS if signals == 2 else SETTINGS.replace("drain_ms_max = 2000", "drain_ms_max = 100")
    with serving(folder, settings=settings) as daemon, Plain(daemon) as plain, held(worker := worker_of(daemon)):
        asked = [plain.infer(), plain.infer()]
        assert plain.until_pong() == []
        for _ in range(signals):
            told_to_end(daemon)
        ends = [plain.receive(), plain.receive()]
        assert {end.id for end in ends} == set(asked)
        assert {end.code for end in ends if isinstance(end, Failure)} == {"shutting_down"}
        assert daemon.stop() == 0
        assert not worker.is_running()


def test_a_front_that_its_watchdog_aborts_says_where_it_was(folder: Path) -> None:
    with serving(folder) as daemon:
        worker = worker_of(daemon)
        # Ready is said shortly before the first turn; who is answered has had one.
        with Plain(daemon) as plain:
            assert plain.until_pong() == []
        os.kill(daemon.pid, signal.SIGABRT)
        worker.wait(WAIT_S_MAX)
        assert daemon.stop() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in daemon.log()
        assert "in turn" in daemon.log()


# ---- reloading


def reloaded(daemon: PrivateDaemon, plain: Plain, count: int) -> str:
    """Have it read its configuration again; its line about the `count`-th time."""
    os.kill(daemon.pid, signal.SIGHUP)
    while True:
        lines = [line for line in daemon.log().splitlines() if "reloaded" in line]
        if len(lines) >= count:
            return lines[-1]
        plain.until_pong()


def test_a_reload_changes_limits_under_load_and_one_with_a_fault_changes_nothing(folder: Path) -> None:
    with serving(folder) as daemon, Plain(daemon) as plain:
        (config,) = [path for path in folder.glob("delen-*.toml") if str(path) in " ".join(cmdline(daemon))]
        with held(worker_of(daemon)):
            waiting = [plain.infer(), plain.infer()]
            assert plain.until_pong() == []
            config.write_text(SETTINGS + "queued_max = 2\n")
            assert "configuration reloaded; 2 tenants" in reloaded(daemon, plain, 1)
            plain.infer()
            (refused,) = plain.until_pong()
            assert isinstance(refused, Refusal)
            assert (refused.code, "limits.queued_max is 2" in refused.message) == ("queue_full", True)
            config.write_text(SETTINGS + "queued_max = 1\nqueue_max = 3\n")
            said = reloaded(daemon, plain, 2)
            assert "configuration not reloaded, all stays as it was" in said
            assert str(config) in said
            assert "queue_max" in said
        plain.answers(waiting)


def test_no_request_is_lost_to_a_hundred_reloads(folder: Path) -> None:
    with serving(folder) as daemon, Plain(daemon) as plain, Plain(daemon, "b") as other, Plain(daemon) as watching:
        for count in range(1, 101):
            asked = [plain.infer() for _ in range(8)]
            waiting = [other.infer() for _ in range(8)]
            reloaded(daemon, watching, count)
            plain.answers(asked)
            other.answers(waiting)
        assert (plain.row().failed, plain.row("b").failed) == (0, 0)
        assert plain.row().answered == 800


def cmdline(daemon: PrivateDaemon) -> list[str]:
    return psutil.Process(daemon.pid).cmdline()


# ---- an engine that somebody else starts


@contextlib.contextmanager
def engine(door: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker as its unit would start it, ended whatever happens."""
    command = [sys.executable, "-m", "delen.daemon.worker", "--socket", str(door)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def test_an_engine_of_its_own_comes_goes_and_comes_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = tmp_path / "engine" / "ctl"
    monkeypatch.setenv("DELEN_WORKER", "socket")
    monkeypatch.setenv("DELEN_WORKER_SOCKET", str(door))
    # Before the front is there: it waits for it.
    with engine(door) as first, serving(folder) as daemon, Plain(daemon) as plain:
        assert not psutil.Process(daemon.pid).children(), "nothing is started by the front"
        plain.answers([plain.infer()])
        first.kill()
        waiting = plain.infer()
        with engine(door) as second:
            plain.answers([waiting])
            assert plain.row().failed == 0
            # One that hangs is let go, and is gone though the front may not signal it.
            second.send_signal(signal.SIGSTOP)
            asked = plain.infer()
            with engine(door):
                # It has been the front's patience (run_ms_min); then another serves.
                plain.ends([asked])
                plain.answers([plain.infer()])
                assert second.wait(WAIT_S_MAX) == -signal.SIGKILL
                assert daemon.stop() == 0
