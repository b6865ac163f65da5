"""`delen bench scenarios`: run every committed scenario again and write a table and a plot for each.

Does not: judge. What the results mean is in profiles/LOG.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .command_simulate import command_line, in_order, plan_of, run
from .options import InputPath
from .tables import json_option, print_json, say


@click.command("scenarios")
@click.option("--only", metavar="E1,E2", default="", help="Only these, separated by commas.")
@click.option("--seeds", type=click.IntRange(min=1), help="How many.  [default: each scenario's own]")
@click.option(
    "--data",
    type=InputPath(folder=True),
    metavar="DIR",
    help="Where recorded traces lie; cases that play one are left out without, and said to be.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("profiles/results"),
    show_default=True,
    help="Where tables and plots go.",
)
@click.option("--processes", type=click.IntRange(min=1), help="How many at once.  [default: one per core]")
@json_option
@click.pass_context
def scenarios_command(ctx: click.Context, /, only: str, out: Path, as_json: bool, **options: Any) -> None:
    """Every scenario under every policy, with means and 95 % intervals over seeds. Takes a while."""
    from ..daemon.scenario import load_scenario, scenario_names
    from ..daemon.scenario_plot import check_plot, draw_findings
    from ..daemon.scenario_report import document, markdown

    names = [name.strip() for name in only.split(",") if name.strip()] or in_order(scenario_names())
    scenarios = [load_scenario(name) for name in names]
    check_plot(out / "any.png")
    out.mkdir(parents=True, exist_ok=True)
    documents = []
    for scenario in scenarios:
        plan = plan_of(scenario, **options, check="off")
        findings = run(plan, options["processes"])
        plot = out / f"{scenario.name}.png"
        draw_findings(scenario, findings, plot)
        page = out / f"{scenario.name}.md"
        page.write_text(markdown(scenario, findings, command_line(ctx), plot.name), "utf-8")
        say(f"written: {page}, {plot.name}")
        documents.append(document(plan, findings, command_line(ctx)))
    if as_json:
        print_json({"scenarios": documents})
