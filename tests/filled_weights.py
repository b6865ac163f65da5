"""Weights by formula: the same numbers in any network with the same keys, ours or one that ours is compared with.

`filled(state)` was given to torchvision's and Hugging Face's own networks once, and what they answered to `wave` is in
the tests of the zoo. Does not: look like trained weights; it only keeps answers of a sensible size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def wave(*shape: int, phase: float = 0.0) -> Tensor:
    """Numbers between -1 and 1 that hardly repeat, float32."""
    numbers = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * numbers + 0.001 * numbers**1.5 + phase).float().view(shape)


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same keys and shapes, other numbers."""
    made = {}
    for index, key in enumerate(sorted(state)):
        shape = state[key].shape
        if not state[key].is_floating_point():
            made[key] = torch.zeros_like(state[key])
            continue
        values = wave(*shape, phase=index)
        if key.endswith("running_var"):
            made[key] = 1 + 0.5 * values
        elif len(shape) > 1:
            made[key] = values * (4 * shape[0] / math.prod(shape)) ** 0.5
        else:
            made[key] = 0.1 * values + (1.0 if key.endswith("weight") else 0.0)
    return made
