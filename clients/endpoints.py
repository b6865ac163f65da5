"""Where a tenant's daemon listens, and by which keys: what was said, the key file, or the socket that exists.

Role: turns tenant, endpoint and keys as the caller gave them into one ZeroMQ endpoint and, for tcp, the keys for it; or
an error that names every place looked at. Does not connect.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import SERVE_HINT, BadRequest, Unreachable
from .places import endpoint_path, fallback_directory, name_fault, runtime_directories

if TYPE_CHECKING:
    from .keys import Pair, Server

TENANT_VARIABLE = "DELEN_TENANT"
KEY_FILE_VARIABLE, SERVER_KEY_VARIABLE = "DELEN_KEY_FILE", "DELEN_SERVER_KEY"
KEY_HINT = "ask the daemon's operator for a key file (delen keys new), and give it as key_file or $DELEN_KEY_FILE"
# sockaddr_un has room for 108 bytes with the closing NUL (man 7 unix).
IPC_PATH_BYTES_MAX = 107


class Located(NamedTuple):
    """Whom to ask, where, and over tcp by which keys; `servers`: where else, when nobody answers there."""

    tenant: str
    endpoint: str
    server_key: str = ""
    pair: Pair | None = None
    servers: tuple[Server, ...] = ()


def locate(
    tenant: str | None, endpoint: str | None, *, key_file: str | Path | None = None, server_key: str | None = None
) -> Located:
    """Whom to ask and where, from what the caller said, then the environment, then the key file.

    A key file is only for tcp: an endpoint of this machine needs none and is taken where one is named.

    Raises:
        Unreachable: no socket. BadRequest: tcp without keys, or a name or key that cannot be. BadFile: the key file.
    """
    file = key_file or os.environ.get(KEY_FILE_VARIABLE)
    if not file or (endpoint is not None and not endpoint.startswith("tcp://")):
        if endpoint is not None and endpoint.startswith("tcp://"):
            raise BadRequest(f"{endpoint} needs a key: {KEY_HINT}", code="malformed")
        name = tenant_name(tenant)
        return Located(name, find_endpoint(name, endpoint))
    # Only who uses keys pays for reading them.
    from .key_text import key_fault
    from .keys import read_key

    key = read_key(Path(file))
    server = server_key or os.environ.get(SERVER_KEY_VARIABLE) or key.server_key
    where = endpoint or key.endpoint
    if where is None:
        raise BadRequest(f"{file} names no endpoint; give one: tcp://HOST:PORT", code="malformed")
    fault = "there is none" if server is None else key_fault(server)
    if server is None or fault:
        raise BadRequest(f"server_key, the daemon's public key: {fault}", code="malformed")
    # Who says where to ask, or whom to believe, means that and nothing else.
    others = key.servers if where == key.endpoint and server == key.server_key else ()
    return Located(tenant_name(tenant or key.tenant), where, server, key.pair, others)


def tenant_name(tenant: str | None) -> str:
    """The tenant to ask as: the one given, else $DELEN_TENANT, else `default`. Raises BadRequest for a bad name."""
    name = tenant or os.environ.get(TENANT_VARIABLE) or "default"
    fault = name_fault("tenant", name)
    if fault:
        raise BadRequest(fault, code="malformed")
    return name


def find_endpoint(tenant: str, endpoint: str | None = None) -> str:
    """The ZeroMQ endpoint of `tenant`: `endpoint` itself where given, else the first socket found on this machine.

    Raises:
        Unreachable: there is no such socket, or this user may not use it; the text names the places looked at.
    """
    if endpoint is not None:
        located = f"ipc://{endpoint}" if endpoint.startswith("/") else endpoint
        if located.startswith("ipc:///"):
            _check_socket(Path(located.removeprefix("ipc://")), tenant)
        return located
    paths = [endpoint_path(directory, tenant) for directory in runtime_directories(os.environ, os.getuid())]
    for path in paths:
        if _is_there(path):
            _check_own(path.parents[2])
            _check_socket(path, tenant)
            return f"ipc://{path}"
    looked_at = " and ".join(str(path) for path in paths)
    others = sorted({name for path in paths for name in _tenants(path.parent.parent)})
    hint = f"a daemon's sockets are there for {', '.join(others)}; choose with --tenant or {TENANT_VARIABLE}"
    raise Unreachable(
        f"no socket of tenant {tenant!r}; looked at {looked_at}",
        endpoint=f"ipc://{paths[0]}",
        hint=hint if others else SERVE_HINT,
    )


def _tenants(directory: Path) -> list[str]:
    """Tenants whose sockets this user can see."""
    try:
        return [path.name for path in directory.iterdir() if (path / "sock").exists()]
    except OSError:
        return []


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:  # A tenant's directory that is closed to this user.
        return True


def _check_own(directory: Path) -> None:
    """In /tmp anybody may make the directory where this user's daemon would be, and read what is sent there."""
    uid = os.getuid()
    if directory == fallback_directory(uid) and directory.lstat().st_uid != uid:
        raise Unreachable(
            f"{directory} belongs to uid {directory.lstat().st_uid}, not to you",
            endpoint=f"ipc://{directory}",
            hint="have it removed, or run daemon and clients with DELEN_RUNTIME_DIR set to a directory of yours",
        )


def _check_socket(path: Path, tenant: str) -> None:
    endpoint = f"ipc://{path}"
    if len(os.fsencode(path)) > IPC_PATH_BYTES_MAX:
        raise Unreachable(
            f"the path {path} is longer than the {IPC_PATH_BYTES_MAX} bytes a Unix socket may have",
            endpoint=endpoint,
            hint="give the daemon a shorter runtime directory (DELEN_RUNTIME_DIR)",
        )
    if not _is_there(path):
        raise Unreachable(f"there is no socket {path}", endpoint=endpoint)
    if not os.access(path, os.R_OK | os.W_OK):
        raise Unreachable(
            f"no right to use {path} as uid {os.getuid()}",
            endpoint=endpoint,
            hint=f"ask the daemon's operator to add this user to tenant {tenant!r}",
        )
