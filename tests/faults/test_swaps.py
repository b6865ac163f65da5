"""P9: networks swapped under load by all their tenants: nobody is left without an answer, and each says whose it is."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import VERSION, Manage, Managed, NetworkList, Networks, Refusal
from delen.daemon.replay import replay
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Plain, serving
from delen.tests.faults import figures
from delen.tests.faults.counts import count
from delen.tests.faults.judged import TENANTS, VERSIONS, Load
from delen.tests.faults.measured import measured
from delen.tests.faults.shifting import shifting
from delen.tests.test_daemon_lifecycle import engine

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# How many swaps are made between two that fail.
FAILS_EVERY = 8
# A soak's is as long as a quarter of an hour.
JOURNAL = "journal_bytes_max = 4_000_000_000\n"


def manage(plain: Plain, action: str, network: str | Path) -> Managed | Refusal:
    """Ask for a change and wait for its end; again, where the workers of the last change are not gone yet."""
    for _ in range(10_000):
        message = Manage(VERSION, plain.new_id(), action, str(network))
        plain.send(message)
        reply = plain.receive()
        assert isinstance(reply, (Managed, Refusal)), reply
        if not isinstance(reply, Refusal) or reply.code != "busy":
            return reply
        time.sleep(0.002)
    raise AssertionError("busy for ever")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has bundles of all versions, with profiles."""
    folder = tmp_path_factory.getbasetemp()
    measured(folder, [f"net{number}" for number in range(count("P9 networks"))], VERSIONS)
    return folder


def faults(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    """One after the other, the ways in which the next version of a network can fail."""
    corrupt = folder / f"{name}-corrupt"
    shutil.copytree(shifting(folder, name, 1), corrupt)
    (corrupt / "head1.onnx").write_bytes(b"no graph")
    while True:
        yield "corrupt", corrupt
        yield "its canary fails", shifting(folder, name, 1, broken=True)
        yield "its worker dies", shifting(folder, name, 2)


def test_eight_networks_are_swapped_under_load_and_every_answer_names_its_own(folder: Path) -> None:
    names = [f"net{number}" for number in range(count("P9 networks"))]
    swaps = [(name, step) for step in range(1, count("P9 swaps of each network") + 1) for name in names]
    failing = faults(folder, "net0")
    took_s = []
    bundles = [str(shifting(folder, name, 0)) for name in names]
    journal = folder / "swaps-journal"
    with (
        serving(folder, TENANTS, f'journal = "{journal}"\n{SETTINGS}{JOURNAL}', bundles) as daemon,
        Plain(daemon) as plain,
    ):
        front = psutil.Process(daemon.pid)
        with Load(daemon, names) as load:
            fds, resident = None, 0
            for number, (name, step) in enumerate(swaps):
                if number % FAILS_EVERY == 0:
                    fail(daemon, plain, *next(failing))
                load.requested[name] = step
                began_s = time.monotonic()
                done = manage(plain, "swap", shifting(folder, name, step % VERSIONS))
                took_s.append(time.monotonic() - began_s)
                assert done == Managed(VERSION, done.id, name, str(step % VERSIONS)), done
                load.acknowledged[name] = step
                if number == min(len(swaps), 4 * FAILS_EVERY) - 1:
                    fds, resident = settled(daemon), front.memory_info().rss
            descriptors = settled(daemon)
            grown = front.memory_info().rss - resident
        assert load.wrong == []
        assert load.unanswered() == 0
        assert load.answered > 10 * len(swaps), "hardly anybody asked"
        assert descriptors == fds
        assert plain.row().failed == 0
    began_s = time.monotonic()
    replayed = replay(journal)
    beside = f"{journal.stat().st_size / 1e6:.0f} MB"
    figures.note("P9 journal played again", time.monotonic() - began_s, "s", beside=beside)
    journal.unlink()
    assert replayed.difference is None, str(replayed.difference)
    assert replayed.ended == "the daemon ended"
    assert len(replayed.networks) > len(swaps)
    figures.note_spread("P9 swap under load", took_s, "s", target=0.44)
    figures.note("P9 answers during swaps", load.answered, "answers")
    later = len(swaps) - 4 * FAILS_EVERY
    if later:
        figures.note("P9 growth of the front per swap", grown / later / 1024, "KiB", beside=f"over {later} swaps")
    # Traces and kept answers fill up first; a network kept for good would be some 100 KiB each time.
    assert grown < 32 * 1024**2 + 16 * 1024 * later


def settled(daemon: PrivateDaemon) -> int:
    """Descriptors of the front, once no worker but one is there; it may be given some time to let go of them."""
    front = psutil.Process(daemon.pid)
    least = front.num_fds()
    for _ in range(100):
        if len(front.children()) == 1:
            least = min(least, front.num_fds())
        time.sleep(0.01)
    return least


def fail(daemon: PrivateDaemon, plain: Plain, fault: str, directory: Path) -> None:
    """A swap that does not succeed is refused typed, and so is another meanwhile; it changes nothing."""
    served = versions(plain)
    if fault != "its worker dies":
        refused = manage(plain, "swap", directory)
    else:
        front, old = psutil.Process(daemon.pid), {child.pid for child in psutil.Process(daemon.pid).children()}
        while len(old) > 1:
            old = {child.pid for child in front.children()}
        message = Manage(VERSION, plain.new_id(), "swap", str(directory))
        plain.send(message)
        young: set[int] = set()
        while not young:
            young = {child.pid for child in front.children()} - old
        second = Manage(VERSION, plain.new_id(), "swap", str(directory))
        plain.send(second)
        busy = plain.receive()
        assert isinstance(busy, Refusal)
        assert (busy.id, busy.code) == (second.id, "busy")
        os.kill(young.pop(), signal.SIGKILL)
        refused = plain.receive()  # type: ignore[assignment]
    assert isinstance(refused, Refusal), refused
    assert refused.code == "bundle"
    assert "all is served as before" in refused.message
    assert versions(plain) == served


def versions(plain: Plain) -> dict[str, str]:
    """What is served now, by name."""
    return {info.name: info.version for info in plain.ask(Networks(VERSION, plain.new_id()), NetworkList).networks}


def test_engines_that_are_units_of_their_own_are_changed_through_their_door(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = folder / "engine" / "ctl"
    monkeypatch.setenv("DELEN_WORKER", "socket")
    monkeypatch.setenv("DELEN_WORKER_SOCKET", str(door))
    bundles = [str(shifting(folder, "net0", 0))]
    with engine(door) as first, serving(folder, TENANTS, networks=bundles) as daemon, Plain(daemon) as plain:
        with Load(daemon, ["net0"]) as load:
            # One has come and gone again; that must not be taken for the new engine.
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
                gone.connect(str(door))
            with engine(door) as second:
                swapped(plain, load, folder, 1)
                # What served is let go when it has nothing left to do; systemd would start it again.
                assert first.wait(WAIT_S_MAX) == -signal.SIGKILL
                with engine(door):
                    swapped(plain, load, folder, 2)
                    assert second.wait(WAIT_S_MAX) == -signal.SIGKILL
                    load.end()
        assert load.wrong == []
        assert load.unanswered() == 0
        assert load.answered


def swapped(plain: Plain, load: Load, folder: Path, step: int) -> None:
    """The next version of net0 serves."""
    load.requested["net0"] = step
    done = manage(plain, "swap", shifting(folder, "net0", step))
    assert done == Managed(VERSION, done.id, "net0", str(step)), done
    load.acknowledged["net0"] = step
