"""A process that writes state until it is killed or its disk is full, and says what it was told is on the disk.

Role: run as `python -m delen.tests.state_writer WHAT DIRECTORY` by `test_state_disks.py`. `endless` writes number
after number to a file, the counters' slots and the audit log, and prints each number once all three have returned.
`small-disk` and `small-files` write a file that fits and then ones that do not, and print what came of it. Does not:
check anything.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from delen.daemon.audit_log import AuditLog, files, read_audit
from delen.daemon.slot_file import SlotFile, peek
from delen.exits import state_files

SLOT_BYTES = 64 * 1024
# More than a small disk, or a small file, has room for.
LARGE = 48 * 1024


def content(number: int) -> bytes:
    """What is written for a number: of another length for each, so that a mixture would show."""
    return b"%d " % number * (1 + number % 700)


def number_of(data: bytes) -> int:
    """The number whose content this is. Raises ValueError where it is none's, or of two."""
    number = int(data.split(b" ")[0])
    if data != content(number):
        raise ValueError(f"a mixture: {data[:40]!r}")
    return number


def found(root: Path) -> tuple[int, int, list[int]]:
    """The number in the file, in the slots (0: none), and all in the audit log."""
    try:
        in_file = number_of(state_files.read(root, root / "sub" / "file").data)
    except FileNotFoundError:
        in_file = 0
    record = peek(root / "slots", slot_bytes=SLOT_BYTES) if (root / "slots").exists() else b""
    lines = [line for path in files(root / "audit") for line in read_audit(path).entries]
    numbers = [int(line.what) for line in lines if line.what.isdigit()]
    return in_file, number_of(record) if record else 0, numbers


def write_endlessly(root: Path) -> Iterator[int]:
    """Each number once it is on the disk everywhere; the first follows what is there."""
    state_files.mend(root)
    slots, log = SlotFile(root / "slots", slot_bytes=SLOT_BYTES), AuditLog(root / "audit", "now", file_bytes_max=8192)
    in_file, in_slots, numbers = found(root)
    number = max(in_file, in_slots, *numbers, 0)
    while True:
        number += 1
        state_files.keep(root, root / "sub" / "file", content(number))
        slots.write(content(number))
        log.append("now", "a test", str(number))
        yield number


def write_too_much(root: Path) -> Iterator[str]:
    """What came of each write."""
    path = root / "sub" / "file"
    state_files.keep(root, path, content(1))
    for attempt in range(5):
        try:
            state_files.keep(root, path, bytes(LARGE))
            yield "written"
        except OSError as error:
            yield error.strerror or ""
        yield f"{number_of(state_files.read(root, path).data)} {state_files.inspect(root).faults}"
        if attempt == 3:
            state_files.keep(root, path, content(1))
    yield f"rubbish {sorted(str(part.relative_to(root)) for part in root.rglob('*.part'))}"


def _main(what: str, root: Path) -> None:
    if what == "small-files":
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 2, LARGE // 2))
    for said in write_endlessly(root) if what == "endless" else write_too_much(root):
        sys.stdout.write(f"{said}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
