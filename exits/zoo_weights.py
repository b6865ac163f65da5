"""How zoo networks start, and how published weights come in under other names.

Role: first values of parameters for training from scratch, and `renamed`, which turns a published state dict's keys
into ours. Flow: a network's constructor -> `initialise`; `load_state_dict` -> `renamed`.

Does not: read files, or know which network it serves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

# A pattern of published keys, and what takes its place.
Renames: TypeAlias = Sequence[tuple[str, str]]


def initialise(network: nn.Module, *, embedding_std: float = 0.02) -> None:
    """First values, in place: He's normal (fan out) for 2-d convolutions, as the ResNet and EfficientNet papers train;
    1-d convolutions likewise by fan in; layers of a transformer normal with `embedding_std`, as BERT.
    """
    transformer = any(isinstance(module, nn.LayerNorm) for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Conv1d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Embedding) or (transformer and isinstance(module, nn.Linear)):
            nn.init.normal_(module.weight, std=embedding_std)
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)


def renamed(state: Mapping[str, Any], renames: Renames) -> dict[str, Any]:
    """`state` under our keys: each key goes through every pattern in turn. Keys that end up empty are left out.

    Weight normalisation of a convolution's last side (wav2vec 2.0's) becomes the plain weight that it stands for.
    """
    ours: dict[str, Any] = {}
    for key, value in state.items():
        for pattern, ours_is in renames:
            key = re.sub(pattern, ours_is, key)
        if key:
            ours[key] = value
    for stem in [key.removesuffix("_g") for key in ours if key.endswith(".weight_g") and f"{key[:-2]}_v" in ours]:
        direction, length = ours.pop(f"{stem}_v"), ours.pop(f"{stem}_g")
        ours[stem] = direction * (length / direction.norm(dim=(0, 1), keepdim=True))
    return ours
