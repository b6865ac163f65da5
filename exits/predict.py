"""A network's logits for raw data: prepared batch by batch, so that a data set stays bytes until it is looked at.

Flow: `preparation(preprocessing)` -> how raw values become inputs -> `predict(network, values)` -> logits of all exits.
Does not: train, or run anything but PyTorch (`bundle_logits.py` runs bundles).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..clients.info import Preprocessing
from ..clients.wire import Array
from .datasets import as_inputs
from .multi_exit import MultiExit

# Raw values of some samples to what the network takes, (n, ...).
Prepare = Callable[[Array], Tensor]


def as_tensor(values: Array) -> Tensor:
    """Bytes as 0 to 1, everything else as it is."""
    dtype = "float32" if values.dtype == np.uint8 else str(values.dtype)
    return torch.from_numpy(as_inputs(values, Preprocessing(scale=1 / 255), dtype))


def preparation(preprocessing: Preprocessing, dtype: str = "float32") -> Prepare:
    """What `fit` and `predict` need to feed a network with this preprocessing and input dtype."""
    return lambda values: torch.from_numpy(as_inputs(values, preprocessing, dtype))


@torch.inference_mode()
def predict(network: MultiExit, values: Array | Tensor, batch: int = 500, *, prepare: Prepare | None = None) -> Tensor:
    """Logits of every exit: shape (exits, n, classes), float32, on the CPU. `values`: prepared ones where a tensor."""
    network.eval()
    device = next(network.parameters()).device
    found = []
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        inputs = part if isinstance(part, Tensor) else (prepare or as_tensor)(part)
        found.append(network(placed(inputs, device)).float().cpu())
    return torch.cat(found, dim=1)


def placed(inputs: Tensor, device: torch.device) -> Tensor:
    inputs = inputs.to(device)
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.ndim == 4 else inputs
