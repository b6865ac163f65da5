"""The daemon's own CURVE key for tcp, from a file that only its user and root can read.

Role: `read_secret` for `Listener`. A service gets the file as a credential of systemd's, else it lies beside the
configuration, where `delen keys init` put it. Does not: make keys, or say anything of what is in the file.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..clients.durable import read_bounded
from ..clients.key_text import key_fault
from .toml_file import ConfigError, ConfigMissing, parse_toml

SECRET_NAME = "server.secret"
# The one that takes its place, while both hold.
NEXT_NAME = "server.next.secret"
SECRET_BYTES_MAX = 16 * 1024
INIT_HINT = "`delen keys init` makes one"
# posix_acl_xattr.h, version 2: four bytes of version, then entries of tag, rights, id.
_ACL, _ACL_ENTRY = "system.posix_acl_access", struct.Struct("<HHI")
_ACL_OWNER, _ACL_USER, _ACL_MASK = 0x01, 0x02, 0x10


def secret_path(said: str, beside: Path | None, environ: Mapping[str, str]) -> Path:
    """Where the key is: as said, else systemd's credential, else `keys/server.secret` beside the configuration."""
    if said:
        return Path(said) if beside is None else beside / said
    handed = environ.get("CREDENTIALS_DIRECTORY")
    if handed and (Path(handed) / SECRET_NAME).exists():
        return Path(handed) / SECRET_NAME
    return (beside or Path()) / "keys" / SECRET_NAME


def next_path(path: Path) -> Path:
    """Where the next key is while the key at `path` is being changed: beside it."""
    return path.with_name(NEXT_NAME)


def read_secret(path: Path) -> bytes:
    """The secret key, Z85, as the socket takes it. Raises ConfigError, ConfigMissing; neither repeats what it read."""
    try:
        raw = read_bounded(path, SECRET_BYTES_MAX, partial(_check_private, path))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG):
            raise ConfigError(f"cannot use {path}: {error.strerror}; {INIT_HINT}") from error
        # There it is, and not this user's to read.
        hint = f"chgrp the daemon's group and chmod 640 {path}" if isinstance(error, PermissionError) else INIT_HINT
        raise ConfigMissing(f"cannot read {path}: {error.strerror}; {hint}") from error
    secret = parse_toml(raw, path).get("secret_key")
    if not isinstance(secret, str):
        raise ConfigError(f"{path} has no secret_key; {INIT_HINT}")
    fault = key_fault(secret)
    if fault:
        raise ConfigError(f"{path}: secret_key: {fault}")
    return secret.encode()


def _check_private(path: Path, found: os.stat_result, fd: int) -> None:
    if found.st_uid not in (0, os.getuid()):
        raise ConfigError(f"{path} belongs to uid {found.st_uid}; expected root or uid {os.getuid()}")
    others = found.st_mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP)
    # The group may read it where root handed it to the daemon's group. Root may look, whatever group that is.
    handed = found.st_uid == 0 and (os.getuid() == 0 or found.st_gid == os.getgid())
    readers = found.st_mode & stat.S_IRGRP and not handed and not _named_alone(fd)
    if others or readers:
        raise ConfigError(f"{path} can be read or written by others; chmod 600 {path}, and renew the key")


def _named_alone(fd: int) -> bool:
    """Whether the group's bits are the mask of an access list that lets in this user and nobody else (acl(5)).

    So systemd hands over credentials where the file system keeps such lists.
    """
    try:
        entries = list(_ACL_ENTRY.iter_unpack(os.getxattr(fd, _ACL)[4:]))
    except OSError:
        return False
    open_to = [(tag, who) for tag, rights, who in entries if rights and tag not in (_ACL_OWNER, _ACL_MASK)]
    return open_to == [(_ACL_USER, os.getuid())]
