"""P5: a worker that crashes, hangs, runs out of memory or leaves costs only what it was running, and is soon replaced.

An input of 901 and more brings a death with it, planted in the engine; it strikes once, so that the request's second
run shows whether that was worth it. Signals come from outside, to a worker that is held with a run in its hands.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from delen.clients.private_daemon import PrivateDaemon
from delen.clients.wire import Answer, Failure
from delen.tests.daemon_fixture import Ended, Plain, held, serving, worker_of
from delen.tests.faults import figures
from delen.tests.faults.counts import count
from delen.tests.faults.planted import planting

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]

# How long a run may take before it counts as hung: a stopped worker and an endless loop are found out by that alone.
HUNG_MS = 400
SETTINGS = f"[limits]\nrun_ms_min = {HUNG_MS}\n"
# What else waits when a worker dies.
QUEUED = 20
EXIT, EXCEPTION, LOOP, MEMORY, DEVICE = 901, 902, 903, 904, 905
DEATHS = """
import os, pathlib, resource
_segment, _sick = LoadedOnnx.segment, False
def segment(self, index, features):
    said = float(features.max())
    global _sick
    if _sick:
        raise EngineFault("device", "planted: and it does not get well")
    mark = pathlib.Path({folder!r}, str(said))
    if index or said < 900 or mark.exists():
        return _segment(self, index, features)
    mark.touch()
    if said < 902:
        os._exit(3)
    if said < 903:
        raise RuntimeError("planted: a fault that nobody foresaw")
    while said < 904:
        pass
    if said >= 905:
        _sick = True
        raise EngineFault("device", "planted: the device is in a state it does not leave")
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), before[1]))
    try:
        return np.zeros((1 << 28, 1), np.float64)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
