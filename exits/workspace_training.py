"""Train what `delen attach` made, in its own directory.

Flow: `train_workspace(order)` -> load the workspace -> read the data and check that it fits -> `training.follow` ->
weights back into the workspace in one step -> `WorkspaceReport`. While it runs, `train.checkpoint.npz` lies beside the
weights; `train.jsonl`, its log, stays there. What the exits will be calibrated on is held out here already and never
trained on: export must open the data with the same seed and the same `calibrate_on`, so the weights' notes say both.

Does not: calibrate, export, or print.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from .data_files import CALIBRATION_COUNT_MIN, check_split, open_data
from .datasets import CalibrateOn, DataError, Split
from .fit_plan import FitPlan
from .multi_exit import MultiExit
from .predict import Prepare, predict, preparation
from .training import Notes, OnProgress, Task, check_device, follow, try_place
from .weights_file import read_weights
from .workspace import fill, load_workspace, save_trained

CHECKPOINT, LOG = "train.checkpoint.npz", "train.jsonl"


class WorkspaceOrder(NamedTuple):
    """What to train, on what, and how.

    `data`: see `open_data`. `weights`: begin with these, .npz or .safetensors of the whole network. `restart`: forget
    an interrupted training. The seed of `plan` also draws what is held out; its `last_head` is the workspace's.
    """

    workspace: Path
    data: str | Path
    plan: FitPlan
    calibrate_on: CalibrateOn = "train"
    weights: Path | None = None
    restart: bool = False


class WorkspaceExit(NamedTuple):
    """One exit. `accuracy`: share right on the whole test part, before and after."""

    before: float
    accuracy: float


class WorkspaceReport(NamedTuple):
    """What was trained. `trained_parameters`: how many numbers could change."""

    directory: Path
    train_count: int
    calibration_count: int
    test_count: int
    parameters: int
    trained_parameters: int
    exits: tuple[WorkspaceExit, ...]


def train_workspace(order: WorkspaceOrder, on_progress: OnProgress) -> WorkspaceReport:
    """Train a workspace and put the weights into it.

    Raises:
        FileNotFoundError: there is no workspace, or no data.
        WorkspaceError, WeightsError, AttachError: the workspace, or `order.weights`, cannot be used.
        DataError: the data cannot be read or does not fit; said before training, as the next three.
        PlanError, CheckpointError: the plan does not suit, the checkpoint is of another training.
        EngineFault: no such device. PlaceError: the workspace cannot be written.
        TrainingError: the loss is no number any more.
    """
    check_device(order.plan.device)
    place = order.workspace
    workspace = load_workspace(place)
    try_place(place)
    network = workspace.network
    if order.weights is not None:
        fill(network, read_weights(order.weights).tensors, str(order.weights))
    seed = order.plan.seed or 0
    if order.weights is None:
        # What an earlier training has seen is still in the weights.
        refuse_other_split(workspace.provenance, seed, order.calibrate_on)
    split = open_data(order.data, seed, shape=workspace.input.shape, calibrate_on=order.calibrate_on)
    check_split(
        split,
        workspace.classes,
        shape=workspace.input.shape,
        dtype=workspace.input.dtype,
        calibration_count_min=CALIBRATION_COUNT_MIN,
    )
    prepare = preparation(workspace.preprocessing, workspace.input.dtype)
    before = accuracies(network, split, prepare)
    plan = dataclasses.replace(order.plan, last_head="trained" if workspace.new_last_head else "kept")
    notes = Notes(place / CHECKPOINT, place / LOG, restart=order.restart)
    network = follow(Task(network, split, plan, prepare), notes, on_progress)
    after = accuracies(network, split, prepare)
    save_trained(place, network, _notes(order, split, after))
    notes.forget()
    learners = network.heads[: len(network.heads) - (plan.last_head == "kept")] if plan.trunk == "frozen" else network
    return WorkspaceReport(
        directory=place,
        train_count=len(split.train.labels),
        calibration_count=len(split.calibration.labels),
        test_count=len(split.test.labels),
        parameters=sum(one.numel() for one in network.parameters()),
        trained_parameters=sum(one.numel() for one in learners.parameters()),
        exits=tuple(WorkspaceExit(*pair) for pair in zip(before, after, strict=True)),
    )


def refuse_other_split(notes: Mapping[str, str], seed: int, calibrate_on: CalibrateOn) -> None:
    """Refuse to calibrate a trained workspace on samples that it may have been trained on.

    Args:
        notes: the workspace's provenance; says nothing of it where the workspace was not trained here.
    Raises:
        DataError: with the options that hold out the same samples.
    """
    if "data_seed" not in notes or calibrate_on == "test":
        return
    trained = (notes["data_seed"], notes.get("calibrate_on", "train"))
    if trained != (str(seed), calibrate_on):
        raise DataError(
            "the samples to calibrate on would be some that the network was trained on, and no certificate from them "
            f"holds; it was trained with --seed {trained[0]} --calibrate-on {trained[1]}: give the same"
        )


def accuracies(network: MultiExit, split: Split, prepare: Prepare) -> tuple[float, ...]:
    """Share of the test part that each exit gets right."""
    right = predict(network, split.test.images, prepare=prepare).argmax(2) == torch.from_numpy(split.test.labels)
    return tuple(right.double().mean(dim=1).tolist())


def _notes(order: WorkspaceOrder, split: Split, tested: tuple[float, ...]) -> dict[str, str]:
    plan = order.plan
    rates = " ".join(f"{share:.4f}" for share in tested)
    return {
        "data": str(order.data),
        "data_seed": str(plan.seed or 0),
        "calibrate_on": order.calibrate_on,
        "training": f"{plan.trunk} trunk, {plan.loss} loss, {plan.epochs} epochs of {len(split.train.labels)} samples",
        "torch": str(torch.__version__),
        "test_accuracy": f"{rates} by exit, on {len(split.test.labels)} test samples",
    }
