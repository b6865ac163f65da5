"""Where a daemon that its watchdog aborts shows what it was doing: in the loop's own thread, never in another.

Role: a signal to a process is taken by any thread that lets it in. What `faulthandler` then writes down of a thread
that runs on is read while it changes: half a log, and a segmentation fault. Flow: each thread but the loop's begins
with `leave_aborts`, and libraries that begin threads when they are imported are imported in `threads_leave_aborts`.
Does not: handle signals, or keep `abort()` in a thread's own code from ending the process.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


def leave_aborts() -> None:
    """From now on this thread leaves SIGABRT to others."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})


@contextlib.contextmanager
def threads_leave_aborts() -> Iterator[None]:
    """What threads begin in this block leave SIGABRT to others; so do processes, all their lives: start none here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGABRT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
