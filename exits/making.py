"""The whole way from a recipe to a bundle: train, keep the weights, calibrate, export, and report on the test part.

Flow: `make_bundle(order, on_progress)` -> `TrainReport`; `delen train` shows both. The trained weights are saved as
soon as they exist, so that a fault later on costs minutes and not the hour of training: an order with `weights` starts
from them.

Does not: define networks (`recipes.py`), print, or choose anything by looking at the test part.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ..clients.wire import Preprocessing
from .bundle_writer import Description, refuse_overwrite
from .calibrate import CalibrationResult, calibrate
from .datasets import Labelled, Split, load
from .export import export_network
from .manifest import ExitEntry, TensorShape
from .recipes import MultiExit, Recipe
from .runner import EngineFault
from .train import normalise, predict, train

Stage = Literal["train", "calibrate", "export"]


class WeightsError(ValueError):
    """A file of weights is unreadable or another network's; the text says which file and why."""


class PlaceError(OSError):
    """Nothing can be written where the bundle or its weights should go."""


class Order(NamedTuple):
    """What to make, and where.

    `out`: the bundle's directory. `data`: folder of the data set's files, None looks in the usual places.
    `weights`: take these, saved by an earlier order, instead of training. `keep_weights`: where to save them once
    trained. `replace`: an older bundle at `out` may go.
    """

    recipe: Recipe
    out: Path
    data: Path | None = None
    seed: int = 0
    device: str = "cpu"
    weights: Path | None = None
    keep_weights: Path | None = None
    replace: bool = False


class Progress(NamedTuple):
    """`done` of `total` steps of a stage; `note` says what there is to say, e.g. the loss."""

    stage: Stage
    done: int
    total: int
    note: str


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


def make_bundle(order: Order, on_progress: Callable[[Progress], None]) -> TrainReport:
    """Make one bundle.

    Raises:
        FileNotFoundError: the data set is not there.
        FileExistsError: something at `order.out` is in the way; this and the next two are found out before training.
        PlaceError: nothing can be written there.
        EngineFault: `device`: there is no such device.
        WeightsError: `order.weights` do not belong to the recipe.
        ExportError: the exported graphs do not give what PyTorch gives.
    """
    recipe = order.recipe
    refuse_overwrite(order.out, replace=order.replace)
    for place in {order.out, order.keep_weights or order.out}:
        _try_place(place.parent)
    _check_device(order.device)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    # Any: numpy's own types take `**` for the switch `allow_pickle`, which older ones do not know.
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    handle, hidden = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **arrays)
        Path(hidden).replace(path)
    finally:
        Path(hidden).unlink(missing_ok=True)


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


def _obtain(order: Order, split: Split, on_progress: Callable[[Progress], None]) -> MultiExit:
    if order.weights is not None:
        return load_weights(order.recipe, order.weights)
    progress = train(order.recipe, split.train, seed=order.seed, device=order.device)
    while True:
        try:
            epoch = next(progress)
        except StopIteration as end:
            network: MultiExit = end.value
            break
        done = epoch.index * epoch.steps_total + epoch.steps
        note = f"epoch {epoch.index + 1} of {epoch.count}, loss {epoch.loss:.4f}"
        on_progress(Progress("train", done, epoch.count * epoch.steps_total, note))
    if order.keep_weights is not None:
        save_weights(network, order.keep_weights)
    return network


def _try_place(folder: Path) -> None:
    """Write and forget: training takes up to an hour, and would be lost where its result cannot be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PlaceError(f"nothing can be written in {folder}: {error.strerror}; choose another place") from error


def _check_device(name: str) -> None:
    """Raises EngineFault where PyTorch could not train on it."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise EngineFault("device", f"no device {name!r}; expected cpu, cuda, or cuda:1 for the second GPU")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise EngineFault("device", f"no device {name!r}: this PyTorch sees {torch.cuda.device_count()} GPUs; use cpu")


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
            "epochs": str(recipe.epochs),
            "seed": str(order.seed),
            "torch": torch.__version__,
            "test_accuracy": f"{rates} by exit, on {len(split.test.labels)} test images",
            "calibration_error": f"{errors} by exit, on the half that no temperature was chosen on",
        },
    )
