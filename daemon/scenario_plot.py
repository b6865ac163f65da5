"""Draw a scenario's findings: what each policy is worth, over load or from case to case.

Role: `delen simulate --plot FILE` and `delen bench scenarios`. Three figures under one another: effective accuracy,
violations, the 95th percentile; a column for each curve over load and one for the cases that are no curve. Bars are
95 % intervals. matplotlib is an extra, imported only here, with a figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .scenario import Scenario
from .scenario_bench import Findings, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID = "#1b2a41", "#5c6b82", "#e3e8ef"
# Okabe and Ito's colours, told apart by the colour-blind, the strongest first; markers tell them apart in grey.
COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#7f7f7f", "#000000", "#8c6d1f", "#5e4fa2", "#b22222", "#66a61e"),
)
MARKERS = "osD^vPX*<>dh"
# Whose accuracy falls further below the best of any case than this leaves the picture: the others can be told apart.
SHOWN_POINTS = 15
PANELS = (
    ("effective_accuracy", "effective accuracy, %"),
    ("violations_pct", "violations, %"),
    ("p95_ms", "p95, ms"),
)
# Below a tenth of a percent, violations are drawn on a line, since no logarithm has a place for none.
LINEAR_PCT = 0.1
ENDINGS = (".png", ".svg", ".pdf")


class PlotError(RuntimeError):
    """The picture could not be made; the text says what to do."""


def check_plot(path: Path) -> None:
    """Fail before a long run, not after it. Raises PlotError."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise PlotError("drawing needs matplotlib: pip install 'delen[report]'") from error
    if path.suffix not in ENDINGS:
        raise PlotError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}")


def draw_findings(scenario: Scenario, findings: Findings, path: Path) -> None:
    """Write the picture in the format of its file's ending. Raises PlotError."""
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = _groups(findings.results)
    policies = list(dict.fromkeys(result.policy for result in findings.results))
    widths = [
        1.0 if curve else min(1.0, 0.35 + 0.1 * len(results) / len(policies)) for curve, results in groups.items()
    ]
    figure = Figure(figsize=(max(7.5, 2.5 + 4.3 * sum(widths)), 9.5), dpi=130, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        len(PANELS), len(groups), squeeze=False, sharex="col", sharey="row", gridspec_kw={"width_ratios": widths}
    )
    for column, (curve, results) in enumerate(groups.items()):
        for row, (figure_name, label) in enumerate(PANELS):
            axes = grid[row][column]
            _frame(axes)
            for index, policy in enumerate(policies):
                _draw(
                    axes, [result for result in results if result.policy == policy], figure_name, index, len(policies)
                )
            if column == 0:
                axes.set_ylabel(label, color=INK)
        grid[0][column].set_title(curve or ("other cases" if len(groups) > 1 else ""), fontsize=10, color=INK)
        _cases(grid[-1][column], curve, results)
    grid[0][0].set_ylim(*_accuracies(findings.results))
    for axes in grid[1]:
        axes.set_yscale("symlog", linthresh=LINEAR_PCT)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    late_ms = [interval.mean for result in findings.results if (interval := result.figures["p95_ms"]) is not None]
    for axes in grid[2]:
        axes.set_yscale("log")
        # By the means: with few seeds an interval may reach below 0, where a logarithm has no place.
        axes.set_ylim(max(0.01, 0.6 * min(late_ms)), max(0.1, 1.6 * max(late_ms)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 2 + len(groups)), frameon=False, fontsize=9)
    seeds = max((len(result.runs) for result in findings.results), default=0)
    title = f"{scenario.name}: {scenario.title}"
    figure.suptitle(
        f"{title}\n{f'{seeds} seeds, bars: 95 % intervals' if seeds > 1 else 'one seed: no intervals'}",
        color=INK,
        fontsize=12,
        fontweight="bold",
    )
    try:
        figure.savefig(path)
    except OSError as error:
        raise PlotError(f"cannot write {path}: {error.strerror}") from error


def _accuracies(results: Sequence[Result]) -> tuple[float, float]:
    """Lowest and highest accuracy shown."""
    by_case: dict[str, list[float]] = {}
    for result in results:
        if (interval := result.figures["effective_accuracy"]) is not None:
            by_case.setdefault(result.case, []).append(interval.mean)
    best = [max(means) for means in by_case.values()]
    worst = min(min(means) for means in by_case.values())
    return max(0.0, worst - 1, min(best) - SHOWN_POINTS), max(best) + 1


def _groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results by the curve they belong to; those of none under the empty name, last."""
    found: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: not result.curve):
        found.setdefault(result.curve, []).append(result)
    return found


def _draw(axes: Axes, results: Sequence[Result], name: str, index: int, count: int) -> None:
    """One policy in one panel: a line over load, or a mark for each case, moved aside so that none hides another."""
    found = [(result, place) for place, result in enumerate(results) if result.figures[name] is not None]
    over_load = bool(results and results[0].curve)
    aside = (index - (count - 1) / 2) * 0.7 / count
    intervals = [interval for result, _ in found if (interval := result.figures[name]) is not None]
    axes.errorbar(
        [result.load if over_load else place + aside for result, place in found],
        [interval.mean for interval in intervals],
        yerr=[interval.half for interval in intervals],
        label=results[0].policy if results else None,
        color=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        linestyle=("-" if index < 2 else "--") if over_load else "none",
        markersize=4.5,
        linewidth=1.8 if index < 2 else 1.1,
        capsize=2.5,
        zorder=count - index,
    )


def _cases(axes: Axes, curve: str, results: Sequence[Result]) -> None:
    """What stands below the lowest panel of a column."""
    if curve:
        axes.set_xlabel("load", color=INK)
        return
    cases = list(dict.fromkeys(result.case for result in results))
    axes.set_xticks(range(len(cases)), cases, rotation=30, ha="right")
    axes.set_xlim(-0.6, len(cases) - 0.4)


def _frame(axes: Axes) -> None:
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5)
