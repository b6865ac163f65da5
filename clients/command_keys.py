"""`delen keys`: who may ask, and by which keys. Writes `tenants.d` and key files; the daemon reads them at a reload.

Flow: read the tenant's file -> change its text (`tenant_text.py`) -> read the result as the daemon would -> replace the
file whole. Secrets go into one new file each, for its owner alone, and are never printed. Does not: talk to a daemon.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command_server_keys import RELOAD, free_port, rotate_server_command
from .config_folder import SERVICE_GROUP, TENANTS, config_option, folder_of, lend, one_at_a_time
from .exit_codes import CommandFailed, ExitCode
from .options import OVER_ZERO, SHARE
from .tables import Column, json_option, print_json, print_table, say

if TYPE_CHECKING:
    from ..daemon.rights import PublicKey, TenantConfig
    from .keys import Pair

_UNITS = {"m": 60, "h": 3600, "d": 86_400}


def _host(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """A name or an address as it goes into tcp://HOST:PORT; one of IPv6 in brackets."""
    if value is None or re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]", value):
        return value
    raise click.BadParameter(f"{value!r:.80} is no host; expected a name or an address, IPv6 as [ADDRESS]")


@click.group("keys", epilog="Every subcommand takes --json.")
def keys_command() -> None:
    """Say who may ask the daemon: local users by uid, others by public key over tcp."""


@keys_command.command("init")
@config_option
@json_option
def init_command(config_dir: Path | None, as_json: bool) -> None:
    """Make the daemon's own key pair, which tenants over tcp know it by. Never overwrites one."""
    from ..daemon.server_key import SECRET_NAME
    from .durable import make_directory
    from .key_text import fingerprint
    from .keys import KeyFile, key_text_of, new_pair, write_secret

    folder = folder_of(config_dir) / "keys"
    make_directory(folder, mode=0o750)
    lend(folder, 0o750)
    pair, path = new_pair(), folder / SECRET_NAME
    try:
        write_secret(path, key_text_of(KeyFile(None, None, None, pair)))
    except FileExistsError:
        hint = "tenants know the daemon by it; to renew it, move it away first, then hand out new key files"
        raise CommandFailed(f"{path} is there already", ExitCode.CANNOT_CREATE, hint) from None
    lent = lend(path, 0o640)
    if as_json:
        print_json({"file": str(path), "public_key": pair.public, "fingerprint": fingerprint(pair.public)})
        return
    say(f"wrote {path}, for {f'root and the group {SERVICE_GROUP}' if lent else 'its owner'} alone")
    say(f"fingerprint {fingerprint(pair.public)}")
    say('next: tcp = "tcp://ADDRESS" in delen.toml, and `delen keys new NAME --tcp HOST --network NETWORK`')


@keys_command.command("new")
@click.argument("name")
@click.option("--uid", "uids", multiple=True, metavar="UID|USER", help="A local user who may ask; repeat for more.")
@click.option("--network", "networks", multiple=True, required=True, metavar="NAME", help="One it may use; repeat.")
@click.option("--tcp", "host", metavar="HOST", callback=_host, help="Also over tcp, at this address: makes a key.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Its tcp port.  [default: the next free one]")
@click.option("--rate", "rate_hz_max", type=OVER_ZERO, help="At most so many requests per second.")
@click.option("--burst", "burst_max", type=click.IntRange(min=1), help="So many of them at once after a pause.")
@click.option("--queued-max", type=click.IntRange(min=1), help="At most so many waiting.")
@click.option("--payload-bytes-max", type=click.IntRange(min=1), help="At most so large an input.")
@click.option("--connections-max", type=click.IntRange(min=1), help="At most so many connections.")
@click.option("--device-share-max", type=SHARE, help="At most this share of the device's time.")
@click.option("--watts", "power_w_max", type=OVER_ZERO, help="At most so many joules per second.")
@click.option("--joules-per-day", "energy_j_day_max", type=OVER_ZERO, help="At most so many joules in 24 hours.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The key file.  [default: NAME.key]")
@config_option
@json_option
@one_at_a_time
def new_command(
    name: str,
    uids: tuple[str, ...],
    networks: tuple[str, ...],
    host: str | None,
    port: int | None,
    out: Path | None,
    config_dir: Path | None,
    as_json: bool,
    **caps: Any,
) -> None:
    """Add a tenant: its file in tenants.d and, for tcp, one key file to hand over."""
    from .durable import create_whole, make_directory
    from .keys import new_pair
    from .tenant_text import new_tenant

    if not uids and host is None:
        raise click.UsageError("nobody could ask: give --uid, or --tcp HOST for a key")
    path = _tenant_path(config_dir, name)
    if path.exists():
        raise CommandFailed(f"tenant {name!r} is there already: {path}", ExitCode.CANNOT_CREATE)
    make_directory(path.parent, mode=0o750)
    lend(path.parent, 0o750)
    tenants = _tenants(config_dir)
    pair = None if host is None else new_pair()
    port = None if host is None else port or free_port(tenants)
    settings = [("tcp_port", port), *caps.items()]
    numbers = [_uid_of(uid) for uid in uids]
    public = None if pair is None else pair.public
    text = new_tenant(name, uids=numbers, networks=networks, settings=settings, public=public)
    _checked(text, path, tenants)
    handed = None
    if pair is not None:
        # First the secret: a tenant whose key nobody has is harmless, a key file that cannot be written is not.
        handed = _hand_over(name, pair, folder_of(config_dir), out, f"tcp://{host}:{port}")
    create_whole(path, text.encode(), mode=0o644)
    _tell(as_json, path, handed, pair)


