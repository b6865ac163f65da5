"""Where `delen keys` writes: the configuration's directory, who may read what is in it, and one writer at a time.

Role: shared by the subcommands of `delen keys`. Does not: write files, or know what is in them.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from .exit_codes import CommandFailed, ExitCode

SYSTEM_DIRECTORY = Path("/etc/delen")
TENANTS = "tenants.d"
# Of the service; what it has to read is root's, and for this group to read (daemon/units/delen.tmpfiles.conf).
SERVICE_GROUP = "delen"


def config_option(command: Any) -> Any:
    """`--config-dir`, for a command that takes `config_dir`."""
    said = "Where delen.toml, tenants.d and keys are.  [default: /etc/delen for root, else ~/.config/delen]"
    return click.option("--config-dir", type=click.Path(file_okay=False, path_type=Path), help=said)(command)


def folder_of(config_dir: Path | None) -> Path:
    """The directory that was said, else that of $DELEN_CONFIG, else this user's. Raises CommandFailed."""
    if config_dir is not None:
        return config_dir
    if os.environ.get("DELEN_CONFIG"):
        return Path(os.environ["DELEN_CONFIG"]).parent
    if os.getuid() == 0:
        return SYSTEM_DIRECTORY
    if os.environ.get("XDG_CONFIG_HOME"):
        return Path(os.environ["XDG_CONFIG_HOME"]) / "delen"
    try:
        return Path.home() / ".config" / "delen"
    except RuntimeError:
        said = f"uid {os.getuid()} has no home directory"
        raise CommandFailed(said, ExitCode.USAGE, "name a directory with --config-dir") from None


def lend(path: Path, mode: int) -> bool:
    """Let the installed service's group read this; False where this is not the service's configuration."""
    import grp

    if os.getuid() != 0 or not path.is_relative_to(SYSTEM_DIRECTORY):
        return False
    try:
        group = grp.getgrnam(SERVICE_GROUP).gr_gid
    except KeyError:
        return False
    os.chown(path, 0, group)
    path.chmod(mode)
    return True


def one_at_a_time(command: Callable[..., None]) -> Callable[..., None]:
    """Of two commands that read the same tenants, the second would undo what the first one wrote: a key revoked."""

    @wraps(command)
    def alone(config_dir: Path | None, **said: Any) -> None:
        folder = folder_of(config_dir) / TENANTS
        if not folder.is_dir():
            command(config_dir=config_dir, **said)
            return
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            command(config_dir=config_dir, **said)
        finally:
            os.close(handle)

    return alone
