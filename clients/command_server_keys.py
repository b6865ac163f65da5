"""`delen keys rotate-server`: the daemon gets another key of its own, and nobody is cut off before they know it.

Flow: first call -> a next key beside the present one, and for each tenant over tcp a second port, where the daemon
shows that key -> tenants are told port and key, and add them to their key files -> with `--finish` the next key and its
ports take the place of the present ones. Either call can be made again where it was broken off, and is in force once
the daemon has read its configuration again. Does not: touch tenants' own keys, or talk to a daemon.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .config_folder import TENANTS, config_option, folder_of, lend, one_at_a_time
from .exit_codes import CommandFailed, ExitCode
from .tables import json_option, print_json, say

if TYPE_CHECKING:
    from ..daemon.rights import TenantConfig

FIRST_PORT = 5701
RELOAD = "in force once the daemon has read it again: systemctl reload delen, or kill -HUP of a daemon of your own"


@click.command("rotate-server")
@click.option("--finish", is_flag=True, help="The next key takes the place of the present one, which ends.")
@click.option("--tcp", "host", metavar="HOST", help="The daemon's address, to be shown in what tenants are to add.")
@config_option
@json_option
@one_at_a_time
def rotate_server_command(*, finish: bool, host: str | None, config_dir: Path | None, as_json: bool) -> None:
    """Change the daemon's own key: begin, tell its tenants, and when all of them know, --finish."""
    from ..daemon.server_key import SECRET_NAME, next_path

    present = folder_of(config_dir) / "keys" / SECRET_NAME
    if not present.exists():
        raise CommandFailed(f"there is no {present}", ExitCode.NO_INPUT, "first: delen keys init")
    tenants = folder_of(config_dir) / TENANTS
    if finish:
        _finish(tenants, present, next_path(present), as_json=as_json)
    else:
        _begin(tenants, next_path(present), host, as_json=as_json)


def free_port(tenants: Collection[TenantConfig], taken: Collection[int] = ()) -> int:
    """The next tcp port that no tenant has, and that is not `taken` besides."""
    used = {port for tenant in tenants for port in (tenant.tcp_port, tenant.next_tcp_port)} | set(taken)
    return next(port for port in range(FIRST_PORT, 65_536) if port not in used)


def _begin(folder: Path, upcoming: Path, host: str | None, *, as_json: bool) -> None:
    """Make the next key, unless it is there, and give a port to whoever has none for it yet."""
    from ..daemon.server_key import read_secret
    from .key_text import fingerprint
    from .keys import KeyFile, key_text_of, new_pair, public_half, write_secret
    from .tenant_text import with_setting

    if not upcoming.exists():
        write_secret(upcoming, key_text_of(KeyFile(None, None, None, new_pair())))
        lend(upcoming, 0o640)
    public = public_half(read_secret(upcoming).decode())
    known = _over_tcp(folder)
    ports: dict[str, int] = {}
    for tenant in known:
        port = tenant.next_tcp_port or free_port(known, ports.values())
        if tenant.next_tcp_port is None:
            path = folder / f"{tenant.name}.toml"
            _replaced(path, with_setting(path.read_text("utf-8"), "next_tcp_port", port))
        ports[tenant.name] = port
    if as_json:
        rows = [{"tenant": name, "next_tcp_port": port} for name, port in ports.items()]
        print_json({"file": str(upcoming), "public_key": public, "fingerprint": fingerprint(public), "tenants": rows})
        return
    say(f"wrote {upcoming}; next key {public}, fingerprint {fingerprint(public)}")
    for name, port in ports.items():
        say(f"for the key file of tenant {name}, at its end:")
        say(f'\n[[servers]]\nendpoint = "tcp://{host or "HOST"}:{port}"\nserver_key = "{public}"\n')
    say(RELOAD)


def _finish(folder: Path, present: Path, upcoming: Path, *, as_json: bool) -> None:
    """Ports first: until the key is renamed as well, calling it again does the rest."""
    from ..daemon.server_key import read_secret
    from .tenant_text import with_setting, without_setting

    if not upcoming.exists():
        raise CommandFailed(f"there is no {upcoming}", ExitCode.NO_INPUT, "first: delen keys rotate-server")
    read_secret(upcoming)
    known = _over_tcp(folder)
    begun = [tenant for tenant in known if tenant.next_tcp_port is not None]
    left = [tenant.name for tenant in known if tenant.next_tcp_port is None]
    if left and len(left) == len(known):
        # All have been moved before: only the key is left to do.
        left = []
    if left:
        hint = "delen keys rotate-server gives one to each; tell its tenant, then finish"
        raise CommandFailed(f"no port for the next key: {', '.join(left)}", ExitCode.BAD_CONFIG, hint)
    for tenant in begun:
        path = folder / f"{tenant.name}.toml"
        text = with_setting(path.read_text("utf-8"), "tcp_port", tenant.next_tcp_port)
        _replaced(path, without_setting(text, "next_tcp_port"))
    upcoming.replace(present)
    if as_json:
        print_json({"file": str(present), "tenants": [tenant.name for tenant in begun]})
        return
    say(f"{present} is the next key now; the one before it is gone")
    say(RELOAD)


def _over_tcp(folder: Path) -> list[TenantConfig]:
    from ..daemon.tenant_files import read_tenants

    found = read_tenants(folder) if folder.exists() else ()
    return [tenant for tenant in found if tenant.tcp_port is not None]


def _replaced(path: Path, text: str) -> None:
    """Write what the daemon would read without a fault, or nothing."""
    from ..daemon.tenant_files import tenant_of
    from .durable import write_whole

    tenant_of(text.encode(), path)
    write_whole(path, text.encode(), mode=0o644)
