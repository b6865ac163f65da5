"""`delen serve`: the daemon in the foreground, from a file, from flags, or for one's own use with `--dev`."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .options import OVER_ZERO, InputPath
from .tables import Column, json_option, print_json, print_table, say

if TYPE_CHECKING:
    from ..daemon.config import Config
    from ..daemon.worker_early import Early


@click.command("serve")
@click.option("--config", type=InputPath(), help="TOML file.  [env: DELEN_CONFIG]", envvar="DELEN_CONFIG")
@click.option("--dev", is_flag=True, help="For this user alone: one endpoint per --tenant, all may see all counts.")
@click.option("--tenant", "tenants", multiple=True, metavar="NAME", help="A tenant; repeat for more.")
@click.option("--network", "networks", multiple=True, metavar="NAME|DIR", help="A bundle; repeat for more.")
@click.option("--engine", type=click.Choice(["onnx", "torch", "tensorrt", "replay"]), help="What runs the networks.")
@click.option("--device", metavar="NAME", help="auto, cpu, or cuda with torch and tensorrt.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of the engine.")
@click.option(
    "--meter", metavar="WHICH", help="What says how much power is drawn: auto, none, or see the configuration."
)
@click.option("--watts", type=OVER_ZERO, help="Power of one busy core, where no meter is.")
@click.option("--profile", type=click.Choice(["quick", "require"]), help="When a network has no profile here.")
@click.option("--journal", type=click.Path(dir_okay=False), metavar="FILE", help="Write down all that happens.")
@click.option("--log", type=click.Choice(["text", "logfmt", "json"]), help="What lines on stderr look like.")
@click.option("--policy", metavar="NAME", help="What decides the next run, e.g. stage-edf or latency-first.")
@click.option("--runtime-dir", type=click.Path(file_okay=False), help="Where the sockets go.")
@click.option("--state-dir", type=click.Path(file_okay=False), help="Where profiles are kept.")
@click.option("--ready-fd", type=int, metavar="FD", help="Write one byte to this descriptor when ready, and close it.")
@click.option("--check", is_flag=True, help="Only read configuration and meter, and say what would be served.")
@click.option("--files-only", is_flag=True, help="With --check: not what changes by itself, the meter and the time.")
@json_option
def serve_command(
    config: Path | None,
    tenants: tuple[str, ...],
    ready_fd: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run the daemon until it is told to stop.

    Flags win over DELEN_* variables, those over the file, that over the defaults. With --json the configuration
    in force is printed first, as one JSON document.
    """
    check, files_only = options.pop("check"), options.pop("files_only")
    if files_only and not check:
        raise click.UsageError("--files-only goes with --check")
    overrides = {name: value for name, value in options.items() if value not in (None, ())}
    overrides["dev"] = options["dev"] or None
    if tenants or (options["dev"] and config is None):
        overrides["tenants"] = [{"name": name} for name in tenants or ("default",)]
    # First, since it has as much to load as this process.
    from ..daemon.aborts import threads_leave_aborts
    from ..daemon.worker_early import begin

    early = None if check else begin(config, overrides, os.environ)
    # What is loaded now stays: to look for garbage in it again and again takes longer than all there will be is worth.
    gc.disable()
    try:
        # numpy's linear algebra begins its threads now.
        with threads_leave_aborts():
            from ..daemon.config import unread_variables
        for text in unread_variables(os.environ):
            say(f"note: {text}")
        settings = _read(config, overrides)
        if check:
            if not files_only:
                _check_now(settings)
            _check(settings, as_json=as_json)
            return
        if as_json:
            print_json(settings)
        _run(settings, partial(_read, config, overrides), ready_fd, early)
    finally:
        gc.enable()
        if early is not None:
            early.dismiss()


def _read(config: Path | None, overrides: dict[str, Any]) -> Config:
    """The configuration as it stands. Raises ConfigError."""
    from ..daemon.config import load_config

    return load_config(config, overrides, os.environ, os.getuid())


def _check(settings: Config, *, as_json: bool) -> None:
    """Say what would be served: what loads its networks here will load them when it serves."""
    from ..daemon.hosting import host
    from ..profiles.store import state_directory

    flag = Path(settings.state_dir) if settings.state_dir else None
    host(settings, state_directory(os.environ, os.getuid(), flag=flag))
    if as_json:
        print_json(settings)
        return
    names = {"networks": settings.networks, "tenants": [tenant.name for tenant in settings.tenants]}
    rows = [{"what": what, "value": ", ".join(values)} for what, values in names.items()]
    rows.append({"what": "engine", "value": f"{settings.engine} on {settings.device}, {settings.threads} threads"})
    rows.append({"what": "policy", "value": settings.policy})
    rows.append({"what": "sockets", "value": settings.runtime_dir})
    print_table(rows, (Column("what", "served", justify="left"), Column("value", "", justify="left")))


def _check_now(settings: Config) -> None:
    """What a daemon would start with all the same and only complain of. Raises CommandFailed."""
    from ..profiles.meter_check import unreadable

    wall_s = time.time()
    faults = [
        f"tenant {tenant.name}: {fault}"
        for tenant in settings.tenants
        if (fault := tenant.adaptation_fault(wall_s)) is not None
    ]
    until = settings.battery.until
    if until is not None and until.timestamp() <= wall_s:
        faults.append(f"battery.until {until.isoformat()} has passed; say a later time, or for_s in its place")
    fault = unreadable(settings.meter, "cuda" if settings.device.startswith("cuda") else "cpu")
    faults += [fault] if fault is not None else []
    if faults:
        raise CommandFailed("; ".join(faults), ExitCode.BAD_CONFIG)


def _run(settings: Config, reread: Callable[[], Config], ready_fd: int | None, early: Early | None) -> None:
    from ..daemon.log_writer import log_of
    from ..daemon.serve import serve

    # What has been loaded stays: of 60,000 objects 700 are garbage, and finding them takes 30 ms.
    gc.freeze()

    def on_ready() -> None:
        names = ", ".join(tenant.name for tenant in settings.tenants)
        log(f"ready; tenants {names}; sockets in {settings.runtime_dir}")
        if ready_fd is not None:
            os.write(ready_fd, b"1")
            os.close(ready_fd)

    log = log_of(settings, os.environ)
    try:
        serve(settings, log, on_ready, reread, early)
    finally:
        log.close()