LoadedOnnx.segment = segment
"""
NAMES = {
    EXIT: "os._exit",
    EXCEPTION: "exception",
    LOOP: "endless loop",
    MEMORY: "out of memory",
    DEVICE: "device that stays broken",
}
# Each death makes an input of its own, also where one daemon serves several tests.
numbers = itertools.count()


@contextlib.contextmanager
def mortal(folder: Path, settings: str = SETTINGS) -> Iterator[PrivateDaemon]:
    """A daemon whose engine dies of what it is told to."""
    marks = folder / "deaths"
    marks.mkdir(exist_ok=True)
    with (
        planting(folder, "delen.exits.onnx_runner", DEATHS.format(folder=str(marks))),
        serving(folder, settings=settings) as daemon,
    ):
        yield daemon


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[PrivateDaemon]:
    with mortal(folder) as daemon:
        yield daemon


def deadly(kind: int) -> npt.NDArray[np.float32]:
    """An input that brings this death, and none that has been."""
    return np.full((1, 8, 8), kind + next(numbers) % 2048 / 2048, np.float32)


def until_answered(
    plain: Plain, hit: bytes, queued: Sequence[bytes], since_s: float, *, may_fail: Sequence[str] = ()
) -> float:
    """All are answered; returns how long the first took, s. `may_fail`: codes that `hit` may end with instead."""
    took_s, open_ids = 0.0, {hit, *queued}
    while open_ids:
        reply = plain.receive()
        assert isinstance(reply, Ended)
        open_ids.remove(reply.id)
        if not isinstance(reply, Answer):
            assert reply.id == hit, reply
            assert reply.code in may_fail, reply
        if isinstance(reply, Answer) and not took_s:
            took_s = time.monotonic() - since_s
    assert plain.until_pong() == []
    return took_s


def outside(daemon: PrivateDaemon, plain: Plain, number: int) -> float:
    """A signal ends, or stops, a worker that has one request in its hands and others before it."""
    worker = worker_of(daemon)
    with held(worker):
        hit, *queued = [plain.infer() for _ in range(QUEUED + 1)]
        assert plain.until_pong() == []
        since_s = time.monotonic()
        worker.send_signal(number)
        if number in (signal.SIGSEGV, signal.SIGABRT):
            # These wait until it goes on.
            worker.resume()
        return until_answered(plain, hit, queued, since_s)


def inside(plain: Plain, kind: int) -> float:
    """A request brings its death with it; others arrive right behind it, and may share its batch."""
    since_s = time.monotonic()
    hit = plain.infer(deadly(kind))
    queued = [plain.infer() for _ in range(QUEUED)]
    # Whose worker dies is run once more. What fails alone fails; in a batch it is tried again alone, and does not.
    return until_answered(plain, hit, queued, since_s, may_fail=["engine_memory"] if kind == MEMORY else [])


def books_balance(plain: Plain, restarts: int) -> None:
    stats = plain.until_worker_is("ready", restarts)
    assert stats.queued == 0
    assert plain.row().pending == 0


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT, signal.SIGSTOP])
def test_a_signal_costs_nobody_who_waits_an_answer(daemon: PrivateDaemon, number: signal.Signals) -> None:
    with Plain(daemon) as plain:
        before = plain.stats().worker_restarts
        took_s = []
        for done in range(count("P5 deaths of each kind")):
            took_s.append(outside(daemon, plain, number))
            books_balance(plain, before + done + 1)
    hung_s = HUNG_MS / 1000 if number == signal.SIGSTOP else 0.0
    target_s = 1.0 + hung_s
    figures.note_spread(f"P5 {number.name}, cold: until the next answer", took_s, "s", target=target_s)
    assert median(took_s) < 5 * target_s


@pytest.mark.parametrize("kind", [EXIT, EXCEPTION, LOOP, MEMORY, DEVICE])
def test_a_fault_of_the_engine_costs_nobody_who_waits_an_answer(daemon: PrivateDaemon, folder: Path, kind: int) -> None:
    name, times = NAMES[kind], count("P5 deaths of each kind")
    # Where memory is short the run fails and the worker stays. That is a fault, of which so many would bar the network.
    dies = kind != MEMORY
    serves = contextlib.nullcontext(daemon) if dies else mortal(folder, f"{SETTINGS}faults_max = {times + 1}\n")
    with serves as daemon, Plain(daemon) as plain:
        before = plain.stats().worker_restarts
        took_s = []
        for done in range(times):
            took_s.append(inside(plain, kind))
            books_balance(plain, before + (done + 1) * dies)
    target_s = 1.0 + (HUNG_MS / 1000 if kind == LOOP else 0.0)
    figures.note_spread(f"P5 {name}, cold: until the next answer", took_s, "s", target=target_s)
    assert median(took_s) < 5 * target_s
    said = {EXCEPTION: "planted: a fault that nobody foresaw", DEVICE: "planted: the device is in a state"}
    daemon.until_said(said.get(kind, ""))


def loaded_spare(daemon: PrivateDaemon, plain: Plain) -> psutil.Process:
    """The worker, once its spare stands by."""
    while True:
        if plain.stats().spare == "ready":
            children = psutil.Process(daemon.pid).children()
            with contextlib.suppress(psutil.NoSuchProcess):
                # The one that was killed last may be there still.
                workers = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
                if len(workers) == 2:
                    return min(workers, key=lambda child: child.create_time())
        assert plain.until_pong() == []


def test_a_spare_that_stands_by_takes_over(folder: Path) -> None:
    took_s = []
    with mortal(folder, f"spare = true\n{SETTINGS}") as daemon, Plain(daemon) as plain:
        for done in range(count("P5 deaths of each kind")):
            first = loaded_spare(daemon, plain)
            number = (signal.SIGSEGV, signal.SIGKILL)[done % 2]
            with held(first):
                hit, *queued = [plain.infer() for _ in range(QUEUED + 1)]
                assert plain.until_pong() == []
                since_s = time.monotonic()
                os.kill(first.pid, number)
                os.kill(first.pid, signal.SIGCONT)
                took_s.append(until_answered(plain, hit, queued, since_s))
            books_balance(plain, done + 1)
        daemon.until_said("the spare takes over")
    figures.note_spread("P5 with a warm spare: until the next answer", took_s, "s", target=0.1)
    assert median(took_s) < 0.5


def test_what_cannot_be_run_again_in_time_is_told_so_at_once(daemon: PrivateDaemon) -> None:
    took_ms = []
    with Plain(daemon) as plain:
        before = plain.stats().worker_restarts
        for done in range(count("P5 deaths of each kind")):
            worker = worker_of(daemon)
            with held(worker):
                # Starting another takes longer than this, however fast the machine.
                hurried = plain.infer(latency_ms=30.0)
                assert plain.until_pong() == []
                since_s = time.monotonic()
                worker.kill()
                (end,) = plain.ends([hurried]).values()
                took_ms.append(1000 * (time.monotonic() - since_s))
            assert isinstance(end, Failure)
            assert end.code == "engine_crashed"
            plain.answers([plain.infer()])
            books_balance(plain, before + done + 1)
    figures.note_spread("P5 in flight, no time to run again: until its typed error", took_ms, "ms", target=100.0)
    assert median(took_ms) < 500
