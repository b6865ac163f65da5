"""TOML files as an operator writes them, and faults that name file, line and key.

Role: reading with a limit on size, and finding the line of a key a checker complains about. Does not: know settings.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A tenant with a hundred keys takes 16 KiB; beyond this it is no configuration.
TOML_BYTES_MAX = 1024 * 1024


class ConfigError(ValueError):
    """The configuration cannot be used: which file and key, what was expected."""


class ConfigMissing(ConfigError):
    """There is no such file, or it cannot be read."""


def read_toml(path: Path) -> dict[str, Any]:
    """What a file says. Raises ConfigError, ConfigMissing."""
    try:
        with path.open("rb") as file:
            raw = file.read(TOML_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigMissing(f"cannot read {path}: {error.strerror}") from error
    return parse_toml(raw, path)


def parse_toml(raw: bytes, path: Path) -> dict[str, Any]:
    """As `read_toml`, of what has been read from `path`."""
    if len(raw) > TOML_BYTES_MAX:
        raise ConfigError(f"{path} has more than {TOML_BYTES_MAX} bytes, which no configuration needs")
    try:
        return tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8: {error}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def line_of(text: str, said: str) -> int | None:
    """The line of the key that a fault speaks of, as `$.key`, `` `key` `` or first word; None when it is not there."""
    # The innermost first: of `limits.queued_max` the key, and only then its table.
    for pattern in (r"field `(\w+)`", r"\$\.(?:\w+\.)*(\w+)", r"\$\.(\w+)", r"^\w+\.(\w+)", r"^(\w+)"):
        found = re.search(pattern, said)
        if found is None:
            continue
        key = re.compile(rf"^\s*(\[+\s*)?[\"']?{re.escape(found[1])}[\"']?\s*(=|\]|\.)")
        for number, line in enumerate(text.splitlines(), 1):
            if key.match(line):
                return number
    return None
