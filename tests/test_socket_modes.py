"""Socket files: who may reach them, and that nothing is taken from anybody."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from delen.daemon.socket_modes import EndpointError, let_in, prepare

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
# As another user: can the socket be connected to?
PROBE = """
import os, socket, sys
uid, path = int(sys.argv[1]), sys.argv[2]
os.setgroups([]); os.setgid(uid); os.setuid(uid)
try:
    socket.socket(socket.AF_UNIX).connect(path)
except PermissionError:
    sys.exit(3)
"""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def listening(path: Path) -> socket.socket:
    """Bound as a door does it."""
    before = os.umask(prepare(path))
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(str(path))
    finally:
        os.umask(before)
    made.listen(8)
    return made


def reaches(uid: int, path: Path) -> bool:
    done = subprocess.run([sys.executable, "-c", PROBE, str(uid), str(path)], check=False)
    assert done.returncode in (0, 3)
    return done.returncode == 0


def open_way(path: Path) -> Path:
    """pytest's own directories are closed to others."""
    for folder in path.parents:
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "t" / "a" / "sock"


def test_alone_by_default_whatever_the_mask_of_the_process(path: Path) -> None:
    before = os.umask(0o000)
    try:
        with listening(path):
            assert mode(path) == 0o600
            assert mode(path.parent) == 0o700
            assert mode(path.parent.parent) == 0o711
            assert let_in(path, [os.getuid()]) is None
            assert mode(path) == 0o600
    finally:
        os.umask(before)
    before = os.umask(0o077)
    try:
        prepare(path.parent.parent.parent / "u" / "b" / "sock")
        assert mode(path.parent.parent.parent / "u") == 0o711, "others must be able to pass"
    finally:
        os.umask(before)


@pytest.mark.slow
@ROOT_ONLY
def test_the_uids_named_reach_it_and_no_others(path: Path) -> None:
    with listening(path):
        open_way(path.parent.parent)
        assert not reaches(1001, path)
        note = let_in(path, [1001, 1002])
        if note is not None:
            pytest.skip("this file system keeps no access lists")
        assert reaches(1001, path)
        assert reaches(1002, path)
        assert not reaches(1003, path)
        assert not mode(path) & 0o007
        assert not mode(path.parent) & 0o007
        let_in(path, [1002])
        assert not reaches(1001, path), "taken away again"
        assert reaches(1002, path)
        let_in(path, [])
        assert not reaches(1002, path)
        assert (mode(path.parent), mode(path)) == (0o700, 0o600)


@pytest.mark.slow
@ROOT_ONLY
def test_a_directory_with_a_group_lets_its_group_in(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.chown(path.parent, 0, 1001)
    path.parent.chmod(0o2750)
    with listening(path):
        open_way(path.parent.parent)
        assert mode(path) == 0o660
        assert path.lstat().st_gid == 1001
        assert reaches(1001, path)
        assert not reaches(1002, path)


def test_a_directory_others_can_write_is_not_used(path: Path) -> None:
    path.parent.mkdir(parents=True)
    for bad in (0o777, 0o770):
        path.parent.chmod(bad)
        with pytest.raises(EndpointError, match="chmod"):
            prepare(path)


def test_a_way_on_which_others_can_rename_it_is_not_used(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.parent.parent.chmod(0o777)
    with pytest.raises(EndpointError, match="chmod go-w"):
        prepare(path)
    path.parent.parent.chmod(0o1777)
    prepare(path)


@ROOT_ONLY
@pytest.mark.parametrize("above", [0, 1])
def test_a_directory_of_another_user_is_not_used(path: Path, above: int) -> None:
    path.parent.mkdir(parents=True)
    os.chown(path.parents[above], 1001, 1001)
    with pytest.raises(EndpointError, match="belongs to uid 1001"):
        prepare(path)


def test_a_link_in_place_of_the_directory_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.parent.parent.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EndpointError, match="no directory"):
        prepare(path)


@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to a socket"])
def test_only_a_socket_is_ever_removed(path: Path, tmp_path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, mode=0o700)
    target = tmp_path / "target"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as other:
            if kind == "link":
                target.write_text("precious")
            else:
                other.bind(str(target))
        path.symlink_to(target)
    with pytest.raises(EndpointError, match="in the way"):
        prepare(path)
    assert path.exists()
