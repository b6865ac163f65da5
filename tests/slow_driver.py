"""A GPU's driver whose writes come back when a test says so, or fail."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from delen.profiles import board_clocks
from delen.profiles.board_clocks import ClockError


class SlowDriver:
    """In place of what writes to devfreq's files. `written`: what has come back, in order, kHz."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.written: list[tuple[str, int]] = []
        self.fails = False
        self._write = board_clocks._write
        self._open, self._asked = Event(), Event()
        self._open.set()
        monkeypatch.setattr(board_clocks, "_write", self._one)

    def hang(self) -> None:
        """From now on no write comes back."""
        self._asked.clear()
        self._open.clear()

    def asked(self) -> None:
        """Wait until a write hangs."""
        assert self._asked.wait(5)

    def answer(self) -> None:
        """All writes come back, those that hang first."""
        self._open.set()

    def _one(self, path: Path, hertz: int) -> None:
        if not self._open.is_set():
            self._asked.set()
            assert self._open.wait(5)
        if self.fails:
            raise ClockError("busy")
        self._write(path, hertz)
        self.written.append((path.name, hertz // 1000))
