"""TOML files as an operator writes them, and faults that name file, line and key.

Role: reading with a limit on size, and finding the line of a key a checker complains about. Does not: know settings.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..clients.toml_text import TomlFault, parse_toml_text

# A tenant with a hundred keys takes 16 KiB; beyond this it is no configuration.
TOML_BYTES_MAX = 1024 * 1024
# An editor writes once; who writes all the time is not waited for.
READS_MAX = 3


class ConfigError(ValueError):
    """The configuration cannot be used: which file and key, what was expected."""


class ConfigMissing(ConfigError):
    """There is no such file, or it cannot be read."""


def read_toml(path: Path) -> dict[str, Any]:
    """What a file says that nobody else could have written, all at one time. Raises ConfigError, ConfigMissing."""
    for _ in range(READS_MAX):
        raw = _read_once(path)
        if raw is not None:
            return parse_toml(raw, path)
    raise ConfigError(f"{path} changed while it was read, {READS_MAX} times; try again when it is complete")


def _read_once(path: Path) -> bytes | None:
    """Its bytes; None where somebody wrote to it, or put another in its place, meanwhile."""
    try:
        # A pipe without a writer would hold up whoever opens it for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            before = os.fstat(fd)
            _check_writers(before, path)
            raw = file.read(TOML_BYTES_MAX + 1)
            unchanged = _state(before) == _state(os.fstat(fd)) == _state(path.stat())
    except OSError as error:
        raise ConfigMissing(f"cannot read {path}: {error.strerror}") from error
    return raw if unchanged else None


def _state(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def parse_toml(raw: bytes, path: Path) -> dict[str, Any]:
    """As `read_toml`, of what has been read from `path`."""
    if len(raw) > TOML_BYTES_MAX:
        raise ConfigError(f"{path} has more than {TOML_BYTES_MAX} bytes, which no configuration needs")
    try:
        return parse_toml_text(raw)
    except TomlFault as fault:
        raise ConfigError(f"{path} is {fault if str(fault).startswith('not ') else f'not TOML: {fault}'}") from fault


def _check_writers(found: os.stat_result, path: Path) -> None:
    """Whoever can write it decides who may ask, and whose networks are served: root, or this user."""
    if not stat.S_ISREG(found.st_mode):
        raise ConfigMissing(f"cannot read {path}: it is no regular file, and it is read again at every reload")
    if found.st_uid not in (0, os.getuid()):
        raise ConfigError(f"{path} belongs to uid {found.st_uid}; expected root or uid {os.getuid()}")
    # Where every user has a group of their own, files are the group's to write as well.
    shared = stat.S_IWOTH if found.st_gid == os.getgid() else stat.S_IWOTH | stat.S_IWGRP
    if found.st_mode & shared:
        raise ConfigError(f"{path} can be written by others; chmod go-w {path}")


def line_of(text: str, said: str) -> int | None:
    """The line of the key that a fault speaks of, as `$.key`, `` `key` `` or first word; None when it is not there."""
    lines = text.splitlines()
    # Of several tables of one name, such as tenants, the one that is meant; and in it, the key.
    listed = re.search(r"\$\.(\w+)\[(\d+)\](?:\.(\w+))?", said)
    if listed is not None:
        table, place, key = listed.groups()
        unknown = re.search(r"field `(\w+)`", said)
        key = unknown[1] if unknown is not None else key
        starts = [n for n, line in enumerate(lines) if re.match(rf"^\s*\[\[\s*{table}\s*\]\]", line)]
        if int(place) < len(starts):
            start = starts[int(place)]
            within = listed[3] or table  # an inline table has the key on its own line
            return _line_of_key(lines, key or table, start) or _line_of_key(lines, within, start) or start + 1
    # The innermost first: of `limits.queued_max` the key, and only then its table.
    for pattern in (r"field `(\w+)`", r"\$\.(?:\w+\.)*(\w+)", r"\$\.(\w+)", r"^\w+\.(\w+)", r"^(\w+)"):
        found = re.search(pattern, said)
        line = None if found is None else _line_of_key(lines, found[1])
        if line is not None:
            return line
    return None


def _line_of_key(lines: Sequence[str], name: str, start: int = 0) -> int | None:
    key = re.compile(rf"^\s*(\[+\s*)?[\"']?{re.escape(name)}[\"']?\s*(=|\]|\.)")
    return next((number for number, line in enumerate(lines[start:], start + 1) if key.match(line)), None)
