"""`delen train`: a recipe, a data set the user already has, and some minutes become a bundle that can be served."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .tables import Column, count, json_option, percent, print_json, print_table, progress, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from ..exits.making import Progress, TrainReport

STAGES = {"train": "training", "calibrate": "calibrating", "export": "exporting"}


@click.command("train")
@click.argument("recipe", metavar="fashion|digits")
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the new bundle.  [default: ./RECIPE]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder with the data set's files as downloaded.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all that is random.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, or cuda:1 for the second GPU.")
@click.option("--epochs", type=click.IntRange(min=1), help="Train for this many passes, not the recipe's.")
@click.option(
    "--from-weights",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Skip training: take these, saved by a run before.",
)
@click.option("--replace", is_flag=True, help="An older bundle at --out may go.")
@json_option
def train_command(recipe: str, out: Path | None, as_json: bool, **options: Any) -> None:
    """Train a shipped recipe, calibrate its exits and export it as a bundle.

    The trained weights are kept beside the bundle, so that a failed export costs no second training
    (--from-weights). The same seed, torch and kind of CPU give the same network; fashion's depends on the number
    of threads too. `delen serve --network DIR` serves the result.
    """
    from ..exits.making import Order, make_bundle
    from ..exits.recipes import RECIPES

    if recipe not in RECIPES:
        raise click.UsageError(f"no recipe {recipe!r}; there are: {', '.join(RECIPES)}")
    chosen = RECIPES[recipe]
    if options["epochs"] is not None:
        chosen = dataclasses.replace(chosen, epochs=options["epochs"])
    directory = out or Path(recipe)
    order = Order(
        recipe=chosen,
        out=directory,
        data=options["data"],
        seed=options["seed"],
        device=options["device"],
        weights=options["from_weights"],
        keep_weights=directory.with_name(f"{directory.name}.weights.npz") if options["from_weights"] is None else None,
        replace=options["replace"],
    )
    try:
        with progress() as bars:
            report = make_bundle(order, _shown_by(bars))
    except FileExistsError as error:
        raise CommandFailed(str(error), ExitCode.CANNOT_CREATE, "an older bundle goes with --replace") from error
    if as_json:
        print_json(_summary(report))
    else:
        _show(report)


def _shown_by(bars: Bars) -> Callable[[Progress], None]:
    """One bar per stage; the note beside it says where the stage is."""
    tasks: dict[str, TaskID] = {}

    def show(step: Progress) -> None:
        if step.stage not in tasks:
            tasks[step.stage] = bars.add_task(STAGES[step.stage], total=step.total)
        text = f"{STAGES[step.stage]:<11} {step.note}"
        bars.update(tasks[step.stage], completed=step.done, total=step.total, description=text)

    return show


def _summary(report: TrainReport) -> dict[str, Any]:
    return {
        "directory": str(report.directory),
        "digest": report.digest,
        "bytes": report.bytes,
        "parameters": report.parameters,
        "calibration_count": report.calibration_count,
        "test_count": report.test_count,
        "exits": [{"exit": index, **entry._asdict()} for index, entry in enumerate(report.exits)],
    }


def _show(report: TrainReport) -> None:
    title = f"{report.directory}  {count(report.parameters)} parameters  {report.bytes / 1e6:.2f} MB"
    print_table(_summary(report)["exits"], _COLUMNS, title)
    say(f"accuracy on {count(report.test_count)} test images; calibrated on {count(report.calibration_count)} others")
    say(f"serve it with `delen serve --dev --network {report.directory}`")


_COLUMNS = (
    Column("exit", "exit"),
    Column("test_accuracy", "accuracy", percent),
    Column("temperature", "temperature", lambda value: f"{value:.3f}"),
    Column("error_before", "calibration error before", percent),
    Column("error", "after", percent),
)
