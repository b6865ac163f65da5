"""A network, data and a plan so small that training takes milliseconds, for the tests of training."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from delen.exits.datasets import Labelled, Split
from delen.exits.fit_plan import Augmentation, FitPlan

if TYPE_CHECKING:
    from delen.exits.multi_exit import MultiExit
    from delen.exits.train import Epoch

CLASSES = 3
PLAN = FitPlan(epochs=3, batch=8, rate=0.05, weight_decay=1e-3, distill=0.5, seed=7, threads=1)
SHIFTED = Augmentation(shift_px=1, flip=True, erase_px=2)


def small_network(seed: int = 0) -> MultiExit:
    """Three exits on pictures of 1x6x6, with batch norms in the trunk and dropout in a head."""
    import torch
    from torch import nn

    from delen.exits.multi_exit import MultiExit

    torch.manual_seed(seed)
    segments = [nn.Sequential(nn.Conv2d(width, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for width in (1, 4, 4)]
    heads: list[nn.Module] = [
        nn.Sequential(nn.AvgPool2d(3), nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, CLASSES)),
        nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, CLASSES)),
        nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.Linear(4, CLASSES)),
    ]
    return MultiExit(segments, heads)


def small_data(count: int = 44, seed: int = 1) -> Split:
    """Noise with one bright row, whose place is the label; the last rows fill no batch."""
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 120, (count, 1, 6, 6), dtype=np.uint8)
    labels = generator.integers(0, CLASSES, count)
    images[np.arange(count), 0, 2 * labels] += 100
    part = Labelled(images, labels)
    return Split(part, part, part)


def finished(progress: Generator[Epoch, None, MultiExit]) -> tuple[MultiExit, list[Epoch]]:
    """Train to the end."""
    seen = []
    while True:
        try:
            seen.append(next(progress))
        except StopIteration as end:
            network: MultiExit = end.value
            return network, seen


def same(first: Any, second: Any) -> bool:
    """Whether two modules hold the same numbers bit for bit."""
    ours, theirs = first.state_dict(), second.state_dict()
    return list(ours) == list(theirs) and all((tensor == theirs[name]).all() for name, tensor in ours.items())
