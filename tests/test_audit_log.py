"""Every acknowledged line stays, no line can be forged by what is in one, and damage is seen and never covered up."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delen.clients import durable
from delen.daemon import audit_log
from delen.daemon.audit_log import (
    LINE_BYTES_MAX,
    NOWHERE,
    AuditBusy,
    AuditLog,
    Entry,
    Head,
    files,
    look_through,
    made,
    read_audit,
)
from delen.tests.crash_disk import CrashDisk, Fault, PowerCut

WALL = "2026-01-02T03:04:05+0000"


def opened(directory: Path, seen: Head = NOWHERE, **limits: int) -> AuditLog:
    return AuditLog(directory, WALL, seen=seen, **limits)


def lines(directory: Path) -> list[Entry]:
    """All entries of all files, as far as they are right."""
    return [entry for path in files(directory) for entry in read_audit(path).entries]


def said(directory: Path) -> list[str]:
    return [entry.what for entry in lines(directory) if entry.what != "continued"]


def test_lines_are_numbered_and_chained_over_restarts(tmp_path: Path) -> None:
    for what in ("start", "reload", "stop"):
        log = opened(tmp_path)
        entry = log.append(WALL, "uid 0", what, {"network": "digits", "version": 2, "ok": True, "why": None})
        log.close()
        assert log.fault == ""
    found = lines(tmp_path)
    assert [(line.n, line.what) for line in found] == [(1, "start"), (2, "reload"), (3, "stop")]
    assert found[-1] == entry
    assert entry.about == {"network": "digits", "version": 2, "ok": True, "why": None}


def test_files_turn_over_and_the_chain_goes_on(tmp_path: Path) -> None:
    log = opened(tmp_path, file_bytes_max=1000, files_max=3)
    for index in range(40):
        log.append(WALL, "uid 0", f"change {index}")
    log.close()
    paths = files(tmp_path)
    assert [path.name for path in paths] == ["audit.2.jsonl", "audit.1.jsonl", "audit.jsonl"]
    assert all(path.stat().st_size <= 1000 for path in paths)
    found = lines(tmp_path)
    assert [entry.n for entry in found] == list(range(found[0].n, found[0].n + len(found)))
    assert said(tmp_path)[-1] == "change 39"
    firsts = [read_audit(path).entries[0] for path in paths[1:]]
    lasts = [read_audit(path).entries[-1] for path in paths]
    assert [first.about["after"] for first in firsts] == [last.chain for last in lasts[:-1]]


@pytest.mark.parametrize(
    "text",
    [
        '"}\n{"n":99}\n',
        "\x1b[2J\x1b]0;owned\x07",
        "\u202egnp.exe",
        "\x7f\x85\u2028\u2029",
        "\udcff\ud800",
        "a" * 10_000,
    ],
)
def test_nothing_in_a_line_makes_another_line_or_speaks_to_a_terminal(tmp_path: Path, text: str) -> None:
    log = opened(tmp_path)
    log.append(text, text, text, {text: text, "b": text})
    log.append(WALL, "uid 0", "after")
    log.close()
    data = (tmp_path / "audit.jsonl").read_bytes()
    assert data.count(b"\n") == 2
    assert all(32 <= byte < 127 for byte in data.replace(b"\n", b""))
    assert said(tmp_path)[-1] == "after"
    assert read_audit(tmp_path / "audit.jsonl").fault == ""


PLAIN = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none())


@pytest.mark.slow
@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.text(), st.text(), st.dictionaries(st.text(), PLAIN, max_size=40))
def test_any_line_is_short_json_and_reads_back(who: str, what: str, about: dict[str, audit_log.Plain]) -> None:
    entry, line = made(NOWHERE, WALL, who, what, about)
    assert len(line) <= LINE_BYTES_MAX
    assert line.count(b"\n") == 1
    assert json.loads(line)["chain"] == entry.chain


def test_the_largest_line_there_can_be_is_still_one(tmp_path: Path) -> None:
    log = opened(tmp_path)
    wide = {chr(0x1F600 + index) * 50: "\U0001f600" * 5000 for index in range(60)}
    entry = log.append("\U0001f600" * 99, "\U0001f600" * 999, "\U0001f600" * 999, wide)
    log.close()
    assert entry.about["left_out"] == 60
    assert lines(tmp_path) == [entry]


@pytest.mark.slow
@pytest.mark.parametrize("fault", get_args(Fault))
@pytest.mark.parametrize("full", [False, True])
def test_acknowledged_lines_stay_whatever_fails_and_wherever_the_power_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, full: bool
) -> None:
    """`full`: the line makes the file turn over."""
    first, limit = tmp_path / "first", 600 if full else 10_000
    log = opened(first, file_bytes_max=limit)
    for what in ("one", "two", "three"):
        log.append(WALL, "uid 0", what)
    log.close()
    for call in range(80):
        root = tmp_path / f"root{call}"
        shutil.copytree(first, root)
        disk = CrashDisk(root, fault=fault, at=call)
        acknowledged = _append_on(disk, root, monkeypatch, limit)
        places = disk.after_power_cut(_made(tmp_path / f"cuts{call}")) if fault == "cut" else [root]
        for place in places:
            log = opened(place, file_bytes_max=limit)
            log.append(WALL, "uid 0", "five")
            log.close()
            found = said(place)
            assert found in [
                ["one", "two", "three", *four, "five"] for four in ([["four"]] if acknowledged else _EITHER)
            ]
        if acknowledged and disk.calls <= call:
            break
    assert call >= 12


_EITHER: list[list[str]] = [[], ["four"]]


def _append_on(disk: CrashDisk, root: Path, patch: pytest.MonkeyPatch, limit: int) -> bool:
    patch.setattr(durable, "os", disk)
    patch.setattr(audit_log, "os", disk)
    log = None
    try:
        log = opened(root, file_bytes_max=limit)
        log.append(WALL, "uid 0", "four")
    except (OSError, PowerCut):
        return False
    finally:
        patch.undo()
        if log is not None and not disk.dead:
            log.close()
    return True


def test_a_full_disk_fails_the_change_and_costs_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(tmp_path)
    log.append(WALL, "uid 0", "one")
    whole, real = (tmp_path / "audit.jsonl").read_bytes(), os.write

    def half(handle: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return real(handle, data[: len(data) // 2])

    for _ in range(20):
        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            log.append(WALL, "uid 0", "two")
        monkeypatch.undo()
        assert (tmp_path / "audit.jsonl").read_bytes() == whole
    log.append(WALL, "uid 0", "three")
    log.close()
    assert said(tmp_path) == ["one", "three"]
    assert [entry.n for entry in lines(tmp_path)] == [1, 2]


@pytest.mark.slow
def test_every_byte_flipped_and_every_length_cut_is_seen_and_set_aside(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    for what in ("one", "two"):
        log.append(WALL, "uid 0", what)
    log.close()
    whole = (tmp_path / "log" / "audit.jsonl").read_bytes()
    line_ends = {index + 1 for index, byte in enumerate(whole) if byte == ord("\n")} | {0}
    damaged = [whole[:n] + bytes([whole[n] ^ 1]) + whole[n + 1 :] for n in range(len(whole))]
    damaged += [whole[:n] for n in range(len(whole)) if n not in line_ends]
    for index, data in enumerate(damaged):
        place = tmp_path / str(index)
        place.mkdir()
        (place / "audit.jsonl").write_bytes(data)
        assert read_audit(place / "audit.jsonl").fault
        if index % 10:
            continue
        log = opened(place)
        log.append(WALL, "uid 0", "three")
        log.close()
        assert log.fault
        assert said(place)[-1] == "three"
        if data.count(b"\n"):
            assert (place / "audit.1.jsonl").read_bytes() == data
            assert read_audit(place / "audit.jsonl").entries[0].about["fault"] == log.fault


def test_a_line_taken_out_is_seen(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for what in ("one", "two", "three"):
        log.append(WALL, "uid 0", what)
    log.close()
    path = tmp_path / "audit.jsonl"
    first, _, third = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + third)
    assert "line 2 is not as it was written, or the one before it is gone" in read_audit(path).fault
    path.write_bytes(third)
    assert "line 1 " in read_audit(path).fault


def test_one_writer_and_no_links(tmp_path: Path) -> None:
    log = opened(tmp_path / "log")
    with pytest.raises(AuditBusy, match="another delen daemon writes"):
        opened(tmp_path / "log")
    log.close()
    (tmp_path / "log" / "audit.jsonl").unlink()
    (tmp_path / "log" / "audit.jsonl").symlink_to("/tmp/elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        opened(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def history(directory: Path, count: int = 40) -> Head:
    """A log of several files; where it ends."""
    log = opened(directory, file_bytes_max=1000, files_max=8)
    for index in range(count):
        log.append(WALL, "uid 0", f"change {index}")
    log.close()
    return log.head


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_a_file_that_is_gone_is_missed(tmp_path: Path, gone: int) -> None:
    history(tmp_path, 20)
    assert look_through(tmp_path)[1] == []
    paths = files(tmp_path)
    assert len(paths) > 3
    paths[gone].unlink()
    [fault] = look_through(tmp_path)[1]
    assert ("the files before it are gone" if gone == 0 else "does not go on where the one before it ends") in fault


def test_a_file_put_in_the_place_of_another_is_noticed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        history(tmp_path / name, 20)
    log = opened(tmp_path / "b")
    log.append(WALL, "uid 0", "something else")
    log.close()
    forged = opened(tmp_path / "c", file_bytes_max=1000)
    for index in range(20):
        forged.append(WALL, "uid 1", f"change {index}")
    forged.close()
    shutil.copy(tmp_path / "c" / "audit.1.jsonl", tmp_path / "b" / "audit.1.jsonl")
    assert any("does not go on" in fault for fault in look_through(tmp_path / "b")[1])


@pytest.mark.parametrize("what", ["last line", "whole file", "everything", "another log"])
def test_a_log_cut_at_its_end_is_missed_by_who_remembers_the_end(tmp_path: Path, what: str) -> None:
    seen, current = history(tmp_path), tmp_path / "audit.jsonl"
    if what == "last line":
        current.write_bytes(b"".join(current.read_bytes().splitlines(keepends=True)[:-1]))
    elif what == "whole file":
        current.unlink()
    else:
        for path in files(tmp_path):
            path.unlink()
    if what == "another log":
        other = opened(tmp_path)
        for index in range(seen.n + 5):
            other.append(WALL, "uid 1", f"change {index}")
        other.close()
    log = opened(tmp_path, seen)
    assert ("is another than was written" if what == "another log" else "are gone") in log.fault
    entry = log.append(WALL, "uid 0", "next")
    log.close()
    assert entry.n == seen.n + 2, "the gap stays to be seen"
    assert what == "everything" or look_through(tmp_path)[1] != []
    again = opened(tmp_path, log.head)
    assert again.fault == ""
    again.close()
