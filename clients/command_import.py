"""`delen import`: a network as Dělen released it becomes a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command_export import shown_by
from .exit_codes import CommandFailed, ExitCode
from .tables import Column, json_option, percent, print_json, print_table, progress, say

if TYPE_CHECKING:
    from .info import Preprocessing


@click.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER")
@click.option(
    "--profile", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Dělen's profile, JSON."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory of the new bundle.")
@click.option("--network", metavar="NAME", help="Which one, where FOLDER holds several: what its files begin with.")
@click.option("--data", metavar="DATA", help="Labelled data to calibrate on; without, accuracy is the profile's word.")
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="Names of the classes, one a line.")
@click.option("--mean", type=float, multiple=True, help="Taken off each channel; once, or three times.")
@click.option("--std", type=float, multiple=True, help="Divides each channel; as often as --mean.")
@click.option("--scale", type=float, default=1 / 255, help="Multiplies pixels first.  [default: 1/255]")
@click.option("--colour", type=click.Choice(["rgb", "gray"]), default="rgb", show_default=True)
@click.option("--licence", default="unstated", show_default=True, help="Of the network and the data it learned from.")
@click.option("--replace", is_flag=True, help="An older bundle at --out may go.")
@json_option
def import_command(folder: Path, as_json: bool, profile: Path, **options: Any) -> None:
    """Make a bundle of FOLDER/*_net00.onnx, *_net01.onnx, ... and their profile.

    Each graph is cut into its segment and its head, weights are brought inside, and the batch is opened where the graph
    allows it; the bundle is compared with the graphs as they came. Without --data there is nothing to certify
    accuracy with: bounds then rest on the profile's figures and answers say `uncertified`.
    """
    from ..exits.import_delen import ImportOrder, import_delen
    from ..profiles.imported import read_imported

    figures = read_imported(profile)
    order = ImportOrder(
        folder=folder,
        out=options["out"],
        network=options["network"],
        accuracies=tuple(one.accuracy for one in figures.exits),
        gmac=figures.gmac,
        classes=None if options["labels"] is None else _labels(options["labels"]),
        preprocessing=_preprocessing(options),
        licence=options["licence"],
        data=options["data"],
        replace=options["replace"],
    )
    try:
        with progress() as bars:
            bundle = import_delen(order, shown_by(bars))
    except FileExistsError as error:
        raise CommandFailed(str(error), ExitCode.CANNOT_CREATE, "an older bundle goes with --replace") from error
    rows = [
        {"exit": index, "gmac": entry.gmac, "accuracy": entry.accuracy}
        for index, entry in enumerate(bundle.manifest.exits)
    ]
    if as_json:
        print_json({"directory": str(bundle.directory), "digest": bundle.digest, "exits": rows})
        return
    print_table(rows, _COLUMNS, f"{bundle.directory}  {bundle.manifest.name}")
    say(f"accuracy: {bundle.manifest.provenance['accuracy']}")
    say(f"serve it with `delen serve --dev --network {bundle.directory}`")


def _preprocessing(options: dict[str, Any]) -> Preprocessing:
    from .info import Preprocessing

    mean, std = options["mean"] or (0.0,), options["std"] or (1.0,)
    if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        raise click.UsageError("give --mean and --std once each or three times each, --std above 0")
    return Preprocessing(colour=options["colour"], scale=options["scale"], mean=mean, std=std)


def _labels(path: Path) -> tuple[str, ...]:
    return tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())


_COLUMNS = (Column("exit", "exit"), Column("gmac", "GMAC", "{:.3f}".format), Column("accuracy", "accuracy", percent))
