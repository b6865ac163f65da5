"""Files that are there whole or not at all, and that outlast a power cut once their writer has returned.

Role: how delen writes every small file that must not be lost or half written: profiles, calibrations, weights, keys,
tenants. Importable by every room. Flow: a hidden file in the same directory is written, synced and renamed, then the
directory is synced; only then has the file been written. A killed writer leaves its hidden file behind, and the next
one that writes the same file removes it: a lock, which dies with its holder, tells a dead writer's from one at work.

Does not: know what is in a file, or keep a copy of it (`exits/state_files.py` does).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias

# A callable gets a stream and writes into it: for what is too large to lie in memory twice.
Content: TypeAlias = bytes | bytearray | memoryview | Callable[[BinaryIO], object]
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a pipe that somebody left in a file's place would wait for ever.
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def write_whole(path: Path, content: Content, *, mode: int = 0o644) -> None:
    """Write a file, or replace one. What was there stays until the new one is on the disk, and then is gone at once.

    Directories on the way are made. A link at `path` is replaced, not followed.

    Raises:
        OSError: the disk refused. The old file stands, or, where the very last sync failed, perhaps the new one.
    """
    with _part(path, content, mode) as part:
        # Not Path.replace: tests put another `os` here to fail each call in turn.
        os.replace(part, path)  # noqa: PTH105
        settle(path.parent)


def create_whole(path: Path, content: Content, *, mode: int = 0o600) -> None:
    """Write a file that must not be there yet: for secrets, which are never overwritten.

    Raises:
        FileExistsError: there is something by that name. OSError: the disk refused.
    """
    with _part(path, content, mode) as part:
        os.link(part, path)
        # The second name goes before anybody is told of the first, lest a secret outlive its removal under it.
        os.unlink(part)  # noqa: PTH108
        settle(path.parent)


def read_bounded(
    path: Path, bytes_max: int, check: Callable[[os.stat_result, int], None] | None = None, *, follow: bool = False
) -> bytes:
    """A whole file that is one, and no larger than it may be.

    Args:
        check: is given what the file is and its descriptor before it is read; raises where it is not to be trusted.
        follow: `path` may be a link.
    Raises:
        OSError: it cannot be read, or is a link (ELOOP), a directory, pipe or device (EINVAL), too large (EFBIG).
    """
    handle = os.open(path, _OLD & ~os.O_NOFOLLOW if follow else _OLD)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if check is not None:
            check(found, handle)
        data = bytearray()
        # One byte more than there may be, so that a file that grows meanwhile is found out.
        while len(data) <= bytes_max:
            piece = os.read(handle, min(max(found.st_size - len(data), 0) + 1, bytes_max + 1 - len(data)))
            if not piece:
                return bytes(data)
            data += piece
        raise OSError(errno.EFBIG, f"it has more than {bytes_max} bytes", str(path))
    finally:
        os.close(handle)


def make_directory(path: Path, *, mode: int = 0o755) -> None:
    """Make a directory and those above it, each on the disk before the next. Raises OSError."""
    if path.is_dir():
        return
    make_directory(path.parent)
    try:
        os.mkdir(path, mode)  # noqa: PTH102
    except FileExistsError:
        if not path.is_dir():
            raise
    settle(path.parent)


def remove(path: Path) -> None:
    """Remove a file for good, if it is there. Raises OSError."""
    try:
        os.unlink(path)  # noqa: PTH108
    except FileNotFoundError:
        return
    settle(path.parent)


def settle(directory: Path) -> None:
    """Have the directory's own entries on the disk. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, content: bytes | bytearray | memoryview) -> None:
    """Write all of it, however little the system takes at a time. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


@contextmanager
def _part(path: Path, content: Content, mode: int) -> Iterator[Path]:
    """The content in a hidden file beside `path`, on the disk; removed after the block if it is still there."""
    make_directory(path.parent)
    _sweep(path)
    part, handle = _new_part(path)
    try:
        try:
            if callable(content):
                with os.fdopen(handle, "wb", closefd=False) as stream:
                    content(stream)
            else:
                write_all(handle, content)
            os.fchmod(handle, mode)
            os.fsync(handle)
            yield part
        finally:
            os.close(handle)
    except BaseException:
        _drop(part)
        raise


def _new_part(path: Path) -> tuple[Path, int]:
    """A hidden file nobody else has, and the handle that is also the lock on it."""
    while True:
        part = path.with_name(f".{path.name}.{os.urandom(6).hex()}.part")
        handle = os.open(part, _NEW, 0o600)
        try:
            # Another writer that sweeps right now may have taken it for a dead one's before the lock was ours.
            if _lock(handle) and os.fstat(handle).st_nlink:
                return part, handle
        except BaseException:
            os.close(handle)
            _drop(part)
            raise
        os.close(handle)


def _drop(part: Path) -> None:
    with suppress(OSError):
        os.unlink(part)  # noqa: PTH108


def _sweep(path: Path) -> None:
    """Remove what killed writers of this file left. One that cannot be removed harms nobody."""
    for part in parts_beside(path):
        with suppress(OSError):
            handle = os.open(part, _OLD)
            try:
                if _lock(handle):
                    os.unlink(part)  # noqa: PTH108
            finally:
                os.close(handle)


def parts_beside(path: Path) -> list[Path]:
    """The hidden files of writers of this file, dead or at work. Raises OSError."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}\.part")
    return [path.with_name(name) for name in os.listdir(path.parent) if ours.fullmatch(name)]  # noqa: PTH208


def _lock(handle: int) -> bool:
    """Take the lock on an open file until it is closed; False where another has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
