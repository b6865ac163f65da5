"""What survives of a training that was killed: its whole state in one file, and its log.

Flow: `fit` -> `Checkpoint.save` at least once an epoch and once a minute -> killed -> `Checkpoint.restore` -> `fit`
goes on with the very step it would have taken, so that the result is the same bit for bit on a CPU. The file holds
weights, their average, the optimiser's memory, the schedule, the random generators and the order of this epoch's
samples: plain arrays (.npz) and one JSON text, never a pickle. It is there whole or not at all.

Does not: keep older states, or decide when training ends.
"""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..clients.durable import write_whole
from ..clients.wire import Array

EVERY_S = 60.0


class CheckpointError(ValueError):
    """A checkpoint that is damaged, or of another training; the text says which and what to do."""


class Header(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is not an array. `of`: what training this is of, see `train.fit`. `epoch`, `step`: done so far."""

    of: dict[str, Any]
    epoch: int
    step: int
    sums: list[float]
    schedule: dict[str, Any]
    groups: list[dict[str, Any]]
    scaler: dict[str, Any]


@dataclass
class TrainingState:
    """All that changes while training. `sums`: of the loss and each exit's own over `step` steps of this epoch.

    `order`: this epoch's samples, in the order they are taken; `first_order`: the first epoch's.
    """

    learner: nn.Module
    averaged: AveragedModel
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    scaler: torch.amp.GradScaler
    order: Tensor
    first_order: Tensor
    sums: list[float]
    epoch: int = 0
    step: int = 0


class Checkpoint:
    """One file that holds the newest state.

    Args:
        every_s: how old it may become inside an epoch.
        clock: seconds, monotonic.
    """

    def __init__(self, path: Path, *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self._every_s = every_s
        self._clock = clock
        self._saved_at_s = clock()

    def is_due(self) -> bool:
        """Whether the last one is so old that the next should not wait for the end of the epoch."""
        return self._clock() - self._saved_at_s >= self._every_s

    def position(self) -> tuple[int, int] | None:
        """Epochs and steps of the next one that are done; None where there is no checkpoint.

        Raises:
            CheckpointError: it is damaged.
        """
        found = self._read()
        return None if found is None else (found[0].epoch, found[0].step)

    def save(self, state: TrainingState, of: Mapping[str, Any]) -> None:
        """Replace the file by this state."""
        arrays = {f"learner/{name}": tensor for name, tensor in state.learner.state_dict().items()}
        arrays |= {f"averaged/{name}": tensor for name, tensor in state.averaged.state_dict().items()}
        memory = state.optimiser.state_dict()
        for index, entry in memory["state"].items():
            arrays |= {f"optimiser/{index}/{name}": value for name, value in entry.items() if value is not None}
        arrays |= {"order": state.order, "first_order": state.first_order, "random/cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            arrays["random/cuda"] = torch.cuda.get_rng_state()
        schedule = state.schedule.state_dict()
        header = Header(
            of=dict(of),
            epoch=state.epoch,
            step=state.step,
            sums=state.sums,
            schedule={name: schedule[name] for name in ("last_epoch", "_step_count", "_last_lr")},
            groups=memory["param_groups"],
            scaler=state.scaler.state_dict(),
        )
        write_arrays(
            self.path,
            {name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}
            | {"header": np.frombuffer(msgspec.json.encode(header), np.uint8)},
        )
        self._saved_at_s = self._clock()

    def restore(self, state: TrainingState, of: Mapping[str, Any]) -> bool:
        """Bring a state, fresh as `fit` makes it, to where the file was written; False where there is no file.

        Raises:
            CheckpointError: it is damaged, or of another training.
        """
        found = self._read()
        if found is None:
            return False
        header, arrays = found
        wanted = msgspec.json.decode(msgspec.json.encode(dict(of)))
        if header.of != wanted:
            differing = [name for name in sorted({*header.of, *wanted}) if header.of.get(name) != wanted.get(name)]
            was, is_now = header.of.get(differing[0]), wanted.get(differing[0])
            raise CheckpointError(
                f"{self.path} is of another training: {differing[0]} was {was!s:.60}, now {is_now!s:.60}; give the old "
                "settings to go on with it, or begin anew with --restart"
            )
        try:
            _put_back(state, header, arrays)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"{self.path} is damaged ({error!s:.120}); begin anew with --restart") from error
        return True

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)

    def _read(self) -> tuple[Header, dict[str, Array]] | None:
        if not self.path.is_file():
            return None
        try:
            # numpy takes anything else for a pickle.
            if not zipfile.is_zipfile(self.path):
                raise ValueError("it is no .npz file")
            with np.load(self.path, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            return msgspec.json.decode(arrays.pop("header").tobytes(), type=Header), arrays
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise CheckpointError(f"{self.path} is damaged ({error}); begin anew with --restart") from error


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write an .npz file; it is there whole or not at all."""
    # Any: numpy's own types take `**` for the switch `allow_pickle`, which older ones do not know.
    named: dict[str, Any] = dict(arrays)
    write_whole(path, lambda stream: np.savez(stream, **named))


def _put_back(state: TrainingState, header: Header, arrays: Mapping[str, Array]) -> None:
    def below(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith(prefix)}

    state.learner.load_state_dict(below("learner/"))
    state.averaged.load_state_dict(below("averaged/"))
    memory: dict[int, dict[str, Tensor]] = {}
    for name, tensor in below("optimiser/").items():
        index, _, key = name.partition("/")
        memory.setdefault(int(index), {})[key] = tensor
    state.optimiser.load_state_dict({"state": memory, "param_groups": header.groups})
    state.schedule.load_state_dict(header.schedule)
    state.scaler.load_state_dict(header.scaler)
    state.order, state.first_order = (torch.from_numpy(arrays[name]) for name in ("order", "first_order"))
    state.epoch, state.step, state.sums = header.epoch, header.step, list(header.sums)
    torch.set_rng_state(torch.from_numpy(arrays["random/cpu"]))
    if "random/cuda" in arrays and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(arrays["random/cuda"]))
