"""`delen bench oracle` and `delen bench correction`: policies and predictions against the best there could be.

Does not: judge. Targets and past results are in profiles/LOG.md.
"""

from __future__ import annotations

from typing import Any

import click

from .tables import Column, json_option, print_json, print_table, progress

_TWO, _ONE, _PERCENT = "{:.2f}".format, "{:.1f}".format, "{:.1%}".format


@click.command("oracle")
@click.option("--policy", "policies", multiple=True, help="Whose decisions; several may be given.  [default: ours]")
@click.option("--scenario", default="e2", show_default=True, help="The long traces, for the bound.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Of the long traces.")
@json_option
def oracle_command(policies: tuple[str, ...], scenario: str, seeds: int, as_json: bool) -> None:
    """Share of the best accuracy that could be had: exact on 200 small problems, a bound on long traces."""
    from ..daemon.oracle_bench import bench_oracle, bench_relaxation
    from ..daemon.scenario import PolicySpec, ScenarioError, load_scenario
    from ..policies.policy import PolicyError

    names = policies or ("stage-edf", "latency-first")
    try:
        found = load_scenario(scenario)
        with progress() as bar:
            task = bar.add_task("oracle", total=1 + len(names) * len(found.cases))
            exact = bench_oracle(names)
            bar.update(task, advance=1)
            bounds = []
            for case in found.cases:
                for name in names:
                    bounds.append(bench_relaxation(found, case, PolicySpec(name=name), seeds))
                    bar.update(task, advance=1)
    except (PolicyError, ScenarioError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        print_json({"exact": exact, "bounds": bounds})
        return
    columns = [
        Column("policy", "policy"),
        Column("load", "load", _ONE),
        Column("problems", "problems", "{:d}".format),
        Column("optimal_pct", "proven optimal %", _ONE),
        Column("mean", "of the optimum", _PERCENT),
        Column("half", "+-", _PERCENT),
        Column("worst", "worst", _PERCENT),
    ]
    rows: list[dict[str, Any]] = [
        {
            "policy": score.policy,
            "load": score.load,
            "problems": score.problems,
            "optimal_pct": score.optimal_pct,
            "mean": score.of_optimum.mean,
            "half": score.of_optimum.half,
            "worst": score.worst,
        }
        for score in exact
    ]
    print_table(rows, columns, "Small problems, solved exactly")
    columns = [
        Column("case", f"{scenario}, case"),
        Column("policy", "policy"),
        Column("reached", "effective accuracy %", _TWO),
        Column("bound", "no policy above %", _TWO),
        Column("share", "of the bound", _PERCENT),
    ]
    rows = [
        {
            "case": score.case,
            "policy": score.policy,
            "reached": score.effective_accuracy.mean,
            "bound": score.bound.mean,
            "share": score.of_bound.mean,
        }
        for score in bounds
    ]
    print_table(rows, columns, f"Long traces, {seeds} seeds, against a relaxation")


@click.command("correction")
@click.option("--seeds", type=click.IntRange(min=1), default=20, show_default=True)
@json_option
def correction_command(seeds: int, as_json: bool) -> None:
    """How predictions follow a device that strays from its profile: coverage, margin, recovery from a step."""
    from msgspec.structs import asdict

    from ..daemon.correction_bench import bench_corrections

    with progress() as bar:
        bar.add_task("corrections", total=None)
        scores = bench_corrections(seeds)
    if as_json:
        print_json(scores)
        return
    columns = [
        Column("noise", "noise"),
        Column("correction", "correction"),
        Column("missed_pct", "missed %", _TWO),
        Column("missed_pct_worst", "worst seed %", _TWO),
        Column("over_pct", "kept beyond %", _ONE),
        Column("step_missed", "missed after a step", _ONE),
        Column("back_over_pct", "kept beyond on the way back %", _ONE),
    ]
    print_table([asdict(score) for score in scores], columns, f"Predicted times, {seeds} seeds, target 1 % missed")
