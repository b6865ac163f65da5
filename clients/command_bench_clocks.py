"""`delen bench clocks`: exits and GPU clocks together, against exits alone and against the best there could be.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import OVER_ZERO
from .tables import Column, json_option, print_json, print_table, progress, say

if TYPE_CHECKING:
    from ..daemon.clock_bench import Point
    from ..daemon.outcomes import Interval


@click.command("clocks")
@click.option("--seeds", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--duration-s", type=OVER_ZERO, help="Virtual seconds per run.  [default: the scenario's]")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.png", help="Draw it, too.")
@json_option
def clocks_command(seeds: int, duration_s: float | None, plot: Path | None, as_json: bool) -> None:
    """Energy of a Jetson TX2 (published figures) by load and by what the rest of the board draws. Takes minutes."""
    from ..daemon.clock_bench import bench_clocks
    from ..daemon.clock_plot import draw_clocks
    from ..daemon.scenario_plot import check_plot

    if plot is not None:
        check_plot(plot)
    with progress() as bar:
        task = bar.add_task("clocks", total=None)
        points = bench_clocks(
            seeds,
            duration_s=duration_s,
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if plot is not None:
        draw_clocks(points, plot)
    if as_json:
        print_json({"points": points, "plot": plot and str(plot)})
        return
    columns = [
        Column("rest", "rest of the board", justify="left"),
        Column("load", "requests/s", "{:g}".format),
        Column("use", "device use %", "{:.0f}".format),
        Column("alone", "exits alone J"),
        Column("together", "exits and clock J"),
        Column("saved", "saved %"),
        Column("over", "over the oracle %"),
        Column("missed", "missed %"),
        Column("more", "points more missed"),
        Column("fixed", "726 MHz always: saved %"),
        Column("fixed_more", "points more missed"),
        Column("switches", "changes/s", "{:.2f}".format),
    ]
    print_table([_row(point) for point in sorted(points, key=_order)], columns, "ResNet-50 on a Jetson TX2, GPU rail")
    say(f"{seeds} seeds; ± half the 95 % interval; by published figures, simulated")


def _order(point: Point) -> tuple[float, str, float]:
    return point.rest_w, point.meant, point.load


def _row(point: Point) -> dict[str, Any]:
    rest = f"{point.rest_w:g} W, {'always' if point.meant == 'always' else 'until the work is done'}"
    return {
        "rest": rest if point.rest_w else "not counted",
        "load": point.load,
        "use": point.use_pct,
        "alone": _written(point.alone_j, 1),
        "together": _written(point.together_j, 1),
        "saved": _written(point.saved_pct, 1),
        "over": _written(point.over_oracle_pct, 2),
        "missed": _written(point.missed_pct, 2),
        "more": _written(point.more_missed_pct, 2),
        "fixed": _written(point.fixed_saved_pct, 1),
        "fixed_more": _written(point.fixed_more_missed_pct, 2),
        "switches": point.switches_hz,
    }


def _written(interval: Interval, digits: int) -> str:
    return f"{interval.mean:.{digits}f} ± {interval.half:.{digits}f}"
