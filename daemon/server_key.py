"""The daemon's own CURVE key for tcp, from a file that only its user and root can read.

Role: `read_secret` for `Listener`. A service gets the file as a credential of systemd's, else it lies beside the
configuration, where `delen keys init` put it. Does not: make keys, or say anything of what is in the file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ..clients.key_text import key_fault
from .toml_file import ConfigError, ConfigMissing, parse_toml

SECRET_NAME = "server.secret"
SECRET_BYTES_MAX = 16 * 1024
INIT_HINT = "`delen keys init` makes one"


def secret_path(said: str, beside: Path | None, environ: Mapping[str, str]) -> Path:
    """Where the key is: as said, else systemd's credential, else `keys/server.secret` beside the configuration."""
    if said:
        return Path(said) if beside is None else beside / said
    handed = environ.get("CREDENTIALS_DIRECTORY")
    if handed and (Path(handed) / SECRET_NAME).exists():
        return Path(handed) / SECRET_NAME
    return (beside or Path()) / "keys" / SECRET_NAME


def read_secret(path: Path) -> bytes:
    """The secret key, Z85, as the socket takes it. Raises ConfigError, ConfigMissing; neither repeats what it read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigMissing(f"cannot read {path}: {error.strerror}; {INIT_HINT}") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path} is no regular file; {INIT_HINT}")
        _check_private(found, path)
        raw = os.read(fd, SECRET_BYTES_MAX)
    finally:
        os.close(fd)
    secret = parse_toml(raw, path).get("secret_key")
    if not isinstance(secret, str):
        raise ConfigError(f"{path} has no secret_key; {INIT_HINT}")
    fault = key_fault(secret)
    if fault:
        raise ConfigError(f"{path}: secret_key: {fault}")
    return secret.encode()


def _check_private(found: os.stat_result, path: Path) -> None:
    if found.st_uid not in (0, os.getuid()):
        raise ConfigError(f"{path} belongs to uid {found.st_uid}; expected root or uid {os.getuid()}")
    # The group may read it where root handed it to the daemon's group.
    others = found.st_mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP)
    readers = found.st_mode & stat.S_IRGRP and found.st_gid != os.getgid()
    if others or readers:
        raise ConfigError(f"{path} can be read or written by others; chmod 600 {path}, and renew the key")
