"""The blocking client's socket, and a way for other threads to wake who waits on it.

Role: one DEALER plus a pipe, watched together. All but `wake` is for the one thread that leads at the time.
Does not: understand messages, keep time, lock (its owner does).
"""

from __future__ import annotations

import contextlib
import os
import select

import zmq

from .wire import Frames

# Messages read before those they end are told, so that one flood cannot starve the rest.
READ_COUNT_MAX = 64
# select(2) cannot watch higher file descriptors; it is preferred for short waits since poll(2) counts milliseconds.
SELECT_FD_MAX = 1024
SHORT_WAIT_US = 5_000
# As plain numbers: combining the library's own costs a microsecond each time.
_NOW = int(zmq.NOBLOCK)
_MORE_NOW = int(zmq.SNDMORE | zmq.NOBLOCK)
_READABLE = int(zmq.POLLIN)
_WRITABLE = int(zmq.POLLOUT)


class Line:
    """A connected DEALER of one client."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
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
        send = self.socket.send
        last = len(frames) - 1
        try:
            for index in range(last):
                send(frames[index], _MORE_NOW)
            send(frames[last], _NOW)
        except zmq.Again:
            return False
        return True

    def receive(self) -> list[bytes] | None:
        """The next message that has arrived, or None."""
        receive = self.socket.recv
        try:
            frame = receive(_NOW, copy=False)
        except zmq.Again:
            return None
        # A frame knows whether more follow; asking the socket costs as much as reading from it.
        frames = [frame.bytes]
        while frame.more:
            frame = receive(_NOW, copy=False)
            frames.append(frame.bytes)
        return frames

    def wait(self, wait_us: int, *, to_send: bool) -> bool:
        """Until there may be something to read (or room `to_send`), `wake` is called, or the time is over.

        May end early. The socket's descriptor tells changes only, so its state is asked before each wait.

        Returns: False when surely nothing came that could be read.
        """
        if wait_us <= 0:
            return True
        state = int(self.socket.getsockopt(zmq.EVENTS))
        if state & _READABLE:
            return True
        if to_send and state & _WRITABLE:
            return False
        if wait_us < SHORT_WAIT_US and self._selectable:
            ready = select.select([self._socket_fd, self._wake_read], [], [], wait_us / 1e6)[0]
        else:
            ready = [fd for fd, _ in self._poll.poll(wait_us // 1000 + 1)]
        if self._wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)
        return self._socket_fd in ready

    def wake(self) -> None:
        """End a `wait` of another thread, now or the next one. Its owner never calls it while closing."""
        if self._wake_write >= 0:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    def close(self) -> None:
        """Close the socket without waiting for what is unsent, and the pipe."""
        self.socket.close(linger=0)
        os.close(self._wake_read)
        os.close(self._wake_write)
        self._wake_write = -1
