"""What workers say on stdout and stderr, as lines of the daemon's log: escaped, attributed, and no more than may be.

Role: an engine's library, or an exploited engine, writes what it likes there, and the log's reader must not take that
for what the daemon says. `Words.begin` starts a worker with a pipe for both; a thread of its own reads all of them, so
that neither a worker that says much nor a loop that is busy waits for the other. Of a flood it takes a piece at a time
with pauses between: it costs the worker time, and nobody else.

Does not: understand what is said; a worker that systemd started says it to the journal, under its own unit's name.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from .aborts import leave_aborts
from .config import Config
from .log_writer import Log
from .worker_early import Early
from .worker_process import Hosted, WorkerProcess

# A traceback is some 30 lines; whoever says more than this in a window has nothing new to say.
LINES_MAX, WINDOW_US = 60, 10_000_000
# A line longer than the log would show is cut, so that one without an end is bounded.
LINE_BYTES_MAX = 2048
PIECE_BYTES = 64 * 1024
PAUSE_S = 0.01
CLOSE_S_MAX = 1.0


class Voice:
    """One worker's words, taken in as bytes as they come and given out as lines, so many of them in a window."""

    def __init__(self, name: str, now_us: int) -> None:
        self._name = name
        self._partial = b""
        self._began_us, self._count, self._kept_back = now_us, 0, 0
        # In the middle of a line whose beginning has been given out.
        self._cut = False

    def hear(self, data: bytes, now_us: int) -> list[str]:
        """What there is to say of this piece; an empty one is the end."""
        said: list[str] = []
        if now_us - self._began_us >= WINDOW_US or not data:
            said += self._more()
            self._began_us, self._count = now_us, 0
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            said += self._say(line)
            self._cut = False
        if len(self._partial) > LINE_BYTES_MAX or (self._partial and not data):
            said += self._say(self._partial)
            self._partial, self._cut = b"", bool(data)
        return said

    def _say(self, line: bytes) -> list[str]:
        text = line[:LINE_BYTES_MAX].decode(errors="replace").rstrip()
        if self._cut or not text:
            return []
        self._count += 1
        if self._count > LINES_MAX:
            self._kept_back += 1
            return []
        return [f"{self._name}: {text}"]

    def _more(self) -> list[str]:
        count, self._kept_back = self._kept_back, 0
        return [f"{self._name} said {count} lines more, which are not shown"] if count else []


class Words:
    """The pipes of all workers that this process has started, and the thread that reads them."""

    def __init__(
        self,
        note: Log,
        early: Early | None = None,
        *,
        clock_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        """`early`: a worker that has been started already; the first that is wanted."""
        self._note = note
        self._early = early
        self._clock_us = clock_us
        self._voices: dict[int, Voice] = {}
        self._epoll = select.epoll()
        self._over = threading.Event()
        self._ended, self._end = os.pipe2(os.O_CLOEXEC)
        self._epoll.register(self._ended, select.EPOLLIN)
        self._thread = threading.Thread(target=self._listen, name="delen-words", daemon=True)
        self._thread.start()

    def begin(self, config: Config, hosted: Mapping[str, Hosted], now_us: int) -> WorkerProcess:
        """Start a worker whose words come here. Raises OSError where no process can be started."""
        early, self._early = self._early, None
        if early is not None:
            worker = WorkerProcess(config, hosted, now_us, early=early)
            self._hear_from(early.voice, worker)
            return worker
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            worker = WorkerProcess(config, hosted, now_us, voice=theirs)
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._hear_from(ours, worker)
        return worker

    def _hear_from(self, fd: int, worker: WorkerProcess) -> None:
        os.set_blocking(fd, False)
        self._voices[fd] = Voice(f"worker {worker.pid}", self._clock_us())
        self._epoll.register(fd, select.EPOLLIN)

    def close(self) -> None:
        """Take in the last words, for a second at most."""
        self._over.set()
        with suppress(OSError):
            os.close(self._end)
        self._thread.join(CLOSE_S_MAX)

    def _listen(self) -> None:
        leave_aborts()
        while not self._over.is_set():
            sizes = [self._hear(fd) for fd, _ in self._epoll.poll() if fd != self._ended]
            if max(sizes, default=0) >= PIECE_BYTES:
                self._over.wait(PAUSE_S)
        for fd in list(self._voices):
            # As much as a pipe holds.
            while self._hear(fd) == PIECE_BYTES:
                pass
            if fd in self._voices:
                self._forget(fd)
        self._epoll.close()
        os.close(self._ended)

    def _hear(self, fd: int) -> int:
        """Read one piece; returns its size."""
        voice = self._voices[fd]
        try:
            data = os.read(fd, PIECE_BYTES)
        except BlockingIOError:
            return 0
        for text in voice.hear(data, self._clock_us()):
            self._note(text, level="warning")
        if not data:
            self._forget(fd)
        return len(data)

    def _forget(self, fd: int) -> None:
        for text in self._voices.pop(fd).hear(b"", self._clock_us()):
            self._note(text, level="warning")
        self._epoll.unregister(fd)
        os.close(fd)
