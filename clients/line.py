"""The blocking client's socket, and a way for other threads to wake who waits on it.

Role: one DEALER plus a pipe, watched together. All but `wake` is for the one thread that leads at the time.
Does not: understand messages, keep time, lock (its owner does).
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

import zmq

from .wire import Frames

# Messages read before those they end are told, so that one flood cannot starve the rest.
READ_COUNT_MAX = 64
# select(2) cannot watch higher file descriptors; it is preferred for short waits since poll(2) counts milliseconds.
SELECT_FD_MAX = 1024
SHORT_WAIT_US = 5_000


class Line:
    """A connected DEALER of one client."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._socket_fd = int(socket.getsockopt(zmq.FD))
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._poll = select.poll()
        self._poll.register(self._socket_fd, select.POLLIN)
        self._poll.register(self._wake_read, select.POLLIN)
        self._selectable = max(self._socket_fd, self._wake_read) < SELECT_FD_MAX

    def send(self, frames: Frames) -> bool:
        """Hand one message to the socket; False when it takes no more now, or has no connection.

        Frames are copied: up to 600 KB that was measured to cost no more than sharing them.
        """
        send = self._socket.send
        last = len(frames) - 1
        try:
            for index in range(last):
                send(frames[index], zmq.SNDMORE | zmq.NOBLOCK)
            send(frames[last], zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def messages(self) -> Iterator[list[bytes]]:
        """What has arrived, at most READ_COUNT_MAX messages."""
        socket = self._socket
        for _ in range(READ_COUNT_MAX):
            if not int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return
            frames: list[bytes] = [socket.recv(zmq.NOBLOCK)]
            while socket.getsockopt(zmq.RCVMORE):
                frames.append(socket.recv(zmq.NOBLOCK))
            yield frames

    def wait(self, wait_us: int, *, to_send: bool) -> None:
        """Until there may be something to read (or room `to_send`), `wake` is called, or the time is over.

        May end early. The socket's descriptor tells changes only, so its state is asked before each wait.
        """
        ready = zmq.POLLIN | zmq.POLLOUT if to_send else zmq.POLLIN
        if wait_us <= 0 or int(self._socket.getsockopt(zmq.EVENTS)) & ready:
            return
        if wait_us < SHORT_WAIT_US and self._selectable:
            woken = self._wake_read in select.select([self._socket_fd, self._wake_read], [], [], wait_us / 1e6)[0]
        else:
            woken = any(fd == self._wake_read for fd, _ in self._poll.poll(wait_us // 1000 + 1))
        if woken:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def wake(self) -> None:
        """End a `wait` of another thread, now or the next one. Its owner never calls it while closing."""
        if self._wake_write >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Close the socket without waiting for what is unsent, and the pipe."""
        self._socket.close(linger=0)
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._wake_write = -1
