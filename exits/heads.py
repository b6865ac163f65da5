"""The small classifiers that `attach` puts behind segments.

Flow: `make_head(kind, shape of the features, classes)` -> module from features to logits. Positions are averaged down
to a fixed small grid first, so a head does not grow with its input's size; what is left is standardised, so that heads
on features of any scale train at the same rate. Three kinds, in order of cost and of how much they can tell:

    pool    mean over all positions, then one linear layer: channels x classes weights
    linear  means over at most 4x4 cells (16 of a sequence), then one linear layer
    mlp     as linear, with a hidden layer; on maps and sequences a strided convolution goes first, which is what
            early features need most: they are edges and textures, not yet things

Does not: train them, or choose a kind.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from torch import Tensor, nn

HeadKind = Literal["linear", "pool", "mlp"]
HEAD_KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
# Cells along each side of a map, and along a sequence.
MAP_CELLS_MAX, SEQUENCE_CELLS_MAX = 4, 16
# `mlp`: channels of its convolution are twice its input's within these.
CONV_WIDTH_MIN, CONV_WIDTH_MAX = 32, 256
# At batch 1 a layer's weights are read for one picture. With hidden layers of 256, the heads of CIFAR ResNet-20 took 8
# to 23 % of the network's time each; with 64, 5 to 12 %, but its first exit was right 1.8 points less often.
HIDDEN_MIN, HIDDEN_MAX, HIDDEN_WEIGHTS_MAX = 64, 256, 2**17
# Below this side the convolution keeps every position.
STRIDE_SIDE_MIN = 8


class ChannelsFirst(nn.Module):
    """Move the channels behind the batch, where pooling and convolutions expect them."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, features: Tensor) -> Tensor:
        return features.movedim(self.axis, 1)


def make_head(
    kind: HeadKind, feature_shape: tuple[int, ...], classes: int, *, channel_axis: int | None = None
) -> nn.Module:
    """One head; its parameters are drawn from PyTorch's global generator.

    Args:
        feature_shape: of one sample, without batch: vectors (C,), sequences (T, C), maps (C, H, W).
        channel_axis: which axis of the batched features has the channels, where that is not as above: 1 for what a
            1-d convolution gives, (N, C, T); 3 for maps with channels last, (N, H, W, C).
    Raises:
        ValueError: unknown kind, no classes, or features that are neither vectors, sequences nor maps.
    """
    if kind not in HEAD_KINDS:
        raise ValueError(f"no head {kind!r}; there are {', '.join(HEAD_KINDS)}, or give a module of your own")
    if classes < 1 or not 1 <= len(feature_shape) <= 3 or min(feature_shape) < 1:
        raise ValueError(
            f"no head from features {feature_shape} to {classes} classes; expected (channels,), (steps, channels) or "
            "(channels, height, width), and one class at least: give a module of your own"
        )
    axis = channel_axis or (2 if len(feature_shape) == 2 else 1)
    channels = feature_shape[axis - 1]
    sides = tuple(side for index, side in enumerate(feature_shape, 1) if index != axis)
    layers: list[nn.Module] = [] if axis == 1 else [ChannelsFirst(axis)]
    if kind == "mlp" and sides:
        convolution, channels, sides = _convolution(channels, sides)
        layers += convolution
    cells_max = 1 if kind == "pool" else SEQUENCE_CELLS_MAX if len(sides) == 1 else MAP_CELLS_MAX
    cells = tuple(min(side, cells_max) for side in sides)
    if sides:
        layers += [_grid_mean(sides, cells), nn.Flatten()]
    width = channels * math.prod(cells)
    layers.append(nn.BatchNorm1d(width, affine=False))
    if kind == "mlp":
        hidden = min(width, HIDDEN_MAX, max(HIDDEN_MIN, HIDDEN_WEIGHTS_MAX // width))
        layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, classes))


def _convolution(channels: int, sides: tuple[int, ...]) -> tuple[list[nn.Module], int, tuple[int, ...]]:
    width = min(max(2 * channels, CONV_WIDTH_MIN), max(CONV_WIDTH_MAX, channels))
    stride = 2 if min(sides) >= STRIDE_SIDE_MIN else 1
    layers: list[nn.Module] = [
        nn.Conv1d(channels, width, 3, stride, 1, bias=False),
        nn.BatchNorm1d(width),
        nn.ReLU(),
    ]
    if len(sides) == 2:
        layers[:2] = [nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)]
    return layers, width, tuple((side - 1) // stride + 1 for side in sides)


def _grid_mean(sides: tuple[int, ...], cells: tuple[int, ...]) -> nn.Module:
    """Means over a grid that covers everything; where cells do not divide a side they overlap.

    Adaptive pooling does nearly that, but its exporters write no operator for a grid that does not divide.
    """
    stride = tuple(side // cell for side, cell in zip(sides, cells, strict=True))
    kernel = tuple(side - (cell - 1) * step for side, cell, step in zip(sides, cells, stride, strict=True))
    if len(sides) == 1:
        return nn.AvgPool1d(kernel[0], stride[0])
    return nn.AvgPool2d((kernel[0], kernel[1]), (stride[0], stride[1]))
