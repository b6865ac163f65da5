"""Everything around a training run: where it may write, what it can go on from, its log, and its progress.

Flow: `follow(network, data, plan, ...)` -> goes on from the checkpoint where there is one -> `Progress` for whoever
watches, one line per epoch in the log -> trained network. The caller keeps the weights and then removes the checkpoint
(`Notes.forget`), so that a fault in between costs nothing.

Does not: know recipes or workspaces (`making.py`, `workspace_training.py`), or print.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import torch

from ..clients.durable import write_whole
from .checkpoint import Checkpoint
from .datasets import Split
from .fit_plan import FitPlan
from .multi_exit import MultiExit
from .predict import Prepare
from .runner import EngineFault
from .train import Epoch, fit

Stage = Literal["resume", "train", "calibrate", "export"]


class PlaceError(OSError):
    """Nothing can be written where the result should go."""


class Progress(NamedTuple):
    """`done` of `total` steps of a stage; `note` says what there is to say, e.g. the loss.

    `resume` comes once, before `train`, where a training goes on that was interrupted.
    """

    stage: Stage
    done: int
    total: int
    note: str


OnProgress = Callable[[Progress], None]


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch in the log. `epoch` counts from 1. `losses`: each trained exit's cross entropy; `loss`: what was
    minimised; `accuracies`: every exit's on up to 2,000 test samples; `rate`: of learning, at the end.
    """

    epoch: int
    loss: float
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    rate: float
    seconds: float


class Notes:
    """The two files that a training leaves while it runs: its checkpoint, and its log of one JSON line per epoch.

    Args:
        checkpoint: None: it cannot be resumed. log: None: none is written.
        restart: forget what an earlier training left.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        checkpoint: Path | None,
        log: Path | None,
        *,
        restart: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.checkpoint = None if checkpoint is None else Checkpoint(checkpoint, clock=clock)
        self._log, self._clock = log, clock
        self._began_at_s = clock()
        if restart:
            self.forget()

    def begin(self) -> tuple[int, int]:
        """Epochs, and steps of the next, that an earlier run has done; its log is cut to these.

        Raises:
            CheckpointError: what it left is damaged.
        """
        done = (None if self.checkpoint is None else self.checkpoint.position()) or (0, 0)
        if self._log is not None:
            lines = self._log.read_text("utf-8").splitlines(keepends=True) if done[0] and self._log.is_file() else []
            write_whole(self._log, "".join(lines[: done[0]]).encode())
        self._began_at_s = self._clock()
        return done

    def add(self, epoch: Epoch) -> None:
        """Log a pass, once it is complete."""
        if self._log is None or epoch.accuracies is None:
            return
        now_s = self._clock()
        line = LogLine(
            epoch=epoch.index + 1,
            loss=epoch.loss,
            losses=epoch.losses,
            accuracies=epoch.accuracies,
            rate=epoch.rate,
            seconds=round(now_s - self._began_at_s, 3),
        )
        self._began_at_s = now_s
        with self._log.open("ab") as stream:
            stream.write(msgspec.json.encode(line) + b"\n")

    def forget(self) -> None:
        """The checkpoint has served."""
        if self.checkpoint is not None:
            self.checkpoint.remove()


class Task(NamedTuple):
    """What `follow` trains: see `train.fit`."""

    network: MultiExit
    data: Split
    plan: FitPlan
    prepare: Prepare


def follow(task: Task, notes: Notes, on_progress: OnProgress) -> MultiExit:
    """Train, going on from the checkpoint if there is one.

    Raises:
        PlanError, CheckpointError, TrainingError: see `train.fit`.
    """
    epochs, steps = notes.begin()
    if epochs or steps:
        text = f"going on after {epochs} of {task.plan.epochs} epochs and {steps} steps of an interrupted run"
        on_progress(Progress("resume", epochs, task.plan.epochs, text))
    progress = fit(task.network, task.data, task.plan, prepare=task.prepare, checkpoint=notes.checkpoint)
    while True:
        try:
            epoch = next(progress)
        except StopIteration as end:
            network: MultiExit = end.value
            return network
        notes.add(epoch)
        done = epoch.index * epoch.steps_total + epoch.steps
        note = f"epoch {epoch.index + 1} of {epoch.count}, loss {epoch.loss:.4f}"
        on_progress(Progress("train", done, epoch.count * epoch.steps_total, note))


def try_place(folder: Path) -> None:
    """Write and forget: training takes up to an hour, and would be lost where its result cannot be kept.

    Raises:
        PlaceError: nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise PlaceError(f"nothing can be written in {folder}: {error.strerror}; choose another place") from error


def check_device(name: str) -> None:
    """Raises EngineFault where PyTorch could not train on it."""
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise EngineFault("device", f"no device {name!r}; expected cpu, cuda, or cuda:1 for the second GPU")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise EngineFault("device", f"no device {name!r}: this PyTorch sees {torch.cuda.device_count()} GPUs; use cpu")
