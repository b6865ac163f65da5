"""Faults of the process and its machine: blocked, starved, asleep, out of descriptors or memory, with no log or device.

Real processes, and a service manager in small (`restarting.py`). What can be shown on a virtual clock is elsewhere; the
table in README.md says where.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from delen.clients.bounds import Bounds
from delen.clients.wire import Answer, Failure, Refusal
from delen.tests.daemon_fixture import WAIT_S_MAX, Plain, held, serving
from delen.tests.faults import figures
from delen.tests.faults.counts import count
from delen.tests.faults.judged import Load
from delen.tests.faults.measured import begun, lend
from delen.tests.faults.planted import planting
from delen.tests.faults.restarting import Kept
from delen.tests.faults.shifting import shifting

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

WATCHDOG_S = 0.8
DAY_S = 86_400
# The loop stands still for as long as there is a file `block` beside its configuration, and takes the seconds in a
# file `slept` for time in which the machine was asleep.
STANDS_STILL = """
_turn, _beside = Loop.turn, Path(os.environ["DELEN_STATE_DIR"]).parent
def turn(self):
    while (_beside / "block").exists():
        pass
    _turn(self)
Loop.turn = turn
_awake_us = clock_us
def clock_us():
    try:
        return _awake_us() + int(1e6 * float((_beside / "slept").read_text()))
    except OSError:
        return _awake_us()
"""
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)


@pytest.fixture
def kept(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """A daemon that is about to be started."""
    monkeypatch.setenv("WATCHDOG_USEC", str(round(WATCHDOG_S * 1e6)))
    # A machine that is busy with other tests is no worker that hangs.
    with Kept(tmp_path, "[limits]\nrun_ms_min = 5000\n") as kept:
        lend(folder, kept)
        monkeypatch.setenv("DELEN_STATE_DIR", str(kept.state))
        yield kept


def alive_within(kept: Kept, wait_s: float) -> bool:
    """Whether a sign of life comes within this time; those that came before do not count."""
    kept._heard.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while kept._heard.recv(4096):
            pass
    until_s = time.monotonic() + wait_s
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([kept._heard], [], [], left_s)[0] and b"WATCHDOG=1" in kept._heard.recv(4096):
            return True
    return False


def aborted(kept: Kept) -> None:
    """As its service manager does with a daemon that gives no sign of life."""
    # The turn that it was in may have ended as ever.
    alive_within(kept, WATCHDOG_S / 2)
    assert not alive_within(kept, 2 * WATCHDOG_S)
    for number in (signal.SIGABRT, signal.SIGCONT):
        os.kill(kept.pid, number)
    assert kept._process is not None
    assert kept._process.wait(WAIT_S_MAX) == -signal.SIGABRT


# ---- 47: blocked


@pytest.mark.parametrize("how", ["its loop stands still", "it is stopped"])
def test_a_daemon_that_stands_still_says_nothing_and_where_it_stood(kept: Kept, tmp_path: Path, how: str) -> None:
    with planting(tmp_path, "delen.daemon.loop", STANDS_STILL):
        begun(kept)
        assert alive_within(kept, 5 * WATCHDOG_S), "it is well so far"
        block = kept.place / "block"
        if how == "it is stopped":
            os.kill(kept.pid, signal.SIGSTOP)
        else:
            block.touch()
        aborted(kept)
        log = kept.log.read_text()
        assert "Fatal Python error: Aborted" in log
        assert " in turn" in log or " in run" in log
        block.unlink(missing_ok=True)
        began_s = time.monotonic()
        begun(kept)
        figures.note("ready again after its watchdog ended it", time.monotonic() - began_s, "s", target=1.0)
        with Plain(kept) as plain:
            plain.answers([plain.infer()])
        assert kept.end() == 0


# ---- 49: time


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime: apt-get install faketime")
def test_a_wall_clock_that_jumps_by_a_day_moves_no_deadline(
    kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = kept.place / "wall"
    wall.write_text("+0")
    monkeypatch.setenv("LD_PRELOAD", str(FAKETIME))
    monkeypatch.setenv("FAKETIME_TIMESTAMP_FILE", str(wall))
    monkeypatch.setenv("FAKETIME_NO_CACHE", "1")
    monkeypatch.setenv("DONT_FAKE_MONOTONIC", "1")
    bundle = shifting(folder, "net0", 0)
    kept.config.write_text(kept.config.read_text().replace('"digits"', f'"{bundle}"'))
    begun(kept)
    monkeypatch.delenv("LD_PRELOAD")
    with Load(kept, ["net0"], "ab", bounds=Bounds(latency_ms=10_000.0)) as load:
        for jump_s in (DAY_S, -DAY_S, 20 * 365 * DAY_S, 0):
            wall.write_text(f"{jump_s:+d}")
            assert alive_within(kept, 5 * WATCHDOG_S)
            before = load.answered
            while load.answered < before + 100:
                time.sleep(0.01)
        load.end()
    assert load.wrong == []
    assert load.ends["late"] == 0
    assert load.unanswered() == 0
    assert len(kept.log.read_text().splitlines()) == 1, "it has nothing to say of that"
    # Not by its end: what waits for its worker then sleeps until a time, which fails under libfaketime at any time.
    kept.kill()


def test_what_expired_while_the_machine_slept_is_told_so(kept: Kept, tmp_path: Path) -> None:
    with planting(tmp_path, "delen.daemon.loop", STANDS_STILL):
        begun(kept)
        with Plain(kept) as plain, held(psutil.Process(kept.pid).children()[0]):
            # Alone, so that it is all the worker has in its hands; what is posted behind it has not begun.
            first = plain.infer(latency_ms=60_000.0)
            assert plain.until_pong() == []
            asked = {plain.infer(latency_ms=60_000.0, on_miss=miss): miss for miss in ("answer", "drop") * 4}
            free = plain.infer()
            assert plain.until_pong() == []
            # Renamed, since the loop reads it at any time.
            (kept.place / "sleeps").write_text("3600")
            (kept.place / "sleeps").rename(kept.place / "slept")
            ends = plain.ends([first, *asked, free])
        assert all(isinstance(end, Failure) for end in list(ends.values())[:4]), "they need not wait for a worker"
        assert isinstance(ends.pop(free), Answer), "who has no bound has all the time there is"
        # The worker is taken to hang with it: it has been an hour.
        begun_then = ends.pop(first)
        assert isinstance(begun_then, Failure)
        assert begun_then.code == "engine_crashed"
        for request_id, end in ends.items():
            if asked[request_id] == "drop":
                assert isinstance(end, Failure), end
                assert end.code == "deadline"
            else:
                assert isinstance(end, Answer), end
                assert end.broken == ("latency_ms",)
        with Plain(kept) as plain:
            plain.answers([plain.infer(latency_ms=10_000.0)])
        assert kept.end() == 0


# ---- 15: a client's clock


@pytest.mark.skipif(FAKETIME is None, reason="needs libfaketime: apt-get install faketime")
@pytest.mark.parametrize("offset", ["-20y", "+20y"])
def test_a_client_whose_clock_is_wrong_by_years_is_served_as_any(folder: Path, offset: str) -> None:
    script = (
        "import sys, time, numpy; from delen import Client; client = Client('a', endpoint=sys.argv[1])\n"
        "found = client.infer('digits', numpy.zeros((1, 8, 8), 'float32'), latency_ms=10_000.0)\n"
        "print(time.localtime().tm_year, found.met)"
    )
    with serving(folder) as daemon:
        fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "DONT_FAKE_MONOTONIC": "1"}
        told = subprocess.run(
            [sys.executable, "-c", script, daemon.endpoint("a")],
            env={**os.environ, **fake},
            capture_output=True,
            text=True,
            timeout=3 * WAIT_S_MAX,
            check=False,
        )
    year, met = told.stdout.split()
    assert abs(int(year) - time.localtime().tm_year) >= 19, "its clock is wrong"
    assert met == "True", told.stderr


# ---- 50: starved


def test_a_starved_machine_makes_it_refuse_and_miss_nothing_silently(folder: Path) -> None:
    bundle = shifting(folder, "net0", 0)
    may_end = ("bounds", "deadline", "infeasible", "latency", "queue_full", "not_ready", "engine_crashed")
    with serving(folder, networks=[str(bundle)]) as daemon, Plain(daemon) as control:
        shares = []
        for hogs in (0, 8):
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(hogs)]
            try:
                with Load(daemon, ["net0"], "ab", bounds=Bounds(latency_ms=5.0), may_end=may_end) as load:
                    waits_s = []
                    until_s = time.monotonic() + count("50 starved, seconds")
                    while time.monotonic() < until_s:
                        began_s = time.monotonic()
                        control.stats()
                        waits_s.append(time.monotonic() - began_s)
                        time.sleep(0.05)
                    load.end()
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            assert load.wrong == []
            assert load.unanswered() == 0
            not_met = load.sent - load.answered + load.ends["late"]
            shares.append(not_met / load.sent)
            figures.note(f"50 with {hogs} busy loops: refused or late", shares[-1], "of all")
            figures.note(f"50 with {hogs} busy loops: late, and said so", load.ends["late"] / load.sent, "of all")
            figures.note(f"50 with {hogs} busy loops: longest wait for stats", max(waits_s), "s", target=1.0)
            assert max(waits_s) < 5.0
        assert load.answered, "starved is not dead"


# ---- 33: no device

LOST = """
import os
def _look():
    if os.path.exists({flag!r}):
        raise EngineFault("device", "the GPU has fallen off the bus")
