"""From the configuration to bound endpoints: rights, the key for tcp, doors, and what is said loudly of them.

Role: put together once at start, and again at a reload. Does not: read the configuration, or messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .config import Config
from .listener import listener_of
from .rights import Rights, rights_notes
from .sockets import Endpoints

Note = Callable[[str], None]


def open_endpoints(config: Config, wall_s: float, note: Note) -> Endpoints:
    """Bind everything. `wall_s`: the time, for keys that begin and end. Raises ConfigError, EndpointError."""
    own_uid = os.getuid() if config.dev else None
    rights = Rights(config.tenants, own_uid=own_uid, wall_s=wall_s)
    endpoints = Endpoints(Path(config.runtime_dir), config.tenants, config.limits, rights, listener_of(config))
    for text in [*rights_notes(config.tenants, own_uid=own_uid, tcp=bool(config.tcp)), *endpoints.notes()]:
        note(text)
    return endpoints


def change_endpoints(endpoints: Endpoints, config: Config, wall_s: float, note: Note) -> None:
    """Serve the tenants of a new configuration; who lost rights is told at the next `Endpoints.attend`.

    Raises EndpointError: a new tenant's endpoint cannot be bound; nothing was taken from anybody.
    """
    own_uid = os.getuid() if config.dev else None
    endpoints.change(config.tenants, config.limits, wall_s)
    for text in [*rights_notes(config.tenants, own_uid=own_uid, tcp=bool(config.tcp)), *endpoints.notes()]:
        note(text)
