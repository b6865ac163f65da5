"""The journal's file: what is written is read again, whole records only, within its limit, whatever the disk does."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import pytest

from delen.daemon.config import Limits
from delen.daemon.journal import Journal, read_journal
from delen.daemon.journal_records import (
    FORMAT,
    Closed,
    Expired,
    Heard,
    JournalError,
    Opened,
    Ready,
    Record,
    Samples,
    Setup,
)
from delen.exits.calibration_file import Calibration

OPENED = Opened(FORMAT, "0.1.0", 7, "2025-01-01T00:00:00+0000", Setup(Limits(queued_max=3), "latency-first"))
EVENTS: list[Record] = [Ready(10), Expired(20, (Heard("deadline", (1, 5000), b"\x01\x02"), Heard("yield", (3,))))]


def written(path: Path, *, bytes_max: int = 100_000, events: int = 1) -> list[str]:
    """A journal of a few records; the notes it gave."""
    notes: list[str] = []
    journal = Journal(path, bytes_max=bytes_max, note=notes.append)
    for record in [OPENED, *EVENTS * events]:
        journal.write(record)
    journal.close()
    return notes


def refused(path: Path) -> str:
    with pytest.raises(JournalError) as caught:
        list(read_journal(path))
    return str(caught.value)


def framed(*parts: object) -> bytes:
    bodies = [msgspec.msgpack.encode(part) for part in parts]
    return b"".join(len(body).to_bytes(4, "little") + body for body in bodies)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert written(tmp_path / "j") == []
    assert list(read_journal(tmp_path / "j")) == [OPENED, *EVENTS, Closed("the daemon ended")]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    written(tmp_path / "j")
    assert (tmp_path / "j").stat().st_mode & 0o777 == 0o600


def test_a_tail_cut_off_anywhere_loses_only_the_last_record(tmp_path: Path) -> None:
    written(tmp_path / "j")
    whole = (tmp_path / "j").read_bytes()
    ends = [len(framed(*[OPENED, *EVENTS][:count])) for count in (1, 2, 3)]
    for size in range(ends[0], len(whole)):
        (tmp_path / "cut").write_bytes(whole[:size])
        *records, closed = read_journal(tmp_path / "cut")
        kept = sum(1 for end in ends if end <= size)
        assert records == [OPENED, *EVENTS][:kept], size
        assert closed == Closed(f"still being written, or cut off as by a crash, after {ends[kept - 1]} bytes")


def test_it_ends_within_its_limit_and_says_so_once(tmp_path: Path) -> None:
    notes = written(tmp_path / "j", bytes_max=2000, events=500)
    assert len(notes) == 1
    assert "limits.journal_bytes_max is 2000" in notes[0]
    *records, closed = read_journal(tmp_path / "j")
    assert records == [OPENED, *EVENTS * 500][: len(records)]
    assert isinstance(closed, Closed)
    assert "journal_bytes_max" in closed.reason
    closing = len(framed(closed))
    assert 2000 - 100 < (tmp_path / "j").stat().st_size - closing <= 2000


def test_a_full_disk_ends_the_journal_and_nothing_else(tmp_path: Path) -> None:
    notes: list[str] = []
    journal = Journal(tmp_path / "j", bytes_max=10_000, note=notes.append)
    journal.write(OPENED)
    assert journal._file is not None
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._file.fileno())
    os.close(full)
    journal.tick(2_000_000)
    journal.write(Ready(1))
    journal.close()
    assert not journal.open
    assert len(notes) == 1
    assert "No space left on device" in notes[0]


def test_records_wait_at_most_a_second_for_company(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", bytes_max=10_000, note=pytest.fail)
    journal.write(OPENED)
    journal.tick(1_000_000)
    size = (tmp_path / "j").stat().st_size
    journal.write(Ready(1_000_001))
    journal.tick(1_500_000)
    assert (tmp_path / "j").stat().st_size == size > 0
    journal.tick(2_000_000)
    assert (tmp_path / "j").stat().st_size > size
    journal.close()


def test_the_journal_before_is_kept(tmp_path: Path) -> None:
    written(tmp_path / "j")
    written(tmp_path / "j", events=2)
    assert len(list(read_journal(tmp_path / "j.before"))) == 4
    assert len(list(read_journal(tmp_path / "j"))) == 6


def test_a_directory_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="File exists"):
        written(tmp_path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no whole record"),
        (b"{}", "no whole record"),
        (b"\x89PNG\r\n\x1a\n", "no journal of delen"),
        (framed([1, 2, 3]), "no journal of delen"),
        (framed({"a": 1}), "no journal of delen"),
        (framed(Ready(1)), "no journal of delen"),
        (framed([0, 99, "7.1"]), f"format 99, of delen 7.1; this delen reads {FORMAT}"),
        (framed(OPENED, OPENED), "holds a Opened"),
        (framed(OPENED, [5, "soon"]), "is broken at byte"),
        (framed(OPENED) + b"\xff\xff\xff\xff", "at most"),
    ],
)
def test_other_files_are_refused_in_words(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "j").write_bytes(data)
    assert said in refused(tmp_path / "j")


def test_samples_are_packed_and_unpacked() -> None:
    draw = np.random.default_rng(0)
    confidence, correct = draw.uniform(0.2, 1, (101, 3)), draw.uniform(0, 1, (101, 3)) < 0.8
    agrees, fit = correct == correct[:, -1:], np.arange(101) % 3 == 0
    found = Samples.of(Calibration(confidence.astype(np.float32), correct, agrees, fit)).calibration()
    np.testing.assert_allclose(found.confidence, confidence, atol=5e-4)
    for back, given in zip(found[1:], (correct, agrees, fit), strict=True):
        np.testing.assert_array_equal(back, given)


def test_samples_that_would_unpack_to_more_than_they_say_are_refused() -> None:
    nothing = np.zeros((1000, 3), bool)
    packed = Samples.of(Calibration(np.zeros((1000, 3), np.float32), nothing, nothing, nothing[:, 0]))
    with pytest.raises(JournalError, match="cannot be unpacked"):
        msgspec.structs.replace(packed, n=10).calibration()


@pytest.mark.parametrize("held", [b"# A file that somebody wrote\n", b"\x00\x00\x00\x01x", bytes(200)])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path: Path, held: bytes) -> None:
    for name in ("j", "j.before"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(held)
        if name == "j.before":
            written(folder / "j")
        with pytest.raises(JournalError, match="is no journal; name another file"):
            written(folder / "j")
        assert (folder / name).read_bytes() == held
