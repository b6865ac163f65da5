"""The lock file that keeps a second daemon from stealing the sockets: binding an ipc path silently takes it over.

Role: one exclusive lock per runtime directory. Does not: open sockets.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .socket_modes import EndpointError


class AlreadyRunning(RuntimeError):
    """Another daemon holds this runtime directory."""


class RuntimeLock:
    """Held from before the first bind until the process ends; the kernel lets go of it whatever happens."""

    def __init__(self, directory: Path) -> None:
        """Make the directory, owned and mode 0711 or stricter, and take its lock.

        Raises:
            AlreadyRunning: another process holds it. EndpointError: the directory cannot be used.
        """
        try:
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EndpointError(
                f"cannot use {directory}: {error.strerror}; name another with --runtime-dir or make it writable"
            ) from error
        if directory.stat().st_uid != os.getuid():
            os.close(self._fd)
            raise EndpointError(f"{directory} belongs to another user; name another with --runtime-dir")
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._fd)
            raise AlreadyRunning(
                f"another delen daemon runs in {directory}; stop it, or use another --runtime-dir"
            ) from error

    def release(self) -> None:
        os.close(self._fd)
