"""What a worker says is shown as its words, line by line, and neither forges the log nor floods it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from delen.daemon.config import Config
from delen.daemon.log_lines import Event, render
from delen.daemon.log_writer import Log
from delen.daemon.worker_process import Hosted
from delen.daemon.worker_words import LINE_BYTES_MAX, LINES_MAX, PIECE_BYTES, WINDOW_US, Voice, Words

HOSTED: Mapping[str, Hosted] = {}


def heard(*pieces: bytes) -> list[str]:
    voice = Voice("w", 0)
    return [line for piece in (*pieces, b"") for line in voice.hear(piece, 0)]


def test_lines_are_whole_however_they_come() -> None:
    assert heard(b"one\ntw", b"o\n", b"\n \nthree") == ["w: one", "w: two", "w: three"]


def test_a_line_without_an_end_is_cut_and_bounded() -> None:
    voice = Voice("w", 0)
    said = [line for _ in range(100) for line in voice.hear(b"x" * 1000, 0)]
    said += voice.hear(b"still the same\nand the next\n", 0)
    assert said == ["w: " + "x" * LINE_BYTES_MAX, "w: and the next"]
    assert len(voice._partial) <= LINE_BYTES_MAX + PIECE_BYTES


def test_a_flood_is_counted_and_told_when_its_window_is_over() -> None:
    voice = Voice("w", 0)
    said = voice.hear(b"".join(b"%d\n" % n for n in range(LINES_MAX + 5)), 10)
    assert len(said) == LINES_MAX
    assert voice.hear(b"more\n", WINDOW_US) == ["w said 5 lines more, which are not shown", "w: more"]


def test_nothing_that_is_said_begins_a_line_of_its_own() -> None:
    hostile = "ready\r\x1b[2K\x1b]0;gone\x07 \u202e tenants a".encode() + b"\xff\xfe\0"
    (said,) = heard(hostile + b"\n")
    for form in ("text", "logfmt", "json"):
        line = render(Event("now", "warning", said, {}), form)
        assert line.count(b"\n") == 1
        assert not {0, 7, 13, 27} & set(line)


# ---- the pipes


class Speaking:
    """Workers that say what a test wants and end, in the place of real ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script = ""
        self.processes: list[subprocess.Popen[bytes]] = []
        popen = subprocess.Popen

        def spawn(_command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
            self.processes.append(popen([sys.executable, "-c", self.script], **options))
            return self.processes[-1]

        monkeypatch.setattr("delen.daemon.worker_process.subprocess.Popen", spawn)
        monkeypatch.setattr("delen.daemon.worker_process.WorkerProcess._tell", lambda _self: None)


def words_of(monkeypatch: pytest.MonkeyPatch, path: Path, *scripts: str) -> list[str]:
    """What the log has of workers that run these scripts, one after the other."""
    speaking = Speaking(monkeypatch)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    log = Log(fd)
    words, workers = Words(log), []
    for speaking.script in scripts:
        workers.append(words.begin(Config(), HOSTED, 0))
    for process in speaking.processes:
        process.wait(60)
    words.close()
    for worker in workers:
        worker.end(0)
    log.close()
    os.close(fd)
    return path.read_text().splitlines()


def test_each_worker_has_its_own_pipe_and_both_streams_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    lines = words_of(
        monkeypatch,
        tmp_path / "log",
        "import os; os.write(1, b'to stdout\\n'); os.write(2, b'last words')",
        "import os; os.write(2, b'ready; all is well\\r\\nreally\\n')",
    )
    said = [line.partition(": ")[2] for line in lines]
    assert sorted(said) == ["last words", "ready; all is well", "really", "to stdout"]
    assert all(line.startswith("worker ") for line in lines)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


@pytest.mark.slow
def test_a_worker_that_says_more_than_a_pipe_holds_is_not_held_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = "import os\nfor n in range(3000): os.write(2, b'%d' % n + b'y' * 1000 + b'\\n')"
    lines = words_of(monkeypatch, tmp_path / "log", script)
    assert len(lines) == LINES_MAX + 1
    assert lines[-1].endswith(f"said {3000 - LINES_MAX} lines more, which are not shown")
