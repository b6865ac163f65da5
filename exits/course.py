"""One training: a network, its data and its plan, as the parts of which `train.fit` makes steps.

Flow: `Course.begin` -> optimiser, schedule and averages -> `losses(rows)` for each batch -> `watch` after each pass.
Does not: loop, save, or know what came before.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .augment import augment
from .checkpoint import TrainingState
from .datasets import Split
from .fit_plan import FitPlan
from .frozen_trunk import FrozenTrunk, learning_part
from .losses import balanced_logits, cross_entropies, divergences, joint_loss
from .multi_exit import MultiExit
from .predict import Prepare, placed, predict

# The copy averages over the last twentieth of all steps: long enough to smooth, short enough to forget the high rates.
AVERAGED_SHARE = 0.05
# So many samples of the test part show each epoch's accuracy. Not of the calibration part: certificates rest on nobody
# having looked at it while the network could still change.
WATCHED_COUNT, WATCHED_BATCH = 2000, 500
REMEMBERED_BYTES_MAX = 256 * 1024**2


class Course:
    """One network, its data and plan: the parts of a step."""

    def __init__(self, network: MultiExit, data: Split, plan: FitPlan, prepare: Prepare) -> None:
        self.network, self.data, self.plan, self.prepare = network, data, plan, prepare
        self.device = torch.device(plan.device)
        self.steps = len(data.train.labels) // plan.batch
        self.weights = plan.exit_weights or (1.0,) * len(network.heads)
        kept = plan.trunk == "frozen" and plan.last_head == "kept"
        self.heads: list[nn.Module] = list(network.heads)[: len(network.heads) - kept]
        self.learner: nn.Module = network if plan.trunk == "joint" else nn.ModuleList(self.heads)
        self.labels = torch.from_numpy(data.train.labels)
        self.trunk: FrozenTrunk | None = None
        self._remembered: list[list[Tensor]] = []

    def begin(self) -> TrainingState:
        """Optimiser, schedule and averages as they are before the first step."""
        plan, parameters = self.plan, self.learner.parameters()
        total = plan.epochs * self.steps
        decay = 1 - 1 / max(1.0, AVERAGED_SHARE * total)
        averaged = AveragedModel(self.learner, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)  # type: ignore[no-untyped-call]
        optimiser: torch.optim.Optimizer
        if plan.optimiser == "sgd":
            optimiser = torch.optim.SGD(
                parameters, plan.rate, momentum=0.9, weight_decay=plan.weight_decay, nesterov=True
            )
        else:
            optimiser = torch.optim.AdamW(parameters, plan.rate, weight_decay=plan.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, plan.rate, total_steps=total, pct_start=0.2, final_div_factor=1e3
        )
        scaler = torch.amp.GradScaler(self.device.type, enabled=plan.precision == "fp16")
        return TrainingState(self.learner, averaged, optimiser, schedule, scaler, torch.empty(0), torch.empty(0), [])

    def set_modes(self, state: TrainingState) -> None:
        if self.plan.trunk == "joint":
            self.network.train()
            return
        if self.trunk is None:
            self.trunk = FrozenTrunk(
                self.network,
                self.heads,
                with_teacher=bool(self.plan.distill) and len(self.heads) < len(self.network.heads),
                order=() if self.plan.augmentation else torch.split(state.first_order, self.plan.batch),
                bytes_max=self.plan.kept_bytes_max,
            )
        # A trunk that trains would move its running statistics.
        self.network.eval()
        for head in self.heads:
            head.train()

    def inputs(self, rows: Tensor) -> Tensor:
        inputs = self.prepare(self.data.train.images[rows.numpy()])
        if self.plan.augmentation:
            inputs = augment(self.plan.augmentation, inputs)
        return placed(inputs, self.device)

    def losses(self, rows: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What is minimised, and the cross entropy of each exit that learns, for some rows of the data."""
        plan, target = self.plan, self.labels[rows].to(self.device)
        if self.trunk is not None:
            return self._head_losses(self.trunk, rows, target)
        inputs = self.inputs(rows)
        with self._autocast():
            logits = balanced_logits(self.network, inputs) if plan.loss == "balanced" else self.network(inputs)
        logits = logits.float()
        entropies = cross_entropies(logits, target)
        distilled = divergences(logits[:-1], logits[-1]) if plan.distill else []
        return joint_loss(entropies, distilled, self.weights, plan.distill), entropies

    def _head_losses(self, trunk: FrozenTrunk, rows: Tensor, target: Tensor) -> tuple[Tensor, list[Tensor]]:
        with self._autocast():
            *features, last = trunk.features(rows, self.inputs)
            taught = len(features) == len(self.heads)
            seen = features if taught else [*features, last]
            logits = [learning_part(head)(part).float() for head, part in zip(self.heads, seen, strict=True)]
        entropies = cross_entropies(logits, target)
        loss = torch.stack(entropies).sum()
        if self.plan.distill:
            pupils, teacher = (logits, last.float()) if taught else (logits[:-1], logits[-1])
            for divergence in divergences(pupils, teacher):
                loss = loss + self.plan.distill * divergence
        return loss, entropies

    @torch.inference_mode()
    def watch(self, averaged: AveragedModel) -> tuple[float, ...]:
        """Each exit's accuracy with the averaged weights."""
        learner, part = averaged.module, self.data.test
        if isinstance(learner, MultiExit):
            logits = predict(learner, part.images[:WATCHED_COUNT], prepare=self.prepare)
        else:
            assert isinstance(learner, nn.ModuleList)
            learner.eval()
            seen = [self._answers(learner, features) for features in self._watched_features()]
            logits = torch.cat(seen, dim=1).float().cpu()
        right = logits.argmax(2) == torch.from_numpy(part.labels[:WATCHED_COUNT])
        return tuple(right.float().mean(dim=1).tolist())

    def _answers(self, heads: nn.ModuleList, features: list[Tensor]) -> Tensor:
        """Logits of every exit, from what the learning part of each head takes; a head that is kept has answered."""
        own = [learning_part(head)(part) for head, part in zip(heads, features, strict=False)]
        return torch.stack([*own, *features[len(heads) :]])

    def _watched_features(self) -> Iterator[list[Tensor]]:
        """What heads see of the watched samples, batch by batch; remembered where that is little."""
        if self._remembered:
            yield from self._remembered
            return
        kept = len(self.heads) < len(self.network.heads)
        trunk = FrozenTrunk(self.network, self.heads, with_teacher=kept)
        images = self.data.test.images[:WATCHED_COUNT]
        for start in range(0, len(images), WATCHED_BATCH):
            inputs = self.prepare(images[start : start + WATCHED_BATCH])
            features = trunk.run(placed(inputs, self.device))
            if sum(part.nbytes for part in features) * len(images) <= REMEMBERED_BYTES_MAX * len(inputs):
                self._remembered.append(features)
            yield features

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must be of: this plan, these weights to begin with, this data, this torch."""
        named = dataclasses.asdict(self.plan)
        # They change the last bits, not what the training is of; a board may have fewer after a restart.
        del named["threads"]
        weights = zlib.crc32(b"")
        for name, tensor in self.network.state_dict().items():
            weights = zlib.crc32(tensor.contiguous().numpy(), zlib.crc32(name.encode(), weights))
        part = self.data.train
        content = zlib.crc32(part.labels.tobytes(), zlib.crc32(np.ascontiguousarray(part.images).data))
        return {
            **named,
            "starting weights": f"{weights:08x}",
            "training data": f"{part.images.shape} {content:08x}",
            "torch": str(torch.__version__),
        }

    def _autocast(self) -> torch.autocast:
        dtype = torch.float16 if self.plan.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.plan.precision != "fp32")