_begin, _segment = OnnxRunner.__init__, LoadedOnnx.segment
def begin(self, *arguments, **options):
    _look()
    _begin(self, *arguments, **options)
def segment(self, index, features):
    _look()
    return _segment(self, index, features)
OnnxRunner.__init__, LoadedOnnx.segment = begin, segment
"""


def test_a_device_that_is_gone_is_no_daemon_that_is_ready_and_no_answer_that_is_made_up(
    kept: Kept, tmp_path: Path
) -> None:
    flag = tmp_path / "lost"
    flag.touch()
    with planting(tmp_path, "delen.exits.onnx_runner", LOST.format(flag=str(flag))):
        kept.start()
        assert not kept.ready_within(0.1)
        assert kept._process is not None
        assert kept._process.wait(3 * WAIT_S_MAX) not in (0, -signal.SIGABRT)
        assert not kept.ready_within(0.1)
        assert "the GPU has fallen off the bus" in kept.log.read_text()
        flag.unlink()
        begun(kept)
        with Plain(kept) as plain:
            plain.answers([plain.infer()])
            flag.touch()
            ends = plain.ends([plain.infer(latency_ms=200.0) for _ in range(8)])
            assert {type(end) for end in ends.values()} <= {Failure, Refusal}, ends
            # The daemon is there all the time, and says what is the matter with its worker.
            assert plain.stats().worker in ("waiting", "starting")
            (refused,) = plain.ends([plain.infer(latency_ms=1.0)]).values()
            assert isinstance(refused, Refusal)
            assert refused.code == "not_ready"
            flag.unlink()
            restarts = plain.stats().worker_restarts
            assert restarts >= 1
            plain.answers([plain.infer()])
        assert kept.end() == 0
