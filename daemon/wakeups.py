"""What ends the loop's wait from outside of it: signals, and threads that have something for it.

Role: a pair of sockets, one end in the loop's poller, the other written to by whoever wants a turn made. A signal's
handler does nothing by itself: it notes a wish (`lifecycle.py`), and the byte that the interpreter writes wakes the
loop. Does not: say why it was woken.
"""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from functools import partial

from .lifecycle import Lifecycle


class Wakeups:
    """Both ends, open until `close`."""

    def __init__(self) -> None:
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self.fd = self._read.fileno()

    def catch(self, lifecycle: Lifecycle) -> None:
        """From now on signals are wishes. Main thread only."""
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lifecycle.end)
        signal.signal(signal.SIGHUP, partial(lifecycle.hang_up, os.isatty(0)))

    def rouse(self) -> None:
        """Have a turn made soon; from any thread."""
        with suppress(OSError):
            self._write.send(b"\0")

    def read(self) -> None:
        """The turn is being made. Raises BlockingIOError: nobody wanted one."""
        self._read.recv(64)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._read.close()
        self._write.close()
