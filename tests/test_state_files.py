"""State is old or new wherever a write breaks or the power goes; damage anywhere is seen, said and mended."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import get_args

import pytest

from delen.clients import durable
from delen.exits import state_files
from delen.exits.state_files import Health, forget, inspect, keep, mend, read
from delen.tests.crash_disk import CrashDisk, Fault, PowerCut

OLD, NEW = b'{"taken": "before"}\n', b'{"taken": "now, and with more to say"}\n'
FILE = Path("profiles/digits/x.json")


def kept_root(place: Path, *contents: bytes) -> Path:
    place.mkdir()
    for content in contents:
        keep(place, place / FILE, content)
    return place


def found(root: Path) -> bytes | None:
    try:
        return read(root, root / FILE).data
    except FileNotFoundError:
        return None


def test_what_is_kept_is_a_plain_file_with_a_copy(tmp_path: Path) -> None:
    root = kept_root(tmp_path / "state", OLD, NEW)
    assert (root / FILE).read_bytes() == NEW
    assert read(root, root / FILE) == (NEW, "")
    assert inspect(root) == Health(1, ())
    assert sorted(path.name for path in root.iterdir()) == [".lock", "last-good", "profiles"]
    assert mend(root) == []


def test_what_was_put_there_by_hand_is_read_as_it_is(tmp_path: Path) -> None:
    root = kept_root(tmp_path / "state", OLD)
    (root / FILE.with_name("mine.json")).write_bytes(b"anything")
    assert read(root, root / FILE.with_name("mine.json")) == (b"anything", "")


def test_what_was_removed_stays_removed(tmp_path: Path) -> None:
    root = kept_root(tmp_path / "state", OLD)
    (root / FILE).unlink()
    assert found(root) is None
    assert inspect(root) == Health(0, ())
    assert mend(root) == []
    (root / FILE).write_bytes(b"by hand, after that")
    assert read(root, root / FILE) == (b"by hand, after that", "")
    keep(root, root / FILE, NEW)
    forget(root, root / FILE)
    assert not list((root / "last-good").rglob("x.json"))


@pytest.mark.slow
@pytest.mark.parametrize("old", [None, OLD])
@pytest.mark.parametrize("fault", get_args(Fault))
def test_old_or_new_whatever_call_fails_and_wherever_the_power_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault, old: bytes | None
) -> None:
    first = kept_root(tmp_path / "first", *([] if old is None else [old]))
    seen, states = set[bytes | None](), 0
    for call in range(300):
        root = tmp_path / f"root{call}"
        shutil.copytree(first, root)
        disk = CrashDisk(root, fault=fault, at=call)
        acknowledged = _keep_on(disk, root, monkeypatch)
        if acknowledged and disk.calls <= call:
            break
        places = disk.after_power_cut(_made(tmp_path / f"cuts{call}")) if fault == "cut" else [root]
        for place in places:
            states += 1
            # Read as it is, and again after the daemon's next start has looked; a write cut short is no damage.
            before = found(place)
            seen.add(before)
            assert before in ([NEW] if acknowledged else [old, NEW])
            assert mend(place) == []
            assert found(place) == before
    assert call > 30
    assert seen == {old, NEW}
    assert states >= call


def test_what_was_acknowledged_outlasts_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = kept_root(tmp_path / "state", OLD)
    disk = CrashDisk(root)
    assert _keep_on(disk, root, monkeypatch)
    places = list(disk.after_power_cut(_made(tmp_path / "cuts")))
    assert places
    for place in places:
        assert found(place) == NEW


def _keep_on(disk: CrashDisk, root: Path, patch: pytest.MonkeyPatch) -> bool:
    """Whether it was acknowledged."""
    patch.setattr(durable, "os", disk)
    patch.setattr(state_files, "os", disk)
    try:
        keep(root, root / FILE, NEW)
    except (OSError, PowerCut):
        return False
    finally:
        patch.undo()
    return True


@pytest.mark.slow
@pytest.mark.parametrize("which", ["the file", "its copy"])
@pytest.mark.parametrize("how", ["flipped", "cut", "grown"])
def test_every_byte_flipped_and_every_length_cut_is_seen_said_and_mended(tmp_path: Path, which: str, how: str) -> None:
    root = kept_root(tmp_path / "state", OLD, NEW)
    path = root / FILE if which == "the file" else root / "last-good" / FILE
    whole = path.read_bytes()
    damaged = {
        "flipped": [whole[:n] + bytes([whole[n] ^ 1 << n % 8]) + whole[n + 1 :] for n in range(len(whole))],
        "cut": [whole[:n] for n in range(len(whole))],
        "grown": [whole + b"\n", whole + whole, whole + bytes(4096)],
    }[how]
    for data in damaged:
        path.write_bytes(data)
        kept = read(root, root / FILE)
        assert kept.data == NEW
        assert f"{FILE.name} " in kept.fault or f"{FILE.name}:" in kept.fault
        assert inspect(root) == Health(1, (kept.fault,))
    said = mend(root)
    assert len(said) == 1
    assert (root / FILE).read_bytes() == NEW
    assert inspect(root) == Health(1, ())
    if which == "the file":
        assert (root / "damaged" / FILE).read_bytes() == damaged[-1]
        assert "damaged" in said[0]


def test_both_damaged_is_what_the_file_says_and_never_silent(tmp_path: Path) -> None:
    root = kept_root(tmp_path / "state", NEW)
    for path in (root / FILE, root / "last-good" / FILE):
        path.write_bytes(path.read_bytes()[:10])
    kept = read(root, root / FILE)
    assert kept.data == NEW[:10]
    assert "cannot be used (damaged)" in kept.fault


def test_a_file_that_cannot_be_read_is_given_from_its_copy(tmp_path: Path) -> None:
    root = kept_root(tmp_path / "state", NEW)
    (root / FILE).unlink()
    (root / FILE).symlink_to("/etc/hostname")
    kept = read(root, root / FILE)
    assert kept.data == NEW
    assert os.strerror(errno.ELOOP) in kept.fault
    assert mend(root)
    assert not (root / FILE).is_symlink()
    assert (root / FILE).read_bytes() == NEW


def test_an_enormous_file_in_its_place_is_not_believed(tmp_path: Path) -> None:
    root = kept_root(tmp_path / "state", NEW)
    os.truncate(root / FILE, 1 << 40)
    assert read(root, root / FILE, 1000).data == NEW
    assert "more than 1000 bytes" in read(root, root / FILE, 1000).fault


def test_a_reader_beside_a_writer_does_not_cry_wolf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, bounded = kept_root(tmp_path / "state", OLD), durable.read_bounded
    writes = iter([b"2", b"3"])

    def between(path: Path, bytes_max: int) -> bytes:
        data = bounded(path, bytes_max)
        if "last-good" in path.parts and (content := next(writes, None)):
            with monkeypatch.context() as aside:
                aside.setattr(durable, "read_bounded", bounded)
                keep(root, root / FILE, content)
        return data

    monkeypatch.setattr(durable, "read_bounded", between)
    assert read(root, root / FILE) == (b"3", "")


def test_modes_are_kept_and_mended(tmp_path: Path) -> None:
    root = tmp_path / "state"
    keep(root, root / FILE, NEW, mode=0o600)
    (root / FILE).write_bytes(b"damaged")
    mend(root)
    for path in (root / FILE, root / "last-good" / FILE, root / "damaged" / FILE):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_files, "FILE_BYTES_MAX", 10)
    with pytest.raises(OSError, match="at most 10 are kept"):
        keep(tmp_path, tmp_path / FILE, NEW)
    keep(tmp_path, tmp_path / FILE, b"1")
    monkeypatch.setattr(state_files, "FILES_MAX", 0)
    with pytest.raises(OSError, match="holds more than 0 files"):
        inspect(tmp_path)


def _made(path: Path) -> Path:
    path.mkdir()
    return path
