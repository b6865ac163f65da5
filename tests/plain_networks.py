"""Networks that `attach` was not written for: ordinary PyTorch, small, each with something that makes cutting hard.

Flow: tests build one, seeded, with norms that are not the identity. Does not: know of exits.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

Network = TypeVar("Network", bound=nn.Module)


def built(kind: type[Network]) -> Network:
    """A network with random weights, always the same, in eval mode."""
    torch.manual_seed(3)
    network = kind()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network.eval()


class Vgg(nn.Module):
    """Plain: one Sequential of in-place layers, then a classifier of several linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(width_in, width_out, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(16 * 16, 32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(images), 1))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """A block of MobileNetV2: wide inside, depthwise, with a shortcut and squeeze-and-excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width), nn.ReLU6(inplace=True))
        self.depth = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.squeeze = nn.Conv2d(4 * width, 4 * width, 1)
        self.narrow = nn.Conv2d(4 * width, width, 1)

    def forward(self, features: Tensor) -> Tensor:
        inner = functional.relu6(self.depth(self.wide(features)))
        inner = inner * self.squeeze(functional.adaptive_avg_pool2d(inner, 1)).sigmoid()
        return features + self.narrow(inner)  # type: ignore[no-any-return]


class MobileNet(nn.Module):
    """One ReLU used everywhere, a Python loop over blocks, a batch size taken from the input at the very start."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList(Inverted(8) for _ in range(4))
        self.final = nn.Conv2d(8, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.shape[0]
        features = self.act(self.norm(self.stem(images)))
        for block in self.blocks:
            features = block(features)
        features = self.act(self.final(features))
        return self.fc(functional.avg_pool2d(features, features.shape[-1]).reshape(rows, -1))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """A transformer block, written out, with views of the batch."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        rows, steps, width = tokens.shape
        qkv = self.qkv(self.norm1(tokens)).reshape(rows, steps, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.proj(mixed.transpose(1, 2).reshape(rows, steps, width))
        return tokens + self.mlp(self.norm2(tokens))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A class token, positions, checks of the shape, and an answer from one token."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, 32))
        self.positions: Tensor
        self.register_buffer("positions", torch.randn(1, 17, 32))
        self.blocks = nn.ModuleList(Attention(32, 4) for _ in range(4))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        rows, _, height, width = images.shape
        assert height == width == 32, "expects 32x32"
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls.expand(rows, -1, -1), tokens], dim=1) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])  # type: ignore[no-any-return]


class Audio(nn.Module):
    """1-d convolutions on a waveform, then steps behind each other; weight normalisation; one tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Sequential(nn.Conv1d(1, 16, 10, 5), nn.GroupNorm(4, 16), nn.GELU()),
            nn.Sequential(nn.Conv1d(16, 16, 8, 4), nn.GELU()),
        )
        self.context = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(16, 16, 3, padding=1), dim=2)
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.fc = nn.Linear(16, 6)

    def forward(self, waveform: Tensor) -> Tensor:
        features = self.encoder(waveform[:, None])
        features = features + functional.gelu(self.context(features))
        steps = self.first(features.transpose(1, 2)).relu()
        return self.fc(self.second(steps).relu().mean(dim=1))  # type: ignore[no-any-return]


class Text(nn.Module):
    """torch.nn's own encoder on token ids, positions made in the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 32), nn.Embedding(16, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.fc = nn.Linear(32, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        embedded = self.words(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.fc(self.encoder(embedded).mean(1))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """A basic block of ResNet with one in-place ReLU used twice, and a shortcut."""

    def __init__(self, width_in: int, width_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False), nn.BatchNorm2d(width_out)
        self.conv2, self.bn2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False), nn.BatchNorm2d(width_out)
        self.relu = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(width_in, width_out, 1, stride) if width_in != width_out else None

    def forward(self, features: Tensor) -> Tensor:
        shortcut = features if self.down is None else self.down(features)
        inner = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        inner += shortcut
        return self.relu(inner)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Three residual stages of two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = nn.Sequential(Residual(8, 8), Residual(8, 8))
        self.layer2 = nn.Sequential(Residual(8, 16, 2), Residual(16, 16))
        self.layer3 = nn.Sequential(Residual(16, 32, 2), Residual(32, 32))
        self.linear = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(functional.relu(self.conv1(images)))))
        features = functional.avg_pool2d(features, features.size()[3])
        return self.linear(features.view(features.size(0), -1))  # type: ignore[no-any-return]


class UNet(nn.Module):
    """What the way down finds is needed again on the way up: between the two nothing can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1)
        self.middle = nn.Conv2d(16, 16, 3, 1, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out, self.last = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        high = functional.relu(self.down1(images))
        low = functional.relu(self.middle(functional.relu(self.down2(high))))
        joined = functional.relu(self.out(torch.cat([self.up(low), high], dim=1)))
        return self.fc(functional.relu(self.last(joined)).mean((2, 3)))  # type: ignore[no-any-return]


class SliceWriter(nn.Module):
    """Beyond torch.fx: makes a tensor of the batch's size and writes into a slice of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.mid = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 16, 3, 2, 1)
        self.fc = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        shifted = torch.zeros(images.shape[0], 3, 32, 32, device=images.device)
        shifted[:, :, 1:] = images[:, :, 1:]
        features = functional.relu(self.norm(self.conv(shifted)))
        return self.fc(functional.relu(self.mid(features)).mean((2, 3)))  # type: ignore[no-any-return]


class Gate(nn.Module):
    """Branches on what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, features: Tensor) -> Tensor:
        given = self.inner(features)
        return given * 2 if given.mean() > 0 else given  # type: ignore[no-any-return]


class Branching(nn.Module):
    """No fixed graph: one of its modules branches on data."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.fc = nn.Linear(4, 8), Gate(), nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(self.gate(self.stem(features)))  # type: ignore[no-any-return]


class OneRow(nn.Module):
    """Works for one input only: a view with the batch written in."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8 * 8 * 8, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.conv(images).view(1, -1))  # type: ignore[no-any-return]


class Mixer(nn.Module):
    """Each answer depends on the others of its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.fc = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        inner = self.mid(self.stem(features))
        return self.fc(inner - inner.mean(0, keepdim=True))  # type: ignore[no-any-return]
