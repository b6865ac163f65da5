"""Files are old or new and never a part, whatever call fails, wherever the power goes; and links are not followed."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from delen.clients import durable
from delen.clients.durable import create_whole, make_directory, read_bounded, remove, write_whole
from delen.tests.crash_disk import CrashDisk, Fault, PowerCut

_NUMBERS = itertools.count()
OLD, NEW = b"old" * 100, b"the new one" * 300


def break_everywhere(
    root: Path, patch: pytest.MonkeyPatch, fault: Fault, write: Callable[[], None], look: Callable[[CrashDisk], None]
) -> int:
    """Break the first, second, ... call of a writer until it gets through; look at what is there every time.

    `look` also puts things back as they were before the writer.
    """
    for call in range(200):
        disk = CrashDisk(root, fault=fault, at=call)
        patch.setattr(durable, "os", disk)
        try:
            write()
        except (OSError, PowerCut):
            patch.undo()
            look(disk)
        else:
            patch.undo()
            if disk.calls <= call:
                return call
            look(disk)
    raise AssertionError("the writer never got through")


@pytest.mark.parametrize("fault", get_args(Fault))
def test_whatever_call_fails_the_file_is_old_or_new_and_no_rubbish_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    path, seen = tmp_path / "f", set[bytes]()
    path.write_bytes(OLD)

    def look(disk: CrashDisk) -> None:
        seen.add(path.read_bytes())
        if fault == "cut":
            write_whole(path, OLD)  # The next writer cleans up after a dead one.
        assert [entry.name for entry in tmp_path.iterdir()] == ["f"]
        path.write_bytes(OLD)

    calls = break_everywhere(tmp_path, monkeypatch, fault, lambda: write_whole(path, NEW), look)
    assert calls >= 9, "listdir, open, fstat, write, fchmod, fsync, replace; open, fsync, close of the directory; close"
    assert seen == {OLD, NEW}
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("there", [True, False])
def test_a_power_cut_anywhere_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    root, states = tmp_path / "root", 0
    root.mkdir()
    path = root / "f" if there else root / "a" / "b" / "f"
    old = OLD if there else None
    if old is not None:
        path.write_bytes(old)

    def look(disk: CrashDisk) -> None:
        nonlocal states
        for place in disk.after_power_cut(_fresh(tmp_path / f"cut{next(_NUMBERS)}")):
            states += 1
            found = place / path.relative_to(root)
            assert (found.read_bytes() if found.exists() else None) in (old, NEW)
        _restore(root, path, old)

    break_everywhere(root, monkeypatch, "cut", lambda: write_whole(path, NEW), look)
    assert states > 20


@pytest.mark.parametrize("there", [True, False])
def test_what_was_acknowledged_outlasts_a_power_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    root = _fresh(tmp_path / "root")
    path = root / "f" if there else root / "a" / "b" / "f"
    if there:
        path.write_bytes(OLD)
    disk = CrashDisk(root)
    monkeypatch.setattr(durable, "os", disk)
    write_whole(path, NEW)
    monkeypatch.undo()
    found = [(place / path.relative_to(root)).read_bytes() for place in disk.after_power_cut(_fresh(tmp_path / "cut"))]
    assert found
    assert set(found) == {NEW}


def test_a_removal_that_was_acknowledged_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _fresh(tmp_path / "root")
    (root / "f").write_bytes(OLD)
    disk = CrashDisk(root)
    monkeypatch.setattr(durable, "os", disk)
    remove(root / "f")
    remove(root / "absent")
    monkeypatch.undo()
    assert not [place for place in disk.after_power_cut(_fresh(tmp_path / "cut")) if (place / "f").exists()]


@pytest.mark.parametrize("fault", get_args(Fault))
def test_a_secret_is_there_whole_or_not_at_all_and_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    root = _fresh(tmp_path / "root")
    path = root / "key"

    def look(disk: CrashDisk) -> None:
        for place in disk.after_power_cut(_fresh(tmp_path / f"cut{next(_NUMBERS)}")):
            assert not (place / "key").exists() or (place / "key").read_bytes() == NEW
        for entry in root.iterdir():
            entry.unlink()

    break_everywhere(root, monkeypatch, fault, lambda: create_whole(path, NEW), look)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        create_whole(path, OLD)
    assert path.read_bytes() == NEW
    assert [entry.name for entry in root.iterdir()] == ["key"]


def test_modes_are_what_was_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "f", NEW)
        write_whole(tmp_path / "g", NEW, mode=0o640)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "fg"] == [0o644, 0o640]


def test_a_stream_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_whole(path, lambda stream: np.savez(stream, x=np.arange(3)))

    def fails(stream: object) -> None:
        np.savez(stream, x=np.zeros(9))  # type: ignore[arg-type]  # as above
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fails)
    with np.load(path, allow_pickle=False) as kept:
        assert kept["x"].tolist() == [0, 1, 2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npz"]


def test_a_writer_at_work_is_not_swept_away_by_another(tmp_path: Path) -> None:
    path = tmp_path / "f"

    def slowly(stream: object) -> None:
        write_whole(path, OLD)
        assert len(durable.parts_beside(path)) == 1

    write_whole(path, slowly)
    assert path.read_bytes() == b""


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(OLD)
    (tmp_path / "f").symlink_to("elsewhere")
    write_whole(tmp_path / "f", NEW)
    assert (tmp_path / "elsewhere").read_bytes() == OLD
    assert not (tmp_path / "f").is_symlink()


def test_reading_follows_no_link_waits_for_no_pipe_and_has_a_limit(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(OLD)
    assert read_bounded(tmp_path / "f", len(OLD)) == OLD
    (tmp_path / "empty").touch()
    assert read_bounded(tmp_path / "empty", 0) == b""
    (tmp_path / "link").symlink_to("f")
    os.mkfifo(tmp_path / "pipe")
    bound = socket.socket(socket.AF_UNIX)
    bound.bind(str(tmp_path / "socket"))
    faults = {
        "f": (len(OLD) - 1, errno.EFBIG),
        "link": (1000, errno.ELOOP),
        "pipe": (1000, errno.EINVAL),
        "socket": (1000, errno.ENXIO),
        ".": (1000, errno.EINVAL),
        "absent": (1000, errno.ENOENT),
    }
    for name, (limit, code) in faults.items():
        with pytest.raises(OSError) as raised:  # noqa: PT011  (the code is looked at)
            read_bounded(tmp_path / name, limit)
        assert raised.value.errno == code, name
    bound.close()
    with pytest.raises(OSError, match="regular"):
        read_bounded(Path("/dev/null"), 10)


def test_a_file_that_claims_to_be_huge_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(OSError, match="more than 4096 bytes"):
        read_bounded(tmp_path / "sparse", 4096)


def test_directories_are_made_on_the_way_and_a_file_there_is_named(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    make_directory(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write_whole(tmp_path / "file" / "f", NEW)


def _fresh(path: Path) -> Path:
    path.mkdir()
    return path


def _restore(root: Path, path: Path, old: bytes | None) -> None:
    """As before the writer: every part and every directory that it made gone."""
    for place, directories, names in os.walk(root, topdown=False):
        for name in names:
            (Path(place) / name).unlink()
        for name in directories:
            (Path(place) / name).rmdir()
    if old is not None:
        path.write_bytes(old)
