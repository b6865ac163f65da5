"""`delen export`: a trained workspace and labelled data become a bundle that can be served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .tables import Column, count, json_option, percent, print_json, print_table, progress, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from ..exits.measured_bundle import Measured, Step

STAGES = {"graphs": "graphs", "calibrate": "calibrating", "test": "testing", "write": "writing"}


@click.command("export")
@click.argument("workspace", type=click.Path(path_type=Path), metavar="WORKSPACE")
@click.option("--data", required=True, metavar="DATA", help="Labelled data: a folder or .npz, as for `delen train`.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Directory of the new bundle.  [default: WORKSPACE.bundle]"
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="What the graphs compute in.",
)
@click.option("--symmetric", is_flag=True, help="int8 as TensorRT takes it: signed, without offsets; slower on x86.")
@click.option(
    "--calibrate-on",
    type=click.Choice(["train", "test"]),
    default="train",
    show_default=True,
    help="Part to hold calibration samples out of; `test` for a trunk that has seen the whole training part.",
)
@click.option("--name", help="What the network is called.  [default: the bundle's directory]")
@click.option("--licence", default="unstated", show_default=True, help="Of the network and the data it learned from.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="That of training.")
@click.option("--threads", type=click.IntRange(1, 256), default=2, show_default=True, help="To run the graphs with.")
@click.option("--replace", is_flag=True, help="An older bundle at --out may go.")
@json_option
def export_command(workspace: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Export a network that `delen attach` made and `delen train` trained.

    Its graphs are compared with PyTorch on real inputs, then run on the held-out part of DATA: temperatures,
    accuracies and the calibration record are those of the graphs as they will be served. The bundle appears whole or
    not at all. `delen serve --network DIR` serves it.
    """
    from ..exits.measured_bundle import Measuring
    from ..exits.workspace_export import BUNDLE_SUFFIX, ExportOrder, export_workspace

    order = ExportOrder(
        workspace=workspace,
        out=out or workspace.with_name(workspace.name + BUNDLE_SUFFIX),
        measuring=Measuring(seed=options.pop("seed"), threads=options.pop("threads")),
        **options,
    )
    try:
        with progress() as bars:
            measured = export_workspace(order, shown_by(bars))
    except FileExistsError as error:
        raise CommandFailed(str(error), ExitCode.CANNOT_CREATE, "an older bundle goes with --replace") from error
    show_measured(measured, as_json)


def shown_by(bars: Bars) -> Callable[[Step], None]:
    """One bar per stage."""
    tasks: dict[str, TaskID] = {}

    def show(step: Step) -> None:
        if step.stage not in tasks:
            tasks[step.stage] = bars.add_task(STAGES[step.stage], total=step.total)
        bars.update(tasks[step.stage], completed=step.done, total=step.total)

    return show


def show_measured(measured: Measured, as_json: bool) -> None:
    """What was made and what its exits are worth, as a table or as JSON."""
    summary = _summary(measured)
    if as_json:
        print_json(summary)
        return
    manifest = measured.bundle.manifest
    directory = measured.bundle.directory
    print_table(summary["exits"], _COLUMNS, f"{directory}  {manifest.precision}  {summary['bytes'] / 1e6:.2f} MB")
    say(f"calibrated on {count(summary['calibration_count'])} samples by the graphs as they are served")
    say(f"serve it with `delen serve --dev --network {directory}`")


def _summary(measured: Measured) -> dict[str, Any]:
    bundle, result = measured.bundle, measured.calibrated
    record = bundle.calibration()
    columns = (bundle.manifest.exits, result.accuracies, measured.tested, result.temperatures)
    names = ("calibration_accuracy", "test_accuracy", "temperature")
    exits = [
        {"exit": index, "gmac": entry.gmac, **dict(zip(names, row, strict=True))}
        for index, (entry, *row) in enumerate(zip(*columns, strict=True))
    ]
    return {
        "directory": str(bundle.directory),
        "digest": bundle.digest,
        "precision": bundle.manifest.precision,
        "bytes": sum(path.stat().st_size for path in bundle.directory.iterdir() if path.is_file()),
        "calibration_count": 0 if record is None else len(record.fit),
        "exits": exits,
    }


_COLUMNS = (
    Column("exit", "exit"),
    Column("gmac", "GMAC", "{:.4f}".format),
    Column("calibration_accuracy", "held-out accuracy", percent),
    Column("test_accuracy", "test accuracy", percent),
    Column("temperature", "temperature", "{:.3f}".format),
)
