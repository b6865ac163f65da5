"""The whole way from a recipe to a bundle: train, keep the weights, calibrate, export, and report on the test part.

Flow: `make_bundle(order, on_progress)` -> `TrainReport`; `delen train` shows both. The trained weights are saved as
soon as they exist, so that a fault later on costs minutes and not the hour of training: an order with `weights` starts
from them.

Does not: define networks (`recipes.py`), print, or choose anything by looking at the test part.
"""

from __future__ import annotations

import dataclasses
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..clients.info import Preprocessing
from .bundle_writer import Description, refuse_overwrite
from .calibrate import CalibrationResult, calibrate
from .checkpoint import write_arrays
from .datasets import Labelled, Split, load
from .export import export_network
from .manifest import ExitEntry, TensorShape
from .multi_exit import MultiExit
from .predict import predict
from .recipes import Recipe, normalise
from .training import Notes, OnProgress, Progress, Task, check_device, follow, try_place
from .weights_file import WeightsError


class Order(NamedTuple):
    """What to make, and where.

    `out`: the bundle's directory. `data`: folder of the data set's files, None looks in the usual places.
    `weights`: take these, saved by an earlier order, instead of training. `keep_weights`: where to save them once
    trained; beside it lie the log and, while training, the checkpoint. `restart`: forget an interrupted training.
    `replace`: an older bundle at `out` may go.
    """

    recipe: Recipe
    out: Path
    data: Path | None = None
    seed: int = 0
    device: str = "cpu"
    weights: Path | None = None
    keep_weights: Path | None = None
    restart: bool = False
    replace: bool = False


class ExitReport(NamedTuple):
    """One exit. `error`: expected calibration error on samples that the temperature was not chosen on, before it and
    after. `test_accuracy`: share right on the data set's own test part.
    """

    calibration_accuracy: float
    test_accuracy: float
    temperature: float
    error_before: float
    error: float


class TrainReport(NamedTuple):
    """What was made. `bytes`: size of the bundle's files together."""

    directory: Path
    digest: str
    bytes: int
    parameters: int
    calibration_count: int
    test_count: int
    exits: tuple[ExitReport, ...]


def make_bundle(order: Order, on_progress: OnProgress) -> TrainReport:
    """Make one bundle.

    Raises:
        FileNotFoundError: the data set is not there.
        FileExistsError: something at `order.out` is in the way; this and the next two are found out before training.
        PlaceError: nothing can be written there.
        EngineFault: `device`: there is no such device.
        WeightsError: `order.weights` do not belong to the recipe.
        CheckpointError: the checkpoint is damaged or of another training.
        ExportError: the exported graphs do not give what PyTorch gives.
    """
    recipe = order.recipe
    refuse_overwrite(order.out, replace=order.replace)
    for place in {order.out, order.keep_weights or order.out}:
        try_place(place.parent)
    check_device(order.device)
    split = load(recipe.name, order.data, seed=order.seed)
    network = _obtain(order, split, on_progress)
    on_progress(Progress("calibrate", 0, 1, f"{len(split.calibration.labels)} held-out images"))
    logits = _logits(network, recipe, split.calibration)
    result = calibrate(logits, split.calibration.labels, seed=order.seed)
    on_progress(Progress("calibrate", 1, 1, "temperatures chosen"))
    test_logits = _logits(network, recipe, split.test)
    tested = [float(share) for share in (test_logits.argmax(2) == split.test.labels).mean(axis=1)]
    on_progress(Progress("export", 0, 1, f"{len(network.segments)} segments and heads"))
    bundle = export_network(
        network,
        _describe(order, result, split, tested),
        normalise(recipe, split.calibration.images[:256]),
        order.out,
        calibration=result.file,
        replace=order.replace,
    )
    on_progress(Progress("export", 1, 1, str(bundle.directory)))
    columns = (result.accuracies, tested, result.temperatures, result.error_before, result.error)
    return TrainReport(
        directory=bundle.directory,
        digest=bundle.digest,
        bytes=sum(path.stat().st_size for path in bundle.directory.iterdir() if path.is_file()),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        calibration_count=len(split.calibration.labels),
        test_count=len(split.test.labels),
        exits=tuple(ExitReport(*row) for row in zip(*columns, strict=True)),
    )


def save_weights(network: MultiExit, path: Path) -> None:
    """Save a network's weights as plain arrays; the file is there whole or not at all."""
    write_arrays(path, {name: tensor.numpy() for name, tensor in network.state_dict().items()})


def load_weights(recipe: Recipe, path: Path) -> MultiExit:
    """A recipe's network with weights from `save_weights`. Raises WeightsError where they are not this network's."""
    network = recipe.build()
    # numpy takes anything else for a pickle, and its message advises to load that.
    if path.is_file() and not zipfile.is_zipfile(path):
        raise WeightsError(f"{path} does not hold weights of recipe {recipe.name}: it is no .npz file; train again")
    try:
        with np.load(path, allow_pickle=False) as archive:
            state = {name: torch.from_numpy(archive[name]) for name in archive.files}
        network.load_state_dict(state)
    except (OSError, RuntimeError, ValueError, TypeError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path} does not hold weights of recipe {recipe.name}: {reason}; train again") from error
    return network.eval()


def _obtain(order: Order, split: Split, on_progress: OnProgress) -> MultiExit:
    recipe, kept = order.recipe, order.keep_weights
    if order.weights is not None:
        return load_weights(recipe, order.weights)
    torch.manual_seed(order.seed)
    network = recipe.build()
    # Building and training draw from one stream of random numbers.
    plan = dataclasses.replace(recipe.plan, seed=None, device=order.device)
    stem = None if kept is None else kept.with_name(kept.name.removesuffix(".npz").removesuffix(".weights"))
    notes = Notes(
        None if stem is None else stem.with_name(f"{stem.name}.checkpoint.npz"),
        None if stem is None else stem.with_name(f"{stem.name}.train.jsonl"),
        restart=order.restart,
    )
    network = follow(Task(network, split, plan, partial(normalise, recipe)), notes, on_progress)
    if kept is not None:
        save_weights(network, kept)
    notes.forget()
    return network


def _logits(network: MultiExit, recipe: Recipe, part: Labelled) -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = predict(network, normalise(recipe, part.images)).numpy()
    return logits


def _describe(order: Order, result: CalibrationResult, split: Split, tested: list[float]) -> Description:
    recipe = order.recipe
    rates = " ".join(f"{share:.4f}" for share in tested)
    errors = " ".join(f"{error:.4f}" for error in result.error)
    return Description(
        name=recipe.name,
        version=recipe.version,
        licence=recipe.licence,
        classes=recipe.classes,
        input=TensorShape(dtype="float32", shape=recipe.shape),
        preprocessing=Preprocessing(
            colour="gray" if recipe.shape[0] == 1 else "rgb", scale=1 / 255, mean=(recipe.mean,), std=(recipe.std,)
        ),
        exits=tuple(
            ExitEntry(accuracy=round(accuracy, 6), temperature=temperature)
            for accuracy, temperature in zip(result.accuracies, result.temperatures, strict=True)
        ),
        provenance={
            "data": recipe.data,
            "recipe": f"{recipe.name} {recipe.version}",
            "epochs": str(recipe.plan.epochs),
            "seed": str(order.seed),
            "torch": torch.__version__,
            "test_accuracy": f"{rates} by exit, on {len(split.test.labels)} test images",
            "calibration_error": f"{errors} by exit, on the half that no temperature was chosen on",
        },
    )
