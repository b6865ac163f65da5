"""`tenants.d`: one TOML file per tenant, named after it, as `delen keys` writes them and an operator may edit them.

Role: from a directory to what the configuration's `tenants` would say, read safely: no links, nothing that somebody
else could have written, nothing that changed while it was read. Deny by default: a file that names no networks grants
none. Does not: check what is said together with other tenants (config.py), or write.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec

from ..clients.places import name_fault
from .rights import TenantConfig
from .toml_file import ConfigError, ConfigMissing, line_of, parse_toml

TENANT_BYTES_MAX = 64 * 1024
# More files than any daemon may serve: somebody pointed it at the wrong directory.
FILES_MAX = 10_000
DIRECTORY_NAME = "tenants.d"


def read_tenants(directory: Path) -> tuple[TenantConfig, ...]:
    """All tenants of a directory, by name.

    Raises:
        ConfigError: a file cannot be trusted or used; `file:line: what was expected`. ConfigMissing: no directory.
    """
    try:
        _check_owner(os.lstat(directory), directory, folder=True)
        names = sorted(entry.name for entry in os.scandir(directory))
    except OSError as error:
        raise ConfigMissing(f"cannot read {directory}: {error.strerror}") from error
    # Editors' copies and half-written files start with a dot or end otherwise; a misspelt `.tml` should be heard of.
    strangers = [name for name in names if not name.endswith(".toml") and not name.startswith(".")]
    if strangers:
        raise ConfigError(f"{directory / strangers[0]}: expected only NAME.toml here; move it away")
    files = [name for name in names if not name.startswith(".")]
    if len(files) > FILES_MAX:
        raise ConfigError(f"{directory} has {len(files)} files; at most {FILES_MAX} are read")
    return tuple(read_tenant(directory / name) for name in files)


def read_tenant(path: Path) -> TenantConfig:
    """One tenant's file. Raises ConfigError, ConfigMissing."""
    fault = name_fault("tenant", path.name.removesuffix(".toml"))
    if fault:
        raise ConfigError(f"{path}: {fault}")
    return tenant_of(_read(path), path)


def tenant_of(raw: bytes, path: Path) -> TenantConfig:
    """The tenant that a file of this text at `path` would be. Raises ConfigError."""
    name = path.name.removesuffix(".toml")
    said = parse_toml(raw, path)
    if "name" in said:
        raise _fault(path, raw, "name is not for tenant files: the file's name is the tenant's")
    try:
        tenant = msgspec.convert({"networks": (), **said, "name": name}, TenantConfig)
    except msgspec.ValidationError as error:
        raise _fault(path, raw, str(error)) from None
    fault = tenant.rights_fault() or tenant.fault()
    if fault:
        raise _fault(path, raw, fault)
    return tenant


def _fault(path: Path, raw: bytes, said: str) -> ConfigError:
    line = line_of(raw.decode(errors="replace"), said)
    return ConfigError(f"{path}: {said}" if line is None else f"{path}:{line}: {said}")


def _read(path: Path) -> bytes:
    """The bytes of a regular file that only root and this user can write, the same before and after."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        hint = ": it is a link; put the file itself there" if path.is_symlink() else ""
        raise ConfigMissing(f"cannot read {path}: {error.strerror}{hint}") from error
    try:
        before = os.fstat(fd)
        _check_owner(before, path, folder=False)
        raw = os.read(fd, TENANT_BYTES_MAX + 1)
        after = os.fstat(fd)
    except OSError as error:
        raise ConfigMissing(f"cannot read {path}: {error.strerror}") from error
    finally:
        os.close(fd)
    if len(raw) > TENANT_BYTES_MAX:
        raise ConfigError(f"{path} has more than {TENANT_BYTES_MAX} bytes, which no tenant needs")
    if _state(before) != _state(after) or len(raw) != after.st_size:
        raise ConfigError(f"{path} changed while it was read; try again when it is complete")
    return raw


def _state(found: os.stat_result) -> tuple[Any, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_owner(found: os.stat_result, path: Path, *, folder: bool) -> None:
    """Whoever can write here decides who may ask: that must be root or the daemon's own user."""
    right_kind = stat.S_ISDIR(found.st_mode) if folder else stat.S_ISREG(found.st_mode)
    if not right_kind:
        raise ConfigError(f"{path} is no {'directory' if folder else 'regular file'}")
    if found.st_uid not in (0, os.getuid()):
        raise ConfigError(f"{path} belongs to uid {found.st_uid}; expected root or uid {os.getuid()}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path} can be written by others; chmod go-w {path}")
