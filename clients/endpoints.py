"""Where a tenant's daemon listens: the socket that exists, or an error that names every place looked at.

Role: turns (tenant, endpoint) as the caller gave them into one ZeroMQ endpoint. Does not connect.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import SERVE_HINT, BadRequest, Unreachable
from .places import endpoint_path, name_fault, runtime_directories

TENANT_VARIABLE = "DELEN_TENANT"
# sockaddr_un has room for 108 bytes with the closing NUL (man 7 unix).
IPC_PATH_BYTES_MAX = 107


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
