"""How a network is trained: every choice that `train.fit` needs, and nothing about the network or the data.

Recipes carry one; `delen train` makes one for an attached network from its options. Does not: import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TrunkMode = Literal["joint", "frozen"]
LossKind = Literal["weighted", "balanced"]
Precision = Literal["fp32", "bf16", "fp16"]
Optimiser = Literal["sgd", "adamw"]


class PlanError(ValueError):
    """A plan that cannot be carried out for this network or device; the text says which choice and what to choose."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to pictures by chance: moved by up to `shift_px` on both axes, mirrored, a square blanked out."""

    shift_px: int = 0
    flip: bool = False
    erase_px: int = 0

    def __bool__(self) -> bool:
        return bool(self.shift_px or self.flip or self.erase_px)


@dataclass(frozen=True, kw_only=True)
class FitPlan:
    """How to train.

    `rate`: the highest of the one-cycle schedule. `trunk`: `frozen` trains heads alone and leaves the segments as they
    are bit for bit, running statistics included; the last head stays too unless `last_head` is `trained`. `loss`: how
    exits share a trunk that learns, see `losses.py`; `exit_weights` (None: all alike) are each exit's share. Heads on a
    frozen trunk share nothing, so each gets its own loss whole. `distill`: weight of the divergence from the last
    exit's (detached) distribution, for all earlier exits. `precision`: of the multiplications; weights stay float32.
    `seed`: None goes on with PyTorch's generator as it stands. `threads`: how many to train with on any number of
    cores, since the order in which gradients are summed changes the network; None takes what there is.
    `kept_bytes_max`: of memory for what heads see of a frozen trunk, so that it runs once only; fixed and not by what
    is free, since it decides the last bits.
    """

    epochs: int
    batch: int
    rate: float
    weight_decay: float
    optimiser: Optimiser = "sgd"
    trunk: TrunkMode = "joint"
    last_head: Literal["kept", "trained"] = "kept"
    loss: LossKind = "weighted"
    exit_weights: tuple[float, ...] | None = None
    distill: float = 0.0
    augmentation: Augmentation = Augmentation()
    precision: Precision = "fp32"
    seed: int | None = 0
    device: str = "cpu"
    threads: int | None = None
    kept_bytes_max: int = 3 * 1024**3
