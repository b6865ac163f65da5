"""The log's writer: what is said arrives in order, a descriptor that blocks delays nobody, and what is lost is told."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

from delen.clients.client import Client
from delen.daemon.log_writer import LINES_MAX, WINDOW_US, Log
from delen.tests.daemon_fixture import WAIT_S_MAX

PIPE_BYTES = 4096
NONE_WAITED = "0 for want of room (limits.log_queue_max)"


class Pipe(NamedTuple):
    read_fd: int
    write_fd: int

    def read_all(self) -> list[str]:
        """Lines until the writing end is closed."""
        os.close(self.write_fd)
        with open(self.read_fd, encoding="utf-8", closefd=False) as file:
            return file.read().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    yield pipe
    os.close(pipe.read_fd)


def fill(write_fd: int) -> int:
    """Write until nothing more goes in; how many bytes that were."""
    os.set_blocking(write_fd, False)
    filled = 0
    try:
        while True:
            filled += os.write(write_fd, b"x" * PIPE_BYTES)
    except BlockingIOError:
        os.set_blocking(write_fd, True)
    return filled


def empty(read_fd: int, filled: int) -> None:
    """Take out what was filled in."""
    while filled:
        filled -= len(os.read(read_fd, filled))


def test_lines_come_in_order_with_their_fields(pipe: Pipe) -> None:
    log = Log(pipe.write_fd, priority=True)
    log("first")
    log("second", level="warning", tenant="a b", count=2)
    log("unimportant", level="debug")
    log.close()
    assert pipe.read_all() == ["<6>first", '<4>second tenant="a b" count=2']


def test_a_flood_of_one_kind_is_one_line_and_a_count(pipe: Pipe) -> None:
    log = Log(pipe.write_fd)
    for index in range(500):
        log(f"refused {index}", key="refused")
    log("another thing")
    log.close()
    assert pipe.read_all() == ["refused 0", "another thing", "499 more like this were not shown: refused 499"]


def test_the_count_is_told_once_the_window_is_over(pipe: Pipe) -> None:
    now_us = [0]
    log = Log(pipe.write_fd, clock_us=lambda: now_us[0])
    log("no", key="k")
    log("no", key="k")
    now_us[0] = WINDOW_US
    log("no", key="k")
    log.close()
    assert pipe.read_all() in (["no", "no repeated=1"], ["no", "1 more like this were not shown: no", "no"])


def test_a_descriptor_that_takes_nothing_delays_nobody_and_what_is_lost_is_told(pipe: Pipe) -> None:
    filled = fill(pipe.write_fd)
    log = Log(pipe.write_fd, queue_max=10)
    # The pipe is full: were one of these to wait for it, this would never end.
    for index in range(100):
        log(f"line {index}")
    assert 85 <= log.dropped <= 90
    empty(pipe.read_fd, filled)
    log.close()
    *lines, last = pipe.read_all()
    assert lines == [f"line {index}" for index in range(100 - log.dropped)]
    assert last.startswith(f"{log.dropped} lines were dropped: 0 for too many in ten seconds (limits.log_lines_max), ")
    assert last.endswith(f", {log.dropped} for want of room (limits.log_queue_max)")


def test_a_descriptor_that_another_made_non_blocking_gets_all_lines_once_there_is_room(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, poll = threading.Event(), select.poll

    def noted() -> select.poll:
        waits.set()
        return poll()

    monkeypatch.setattr(select, "poll", noted)
    filled = fill(pipe.write_fd)
    os.set_blocking(pipe.write_fd, False)
    log = Log(pipe.write_fd)
    for index in range(100):
        log(f"line {index}")
    assert waits.wait(WAIT_S_MAX)
    empty(pipe.read_fd, filled)
    log.close()
    assert pipe.read_all() == [f"line {index}" for index in range(100)]


def test_too_many_lines_of_all_kinds_are_told_too(pipe: Pipe) -> None:
    log = Log(pipe.write_fd, lines_max=3, clock_us=lambda: 0)
    for index in range(8):
        log(f"line {index}")
    log.close()
    assert pipe.read_all() == [
        *("line 0", "line 1", "line 2"),
        f"5 lines were dropped: 5 for too many in ten seconds (limits.log_lines_max), {NONE_WAITED}",
    ]
    assert LINES_MAX < 10_000


def test_a_descriptor_that_is_broken_raises_nothing() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    log = Log(write_fd)
    log("nobody reads this")
    log.close()
    assert log.dropped == 1
    os.close(write_fd)


def test_what_is_said_after_the_end_is_lost_and_blocks_nobody(pipe: Pipe) -> None:
    log = Log(pipe.write_fd)
    log.close()
    log("too late")
    assert pipe.read_all() == []


@pytest.mark.e2e
@pytest.mark.slow
def test_a_daemon_whose_log_nobody_reads_serves_and_ends(pipe: Pipe, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="serves with ONNX Runtime: pip install 'delen[onnx]'")
    fill(pipe.write_fd)
    ready_read, ready_write = os.pipe()
    places = ["--runtime-dir", str(tmp_path / "run"), "--state-dir", str(tmp_path / "state")]
    command = [sys.executable, "-m", "delen", "serve", "--dev", "--tenant", "a", "--network", "digits", *places]
    with subprocess.Popen(
        [*command, "--ready-fd", str(ready_write)], stderr=pipe.write_fd, pass_fds=[ready_write]
    ) as daemon:
        os.close(ready_write)
        assert os.read(ready_read, 1) == b"1"
        os.close(ready_read)
        with Client(endpoint=f"ipc://{tmp_path}/run/t/a/sock", timeout_s=WAIT_S_MAX) as client:
            (worker,) = psutil.Process(daemon.pid).children()
            client.infer("digits", np.zeros((1, 8, 8), np.float32))
            # What is said of that goes nowhere, and the next one is served all the same.
            worker.kill()
            client.infer("digits", np.zeros((1, 8, 8), np.float32))
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(WAIT_S_MAX) == 0
