"""The worker as a service of its own: it finds the front, is bound to its life, and says to systemd how it is.

Role: what `worker.py` does before and beside its work when systemd has started it (`--socket PATH`), and not the front.
Flow: connect, again and again until the front is there -> Begin -> `hold_to` -> as ever. The end of the front, or of
its patience, is the worker's; its service manager starts the next one.

Does not: run anything.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
from pathlib import Path

from .notify import Notifier
from .pipe import PACKET_BYTES_MAX, Begin, Pipe, PipeClosed

# How often to look for a front that is not there yet.
LOOK_S = 0.1
# Loading may mean building an engine; what that may take is the front's to say (`limits.start_ms_max`).
BUSY_US = 3_600_000_000


class Alive:
    """Tells the service manager that this process lives, if it wants to know."""

    def __init__(self, notifier: Notifier | None = None) -> None:
        """None: there is nobody to tell; the front that started this process looks after it."""
        self._notifier = Notifier() if notifier is None else notifier
        watchdog_us = self._notifier.watchdog_us
        self._every_us = None if watchdog_us is None else watchdog_us // 4
        self._due_us = 0

    def wait(self, fd: int) -> None:
        """Until there is something to read, or the other side has gone."""
        if self._every_us is None:
            return
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        while not poller.poll(self._every_us // 1000):
            self._notifier.alive()

    def worked(self, now_us: int) -> None:
        """A message has been dealt with."""
        if self._every_us is not None and now_us >= self._due_us:
            self._due_us = now_us + self._every_us
            self._notifier.alive()

    def busy(self, what: str) -> None:
        """What comes now takes as long as it takes."""
        self._notifier.status(what)
        self._notifier.patience(BUSY_US)

    def done(self, what: str) -> None:
        """It is over."""
        self._notifier.patience(None)
        self._notifier.status(what)

    def up(self) -> None:
        """The process is there, and waits for the front: whether it is of use, the front says."""
        self._notifier.ready("waiting for the front")

    def waits(self) -> None:
        """Still so."""
        if self._every_us is not None:
            self._notifier.alive()


def connect(path: Path, alive: Alive) -> Pipe:
    """The pipe to the front, as soon as there is one."""
    alive.up()
    while True:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * PACKET_BYTES_MAX)
        try:
            end.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            end.close()
            alive.waits()
            select.select([], [], [], LOOK_S)
        else:
            return Pipe(end)


def begin(pipe: Pipe) -> Begin:
    """The front's first message, after which this process is bound to it. Raises PipeClosed."""
    message, lifeline = pipe.receive_with_fd()
    assert isinstance(message, Begin)
    hold_to(lifeline)
    return message


def hold_to(lifeline: int) -> None:
    """Have the kernel kill this process once the other end of this pipe is closed, whatever it does at that time.

    Source: fcntl(2), signal-driven I/O with a signal of one's choice. Raises PipeClosed: it is closed already.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poller = select.poll()
    poller.register(lifeline, select.POLLIN)
    if poller.poll(0):
        raise PipeClosed
