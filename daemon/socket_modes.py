"""Who may reach a tenant's socket file: modes set before it exists, and one entry per uid where others are let in.

Role: the directory of an endpoint and the mask its socket is bound under. Three cases: only this user (0700, 0600);
a directory that root prepared with a group of its own (set-group-id, then 0660: the socket takes that group); uids
without such a directory, for which their names are added to the access lists of directory and socket, which a file's
owner may do without any privilege. Reaching a socket is not being let in: that is the handshake's (`rights.py`).

Does not: open sockets. Access lists: acl(5), the layout of posix_acl_xattr.h, version 2.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Sequence
from pathlib import Path

# posix_acl_xattr.h: entries of tag, permissions, id, in this order of tags.
_ACL, _ACL_VERSION = "system.posix_acl_access", 2
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_READ_WRITE, _SEARCH = 6, 1


class EndpointError(RuntimeError):
    """A directory or socket cannot be made: which, why, what to do."""


def prepare(path: Path) -> int:
    """Make the directory of a socket and clear a dead daemon's file; returns the mask to bind under.

    Raises EndpointError: the directory is not ours alone to write, or something else than a socket is in the way.
    """
    folder = path.parent
    try:
        # Everybody may pass the way to their own directory, and read nothing on it.
        folder.parent.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
        make_folder(folder.parent, 0o711)
        _check_way(os.lstat(folder.parent), folder.parent)
        make_folder(folder, 0o700)
        found = os.lstat(folder)
        _check_folder(found, folder)
        # The lock is held, so a socket file here is a dead daemon's; anything else is not ours to delete.
        if path.is_socket() and not path.is_symlink():
            path.unlink()
        elif path.exists() or path.is_symlink():
            raise EndpointError(f"{path} is in the way and no socket; move it away")
    except OSError as error:
        raise EndpointError(f"cannot make {folder}: {error.strerror}") from error
    return 0o117 if _has_group(found) else 0o177


def let_in(path: Path, uids: Sequence[int]) -> str | None:
    """Let these users reach a bound socket; a line for the operator where that cannot be done.

    For users of a prepared directory's group, and for this user alone, nothing is left to do.
    """
    others = sorted({uid for uid in uids if uid != os.getuid()})
    folder = path.parent
    if _has_group(os.lstat(folder)):
        return None
    if not others:
        _close(folder, 0o700)
        _close(path, 0o600)
        return None
    try:
        os.setxattr(folder, _ACL, _access_list(others, owner=7, named=_SEARCH), follow_symlinks=False)
        os.setxattr(path, _ACL, _access_list(others, owner=6, named=_READ_WRITE), follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EPERM, errno.EINVAL):
            raise EndpointError(f"cannot let other users reach {path}: {error.strerror}") from error
        said = ", ".join(str(uid) for uid in others)
        return (
            f"{folder}: this file system keeps no access lists, so uids {said} cannot reach the socket; give the "
            "directory a group of theirs (d DIRECTORY 2750 USER GROUP, in tmpfiles.d)"
        )
    return None


def make_folder(folder: Path, mode: int) -> None:
    """A new directory of exactly this mode, whatever the process's mask; one that is there stays as it is."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(mode)


def _close(path: Path, mode: int) -> None:
    """Take back what an access list allowed, if there is one."""
    try:
        os.removexattr(path, _ACL, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM):
            raise EndpointError(f"cannot take back who may reach {path}: {error.strerror}") from error
        return
    path.chmod(mode)


def _access_list(uids: Sequence[int], *, owner: int, named: int) -> bytes:
    """Owner, named users, no group, a mask that lets the named ones through, and nobody else."""
    entries = [(_OWNER, owner, _NO_ID), *((_USER, named, uid) for uid in uids)]
    entries += [(_GROUP, 0, _NO_ID), (_MASK, named, _NO_ID), (_OTHERS, 0, _NO_ID)]
    return struct.pack("<I", _ACL_VERSION) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _has_group(found: os.stat_result) -> bool:
    """Whether sockets made here take the directory's group, as root prepared it."""
    return bool(found.st_mode & stat.S_ISGID)


def _check_folder(found: os.stat_result, folder: Path) -> None:
    """Who can write here could replace the socket by one of their own."""
    _check_owner(found, folder)
    # With an access list the group bits are its mask, not a right of anybody's.
    if found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_uid != os.getuid()):
        raise EndpointError(f"{folder} can be written by others; chmod go-w {folder}")
    if found.st_mode & stat.S_IWGRP:
        raise EndpointError(f"{folder} can be written by its group; chmod g-w {folder}")


def _check_way(found: os.stat_result, folder: Path) -> None:
    """Who can write in the directory above could rename ours, unless only owners may there, as in /tmp."""
    _check_owner(found, folder)
    if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        raise EndpointError(f"{folder} can be written by others; chmod go-w {folder}")


def _check_owner(found: os.stat_result, folder: Path) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise EndpointError(f"{folder} is no directory; move it away")
    if found.st_uid not in (0, os.getuid()):
        raise EndpointError(f"{folder} belongs to uid {found.st_uid}; expected root or uid {os.getuid()}")
