"""What a daemon's front takes of the machine, and whether it takes ever more: the method of P7, kept from its figures.

Role: `growth` plays something many times over and says by how much memory, descriptors and threads have grown. Memory
that an allocator keeps for next time is no leak and does not come again: what grew is played again, and again, and the
least of it counts. Does not: know what is played.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import psutil

from delen.clients.private_daemon import PrivateDaemon

MB = 1024**2
TRIES = 4


class Footprint(NamedTuple):
    """Of one process: memory in RAM, open descriptors, threads."""

    resident_bytes: int
    fds: int
    threads: int


class Growth(NamedTuple):
    """By how much each has grown, at the least of all tries."""

    resident_bytes: int
    fds: int
    threads: int


def footprint(daemon: PrivateDaemon) -> Footprint:
    """Of its front, now."""
    front = psutil.Process(daemon.pid)
    return Footprint(front.memory_info().rss, len(os.listdir(f"/proc/{daemon.pid}/fd")), front.num_threads())  # noqa: PTH208  (counts, of what is gone as it is read)


def growth(daemon: PrivateDaemon, play: Callable[[], None], *, resident_bytes_max: int) -> Growth:
    """Play this until memory has grown by no more than this meanwhile, a few times at the most."""
    found: list[Growth] = []
    for _ in range(TRIES):
        before = footprint(daemon)
        play()
        after = footprint(daemon)
        found.append(Growth(*(now - was for was, now in zip(before, after, strict=True))))
        if found[-1].resident_bytes <= resident_bytes_max and found[-1].fds <= 0:
            break
    return Growth(*(min(values) for values in zip(*found, strict=True)))
