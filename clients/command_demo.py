"""`delen demo`: a daemon, five tenants with different bounds, a burst, and proof of what was promised.

Flow: a private daemon -> its networks and this device's costs -> roles -> tenant processes -> live table -> summary,
plot, JSON. Touches no daemon that runs already.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .tables import err, json_option, print_json, say, show

if TYPE_CHECKING:
    from .demo import DemoReport, Role
    from .demo_tenant import Second
    from .info import NetworkInfo
    from .private_daemon import PrivateDaemon

NETWORKS = ("fashion", "digits")
TENANTS = ("camera", "inspector", "sensor", "archive", "door")


@click.command("demo")
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="Also draw what happened, as PNG or SVG.")
@click.option("--phase-s", type=click.FloatRange(min=2), default=12.0, show_default=True, help="Length of each third.")
@click.option(
    "--engine",
    type=click.Choice(["onnx", "torch", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="What runs.",
)
@json_option
def demo_command(plot: Path | None, phase_s: float, engine: str, as_json: bool) -> None:
    """Watch five tenants with different bounds share one daemon through a burst of twice its capacity.

    Real test images, so accuracy is measured, not assumed. Ends within a minute.
    """
    from .private_daemon import PrivateDaemon

    if plot is not None:
        from .demo_plot import check_plot

        check_plot(plot)
    started_s = time.monotonic()
    say("starting a daemon of its own; it measures both networks first, which takes some seconds")
    with (
        tempfile.TemporaryDirectory(prefix="delen-") as scratch,
        PrivateDaemon(TENANTS, NETWORKS, arguments=("--engine", engine)) as daemon,
    ):
        report, seconds = _play(daemon, Path(scratch), phase_s, started_s)
    if plot is not None:
        from .demo_plot import draw_demo

        draw_demo(report, seconds, phase_s, plot)
        say(f"drawn: {plot}")
    if as_json:
        print_json(report)
    else:
        from .demo_view import summary

        show(summary(report))


def _play(daemon: PrivateDaemon, scratch: Path, phase_s: float, started_s: float) -> tuple[DemoReport, list[Second]]:
    from .client import Client
    from .demo import DemoReport, cast, claims, figures, utilisation
    from .demo_run import play

    with Client(TENANTS[0], endpoint=daemon.endpoint(TENANTS[0])) as client:
        networks = {info.name: info for info in client.networks()}
    inputs = {name: _inputs(networks[name], scratch) for name in NETWORKS}
    roles = cast(networks, inputs, phase_s)
    offered = utilisation(roles, networks)
    exit_counts = {name: len(info.exits) for name, info in networks.items()}
    seconds = _Seconds(roles, offered, exit_counts)
    with seconds:
        outcomes = play(daemon, roles, scratch, seconds.take)
    tenants = [figures(role, outcomes[role.name], exit_counts[role.network]) for role in roles]
    said, held = claims(tenants)
    return DemoReport(tenants, offered, said, held, round(time.monotonic() - started_s, 1), phase_s), seconds.taken


def _inputs(info: NetworkInfo, scratch: Path) -> str:
    """Write a network's shipped test images, prepared, with their labels, for the tenants' processes."""
    import numpy as np

    from ..exits.samples import load_samples, prepare

    samples = load_samples(info.name)
    path = scratch / f"{info.name}.npz"
    np.savez(path, inputs=prepare(samples.images, info.preprocessing), labels=samples.labels)
    return str(path)


class _Seconds:
    """Takes the tenants' seconds, keeps them, and shows them as they come: a live table, or a line in a log."""

    def __init__(self, roles: list[Role], offered: dict[str, float], exit_counts: dict[str, int]) -> None:
        from rich.live import Live

        from .demo_view import Screen

        self.taken: list[Second] = []
        self._screen = Screen(roles, offered, exit_counts)
        self._tenants = len(roles)
        self._live = Live(console=err(), auto_refresh=False) if err().is_terminal else None

    def __enter__(self) -> _Seconds:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def take(self, second: Second) -> None:
        self.taken.append(second)
        self._screen.take(second)
        if self._live is not None:
            self._live.update(self._screen.render(), refresh=True)
        elif len(self.taken) % (3 * self._tenants) == 0:
            say(self._screen.line())
