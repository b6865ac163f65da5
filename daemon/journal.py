"""The journal: everything the core was told, in order, in one file, so that what happened can be played again.

Role: the one writer and the one reader of that file; what is in it is said in `journal_records.py`. Flow:
`recorded.py` -> `Journal` -> file -> `read_journal` -> `replay.py`, `what_if.py`. A journal stands alone: it holds
costs, gates and held-out samples of every network, and no request's payload.

Format: records of 4 bytes of length, little-endian, and that much msgpack; `Opened` is the first, `Closed` the last. A
tail that a crash cut off is left out, and said. Written in pieces, never synced: the loop waits for no disk, and a
crash may cost the last second. Does not: know the core, or read a clock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from .journal_records import FORMAT, Closed, JournalError, Opened, Record

LENGTH_BYTES = 4
# The largest record is a network's: a million samples of a dozen exits are some 40 MB before they are packed.
RECORD_BYTES_MAX = 64 * 1024**2
# What is written at once, and how long a record waits for company.
PIECE_BYTES, PIECE_US = 64 * 1024, 1_000_000


class Journal:
    """The file being written. It may end before the daemon does, never the other way round."""

    def __init__(self, path: Path, *, bytes_max: int, note: Callable[[str], None]) -> None:
        """Create the file; a journal that was there is kept as `<name>.before`: a restart may follow what matters.

        Args:
            bytes_max: it stops when the next record would pass this. note: takes one line for the operator.
        Raises:
            OSError: it cannot be created. JournalError: there is another file by that name.
        """
        if path.is_file():
            kept = path.with_name(f"{path.name}.before")
            for place in (path, kept):
                if place.is_file() and not begins_as_journal(place):
                    raise JournalError(
                        f"{place} is there already and is no journal; name another file, or move it away"
                    )
            path.replace(kept)
            note(f"the journal that was there is kept as {kept}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file: BinaryIO | None = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
        self._path = path
        self._bytes_max = bytes_max
        self._note = note
        self._encode_into = msgspec.msgpack.Encoder().encode_into
        self._piece = bytearray()
        self._bytes = 0
        self._written_us = 0

    @property
    def open(self) -> bool:
        """Whether records are still taken."""
        return self._file is not None

    def write(self, record: Record) -> None:
        """Take a record in; does nothing once the journal has ended. Cost: 1 to 3 us."""
        if self._file is None:
            return
        piece = self._piece
        start = len(piece)
        piece += bytes(LENGTH_BYTES)
        self._encode_into(record, piece, start + LENGTH_BYTES)
        size = len(piece) - start
        if self._bytes + size > self._bytes_max and not isinstance(record, Closed):
            del piece[start:]
            self._end(f"limits.journal_bytes_max is {self._bytes_max}, and this is as much")
            return
        piece[start : start + LENGTH_BYTES] = (size - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little")
        self._bytes += size
        if len(piece) >= PIECE_BYTES:
            self.flush()

    def tick(self, now_us: int) -> None:
        """Write what has waited long enough; called every turn."""
        if self._piece and now_us - self._written_us >= PIECE_US:
            self.flush()
            self._written_us = now_us

    def flush(self) -> None:
        """Hand over what waits to the system."""
        if self._file is None or not self._piece:
            return
        try:
            written = 0
            while written < len(self._piece):
                written += self._file.write(memoryview(self._piece)[written:])
        except OSError as error:
            self._drop()
            self._note(f"the journal {self._path} ends here: {error.strerror}; requests are served on without it")
            return
        self._piece.clear()

    def close(self, reason: str = "the daemon ended") -> None:
        """End it, and say why in its last record."""
        self.write(Closed(reason))
        self.flush()
        self._drop()

    def _end(self, reason: str) -> None:
        self.close(reason)
        self._note(f"the journal {self._path} ends here: {reason}; requests are served on without it")

    def _drop(self) -> None:
        file, self._file = self._file, None
        self._piece = bytearray()
        if file is not None:
            file.close()


def begins_as_journal(path: Path) -> bool:
    """Whether this file is empty, or its first record is a journal's, of whatever format. Raises OSError."""
    with path.open("rb") as file:
        length = file.read(LENGTH_BYTES)
        body = file.read(min(int.from_bytes(length, "little"), RECORD_BYTES_MAX))
    if not length:
        return True
    try:
        first = msgspec.msgpack.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(first, list) and len(first) >= 3 and first[0] == 0


def read_journal(path: Path) -> Iterator[Record]:
    """All whole records, the first of them `Opened`; a tail that was cut off is given as `Closed` with that reason.

    Raises:
        OSError: the file. JournalError: it is not a journal of this format, or broken in the middle.
    """
    decoder = msgspec.msgpack.Decoder(Record)
    with path.open("rb") as file:
        place, last = 0, None
        while (length := file.read(LENGTH_BYTES)) != b"":
            size = int.from_bytes(length, "little")
            if place == 0 and not 0 < size <= RECORD_BYTES_MAX:
                raise JournalError(f"{path} is no journal of delen")
            if size > RECORD_BYTES_MAX:
                raise JournalError(f"{path}, byte {place}: a record of {size} bytes; at most {RECORD_BYTES_MAX}")
            body = file.read(size)
            if len(body) < size or len(length) < LENGTH_BYTES:
                break
            last = _decoded(decoder, body, path, place)
            yield last
            place += LENGTH_BYTES + size
    if place == 0:
        raise JournalError(f"{path} is no journal of delen: it holds no whole record")
    if not isinstance(last, Closed):
        yield Closed(f"still being written, or cut off as by a crash, after {place} bytes")


def _decoded(decoder: msgspec.msgpack.Decoder[Record], body: bytes, path: Path, place: int) -> Record:
    try:
        if place == 0:
            _check_format(body, path)
        record = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = "is no journal of delen" if place == 0 else f"is broken at byte {place}"
        raise JournalError(f"{path} {what}: {error}") from error
    if (place == 0) != isinstance(record, Opened):
        raise JournalError(f"{path} is no journal of delen: byte {place} holds a {type(record).__name__}")
    return record


def _check_format(body: bytes, path: Path) -> None:
    """Say which version it is before its other fields are looked at: those may differ."""
    first = msgspec.msgpack.decode(body)
    if not isinstance(first, list) or len(first) < 3 or first[0] != 0:
        raise JournalError(f"{path} is no journal of delen")
    if first[1] != FORMAT:
        raise JournalError(
            f"{path} has format {first[1]}, of delen {first[2]!s:.20}; this delen reads {FORMAT}: use that version"
        )
