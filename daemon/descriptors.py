"""How many connections the daemon may have, by the descriptors the kernel grants it and by those in use.

Role: a listener of libzmq's that accepts without a free descriptor ends the process, and nothing in it can be told not
to. So the process's limit on open files is raised as far as it goes; what is open, by whomever, is counted once a
second and as connections come; connections get half of what is left, since they come faster than they are counted; and
where less is free than is kept back, nobody is let in at all. Does not: count connections or shut doors (sockets.py).
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import NamedTuple

from ..profiles.board import open_descriptors
from .config import Limits
from .socket_modes import EndpointError

# Descriptors the daemon needs beside connections; and per door: socket, monitor and its other end, listener.
DESCRIPTORS_KEPT, DESCRIPTORS_PER_DOOR, DESCRIPTORS_MAX = 128, 6, 65_536
# Counting takes a microsecond for each that is open: so often, and once so many connections have come.
COUNT_US, COUNT_AFTER = 1_000_000, 64
# Of a small limit no more than this part is kept back.
SPARE_PART = 8


class Use(NamedTuple):
    """Descriptors of this process: how many it may have, and how many of those are free."""

    granted: int
    free: int


def enough_for(door_count: int) -> None:
    """Raise the limit on descriptors as far as it goes.

    Raises EndpointError: there are not enough for these doors at all.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    free = soft - DESCRIPTORS_KEPT - DESCRIPTORS_PER_DOOR * door_count
    if free < door_count:
        needed = soft - free + door_count
        raise EndpointError(f"{soft} open files are too few for {door_count} endpoints; raise LimitNOFILE to {needed}")


def in_use() -> Use:
    """As the kernel tells, now. One that is to be opened gets the lowest number below the limit that is free."""
    granted = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    opened = open_descriptors()
    return Use(granted, 0 if opened is None else granted + 1 - sum([fd < granted for fd in opened]))


class Descriptors:
    """What is free, and whether that is enough to let anybody in."""

    def __init__(self, limits: Limits, *, use: Callable[[], Use] = in_use) -> None:
        self._limits = limits
        self._use = use
        self._connected = 0
        self._half_said = False
        self._room = DESCRIPTORS_MAX
        # When to count again at the latest; and whether nobody may be let in.
        self.due_us = 0
        self.short = False

    def change(self, limits: Limits) -> None:
        """Go on with other limits."""
        self._limits = limits

    def look(self, now_us: int, connected: int) -> list[str]:
        """Count where that is due, with so many connections now; lines to log where something has changed."""
        if now_us < self.due_us and connected < self._connected + COUNT_AFTER:
            return []
        self.due_us, self._connected = now_us + COUNT_US, connected
        granted, free = self._use()
        spare = min(self._limits.descriptors_spare_min, granted // SPARE_PART)
        # Who was let in when others had less stays; more than that is no claim.
        self._room = max(1, (free + connected - spare) // 2, min(connected, self._room))
        notes = []
        half = 2 * free < granted
        if half and not self._half_said:
            notes.append(f"{granted - free} of {granted} open files are in use (LimitNOFILE); what has so many?")
        # Not told again and again where it goes to and fro.
        self._half_said = half or (self._half_said and 5 * free < 3 * granted)
        kept = f"{free} of {granted} open files are free, {spare} are kept back (descriptors_spare_min)"
        if not self.short and free < spare:
            self.short = True
            notes.append(f"all endpoints are closed until there are more: {kept}; close some, or raise LimitNOFILE")
        elif self.short and free >= spare + spare // 4:
            self.short = False
            notes.append(f"endpoints are opened again: {kept}")
        return notes

    def connections_max(self) -> int:
        """How many connections there may be together: half of what they could have beside all else."""
        return min(self._limits.connections_total_max, self._room)