@keys_command.command("list")
@config_option
@json_option
def list_command(config_dir: Path | None, as_json: bool) -> None:
    """Every tenant of tenants.d: who may ask as it, and for what."""
    rows = [_row(tenant, time.time()) for tenant in _tenants(config_dir)]
    if as_json:
        print_json({"tenants": rows})
        return
    print_table(rows, tuple(Column(key, title, justify="left") for key, title in _COLUMNS.items()))


@keys_command.command("show")
@click.argument("name")
@config_option
@json_option
def show_command(name: str, config_dir: Path | None, as_json: bool) -> None:
    """One tenant, with the fingerprint and the time of each of its keys."""
    tenant = _tenant(config_dir, name)
    keys = [_key_row(key, time.time()) for key in tenant.keys]
    if as_json:
        print_json({"tenant": tenant, "keys": keys})
        return
    print_table([_row(tenant, time.time())], tuple(Column(k, t, justify="left") for k, t in _COLUMNS.items()))
    if keys:
        print_table(keys, tuple(Column(key, key.replace("_", " "), justify="left") for key in keys[0]))


@keys_command.command("rotate")
@click.argument("name")
@click.option("--overlap", default="7d", show_default=True, help="How long the old keys still work: 0, 30m, 12h, 7d.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="The key file.  [default: NAME.key]")
@click.option("--tcp", "host", metavar="HOST", callback=_host, help="The daemon's address, for the key file.")
@config_option
@json_option
@one_at_a_time
def rotate_command(
    name: str, overlap: str, out: Path | None, host: str | None, config_dir: Path | None, as_json: bool
) -> None:
    """Give a tenant a new key; its old ones end after the overlap."""
    from .durable import write_whole
    from .keys import new_pair
    from .tenant_text import with_end, with_key

    tenant, path = _tenant(config_dir, name), _tenant_path(config_dir, name)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    ends = now + timedelta(seconds=_seconds(overlap))
    pair = new_pair()
    text = path.read_text("utf-8")
    for key in tenant.keys:
        if key.not_after is None or key.not_after > ends:
            text = with_end(text, key.public, ends)
    text = with_key(text, pair.public, note=f"rotated {now.date()}")
    others = [other for other in _tenants(config_dir) if other.name != name]
    _checked(text, path, others)
    endpoint = f"tcp://{host}:{tenant.tcp_port}" if host and tenant.tcp_port else None
    handed = _hand_over(name, pair, folder_of(config_dir), out, endpoint)
    write_whole(path, text.encode(), mode=0o644)
    _tell(as_json, path, handed, pair)
    if endpoint is None:
        port = tenant.tcp_port or "PORT"
        say(f"it names no endpoint (--tcp HOST would): whoever uses it says --endpoint tcp://HOST:{port} too")


@keys_command.command("revoke")
@click.argument("name")
@click.option("--fingerprint", "which", multiple=True, metavar="SHA256:...", help="This key only; repeat for more.")
@config_option
@json_option
@one_at_a_time
def revoke_command(name: str, which: tuple[str, ...], config_dir: Path | None, as_json: bool) -> None:
    """Take a tenant's keys back: all, or those named. Open connections end with their next message."""
    from .durable import write_whole
    from .key_text import fingerprint
    from .tenant_text import KeyAbsent, without_key

    tenant, path = _tenant(config_dir, name), _tenant_path(config_dir, name)
    known = {fingerprint(key.public): key.public for key in tenant.keys}
    strange = next((said for said in which if said not in known), None)
    if strange is not None or not known:
        said = f"no key {strange}" if strange else "no keys"
        raise CommandFailed(f"tenant {name!r} has {said}; `delen keys show {name}` lists them", ExitCode.NO_INPUT)
    text, gone = path.read_text("utf-8"), list(which or known)
    try:
        for said in gone:
            text = without_key(text, known[said])
    except KeyAbsent as error:
        raise CommandFailed(f"{path}: {error}", ExitCode.BAD_CONFIG) from None
    left = {fingerprint(key.public) for key in _checked(text, path, []).keys}
    if left & set(gone):
        raise CommandFailed(f"{path}: a key is still in it; edit the file by hand", ExitCode.BAD_CONFIG)
    write_whole(path, text.encode(), mode=0o644)
    if as_json:
        print_json({"file": str(path), "revoked": gone})
        return
    for said in gone:
        say(f"revoked {said}")
    say(RELOAD)


keys_command.add_command(rotate_server_command)


@keys_command.command("fingerprint")
@click.argument("what", metavar="KEY_FILE|PUBLIC_KEY")
@json_option
def fingerprint_command(what: str, as_json: bool) -> None:
    """The short form of a public key, to be compared by eye. Before one that begins with a dash, say --."""
    from .key_text import fingerprint, key_fault
    from .keys import read_key

    public = what if key_fault(what) is None else read_key(Path(what)).pair.public
    if as_json:
        print_json({"public_key": public, "fingerprint": fingerprint(public)})
        return
    click.echo(fingerprint(public))


# ----

_COLUMNS = {"tenant": "tenant", "uids": "uids", "keys": "valid keys", "networks": "networks", "tcp_port": "tcp port"}


def _tenant_path(config_dir: Path | None, name: str) -> Path:
    from .places import name_fault

    fault = name_fault("tenant", name)
    if fault:
        raise click.UsageError(fault)
    return folder_of(config_dir) / TENANTS / f"{name}.toml"


def _tenants(config_dir: Path | None) -> tuple[TenantConfig, ...]:
    from ..daemon.tenant_files import read_tenants

    folder = folder_of(config_dir) / TENANTS
    return read_tenants(folder) if folder.exists() else ()


def _tenant(config_dir: Path | None, name: str) -> TenantConfig:
    from ..daemon.tenant_files import read_tenant

    path = _tenant_path(config_dir, name)
    if not path.exists():
        known = ", ".join(tenant.name for tenant in _tenants(config_dir)) or "none"
        raise CommandFailed(f"no tenant {name!r} in {path.parent}; there are: {known}", ExitCode.NO_INPUT)
    return read_tenant(path)


def _checked(text: str, path: Path, others: Any) -> TenantConfig:
    """The tenant that the daemon would read from this text; nothing is written that it would refuse."""
    from ..daemon.rights import rights_fault
    from ..daemon.tenant_files import tenant_of

    tenant = tenant_of(text.encode(), path)
    fault = rights_fault([*others, tenant])
    if fault:
        raise CommandFailed(fault, ExitCode.BAD_CONFIG)
    return tenant


def _hand_over(name: str, pair: Pair, folder: Path, out: Path | None, endpoint: str | None) -> Path:
    """Write the one file that a tenant over tcp needs."""
    from ..daemon.server_key import SECRET_NAME, read_secret
    from .keys import KeyFile, key_text_of, public_half, write_secret

    secret = folder / "keys" / SECRET_NAME
    if not secret.exists():
        raise CommandFailed(f"there is no {secret}", ExitCode.NO_INPUT, "first: delen keys init")
    # As the daemon reads it: the service's is for its group to read, which no tenant's key file may be.
    server_key = public_half(read_secret(secret).decode())
    path = out or Path(f"{name}.key")
    try:
        write_secret(path, key_text_of(KeyFile(name, endpoint, server_key, pair)))
    except FileExistsError:
        raise CommandFailed(f"{path} is there already", ExitCode.CANNOT_CREATE, "name another with --out") from None
    return path


def _tell(as_json: bool, path: Path, handed: Path | None, pair: Pair | None) -> None:
    from .key_text import fingerprint

    shown = None if pair is None else fingerprint(pair.public)
    if as_json:
        print_json({"file": str(path), "key_file": handed and str(handed), "fingerprint": shown})
        return
    say(f"wrote {path}")
    if handed is not None:
        say(f"wrote {handed}, fingerprint {shown}: hand it over safely, then delete it here")
    say(RELOAD)


def _row(tenant: TenantConfig, wall_s: float) -> dict[str, Any]:
    valid = [key for key in tenant.keys if key.span_s()[0] <= wall_s < key.span_s()[1]]
    return {
        "tenant": tenant.name,
        "uids": ", ".join(str(uid) for uid in tenant.uids) or "none",
        "keys": len(valid),
        "networks": ", ".join(tenant.networks or ()) or "none",
        "tcp_port": tenant.tcp_port or "",
    }


def _key_row(key: PublicKey, wall_s: float) -> dict[str, Any]:
    from .key_text import fingerprint

    after, until = key.span_s()
    state = "valid" if after <= wall_s < until else "not yet" if wall_s < after else "ended"
    return {
        "fingerprint": fingerprint(key.public),
        "state": state,
        "not_before": "" if key.not_before is None else key.not_before.isoformat(),
        "not_after": "" if key.not_after is None else key.not_after.isoformat(),
        "note": key.note,
    }


def _uid_of(said: str) -> int:
    import pwd

    if said.isascii() and said.isdigit():
        return int(said)
    try:
        return pwd.getpwnam(said).pw_uid
    except KeyError:
        raise click.BadParameter(f"there is no user {said!r} here", param_hint="--uid") from None


def _seconds(said: str) -> int:
    found = re.fullmatch(r"(\d{1,6})([mhd])|0", said)
    if found is None:
        raise click.BadParameter(f"{said!r} is no time; expected 0, 30m, 12h or 7d", param_hint="--overlap")
    return 0 if said == "0" else int(found[1]) * _UNITS[found[2]]
