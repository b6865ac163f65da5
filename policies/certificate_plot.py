"""Draw what an accuracy costs: mean device time against certified accuracy, for gates and for fixed exits.

Role: `delen certify --plot FILE`. Flow: `Explained` -> one picture. matplotlib is an extra and imported only here, with
figures of its own and no global state.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..profiles.plot import BATCH_1, DOMINATED, GRID, INK, MUTED, PAPER, PlotError
from .explained import Explained

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_certificates(network: str, told: Explained, path: Path) -> None:
    """Write a picture in the format of the file's ending (png, svg, pdf).

    Raises:
        PlotError: matplotlib is not installed, the ending is unknown to it, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("drawing needs matplotlib: pip install 'delen[report]'") from error
    figure = Figure(figsize=(7.6, 4.9), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    _draw(figure.subplots(), told)
    conditional = ", also among early answers" if told.conditional else ""
    figure.suptitle(
        f"{network}: what a certified accuracy costs", x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK
    )
    line = f"certainty {told.certainty:g}{conditional}, {told.tested:,} samples tested · {told.assumption}"
    figure.text(0.012, -0.01, line, ha="left", va="top", fontsize=8.5, color=MUTED)
    try:
        figure.savefig(path, bbox_inches="tight", pad_inches=0.2)
    except (OSError, ValueError) as error:
        raise PlotError(
            f"cannot write {path}: {error}; name a .png, .svg or .pdf in a directory that exists"
        ) from error


def _draw(axes: Axes, told: Explained) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(True, which="major", color=GRID, lw=0.9)
    axes.set_axisbelow(True)
    gates = [(point.accuracy, point.gates_us) for point in told.curve if point.gates_us is not None]
    axes.plot([100 * x for x, _ in gates], [y / 1000 for _, y in gates], "-", color=BATCH_1, lw=2, label="gates")
    fixed = [(point.accuracy, point.fixed_us) for point in told.curve if point.fixed_us is not None]
    axes.step(
        [100 * x for x, _ in fixed], [y / 1000 for _, y in fixed], "-", color=DOMINATED, lw=1.6, label="fixed exit"
    )
    axes.axhline(told.full_us / 1000, color=MUTED, lw=1, ls=":", label="running to the end")
    for entry in told.fixed:
        axes.plot([100 * entry.certified], [entry.time_us / 1000], "o", color=DOMINATED, ms=7)
        axes.annotate(f"exit {entry.exit}", (100 * entry.certified, entry.time_us / 1000), (0, 7), color=INK,
                      textcoords="offset points", ha="center", fontsize=9)  # fmt: skip
    if told.plan is not None:
        axes.plot([100 * told.accuracy], [told.plan.time_us / 1000], "D", color=BATCH_1, ms=8, label="this plan")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_ylim(0, told.full_us / 1000 * 1.15)
    axes.set_xlabel("certified accuracy, %", color=INK)
    axes.set_ylabel("mean device time per request, ms", color=INK)
    axes.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor=GRID, fontsize=9, labelcolor=INK)
