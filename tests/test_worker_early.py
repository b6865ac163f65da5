"""The first worker starts before the front is ready for it, is told later what to be, and ends if nobody wants it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from delen.daemon import worker_early
from delen.daemon.config import Config
from delen.daemon.engines import preload
from delen.daemon.log_writer import Log
from delen.daemon.pipe import Attach, Begin, Pipe
from delen.daemon.worker_early import Early, begin
from delen.daemon.worker_process import Hosted
from delen.daemon.worker_words import Words

HOSTED: Mapping[str, Hosted] = {}


class Started:
    """What `begin` would have started, without a process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engines: list[str] = []
        monkeypatch.setattr(worker_early, "Early", self.engines.append)

    def by(self, path: Path | None = None, flags: Mapping[str, Any] | None = None, **environ: str) -> list[str]:
        self.engines.clear()
        begin(path, flags or {}, environ)
        return list(self.engines)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    return Started(monkeypatch)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def configured(folder: Path, text: str) -> Path:
    path = folder / "delen.toml"
    path.write_text(text)
    return path


def test_the_engine_is_that_of_flag_variable_file_and_default_in_this_order(started: Started, tmp_path: Path) -> None:
    path = configured(tmp_path, 'engine = "replay"\n')
    assert started.by(path, {"engine": "onnx"}, DELEN_ENGINE="torch") == ["onnx"]
    assert started.by(path, DELEN_ENGINE="torch") == ["torch"]
    assert started.by(path) == ["replay"]
    assert started.by() == ["onnx"]


def test_who_starts_no_worker_starts_none_early(started: Started, tmp_path: Path) -> None:
    assert started.by(configured(tmp_path, 'worker = "socket"\n')) == []
    assert started.by(DELEN_WORKER="socket") == []


@pytest.mark.parametrize("text", ["engine = \n", 'engine = "tea"\n', "engine = 3\n", "engine = []\n"])
def test_what_is_no_configuration_is_for_others_to_say(started: Started, tmp_path: Path, text: str) -> None:
    assert started.by(configured(tmp_path, text)) == []
    assert started.by(tmp_path / "none.toml") == []


def test_without_processes_to_spare_the_front_goes_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()

    def full(*_arguments: object, **_options: object) -> None:
        raise BlockingIOError("no processes")

    monkeypatch.setattr(subprocess, "Popen", full)
    assert begin(None, {}, {}) is None
    assert open_files() <= before


class Stub:
    """A process that reads its one message from the pipe and says how long it is."""

    SCRIPT = "import socket, sys; print(len(socket.socket(fileno=int(sys.argv[1])).recv(9999)), flush=True)"

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        popen = subprocess.Popen

        def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
            return popen([sys.executable, "-c", self.SCRIPT, command[3]], **options)

        monkeypatch.setattr("delen.daemon.worker_early.subprocess.Popen", spawn)
        monkeypatch.setattr("delen.daemon.worker_process.WorkerProcess._tell", lambda _self: None)


def test_the_first_worker_is_the_early_one_and_the_next_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    Stub(monkeypatch)
    early, fd = Early("onnx"), os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT, 0o600)
    log = Log(fd)
    words = Words(log, early)
    first, second = (words.begin(Config(), HOSTED, 5_000_000) for _ in range(2))
    assert first.pid == early.process.pid != second.pid
    # As long as it has been there, so that the next is not expected sooner than it can be.
    assert 0 < first.started_us < 5_000_000 == second.started_us
    early.dismiss()
    assert not first.gone() or first.said() == "it ended with code 0", "whoever has it sees to its end"
    early.process.wait(60)
    second.stop()
    words.close()
    first.end(0)
    log.close()
    os.close(fd)
    said = [line.split(": ")[-1] for line in (tmp_path / "log").read_text().splitlines() if str(first.pid) in line]
    assert said[0].isdigit(), said


def test_one_that_nobody_takes_is_ended_and_nothing_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_files()
    Stub(monkeypatch)
    early = Early("onnx")
    early.dismiss()
    early.dismiss()
    assert early.process.returncode is not None
    assert open_files() <= before


def test_an_engine_that_is_not_installed_is_not_missed_before_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "delen.exits.torch_runner", None)
    preload("torch")
    preload("replay")


# ---- the process itself


@pytest.mark.slow
@pytest.mark.e2e
def test_it_waits_for_its_settings_and_then_is_a_worker_like_any_other() -> None:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    early = Early("onnx")
    pipe = Pipe.of(early.end)
    pipe.send(Begin("replay", "auto", 1, 0))
    memory = os.memfd_create("arena")
    os.ftruncate(memory, 4096)
    pipe.send(Attach(4096), memory)
    os.close(memory)
    early.end.shutdown(socket.SHUT_WR)
    assert early.process.wait(60) == 0
    early.dismiss()


@pytest.mark.slow
@pytest.mark.e2e
def test_it_ends_with_a_front_that_never_spoke() -> None:
    early = Early("replay")
    early.end.close()
    assert early.process.wait(60) == 0
    assert os.read(early.voice, 9999) == b""
    assert early.take() < time.monotonic_ns()
