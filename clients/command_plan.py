"""`delen plan`: which board, mode and clock serves how many tenants with these bounds; and the list of those boards.

Flow: bounds -> every setting with published figures, simulated on the daemon's core (a bar shows how far) -> a table, a
plot on request. Does not: simulate by itself (`daemon/board_plan.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from .options import OVER_ZERO
from .tables import Column, json_option, print_json, print_table, progress, say

if TYPE_CHECKING:
    from ..daemon.board_plan import Fit

_PLOT = click.Path(path_type=Path, dir_okay=False)
_TWO, _ONE = "{:.2f}".format, "{:.1f}".format


@click.command("plan")
@click.argument("network", default="resnet50")
@click.option("--rate", "rate_hz", type=OVER_ZERO, default=1.0, show_default=True, help="Requests/s of each tenant.")
@click.option("--latency-ms", type=OVER_ZERO, help="Every request within so long.")
@click.option("--accuracy", type=click.FloatRange(min=0, max=1, min_open=True), help="A share, e.g. 0.75.")
@click.option("--energy-mj", type=OVER_ZERO, help="Every request for no more than that.")
@click.option("--tenants", type=click.IntRange(min=1), default=1, show_default=True, help="How many there will be.")
@click.option("--missed-max", type=OVER_ZERO, default=1.0, show_default=True, help="Percent that may miss a bound.")
@click.option("--board", "boards", multiple=True, metavar="BOARD", help="Only this one; may be repeated.")
@click.option("--plot", type=_PLOT, metavar="FILE.png", help="Draw it, too.")
@json_option
def plan_command(
    network: str,
    tenants: int,
    missed_max: float,
    boards: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
    **asks: Any,
) -> None:
    """Which board, in which power mode and at which clock, keeps these bounds, and for how many tenants.

    By published figures of NETWORK (resnet50 or resnet18) on Jetson boards; `delen simulate --devices` lists them.
    """
    from ..daemon.board_plan import Wish, plan_boards
    from ..daemon.board_plot import draw_plan
    from ..daemon.scenario_plot import check_plot
    from ..profiles.schema import ProfileError

    if plot is not None:
        check_plot(plot)
    wish = Wish(network=network, tenants=tenants, missed_pct_max=missed_max, **asks)
    try:
        with progress() as bar:
            task = bar.add_task("plan", total=None)
            fits = plan_boards(wish, boards, lambda done, total: bar.update(task, completed=done, total=total))
    except ProfileError as error:
        raise click.UsageError(str(error)) from None
    if plot is not None:
        draw_plan(wish, fits, plot)
    if as_json:
        told = [{**msgspec.to_builtins(fit), "fits": fit.tenants >= tenants} for fit in fits]
        print_json({"asked": wish, "settings": told, "plot": plot and str(plot)})
        return
    _show(fits, tenants)
    if plot is not None:
        say(f"drawn: {plot}")


def _show(fits: list[Fit], tenants: int) -> None:
    columns = [
        Column("device", "device", justify="left"),
        Column("fits", f"fits {tenants}", justify="left"),
        Column("tenants", "tenants"),
        Column("exit", "exit"),
        Column("accuracy", "accuracy", "{:.4f}".format),
        Column("latency_ms", "alone ms", _ONE),
        Column("energy_mj", "energy mJ", _ONE),
        Column("power_w", "W for the work alone", _TWO),
        Column("use_pct", "device use %", _ONE),
        Column("why", "why not", justify="left"),
    ]
    rows = [{**msgspec.to_builtins(fit), "fits": "yes" if fit.tenants >= tenants else "no"} for fit in fits]
    print_table(rows, columns, "Boards by published figures, simulated")
    if not any(fit.tenants >= tenants for fit in fits):
        say(f"none of them serves {tenants} tenants within these bounds")
    for board in dict.fromkeys(fit.board for fit in fits if fit.energy_of):
        say(f"{board}: energy is {next(fit.energy_of for fit in fits if fit.board == board and fit.energy_of)}")
    say("what was assumed of each board: delen simulate --devices")


def list_devices(*, as_json: bool) -> None:
    """The boards there are figures of, and where those are from."""
    from ..profiles.boards import board_files

    files = board_files()
    if as_json:
        print_json({"devices": files})
        return
    rows = []
    for file in files:
        modes = list(dict.fromkeys(point.mode for point in file.points if point.mode))
        clocks = sorted({point.gpu_khz for point in file.points if point.gpu_khz})
        said = f"{clocks[0] / 1000:g} to {clocks[-1] / 1000:g} MHz, {len(clocks)} measured" if clocks else "-"
        rows.append(
            {
                "board": file.board,
                "network": file.network,
                "modes": ", ".join(modes) or "-",
                "clocks": said,
                "batches": ", ".join(str(batch) for batch in file.points[0].batches),
                "energy": "yes" if any(point.trunk_mj for point in file.points) else "no",
                "licence": file.licence.split(",")[0],
            }
        )
    titles = ("board", "network", "modes", "clocks", "batches", "energy", "licence")
    print_table(rows, [Column(title, title, justify="left") for title in titles], "Boards with published figures")
    for file in files:
        notes = [f"figures: {file.source}", f"energy: {file.energy}", *(f"assumed: {each}" for each in file.assumed)]
        for note in notes:
            say(f"{file.board}, {file.network}: {note}")
