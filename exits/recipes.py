"""The networks that delen ships, and how each is trained: architecture and hyper-parameters, nothing else.

A recipe is read by `making.py`, its plan by `train.py`. Both networks are small residual CNNs written for this project;
`fashion` is sized so that its four exits cost about 6, 22, 58 and 100 % of the whole, because exits that cost nearly
the same teach nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..clients.wire import Array
from .fit_plan import Augmentation, FitPlan
from .multi_exit import MultiExit


class Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., CVPR'16), 1x1 where the width changes."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(width_out, width_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if width_in != width_out:
            self.shortcut = nn.Sequential(nn.Conv2d(width_in, width_out, 1, bias=False), nn.BatchNorm2d(width_out))

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.body(features) + self.shortcut(features))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is made and trained; its images are bytes of one channel, normalised by `mean` and `std`."""

    name: str
    version: str
    licence: str
    data: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: float
    std: float
    build: Callable[[], MultiExit]
    plan: FitPlan


def normalise(recipe: Recipe, images: Array) -> Tensor:
    """Bytes to what the network eats: shape kept, float32, (value/255 - mean)/std."""
    return (torch.tensor(images).float() / 255 - recipe.mean) / recipe.std


def _conv(width_in: int, width_out: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(width_out),
        nn.ReLU(inplace=True),
    ]


def _head(width: int, kernel: int, cells: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(kernel), nn.Flatten(), nn.Linear(width * cells, classes))


def _build_fashion() -> MultiExit:
    """About 0.94 M parameters and 181 M multiply-adds, all but the first convolution at 14x14."""
    segments: list[nn.Module] = [
        nn.Sequential(*_conv(1, 32), *_conv(32, 64, 2), *_conv(64, 64)),
        Residual(64, 96),
        nn.Sequential(Residual(96, 96), Residual(96, 96)),
        nn.Sequential(Residual(96, 104), Residual(104, 104)),
    ]
    return MultiExit(segments, [_head(width, 7, 4, 10) for width in (64, 96, 96, 104)])


def _build_digits() -> MultiExit:
    segments: list[nn.Module] = [
        nn.Sequential(*_conv(1, 8)),
        nn.Sequential(*_conv(8, 16, 2)),
        Residual(16, 32),
    ]
    heads = [_head(8, 4, 4, 10), _head(16, 2, 4, 10), _head(32, 2, 4, 10)]
    return MultiExit(segments, heads)


RECIPES = {
    "fashion": Recipe(
        name="fashion",
        version="1",
        licence="Apache-2.0 (network), MIT (Fashion-MNIST, Zalando SE)",
        data="Fashion-MNIST, 50,000 training images; 10,000 more held out for calibration",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        shape=(1, 28, 28),
        mean=0.2860,
        std=0.3530,
        build=_build_fashion,
        plan=FitPlan(
            epochs=18,
            batch=128,
            rate=0.15,
            weight_decay=5e-4,
            exit_weights=(0.25, 0.5, 0.75, 1.0),
            distill=0.5,
            augmentation=Augmentation(shift_px=2, flip=True, erase_px=8),
            precision="bf16",
        ),
    ),
    "digits": Recipe(
        name="digits",
        version="1",
        licence="Apache-2.0 (network), CC BY 4.0 (Optical Recognition of Handwritten Digits, UCI)",
        data="scikit-learn digits, 1,077 images; 360 more held out for calibration, 360 for test",
        classes=tuple("0123456789"),
        shape=(1, 8, 8),
        mean=0.3053,
        std=0.3760,
        build=_build_digits,
        plan=FitPlan(
            epochs=40,
            batch=64,
            rate=0.05,
            weight_decay=1e-4,
            exit_weights=(0.5, 0.75, 1.0),
            distill=0.25,
            threads=2,
        ),
    ),
}
