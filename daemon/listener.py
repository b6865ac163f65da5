"""Over tcp: by which of its keys the daemon is known, and at which addresses each tenant is served.

Role: `Listener` holds the host and the daemon's secret key, and while the key is being changed the next one too; then
each tenant is served at two ports, one for each, so that nobody is cut off before they know the new one. `listener_of`
reads it at the start, `renewed` at a reload. Does not: bind anything (sockets.py), or make keys (`delen keys`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..clients.places import endpoint_path
from .config import Config
from .door import Place
from .rights import IPC, TCP, TenantConfig
from .server_key import next_path, read_secret
from .toml_file import ConfigError


class Listener(NamedTuple):
    """`tcp://HOST`, to which each tenant's port is added, the daemon's secret key, and the next one; b"" for none."""

    host: str
    secret_key: bytes
    next_secret_key: bytes = b""


def listener_of(config: Config) -> Listener | None:
    """As configured; None without tcp. Raises ConfigError: a key that cannot be read."""
    if not config.tcp:
        return None
    path = Path(config.server_key_file)
    upcoming = next_path(path)
    return Listener(config.tcp, read_secret(path), read_secret(upcoming) if upcoming.exists() else b"")


def renewed(before: Listener | None, config: Config) -> Listener | None:
    """With the keys as they are on disk now; all else waits for a restart.

    Raises ConfigError: a key cannot be read, or is another without having been announced as the next one.
    """
    if before is None:
        return None
    found = listener_of(config)
    if found is None:
        return before
    if found.secret_key not in (before.secret_key, before.next_secret_key):
        said = "the daemon's key was exchanged, and nobody who is connected would know it"
        raise ConfigError(f"{config.server_key_file}: {said}; `delen keys rotate-server` changes it, or a restart")
    return found._replace(host=before.host)


def places(directory: Path, tenant: TenantConfig, tcp: Listener | None) -> list[Place]:
    """Where this tenant is to be served."""
    found = [Place(IPC, str(endpoint_path(directory, tenant.name)))]
    # Also without a tenant's key: who is connected when the last one is revoked is told so.
    if tcp is not None and tenant.tcp_port is not None:
        found.append(Place(TCP, f"{tcp.host}:{tenant.tcp_port}", tcp.secret_key))
    if tcp is not None and tcp.next_secret_key and tenant.next_tcp_port is not None:
        found.append(Place(TCP, f"{tcp.host}:{tenant.next_tcp_port}", tcp.next_secret_key))
    return found
