"""A directory that appears at once and whole, or not at all, whenever its writer is killed.

Flow: `written(out, mark, replace)` gives a hidden directory beside `out` to write into; when the block ends well it
takes the place of `out` in one step, and what was there goes. A killed writer leaves its hidden directory behind, and
the next one that writes to the same place removes it: a lock, which dies with its holder, tells a dead writer's from
one at work. Does not: know what is in it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..clients.durable import settle

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
# Where the old directory waits on file systems that cannot exchange two.
OLD = "old"


def refuse_overwrite(out: Path, mark: str, *, replace: bool) -> None:
    """Raises FileExistsError where writing to `out` would destroy something. `mark`: the file that says what it is."""
    if not out.exists() and not out.is_symlink():
        return
    if not replace:
        raise FileExistsError(f"{out} exists; choose another place, or say that it may be replaced")
    if out.is_symlink() or not (out / mark).is_file():
        raise FileExistsError(f"{out} holds no {mark} and will not be replaced; choose another place")


@contextmanager
def written(out: Path, mark: str, *, replace: bool) -> Iterator[Path]:
    """A hidden directory that becomes `out` when the block ends without an exception.

    Raises:
        FileExistsError: see `refuse_overwrite`; asked before and after the block.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _sweep(out)
    refuse_overwrite(out, mark, replace=replace)
    with hidden_beside(out) as hidden:
        yield hidden
        # mkdtemp makes it private; it may be read by whoever may read what is around it.
        hidden.chmod(0o755)
        settle(hidden)
        refuse_overwrite(out, mark, replace=replace)
        _put_in_place(hidden, out)
        settle(out.parent)


@contextmanager
def hidden_beside(out: Path) -> Iterator[Path]:
    """A new hidden directory, removed after the block, or by the next writer to `out` where this one is killed."""
    out.parent.mkdir(parents=True, exist_ok=True)
    hidden, lock = _make_hidden(out)
    try:
        yield hidden
    finally:
        try:
            shutil.rmtree(hidden, ignore_errors=True)
        finally:
            os.close(lock)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file, and return once it is on the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _make_hidden(out: Path) -> tuple[Path, int]:
    """A new hidden directory and the lock on it."""
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
        # Another writer that sweeps right now may take it for a dead one's, before the lock is ours.
        with suppress(FileNotFoundError):
            lock = _lock(hidden)
            if lock is not None:
                if hidden.exists():
                    return hidden, lock
                os.close(lock)


def _sweep(out: Path) -> None:
    """Remove what killed writers left; an old directory that one of them had set aside comes back first."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.[^.]+\.part")
    for hidden in [path for path in out.parent.iterdir() if ours.fullmatch(path.name)]:
        with suppress(FileNotFoundError, NotADirectoryError):
            lock = _lock(hidden)
            if lock is None:
                continue
            try:
                if (hidden / OLD).is_dir() and not out.exists():
                    (hidden / OLD).rename(out)
                shutil.rmtree(hidden, ignore_errors=True)
            finally:
                os.close(lock)


def _lock(directory: Path) -> int | None:
    """A lock on a directory, held until the descriptor is closed; None where another process holds it."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _put_in_place(hidden: Path, out: Path) -> None:
    """A directory cannot be renamed over a full one, so an old one changes places with it."""
    if not out.exists():
        hidden.rename(out)
        return
    if _exchange(hidden, out):
        return
    with hidden_beside(out) as aside:
        out.rename(aside / OLD)
        try:
            hidden.rename(out)
        except OSError:
            (aside / OLD).rename(out)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step (Linux 3.15); False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return int(call(AT_FDCWD, os.fsencode(first), AT_FDCWD, os.fsencode(second), RENAME_EXCHANGE)) == 0
