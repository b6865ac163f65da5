"""`delen install-service` and `uninstall-service`: the daemon as a systemd service, of the machine or of one user.

Flow: say which files -> refuse if one there is not ours -> write (or remove) all -> have systemd take them in.
With --prefix nothing but files is touched, below that directory: for packages, images and tests.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click

from .durable import write_whole
from .exit_codes import CommandFailed, ExitCode
from .service_files import (
    DEVICE_GROUPS,
    Places,
    drop_ins,
    first_config,
    system_files,
    user_files,
)
from .tables import Column, json_option, print_json, print_table, say

# Besides addresses, what systemd.resource-control(5) knows of IPAddressAllow=.
ADDRESS_WORDS = ("any", "localhost", "link-local", "multicast")
RUNNING_SYSTEMD = Path("/run/systemd/system")

_COLUMNS = (
    Column("done", "", justify="left"),
    Column("path", "file", justify="left"),
)


@click.command("install-service")
@click.option("--user", is_flag=True, help="For this user alone, run by the user's own service manager.")
@click.option("--prefix", type=click.Path(file_okay=False, path_type=Path), help="Write below DIR, and run nothing.")
@click.option("--allow", multiple=True, metavar="ADDRESS", help="Also by TCP, for this address or network; repeat.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@json_option
def install_service_command(
    user: bool, prefix: Path | None, allow: tuple[str, ...], dry_run: bool, as_json: bool
) -> None:
    """Write systemd's unit files for this installation of delen, and have systemd read them.

    Nothing is started: that is `systemctl enable --now delen`. Files that delen did not write are left alone; changes
    of your own belong into drop-ins (`systemctl edit delen`).
    """
    if user and allow:
        raise CommandFailed("--allow is for the service of the machine", ExitCode.USAGE)
    for said in allow:
        _check_address(said)
    places = _places(prefix)
    fault = None if user else places.fault()
    if fault is not None:
        raise CommandFailed(fault, ExitCode.UNAVAILABLE, "install delen elsewhere, e.g. into a venv in /opt/delen")
    files = user_files(places, _config_home(prefix)) if user else system_files(places, allow)
    config = [] if user else [first_config(places)]
    states = {file: file.state() for file in files} | {file: _kept(file.state()) for file in config}
    strange = [file.path for file, state in states.items() if state == "strange"]
    if strange:
        said = f"{strange[0]} is there and was not written by delen"
        raise CommandFailed(said, ExitCode.CANNOT_CREATE, "move it away, or keep it and do without this command")
    if not dry_run:
        for file, state in states.items():
            if state in ("new", "old"):
                write_whole(file.path, file.text.encode(), mode=0o644)
    words = {"new": "would write" if dry_run else "wrote", "old": "would replace" if dry_run else "replaced"}
    rows = [{"done": words.get(state, "as it was"), "path": str(file.path)} for file, state in states.items()]
    _print(rows, as_json=as_json)
    if dry_run:
        return
    if prefix is None:
        _run(_after_install(user))
    start = "systemctl --user enable --now delen" if user else "systemctl enable --now delen"
    say(f"to start it, now and at every boot: {start}")


@click.command("uninstall-service")
@click.option("--user", is_flag=True, help="The service of this user alone.")
@click.option("--prefix", type=click.Path(file_okay=False, path_type=Path), help="Remove below DIR, and run nothing.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def uninstall_service_command(user: bool, prefix: Path | None, dry_run: bool, as_json: bool) -> None:
    """Stop the service and remove the files that `delen install-service` wrote.

    Configuration, keys, what was learnt (/etc/delen, /var/lib/delen) and the users stay: remove those yourself.
    """
    places = _places(prefix)
    files = user_files(places, _config_home(prefix)) if user else [*system_files(places), *drop_ins(places)]
    states = {file: file.state() for file in files}
    scope = ["--user"] if user else []
    if prefix is None and not dry_run and any(state in ("same", "old") for state in states.values()):
        # The engine's ends with it (PartOf).
        _run([["systemctl", *scope, "disable", "--now", "delen.service"]])
    rows = []
    for file, state in states.items():
        if state in ("same", "old"):
            rows.append({"done": "would remove" if dry_run else "removed", "path": str(file.path)})
            if not dry_run:
                file.path.unlink()
                _remove_empty(file.path.parent)
        elif state == "strange":
            rows.append({"done": "left, not ours", "path": str(file.path)})
    _print(rows, as_json=as_json)
    if prefix is None and not dry_run:
        _run([["systemctl", *scope, "daemon-reload"]])


def _check_address(said: str) -> None:
    """systemd passes over what it cannot read, and then nobody may connect. Raises BadParameter."""
    try:
        known = said in ADDRESS_WORDS or bool(ipaddress.ip_network(said, strict=False))
    except ValueError:
        known = False
    if not known:
        expected = f"expected an address, a network as 10.0.0.0/8, or one of {', '.join(ADDRESS_WORDS)}"
        raise click.BadParameter(f"{said!r:.80} is no address; {expected}", param_hint="--allow")


def _remove_empty(directory: Path) -> None:
    """A drop-in's directory, unless the operator has others in it."""
    if directory.name.endswith(".service.d"):
        with suppress(OSError):
            directory.rmdir()


def _places(prefix: Path | None) -> Places:
    """This installation: its interpreter as it was called, links and all, since a virtual environment is one."""
    python = Path(sys.executable)
    beside = python.with_name("delen")
    delen = beside if beside.exists() else Path(shutil.which("delen") or beside)
    return Places(python, delen, prefix or Path("/"), _groups())


def _groups() -> list[str]:
    import grp

    known = {entry.gr_name for entry in grp.getgrall()}
    return [name for name in DEVICE_GROUPS if name in known]


def _config_home(prefix: Path | None) -> Path:
    if prefix is not None:
        return prefix / "config"
    named = os.environ.get("XDG_CONFIG_HOME")
    return Path(named) if named else Path.home() / ".config"


def _kept(state: str) -> str:
    """A configuration that is there is the operator's, whatever it says."""
    return "new" if state == "new" else "same"


def _after_install(user: bool) -> list[list[str]]:
    if user:
        return [["systemctl", "--user", "daemon-reload"]]
    return [
        ["systemd-sysusers", "/etc/sysusers.d/delen.conf"],
        ["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/delen.conf"],
        ["systemctl", "daemon-reload"],
    ]


def _run(commands: Sequence[list[str]]) -> None:
    """Run systemd's own tools; where systemd is not, say what is to be run once it is."""
    if not RUNNING_SYSTEMD.is_dir():
        say(f"systemd does not run here; once it does: {'; '.join(' '.join(command) for command in commands)}")
        return
    for command in commands:
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise CommandFailed(f"{command[0]} is not installed", ExitCode.UNAVAILABLE, "install systemd") from None
        except subprocess.CalledProcessError as error:
            said = f"`{' '.join(command)}` failed with exit code {error.returncode}"
            raise CommandFailed(said, ExitCode.FAILED, "what it said is above") from None


def _print(rows: list[dict[str, str]], *, as_json: bool) -> None:
    if as_json:
        print_json({"files": rows})
    elif rows:
        print_table(rows, _COLUMNS)
    else:
        say("nothing of delen's is installed there")
