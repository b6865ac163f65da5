"""Writes the daemon's log without ever making it wait: a bounded queue, and a thread of its own that empties it.

Role: `Log` is called by the loop like a function: it throttles, renders and appends, microseconds in all. The thread
writes to the descriptor, which may block for as long as a full disk or a stopped journal lets it; what does not fit
into the queue meanwhile is counted, and said once there is room again.

Does not: rotate files, send anything over a network, or change the descriptor's flags, which others share.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from .aborts import leave_aborts
from .log_lines import RANK, TEXT_CHARS_MAX, Event, Form, Level, Throttle, Value, render

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .config import Config

# How long one line stands for all of its key.
WINDOW_US = 10_000_000
LINES_MAX = 1_000
QUEUE_MAX = 1_024
# What is still queued when the daemon ends gets so long to be written.
CLOSE_S_MAX = 1.0
STDERR = 2


def log_of(config: Config, environ: Mapping[str, str], fd: int = STDERR) -> Log:
    """The log as configured. `environ`: tells by $JOURNAL_STREAM that journald reads `fd`, which then gets levels."""
    limits, status = config.limits, os.fstat(fd)
    return Log(
        fd,
        form=config.log,
        level=config.log_level,
        priority=environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}",
        lines_max=limits.log_lines_max,
        queue_max=limits.log_queue_max,
    )


class Log:
    """Where the daemon's lines go. Calling it never blocks and never raises for what the descriptor does.

    Args:
        fd: descriptor to write to; stays its owner's.
        form: how lines look; see `log_lines`.
        level: the least that is written.
        priority: levels in front of lines for journald.
        lines_max: of all keys together in ten seconds.
        queue_max: lines that may wait to be written.
    """

    def __init__(
        self,
        fd: int = STDERR,
        *,
        form: Form = "text",
        level: Level = "info",
        priority: bool = False,
        lines_max: int = LINES_MAX,
        queue_max: int = QUEUE_MAX,
        clock_us: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
    ) -> None:
        self._fd = fd
        self._form: Form = form
        self._rank = RANK[level]
        self._priority = priority
        self._throttle = Throttle(window_us=WINDOW_US, lines_max=lines_max)
        self._clock_us = clock_us
        self._queue_max = queue_max
        self._queue: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._closed = False
        # Lines there was no room for, since the last one that was written; and ever.
        self._lost = 0
        self.dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="delen-log", daemon=True)
        self._thread.start()

    def __call__(self, text: str, *, level: Level = "info", key: str = "", **fields: Value) -> None:
        """Say one thing.

        Args:
            key: what counts as the same thing; of one key a line in ten seconds is written. Default: the text itself.
            fields: further facts, named in snake_case with their unit last.
        """
        if RANK[level] < self._rank:
            return
        with self._changed:
            kept = text[:TEXT_CHARS_MAX]
            repeated = self._throttle.admit(self._clock_us(), key or kept, level, kept)
            if repeated is not None:
                self._append(Event(_wall(), level, text, fields, repeated))
            # Also for what was kept back: somebody must tell how often.
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, for a second at most; what is said after this is lost."""
        with self._changed:
            self._closed = True
            self._tell_kept(everything=True)
            self._changed.notify()
        self._thread.join(CLOSE_S_MAX)

    def _append(self, event: Event) -> None:
        if self._closed or len(self._queue) >= self._queue_max:
            self._lost += 1
            self.dropped += 1
            return
        self._queue.append(render(event, self._form, priority=self._priority))

    def _tell_kept(self, *, everything: bool = False) -> None:
        """Queue what throttling kept back and what was lost, as far as there is room."""
        now_us = self._clock_us() + (WINDOW_US if everything else 0)
        for kept in self._throttle.due(now_us):
            said = f"{kept.times} more like this were not shown: {kept.text}"
            self._queue_told(Event(_wall(), kept.level, said, {}))
        over, self._throttle.over = self._throttle.over, 0
        lost, self._lost = self._lost, 0
        if over or lost:
            said = f"{over + lost} lines were dropped: {over} for too many in ten seconds (limits.log_lines_max)"
            said = f"{said}, {lost} for want of room (limits.log_queue_max)"
            self._queue_told(Event(_wall(), "warning", said, {}))

    def _queue_told(self, event: Event) -> None:
        # Beyond the queue's limit, but few: one per key remembered, and one.
        self._queue.append(render(event, self._form, priority=self._priority))

    def _write_all(self) -> None:
        leave_aborts()
        while True:
            with self._changed:
                if not self._queue:
                    self._tell_kept()
                if not self._queue:
                    if self._closed:
                        return
                    self._changed.wait(self._wait_s())
                    continue
                line = self._queue.popleft()
            self._write(line)

    def _wait_s(self) -> float | None:
        wake_us = self._throttle.wake_at()
        return None if wake_us is None else max(0.0, (wake_us - self._clock_us()) / 1e6)

    def _write(self, line: bytes) -> None:
        """All of it, or as much as can be: a descriptor that is broken is no reason to serve less."""
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:
                # Somebody made what we share non-blocking; wait for room here, where waiting hurts nobody.
                room = select.poll()
                room.register(self._fd, select.POLLOUT)
                room.poll()
            except OSError:
                self.dropped += 1
                return


def _wall() -> str:
    now_ns = time.time_ns()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_ns // 1_000_000_000))
    return f"{whole}.{now_ns // 1_000_000 % 1000:03}Z"
