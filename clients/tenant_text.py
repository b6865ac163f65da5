"""A tenant's file in `tenants.d` as text: a new one, a key added, a key that ends. Comments and order are kept.

Role: what `delen keys` writes. Every change is a change of lines, so that what an operator wrote by hand stays; the
caller reads the result back before it replaces the file. Does not: touch files, or check what is in them (the daemon's
`tenant_files.py` does).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

TABLE = "[[keys]]"


class KeyAbsent(ValueError):
    """There is no such key in this file."""


def new_tenant(
    name: str,
    *,
    uids: Sequence[int],
    networks: Sequence[str],
    settings: Sequence[tuple[str, object]],
    public: str | None,
) -> str:
    """The text of a new tenant's file. `settings`: other keys and their values, those that are None left out."""
    lines = [f"# What tenant {name} may do. Who is not named here is denied; see `delen keys --help`."]
    lines.append(f"uids = [{', '.join(str(uid) for uid in uids)}]")
    lines.append(f"networks = [{', '.join(quoted(network) for network in networks)}]")
    for key, value in settings:
        if value is not None:
            lines.append(f"{key} = {quoted(value) if isinstance(value, str) else value}")
    text = "\n".join(lines) + "\n"
    return text if public is None else with_key(text, public, note="first key")


def with_key(text: str, public: str, *, not_before: datetime | None = None, note: str = "") -> str:
    """One more key, at the end: tables of keys come after everything else."""
    lines = [TABLE, f"public = {quoted(public)}"]
    if not_before is not None:
        lines.append(f"not_before = {stamp(not_before)}")
    if note:
        lines.append(f"note = {quoted(note)}")
    return text.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"


def with_end(text: str, public: str, not_after: datetime) -> str:
    """The same key, valid until just before `not_after`. Raises KeyAbsent."""
    lines = text.splitlines()
    start, end = _table_of(lines, public)
    said = f"not_after = {stamp(not_after)}"
    for number in range(start, end):
        if re.match(r"\s*not_after\s*=", lines[number]):
            lines[number] = said
            break
    else:
        place = next(n for n in range(start, end) if public in lines[n])
        lines.insert(place + 1, said)
    return "\n".join(lines) + "\n"


def with_setting(text: str, name: str, value: object) -> str:
    """With this setting as said: where it is now, else before the first table. Values are numbers."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    for number in range(start):
        if re.match(rf"\s*{name}\s*=", lines[number]):
            lines[number] = f"{name} = {value}"
            break
    else:
        # Blank lines and comments right above a table are the table's.
        while start and (not lines[start - 1].strip() or lines[start - 1].lstrip().startswith("#")):
            start -= 1
        lines.insert(start, f"{name} = {value}")
    return "\n".join(lines) + "\n"


def without_setting(text: str, name: str) -> str:
    """Without this setting, wherever it is above the first table."""
    lines = text.splitlines()
    start = next((n for n, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    kept = [line for n, line in enumerate(lines) if n >= start or not re.match(rf"\s*{name}\s*=", line)]
    return "\n".join(kept) + "\n"


def without_key(text: str, public: str) -> str:
    """Without that key's table. Raises KeyAbsent."""
    lines = text.splitlines()
    start, end = _table_of(lines, public)
    return "\n".join([*lines[:start], *lines[end:]]).rstrip("\n") + "\n"


def stamp(when: datetime) -> str:
    """As TOML writes a time with its zone."""
    return when.isoformat(timespec="seconds").replace("+00:00", "Z")


def quoted(text: str) -> str:
    """A TOML string; keys, names and notes have neither quotes nor control characters that need more than this."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _table_of(lines: Sequence[str], public: str) -> tuple[int, int]:
    """First line and the one after the last of the `[[keys]]` table with this public key."""
    starts = [number for number, line in enumerate(lines) if line.split("#")[0].strip() == TABLE]
    for start in starts:
        after = (n for n in range(start + 1, len(lines)) if lines[n].lstrip().startswith("["))
        end = next(after, len(lines))
        named = re.compile(rf"\s*public\s*=\s*[\"']{re.escape(public)}[\"']")
        if any(named.match(line) for line in lines[start:end]):
            return start, end
    raise KeyAbsent("this key is not in a [[keys]] table of its own; edit the file by hand")
