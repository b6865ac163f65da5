"""Draw what `delen plan` found: how many tenants each board serves in each mode and clock, and at what power.

Does not: find anything (`board_plan.py`). matplotlib is an extra, imported only here, with a figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .board_plan import Fit, Wish
from .scenario_plot import COLOURS, GRID, INK, MUTED, PlotError


def draw_plan(wish: Wish, fits: Sequence[Fit], path: Path) -> None:
    """One bar per setting. Raises PlotError: the file cannot be written. `scenario_plot.check_plot` says it earlier."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    boards = sorted({fit.board for fit in fits})
    figure = Figure(figsize=(8.5, 1.6 + 0.32 * len(fits)), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, fit in enumerate(reversed(fits)):
        axes.barh(place, fit.tenants, color=COLOURS[boards.index(fit.board) % len(COLOURS)], height=0.7)
        said = fit.why[:60] if not fit.tenants else "energy unknown"
        if fit.tenants and fit.power_w is not None:
            said = f"{fit.power_w:.2f} W, {fit.energy_mj:.0f} mJ each"
        axes.text(fit.tenants, place, f"  {said}", va="center", fontsize=7.5, color=MUTED)
    axes.set_yticks(range(len(fits)), [fit.device for fit in reversed(fits)], fontsize=8, color=INK)
    axes.set_xlabel(f"tenants served; power and energy with {wish.tenants}", color=INK)
    axes.set_xlim(0, 1.35 * max(1, *(fit.tenants for fit in fits)))
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.set_title(f"{wish.network}: {_words(wish)}", color=INK, fontsize=10, fontweight="bold")
    try:
        figure.savefig(path)
    except OSError as error:
        raise PlotError(f"cannot write {path}: {error.strerror}") from error


def _words(wish: Wish) -> str:
    said = [f"{wish.rate_hz:g} requests/s each"]
    said += [f"within {wish.latency_ms:g} ms"] if wish.latency_ms is not None else []
    said += [f"{100 * wish.accuracy:g} % right"] if wish.accuracy is not None else []
    said += [f"{wish.energy_mj:g} mJ"] if wish.energy_mj is not None else []
    return ", ".join(said)
