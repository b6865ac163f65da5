"""Ends and beginnings: told to end under load, twice, beside another daemon, or with nothing to begin with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from delen.clients.wire import Answer
from delen.tests.daemon_fixture import WAIT_S_MAX, Plain, delen, held, serving, worker_of
from delen.tests.faults import figures
from delen.tests.faults.counts import count
from delen.tests.faults.judged import TENANTS, Load
from delen.tests.faults.measured import lend
from delen.tests.faults.restarting import Kept
from delen.tests.faults.shifting import shifting

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]


def gone(pid: int) -> None:
    """Wait until this process has ended, which is another's child."""
    process = psutil.Process(pid)
    until_s = time.monotonic() + WAIT_S_MAX
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until_s, "it does not end"
        time.sleep(0.005)


def test_whoever_was_let_in_before_the_end_is_answered_and_whoever_comes_after_is_told(folder: Path) -> None:
    drains_s = []
    for _ in range(count("45 ends under load")):
        with (
            serving(folder, TENANTS, networks=[str(shifting(folder, "net0", 0))]) as daemon,
            Load(daemon, ["net0"], may_end=["shutting_down"], open_max=256) as load,
        ):
            worker = worker_of(daemon)
            while load.answered < 200:
                time.sleep(0.01)
            with held(worker):
                # Some of each tenant's wait, and some run.
                time.sleep(0.05)
                began_s = time.monotonic()
                os.kill(daemon.pid, signal.SIGTERM)
                while not load.ends["shutting_down"]:
                    time.sleep(0.001)
                before = load.answered
            gone(daemon.pid)
            drains_s.append(time.monotonic() - began_s)
            assert daemon.stop() == 0
            load.stop()
        assert load.wrong == []
        assert load.answered > before, "what was accepted was finished"
        # All that was sent to a daemon that was there has its end; the rest never reached one.
        assert load.sent - sum(load.ends[code] for code in ("answer", "shutting_down")) == load.unanswered()
        assert load.unheard() == 0, "something that was read has no end"
        assert not worker.is_running()
    figures.note_spread("45 from SIGTERM to the end, under load", drains_s, "s")


def test_said_twice_everybody_is_told_at_once(folder: Path) -> None:
    with serving(folder, TENANTS) as daemon, Plain(daemon, "a") as plain, Plain(daemon, "b") as other:
        worker = worker_of(daemon)
        with held(worker):
            asked = {tenant: [each.infer() for _ in range(20)] for tenant, each in (("a", plain), ("b", other))}
            assert plain.until_pong() == other.until_pong() == []
            for _ in range(2):
                os.kill(daemon.pid, signal.SIGTERM)
            for tenant, each in (("a", plain), ("b", other)):
                ends = [each.receive() for _ in asked[tenant]]
                assert {end.id for end in ends} == set(asked[tenant])
                assert Counter(type(end).__name__ for end in ends) == {"Failure": 20}
                assert {getattr(end, "code", "") for end in ends} == {"shutting_down"}
            assert daemon.stop() == 0


# ---- 42: two of them


@pytest.fixture
def kept(tmp_path: Path, folder: Path) -> Iterator[Kept]:
    with Kept(tmp_path) as kept:
        lend(folder, kept)
        kept.start()
        assert kept.ready_within(5 * WAIT_S_MAX)
        yield kept


def test_a_second_daemon_in_one_directory_takes_nothing_from_the_first(kept: Kept) -> None:
    with Plain(kept) as plain:
        sockets = {path: path.stat().st_ino for path in (kept.place / "run").rglob("sock")}
        waiting = plain.infer()
        second = delen("serve", "--config", str(kept.config))
        assert second.returncode == 75
        assert f"another delen daemon (pid {kept.pid}) runs" in second.stderr
        assert {path: path.stat().st_ino for path in (kept.place / "run").rglob("sock")} == sockets
        # Whoever was there, and whoever comes now, is served by the first.
        plain.answers([waiting, plain.infer()])
        with Plain(kept, "b") as newcomer:
            newcomer.answers([newcomer.infer()])
    assert kept.end() == 0


def test_many_daemons_at_once_are_one(tmp_path: Path, folder: Path) -> None:
    with Kept(tmp_path) as kept:
        lend(folder, kept)
        kept.log.touch()
        command = [sys.executable, "-m", "delen", "serve", "--config", str(kept.config)]
        others = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
        until_s = time.monotonic() + 10 * WAIT_S_MAX
        while sum(other.poll() is None for other in others) > 1:
            assert time.monotonic() < until_s
            time.sleep(0.02)
        (first,) = [other for other in others if other.poll() is None]
        for other in others:
            if other is not first:
                _, said = other.communicate()
                assert other.returncode == 75, said
        while not (kept.place / "run" / "t" / "b" / "sock").exists():
            assert time.monotonic() < until_s
            time.sleep(0.02)
        with Plain(kept) as plain:
            (answer,) = plain.answers([plain.infer()])
            assert isinstance(answer, Answer)
        first.terminate()
        _, said = first.communicate(timeout=WAIT_S_MAX)
        assert first.returncode == 0, said


# ---- 40: nothing to begin with


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("threads = 0", 78, "threads is 0"),
        ("thread = 1", 78, "thread"),
        ('networks = ["nowhere"]', 66, "nowhere"),
    ],
)
def test_what_can_never_be_served_is_not_begun_again_and_again(
    tmp_path: Path, line: str, code: int, words: str
) -> None:
    config = tmp_path / "delen.toml"
    head = f'runtime_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n{line}\n'
    config.write_text(f'{head}[[tenants]]\nname = "a"\nuids = [{os.getuid()}]\n')
    ended = delen("serve", "--config", str(config))
    # The unit names these codes among those after which it is not started again: test_service_files.py.
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr
    assert not (tmp_path / "run" / "t").exists(), "nobody was let in"
