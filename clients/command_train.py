"""`delen train`: a recipe becomes a bundle, or an attached network learns, from data that the user already has."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .options import Finite, InputPath
from .tables import Column, count, json_option, percent, print_json, print_table, progress, say

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from ..exits.fit_plan import FitPlan
    from ..exits.making import TrainReport
    from ..exits.training import OnProgress, Progress
    from ..exits.workspace_training import WorkspaceReport

STAGES = {"train": "training", "calibrate": "calibrating", "export": "exporting"}
# Options that only one of the two kinds of training has.
OF_RECIPES = {"out", "replace"}
OF_WORKSPACES = {
    *("trunk", "loss", "batch", "rate", "weight_decay", "distill", "precision", "shift", "flip", "erase"),
    "calibrate_on",
}
# Heads alone need few passes.
EPOCHS = {"frozen": 10, "joint": 30}
# AdamW's usual rates: heads are shallow and take a higher one.
RATES = {"frozen": 3e-3, "joint": 1e-3}
WEIGHT_DECAY = {"frozen": 1e-4, "joint": 0.05}
BATCH, DISTILL = 128, 0.5


@click.command("train")
@click.argument("what", metavar="WORKSPACE|fashion|digits")
@click.option("--data", help="A folder or file of labelled data; for a recipe the folder with its files as downloaded.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of all that is random.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, or cuda:1 for the second GPU.")
@click.option("--epochs", type=click.IntRange(min=1), help="Passes.  [default: the recipe's; 10 for heads, 30 jointly]")
@click.option(
    "--from-weights", type=InputPath(), help="Recipe: take these and do not train. Workspace: begin with these."
)
@click.option("--restart", is_flag=True, help="Begin anew, where an interrupted run would be gone on with.")
@click.option("--trunk", type=click.Choice(["frozen", "joint"]), help="Heads alone, or everything.  [default: frozen]")
@click.option("--loss", type=click.Choice(["weighted", "balanced"]), help="How exits share a trunk that learns.")
@click.option("--distill", type=click.FloatRange(0, 10), help="Weight of what the last exit teaches.  [default: 0.5]")
@click.option("--batch", type=click.IntRange(min=1), help="Samples a step.  [default: 128]")
@click.option("--rate", type=Finite(), help="Highest rate of learning.  [default: 0.003 for heads, 0.001 jointly]")
@click.option("--weight-decay", type=click.FloatRange(0, 1), help="[default: 0.0001 for heads, 0.05 jointly]")
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="Of products.  [default: fp32]")
@click.option("--shift", type=click.IntRange(min=0), help="Move pictures by up to so many pixels.  [default: 0]")
@click.option("--flip", is_flag=True, default=None, help="Mirror half of the pictures.")
@click.option("--erase", type=click.IntRange(min=0), help="Blank a square of this side in half of them.  [default: 0]")
@click.option(
    "--calibrate-on",
    type=click.Choice(["train", "test"]),
    help="Part to hold samples out of; test where the trunk has seen all of train.  [default: train]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Directory of a recipe's bundle.  [default: ./RECIPE]")
@click.option("--replace", is_flag=True, default=None, help="An older bundle at --out may go.")
@json_option
def train_command(what: str, as_json: bool, **options: Any) -> None:
    """Train a workspace made by `delen attach`, or a shipped recipe.

    A workspace keeps its new weights; `delen export` makes a bundle of it, with the same --data, --seed and
    --calibrate-on. A recipe (fashion, digits) is trained, calibrated and exported in one go; a workspace of that name
    needs a slash (./fashion). An interrupted run goes on where it was. The same seed, torch and kind of CPU give the
    same network, on the same number of threads.
    """
    from ..exits.recipes import RECIPES

    given = {name for name, value in options.items() if value is not None}
    recipe = what in RECIPES
    strange = sorted(given & (OF_WORKSPACES if recipe else OF_RECIPES))
    if strange:
        kind = "a workspace, not for a recipe" if recipe else "a recipe, not for a workspace"
        raise click.UsageError(f"--{strange[0].replace('_', '-')} is for {kind}")
    if recipe:
        _train_recipe(what, as_json, options)
    else:
        _train_workspace(what, as_json, options)


def _train_recipe(recipe: str, as_json: bool, options: dict[str, Any]) -> None:
    from ..exits.making import Order, make_bundle
    from ..exits.recipes import RECIPES

    chosen = RECIPES[recipe]
    if options["epochs"] is not None:
        chosen = dataclasses.replace(chosen, plan=dataclasses.replace(chosen.plan, epochs=options["epochs"]))
    directory = options["out"] or Path(recipe)
    order = Order(
        recipe=chosen,
        out=directory,
        data=None if options["data"] is None else Path(options["data"]),
        seed=options["seed"],
        device=options["device"],
        weights=options["from_weights"],
        keep_weights=directory.with_name(f"{directory.name}.weights.npz") if options["from_weights"] is None else None,
        restart=options["restart"],
        replace=bool(options["replace"]),
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


def _train_workspace(what: str, as_json: bool, options: dict[str, Any]) -> None:
    from ..exits.recipes import RECIPES
    from ..exits.workspace import is_workspace
    from ..exits.workspace_training import WorkspaceOrder, train_workspace

    if not is_workspace(Path(what)):
        fault = f"{what} is no recipe ({', '.join(RECIPES)}) and no workspace"
        if "/" not in what and not Path(what).exists():
            raise click.UsageError(f"{fault}; make one with `delen attach SOURCE --out {what}`")
        raise CommandFailed(
            fault,
            ExitCode.NO_INPUT,
            "make a workspace first: delen attach SOURCE --out DIRECTORY",
        )
    if options["data"] is None:
        raise click.UsageError("a workspace needs --data, a folder or file of labelled data")
    order = WorkspaceOrder(
        workspace=Path(what),
        data=options["data"],
        plan=_plan(options),
        calibrate_on=options["calibrate_on"] or "train",
        weights=options["from_weights"],
        restart=options["restart"],
    )
    with progress() as bars:
        report = train_workspace(order, _shown_by(bars))
    if as_json:
        print_json({**report._asdict(), "directory": str(report.directory), "exits": _exit_rows(report)})
        return
    share = f"{count(report.trained_parameters)} of {count(report.parameters)} parameters trained"
    print_table(_exit_rows(report), _WORKSPACE_COLUMNS, f"{report.directory}  {share}")
    say(
        f"accuracy on {count(report.test_count)} test samples; trained on {count(report.train_count)}, "
        f"{count(report.calibration_count)} kept to calibrate on"
    )
    say(f"next: delen export {what} {_same_data(options)} --out {Path(what).name}.bundle")


def _plan(options: dict[str, Any]) -> FitPlan:
    from ..exits.fit_plan import Augmentation, FitPlan

    def chosen(name: str, default: Any) -> Any:
        return default if options[name] is None else options[name]

    trunk = chosen("trunk", "frozen")
    return FitPlan(
        epochs=chosen("epochs", EPOCHS[trunk]),
        batch=chosen("batch", BATCH),
        rate=chosen("rate", RATES[trunk]),
        weight_decay=chosen("weight_decay", WEIGHT_DECAY[trunk]),
        optimiser="adamw",
        trunk=trunk,
        loss=chosen("loss", "weighted"),
        distill=chosen("distill", DISTILL),
        augmentation=Augmentation(shift_px=chosen("shift", 0), flip=chosen("flip", False), erase_px=chosen("erase", 0)),
        precision=chosen("precision", "fp32"),
        seed=options["seed"],
        device=options["device"],
    )


def _same_data(options: dict[str, Any]) -> str:
    """What export must be told to hold out the same samples."""
    said = [f"--data {options['data']}"]
    if options["seed"]:
        said.append(f"--seed {options['seed']}")
    if options["calibrate_on"] == "test":
        said.append("--calibrate-on test")
    return " ".join(said)


def _shown_by(bars: Bars) -> OnProgress:
    """One bar per stage; the note beside it says where the stage is."""
    tasks: dict[str, TaskID] = {}

    def show(step: Progress) -> None:
        if step.stage == "resume":
            say(f"{step.note}; --restart would begin anew")
            return
        if step.stage not in tasks:
            tasks[step.stage] = bars.add_task(STAGES[step.stage], total=step.total)
        text = f"{STAGES[step.stage]:<11} {step.note}"
        bars.update(tasks[step.stage], completed=step.done, total=step.total, description=text)

    return show


def _exit_rows(report: WorkspaceReport) -> list[dict[str, Any]]:
    return [{"exit": index, **entry._asdict()} for index, entry in enumerate(report.exits)]


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
_WORKSPACE_COLUMNS = (
    Column("exit", "exit"),
    Column("before", "accuracy before", percent),
    Column("accuracy", "after", percent),
)
