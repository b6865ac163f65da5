"""`delen calibrate`: temperatures and certificates for the data a network really sees, on this device's engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .exit_codes import CommandFailed, ExitCode
from .tables import Column, count, json_option, percent, print_json, print_table, progress, say, warn

if TYPE_CHECKING:
    from ..clients.wire import Array
    from ..exits.bundle import Bundle
    from ..exits.calibrate import CalibrationResult


@click.command("calibrate")
@click.argument("network")
@click.option("--data", required=True, help="Folder or file with labelled data, or `fashion` or `digits`.")
@click.option(
    "--part",
    type=click.Choice(["calibration", "test", "all"]),
    default="calibration",
    show_default=True,
    help="Of the data; `all` only if the network was trained on none of it.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of what is held out.")
@click.option("--engine", type=click.Choice(["onnx", "torch", "tensorrt"]), default="onnx", show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, or cuda with torch and tensorrt.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of the engine.")
@click.option("--state-dir", type=click.Path(path_type=Path, file_okay=False), help="Where calibrations are kept.")
@json_option
def calibrate_command(network: str, data: str, as_json: bool, **options: Any) -> None:
    """Calibrate NETWORK (a name, or a bundle's directory) on labelled data it was not trained on.

    Overrides what the bundle ships, from the daemon's next start on; the bundle stays as it is. An .npz file of one
    `x` and `y` is taken whole.
    """
    from ..daemon.labelled import find_network, read_inputs
    from ..exits.calibrations import find_own, keep, own_path
    from ..exits.runner import EngineFault
    from ..profiles.store import state_directory

    state = state_directory(os.environ, os.getuid(), flag=options["state_dir"])
    bundle = find_network(network, state)
    before = find_own(state, bundle)
    inputs = read_inputs(bundle, data, options["part"], options["seed"])
    try:
        result = _calibrate(bundle, inputs.values, inputs.labels, options)
    except ValueError as error:
        raise CommandFailed(str(error), ExitCode.BAD_DATA) from error
    except EngineFault as fault:
        if fault.kind != "output":
            raise
        hint = "the data is sound, so the network is not: train and export it again"
        raise CommandFailed(str(fault), ExitCode.BAD_DATA, hint) from fault
    try:
        path = keep(state, bundle, result.file)
    except OSError as error:
        where = own_path(state, bundle)
        hint = "make room, or name another place with --state-dir"
        raise CommandFailed(f"cannot write {where}: {error.strerror}", ExitCode.CANNOT_CREATE, hint) from error
    if result.missing:
        names = ", ".join(bundle.manifest.classes[index] for index in result.missing[:6])
        warn(f"no sample of {len(result.missing)} classes ({names}): the certificate says nothing of inputs like them")
    rows = _rows(bundle, result)
    if as_json:
        told = {"network": bundle.manifest.name, "bundle": bundle.digest, "path": str(path)}
        print_json({**told, "samples": len(inputs.labels), "missing": result.missing, "exits": rows})
        return
    print_table(rows, _COLUMNS, f"{bundle.manifest.name}, {count(len(inputs.labels))} samples of {data}")
    say(f"written to {path}; overrides {before.path if before else 'what the bundle ships'} once the daemon restarts")
    say(f"what it certifies: delen certify {network} --accuracy {max(0.01, result.accuracies[-1] - 0.01):.3f}")


def _calibrate(bundle: Bundle, values: Array, labels: Array, options: dict[str, Any]) -> CalibrationResult:
    """Run everything on the engine that will serve, and calibrate. Raises ValueError: the data does not serve."""
    from ..daemon.engines import make_runner
    from ..daemon.labelled import run_all
    from ..exits.calibrate import calibrate

    runner = make_runner(options["engine"], options["device"], options["threads"])
    with progress() as bars:
        bar = bars.add_task(f"running {bundle.manifest.name}", total=len(labels))
        logits = run_all(runner, bundle, values, lambda done: bars.update(bar, completed=done))
    return calibrate(logits, labels, seed=options["seed"], own=True)


def _rows(bundle: Bundle, result: CalibrationResult) -> list[dict[str, Any]]:
    columns = (result.accuracies, result.temperatures, result.error_before, result.error)
    return [
        {
            "exit": index,
            "accuracy": accuracy,
            "shipped_accuracy": entry.accuracy,
            "temperature": temperature,
            "shipped_temperature": entry.temperature,
            "error_before": before,
            "error": after,
        }
        for index, (entry, accuracy, temperature, before, after) in enumerate(
            zip(bundle.manifest.exits, *columns, strict=True)
        )
    ]


_COLUMNS = (
    Column("exit", "exit"),
    Column("accuracy", "accuracy", percent),
    Column("shipped_accuracy", "as shipped", percent),
    Column("temperature", "temperature", "{:.3f}".format),
    Column("shipped_temperature", "as shipped", "{:.3f}".format),
    Column("error_before", "calibration error before", percent),
    Column("error", "after", percent),
)
