"""A child's lines are taken without waiting; one that ends, hangs or babbles is dealt with."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from delen.profiles.meter_lines import BACKOFF_S_MIN, LINES_MAX, Lines

pytestmark = pytest.mark.e2e


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(lines: Lines, done: Callable[[list[str]], bool]) -> list[str]:
    """What it has said by the time that is enough; fails after a long while."""
    said: list[str] = []
    end_s = time.monotonic() + 20
    while not done(said):
        assert time.monotonic() < end_s, said
        said += lines.take()
        time.sleep(0.002)
    return said


def test_whole_lines_come_and_halves_wait() -> None:
    code = "import sys; sys.stdout.write('one\\ntw'); sys.stdout.flush(); sys.stdin.readline()"
    lines = Lines(python(code))
    assert until(lines, lambda said: bool(said)) == ["one"]
    assert lines.take() == []
    lines.close()
    assert not lines.running


def test_one_that_fails_is_started_again_later_and_later() -> None:
    now_s = [0.0]
    lines = Lines(python("raise SystemExit(3)"), clock_ns=lambda: int(now_s[0] * 1e9))
    for starts in (1, 2, 3):
        until(lines, lambda _: not lines.running and lines.starts == starts)  # noqa: B023
        assert lines.said.endswith("ended with 3")
        lines.take()
        assert lines.starts == starts, "not before its time"
        now_s[0] += BACKOFF_S_MIN * 2 ** (starts - 1)
    lines.close()


def test_one_that_ends_well_is_run_again_where_that_is_wanted() -> None:
    now_s = [0.0]
    lines = Lines(python("print(7)"), again_s=1.0, clock_ns=lambda: int(now_s[0] * 1e9))
    assert until(lines, lambda _: lines.starts == 1 and not lines.running) == ["7"]
    now_s[0] += 1
    assert until(lines, lambda said: "7" in said) == ["7"]
    lines.close()


def test_one_that_cannot_be_started_says_so() -> None:
    lines = Lines(["no-such-command-anywhere"])
    assert lines.take() == []
    assert "no-such-command-anywhere" in lines.said
    lines.close()


def test_a_command_that_can_be_none_says_so() -> None:
    lines = Lines(["cat", "--", "a\0b"])
    assert lines.take() == []
    assert "null byte" in lines.said
    lines.close()


def test_of_one_that_says_far_too_much_the_last_is_heard() -> None:
    # All of it fits into the pipe, so it ends without being listened to.
    lines = Lines(python("print('\\n'.join(map(str, range(10000))))"))
    said = lines.take()
    assert lines._child is not None
    lines._child.wait(20)
    said += lines.take()
    assert said[-3:] == ["9997", "9998", "9999"]
    # At each of the times it was looked at.
    assert len(said) <= 4 * LINES_MAX
    lines.close()


def test_one_that_hangs_is_ended() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    lines = Lines(python(code))
    until(lines, lambda said: "up" in said)
    began_s = time.monotonic()
    lines.close()
    assert not lines.running
    assert time.monotonic() - began_s < 5


def test_the_sampler_ends_quietly_where_there_is_nothing_to_read() -> None:
    command = [sys.executable, "-m", "delen.profiles.meter_process", "none", "cpu"]
    # Its input stays open: the thread that waits there must not disturb its end.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sampler:
        assert sampler.wait(20) == 0
        assert sampler.stdout is not None
        assert sampler.stderr is not None
        assert sampler.stdout.read() == b'{"state":"none"}\n'
        assert sampler.stderr.read() == b""


def test_one_that_babbles_costs_bounded_memory() -> None:
    lines = Lines(python("import sys\nwhile True: sys.stdout.write('x' * 100000)"))
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s:
        assert lines.take() == []
        assert len(lines._rest) <= 1 << 16
    lines.kill()
    lines.close()
