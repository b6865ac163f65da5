"""The lock file that keeps a second daemon from stealing the sockets: binding an ipc path silently takes it over.

Role: one exclusive lock per runtime directory. Does not: open sockets.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from .socket_modes import EndpointError, make_folder


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
            directory.parent.mkdir(parents=True, exist_ok=True)
            make_folder(directory, 0o711)
            self._fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise EndpointError(
                f"cannot use {directory}: {error.strerror}; name another with --runtime-dir or make it writable"
            ) from error
        try:
            _check(directory)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._fd, 20)
            os.close(self._fd)
            named = f" (pid {int(holder)})" if holder.isdigit() else ""
            raise AlreadyRunning(
                f"another delen daemon{named} runs in {directory}; stop it, or use another --runtime-dir"
            ) from error
        except EndpointError:
            os.close(self._fd)
            raise
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._fd)


def _check(directory: Path) -> None:
    """Whoever can write here could put a directory of their own in a tenant's place. Raises EndpointError."""
    found, link = directory.stat(), directory.lstat()
    if found.st_uid != os.getuid() or link.st_uid not in (0, os.getuid()):
        raise EndpointError(f"{directory} belongs to another user; name another with --runtime-dir")
    # Where every user has a group of their own, directories are the group's to write as well.
    shared = stat.S_IWOTH if found.st_gid == os.getgid() else stat.S_IWOTH | stat.S_IWGRP
    if found.st_mode & shared:
        raise EndpointError(f"{directory} can be written by others; chmod go-w {directory}")
