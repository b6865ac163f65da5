"""Residual networks: ResNet-18, -34, -50 for pictures of 224 pixels, ResNet-20, -56 for CIFAR's of 32.

Keys of the state dicts are torchvision's for the first three, so its weights (and timm's `tv_` ones) load as they are,
and those of the widely used CIFAR re-training by Y. Idelbayev for the others. The last stage goes to the network's own
classifier; exits belong after the stages before it.

Sources: He et al., CVPR'16 (architecture, CIFAR variant with shortcuts of kind A in section 4.2); the stride of a
bottleneck sits in its 3x3 convolution ("v1.5"), as in all published weights.

Does not: load weights, or add exits (`attaching.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from .zoo_weights import initialise


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    GROWTH = 1

    def __init__(self, width_in: int, width: int, stride: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut

    def forward(self, features: Tensor) -> Tensor:
        kept = features if self.downsample is None else self.downsample(features)
        inner = self.relu(self.bn1(self.conv1(features)))
        return self.relu(self.bn2(self.conv2(inner)) + kept)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1 to a quarter of the width, 3x3, 1x1 back, and a shortcut."""

    GROWTH = 4

    def __init__(self, width_in: int, width: int, stride: int, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.GROWTH, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.GROWTH)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, features: Tensor) -> Tensor:
        kept = features if self.downsample is None else self.downsample(features)
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        return self.relu(self.bn3(self.conv3(inner)) + kept)  # type: ignore[no-any-return]


class PadShortcut(nn.Module):
    """Shortcut of kind A: every other pixel, and zeros for the new channels, half of them on either side."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.before = (width_out - width_in) // 2
        self.after = width_out - width_in - self.before

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.pad(features[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class Block(Protocol):
    """What a stage is built of."""

    GROWTH: int

    def __call__(self, width_in: int, width: int, stride: int, shortcut: nn.Module | None, /) -> nn.Module: ...


class ResNet(nn.Module):
    """Pictures (batch, 3, side, side), float32, side >= 33, made for 224 -> logits (batch, classes)."""

    def __init__(self, block: Block, depths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        growth = block.GROWTH
        self.layer1 = _stage(block, 64, 64, depths[0], 1)
        self.layer2 = _stage(block, 64 * growth, 128, depths[1], 2)
        self.layer3 = _stage(block, 128 * growth, 256, depths[2], 2)
        self.layer4 = _stage(block, 256 * growth, 512, depths[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * growth, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer4(self.layer3(self.layer2(self.layer1(features))))
        return self.fc(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]


class CifarResNet(nn.Module):
    """Pictures (batch, 3, 32, 32), float32 -> logits (batch, classes); 6 * `depth` + 2 layers with weights."""

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(Residual, 16, 16, depth, 1, pad=True)
        self.layer2 = _stage(Residual, 16, 32, depth, 2, pad=True)
        self.layer3 = _stage(Residual, 32, 64, depth, 2, pad=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.bn1(self.conv1(images)))
        features = self.layer3(self.layer2(self.layer1(features)))
        return self.linear(self.avgpool(features).flatten(1))  # type: ignore[no-any-return]


def _stage(block: Block, width_in: int, width: int, depth: int, stride: int, *, pad: bool = False) -> nn.Sequential:
    """`depth` blocks; the first takes the stride and the change of width."""
    width_out = width * block.GROWTH
    shortcut: nn.Module | None = None
    if pad and width_in != width_out:
        shortcut = PadShortcut(width_in, width_out)
    elif width_in != width_out or stride != 1:
        shortcut = nn.Sequential(nn.Conv2d(width_in, width_out, 1, stride, bias=False), nn.BatchNorm2d(width_out))
    rest = [block(width_out, width, 1, None) for _ in range(depth - 1)]
    return nn.Sequential(block(width_in, width, stride, shortcut), *rest)
