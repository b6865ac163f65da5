"""Draw a profile: accuracy of each exit against latency and against energy, dominated exits marked.

Role: `delen profile --plot FILE`. Flow: `Profile` -> `Costs` -> one picture with two panels. matplotlib is an extra and
is imported only here, with figures of its own and no global state, so that a server or a test may draw as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .costs import Costs
from .schema import ExitQuality, Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

# Dark to light: batch 1, where single requests live, stands out. Distinct in grey and for the colour-blind.
INK, MUTED, GRID, PAPER = "#1b2a41", "#5c6b82", "#e3e8ef", "#ffffff"
BATCH_1, DOMINATED = "#0b6e99", "#c0562f"
FAINT = ("#8ab6c9", "#adcbd8", "#cbdee6", "#dfe9ee")
LARGER_BATCHES_MAX = len(FAINT)


class PlotError(RuntimeError):
    """The picture could not be made; the text says what to do."""


class _Panel(NamedTuple):
    """One panel: `value(exit, batch)` on its horizontal axis is the cost; `late(exit)`: its p99, where drawn."""

    axes: Axes
    label: str
    value: Callable[[int, int], float]
    late: Callable[[int], float] | None


def draw_profile(profile: Profile, path: Path) -> None:
    """Write a picture in the format of the file's ending (png, svg, pdf).

    Raises:
        PlotError: matplotlib is not installed, the ending is unknown to it, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("drawing needs matplotlib: pip install 'delen[report]'") from error
    costs = Costs.of(profile, profile.batches[-1])
    figure = Figure(figsize=(11, 4.9), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    latency = _Panel(
        left,
        "latency to the answer, ms per batch (whisker: p99)",
        lambda k, batch: costs.path_us(0, k, batch) / 1000,
        lambda k: costs.path_p99_us(0, k, 1) / 1000,
    )
    _panel(latency, profile, costs)
    if profile.energy_source == "unknown":
        _empty(right, "energy: unknown\nno meter and no model on this device")
    else:
        label = f"energy, mJ per request ({profile.energy_source})"
        _panel(_Panel(right, label, lambda k, b: (costs.energy_mj(k, b) or 0.0) / b, None), profile, costs)
    left.set_ylabel("accuracy, %", color=INK)
    left.margins(y=0.11)
    left.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor=GRID, fontsize=9, labelcolor=INK)
    _titles(figure, profile)
    try:
        figure.savefig(path, bbox_inches="tight", pad_inches=0.2)
    except (OSError, ValueError) as error:
        raise PlotError(
            f"cannot write {path}: {error}; name a .png, .svg or .pdf in a directory that exists"
        ) from error


def _panel(panel: _Panel, profile: Profile, costs: Costs) -> None:
    axes = panel.axes
    _frame(axes, panel.label)
    accuracy = [100 * quality.accuracy for quality in profile.exits]
    larger = _larger_batches(profile.batches)
    heights = [accuracy[k] for k in costs.ladder]
    for batch, colour in zip((1, *larger), (BATCH_1, *FAINT), strict=False):
        values = [panel.value(k, batch) for k in costs.ladder]
        width = 2.0 if batch == 1 else 1.3
        axes.plot(values, heights, ".-", color=colour, lw=width, ms=5, zorder=3 - width / 2, label=f"batch {batch}")
    for k, quality in enumerate(profile.exits):
        value, dominated = panel.value(k, 1), costs.dominated[k]
        colour = DOMINATED if dominated else BATCH_1
        if panel.late is not None:
            axes.plot(
                [value, max(value, panel.late(k))], [accuracy[k]] * 2, "-", color=colour, lw=1.3, alpha=0.5, zorder=3
            )
        bars = [[100 * (quality.accuracy - quality.low)], [100 * (quality.high - quality.accuracy)]]
        axes.errorbar(
            [value], [accuracy[k]], yerr=bars, fmt="none", color=colour, capsize=3.5, elinewidth=1.4, zorder=4
        )
        face = PAPER if dominated else colour
        axes.plot([value], [accuracy[k]], "o", color=colour, mfc=face, ms=8, mew=1.8, zorder=4)
        _label_exit(axes, value, quality, k, dominated)
    _scale(axes, [panel.value(k, b) for k in range(costs.exit_count) for b in (1, *larger)])


def _label_exit(axes: Axes, value: float, quality: ExitQuality, index: int, dominated: bool) -> None:
    """Below the interval, out of the line's way; a dominated exit's above, since it has a neighbour as good."""
    axes.annotate(
        f"exit {index}\ndominated" if dominated else f"exit {index}",
        (value, 100 * (quality.high if dominated else quality.low)),
        xytext=(0, 4 if dominated else -4),
        textcoords="offset points",
        ha="center",
        va="bottom" if dominated else "top",
        fontsize=9,
        color=DOMINATED if dominated else INK,
        zorder=5,
        bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
    )


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """Logarithmic where costs span more than a factor of six, else from 0; room at the sides for labels."""
    from matplotlib.ticker import LogLocator, NullFormatter

    least, most = min(values), max(values)
    if least > 0 and most / least > 6:
        axes.set_xscale("log")
        axes.set_xlim(least / 2, most * 2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, most * 1.25 or 1)


def _frame(axes: Axes, label: str) -> None:
    axes.set_facecolor(PAPER)
    axes.grid(True, which="major", color=GRID, lw=0.9)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, which="both")
    axes.set_xlabel(label, color=INK)


def _empty(axes: Axes, text: str) -> None:
    _frame(axes, "energy, mJ per request")
    axes.set_xticks([])
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def _larger_batches(batches: Sequence[int]) -> list[int]:
    """Up to four of the sizes above 1, spread, the largest always among them."""
    larger = [batch for batch in batches if batch > 1]
    step = -(-len(larger) // LARGER_BATCHES_MAX) or 1
    return larger[::-1][::step][::-1]


def _titles(figure: Picture, profile: Profile) -> None:
    device = profile.device
    mode = f", {device.power_mode}" if device.power_mode else ""
    figure.suptitle(
        f"{profile.network} {profile.network_version}: what each exit costs", x=0.012, ha="left", fontsize=14,
        fontweight="bold", color=INK,
    )  # fmt: skip
    counts = {quality.n for quality in profile.exits}
    bars = (
        f"bars: 95 % interval over {counts.pop():,} images" if len(counts) == 1 and 0 not in counts else "no intervals"
    )
    threads = f"{device.threads} thread{'s' if device.threads > 1 else ''}"
    engine = f"{device.engine} {device.precision} on {device.device}, {threads}"
    quick = "quick measurement" if profile.quick else ""
    parts = (f"{device.board}, {device.processor}{mode}", engine, "medians", bars, quick, profile.taken_wall[:10])
    line = " · ".join(part for part in parts if part)
    figure.text(0.012, -0.01, line, ha="left", va="top", fontsize=8.5, color=MUTED)
