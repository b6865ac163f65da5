"""What a process has only so much of: descriptors, memory, and somebody to read what it and its worker say."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest

from delen.clients.bounds import Bounds
from delen.clients.client import Client
from delen.clients.wire import VERSION, Answer, Infer, Refusal, TensorSpec
from delen.tests.daemon_fixture import SETTINGS, WAIT_S_MAX, Plain, held, serving, worker_of
from delen.tests.faults import figures
from delen.tests.faults.judged import Load
from delen.tests.faults.measured import begun, lend
from delen.tests.faults.planted import planting
from delen.tests.faults.restarting import Kept
from delen.tests.faults.shifting import shifting

pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.faults]


# ---- 9, 55: descriptors, and the log


def test_descriptors_used_up_by_others_shut_the_doors_until_there_are_some_again(folder: Path) -> None:
    with serving(folder) as daemon, Client("a", endpoint=daemon.endpoint("a"), timeout_s=WAIT_S_MAX) as client:
        x = np.zeros((1, 8, 8), np.float32)
        client.infer("digits", x)
        front = psutil.Process(daemon.pid)
        before = front.rlimit(psutil.RLIMIT_NOFILE)
        front.rlimit(psutil.RLIMIT_NOFILE, (front.num_fds(), before[1]))
        daemon.until_said("all endpoints are closed until there are more")
        path = daemon.endpoint("a").removeprefix("ipc://")
        for _ in range(30):
            with socket.socket(socket.AF_UNIX) as made, pytest.raises(OSError, match=r"refused|No such file"):
                made.connect(path)
        assert front.is_running()
        front.rlimit(psutil.RLIMIT_NOFILE, before)
        client.infer("digits", x)
        daemon.until_said("endpoints are opened again")
        with Plain(daemon, "b") as other:
            other.answers([other.infer()])
        assert "Traceback" not in daemon.log()


class Unread(Kept):
    """Its log is a pipe, `said`, that nobody reads until the end."""

    said = -1

    def __enter__(self) -> Unread:
        return self

    def start(self) -> None:
        self.said, said = os.pipe2(os.O_CLOEXEC)
        environ = {**os.environ, "NOTIFY_SOCKET": str(self.place / "notify")}
        command = [sys.executable, "-m", "delen", "serve", "--config", str(self.config)]
        self._process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=environ)
        os.close(said)
        self.log.touch()


def test_a_log_that_nobody_reads_holds_up_nobody_and_what_is_lost_is_counted(tmp_path: Path, folder: Path) -> None:
    limits = "[limits]\nrun_ms_min = 5000\nlog_queue_max = 16\nlog_lines_max = 100000\n"
    with Unread(tmp_path, limits) as kept:
        lend(folder, kept)
        bundle = shifting(folder, "net0", 0)
        kept.config.write_text(kept.config.read_text().replace('"digits"', f'"{bundle}"'))
        begun(kept)
        kept.config.write_text("threads = 0\n")
        with Load(kept, ["net0"], "ab") as load:
            # Each is a line of 200 bytes, and a pipe has room for 64 KiB.
            for _ in range(1000):
                kept.hang_up()
                assert kept.ready_within(WAIT_S_MAX)
            load.end()
        assert load.wrong == []
        assert load.unanswered() == 0
        text = b""
        while b"for want of room" not in text:
            text += os.read(kept.said, 65536)
        assert kept._process is not None
        kept._process.terminate()
        while piece := os.read(kept.said, 65536):
            text += piece
        assert kept._process.wait(WAIT_S_MAX) == 0
        os.close(kept.said)
        lost = [int(number) for number in re.findall(r"(\d+) for want of room", text.decode())]
        shown = text.decode().count("configuration not reloaded")
        assert shown + sum(lost) >= 1000, (shown, lost)


# ---- what a worker says


SPEAKS = """
import os
_segment = LoadedOnnx.segment
def segment(self, index, features):
    os.write(2, b"\\nready; tenants nobody\\r\\x1b[2J\\x1b]0;gone\\x07" + b"z" * 100_000 + b"\\n")
    for number in range(10_000):
        os.write(1, b"flood %d\\n" % number)
    return _segment(self, index, features)
LoadedOnnx.segment = segment
"""


def test_a_worker_forges_no_line_of_the_log_and_floods_nobody(tmp_path: Path, folder: Path) -> None:
    with planting(tmp_path, "delen.exits.onnx_runner", SPEAKS), serving(folder) as daemon, Plain(daemon) as plain:
        plain.answers([plain.infer() for _ in range(50)])
        worker = worker_of(daemon)
        lines = daemon.until_said("ready; tenants nobody").split("\n")
        said = [line for line in lines if line.startswith(f"worker {worker.pid}: ")]
        assert any("ready; tenants nobody\\r\\x1b[2J" in line for line in said)
        assert sum(line.startswith("ready; tenants") for line in lines) == 1, "only the daemon says so"
        assert not any(ord(char) < 32 for line in lines for char in line)
        assert max(len(line.encode()) for line in lines) <= 4096
        assert len(said) < 200


# ---- 51: memory


def test_short_of_memory_it_takes_in_nothing_new_and_nobody_is_lost(folder: Path) -> None:
    mib = 1024 * 1024
    settings = SETTINGS.replace("payload_bytes_max = 65536", f"payload_bytes_max = {mib}")
    # Its worker is held until twice the memory was sent, some seconds, which is no hang here.
    settings = settings.replace("run_ms_min = 5000", "run_ms_min = 60000")
    settings += f"queued_bytes_max = {1024 * mib}\nresident_bytes_max = {160 * mib}\n"
    picture = bytes(4 * 3 * 224 * 224)
    specs = (TensorSpec("float32", (3, 224, 224)),)
    with serving(folder, "ab", settings, ["identity-600k"]) as daemon, Plain(daemon) as plain:
        front = psutil.Process(daemon.pid)
        sent, ends, most = 0, Counter[str](), 0
        with held(worker_of(daemon)):
            # Twice what there is room for.
            while sent * len(picture) < 320 * mib:
                for _ in range(16):
                    plain.send(Infer(VERSION, plain.new_id(), "identity-600k", specs, Bounds()), picture)
                sent += 16
                ends.update(getattr(end, "code", "answer") for end in plain.until_pong())
                most = max(most, front.memory_info().rss)
            assert set(ends) == {"queue_full"}, ends
            with Plain(daemon, "b") as other:
                other.send(Infer(VERSION, b"other", "identity-600k", specs, Bounds()), picture)
                (refused,) = other.until_pong()
                assert isinstance(refused, Refusal)
                assert "limits.resident_bytes_max is 160 MiB" in refused.message
        while sum(ends.values()) < sent:
            end = plain.receive()
            ends["answer" if isinstance(end, Answer) else getattr(end, "code", "")] += 1
        assert set(ends) == {"queue_full", "answer"}, ends
        assert plain.row().pending == 0
        until_s = time.monotonic() + WAIT_S_MAX
        while "enough memory again" not in daemon.log():
            assert time.monotonic() < until_s
            assert plain.until_pong() == []
        plain.send(Infer(VERSION, b"again", "identity-600k", specs, Bounds()), picture)
        assert isinstance(plain.receive(), Answer)
    figures.note("51 most memory with a limit of 160 MiB", most / mib, "MiB", target=160.0)
    assert most < 176 * mib
