"""What a scenario's findings look like: rows for tables, one JSON document, and a page of Markdown.

Role: between `scenario_bench.py` and whoever shows it. Does not: print, draw (`scenario_plot.py`), or judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .outcomes import Interval
from .scenario import Scenario
from .scenario_bench import Findings, Plan, Result

# Figure: what stands above its column, and decimals.
COLUMNS = {
    "violations_pct": ("violations %", 2),
    "effective_accuracy": ("effective accuracy %", 2),
    "right_pct": ("right %", 2),
    "p50_ms": ("p50 ms", 1),
    "p95_ms": ("p95 ms", 1),
    "p99_ms": ("p99 ms", 1),
    "refused_pct": ("refused %", 2),
    "admitted_missed_pct": ("missed of admitted %", 2),
    "goodput_hz": ("goodput /s", 0),
    "mean_exit": ("mean exit", 2),
    "energy_mj": ("energy mJ", 1),
}
Figures = Mapping[str, "Interval | None"]


def shown(results: Sequence[Result]) -> list[str]:
    """The figures worth a column: those that any result knows."""
    return [name for name in COLUMNS if any(result.figures.get(name) is not None for result in results)]


def written(name: str, interval: Interval | None) -> str | None:
    """A mean and half its interval, e.g. `0.53 ± 0.04`; the mean alone for one seed."""
    if interval is None:
        return None
    decimals = COLUMNS[name][1]
    mean = f"{interval.mean:.{decimals}f}"
    return mean if interval.n == 1 else f"{mean} ± {interval.half:.{decimals}f}"


def rows(results: Sequence[Result]) -> list[dict[str, str | None]]:
    """One row per result, and under it one per tenant or group that has figures. A repeated case is left blank."""
    found: list[dict[str, str | None]] = []
    case = None
    for result in results:
        head = {"case": result.case if result.case != case else "", "policy": result.policy}
        case = result.case
        found.append({**head, **_cells(result.figures)})
        for tenant, figures in result.tenants.items():
            found.append({"case": "", "policy": f"· {tenant}", **_cells(figures)})
    return found


def _cells(figures: Figures) -> dict[str, str | None]:
    return {name: written(name, interval) for name, interval in figures.items() if name in COLUMNS}


def document(plan: Plan, findings: Findings, command: str) -> dict[str, Any]:
    """For programs: every figure with its interval, every seed's figures with the hash of its log, and the command."""
    scenario = plan.scenario
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "command": command,
        "seeds": plan.seeds,
        "duration_s": scenario.duration_s,
        "warmup_s": scenario.warmup_s,
        "check": plan.check,
        "requests": findings.requests,
        "run_s": round(findings.run_s, 3),
        "requests_per_s": round(findings.requests / findings.run_s) if findings.run_s else None,
        "skipped": findings.skipped,
        "results": [_result(result) for result in findings.results],
    }


def _result(result: Result) -> dict[str, Any]:
    return {
        "case": result.case,
        "load": result.load,
        "policy": result.policy,
        "name": result.name,
        "options": result.options,
        "correction": result.correction,
        **{name: _told(interval) for name, interval in result.figures.items()},
        "log_hash": [run.log_hash for run in result.runs],
        "tenants": {
            tenant: {name: _told(interval) for name, interval in figures.items()}
            for tenant, figures in result.tenants.items()
        },
        "runs": result.runs,
    }


def _told(interval: Interval | None) -> dict[str, Any] | None:
    """For programs. One seed has a mean and no interval, which is not one of no width."""
    if interval is None:
        return None
    return {"mean": interval.mean, "half": interval.half if interval.n > 1 else None, "n": interval.n}


def markdown(scenario: Scenario, findings: Findings, command: str, plot: str = "") -> str:
    """One page: what the scenario is for, the command, the plot, every case and policy."""
    names = shown(findings.results)
    seeds = max((len(result.runs) for result in findings.results), default=0)
    lines = [f"# {scenario.name}: {scenario.title}", "", " ".join(scenario.reason.split()), ""]
    spread = "one seed, so no intervals"
    if seeds > 1:
        spread = f"means over {seeds} seeds and half the width of their 95 % intervals (Student's t)"
    said = (
        f"`{command}`: {spread}, "
        f"{scenario.duration_s:g} s each, the first {scenario.warmup_s:g} s not counted; "
        f"{findings.requests:,} requests in all. Late, dropped and refused all count as violations, and their accuracy "
        "as 0. Latencies are of answers; energy is per answer."
    )
    lines += [said, ""]
    lines += [f"- **not run: {skipped.case}**: {skipped.reason}" for skipped in findings.skipped]
    if findings.skipped:
        lines.append("")
    if plot:
        lines += [f"![{scenario.name}]({plot})", ""]
    lines.append("| " + " | ".join(["case", "policy", *(COLUMNS[name][0] for name in names)]) + " |")
    lines.append("|---|---|" + "---:|" * len(names))
    for row in rows(findings.results):
        cells = [row["case"], row["policy"], *(row.get(name) for name in names)]
        lines.append("| " + " | ".join(cell or ("-" if cell is None else "") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
