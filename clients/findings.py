"""One finding of `delen doctor`, whichever part of it looked. Does not: look."""

from __future__ import annotations

from typing import Literal, NamedTuple

State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """One thing looked at: how it stands, what was found, and what to do where it is not well."""

    check: str
    state: State
    found: str
    fix: str = ""
