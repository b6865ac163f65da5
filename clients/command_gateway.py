"""`delen gateway`: Prometheus metrics, health and traces over HTTP, in a process beside the daemon."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
from collections.abc import Callable
from functools import partial
from importlib import resources
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .options import OVER_ZERO
from .tables import json_option, print_json, say, warn

if TYPE_CHECKING:
    from .gateway_metrics import Board

PORT_MAX = 65_535


def _address(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Host and port of HOST:PORT; an IPv6 address goes in brackets. Port 0: any that is free."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not (host and port.isdecimal() and int(port[:6]) <= PORT_MAX):
        raise click.BadParameter(f"{value!r} is not HOST:PORT, e.g. 127.0.0.1:9464")
    return host.removeprefix("[").removesuffix("]"), int(port)


@click.command("gateway")
@click.option(
    *("--metrics", "address"),
    metavar="HOST:PORT",
    callback=_address,
    help="Serve /metrics, /healthz and /trace here.",
)
@click.option("--dashboard", is_flag=True, help="Instead: print the Grafana dashboard for these metrics.")
@click.option("--tenant", metavar="NAME", help="Ask as this tenant.  [default: $DELEN_TENANT, else default]")
@click.option("--endpoint", metavar="SOCKET", help="The socket to ask at, instead of looking for the tenant's.")
@click.option("--timeout-s", type=OVER_ZERO, default=5.0, show_default=True, help="How long the daemon may take.")
@json_option
def gateway_command(address: tuple[str, int] | None, dashboard: bool, as_json: bool, **options: Any) -> None:
    """Serve the daemon's state over HTTP until interrupted.

    It asks the daemon as a tenant; one that may see all (`sees_all` in the configuration, all with --dev) shows all.
    Nobody who connects is asked who they are: bind it to 127.0.0.1, or behind something that asks.
    """
    if dashboard:
        click.echo(resources.files(__package__).joinpath("grafana.json").read_text("utf-8"), nl=False)
        return
    if address is None:
        raise click.UsageError("name where to serve, e.g. --metrics 127.0.0.1:9464; or ask for the --dashboard")
    if not _is_loopback(address[0]):
        warn(f"{address[0]} is not this machine alone: whoever can connect sees tenants' names, counts and traces")
    asyncio.run(_serve(address, options, as_json=as_json))


async def _serve(address: tuple[str, int], options: dict[str, Any], *, as_json: bool) -> None:
    from .async_client import AsyncClient
    from .gateway import Gateway
    from .gateway_http import serve

    connect = partial(
        AsyncClient, options["tenant"], endpoint=options["endpoint"], client="gateway", timeout_s=options["timeout_s"]
    )
    gateway = Gateway(connect, version=version("delen"), board=_board())
    try:
        server = await serve(*address, gateway.handle)
    except OSError as error:
        text = f"cannot serve at {address[0]} port {address[1]}: {error.strerror}"
        raise CommandFailed(text, ExitCode.CANNOT_CREATE) from error
    host, port = server.sockets[0].getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if as_json:
        print_json({"metrics": f"{url}/metrics", "healthz": f"{url}/healthz", "trace": f"{url}/trace"})
    say(f"serving {url}/metrics, /healthz and /trace")
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    async with server:
        await done.wait()
    await gateway.close()


def _board() -> Callable[[], Board]:
    """Reads the board's sensors anew at each call; which there are is found out once."""
    from ..profiles.board import temperature_c
    from ..profiles.meter_ina3221 import find_rails, rail_power_mw
    from .gateway_metrics import Board

    rails = find_rails()

    def read() -> Board:
        powers = {rail.name: rail_power_mw(rail) for rail in rails}
        return Board({name: mw / 1e3 for name, mw in powers.items() if mw is not None}, temperature_c())

    return read


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
