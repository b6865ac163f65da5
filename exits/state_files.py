"""What the state directory keeps of a file besides the file: a copy with a checksum, so that damage is seen and mended.

Role: the one writer and reader of files that must never be lost or believed wrongly: profiles, calibrations, lists.
The file itself stays plain, for anybody to read; its copy is at the same path below `last-good/`, behind a head line.
Flow of `keep`: copy written, then the file, each as `clients/durable.py` does it; so at any moment one of the two is
whole. `read` compares them: a file that is neither what its copy says, nor what that copy was to replace, is damaged,
and the copy is used. `mend`, at the daemon's start, puts the copy back and sets the damaged file aside in `damaged/`.

A file without a copy was put there by hand and is read as it is; a file that was removed stays removed.
Does not: know what is in a file, or log: what was wrong is returned, in words.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..clients import durable

COPIES, DAMAGED, LOCK = "last-good", "damaged", ".lock"
# The largest there are: a calibration of a million samples and a dozen exits, some 75 MB.
FILE_BYTES_MAX = 256 * 1024 * 1024
FILES_MAX = 10_000
# Digest of all that follows; then format, generation, digest of the content, and of the file to be replaced or "-".
_HEAD = re.compile(rb"([0-9a-f]{64})\n(delen 1 (\d{1,18}) ([0-9a-f]{64}) ([0-9a-f]{64}|-)\n)")
_HEAD_BYTES_MAX = 256


class Kept(NamedTuple):
    """What a file holds. `fault`: what was wrong with it or its copy, and what was done; empty when nothing was."""

    data: bytes
    fault: str = ""


class Health(NamedTuple):
    """A state directory as it is. `files`: how many have a copy. `faults`: one sentence each."""

    files: int
    faults: tuple[str, ...]


class _Copy(NamedTuple):
    generation: int
    digest: str
    before: str
    data: bytes


class _CopyDamaged(Exception):
    pass


def keep(root: Path, path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `path`, below `root`, and its copy; both are on the disk when this returns.

    Raises:
        OSError: the disk refused. The old content still stands, or, where only the last sync failed, the new one.
    """
    if len(data) > FILE_BYTES_MAX:
        raise OSError(errno.EFBIG, f"{len(data)} bytes; at most {FILE_BYTES_MAX} are kept", str(path))
    with _locked(root):
        generation, before = 1, "-"
        try:
            copy = _read_copy(root, path)
            generation = 1 if copy is None else copy.generation + 1
            now = durable.read_bounded(path, FILE_BYTES_MAX)
            if copy is None or _digest(now) in (copy.digest, copy.before):
                before = _digest(now)
        except (OSError, _CopyDamaged):
            # What cannot be read is not worth falling back on.
            pass
        durable.write_whole(_copy_path(root, path), _framed(data, generation, before), mode=mode)
        durable.write_whole(path, data, mode=mode)


def read(root: Path, path: Path, bytes_max: int = FILE_BYTES_MAX) -> Kept:
    """The content of `path`, below `root`, or of its copy where the file is damaged. Changes nothing.

    Raises:
        FileNotFoundError: it is not there. OSError: it cannot be read and has no copy; a link is not followed.
    """
    while True:
        copy, fault = _try_copy(root, path)
        data = None
        try:
            data = durable.read_bounded(path, bytes_max)
        except FileNotFoundError:
            raise
        except OSError as error:
            if copy is None:
                raise
            fault = f"{path} cannot be read ({error.strerror}); its copy is used"
        if copy is None or (data is not None and _digest(data) in (copy.digest, copy.before)):
            assert data is not None
            return Kept(data, fault)
        # A writer may have replaced both in between.
        if _try_copy(root, path)[0] == copy:
            break
    changed = (
        f"{path} is not what was written there: damaged, or changed by hand; its copy is used "
        f"(to use the file as it is, remove {_copy_path(root, path)})"
    )
    return Kept(copy.data, fault or changed)


def mend(root: Path) -> list[str]:
    """Put every damaged file right from its copy; a sentence for each. What was damaged is set aside in `damaged/`.

    Raises:
        OSError: the directory cannot be written; `read` still gives what is right.
    """
    if not _needs_mending(root):
        # Mostly so; a directory that can only be read is then none to complain of.
        return []
    said: list[str] = []
    with _locked(root):
        for path in _with_copies(root):
            try:
                found = read(root, path)
            except FileNotFoundError:
                durable.remove(_copy_path(root, path))
                continue
            if not found.fault:
                continue
            said.append(found.fault)
            aside = root / DAMAGED / path.relative_to(root)
            try:
                now = durable.read_bounded(path, FILE_BYTES_MAX)
            except OSError:
                now = found.data
            if now != found.data:
                durable.write_whole(aside, now, mode=0o600)
                said[-1] += f"; the damaged one is kept as {aside}"
            mode = stat.S_IMODE(path.lstat().st_mode) if path.is_file() and not path.is_symlink() else 0o600
            durable.write_whole(_copy_path(root, path), _framed(found.data, 1, _digest(found.data)), mode=mode)
            durable.write_whole(path, found.data, mode=mode)
    return said


def forget(root: Path, path: Path) -> None:
    """Remove `path`, below `root`, and its copy, for good. Raises OSError."""
    with _locked(root):
        # The file first: a copy alone counts for nothing.
        durable.remove(path)
        durable.remove(_copy_path(root, path))


def inspect(root: Path) -> Health:
    """What is wrong in a state directory. Changes nothing. Raises OSError."""
    faults, files = [], 0
    for path in _with_copies(root):
        try:
            fault = read(root, path).fault
        except FileNotFoundError:
            continue
        files += 1
        faults += [fault] if fault else []
    return Health(files, tuple(faults))


def _needs_mending(root: Path) -> bool:
    for path in _with_copies(root):
        try:
            if read(root, path).fault:
                return True
        except FileNotFoundError:
            return True
    return False


def _with_copies(root: Path) -> list[Path]:
    """Every file below `root` that has a copy, sorted; links are no copies."""
    copies = root / COPIES
    found: list[Path] = []
    for place, _, names in os.walk(copies, onerror=_refuse) if copies.is_dir() else ():
        found += [root / (Path(place) / name).relative_to(copies) for name in names if not name.startswith(".")]
        if len(found) > FILES_MAX:
            raise OSError(f"{copies} holds more than {FILES_MAX} files; remove what is not used any more")
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise error


def _copy_path(root: Path, path: Path) -> Path:
    return root / COPIES / path.relative_to(root)


def _try_copy(root: Path, path: Path) -> tuple[_Copy | None, str]:
    """The copy, or why there is none that counts."""
    try:
        return _read_copy(root, path), ""
    except (OSError, _CopyDamaged) as error:
        said = error.strerror if isinstance(error, OSError) else "damaged"
        return None, f"the copy of {path} cannot be used ({said}); the file is taken as it is"


def _read_copy(root: Path, path: Path) -> _Copy | None:
    try:
        raw = durable.read_bounded(_copy_path(root, path), FILE_BYTES_MAX + _HEAD_BYTES_MAX)
    except FileNotFoundError:
        return None
    head = _HEAD.match(raw)
    if head is None or hashlib.sha256(raw[head.start(2) :]).hexdigest().encode() != head[1]:
        raise _CopyDamaged
    return _Copy(int(head[3]), head[4].decode(), head[5].decode(), raw[head.end() :])


def _framed(data: bytes, generation: int, before: str) -> bytes:
    rest = f"delen 1 {generation} {_digest(data)} {before}\n".encode() + data
    return hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One writer at a time: a file and its copy belong together."""
    durable.make_directory(root)
    handle = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
