"""One small record written often: two slots of one file in turn, so that one is always whole.

Role: for counters that change every second; a file written anew each time would cost four syncs and wear a memory card.
Flow: `write` fills the slot that does not hold the newest record, and syncs; opening takes the newest slot whose
checksum is right. A power cut in between leaves the record before; after a sync that failed the slot is written again.

Does not: know what is in a record, or keep more than the last two.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
from pathlib import Path

from ..clients.durable import make_directory, settle

MAGIC = b"delen\x01\r\n"
# Magic, generation, length, digest of all that and the record.
_HEAD = struct.Struct("<8sQI16s")
# A power cut may spoil what shares a page with a write: slots share none.
PAGE_BYTES = 4096


class SlotFile:
    """The file, open and locked. `record`: what it holds. `fault`: why it is empty, where there was something."""

    def __init__(self, path: Path, *, slot_bytes: int) -> None:
        """Open the file, or make it.

        Raises:
            BlockingIOError: another process has it. OSError: it cannot be used; a link is not followed.
        """
        assert slot_bytes % PAGE_BYTES == 0
        make_directory(path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._handle = os.open(path, flags, 0o600)
        self._slot_bytes = slot_bytes
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            settle(path.parent)
            found = _newest(self._handle, slot_bytes)
            empty = os.fstat(self._handle).st_size == 0
        except BaseException:
            os.close(self._handle)
            raise
        self._generation, self.record = found
        self.fault = "" if self._generation or empty else f"{path}: both of its records are damaged; it begins anew"

    def write(self, record: bytes) -> None:
        """Replace the record; it is on the disk when this returns. Raises OSError: the one before still stands."""
        head = _HEAD.pack(MAGIC, self._generation + 1, len(record), b"")
        if len(head) + len(record) > self._slot_bytes:
            raise OSError(errno.EFBIG, f"{len(record)} bytes do not fit a slot of {self._slot_bytes}")
        digest = hashlib.sha256(head + record).digest()[:16]
        start, rest = (self._generation + 1) % 2 * self._slot_bytes, head[: -len(digest)] + digest + record
        while rest:
            written = os.pwrite(self._handle, rest, start)
            start, rest = start + written, rest[written:]
        os.fdatasync(self._handle)
        # Only now: had the sync failed, the other slot would still be the last that is known to be on the disk.
        self._generation += 1
        self.record = record

    def close(self) -> None:
        os.close(self._handle)


def peek(path: Path, *, slot_bytes: int) -> bytes:
    """The newest record of a file that another process may be writing; empty where there is none. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return _newest(handle, slot_bytes)[1]
    finally:
        os.close(handle)


def _newest(handle: int, slot_bytes: int) -> tuple[int, bytes]:
    """Generation and record; 0 where no slot is whole."""
    return max((slot for index in (0, 1) if (slot := _slot(handle, slot_bytes, index))), default=(0, b""))


def _slot(handle: int, slot_bytes: int, index: int) -> tuple[int, bytes] | None:
    slot = os.pread(handle, slot_bytes, index * slot_bytes)
    if len(slot) < _HEAD.size:
        return None
    magic, generation, length, digest = _HEAD.unpack_from(slot)
    record = slot[_HEAD.size : _HEAD.size + length]
    head = _HEAD.pack(MAGIC, generation, length, b"")
    right = magic == MAGIC and generation % 2 == index and len(record) == length
    return (generation, record) if right and hashlib.sha256(head + record).digest()[:16] == digest else None
