"""The audit log: who changed what of the daemon, in lines that nobody can inject into and that show if one is missing.

Role: the one writer and reader of `<state>/audit/`. A line is a JSON object of plain ASCII with a running number and
`chain`, the digest of the line and of the chain before it. Flow: `append` writes one line and syncs it; who ordered the
change is told only after that. A full file is renamed `audit.1.jsonl`, older ones move up, the oldest goes; the new one
begins with where the one before it ended. A file that is damaged, or whose last line a crash cut off, is set aside
like a full one, and the new one says so: what was once written is never cut. Where the log ended is kept elsewhere
too (`keeping.py`), so that lines missing at its end are noticed, and a log that was put in its place.

Does not: keep anybody from writing the file who may write it: a chain without a key shows damage, not forgery.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

import msgspec

from ..clients import durable

FILE_BYTES_MAX, FILES_MAX, LINE_BYTES_MAX = 4 * 1024**2, 8, 4096
ABOUT_MAX = 16
# What comes after the body of a line: its chain.
TAIL_BYTES = len(',"chain":""}\n') + 32
_CHAIN = re.compile(rb'(\{.*),"chain":"([0-9a-f]{32})"\}')
CONTINUED = "continued"

Plain: TypeAlias = "str | int | float | bool | None"


class AuditBusy(RuntimeError):
    """Another process writes this log."""


class Entry(msgspec.Struct, frozen=True):
    """One line. `wall`: when, ISO 8601. `who`: as the kernel or a key says, never as a message does."""

    n: int
    wall: str
    who: str
    what: str
    about: dict[str, Plain]
    chain: str


class Head(NamedTuple):
    """Where a log ends: its last line's number and chain."""

    n: int = 0
    chain: str = ""


NOWHERE = Head()


class Told(NamedTuple):
    """What a file of so many bytes and whole lines holds, as far as it is right. `fault`: what is wrong from there."""

    entries: list[Entry]
    bytes: int
    lines: int
    fault: str


