"""Where a tenant's endpoint is, and what may be a name: the rules that daemon, clients and bundles share.

Role: names become paths, so both are here. Pure, and importable by every room, like `wire.py`.
Does not: look at the file system or read the environment; it is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

NAME_BYTES_MAX = 64


def runtime_directories(environ: Mapping[str, str], uid: int) -> list[Path]:
    """Where endpoints may be, most specific first: $DELEN_RUNTIME_DIR alone, or the user's and the system's."""
    named = environ.get("DELEN_RUNTIME_DIR")
    if named:
        return [Path(named)]
    user = environ.get("XDG_RUNTIME_DIR")
    own = Path(user) / "delen" if user else fallback_directory(uid)
    return [own, Path("/run/delen")]


def fallback_directory(uid: int) -> Path:
    """For users whom no login gave a runtime directory. Anybody may have made it: look whose it is."""
    return Path(f"/tmp/delen-{uid}")


def endpoint_path(runtime_directory: Path, tenant: str) -> Path:
    """The socket of one tenant: a directory each, so that rights can be set on it."""
    return runtime_directory / "t" / tenant / "sock"


def name_fault(kind: str, name: str) -> str | None:
    """Names become paths, labels and log fields: letters, digits, dot, dash, underscore, and no leading dot."""
    plain = all(c.isascii() and (c.isalnum() or c in "._-") for c in name)
    if name and plain and not name.startswith(".") and len(name) <= NAME_BYTES_MAX:
        return None
    return f"{kind} {name[:80]!r} is not a name: 1-{NAME_BYTES_MAX} of a-z A-Z 0-9 . _ -, not starting with a dot"
