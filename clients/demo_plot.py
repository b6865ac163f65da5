"""Draw what happened in the demo: load, latency against its bound, depth and accuracy, second by second.

Role: `delen demo --plot FILE`. matplotlib is an extra, imported only here, with a figure of its own.
Does not: compute more than sums over the seconds that the tenants reported.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .demo import PHASES, DemoReport, TenantFigures
from .demo_tenant import Second
from .demo_view import asks_for
from .errors import DelenError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID, BURST = "#1b2a41", "#5c6b82", "#e3e8ef", "#f6ead2"
TENANT_COLOURS = ("#0b6e99", "#c0562f", "#4b8b3b", "#7a5195", "#b8860b")
# Shallow to deep, light to dark: depth reads as darkness, also in grey.
EXIT_COLOURS = ("#cfe3ec", "#8fbdd3", "#4a93b5", "#0b5577", "#06324a")


class PlotFailed(DelenError):
    """The picture cannot be made; the text says what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="plot")


def check_plot(path: Path) -> None:
    """Fail before the demo runs, not after it. Raises PlotFailed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise PlotFailed("drawing needs matplotlib: pip install 'delen[report]'") from error
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise PlotFailed(f"{path}: expected a name that ends in .png, .svg or .pdf")


def draw_demo(report: DemoReport, seconds: Sequence[Second], phase_s: float, path: Path) -> None:
    """Four panels over time, the burst shaded. Raises PlotFailed where the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 10), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, 1, sharex=True)
    for axes in panels:
        axes.axvspan(phase_s, 2 * phase_s, color=BURST, zorder=0)
        axes.grid(color=GRID, linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=MUTED, labelsize=8)
        axes.set_axisbelow(True)
    by_tenant = {tenant.name: [s for s in seconds if s.name == tenant.name] for tenant in report.tenants}
    _draw_load(panels[0], report, by_tenant)
    _draw_latency(panels[1], report, by_tenant)
    _draw_depth(panels[2], report.tenants[0], by_tenant[report.tenants[0].name])
    _draw_accuracy(panels[3], report, by_tenant, phase_s)
    panels[3].set_xlabel("seconds", color=INK)
    panels[3].set_xlim(0, 3 * phase_s)
    figure.suptitle("One device, five tenants, one burst", color=INK, fontsize=14, fontweight="bold")
    try:
        figure.savefig(path)
    except OSError as error:
        raise PlotFailed(f"cannot write {path}: {error.strerror}") from error


def _draw_load(axes: Axes, report: DemoReport, by_tenant: dict[str, list[Second]]) -> None:
    for colour, (name, series) in zip(TENANT_COLOURS, by_tenant.items(), strict=False):
        axes.step(
            [s.second for s in series], [s.report.requests for s in series], where="post", color=colour, label=name
        )
    axes.set_yscale("log")
    axes.set_ylabel("answers per second", color=INK)
    top = axes.get_ylim()[1]
    for index, phase in enumerate(PHASES):
        middle = (index + 0.5) * max(1, len(next(iter(by_tenant.values())))) / 3
        text = f"{phase}: {report.utilisation[phase]:.2f}x of what the last exits sustain"
        axes.text(middle, top, text, ha="center", va="top", fontsize=8, color=MUTED)
    axes.legend(loc="lower left", ncols=5, fontsize=8, frameon=False)


def _draw_latency(axes: Axes, report: DemoReport, by_tenant: dict[str, list[Second]]) -> None:
    bounds: dict[float, list[str]] = {}
    for colour, tenant in zip(TENANT_COLOURS, report.tenants, strict=False):
        series = by_tenant[tenant.name]
        axes.plot(
            [s.second + 0.5 for s in series],
            # A second without answers is a gap, not a line across it.
            [max(0.1, s.report.from_send.p99_us / 1000) if s.report.answered else math.nan for s in series],
            color=colour,
            marker="o",
            markersize=3,
            linewidth=1.2,
        )
        if "latency_ms" in tenant.bounds:
            bounds.setdefault(tenant.bounds["latency_ms"], []).append(tenant.name)
    for bound, names in bounds.items():
        axes.axhline(bound, color=INK, linestyle="--", linewidth=1)
        words = f"{' and '.join(names)}: bound {bound:g} ms "
        place = axes.get_yaxis_transform()
        axes.text(1, bound, words, va="bottom", ha="right", fontsize=8, color=INK, transform=place)
    axes.set_yscale("log")
    axes.set_ylabel("p99 latency, ms\n(client's clock)", color=INK)


def _draw_depth(axes: Axes, tenant: TenantFigures, series: Sequence[Second]) -> None:
    """Where the first tenant's answers left, as shares stacked over time."""
    bottoms = [0.0] * len(series)
    for index in range(len(tenant.exits)):
        shares = [100 * s.report.exits.get(index, 0) / max(1, s.report.answered) for s in series]
        colour = EXIT_COLOURS[index % len(EXIT_COLOURS)]
        left = [s.second for s in series]
        axes.bar(left, shares, 1.0, bottom=bottoms, align="edge", color=colour, label=f"exit {index}")
        bottoms = [a + b for a, b in zip(bottoms, shares, strict=True)]
    axes.set_ylim(0, 100)
    axes.set_ylabel(f"{tenant.name}'s exits, %\n({asks_for(tenant.bounds)})", color=INK)
    axes.legend(loc="lower left", ncols=4, fontsize=8)


def _draw_accuracy(axes: Axes, report: DemoReport, by_tenant: dict[str, list[Second]], phase_s: float) -> None:
    """Measured accuracy by third; single seconds of slow tenants are too few images to say anything."""
    for order, (colour, tenant) in enumerate(zip(TENANT_COLOURS, report.tenants, strict=False)):
        points = [
            ((index + 0.5) * phase_s + (order - 2) * 0.02 * phase_s, part.accuracy, part.answered)
            for index, part in enumerate(tenant.phases[phase] for phase in PHASES)
            if part.accuracy is not None
        ]
        axes.errorbar(
            [when for when, _, _ in points],
            [100 * accuracy for _, accuracy, _ in points],
            # Normal 95 % interval of a share over n answers: what the dots could be by chance.
            yerr=[196 * math.sqrt(accuracy * (1 - accuracy) / n) for _, accuracy, n in points],
            color=colour,
            marker="o",
            capsize=3,
            linewidth=1.2,
        )
        bound = tenant.bounds.get("accuracy")
        if bound is not None:
            axes.axhline(100 * bound, color=colour, linestyle="--", linewidth=1)
            axes.text(0.1, 100 * bound, f" {tenant.name}: bound {bound:g}", va="bottom", fontsize=8, color=colour)
    axes.set_ylabel("measured accuracy, %", color=INK)
