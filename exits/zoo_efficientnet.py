"""EfficientNet-B0, -B1, -B2. Keys of the state dicts are torchvision's, so its weights load as they are.

A stem, seven groups of inverted residual blocks with squeeze and excitation, a last 1x1 convolution, a classifier;
`features.K` is group K. B1 and B2 are B0 with more blocks and channels. Sources: Tan, Le, ICML'19 (table 1 and the
scaling); Huang et al., ECCV'16 (stochastic depth).

Does not: load weights, or add exits (`attaching.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from .zoo_weights import initialise


class Group(NamedTuple):
    """Blocks of one width: how much wider they are inside, kernel, first stride, width given, number of blocks."""

    expand: int
    kernel: int
    stride: int
    width: int
    depth: int


# Tan, Le, table 1, rows 2 to 8.
GROUPS = (
    Group(1, 3, 1, 16, 1),
    Group(6, 3, 2, 24, 2),
    Group(6, 5, 2, 40, 2),
    Group(6, 3, 2, 80, 3),
    Group(6, 5, 1, 112, 3),
    Group(6, 5, 2, 192, 4),
    Group(6, 3, 1, 320, 1),
)
STEM_WIDTH, LAST_GROWTH = 32, 4
# Share of the input's width that squeeze and excitation works with; the chance that the last block is skipped.
SQUEEZE, SKIP_LAST = 4, 0.2


class EfficientNet(nn.Module):
    """Pictures (batch, 3, side, side), float32 -> logits (batch, classes).

    `wider`, `deeper`: the paper's scaling of channels and blocks; `dropout` before the classifier.
    """

    def __init__(self, wider: float, deeper: float, dropout: float, classes: int) -> None:
        super().__init__()
        width = _eights(STEM_WIDTH * wider)
        depths = [math.ceil(group.depth * deeper) for group in GROUPS]
        features: list[nn.Module] = [_conv(3, width, 3, stride=2)]
        done = 0
        for group, depth in zip(GROUPS, depths, strict=True):
            blocks = []
            for index in range(depth):
                width_out = _eights(group.width * wider)
                stride = group.stride if index == 0 else 1
                skip = SKIP_LAST * done / sum(depths)
                blocks.append(InvertedResidual(group._replace(stride=stride, width=width_out), width, skip))
                width, done = width_out, done + 1
            features.append(nn.Sequential(*blocks))
        features.append(_conv(width, width * LAST_GROWTH, 1))
        self.features = nn.Sequential(*features)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(width * LAST_GROWTH, classes))
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))  # type: ignore[no-any-return]


class InvertedResidual(nn.Module):
    """1x1 to `expand` times the width, a convolution per channel, squeeze and excitation, 1x1 to the width given."""

    def __init__(self, group: Group, width_in: int, skip: float) -> None:
        super().__init__()
        width = width_in * group.expand
        widen = [_conv(width_in, width, 1)] if group.expand != 1 else []
        self.block = nn.Sequential(
            *widen,
            _conv(width, width, group.kernel, stride=group.stride, groups=width),
            SqueezeExcitation(width, max(1, width_in // SQUEEZE)),
            _conv(width, group.width, 1, activate=False),
        )
        self.residual = group.stride == 1 and width_in == group.width
        # Told (batch, channels, height, width), this one drops along the first side: whole rows, as stochastic depth.
        self.skip = nn.Dropout3d(skip)

    def forward(self, features: Tensor) -> Tensor:
        given = self.block(features)
        return self.skip(given) + features if self.residual else given  # type: ignore[no-any-return]


class SqueezeExcitation(nn.Module):
    """Scale each channel by what the whole picture says of it."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.activation = nn.SiLU(inplace=True)
        self.fc2 = nn.Conv2d(squeezed, width, 1)
        self.scale_activation = nn.Sigmoid()

    def forward(self, features: Tensor) -> Tensor:
        squeezed = self.activation(self.fc1(self.avgpool(features)))
        return features * self.scale_activation(self.fc2(squeezed))  # type: ignore[no-any-return]


def _conv(
    width_in: int, width_out: int, kernel: int, *, stride: int = 1, groups: int = 1, activate: bool = True
) -> nn.Sequential:
    layers = [
        nn.Conv2d(width_in, width_out, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
        nn.BatchNorm2d(width_out),
    ]
    return nn.Sequential(*layers, *([nn.SiLU(inplace=True)] if activate else []))


def _eights(width: float) -> int:
    """The nearest multiple of eight, one more where that would lose over a tenth."""
    nearest = max(8, int(width + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * width else nearest
