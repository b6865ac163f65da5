"""Draw what `delen bench clocks` found: energy saved over load, for each reading of what the rest of the board draws.

Does not: find anything (`clock_bench.py`). matplotlib is an extra, imported only here, with a figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .clock_bench import Point
from .scenario_plot import COLOURS, GRID, INK, MARKERS, PlotError


def draw_clocks(points: Sequence[Point], path: Path) -> None:
    """Saved energy, and points more missed. Raises PlotError: the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    saved, missed = figure.subplots(2, 1, sharex=True)
    curves = sorted({(point.rest_w, point.meant) for point in points})
    for index, (rest_w, meant) in enumerate(curves):
        curve = sorted((one for one in points if (one.rest_w, one.meant) == (rest_w, meant)), key=lambda one: one.load)
        loads = [point.load for point in curve]
        name = f"{rest_w:g} W {'always' if meant == 'always' else 'until the work is done'}" if rest_w else "GPU rail"
        for axes, found in (
            (saved, [point.saved_pct for point in curve]),
            (missed, [point.more_missed_pct for point in curve]),
        ):
            axes.errorbar(
                loads,
                [interval.mean for interval in found],
                yerr=[interval.half for interval in found],
                label=name,
                color=COLOURS[index % len(COLOURS)],
                marker=MARKERS[index % len(MARKERS)],
            )
    saved.set_ylabel("energy saved, %", color=INK)
    missed.set_ylabel("points more missed", color=INK)
    missed.set_xlabel("requests per second", color=INK)
    for axes in (saved, missed):
        axes.grid(color=GRID)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    saved.legend(frameon=False, fontsize=8)
    figure.suptitle("Exits and clock together against exits alone, Jetson TX2", color=INK, fontweight="bold")
    try:
        figure.savefig(path)
    except OSError as error:
        raise PlotError(f"cannot write {path}: {error.strerror}") from error
