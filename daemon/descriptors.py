"""How many connections the daemon may have, by the descriptors the kernel grants it.

Role: raises the process's limit on open files as far as it goes, and shares what is left among connections: a listener
of libzmq's that runs out of descriptors ends the process. Does not: count connections (door.py, guard.py).
"""

from __future__ import annotations

import resource

from .config import Limits
from .socket_modes import EndpointError

# Descriptors the daemon needs beside connections; and per door: socket, monitor and its other end, listener.
DESCRIPTORS_KEPT, DESCRIPTORS_PER_DOOR, DESCRIPTORS_MAX = 128, 6, 65_536


def connections_total_max(limits: Limits, door_count: int) -> int:
    """How many connections all doors may have together, after the limit on descriptors was raised as far as it goes.

    Raises EndpointError: there are not enough descriptors for these tenants at all.
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
    # Half, for connections come faster than they are counted.
    return min(limits.connections_total_max, max(1, free // 2))
