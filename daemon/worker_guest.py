"""A worker that systemd started, not the front: it comes to a socket, shows by its uid who it is, and is told the rest.

Role: `WorkerDoor` is that socket; `WorkerGuest` is a worker as `worker_process.py` has it, from before it has come
until it is gone. Who starts it restarts it; the front only lets go of it. Since the front may not signal another user's
process, it holds the writing end of a pipe, and the worker has asked the kernel to kill it when that closes: so neither
the end of the front nor the end of a hung worker needs anybody's consent.
Flow: bind -> a worker connects -> uid checked -> Begin with the pipe's other end -> Attach, Load as ever.

Does not: know what a worker does.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

from .config import Config
from .pipe import Begin, Pipe, PipeClosed, ToFront
from .socket_modes import EndpointError, let_in, prepare
from .toml_file import ConfigError
from .worker_process import Hosted, WorkerProcess

# A worker and its spare; more are not waited for.
BACKLOG = 4
_CREDENTIALS = struct.Struct("3i")


class WorkerDoor:
    """The socket that workers come to. One for all of them."""

    def __init__(self, path: Path, user: str) -> None:
        """Bind. `user`: whose processes are let in, by name or number; empty: this process's own.

        Raises:
            EndpointError: the socket cannot be made. ConfigError: there is no such user.
        """
        self._path = path
        self._uid = uid_of(user)
        mask = prepare(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        before = os.umask(mask)
        try:
            self._socket.bind(str(path))
        except OSError as error:
            self._socket.close()
            raise EndpointError(f"cannot bind {path}: {error.strerror}") from error
        finally:
            os.umask(before)
        let_in(path, (self._uid,))
        self._socket.listen(BACKLOG)
        # Others who tried, since somebody was told.
        self.strangers: list[int] = []

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self) -> tuple[socket.socket, int] | None:
        """The next worker that waits, and its process id; None while there is none."""
        while True:
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return None
            pid, uid, _ = _CREDENTIALS.unpack(
                connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if uid == self._uid:
                return connection, pid
            connection.close()
            self.strangers.append(uid)

    def guest(self, config: Config, hosted: Mapping[str, Hosted], now_us: int) -> WorkerGuest:
        """One that is expected from now on."""
        return WorkerGuest(self, config, hosted, now_us)

    def close(self) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


class WorkerGuest(WorkerProcess):
    """A worker that has come, or is still waited for."""

    started_here = False

    def __init__(self, door: WorkerDoor, config: Config, hosted: Mapping[str, Hosted], now_us: int) -> None:
        self._door = door
        self._pid = 0
        self._pidfd = self._lifeline = -1
        self._came = False
        super().__init__(config, hosted, now_us)

    def _start(self) -> None:
        """Nothing to start: it comes when it comes."""

    def _let_in(self) -> bool:
        """Take in a worker if one has come; those that came and are gone again were nobody's, and the next may do."""
        while (come := self._door.accept()) is not None:
            with contextlib.suppress(PipeClosed):
                return self._welcome(*come)
            self.end(self.killed_us)
            self._let_go()
        return False

    def _welcome(self, connection: socket.socket, pid: int) -> bool:
        """Tell it what it would have been started with. Raises PipeClosed where it is gone."""
        self._pid = pid
        self._came = True
        self._pipe = Pipe.of(connection)
        with contextlib.suppress(OSError):
            # For when it has ended; where it has already, its pipe says so.
            self._pidfd = os.pidfd_open(self._pid)
        theirs, self._lifeline = os.pipe2(os.O_CLOEXEC)
        config = self._config
        try:
            self._pipe.send(Begin(config.engine, config.device, config.threads, config.spin_us), theirs)
        finally:
            os.close(theirs)
        self._tell()
        return True

    def _let_go(self) -> None:
        """Wait for another."""
        self._came, self._pid = False, 0
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    # ---- life

    @property
    def pid(self) -> int:
        return self._pid

    def end(self, now_us: int) -> None:
        """Let go of it: the kernel kills it."""
        self.kill()
        if self._came:
            self._pipe.close()
        self._arena = None
        self.killed_us = now_us

    def kill(self) -> None:
        """Kill it as an accident would."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def gone(self) -> bool:
        """Whether the process has ended; never waits. One whose end cannot be seen counts as gone once it is let go."""
        return self._pidfd < 0 or self._ended(0)

    def stop(self, wait_s: float = 1.0) -> bool:
        """Close the pipe, which lets it finish; then let go of it. False if it outlives both."""
        if self._came:
            self._pipe.close()
        for _ in range(2):
            if self._pidfd < 0 or self._ended(round(wait_s * 1000)):
                return True
            self.kill()
        return False

    def said(self) -> str:
        """That it has ended, if it ever came; how, its own service manager knows."""
        return "it ended; `journalctl -u 'delen-engine@*'` says how" if self._came and self.gone() else ""

    def _ended(self, wait_ms: int) -> bool:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(wait_ms):
            return False
        os.close(self._pidfd)
        self._pidfd = -1
        return True

    # ---- messages

    def fileno(self) -> int:
        """Until it has come, the door's."""
        return self._pipe.fileno() if self._came else self._door.fileno()

    def receive(self) -> ToFront | None:
        """Its next message, or None. Raises PipeClosed when it is gone."""
        if not self._came and not self._let_in():
            return None
        return super().receive()


def uid_of(user: str) -> int:
    """A user's number. Raises ConfigError."""
    if not user:
        return os.getuid()
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"worker_user is {user!r}, and there is no such user; make it, or name another") from None