class AuditLog:
    """The log, open and locked. `fault`: what was wrong with what was there, in words; empty when nothing was."""

    def __init__(
        self,
        directory: Path,
        wall: str,
        *,
        seen: Head = NOWHERE,
        file_bytes_max: int = FILE_BYTES_MAX,
        files_max: int = FILES_MAX,
    ) -> None:
        """Open it, or begin one.

        Args:
            wall: the time, for a line that must be written first.
            seen: where it ended at some time, as somebody else remembers.
        Raises:
            AuditBusy: another process has it. OSError: it cannot be written.
        """
        self._directory, self._file_bytes_max, self._files_max = directory, file_bytes_max, files_max
        self._handle: int | None = None
        self.head, self._bytes = NOWHERE, 0
        durable.make_directory(directory, mode=0o700)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.fault = self._open(wall, seen)
        except BlockingIOError as error:
            os.close(self._lock)
            raise AuditBusy(f"another delen daemon writes {directory}; give this one another --state-dir") from error
        except BaseException:
            self._drop()
            os.close(self._lock)
            raise

    def append(self, wall: str, who: str, what: str, about: Mapping[str, Plain] | None = None) -> Entry:
        """Write one line; it is on the disk when this returns.

        Raises:
            OSError: the disk refused; what was to be audited must not be done.
        """
        try:
            if self._handle is None:
                self._open(wall)
            entry, line = made(self.head, wall, who, what, about or {})
            if self._bytes and self._bytes + len(line) > self._file_bytes_max:
                self._turn_over(wall)
                entry, line = made(self.head, wall, who, what, about or {})
            self._write(entry, line)
        except OSError:
            self._take_back()
            raise
        return entry

    def close(self) -> None:
        self._drop()
        os.close(self._lock)

    def _write(self, entry: Entry, line: bytes) -> None:
        assert self._handle is not None
        durable.write_all(self._handle, line)
        os.fdatasync(self._handle)
        self.head, self._bytes = Head(entry.n, entry.chain), self._bytes + len(line)

    def _take_back(self) -> None:
        """Cut off what was not acknowledged; whatever reached the disk is looked at again before the next line."""
        if self._handle is not None:
            with suppress(OSError):
                os.ftruncate(self._handle, self._bytes)
        self._drop()

    def _open(self, wall: str, seen: Head = NOWHERE) -> str:
        """Go on after the last line; returns what was wrong with what was there."""
        current = self._directory / "audit.jsonl"
        told = read_audit(current, self._file_bytes_max + LINE_BYTES_MAX)
        last = told.entries[-1] if told.entries else self._last_of_older()
        self.head = Head(last.n, last.chain) if last else NOWHERE
        missing = self._missing(told, seen)
        if missing:
            self.head = seen
            self._turn_over(wall, missing)
            return missing
        if told.fault and told.lines:
            self._turn_over(wall, told.fault)
            return told.fault
        self._handle = os.open(current, _APPEND, 0o600)
        self._bytes = told.bytes
        if told.fault:
            # Less than one line: nothing of it was ever acknowledged.
            os.ftruncate(self._handle, 0)
            self._bytes = 0
        durable.settle(self._directory)
        if not self._bytes and last is not None:
            self._continue(wall, told.fault)
        return told.fault

    def _missing(self, told: Told, seen: Head) -> str:
        """What was there and is not any more, in words; empty where all is, as far as can be said."""
        if self.head.n < seen.n:
            return f"{self._directory}: it ends with line {self.head.n}, and had {seen.n}: the others are gone"
        chain = next((entry.chain for entry in told.entries if entry.n == seen.n), seen.chain)
        return "" if chain == seen.chain else f"{self._directory}: line {seen.n} is another than was written"

    def _turn_over(self, wall: str, fault: str = "") -> None:
        """Set the current file aside, and begin another."""
        self._drop()
        names = [self._directory / "audit.jsonl", *(_older(self._directory, n) for n in range(1, self._files_max))]
        gap = next((index for index, path in enumerate(names) if not path.exists()), len(names) - 1)
        for index in range(gap, 0, -1):
            os.replace(names[index - 1], names[index])  # noqa: PTH105  (tests put another `os` here)
        self._handle = os.open(names[0], _APPEND | os.O_EXCL, 0o600)
        durable.settle(self._directory)
        self._bytes = 0
        self._continue(wall, fault)

    def _continue(self, wall: str, fault: str) -> None:
        about = {"after": self.head.chain, **({"fault": fault} if fault else {})}
        self._write(*made(self.head, wall, "delen", CONTINUED, about))

    def _last_of_older(self) -> Entry | None:
        for path in reversed(files(self._directory)):
            entries = read_audit(path, self._file_bytes_max + LINE_BYTES_MAX).entries
            if entries:
                return entries[-1]
        return None

    def _drop(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(OSError):
                os.close(handle)


_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


def files(directory: Path) -> list[Path]:
    """The log's files that are there, oldest first."""
    numbered = sorted(
        (
            (int(match[1]), path)
            for path in directory.glob("audit.*.jsonl")
            if (match := _NUMBERED.fullmatch(path.name))
        ),
        reverse=True,
    )
    current = directory / "audit.jsonl"
    return [path for _, path in numbered] + ([current] if current.exists() else [])


def read_audit(path: Path, bytes_max: int = FILE_BYTES_MAX + LINE_BYTES_MAX) -> Told:
    """All lines of a file as far as they are right; none where there is no file. Raises OSError: it cannot be read."""
    try:
        data = durable.read_bounded(path, bytes_max)
    except FileNotFoundError:
        return Told([], 0, 0, "")
    entries: list[Entry] = []
    for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
        entry = _entry(line, entries[-1] if entries else None) if line.endswith(b"\n") else None
        if entry is None:
            what = "is not as it was written, or the one before it is gone" if line.endswith(b"\n") else "was cut off"
            return Told(entries, len(data), data.count(b"\n"), f"{path}: line {len(entries) + 1} {what}")
        entries.append(entry)
    return Told(entries, len(data), len(entries), "")


def look_through(directory: Path, *, files_max: int = FILES_MAX) -> tuple[int, list[str]]:
    """How many lines there are, and what is wrong in the log's files and between them. Raises OSError."""
    count, faults, before = 0, list[str](), None
    paths = files(directory)
    for path in paths:
        told = read_audit(path)
        count += len(told.entries)
        faults += [told.fault] if told.fault else []
        if not told.entries:
            continue
        first = told.entries[0]
        if before is None and first.n > 1 and len(paths) < files_max:
            faults.append(f"{path}: it begins with line {first.n}, and the files before it are gone")
        elif before is not None and (first.n - 1, first.about.get("after")) != (before.n, before.chain):
            faults.append(f"{path}: it does not go on where the one before it ends, with line {before.n}")
        before = told.entries[-1]
    return count, faults


def made(after: Head, wall: str, who: str, what: str, about: Mapping[str, Plain]) -> tuple[Entry, bytes]:
    """An entry that comes `after`, and its line, of at most LINE_BYTES_MAX bytes whatever is in it."""
    for letters in (200, 40, 8):
        told: dict[str, Plain] = {_clip(key, 40): _plain(value, letters) for key, value in [*about.items()][:ABOUT_MAX]}
        if len(about) > ABOUT_MAX:
            told["left_out"] = len(about) - ABOUT_MAX
        fields = {
            "n": after.n + 1,
            "wall": _clip(wall, 40),
            "who": _clip(who, letters),
            "what": _clip(what, 40),
            "about": told,
        }
        # ASCII alone, so that no terminal, log viewer or right-to-left mark makes more of a line than it is.
        body = json.dumps(fields, ensure_ascii=True, separators=(",", ":")).replace("\x7f", "\\u007f").encode()[:-1]
        if len(body) <= LINE_BYTES_MAX - TAIL_BYTES:
            break
    else:
        return made(after, wall[:8], who[:8], what[:8], {"left_out": len(about)})
    follows = _digest(after.chain, body)
    line = body + b',"chain":"' + follows.encode() + b'"}\n'
    return msgspec.json.decode(line, type=Entry), line


_NUMBERED = re.compile(r"audit\.(\d{1,3})\.jsonl")


def _older(directory: Path, number: int) -> Path:
    return directory / f"audit.{number}.jsonl"


def _entry(line: bytes, before: Entry | None) -> Entry | None:
    """The entry of a line that follows `before`; None where it does not, or is none."""
    found = _CHAIN.fullmatch(line[:-1])
    if found is None:
        return None
    try:
        entry = msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if before is None:
        chain = str(entry.about.get("after", "")) if entry.what == CONTINUED else ""
        number = entry.n if entry.what == CONTINUED else 1
    else:
        chain, number = before.chain, before.n + 1
    return entry if entry.n == number and entry.chain == _digest(chain, found[1]) else None


def _digest(chain: str, body: bytes) -> str:
    return hashlib.sha256(chain.encode() + b"\n" + body).hexdigest()[:32]


def _clip(text: str, letters: int) -> str:
    """Short enough, and with what UTF-8 cannot say spelled out: names of files may hold such."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= letters else text[: letters - 1] + "\u2026"


def _plain(value: Plain, letters: int) -> Plain:
    """What JSON can say, and every reader of it understands."""
    if isinstance(value, str):
        return _clip(value, letters)
    large = isinstance(value, int) and abs(value) >= 1 << 53
    return str(value)[:letters] if large or (isinstance(value, float) and not math.isfinite(value)) else value
