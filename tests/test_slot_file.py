"""The newest record that was acknowledged is there, whatever call fails and wherever the power goes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import get_args

import pytest

from delen.clients import durable
from delen.daemon import slot_file
from delen.daemon.slot_file import SlotFile
from delen.tests.crash_disk import CrashDisk, Fault, PowerCut

RECORDS = [b"first", b"second, longer than the first", b"3", b"fourth" * 700]


def opened(path: Path) -> SlotFile:
    return SlotFile(path, slot_bytes=8192)


def record(path: Path) -> tuple[bytes, str]:
    file = opened(path)
    file.close()
    return file.record, file.fault


def test_the_last_record_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "counters"
    assert record(path) == (b"", "")
    for value in RECORDS:
        file = opened(path)
        file.write(b"before it")
        file.write(value)
        file.close()
        assert record(path) == (value, "")


@pytest.mark.slow
@pytest.mark.parametrize("fault", get_args(Fault))
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_old_or_new_whatever_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, before: int) -> None:
    first = tmp_path / "first"
    first.mkdir()
    if before:
        file = opened(first / "counters")
        for value in RECORDS[:before]:
            file.write(value)
        file.close()
    old, new, seen = RECORDS[before - 1] if before else b"", RECORDS[before], set[bytes]()
    for call in range(40):
        root = tmp_path / f"root{call}"
        shutil.copytree(first, root)
        disk = CrashDisk(root, fault=fault, at=call)
        done = _write_on(disk, root / "counters", new, monkeypatch)
        for place in disk.after_power_cut(_made(tmp_path / f"cuts{call}")):
            found, said = record(place / "counters")
            seen.add(found)
            assert found in ([new] if done else [old, new])
            assert not said or old == b"", "one of two slots is always whole"
        if done and disk.calls <= call:
            break
    assert call >= 8
    assert seen == {old, new}


def _write_on(disk: CrashDisk, path: Path, value: bytes, patch: pytest.MonkeyPatch) -> bool:
    patch.setattr(durable, "os", disk)
    patch.setattr(slot_file, "os", disk)
    try:
        file = opened(path)
        file.write(value)
        file.close()
    except (OSError, PowerCut):
        return False
    finally:
        patch.undo()
    return True


def test_after_a_failed_sync_the_last_good_slot_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "counters"
    file = opened(path)
    file.write(b"good")
    good = path.read_bytes()

    def fails(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", fails)
    for value in (b"lost", b"lost too"):
        with pytest.raises(OSError, match="Input/output"):
            file.write(value)
        assert file.record == b"good"
    assert path.read_bytes()[8192:][:100] == good[8192:][:100]
    monkeypatch.undo()
    file.write(b"better")
    file.close()
    assert record(path) == (b"better", "")


@pytest.mark.slow
def test_damage_is_survived_by_one_record_and_said_when_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "counters"
    file = opened(path)
    file.write(b"before")
    file.write(b"newest")
    file.close()
    whole = path.read_bytes()
    size = len(whole) - 8192
    for place in (*range(size), *range(8192, len(whole))):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert record(path) == (b"newest" if place >= 8192 else b"before", "")
    path.write_bytes(bytes(len(whole)))
    assert record(path) == (b"", f"{path}: both of its records are damaged; it begins anew")


def test_what_does_not_fit_is_refused_and_a_second_process_too(tmp_path: Path) -> None:
    file = opened(tmp_path / "counters")
    with pytest.raises(OSError, match="9000 bytes do not fit"):
        file.write(bytes(9000))
    with pytest.raises(BlockingIOError):
        opened(tmp_path / "counters")
    file.close()
    (tmp_path / "link").symlink_to("counters")
    with pytest.raises(OSError, match="symbolic links"):
        opened(tmp_path / "link")


def _made(path: Path) -> Path:
    path.mkdir()
    return path
